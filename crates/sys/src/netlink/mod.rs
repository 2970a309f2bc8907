//! rtnetlink, synchronous: bridges, masters, names and addresses of the host's interfaces.
//!
//! Called by priv alone. One request is outstanding at a time, each has a deadline, and an answer that comes after its
//! deadline is told by its sequence number and dropped. Never `ip` or `brctl`, never a name where the index is known.

mod address;
mod attributes;
mod error;
mod forward;
mod link;
pub mod nft;
#[cfg(test)]
mod tests;
mod watch;
mod wire;

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVrf, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Prop,
};

use netlink_sys::protocols::NETLINK_ROUTE;

pub use error::NetlinkError;
pub use link::{Link, LinkKind};
pub use watch::Watch;
use wire::Wire;

/// Bytes of an interface name without its NUL (Linux, if.h: IFNAMSIZ is 16 with it).
pub const MAX_NAME: usize = 15;
/// What the kernel may take for one request. It answers at once, unless another holds the interfaces' lock.
pub const KERNEL_DEADLINE: Duration = Duration::from_secs(10);
/// RTM_NEWLINKPROP (linux/rtnetlink.h), which libc lacks.
const NEW_LINK_PROPERTY: u16 = 108;
/// How often a listing is asked for again because links came and went meanwhile (NLM_F_DUMP_INTR).
const MAX_LISTINGS: usize = 8;

/// A socket of the rtnetlink family, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Route {
    wire: Wire,
}

impl Route {
    /// Opens the socket. `deadline` holds for each request, from its sending to the last byte of its answer.
    pub fn open(deadline: Duration) -> Result<Self, NetlinkError> {
        Ok(Self { wire: Wire::open(NETLINK_ROUTE, deadline)? })
    }

    /// The same with a socket of datagrams that is open already and does not block: whoever has its other end answers.
    pub fn over(socket: OwnedFd, deadline: Duration) -> Self {
        Self { wire: Wire::over(socket, deadline) }
    }

    /// The link of that name, or none.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        match self.wire.list(libc::RTM_GETLINK, 0, &named(name), libc::RTM_NEWLINK, link::parse) {
            Ok((mut links, _)) => Ok(links.pop()),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every link of the namespace, by index.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        for _ in 0..MAX_LISTINGS {
            let everything = LinkMessage::default();
            let listed = self.wire.list(libc::RTM_GETLINK, NLM_F_DUMP, &everything, libc::RTM_NEWLINK, link::parse)?;
            if let (links, true) = listed {
                return Ok(links);
            }
        }
        Err(NetlinkError::Unsteady)
    }

    /// Makes a bridge in `group`, down, and gives its link. Refused with EEXIST where the name is taken.
    ///
    /// The group is set by the request that makes it: a caller killed right after still knows its own.
    pub fn create_bridge(&mut self, name: &str, group: u32) -> Result<Link, NetlinkError> {
        self.create(name, group, vec![LinkInfo::Kind(InfoKind::Bridge)])
    }

    /// Sets how many addresses a bridge learns, of all its ports together. A kernel before 6.7 takes no notice, or refuses.
    pub fn set_max_learned(&mut self, index: u32, limit: u32) -> Result<(), NetlinkError> {
        let data = LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::FdbMaxLearned(limit)]));
        self.change(index, vec![LinkInfo::Kind(InfoKind::Bridge), data])
    }

    fn change(&mut self, index: u32, info: Vec<LinkInfo>) -> Result<(), NetlinkError> {
        let mut message = at(index);
        message.attributes.push(LinkAttribute::LinkInfo(info));
        self.wire.command(libc::RTM_NEWLINK, 0, &message)
    }

    /// Makes a VRF with this routing table in `group`, down, and gives its link; as with a bridge.
    pub fn create_vrf(&mut self, name: &str, table: u32, group: u32) -> Result<Link, NetlinkError> {
        let data = LinkInfo::Data(InfoData::Vrf(vec![InfoVrf::TableId(table)]));
        self.create(name, group, vec![LinkInfo::Kind(InfoKind::Vrf), data])
    }

    fn create(&mut self, name: &str, group: u32, info: Vec<LinkInfo>) -> Result<Link, NetlinkError> {
        let mut message = named(name);
        message.attributes.extend([LinkAttribute::Group(group), LinkAttribute::LinkInfo(info)]);
        self.wire.command(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message)?;
        self.link(name)?.ok_or(NetlinkError::Unsteady)
    }

    /// Removes a bridge, a tap or a VRF.
    pub fn delete(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.wire.command(libc::RTM_DELLINK, 0, &at(index))
    }

    /// Switches a link on or off.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<(), NetlinkError> {
        let mut message = at(index);
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        message.header.change_mask = LinkFlags::Up;
        self.wire.command(libc::RTM_SETLINK, 0, &message)
    }

    /// Makes a link a port of `master`, or of none.
    pub fn set_master(&mut self, index: u32, master: Option<u32>) -> Result<(), NetlinkError> {
        self.set(index, [LinkAttribute::Controller(master.unwrap_or(0))])
    }

    /// Has a port of a bridge exchange no frames with other ports that are set so (Linux 4.18).
    pub fn set_isolated(&mut self, index: u32) -> Result<(), NetlinkError> {
        let port = InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(true)]);
        self.change(index, vec![LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(port)])
    }

    /// Gives a link its description and its group in one request.
    pub fn set_mark(&mut self, index: u32, alias: &str, group: u32) -> Result<(), NetlinkError> {
        self.set(index, [LinkAttribute::IfAlias(alias.to_owned()), LinkAttribute::Group(group)])
    }

    /// Gives a link one more name, which no other has.
    pub fn add_name(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        let mut message = at(index);
        message.attributes.push(LinkAttribute::PropList(vec![Prop::AltIfName(name.to_owned())]));
        self.wire.command(NEW_LINK_PROPERTY, NLM_F_CREATE | NLM_F_EXCL, &message)
    }

    /// Gives a link its address. A bridge that was given one keeps it, whichever ports come and go.
    pub fn set_mac(&mut self, index: u32, mac: [u8; 6]) -> Result<(), NetlinkError> {
        self.set(index, [LinkAttribute::Address(mac.to_vec())])
    }

    /// Sets the largest frame a link carries, in bytes without the Ethernet header.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        self.set(index, [LinkAttribute::Mtu(mtu)])
    }

    /// Has a link make no IPv6 address of its own; one that it is given later it takes.
    pub fn set_no_inet6_address(&mut self, index: u32) -> Result<(), NetlinkError> {
        let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        self.set(index, [LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])])])
    }

    fn set<const N: usize>(&mut self, index: u32, attributes: [LinkAttribute; N]) -> Result<(), NetlinkError> {
        let mut message = at(index);
        message.attributes.extend(attributes);
        self.wire.command(libc::RTM_SETLINK, 0, &message)
    }

    /// Gives a link an address; one that it has already stays.
    pub fn add_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = prefix;
        message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.attributes.push(AddressAttribute::Local(address));
        message.attributes.push(AddressAttribute::Address(address));
        self.wire.command(libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &message)
    }
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn at(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}
