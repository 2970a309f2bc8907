//! One interface as the kernel tells of it. Pure.
//!
//! Only the attributes that priv uses are read, the others are stepped over unread: a newer kernel's new attribute, or an
//! old one's new length, can't make a link unreadable.

use netlink_packet_core::{DecodeError, NlaBuffer, NlasIterator};
use netlink_packet_route::link::{LinkFlags, LinkHeader};

use super::NetlinkError;

/// Bytes of a `struct ifinfomsg` (rtnetlink(7)), before the attributes.
const HEADER_LENGTH: usize = 16;

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
    let header = LinkHeader::parse(payload).map_err(malformed)?;
    let attributes = payload.get(HEADER_LENGTH..).ok_or(NetlinkError::Malformed)?;
    let mut link = Link {
        index: header.index,
        name: String::new(),
        kind: LinkKind::Other,
        mac: None,
        master: None,
        names: Vec::new(),
        alias: String::new(),
        group: 0,
        mtu: 0,
        up: header.flags.contains(LinkFlags::Up),
    };
    for attribute in NlasIterator::new(attributes) {
        link.learn(&attribute.map_err(malformed)?)?;
    }
    if link.index == 0 || link.name.is_empty() { Err(NetlinkError::Malformed) } else { Ok(link) }
}

impl Link {
    fn learn(&mut self, attribute: &NlaBuffer<&[u8]>) -> Result<(), NetlinkError> {
        let value = attribute.value();
        match attribute.kind() {
            libc::IFLA_IFNAME => self.name = text(value),
            libc::IFLA_PROP_LIST => self.names = names(value)?,
            libc::IFLA_IFALIAS => self.alias = text(value),
            // An address of another length is another medium's.
            libc::IFLA_ADDRESS => self.mac = value.try_into().ok(),
            libc::IFLA_MASTER => self.master = Some(number(value)?),
            libc::IFLA_GROUP => self.group = number(value)?,
            libc::IFLA_MTU => self.mtu = number(value)?,
            libc::IFLA_LINKINFO => self.kind = kind(value)?,
            _ => {}
        }
        Ok(())
    }
}

fn kind(nested: &[u8]) -> Result<LinkKind, NetlinkError> {
    for attribute in NlasIterator::new(nested) {
        let attribute = attribute.map_err(malformed)?;
        if attribute.kind() == libc::IFLA_INFO_KIND {
            return Ok(match text(attribute.value()).as_str() {
                "bridge" => LinkKind::Bridge,
                "tun" => LinkKind::Tun,
                "vrf" => LinkKind::Vrf,
                _ => LinkKind::Other,
            });
        }
    }
    Ok(LinkKind::Other)
}

fn names(nested: &[u8]) -> Result<Vec<String>, NetlinkError> {
    let mut names = Vec::new();
    for attribute in NlasIterator::new(nested) {
        let attribute = attribute.map_err(malformed)?;
        if attribute.kind() == libc::IFLA_ALT_IFNAME {
            names.push(text(attribute.value()));
        }
    }
    Ok(names)
}

fn number(value: &[u8]) -> Result<u32, NetlinkError> {
    Ok(u32::from_ne_bytes(value.try_into().map_err(|_| NetlinkError::Malformed)?))
}

/// A string up to its NUL. Names and aliases may hold any bytes; what is no UTF-8 can't be one of ours.
fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

fn malformed(_: DecodeError) -> NetlinkError {
    NetlinkError::Malformed
}
