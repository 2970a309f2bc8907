//! Addresses of interfaces, as the kernel lists them.

use std::net::IpAddr;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::address::AddressMessage;

use super::attributes::find;
use super::{NetlinkError, Route};

/// Bytes of a `struct ifaddrmsg` (rtnetlink(7)), before the attributes.
const HEADER_LENGTH: usize = 8;
/// linux/if_addr.h: the address itself, where its other end is told apart from it, else IFA_ADDRESS.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

impl Route {
    /// All of the namespace: index of the interface, address, bits of its network.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpAddr, u8)>, NetlinkError> {
        let everything = AddressMessage::default();
        let (all, _) = self.wire.list(libc::RTM_GETADDR, NLM_F_DUMP, &everything, libc::RTM_NEWADDR, parse)?;
        Ok(all.into_iter().flatten().collect())
    }
}

/// None for another family than IP.
fn parse(payload: &[u8]) -> Result<Option<(u32, IpAddr, u8)>, NetlinkError> {
    let (header, attributes) = payload.split_first_chunk::<HEADER_LENGTH>().ok_or(NetlinkError::Malformed)?;
    let [_family, bits, _flags, _scope, index @ ..] = *header;
    let address = match find(attributes, IFA_LOCAL)? {
        Some(local) => Some(local),
        None => find(attributes, IFA_ADDRESS)?,
    };
    let address = address.and_then(|bytes| match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
        16 => bytes.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
        _ => None,
    });
    Ok(address.map(|address| (u32::from_ne_bytes(index), address, bits)))
}
