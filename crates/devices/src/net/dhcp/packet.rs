//! The bytes of DHCP and BOOTP in an Ethernet frame (RFC 951, 2131, 2132): a request in, a reply out. Pure.
//!
//! A frame is read as a whole and only as far as it says and is; whatever is odd about it makes it no request of ours.

use std::net::Ipv4Addr;

use super::Lease;

/// Bytes of a frame that may be a request (openbsd/devices.md, 4.8): BOOTP's 300 with an Ethernet header, up to the
/// link's.
pub const FRAMES: std::ops::RangeInclusive<usize> = 314..=1514;
/// Bytes of BOOTP up to its options (RFC 951).
const BOOTP: usize = 236;
/// Bytes that a BOOTP message has at least (RFC 1542, 2.1).
const LEAST_BOOTP: usize = 300;
const ETHERNET: usize = 14;
const IP: usize = 20;
const UDP: usize = 8;

const IPV4: [u8; 2] = [0x08, 0x00];
const UDP_PROTOCOL: u8 = 17;
const SERVER: u16 = 67;
const CLIENT: u16 = 68;
/// What options begin with (RFC 2131, 3).
const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
/// Infinite (RFC 2131, 3.3).
const LEASE_SECONDS: [u8; 4] = [0xff; 4];
/// A pair of addresses is the whole network.
const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 254);
/// As OpenBSD's answers: low delay, and few hops.
const TOS: u8 = 0x10;
const TTL: u8 = 16;

mod option {
    pub const PAD: u8 = 0;
    pub const MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const ADDRESS: u8 = 50;
    pub const LEASE: u8 = 51;
    pub const KIND: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const END: u8 = 255;
}

/// What a guest asked. Without a kind it is BOOTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Transaction id.
    pub xid: [u8; 4],
    /// The address that the guest has already, where it says so.
    pub has: Option<Ipv4Addr>,
    /// DHCP message type (option 53).
    pub kind: Option<u8>,
    /// The address that it wants (option 50).
    pub wants: Option<Ipv4Addr>,
    /// The server that it means (option 54).
    pub server: Option<Ipv4Addr>,
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// BOOTP's only one.
    Bootp,
    /// The address, to be asked for.
    Offer,
    /// The address.
    Ack,
    /// The rest, for one that has its address.
    Inform,
    /// Not that address.
    Nak,
}

/// Reads a frame that the guest sends. `checksum`: its UDP checksum is there, not left to us.
pub fn parse(frame: &[u8], lease: &Lease, checksum: bool) -> Option<Request> {
    if !FRAMES.contains(&frame.len()) {
        return None;
    }
    let (ethernet, packet) = frame.split_first_chunk::<ETHERNET>()?;
    let [to @ .., _, _, _, _, _, _, _, _] = ethernet;
    let [_, _, _, _, _, _, from @ .., t0, t1] = ethernet;
    if *from != lease.mac || (*to != [0xff; 6] && *to != lease.host_mac) || [*t0, *t1] != IPV4 {
        return None;
    }
    bootp(udp(packet, checksum)?, lease)
}

/// What a whole, right UDP datagram from the client's port to the server's carries.
fn udp(packet: &[u8], checksum: bool) -> Option<&[u8]> {
    let header = packet.first_chunk::<IP>()?;
    let [version_ihl, _, l0, l1, _, _, f0, f1, ttl, protocol, _, _, addresses @ ..] = header;
    let header_length = usize::from(version_ihl & 0x0f).checked_mul(4)?;
    let whole = packet.get(..usize::from(u16::from_be_bytes([*l0, *l1])))?;
    let (header, datagram) = whole.split_at_checked(header_length)?;
    // MF or an offset is a fragment; the reserved bit and DF are not looked at.
    let fragment = u16::from_be_bytes([*f0, *f1]) & 0x3fff != 0;
    let ours = version_ihl >> 4 == 4 && header_length >= IP && *protocol == UDP_PROTOCOL && *ttl > 0 && !fragment;
    if !ours || sum(&[header]) != 0xffff {
        return None;
    }
    let [s0, s1, d0, d1, l0, l1, c0, c1] = datagram.first_chunk::<UDP>()?;
    let length = u16::from_be_bytes([*l0, *l1]);
    let datagram = datagram.get(..usize::from(length))?;
    if u16::from_be_bytes([*s0, *s1]) != CLIENT || u16::from_be_bytes([*d0, *d1]) != SERVER {
        return None;
    }
    let summed = checksum && [*c0, *c1] != [0, 0];
    let pseudo = [0, UDP_PROTOCOL];
    if summed && sum(&[addresses, &pseudo, &length.to_be_bytes(), datagram]) != 0xffff {
        return None;
    }
    datagram.get(UDP..)
}

fn bootp(message: &[u8], lease: &Lease) -> Option<Request> {
    let (fixed, options) = message.split_first_chunk::<BOOTP>()?;
    let [op, htype, hlen, hops, rest @ ..] = fixed;
    let (xid, rest) = rest.split_first_chunk::<4>()?;
    let (_secs_flags, rest) = rest.split_first_chunk::<4>()?;
    let (ciaddr, rest) = rest.split_first_chunk::<4>()?;
    let (_yiaddr_siaddr, rest) = rest.split_first_chunk::<8>()?;
    let (giaddr, rest) = rest.split_first_chunk::<4>()?;
    let (chaddr, rest) = rest.split_first_chunk::<16>()?;
    let file = rest.get(64)?;
    if [*op, *htype, *hlen, *hops, *file] != [1, 1, 6, 0, 0] || *giaddr != [0; 4] || !chaddr.starts_with(&lease.mac) {
        return None;
    }
    let has = Some(Ipv4Addr::from(*ciaddr)).filter(|address| !address.is_unspecified());
    if has.is_some_and(|address| address != lease.address) {
        return None;
    }
    let mut request = Request { xid: *xid, has, kind: None, wants: None, server: None };
    if let Some(options) = options.strip_prefix(&COOKIE) {
        request.learn(options);
    }
    Some(request)
}

impl Request {
    /// Reads options up to the end or the first that runs past it; of each the first with its right length counts.
    fn learn(&mut self, mut options: &[u8]) {
        while let Some((&code, rest)) = options.split_first() {
            options = rest;
            match code {
                option::PAD => continue,
                option::END => return,
                _ => {}
            }
            let Some((&length, rest)) = options.split_first() else { return };
            let Some((value, rest)) = rest.split_at_checked(usize::from(length)) else { return };
            options = rest;
            let address = || <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
            match (code, value) {
                (option::KIND, [kind]) => self.kind = self.kind.or(Some(*kind)),
                (option::ADDRESS, _) => self.wants = self.wants.or_else(address),
                (option::SERVER, _) => self.server = self.server.or_else(address),
                _ => {}
            }
        }
    }
}

/// The frame of an answer.
pub fn emit(answer: Answer, xid: [u8; 4], lease: &Lease) -> Vec<u8> {
    let message = message(answer, xid, lease);
    let datagram = datagram(&message, lease);
    let mut packet = vec![0x45, TOS];
    packet.extend(length(IP.saturating_add(datagram.len())));
    packet.extend([0, 0, 0, 0, TTL, UDP_PROTOCOL, 0, 0]);
    packet.extend(lease.host.octets());
    packet.extend(lease.address.octets());
    let checksum = !sum(&[&packet]);
    put(&mut packet, 10, checksum);
    packet.extend(datagram);
    let [rest @ .., last] = lease.mac;
    let mut frame = lease.mac.to_vec();
    frame.extend(rest);
    frame.push(last.wrapping_add(1));
    frame.extend(IPV4);
    frame.extend(packet);
    frame
}

fn datagram(message: &[u8], lease: &Lease) -> Vec<u8> {
    let bytes = length(UDP.saturating_add(message.len()));
    let mut datagram = [SERVER.to_be_bytes(), CLIENT.to_be_bytes(), bytes, [0, 0]].concat();
    datagram.extend(message);
    let pseudo = [0, UDP_PROTOCOL];
    let checksum = !sum(&[&lease.host.octets(), &lease.address.octets(), &pseudo, &bytes, &datagram]);
    put(&mut datagram, 6, if checksum == 0 { 0xffff } else { checksum }); // 0 means none (RFC 768)
    datagram
}

fn message(answer: Answer, xid: [u8; 4], lease: &Lease) -> Vec<u8> {
    let given = match answer {
        Answer::Bootp | Answer::Offer | Answer::Ack => lease.address,
        Answer::Inform | Answer::Nak => Ipv4Addr::UNSPECIFIED,
    };
    let next = if answer == Answer::Nak { Ipv4Addr::UNSPECIFIED } else { lease.host };
    let mut bytes = vec![2, 1, 6, 0];
    bytes.extend(xid);
    bytes.extend([0; 8]); // secs, flags, ciaddr
    bytes.extend(given.octets());
    bytes.extend(next.octets());
    bytes.extend([0; 4]);
    bytes.extend(lease.mac);
    bytes.resize(BOOTP.saturating_sub(128), 0); // chaddr's rest, sname
    if lease.net_boot && answer != Answer::Nak {
        bytes.extend(b"auto_install");
    }
    bytes.resize(BOOTP, 0);
    bytes.extend(COOKIE);
    options(&mut bytes, answer, lease);
    bytes.resize(bytes.len().max(LEAST_BOOTP), 0);
    bytes
}

fn options(bytes: &mut Vec<u8>, answer: Answer, lease: &Lease) {
    let host = lease.host.octets();
    let kind = match answer {
        Answer::Bootp => None,
        Answer::Offer => Some(2),
        Answer::Ack | Answer::Inform => Some(5),
        Answer::Nak => Some(6),
    };
    if let Some(kind) = kind {
        add(bytes, option::KIND, &[kind]);
    }
    if matches!(answer, Answer::Offer | Answer::Ack) {
        add(bytes, option::LEASE, &LEASE_SECONDS);
    }
    if kind.is_some() {
        add(bytes, option::SERVER, &host);
    }
    if answer != Answer::Nak {
        add(bytes, option::MASK, &MASK.octets());
        add(bytes, option::ROUTER, &host);
        let servers: Vec<u8> = lease.name_servers.iter().flat_map(Ipv4Addr::octets).collect();
        add(bytes, option::DNS, if servers.is_empty() { &host } else { &servers });
        if let Some(name) = &lease.name {
            add(bytes, option::HOST_NAME, name.as_bytes());
        }
    }
    bytes.push(option::END);
}

/// An option of at most 255 bytes; a longer one is left out.
fn add(bytes: &mut Vec<u8>, code: u8, value: &[u8]) {
    if let Ok(length) = u8::try_from(value.len()) {
        bytes.extend([code, length]);
        bytes.extend(value);
    }
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) {
        *place = value.to_be_bytes();
    }
}

/// The ones' complement sum of 16-bit words (RFC 1071); all parts but the last are of even length.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for word in part.chunks(2) {
            let word = [word.first().copied().unwrap_or(0), word.get(1).copied().unwrap_or(0)];
            sum = sum.saturating_add(u64::from(u16::from_be_bytes(word)));
        }
    }
    while let high @ 1.. = sum >> 16 {
        sum = (sum & 0xffff).saturating_add(high);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}
