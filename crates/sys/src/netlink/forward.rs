//! Whether IPv4 packets that come by an interface are forwarded (sysctl net.ipv4.conf.NAME.forwarding), over rtnetlink: who
//! asks has no path to /proc.

use std::collections::BTreeMap;

use netlink_packet_core::{Emitable, NLM_F_DUMP};
use netlink_packet_route::link::{LinkHeader, LinkMessage};

use super::attributes::plain;
use super::{NetlinkError, Route};

/// Bytes of a `struct ifinfomsg`, and where its index lies (rtnetlink(7)).
const HEADER_LENGTH: usize = 16;
const INDEX: std::ops::Range<usize> = 4..8;
/// The devconf values in an interface's AF_INET part (linux/if_link.h, IFLA_INET_CONF).
const IFLA_INET_CONF: u16 = 1;
/// The first of these values (linux/ip.h, IPV4_DEVCONF_FORWARDING is 1).
const FORWARDING: u16 = 1;
const AF_INET: u16 = 2;
const NESTED: u16 = 1 << 15;

impl Route {
    /// Of each interface that has IPv4, whether it forwards.
    pub fn forwarding(&mut self) -> Result<BTreeMap<u32, bool>, NetlinkError> {
        let mut all = BTreeMap::new();
        self.wire.request(libc::RTM_GETLINK, NLM_F_DUMP, &LinkMessage::default(), |kind, payload| {
            if kind == libc::RTM_NEWLINK {
                all.extend(parse(payload)?);
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// Has an interface forward what comes by it, or not.
    pub fn set_forwarding(&mut self, index: u32, on: bool) -> Result<(), NetlinkError> {
        self.wire.command(libc::RTM_SETLINK, 0, &Set { index, on })
    }
}

fn parse(payload: &[u8]) -> Result<Option<(u32, bool)>, NetlinkError> {
    let header = LinkHeader::parse(payload).map_err(|_| NetlinkError::Malformed)?;
    let attributes = payload.get(HEADER_LENGTH..).ok_or(NetlinkError::Malformed)?;
    let inet = find(attributes, libc::IFLA_AF_SPEC)?.map(|spec| find(spec, AF_INET)).transpose()?.flatten();
    let values = inet.map(|inet| find(inet, IFLA_INET_CONF)).transpose()?.flatten();
    let value = values.and_then(|values| values.first_chunk::<4>());
    Ok(value.map(|value| (header.index, u32::from_ne_bytes(*value) != 0)))
}

fn find(attributes: &[u8], kind: u16) -> Result<Option<&[u8]>, NetlinkError> {
    Ok(plain(attributes)?.into_iter().find(|(found, _)| *found == kind).map(|(_, value)| value))
}

/// The request, which netlink-packet-route writes as the kernel tells it and not as it takes it.
struct Set {
    index: u32,
    on: bool,
}

impl Set {
    fn bytes(&self) -> Vec<u8> {
        let mut value = u32::from(self.on).to_ne_bytes().to_vec();
        let kinds = [FORWARDING, IFLA_INET_CONF | NESTED, AF_INET | NESTED, libc::IFLA_AF_SPEC | NESTED];
        for kind in kinds {
            let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
            value = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &value].concat();
        }
        let mut bytes = vec![0; HEADER_LENGTH];
        if let Some(place) = bytes.get_mut(INDEX) {
            place.copy_from_slice(&self.index.to_ne_bytes());
        }
        bytes.extend(value);
        bytes
    }
}

impl Emitable for Set {
    fn buffer_len(&self) -> usize {
        self.bytes().len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        let bytes = self.bytes();
        if let Some(place) = buffer.get_mut(..bytes.len()) {
            place.copy_from_slice(&bytes);
        }
    }
}
