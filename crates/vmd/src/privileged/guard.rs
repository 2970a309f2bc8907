//! How much a guest can have the host learn of it: an nftables table for each tap, which looks at what comes from the guest
//! before any bridge does. Pure.
//!
//! ```text
//! Ethernet source -------------------------> one of MAX_MACS of its own, else dropped: a bridge learns each
//! ARP of a local interface ----------------> in the name of the guest's address, or of none, else dropped
//! ARP of another, IPv6 of neighbours ------> one of MAX_SENDERS of its own, else dropped: the host learns each
//! ```
//!
//! What a guest no longer uses makes room for another after KEEP. A table goes with a later tap, or at the end.

use std::net::Ipv4Addr;
use std::time::Duration;

use model::IfName;
use proto::privileged::{LocalEnd, MARK};
use sys::netlink::Link;
use sys::netlink::nft::{Chain, Expr, Fact, Hook, Key, Listed, NETDEV, Set, Table};

/// Ethernet addresses that a guest can send from: those of its own guests and containers too.
pub const MAX_MACS: u32 = 256;
/// Addresses of IPv4, and of IPv6, that it can have the host's neighbour table learn. That has room for 1024 of each
/// (arp(7), gc_thresh3), and drops what is older than five seconds when it is full.
pub const MAX_SENDERS: u32 = 64;
/// For how long an address counts, from its last frame: a bridge keeps one as long.
const KEEP: Duration = Duration::from_secs(300);
/// Before what others do with the frames.
const FIRST: i32 = -500;

const MACS: &str = "macs";
const INET: &str = "senders";
const INET6: &str = "senders6";
const OWN: &str = "own";
/// EtherTypes.
const ARP: [u8; 2] = [8, 6];
const IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
/// The first of ICMPv6's messages that hosts of one link say to each other (RFC 4861, 4.1 to 4.5; RFC 3810).
const SOLICITATION: u8 = 133;
/// Where a packet has its sender: ARP's protocol address, and IPv6's source.
const ARP_SENDER: Fact = Fact::Network(14, 4);
const SOURCE: Fact = Fact::Network(8, 16);

/// The table of a tap.
pub fn table(tap: &IfName, local: Option<&LocalEnd>) -> Table {
    let set = |name, key, size| Set { name, key, size, time: KEEP };
    let chain = |name: &str, base, rules| Chain { name: name.to_owned(), base, rules };
    let source = Expr::Load(Fact::Link(6, 6));
    let first = vec![vec![source, Expr::Remember(MACS), Expr::Goto(OWN)], vec![Expr::Drop]];
    Table {
        name: name(tap.as_str()),
        device: Some(tap.as_str().to_owned()),
        owned: true,
        sets: vec![
            set(MACS, Key::Ethernet, MAX_MACS),
            set(INET, Key::Inet, MAX_SENDERS),
            set(INET6, Key::Inet6, MAX_SENDERS),
        ],
        chains: vec![
            chain(OWN, None, [arp(local), inet6(local)].concat()),
            chain("from", Some((Hook::Ingress, "filter", FIRST)), first),
        ],
    }
}

fn arp(local: Option<&LocalEnd>) -> Vec<Vec<Expr>> {
    let is_arp = vec![Expr::Load(Fact::EtherType), Expr::Is(ARP.to_vec())];
    let of = |then: Vec<Expr>| [is_arp.clone(), then].concat();
    let from = |sender: Ipv4Addr| of(vec![Expr::Load(ARP_SENDER), Expr::Is(sender.octets().to_vec()), Expr::Accept]);
    let mut rules = match local {
        // The other of the pair; and a guest that asks whether an address is free has none.
        Some(local) => vec![from(Ipv4Addr::from_bits(local.inet.to_bits() ^ 1)), from(Ipv4Addr::UNSPECIFIED)],
        None => vec![of(vec![Expr::Load(ARP_SENDER), Expr::Remember(INET), Expr::Accept])],
    };
    rules.push(of(vec![Expr::Drop]));
    rules
}

/// What has the host ask who is there, or tells it: the local addresses, what the hosts of a link say to each other, and
/// the network of a local interface.
fn inet6(local: Option<&LocalEnd>) -> Vec<Vec<Expr>> {
    let begins = |bytes: &[u8]| {
        let length = u32::try_from(bytes.len()).unwrap_or(0);
        vec![Expr::Load(Fact::Network(8, length)), Expr::Is(bytes.to_vec())]
    };
    let neighbours = vec![
        Expr::Load(Fact::Protocol),
        Expr::Is(vec![ICMPV6]),
        Expr::Load(Fact::Transport(0, 1)),
        Expr::AtLeast(vec![SOLICITATION]),
    ];
    let network = local
        .and_then(|local| local.inet6)
        .map(|inet6| begins(inet6.octets().first_chunk::<12>().map_or(&[], |net| net)));
    let learnt = [Some(begins(&[0xfe, 0x80, 0, 0, 0, 0, 0, 0])), Some(neighbours), network];
    let is_inet6 = vec![Expr::Load(Fact::EtherType), Expr::Is(IPV6.to_vec())];
    let rules = learnt.into_iter().flatten().flat_map(|which| {
        let of = |then: Vec<Expr>| [is_inet6.clone(), which.clone(), then].concat();
        // A neighbour's message from a local address is looked at twice, and counts once.
        [of(vec![Expr::Load(SOURCE), Expr::Remember(INET6), Expr::Accept]), of(vec![Expr::Drop])]
    });
    rules.collect()
}

/// The names of tables of taps that are gone.
pub fn left<'a>(chains: &'a [Listed], links: &[Link]) -> Vec<&'a str> {
    let ours =
        chains.iter().filter(|chain| chain.family == NETDEV && chain.name == OWN && chain.table.starts_with(MARK));
    let gone = |table: &&str| !links.iter().any(|link| name(&link.name) == **table);
    ours.map(|chain| chain.table.as_str()).filter(gone).collect()
}

fn name(tap: &str) -> String {
    format!("{MARK}{tap}")
}
