//! The way to the outside, as `nat.rs` and `forward6.rs` say: our table, forwarding, and the chains of others.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use model::IfName;
use proto::privileged::LocalEnd;

use rustix::io::Errno;
use sys::ipv6::{Setting, Settings};
use sys::netlink::nft::{Expr, INET, Listed, NETDEV, Nft, Table};
use sys::netlink::{KERNEL_DEADLINE, Link, NetlinkError, Route};

use super::forward6::{self, ALL, Change, DEFAULT, Seen};
use super::guard;
use super::nat::{self, Memory};
use super::switches::LOCAL_GROUP;

/// How often a chain may be another than a moment before.
const MAX_TRIES: usize = 4;

/// What it is made by, and what was made: by this the tables can be made again (`restore.rs`).
pub(super) struct Outside {
    /// Held from the start; a kernel that lacks it is asked again when it is needed.
    filter: Option<Nft>,
    /// None where IPv6 is not there, or not ours to set.
    settings: Option<Settings>,
    /// What our tables remember, as far as this priv has read or written them.
    pub(super) memory: Memory,
    /// Our tables as they were made last.
    pub(super) made: Option<[Table; 2]>,
    /// Those of taps, likewise. What an earlier priv made has none here.
    pub(super) guards: BTreeMap<IfName, Table>,
    /// A local interface has IPv6.
    pub(super) inet6: bool,
    /// Bridges whose guests' frames meet the host's chains of forwarded packets.
    pub(super) filtered: BTreeSet<IfName>,
    /// Taps that are going: others let their names through no more, though they may still be there.
    pub(super) going: BTreeSet<String>,
    /// What blocks and was said.
    pub(super) told: BTreeSet<String>,
}

/// For whom the chains of others are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// For a tap that is new.
    NewTap,
    /// Because rules may be missing.
    Look,
}

impl Outside {
    /// Nothing is changed yet. `filter`: the socket that owns tables, which the parent holds too; without one the tables
    /// go with this process.
    pub(super) fn new(settings: Option<Settings>, filter: Option<OwnedFd>) -> Self {
        let filter = match filter {
            Some(socket) => Nft::take_over(socket, KERNEL_DEADLINE),
            None => Nft::open(KERNEL_DEADLINE),
        };
        Self {
            filter: filter.ok(),
            settings,
            memory: Memory::default(),
            made: None,
            guards: BTreeMap::new(),
            inet6: false,
            filtered: BTreeSet::new(),
            going: BTreeSet::new(),
            told: BTreeSet::new(),
        }
    }

    /// Takes IPv6 from an interface that was just made and is down: else the host would have an address there, learn
    /// what guests say of theirs, and believe them to be routers.
    pub(super) fn without_inet6(&self, route: &mut Route, link: &Link) {
        let done = self.settings.as_ref().map(|settings| settings.set(&link.name, Setting::DisableIpv6, 1));
        if let Some(Err(error)) = &done {
            log::debug!("disable_ipv6 of \"{}\": {error}", link.name);
        }
        if !matches!(done, Some(Ok(_))) {
            // The settings are not ours, as in a container: then at least there is no address.
            if let Err(error) = route.set_no_inet6_address(link.index) {
                log::debug!("\"{}\" keeps its IPv6 address: {error}", link.name);
            }
        }
    }

    /// Limits what the host learns of the guest behind a tap that is still down. A kernel that can't do it does without.
    pub(super) fn limit(&mut self, route: &mut Route, tap: &IfName, local: Option<&LocalEnd>) {
        if let Err(error) = self.try_limit(route, tap, local) {
            sys::guest_log!(
                Warn,
                "what the guest behind tap \"{tap}\" can have the host learn is not limited: nftables: {error}"
            );
        }
    }

    fn try_limit(&mut self, route: &mut Route, tap: &IfName, local: Option<&LocalEnd>) -> Result<(), NetlinkError> {
        let filter = self.filter()?;
        let table = guard::table(tap, local);
        filter.replace(&table)?;
        let chains = filter.chains()?;
        self.guards.insert(tap.clone(), table);
        let filter = self.filter()?;
        let links = route.links()?;
        for table in guard::left(&chains, &links) {
            filter.delete(NETDEV, table)?;
        }
        Ok(())
    }

    /// Has a local tap reach the outside: our table first, which keeps the host from being a router for others, then
    /// forwarding, then the chains of others that would drop it all.
    pub(super) fn reach(&mut self, route: &mut Route, tap: u32, inet6: bool) -> Result<(), NetlinkError> {
        let chains = self.filter()?.chains()?;
        route.set_forwarding(tap, true)?;
        let links = route.links()?;
        let mut memory = self.memory.clone();
        memory.extend(Memory::of(&chains));
        memory.forget_all_but(&links);
        memory
            .taps
            .extend(links.iter().filter(|link| link.index == tap && link.group != LOCAL_GROUP).map(|tap| tap.index));
        let idle = nat::to_switch_on(&links, &route.forwarding()?);
        memory.forwards.extend(idle.iter().map(|link| link.name.clone()));
        let changes = if inet6 { self.changes(&links, tap) } else { vec![] };
        memory.inet6.extend(changes.iter().cloned());
        self.make(memory, &links)?;
        self.going.retain(|going| !links.iter().any(|link| link.index == tap && link.name == *going));
        for link in idle {
            or_gone(route.set_forwarding(link.index, true))?;
            sys::guest_log!(
                Info,
                "\"{}\" now forwards IPv4 packets for local interfaces; packets from it for others are dropped",
                link.name
            );
        }
        self.forward_inet6(&changes);
        self.inet6 |= inet6;
        self.told.clear();
        self.pass(&chains, &links, Why::NewTap)
    }

    /// Makes both tables, with what they are to remember.
    pub(super) fn make(&mut self, memory: Memory, links: &[Link]) -> Result<(), NetlinkError> {
        let tables = nat::tables(&memory, links);
        self.memory = memory;
        for table in &tables {
            self.filter()?.replace(table)?;
        }
        self.made = Some(tables);
        Ok(())
    }

    /// What to change so that IPv6 is forwarded. Of the tap itself nothing is remembered: it takes it along.
    fn changes(&mut self, links: &[Link], tap: u32) -> Vec<Change> {
        let Some(settings) = &self.settings else {
            sys::guest_log!(
                Error,
                "the IPv6 settings of the host can't be reached: local interfaces reach the outside by IPv6 only if the host forwards it"
            );
            return vec![];
        };
        let named = |link: &&Link| !forward6::is_for_all(&link.name);
        for own in links.iter().filter(named).filter(|link| link.index == tap) {
            set(settings, &own.name, Setting::ForceForwarding, 1);
        }
        let interfaces = links.iter().filter(named).filter(|link| link.index != tap).map(|link| link.name.as_str());
        let seen: Vec<Seen> =
            [ALL, DEFAULT].into_iter().chain(interfaces).filter_map(|name| seen(settings, name)).collect();
        forward6::to_change(&seen)
    }

    fn forward_inet6(&self, changes: &[Change]) {
        let Some(settings) = &self.settings else { return };
        for change in changes {
            let Change { setting, interface, .. } = change;
            if !change.after().is_some_and(|after| set(settings, interface, *setting, after)) {
                continue;
            }
            match setting {
                Setting::ForceForwarding => sys::guest_log!(
                    Info,
                    "\"{interface}\" now forwards IPv6 packets for local interfaces; packets from it for others are dropped"
                ),
                Setting::Forwarding => sys::guest_log!(
                    Info,
                    "the host now forwards IPv6 packets for local interfaces; packets for others are dropped"
                ),
                Setting::AcceptRa => {
                    sys::guest_log!(
                        Info,
                        "\"{interface}\" still accepts router advertisements, though the host forwards IPv6"
                    )
                }
                Setting::DisableIpv6 => {}
            }
        }
    }

    /// Lets local taps through where others drop. What can't be opened is said once.
    pub(super) fn pass(&mut self, chains: &[Listed], links: &[Link], why: Why) -> Result<(), NetlinkError> {
        let passes = self.passes(links);
        if passes.is_empty() {
            return Ok(());
        }
        for blocking in nat::blocking(chains, self.inet6) {
            let place = nat::place(&blocking.chain);
            let Some(door) = blocking.door else {
                if self.told.insert(place.clone()) {
                    sys::guest_log!(Error, "{place} drops packets of local interfaces: accept their taps there");
                }
                continue;
            };
            let filter = self.filter()?;
            if why == Why::Look && filter.tagged(&door, nat::TAG)? == passes.len() {
                continue;
            }
            match exchange(filter, &door, &passes) {
                Ok(()) => sys::guest_log!(
                    Info,
                    "{place} drops packets: taps of local interfaces are accepted in {}",
                    door.name
                ),
                Err(NetlinkError::Refused { errno, .. }) => {
                    if self.told.insert(place.clone()) {
                        sys::guest_log!(
                            Error,
                            "{place} drops packets of local interfaces, and vmd can't add a rule there ({errno}): accept their taps there"
                        );
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes the name of a tap that is gone, or going, out of the chains of others.
    pub(super) fn tap_gone(&mut self, route: &mut Route, tap: &str) -> Result<(), NetlinkError> {
        let chains = self.filter()?.chains()?;
        self.memory.extend(Memory::of(&chains));
        self.going.insert(tap.to_owned());
        let passes = self.passes(&route.links()?);
        let filter = self.filter()?;
        for door in nat::doors(&chains) {
            if filter.tagged(&door, nat::TAG)? > passes.len() {
                exchange(filter, &door, &passes)?;
            }
        }
        Ok(())
    }

    fn passes(&self, links: &[Link]) -> Vec<Vec<Expr>> {
        let staying: Vec<Link> = links.iter().filter(|link| !self.going.contains(&link.name)).cloned().collect();
        nat::passes(&staying, &self.memory)
    }

    /// Undoes it, for this priv and for one that was killed. The table goes last: as long as anything forwards for us, it
    /// keeps others out.
    pub(super) fn leave(&mut self, route: &mut Route) -> Result<(), NetlinkError> {
        (self.made, self.guards, self.inet6) = (None, BTreeMap::new(), false);
        let mut memory = std::mem::take(&mut self.memory);
        let Ok(filter) = self.filter() else { return Ok(()) }; // a kernel without: nothing to undo
        let chains = filter.chains()?;
        for table in guard::left(&chains, &[]) {
            filter.delete(NETDEV, table)?;
        }
        for door in nat::doors(&chains) {
            // Its tool may be making it anew at this moment; what follows is undone all the same.
            if let Err(error) = exchange(filter, &door, &[]) {
                log::error!("chain \"{}\" of table \"{}\": rules of vmd may stay ({error})", door.name, door.table);
            }
        }
        memory.extend(Memory::of(&chains));
        for name in &memory.forwards {
            let Some(link) = route.link(name)? else { continue };
            or_gone(route.set_forwarding(link.index, false))?;
            log::info!("\"{name}\" no longer forwards");
        }
        if !self.undo(&memory.inet6) {
            log::error!("the nftables table \"inet {}\" stays, as the host still forwards IPv6", nat::HOST_TABLE);
            return self.filter()?.delete(INET, nat::TABLE);
        }
        [nat::TABLE, nat::HOST_TABLE].into_iter().try_for_each(|table| self.filter()?.delete(INET, table))
    }

    /// Whether nothing is left of the changes.
    fn undo(&self, changes: &BTreeSet<Change>) -> bool {
        let Some(settings) = &self.settings else { return changes.is_empty() };
        let mut done = true;
        for change in forward6::to_undo(changes) {
            // What somebody else set meanwhile is theirs.
            if change.setting == Setting::AcceptRa
                && value(settings, &change.interface, Setting::AcceptRa).is_none_or(|now| Some(now) != change.after())
            {
                continue;
            }
            let there = set(settings, &change.interface, change.setting, change.before);
            let gone = value(settings, &change.interface, change.setting).is_none();
            done &= there || gone;
            match (change.setting, there) {
                (Setting::ForceForwarding, true) => log::info!("\"{}\" forwards IPv6 no more", change.interface),
                (Setting::Forwarding, true) if change.interface == ALL => log::info!("the host forwards IPv6 no more"),
                _ => {}
            }
        }
        done
    }

    pub(super) fn filter(&mut self) -> Result<&mut Nft, NetlinkError> {
        let open = match self.filter.take() {
            Some(filter) => filter,
            None => Nft::open(KERNEL_DEADLINE)?,
        };
        Ok(self.filter.insert(open))
    }
}

/// An interface that is gone needs no change.
pub(super) fn or_gone(done: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    done.or_else(|error| if error.is_missing() { Ok(()) } else { Err(error) })
}

/// Puts these rules of ours, and no other, into a chain whose tool may be changing it at the moment.
fn exchange(filter: &mut Nft, door: &Listed, rules: &[Vec<Expr>]) -> Result<(), NetlinkError> {
    for _ in 1..MAX_TRIES {
        match filter.exchange(door, nat::TAG, rules) {
            Err(error) if error.errno() == Some(Errno::NOENT) => {}
            done => return done,
        }
    }
    filter.exchange(door, nat::TAG, rules)
}

/// The settings of one that has IPv6.
fn seen(settings: &Settings, interface: &str) -> Option<Seen> {
    Some(Seen {
        interface: interface.to_owned(),
        forwarding: value(settings, interface, Setting::Forwarding)? != 0,
        force: value(settings, interface, Setting::ForceForwarding).map(|value| value != 0),
        accept_ra: value(settings, interface, Setting::AcceptRa)?,
    })
}

fn value(settings: &Settings, interface: &str, setting: Setting) -> Option<u32> {
    settings.value(interface, setting).unwrap_or_else(|error| {
        sys::guest_log!(Warn, "{} of \"{interface}\": {error}", setting.name());
        None
    })
}

/// Whether it is set now. One that is not there is no failure.
fn set(settings: &Settings, interface: &str, setting: Setting, value: u32) -> bool {
    settings.set(interface, setting, value).unwrap_or_else(|error| {
        sys::guest_log!(
            Error,
            "{} of \"{interface}\" can't be set to {value}: {error}; local interfaces may not get out by IPv6",
            setting.name()
        );
        false
    })
}
