//! Whether IPv4 packets that come by an interface are forwarded (sysctl net.ipv4.conf.NAME.forwarding), over rtnetlink: who
//! asks has no path to /proc.

use std::collections::BTreeMap;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::link::{LinkHeader, LinkMessage};

use super::attributes::{Out, find};
use super::link::HEADER_LENGTH;
use super::{NetlinkError, Route};

/// The devconf values in an interface's AF_INET part (linux/if_link.h, IFLA_INET_CONF).
const IFLA_INET_CONF: u16 = 1;
/// The first of these values (linux/ip.h, IPV4_DEVCONF_FORWARDING is 1).
const FORWARDING: u16 = 1;
const AF_INET: u16 = 2;

impl Route {
    /// Of each interface that has IPv4, whether it forwards.
    pub fn forwarding(&mut self) -> Result<BTreeMap<u32, bool>, NetlinkError> {
        let everything = LinkMessage::default();
        let (all, _) = self.wire.list(libc::RTM_GETLINK, NLM_F_DUMP, &everything, libc::RTM_NEWLINK, parse)?;
        Ok(all.into_iter().flatten().collect())
    }

    /// Has an interface forward what comes by it, or not.
    pub fn set_forwarding(&mut self, index: u32, on: bool) -> Result<(), NetlinkError> {
        // netlink-packet-route writes the attributes as the kernel tells them and not as it takes them.
        let mut body = Out([&[0; 4][..], &index.to_ne_bytes(), &[0; 8]].concat());
        body.nest(libc::IFLA_AF_SPEC, |out| {
            out.nest(AF_INET, |out| {
                out.nest(IFLA_INET_CONF, |out| out.put(FORWARDING, &u32::from(on).to_ne_bytes()));
            });
        });
        self.wire.command(libc::RTM_SETLINK, 0, &body)
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
