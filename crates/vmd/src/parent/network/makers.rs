//! Bridges that others make, and whose file says so: they are waited for. vmd would make a bridge that is not there itself, and who
//! comes later would find its name taken.

use std::fs;
use std::path::{Path, PathBuf};

use model::IfName;

use crate::parent::registry::Switch;

/// How a file says that it makes a bridge of some name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// systemd.netdev(5): `Name=` and `Kind=bridge`.
    Netdev,
    /// nm-settings-keyfile(5): `interface-name=` and `type=bridge`.
    Keyfile,
    /// interfaces(5): an `iface` line.
    Interfaces,
    /// libvirt's network XML: `<bridge name='...'`.
    Libvirt,
}

/// Where such files are; netplan writes into the ones below /run. A folder, or a single file.
const PLACES: [(&str, Form); 10] = [
    ("/etc/systemd/network", Form::Netdev),
    ("/run/systemd/network", Form::Netdev),
    ("/usr/local/lib/systemd/network", Form::Netdev),
    ("/usr/lib/systemd/network", Form::Netdev),
    ("/etc/NetworkManager/system-connections", Form::Keyfile),
    ("/run/NetworkManager/system-connections", Form::Keyfile),
    ("/etc/network/interfaces", Form::Interfaces),
    ("/etc/network/interfaces.d", Form::Interfaces),
    ("/run/network/interfaces.d", Form::Interfaces),
    ("/etc/libvirt/qemu/networks/autostart", Form::Libvirt),
];

impl Form {
    /// The end that its files' names have, for those that are not read otherwise.
    fn extension(self) -> Option<&'static str> {
        match self {
            Form::Netdev => Some("netdev"),
            Form::Libvirt => Some("xml"),
            Form::Keyfile | Form::Interfaces => None,
        }
    }

    /// Whether this text makes a bridge of that name.
    fn makes(self, text: &str, bridge: &str) -> bool {
        let has = |key: &str, value: &str| {
            let mut settings = text.lines().filter_map(|line| line.split_once('='));
            settings.any(|(its_key, its_value)| its_key.trim() == key && its_value.trim() == value)
        };
        match self {
            Form::Netdev => has("Name", bridge) && has("Kind", "bridge"),
            Form::Keyfile => has("interface-name", bridge) && has("type", "bridge"),
            Form::Interfaces => text.lines().any(|line| {
                let mut words = line.split_ascii_whitespace();
                words.next() == Some("iface") && words.next() == Some(bridge)
            }),
            Form::Libvirt => text.split("<bridge ").skip(1).any(|rest| {
                let tag = rest.split('>').next().unwrap_or_default();
                tag.contains(&format!("name='{bridge}'")) || tag.contains(&format!("name=\"{bridge}\""))
            }),
        }
    }
}

/// The file that makes this bridge, if one does.
fn maker_of(bridge: &str) -> Option<PathBuf> {
    PLACES.iter().find_map(|(place, form)| files(Path::new(place), *form).find(|file| makes(file, *form, bridge)))
}

fn makes(file: &Path, form: Form, bridge: &str) -> bool {
    fs::read(file).is_ok_and(|text| form.makes(&String::from_utf8_lossy(&text), bridge))
}

fn files(place: &Path, form: Form) -> impl Iterator<Item = PathBuf> {
    let mut files = match fs::read_dir(place) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(_) => vec![place.to_path_buf()],
    };
    files.retain(|file| form.extension().is_none_or(|end| file.extension().is_some_and(|its| its == end)));
    files.sort();
    files.into_iter()
}

fn is_there(interface: &IfName) -> bool {
    Path::new("/sys/class/net").join(interface.as_str()).exists()
}

/// Notes the files that make those bridges of these switches that are not there.
pub fn note(switches: &mut [Switch]) {
    for switch in switches {
        let bridge = &switch.spec.interface;
        let maker = if is_there(bridge) { None } else { maker_of(bridge.as_str()) };
        switch.maker = maker.map(|file| file.display().to_string());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_makes_a_bridge_is_found_in_its_files() {
        for (form, text, bridges) in [
            (Form::Netdev, "[NetDev]\nName=br0\nKind=bridge\n", &["br0"][..]),
            (Form::Netdev, "[NetDev]\nName = br0\nKind = bridge\n[Bridge]\nSTP=no\n", &["br0"]),
            (Form::Netdev, "[NetDev]\nName=br0\nKind=vlan\n", &[]),
            (Form::Netdev, "[NetDev]\n#Name=br0\nName=br1\nKind=bridge\n", &["br1"]),
            (Form::Keyfile, "[connection]\nid=x\ntype=bridge\ninterface-name=br0\n", &["br0"]),
            (Form::Keyfile, "[connection]\ntype=ethernet\ninterface-name=br0\n", &[]),
            (
                Form::Interfaces,
                "auto br0\niface br0 inet dhcp\n\tbridge_ports eth0\n  iface br1 inet6 auto\n",
                &["br0", "br1"],
            ),
            (Form::Interfaces, "#iface br0 inet dhcp\nauto br0\niface br01 inet manual\n", &[]),
            (Form::Libvirt, "<network>\n  <bridge name='br0' stp='on' delay='0'/>\n</network>", &["br0"]),
            (Form::Libvirt, "<network><bridge stp=\"on\" name=\"br1\"/><name>br0</name></network>", &["br1"]),
        ] {
            let made: Vec<&str> = ["br0", "br1", ""].into_iter().filter(|bridge| form.makes(text, bridge)).collect();
            assert_eq!(made, bridges, "{form:?}: {text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in any::<String>(), name in "[a-z0-9]{1,15}") {
            for (_, form) in PLACES {
                let _ = form.makes(&text, &name);
            }
            let interfaces = format!("{text}\niface {name} inet manual\n");
            prop_assert!(Form::Interfaces.makes(&interfaces, &name));
        }
    }
}
