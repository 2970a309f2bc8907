//! `as-server INTERFACE IPV4`: in a guest, says by that interface what DHCP servers and routers say, and what their clients do:
//! UDP from port 67 to 68 and back to the address, a router advertisement and a solicitation to all nodes.
#![forbid(unsafe_code)]

use std::error::Error;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket};

use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

/// Kind and length of the message (RFC 4861, 4.1 and 4.2).
const ROUTER_ADVERTISEMENT: (u8, usize) = (134, 16);
const ROUTER_SOLICITATION: (u8, usize) = (133, 8);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, interface, address] = arguments.as_slice() else { return Err("usage: as-server INTERFACE IPV4".into()) };
    let address: Ipv4Addr = address.parse()?;
    for (from, to) in [(67, 68), (68, 67)] {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, from))?.send_to(&[0; 300], (address, to))?;
    }
    let index = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex"))?.trim().parse()?;
    let all_nodes = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
    let raw = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6))?;
    for (kind, length) in [ROUTER_ADVERTISEMENT, ROUTER_SOLICITATION] {
        let mut message = vec![0; length]; // the kernel fills in its checksum
        message[0] = kind;
        sendto(&raw, &message, SendFlags::empty(), &all_nodes)?;
    }
    Ok(())
}
