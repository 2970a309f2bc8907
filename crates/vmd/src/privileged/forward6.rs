//! Forwarding of IPv6 for local interfaces: what to change on the host, and how to undo it. Pure.
//!
//! ```text
//! "all" forwards already ---------> nothing
//! the kernel can force one -------> force_forwarding of each interface that lacks it (Linux 6.17)
//! else ---------------------------> "all" forwards, which turns every interface into a router's: so accept_ra is kept
//!                                   alive where it was, and what each interface was before is remembered
//! ```

use std::collections::BTreeSet;

use sys::ipv6::Setting;

/// The settings of all interfaces together, and of those that come later (ip-sysctl, conf/all and conf/default).
pub const ALL: &str = "all";
/// Likewise.
pub const DEFAULT: &str = "default";
/// Before a change, in the name of a chain.
const CHANGED: &str = "inet6-";

/// One setting of an interface that is changed, and what it was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// What.
    pub setting: Setting,
    /// Whose.
    pub interface: String,
    /// Before.
    pub before: u32,
}

impl Change {
    /// As the table remembers it.
    pub fn name(&self) -> String {
        format!("{CHANGED}{}-{}-{}", self.setting.name(), self.before, self.interface)
    }

    /// What a chain of this name remembers, if anything.
    pub fn of_name(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(CHANGED)?.splitn(3, '-');
        let (setting, before, interface) = (parts.next()?, parts.next()?, parts.next()?);
        let setting = Setting::ALL.into_iter().find(|known| known.name() == setting)?;
        Some(Self { setting, interface: interface.to_owned(), before: before.parse().ok()? })
    }

    /// What it is set to, if to anything: an interface's own forwarding is only remembered, as "all" changes it.
    pub fn after(&self) -> Option<u32> {
        match self.setting {
            Setting::AcceptRa => Some(2),
            Setting::ForceForwarding => Some(1),
            Setting::Forwarding => (self.interface == ALL).then_some(1),
            Setting::DisableIpv6 => None, // of interfaces that vmd makes, with which it goes
        }
    }
}

/// Settings as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whose.
    pub interface: String,
    /// Of "all": the host forwards.
    pub forwarding: bool,
    /// Where the kernel has it.
    pub force: Option<bool>,
    /// 0, 1 or 2.
    pub accept_ra: u32,
}

/// What lets IPv6 go from one interface to another, in the order that it is done: "all" last. `seen`: "all", "default" and
/// the interfaces that have IPv6.
pub fn to_change(seen: &[Seen]) -> Vec<Change> {
    let of_all = seen.iter().find(|seen| seen.interface == ALL);
    let Some(all) = of_all.filter(|all| !all.forwarding) else { return vec![] };
    let others = || seen.iter().filter(|seen| seen.interface != ALL && seen.interface != "lo");
    let change = |seen: &Seen, setting, before| Change { setting, interface: seen.interface.clone(), before };
    if all.force.is_some() {
        let idle = others().filter(|seen| seen.interface != DEFAULT && seen.force == Some(false));
        return idle.map(|seen| change(seen, Setting::ForceForwarding, 0)).collect();
    }
    // An interface that is a router's already believes no router, and shall not begin to.
    let believing = others().filter(|seen| seen.accept_ra == 1 && !seen.forwarding);
    let routers = others().filter(|seen| seen.forwarding);
    let believing = believing.map(|seen| change(seen, Setting::AcceptRa, 1));
    let routers = routers.map(|seen| change(seen, Setting::Forwarding, 1));
    believing.chain(routers).chain([change(all, Setting::Forwarding, 0)]).collect()
}

/// The other way round: "all" first, as it changes what each interface is.
pub fn to_undo(changes: &BTreeSet<Change>) -> Vec<&Change> {
    let (all, others): (Vec<_>, Vec<_>) = changes.iter().partition(|change| change.interface == ALL);
    all.into_iter().chain(others).collect()
}

/// Whose packets go on only since these changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forwarding<'a> {
    /// Everybody's.
    All,
    /// Those that come by these.
    Some(Vec<&'a str>),
}

/// Whose packets go on only since these changes.
pub fn who_forwards(changes: &BTreeSet<Change>) -> Forwarding<'_> {
    if changes.iter().any(|change| change.setting == Setting::Forwarding && change.interface == ALL) {
        return Forwarding::All;
    }
    let forced = changes.iter().filter(|change| change.setting == Setting::ForceForwarding);
    Forwarding::Some(forced.map(|change| change.interface.as_str()).collect())
}

/// Whether that is no interface's name but a word of the kernel's for many.
pub fn is_for_all(interface: &str) -> bool {
    [ALL, DEFAULT].contains(&interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(interface: &str, forwarding: bool, force: Option<bool>, accept_ra: u32) -> Seen {
        Seen { interface: interface.to_owned(), forwarding, force, accept_ra }
    }

    fn names(seen: &[Seen]) -> Vec<String> {
        to_change(seen).iter().map(Change::name).collect()
    }

    #[test]
    fn a_host_that_forwards_is_left_alone() {
        for force in [None, Some(false)] {
            assert!(to_change(&[seen("all", true, force, 1), seen("eth0", true, force, 1)]).is_empty());
        }
        assert!(to_change(&[]).is_empty(), "no IPv6");
    }

    #[test]
    fn each_interface_is_forced_where_the_kernel_can() {
        let host = [
            seen("all", false, Some(false), 1),
            seen("default", false, Some(false), 1),
            seen("lo", false, Some(false), 1),
            seen("eth0", false, Some(false), 1),
            seen("eth1", false, Some(true), 1),
            seen("eth2", true, Some(false), 2),
        ];
        assert_eq!(names(&host), ["inet6-force_forwarding-0-eth0", "inet6-force_forwarding-0-eth2"]);
    }

    #[test]
    fn else_all_forward_after_those_that_believe_routers_will_go_on_to() {
        let host = [
            seen("all", false, None, 1),
            seen("default", false, None, 1),
            seen("lo", false, None, 1),
            seen("eth0", false, None, 1),
            seen("eth1", true, None, 1),
            seen("eth2", true, None, 2),
            seen("eth3", false, None, 0),
        ];
        let changes = [
            "inet6-accept_ra-1-default",
            "inet6-accept_ra-1-eth0",
            "inet6-forwarding-1-eth1",
            "inet6-forwarding-1-eth2",
            "inet6-forwarding-0-all",
        ];
        assert_eq!(names(&host), changes);
        let set: BTreeSet<Change> = to_change(&host).into_iter().collect();
        assert_eq!(who_forwards(&set), Forwarding::All);
        assert_eq!(to_undo(&set).first().map(|change| change.name()), Some("inet6-forwarding-0-all".to_owned()));
        let afters: Vec<_> = to_change(&host).iter().map(Change::after).collect();
        assert_eq!(afters, [Some(2), Some(2), None, None, Some(1)]);
    }

    #[test]
    fn what_a_chain_remembers_is_what_was_said() {
        for setting in Setting::ALL {
            for interface in ["all", "eth0", "a-b-c", "br-lan.7"] {
                let change = Change { setting, interface: interface.to_owned(), before: 1 };
                assert_eq!(Change::of_name(&change.name()), Some(change));
            }
        }
        for other in
            ["forward", "inet6-", "inet6-accept_ra-1", "inet6-accept_ra-x-eth0", "inet6-mtu-1-eth0", "forwards-eth0"]
        {
            assert_eq!(Change::of_name(other), None, "{other}");
        }
    }
}
