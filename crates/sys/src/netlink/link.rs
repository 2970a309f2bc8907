//! One interface as the kernel tells of it. Pure.
//!
//! Only the attributes that priv uses are read, the others are stepped over unread: a newer kernel's new attribute, or an
//! old one's new length, can't make a link unreadable.

use netlink_packet_route::link::{LinkFlags, LinkHeader};

use super::NetlinkError;
use super::attributes::{find, plain, string};

/// Bytes of a `struct ifinfomsg` (rtnetlink(7)), before the attributes.
pub(super) const HEADER_LENGTH: usize = 16;
/// Of a port of a bridge (linux/if_link.h).
const IFLA_BRPORT_ISOLATED: u16 = 33;

/// What drives an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// A bridge.
    Bridge,
    /// A tun or tap device.
    Tun,
    /// A VRF: a routing table of its own for its ports.
    Vrf,
    /// Hardware, or another virtual kind.
    Other,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number, which no rename changes.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What drives it.
    pub kind: LinkKind,
    /// Its Ethernet address, where it has one.
    pub mac: Option<[u8; 6]>,
    /// The index of the bridge, bond or VRF that it is a port of.
    pub master: Option<u32>,
    /// As a port of a bridge: it exchanges no frames with other ports that are so.
    pub isolated: bool,
    /// Its other names.
    pub names: Vec<String>,
    /// Its description, empty when it has none.
    pub alias: String,
    /// Its group; 0 is the default.
    pub group: u32,
    /// The largest frame it carries, in bytes.
    pub mtu: u32,
    /// Switched on by the administrator (not: has a carrier).
    pub up: bool,
}

/// Reads the payload of an RTM_NEWLINK.
pub(super) fn parse(payload: &[u8]) -> Result<Link, NetlinkError> {
    let header = LinkHeader::parse(payload).map_err(|_| NetlinkError::Malformed)?;
    let attributes = payload.get(HEADER_LENGTH..).ok_or(NetlinkError::Malformed)?;
    let mut link = Link {
        index: header.index,
        name: String::new(),
        kind: LinkKind::Other,
        mac: None,
        master: None,
        isolated: false,
        names: Vec::new(),
        alias: String::new(),
        group: 0,
        mtu: 0,
        up: header.flags.contains(LinkFlags::Up),
    };
    for (kind, value) in plain(attributes)? {
        link.learn(kind, value)?;
    }
    if link.index == 0 || link.name.is_empty() { Err(NetlinkError::Malformed) } else { Ok(link) }
}

impl Link {
    fn learn(&mut self, attribute: u16, value: &[u8]) -> Result<(), NetlinkError> {
        match attribute {
            libc::IFLA_IFNAME => self.name = string(value),
            libc::IFLA_PROP_LIST => self.names = names(value)?,
            libc::IFLA_IFALIAS => self.alias = string(value),
            // An address of another length is another medium's.
            libc::IFLA_ADDRESS => self.mac = value.try_into().ok(),
            libc::IFLA_MASTER => self.master = Some(number(value)?),
            libc::IFLA_GROUP => self.group = number(value)?,
            libc::IFLA_MTU => self.mtu = number(value)?,
            libc::IFLA_LINKINFO => {
                self.kind = kind(value)?;
                self.isolated = isolated(value)?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn kind(nested: &[u8]) -> Result<LinkKind, NetlinkError> {
    Ok(match find(nested, libc::IFLA_INFO_KIND)?.map(string).as_deref() {
        Some("bridge") => LinkKind::Bridge,
        Some("tun") => LinkKind::Tun,
        Some("vrf") => LinkKind::Vrf,
        _ => LinkKind::Other,
    })
}

fn isolated(nested: &[u8]) -> Result<bool, NetlinkError> {
    let port = find(nested, libc::IFLA_INFO_SLAVE_DATA)?;
    let flag = port.map(|port| find(port, IFLA_BRPORT_ISOLATED)).transpose()?.flatten();
    Ok(find(nested, libc::IFLA_INFO_SLAVE_KIND)?.map(string).as_deref() == Some("bridge") && flag == Some(&[1]))
}

fn names(nested: &[u8]) -> Result<Vec<String>, NetlinkError> {
    let names = plain(nested)?.into_iter().filter(|(kind, _)| *kind == libc::IFLA_ALT_IFNAME);
    Ok(names.map(|(_, name)| string(name)).collect())
}

fn number(value: &[u8]) -> Result<u32, NetlinkError> {
    Ok(u32::from_ne_bytes(value.try_into().map_err(|_| NetlinkError::Malformed)?))
}
