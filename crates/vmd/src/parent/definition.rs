//! What a VM is to be, whoever said so: a block of vm.conf, or a client's start request.

use proto::client::{BootDevice, DiskFormat, NicArg, Start};
use proto::names::BadName;
use proto::{Code, Failure, IfName, MAX_CMDLINE, MacAddr, SwitchName, Text, UserPath, VmName};

use super::access::Owner;

/// Guest memory where nothing is said (spec, daemon 3.1).
pub const DEFAULT_MEMORY: u64 = 512 << 20;
/// The least that a stock kernel finds room in.
pub const MIN_MEMORY: u64 = 64 << 20;
/// The most that the spec knows (daemon 9).
pub const MAX_MEMORY: u64 = 128 << 30;
/// Virtual CPUs of one VM (spec, daemon 9).
pub const MAX_CPUS: u8 = 64;

/// A VM as defined.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Its name.
    pub name: VmName,
    /// Bytes of memory, whole MiB.
    pub memory: u64,
    /// Virtual CPUs.
    pub cpus: u8,
    /// Kernel or firmware.
    pub boot: Option<UserPath>,
    /// Initial RAM disk.
    pub initrd: Option<UserPath>,
    /// The kernel's command line.
    pub cmdline: Text<MAX_CMDLINE>,
    /// In guest-visible order.
    pub disks: Vec<Disk>,
    /// In guest-visible order.
    pub nics: Vec<Nic>,
    /// Whom it belongs to.
    pub owner: Owner,
    /// `user[:group]`, as its names are known.
    pub owner_name: Text<80>,
    /// Started with the daemon.
    pub enabled: bool,
    /// With one set, a reboot ends the VM.
    pub boot_device: Option<BootDevice>,
    /// From vm.conf: it stays listed when it stops.
    pub from_config: bool,
}

/// A disk as defined.
#[derive(Clone, Debug, PartialEq)]
pub struct Disk {
    /// The image.
    pub path: UserPath,
    /// The format, and whether somebody said so or it is only raw for want of a word.
    pub format: DiskFormat,
    /// Called raw by keyword, prefix or extension.
    pub said: bool,
    /// The guest may only read.
    pub read_only: bool,
}

/// A network card as defined.
#[derive(Clone, Debug, PartialEq)]
pub struct Nic {
    /// The guest's address, kept for the life of the definition.
    pub mac: MacAddr,
    /// The tap, where one is named.
    pub tap: Option<IfName>,
    /// The switch it is on.
    pub switch: Option<SwitchName>,
    /// Its tap is up.
    pub up: bool,
    /// Frames from or to other addresses are dropped.
    pub locked: bool,
}

impl Disk {
    /// A disk by its path: the format from the word, else from the extension, else raw; never from contents.
    pub fn new(path: UserPath, word: Option<DiskFormat>) -> Self {
        let by_name = || match path.rsplit_once('.').map(|(_, extension)| extension) {
            Some(e) if e.eq_ignore_ascii_case("raw") => Some(DiskFormat::Raw),
            Some(e) if e.eq_ignore_ascii_case("qcow2") => Some(DiskFormat::Qcow2),
            Some(_) | None => None,
        };
        let said = word.or_else(by_name);
        Self { format: said.unwrap_or(DiskFormat::Raw), said: said.is_some(), read_only: false, path }
    }
}

/// `fe:e1:bb:d<N>:xx:yy` (spec, daemon 3.13) from two random bytes.
pub fn generated_mac(index: usize, random: [u8; 2]) -> MacAddr {
    let low = u8::try_from((index + 1) & 15).unwrap_or(0);
    MacAddr([0xfe, 0xe1, 0xbb, 0xd0 | low, random[0], random[1]])
}

/// The definition that a client's request makes (spec, vmctl 5); its own limits checked again, as a client may say
/// anything. `macs` gives two random bytes a card.
pub fn of_request(start: &Start, name: VmName, mut macs: impl FnMut() -> [u8; 2]) -> Result<Definition, Failure> {
    let memory = checked_memory(start.memory)?;
    let cpus = checked_cpus(start.cpus)?;
    let mut nics = Vec::new();
    for (index, nic) in start.nics.iter().enumerate() {
        let switch = match nic {
            NicArg::Plain => None,
            NicArg::Switch(name) => Some(name.clone()),
            NicArg::Local => return Err(unsupported("a local interface (-L)")),
        };
        nics.push(Nic { mac: generated_mac(index, macs()), tap: None, switch, up: true, locked: false });
    }
    if start.cdrom.is_some() {
        return Err(unsupported("a CD-ROM (-r)"));
    }
    Ok(Definition {
        name,
        memory,
        cpus,
        boot: None,
        initrd: None,
        cmdline: Text::default(),
        disks: start.disks.iter().map(|disk| Disk::new(disk.path.clone(), disk.format)).collect(),
        nics,
        owner: Owner::default(),
        owner_name: Text::cut("root"),
        enabled: false,
        boot_device: start.boot_device,
        from_config: false,
    })
}

fn checked_memory(asked: Option<u64>) -> Result<u64, Failure> {
    let memory = asked.unwrap_or(DEFAULT_MEMORY) & !((1 << 20) - 1);
    match memory {
        MIN_MEMORY..=MAX_MEMORY => Ok(memory),
        _ => Err(Failure::new(Code::Invalid, format!("memory of {} MiB is not within 64M and 128G", memory >> 20))),
    }
}

/// The CPU count of a request.
pub fn checked_cpus(asked: Option<u8>) -> Result<u8, Failure> {
    match asked.unwrap_or(1) {
        cpus @ 1..=MAX_CPUS => Ok(cpus),
        other => Err(Failure::new(Code::Invalid, format!("{other} cpus are not within 1 and {MAX_CPUS}"))),
    }
}

/// The word for what this release does not do.
pub fn unsupported(what: &str) -> Failure {
    Failure::new(Code::Unsupported, format!("{what} is not supported by this release"))
}

/// The failure of a name that does not obey its rule.
pub fn bad_name(name: &str, why: BadName) -> Failure {
    Failure::new(Code::Invalid, format!("invalid VM name \"{name}\": {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disks_format_is_the_word_then_the_extension_then_raw() {
        let path = |p: &str| UserPath::new(p).unwrap();
        for (name, word, format, said) in [
            ("/a", None, DiskFormat::Raw, false),
            ("/a.img", None, DiskFormat::Raw, false),
            ("/a.RAW", None, DiskFormat::Raw, true),
            ("/a.qcow2", None, DiskFormat::Qcow2, true),
            ("/a.qcow2", Some(DiskFormat::Raw), DiskFormat::Raw, true),
        ] {
            let disk = Disk::new(path(name), word);
            assert_eq!((disk.format, disk.said), (format, said), "{name}");
        }
    }

    #[test]
    fn generated_addresses_are_the_specs() {
        assert_eq!(generated_mac(0, [1, 2]).to_string(), "fe:e1:bb:d1:01:02");
        assert_eq!(generated_mac(15, [1, 2]).to_string(), "fe:e1:bb:d0:01:02");
    }

    #[test]
    fn memory_is_whole_mebibytes_within_its_bounds() {
        assert_eq!(checked_memory(None).unwrap(), DEFAULT_MEMORY);
        assert_eq!(checked_memory(Some((100 << 20) + 5)).unwrap(), 100 << 20);
        assert!(checked_memory(Some(MIN_MEMORY - 1)).is_err());
        assert!(checked_memory(Some(u64::MAX)).is_err());
        assert!(checked_cpus(Some(0)).is_err() && checked_cpus(Some(65)).is_err() && checked_cpus(Some(64)).is_ok());
    }
}
