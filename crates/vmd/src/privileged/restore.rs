//! Tables and rules of ours that another program removed are made again: a firewall that is loaded anew begins with
//! "flush ruleset", docker and ufw make their chains anew.
//!
//! Nobody else can change a table that belongs to our socket. So what is restored is the host's table, rules in others'
//! chains, and all of it on a kernel without owners (before Linux 5.12). There a packet that comes between the flush and
//! its notice meets no rule of ours.

use rustix::io::Errno;
use sys::netlink::nft::{Listed, Nft, Table};
use sys::netlink::{NetlinkError, Route};

use model::IfName;

use super::nat::{self, Memory};
use super::outside::{Outside, Why};

impl Outside {
    /// Makes again what is missing of all that was made, and says so. Called whenever nftables tells of a change, when the
    /// parent asks, and at the start, for what an earlier priv made.
    pub(super) fn look(&mut self, route: &mut Route) -> Result<(), NetlinkError> {
        let chains = self.filter()?.chains()?;
        let links = route.links()?;
        let mut memory = self.memory.clone();
        memory.extend(Memory::of(&chains));
        memory.forget_all_but(&links);
        self.guards.retain(|tap, _| links.iter().any(|link| link.name == tap.as_str()));
        self.going.retain(|going| links.iter().any(|link| link.name == *going));
        if memory.is_needed(&links) {
            self.look_at_ours(memory, &chains, &links)?;
        }
        self.look_at_guards(&chains)?;
        self.pass(&chains, &links, Why::Look)?;
        self.tell_of_filtered(&chains);
        Ok(())
    }

    fn look_at_ours(
        &mut self,
        memory: Memory,
        chains: &[Listed],
        links: &[sys::netlink::Link],
    ) -> Result<(), NetlinkError> {
        let Some(made) = self.made.clone() else { return self.make(memory, links) };
        for table in &made {
            if is_whole(self.filter()?, chains, table)? {
                continue;
            }
            self.make(memory, links)?;
            sys::guest_log!(Warn, "{}", restored(table));
            break;
        }
        Ok(())
    }

    fn look_at_guards(&mut self, chains: &[Listed]) -> Result<(), NetlinkError> {
        for table in self.guards.values().cloned().collect::<Vec<_>>() {
            let filter = self.filter()?;
            if is_whole(filter, chains, &table)? {
                continue;
            }
            match filter.replace(&table) {
                Ok(()) => sys::guest_log!(Warn, "{}", restored(&table)),
                Err(error) if error.errno() == Some(Errno::NOENT) => {} // its tap went at this moment
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A bridge has a guest whose frames meet the host's chains of forwarded packets: what drops them is said.
    pub(super) fn bridged(&mut self, bridge: &IfName) {
        self.filtered.insert(bridge.clone());
        self.told.clear();
        match self.filter().and_then(Nft::chains) {
            Ok(chains) => self.tell_of_filtered(&chains),
            Err(error) => log::debug!("chains that may drop what goes through bridge \"{bridge}\": {error}"),
        }
    }

    fn tell_of_filtered(&mut self, chains: &[Listed]) {
        for bridge in &self.filtered {
            for blocking in nat::blocking(chains, true) {
                let text = nat::held_up(bridge.as_str(), &blocking);
                if self.told.insert(text.clone()) {
                    sys::guest_log!(Warn, "{text}");
                }
            }
        }
    }
}

/// Whether each chain of a table is there with its rules. Of one that is ours alone nothing else is possible.
fn is_whole(filter: &mut Nft, chains: &[Listed], table: &Table) -> Result<bool, NetlinkError> {
    for chain in &table.chains {
        let same = |listed: &Listed| {
            (listed.family, &listed.table, &listed.name) == (table.family(), &table.name, &chain.name)
        };
        if !chains.iter().any(same) {
            return Ok(false);
        }
        if table.owned && filter.owns() {
            continue;
        }
        match filter.rules(table, chain) {
            Ok(rules) if rules == chain.rules.len() => {}
            Ok(_) => return Ok(false),
            Err(error) if error.errno() == Some(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn restored(table: &Table) -> String {
    let family = if table.device.is_some() { "netdev" } else { "inet" };
    format!(
        "another program removed the nftables table \"{family} {}\" or rules of it (as \"flush ruleset\" does): vmd has restored it",
        table.name
    )
}
