//! Which bridge and tap to make, to join, to leave alone, and to remove. Pure: it sees links, and says what to do.
//!
//! ```text
//! name is free ------------> create --> set (ours)
//! a bridge that vmd made --------------> set (ours)     removed at the end
//! another's bridge --------------------> join           left at the end as it was found
//! no bridge ---------------------------> refused
//! "external", and name is free --------> refused until another makes it
//! ```
//!
//! The kernel's list of links is the memory: ours is what has our group and an alias of ours, so that a priv that was
//! started again, or the next daemon, knows what an earlier one made. Only what was changed on others' bridges is kept here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub use proto::privileged::{GROUP, LOCAL_GROUP};

use model::IfName;
use proto::privileged::{LocalEnd, MARK, TapSpec};
use proto::{Code, Failure};
use sys::netlink::{Link, LinkKind};

use super::kept::{Address, Wanted};

/// Before the number of a routing domain, in the name of its VRF.
const VRF: &str = "rdomain";
/// The routing tables of VRFs that vmd makes: this, "vm" in ASCII, and the number of the domain.
const VRF_TABLES: u32 = 0x766d_0000;
/// `tap0` to `tap255` are tried (openbsd/daemon.md, 2.10: MAX_TAP).
const MAX_TAP: u32 = 256;
/// Addresses that a bridge of vmd's learns, of all its ports together (Linux 6.7).
pub const MAX_LEARNED: u32 = 8192;
/// Bits of the network of a `local interface` (openbsd/daemon.md, 3.12): a pair of addresses, and 32 bits of IPv6.
const LOCAL_BITS: (u8, u8) = (31, 96);

/// One change of an interface, in the order they are carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Description, and a group of ours or of the administrator's.
    Mark(String, u32),
    /// The other name, by which other programs know ours.
    Name(String),
    /// The same of a tap in a group of the administrator's: it is by that name alone that vmd knows it.
    NameFor(String),
    /// A fixed address: a bridge without one takes its ports', which come and go.
    Mac([u8; 6]),
    /// The master's frame length: a shorter port would shorten its bridge.
    Mtu(u32),
    /// Port of this bridge, or in this VRF.
    Master(u32),
    /// Reaches no other such port of its bridge.
    Isolated,
    /// Switched on or off.
    Up(bool),
    /// An address of the host, and the bits of its network.
    Address(IpAddr, u8),
}

/// How to come to a bridge of some name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Make {
    /// Nobody has the name: make it and ask again. Ask again too when another was faster.
    Create,
    /// It is there.
    Set {
        /// Which.
        index: u32,
        /// What to change.
        steps: Vec<Step>,
        /// Ours, so removed at the end.
        ours: bool,
    },
}

/// What the end of vmd means for one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undo {
    /// Remove it.
    Delete {
        /// Which.
        index: u32,
        /// Its name.
        name: String,
    },
    /// Put another's bridge back as it was found.
    Restore {
        /// Which.
        index: u32,
        /// Its name.
        name: String,
        /// Up, else down.
        up: bool,
    },
    /// Ours, but not ours alone any more: it stays.
    Keep {
        /// Its name.
        name: String,
        /// A port that is in it.
        port: String,
    },
}

/// What was changed on bridges that others made.
#[derive(Debug, Default)]
pub struct Switches {
    /// Index of the bridge; whether it was up.
    changed: BTreeMap<u32, bool>,
    /// Bridges of switches that are in vm.conf no more, which may still have ports.
    unwanted: BTreeSet<IfName>,
}

impl Switches {
    /// The way to the bridge of a switch, `found` being what has its name now.
    pub fn make(
        &mut self,
        bridge: &IfName,
        alias: &str,
        external: bool,
        up: bool,
        vrf: Option<&Link>,
        found: Option<&Link>,
    ) -> Result<Make, Failure> {
        if !is_switch_alias(alias) {
            return Err(Failure::new(Code::Invalid, format!("\"{alias}\" is no description of a switch")));
        }
        self.unwanted.remove(bridge);
        let absent = || Failure::new(Code::NotFound, format!("bridge \"{bridge}\" is not there"));
        let Some(link) = found else { return if external { Err(absent()) } else { Ok(Make::Create) } };
        if link.kind != LinkKind::Bridge {
            return Err(no_bridge(bridge));
        }
        let mut steps = Vec::new();
        let ours = is_ours(link);
        if ours {
            steps.extend((!is_named(link)).then(|| Step::Name(other_name(&link.name))));
            steps.push(Step::Mark(alias.to_owned(), GROUP));
            steps.extend(link.mac.map(Step::Mac));
        }
        if let Some(vrf) = vrf.filter(|vrf| link.master != Some(vrf.index)) {
            if !ours {
                let text =
                    format!("bridge \"{bridge}\" is not in \"{}\": put it there, or let vmd make the bridge", vrf.name);
                return Err(Failure::new(Code::Invalid, text));
            }
            steps.push(Step::Master(vrf.index));
        }
        if link.up != up {
            steps.push(Step::Up(up));
            if !ours {
                self.changed.entry(link.index).or_insert(link.up);
            }
        }
        Ok(Make::Set { index: link.index, steps, ours })
    }

    /// A switch is in vm.conf no more: its bridge is to go when nobody uses it.
    pub fn unwanted(&mut self, bridge: IfName) {
        self.unwanted.insert(bridge);
    }

    /// Which of the unwanted bridges go now: those of ours without a port. Others' are left as they are.
    pub fn no_longer_used(&mut self, links: &[Link]) -> Vec<Undo> {
        let mut gone = Vec::new();
        self.unwanted.retain(|name| {
            let bridge = links.iter().find(|link| link.name == name.as_str() && is_ours_of(link, LinkKind::Bridge));
            let Some(bridge) = bridge else { return false };
            let used = links.iter().any(|link| link.master == Some(bridge.index));
            gone.extend((!used).then(|| delete(bridge)));
            used
        });
        gone
    }

    /// The end of all that vmd made on this host: taps first, so that no bridge is kept for them.
    pub fn remove_all(&mut self, links: &[Link]) -> Vec<Undo> {
        self.unwanted.clear();
        let taps = links.iter().filter(|link| is_ours_of(link, LinkKind::Tun)).map(delete);
        let bridges = links.iter().filter(|link| is_ours_of(link, LinkKind::Bridge));
        let bridges = bridges.map(|bridge| delete_unless(bridge, links, |port| !is_ours_of(port, LinkKind::Tun)));
        let changed = std::mem::take(&mut self.changed);
        let vrfs = links.iter().filter(|link| is_ours_of(link, LinkKind::Vrf));
        let vrfs = vrfs.map(|vrf| delete_unless(vrf, links, |port| !is_ours(port)));
        let joined = links.iter().filter_map(|link| restore(link, *changed.get(&link.index)?));
        taps.chain(bridges).chain(vrfs).chain(joined).collect()
    }
}

/// The names to try for a tap, in order: the one that is wanted, or the first that is free.
pub fn tap_names(wanted: Option<&IfName>) -> Vec<IfName> {
    match wanted {
        Some(name) => vec![name.clone()],
        None => (0..MAX_TAP).filter_map(|number| IfName::new(format!("tap{number}")).ok()).collect(),
    }
}

/// Why there is no tap when each of its names is taken.
pub fn all_taken(wanted: Option<&IfName>) -> Failure {
    let text = match wanted {
        Some(name) => format!("tap \"{name}\" is taken; name another, or leave the name out for the first free one"),
        None => format!("all of tap0 to tap{} are taken", MAX_TAP - 1),
    };
    Failure::new(Code::Busy, text)
}

/// The bridge that a tap shall join, or why it can't.
pub fn master<'a>(bridge: &IfName, found: Option<&'a Link>) -> Result<&'a Link, Failure> {
    let missing = || Failure::new(Code::NotFound, format!("bridge \"{bridge}\" does not exist"));
    let link = found.ok_or_else(missing)?;
    if link.kind == LinkKind::Bridge { Ok(link) } else { Err(no_bridge(bridge)) }
}

/// Name, which is its description too, and routing table of a routing domain's VRF; 0 is the host's own and has none.
pub fn vrf(rdomain: Option<u8>) -> Option<(String, u32)> {
    let number = rdomain.filter(|number| *number != 0)?;
    Some((format!("{VRF}{number}"), VRF_TABLES | u32::from(number)))
}

/// What to set of a new tap, in the order of the spec (daemon 3.14).
pub fn tap_steps(wanted: &TapSpec, tap: &Link, master: Option<&Link>) -> Result<Vec<Step>, Failure> {
    let TapSpec { alias, isolated, up, local, .. } = wanted;
    if !is_tap_alias(alias) {
        return Err(Failure::new(Code::Invalid, format!("\"{alias}\" is no description of a tap")));
    }
    let group = others(wanted.group);
    let ours = if local.is_some_and(|local| local.nat) { LOCAL_GROUP } else { GROUP };
    // Named first, so that it is known as ours at every moment.
    let name = other_name(&tap.name);
    let mut steps = vec![if group.is_some() { Step::NameFor(name) } else { Step::Name(name) }];
    steps.push(Step::Mark(alias.to_string(), group.unwrap_or(ours)));
    if let Some(bridge) = master {
        if bridge.kind == LinkKind::Bridge && bridge.mtu != tap.mtu {
            steps.push(Step::Mtu(bridge.mtu));
        }
        steps.push(Step::Master(bridge.index));
        if *isolated {
            steps.push(Step::Isolated); // before the first frame
        }
    }
    steps.push(Step::Up(*up));
    if let Some(local) = local {
        if let Some(bridge) = master.filter(|master| master.kind == LinkKind::Bridge) {
            let text = format!("a port of \"{}\" can't have addresses of its own", bridge.name);
            return Err(Failure::new(Code::Invalid, text));
        }
        steps.extend(addresses(local).map(|(ip, bits)| Step::Address(ip, bits)));
    }
    Ok(steps)
}

/// How a tap shall stay that was made so.
pub fn wanted(wanted: &TapSpec, master: Option<&Link>) -> Wanted {
    let TapSpec { isolated, up, local, .. } = wanted;
    Wanted {
        master: master.map(|master| master.index),
        isolated: *isolated,
        up: *up,
        addresses: local.iter().flat_map(addresses).collect(),
    }
}

fn addresses(local: &LocalEnd) -> impl Iterator<Item = (IpAddr, u8)> {
    let inet6 = local.inet6.map(|inet6| (inet6.into(), LOCAL_BITS.1));
    std::iter::once((local.inet.into(), LOCAL_BITS.0)).chain(inet6)
}

/// What an earlier priv made, and how it shall stay: as it is.
pub fn taken_over(links: &[Link], addresses: &[Address]) -> Vec<(u32, Wanted)> {
    let ours = links.iter().filter(|link| is_ours(link));
    let wanted = |link: &Link| Wanted {
        master: link.master,
        isolated: link.isolated,
        up: link.up,
        addresses: match link.kind {
            LinkKind::Tun => {
                let own = addresses.iter().filter(|(index, ip, _)| *index == link.index && !is_kernels(ip));
                own.map(|(_, ip, bits)| (*ip, *bits)).collect()
            }
            LinkKind::Bridge | LinkKind::Vrf | LinkKind::Other => vec![], // the administrator's
        },
    };
    ours.map(|link| (link.index, wanted(link))).collect()
}

/// An address that the kernel gives a link by itself.
fn is_kernels(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// The other name of an interface that vmd made.
pub fn other_name(name: &str) -> String {
    format!("{MARK}{name}")
}

fn is_named(link: &Link) -> bool {
    link.names.contains(&other_name(&link.name))
}

/// The group, if it is not one of ours, which have a meaning of their own.
pub fn others(group: Option<u32>) -> Option<u32> {
    group.filter(|group| ![GROUP, LOCAL_GROUP].contains(group))
}

/// Whether vmd made it: our group, or our other name in a group of the administrator's, and no other's description. One
/// that was just made has none yet.
fn is_ours(link: &Link) -> bool {
    let described = match link.kind {
        LinkKind::Bridge => is_switch_alias(&link.alias),
        LinkKind::Tun => is_tap_alias(&link.alias),
        LinkKind::Vrf => link.alias == link.name && link.name.starts_with(VRF),
        LinkKind::Other => return false,
    };
    let named = link.kind == LinkKind::Tun && link.names.iter().any(|name| name.starts_with(MARK));
    let marked = others(Some(link.group)).is_none() || named;
    marked && (described || link.alias.is_empty())
}

fn is_ours_of(link: &Link, kind: LinkKind) -> bool {
    link.kind == kind && is_ours(link)
}

/// `switch<id>-<name>`.
fn is_switch_alias(alias: &str) -> bool {
    alias.strip_prefix("switch").and_then(after_number).is_some_and(|rest| rest.starts_with('-'))
}

/// `vm<id>-if<i>-<name>`.
fn is_tap_alias(alias: &str) -> bool {
    let interface = alias.strip_prefix("vm").and_then(after_number).and_then(|rest| rest.strip_prefix("-if"));
    interface.and_then(after_number).is_some_and(|rest| rest.starts_with('-'))
}

fn after_number(text: &str) -> Option<&str> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    (rest.len() < text.len()).then_some(rest)
}

fn no_bridge(name: &IfName) -> Failure {
    Failure::new(
        Code::Invalid,
        format!("\"{name}\" is an interface, but not a bridge; name a bridge, or a name that is not in use"),
    )
}

fn delete(link: &Link) -> Undo {
    Undo::Delete { index: link.index, name: link.name.clone() }
}

fn delete_unless(bridge: &Link, links: &[Link], holds: impl Fn(&Link) -> bool) -> Undo {
    let port = links.iter().find(|link| link.master == Some(bridge.index) && holds(link));
    match port {
        Some(port) => Undo::Keep { name: bridge.name.clone(), port: port.name.clone() },
        None => delete(bridge),
    }
}

fn restore(link: &Link, was_up: bool) -> Option<Undo> {
    (link.up != was_up).then(|| Undo::Restore { index: link.index, name: link.name.clone(), up: was_up })
}
