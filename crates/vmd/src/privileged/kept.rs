//! How the interfaces that vmd made shall stay: master, state and addresses, and what to do when another program changed
//! them (systemd-networkd and NetworkManager, where nothing tells them to leave these alone). Pure.
//!
//! ```text
//! made --> watched --changed by another--> put back, and said --too often--> left for a minute, and said
//!             |
//!             gone: forgotten
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use model::IfName;
use proto::privileged::Undone;
use sys::netlink::Link;

use super::switches::Step;

/// How often an interface is put back within a minute. Whoever changes it more often wants it so, and would go on.
const MAX_PUT_BACK: usize = 5;
const MINUTE: Duration = Duration::from_secs(60);

/// What an interface shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// In this bridge or VRF; none: in whichever it is put.
    pub master: Option<u32>,
    /// Reaches no other such port of its bridge.
    pub isolated: bool,
    /// Switched on; else as it is.
    pub up: bool,
    /// It has these, with the bits of their networks.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// An interface's address.
pub type Address = (u32, IpAddr, u8);

/// What is to be done for one interface, and told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fix {
    /// Which.
    pub index: u32,
    /// Its name.
    pub name: IfName,
    /// What was undone.
    pub undone: Undone,
    /// What puts it back; nothing when it happened too often.
    pub steps: Vec<Step>,
}

/// All that are watched, by index.
#[derive(Debug, Default)]
pub struct Kept {
    of: BTreeMap<u32, Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    wanted: Wanted,
    put_back: Vec<Instant>,
    given_up: bool,
}

impl Kept {
    /// An interface was made, or is wanted otherwise from now on.
    pub fn watch(&mut self, index: u32, wanted: Wanted) {
        self.of.insert(index, Watched { wanted, ..Watched::default() });
    }

    /// Nothing is watched any more.
    pub fn clear(&mut self) {
        self.of.clear();
    }

    /// The administrator asks: what was given up is tried again.
    pub fn forgive(&mut self) {
        for watched in self.of.values_mut() {
            (watched.put_back, watched.given_up) = (vec![], false);
        }
    }

    /// What is not as it shall be.
    pub fn look(&mut self, links: &[Link], addresses: &[Address], now: Instant) -> Vec<Fix> {
        self.of.retain(|index, _| links.iter().any(|link| link.index == *index));
        let mut fixes = Vec::new();
        for (index, watched) in &mut self.of {
            let Some(link) = links.iter().find(|link| link.index == *index) else { continue };
            let Ok(name) = IfName::new(link.name.clone()) else { continue };
            let Some((undone, steps)) = watched.wanted.differs(link, links, addresses) else { continue };
            if let Some(steps) = watched.may(steps, now) {
                fixes.push(Fix { index: *index, name, undone, steps });
            }
        }
        fixes
    }

    /// When one that was given up may be tried again.
    pub fn retry(&self) -> Option<Instant> {
        let given_up = self.of.values().filter(|watched| watched.given_up);
        given_up.filter_map(|watched| watched.put_back.first()).min().map(|first| *first + MINUTE)
    }
}

impl Watched {
    /// The steps if it is not too often, none of them if that is to be told, and nothing after that.
    fn may(&mut self, steps: Vec<Step>, now: Instant) -> Option<Vec<Step>> {
        self.put_back.retain(|at| now < *at + MINUTE);
        if self.put_back.len() < MAX_PUT_BACK {
            self.put_back.push(now);
            self.given_up = false;
            return Some(steps);
        }
        let again = std::mem::replace(&mut self.given_up, true);
        (!again).then(Vec::new)
    }
}

impl Wanted {
    /// The first thing that another program undid, and the steps that put back all.
    fn differs(&self, link: &Link, links: &[Link], addresses: &[Address]) -> Option<(Undone, Vec<Step>)> {
        // A master that is gone takes nobody.
        let there = |master: &u32| links.iter().any(|link| link.index == *master);
        let master = self.master.filter(there).filter(|master| link.master != Some(*master));
        let missing = self.addresses.iter().filter(|(ip, bits)| !addresses.contains(&(link.index, *ip, *bits)));
        let missing: Vec<_> = missing.copied().collect();
        let down = self.up && !link.up;
        let undone = match (master, down, missing.is_empty()) {
            (Some(_), _, _) => Undone::Master,
            (None, true, _) => Undone::Up,
            (None, false, false) => Undone::Address,
            (None, false, true) => return None,
        };
        let mut steps = Vec::new();
        if let Some(master) = master {
            // Down, so that no frame goes by before it is isolated.
            steps.extend(self.isolated.then_some(Step::Up(false)));
            steps.push(Step::Master(master));
            steps.extend(self.isolated.then_some(Step::Isolated));
        }
        if down || self.up && steps.contains(&Step::Up(false)) {
            steps.push(Step::Up(true));
        }
        // An IPv6 address goes with the state, an IPv4 one stays: one that is there is no failure.
        let lost = if down { self.addresses.clone() } else { missing };
        steps.extend(lost.into_iter().map(|(ip, bits)| Step::Address(ip, bits)));
        Some((undone, steps))
    }
}

#[cfg(test)]
mod tests {
    use sys::netlink::LinkKind;

    use super::*;

    fn link(index: u32, master: Option<u32>, up: bool) -> Link {
        Link {
            index,
            name: format!("tap{index}"),
            kind: LinkKind::Tun,
            mac: None,
            master,
            isolated: false,
            names: vec![],
            alias: String::new(),
            group: 0,
            mtu: 1500,
            up,
        }
    }

    fn local() -> Wanted {
        Wanted { up: true, addresses: vec![([100, 64, 1, 2].into(), 31)], ..Wanted::default() }
    }

    #[test]
    fn what_another_undid_is_put_back() {
        let now = Instant::now();
        let port = |isolated| Wanted { master: Some(7), isolated, up: true, addresses: vec![] };
        let address = Step::Address([100, 64, 1, 2].into(), 31);
        let have = [(1, IpAddr::from([100, 64, 1, 2]), 31)];
        for (wanted, link, have, expected) in [
            (port(false), link(1, Some(7), true), &[][..], None),
            (port(false), link(1, None, true), &[], Some((Undone::Master, vec![Step::Master(7)]))),
            (port(false), link(1, Some(9), true), &[], Some((Undone::Master, vec![Step::Master(7)]))),
            (
                port(true),
                link(1, None, true),
                &[],
                Some((Undone::Master, vec![Step::Up(false), Step::Master(7), Step::Isolated, Step::Up(true)])),
            ),
            (port(false), link(1, Some(7), false), &[], Some((Undone::Up, vec![Step::Up(true)]))),
            (local(), link(1, None, true), &have, None),
            (local(), link(1, Some(9), true), &have, None),
            (local(), link(1, None, true), &[], Some((Undone::Address, vec![address.clone()]))),
            (local(), link(1, None, false), &have, Some((Undone::Up, vec![Step::Up(true), address.clone()]))),
            (Wanted::default(), link(1, None, false), &[], None),
        ] {
            let mut kept = Kept::default();
            kept.watch(1, wanted.clone());
            let fixes = kept.look(&[link.clone(), self::link(7, None, true)], have, now);
            let found = fixes.into_iter().next().map(|fix| (fix.undone, fix.steps));
            assert_eq!(found, expected, "{wanted:?} {link:?}");
        }
    }

    #[test]
    fn a_master_that_is_gone_and_a_link_that_is_gone_are_left() {
        let mut kept = Kept::default();
        kept.watch(1, Wanted { master: Some(7), up: true, ..Wanted::default() });
        assert_eq!(kept.look(&[link(1, None, true)], &[], Instant::now()), []);
        assert_eq!(kept.look(&[], &[], Instant::now()), []);
        assert_eq!(kept.look(&[link(1, None, false), link(7, None, true)], &[], Instant::now()), [], "forgotten");
    }

    #[test]
    fn there_is_no_war() {
        let (mut kept, start) = (Kept::default(), Instant::now());
        kept.watch(1, local());
        let links = [link(1, None, true)];
        let look = |kept: &mut Kept, second| kept.look(&links, &[], start + Duration::from_secs(second));
        for second in 0..5 {
            assert_eq!(look(&mut kept, second)[0].steps.len(), 1);
            assert_eq!(kept.retry(), None);
        }
        assert_eq!(look(&mut kept, 5)[0].steps, [], "this is told");
        assert_eq!(look(&mut kept, 6), [], "once");
        assert_eq!(kept.retry(), Some(start + MINUTE));
        assert_eq!(look(&mut kept, 60)[0].steps.len(), 1, "later it is tried again");
        assert_eq!(look(&mut kept, 60)[0].steps, []);
        kept.forgive();
        assert_eq!(look(&mut kept, 60)[0].steps.len(), 1, "and when the administrator asks");
    }
}
