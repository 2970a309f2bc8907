//! Other programs that set up interfaces, and what is said when one of them changed an interface of vmd's.

use std::path::Path;

use model::IfName;
use proto::privileged::Undone;

/// Who is known to do so, and where its state is while it runs.
const KNOWN: [(&str, &str); 3] = [
    ("systemd-networkd", "/run/systemd/netif/state"),
    ("NetworkManager", "/run/NetworkManager/devices"),
    ("dhcpcd", "/run/dhcpcd/pid"),
];

/// Those that run.
pub fn that_run() -> Vec<&'static str> {
    KNOWN.iter().filter(|(_, state)| Path::new(state).exists()).map(|(name, _)| *name).collect()
}

/// What happened to an interface, who is likely, and what to do.
pub fn put_back(name: &IfName, undone: Undone, gave_up: bool, running: &[&str]) -> String {
    let what = match undone {
        Undone::Master => "took it out of its bridge or VRF",
        Undone::Up => "switched it off",
        Undone::Address => "removed its address",
    };
    let who = match running {
        [] => "another program".to_owned(),
        names => format!("another program (likely {})", names.join(" or ")),
    };
    let remedy = "keep it away from interfaces that are also called \"vmd-*\", see vmd(8)";
    if gave_up {
        format!("\"{name}\": {who} {what}, again and again: vmd leaves it so for a minute; {remedy}")
    } else {
        format!("\"{name}\": {who} {what}: vmd has put it back; {remedy}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_likely_is_named_and_what_to_do() {
        let tap = IfName::new("tap0").unwrap();
        let said = |undone, gave_up, running: &[&str]| put_back(&tap, undone, gave_up, running);
        assert_eq!(
            said(Undone::Master, false, &["systemd-networkd"]),
            "\"tap0\": another program (likely systemd-networkd) took it out of its bridge or VRF: vmd has put it back; \
             keep it away from interfaces that are also called \"vmd-*\", see vmd(8)"
        );
        assert!(said(Undone::Up, true, &[]).contains("another program switched it off, again and again"));
        assert!(said(Undone::Address, true, &["a", "b"]).contains("(likely a or b) removed its address"));
    }
}
