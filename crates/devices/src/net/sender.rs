//! What a frame says behind its Ethernet header. Of a locked card: the link-layer addresses that ARP (RFC 826), RARP and
//! neighbour discovery (RFC 4861) have others learn. Of a guarded card: whether a DHCP server or a router sends such. Pure:
//! it sees a copy that the guest can't change any more.
//!
//! ```text
//! front of the frame: other protocol -------------------> fine
//!                     ARP -----------------------------> its sender is the card
//!                     IPv4, IPv6 with UDP or ICMP -----> no server's, no router's
//!                     IPv6, with what may be ICMPv6 ----> the whole: each link-layer address in it is the card's
//! ```
//!
//! What no receiver takes (cut short, or neighbour discovery in fragments, RFC 6980) is dropped, and what hides behind a
//! chain of headers that goes on in a later fragment (RFC 7112, 7113). So is a frame whose checksum, which the host fills
//! in, would change what was looked at.

use super::Card;
use super::frame::{Drop, ETHERNET, may_send};

/// Bytes that are looked at first: with two VLAN tags, an IPv6 header and the ports of UDP.
pub const FRONT: usize = ETHERNET + 2 * 4 + INET6 + 4;

/// The EtherTypes that matter (IANA ieee-802-numbers).
const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// VLAN tags: what they carry follows in the same way.
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
/// The least EtherType; what is less is a length (IEEE 802.3), behind which there may be one all the same (RFC 1042).
const LEAST: u16 = 0x600;
const SNAP: [u8; 6] = [0xaa, 0xaa, 3, 0, 0, 0];

/// Protocol numbers that lead to another header (RFC 8200, 7045), each with its length in the second byte.
const EXTENSIONS: [u8; 6] = [0, 43, 60, 135, 139, 140];
const AUTHENTICATION: u8 = 51;
const FRAGMENT: u8 = 44;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const UDP: u8 = 17;
/// Bytes of an IPv6 header, and of the shortest of IPv4.
const INET6: usize = 40;
const INET: usize = 20;
/// Options of neighbour discovery: source and target link-layer address.
const ADDRESSES: [u8; 2] = [1, 2];
/// What routers alone send: redirection and advertisement, of ICMP (RFC 792, 1256) and of ICMPv6 (RFC 4861).
const ROUTERS: [u8; 2] = [5, 9];
const ROUTERS6: [u8; 2] = [137, 134];
/// The ports of UDP that servers and relays send from, and that clients listen on: DHCP (RFC 2131), DHCPv6 (RFC 8415).
/// Clients look at their own alone.
const DHCP: [u16; 2] = [67, 68];
const DHCPV6: [u16; 2] = [547, 546];

/// Why there is no verdict that it is fine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Not {
    /// The rest decides.
    Seen,
    /// It is dropped.
    Fine(Drop),
}

/// The front of a frame, or the whole.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// At least an Ethernet header.
    pub bytes: &'a [u8],
    /// Whether that is all of it.
    pub whole: bool,
    /// Where the host writes the two bytes of a checksum.
    pub written: Option<usize>,
}

impl Frame<'_> {
    /// Whether the card may send it. False: the whole has to be seen.
    pub fn is_fine(self, card: Card) -> Result<bool, Drop> {
        match self.check(card) {
            Ok(()) => Ok(true),
            Err(Not::Seen) => Ok(false),
            Err(Not::Fine(why)) => Err(why),
        }
    }

    fn at<const N: usize>(self, at: usize) -> Result<[u8; N], Not> {
        if self.written.is_some_and(|written| written < after(at, N) && at < after(written, 2)) {
            return Err(Not::Fine(Drop::Offload));
        }
        let missing = if self.whole { Not::Fine(Drop::Cut) } else { Not::Seen };
        self.bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(missing)
    }

    fn check(self, card: Card) -> Result<(), Not> {
        let ethernet = self.at(0)?;
        if card.locked {
            may_send(&ethernet, &card.mac).map_err(Not::Fine)?;
        }
        match self.protocol()? {
            (ARP | RARP, at) if card.locked => {
                let [_, _, _, _, length, _, _, _, sender @ ..] = self.at::<14>(at)?;
                only(length == 6 && sender == card.mac, Drop::Sender)
            }
            (IPV4, at) if card.guarded => self.inet(at),
            (IPV6, at) => self.inet6(at, card),
            _ => Ok(()),
        }
    }

    /// The EtherType of what the frame carries, and where that begins.
    fn protocol(self) -> Result<(u16, usize), Not> {
        let mut at = ETHERNET - 2;
        loop {
            let kind = u16::from_be_bytes(self.at(at)?);
            at = after(at, 2);
            match kind {
                tag if TAGS.contains(&tag) => at = after(at, 2),
                length if length < LEAST => match self.at::<6>(at) {
                    Ok(SNAP) => at = after(at, SNAP.len()),
                    Err(not @ (Not::Seen | Not::Fine(Drop::Offload))) => return Err(not),
                    _ => return Ok((length, at)),
                },
                kind => return Ok((kind, at)),
            }
        }
    }

    /// As much of it as belongs to the packet that ends there: what lies behind that is padding, and nobody reads it.
    fn until(self, end: usize) -> Self {
        let bytes = self.bytes.get(..end).unwrap_or(self.bytes);
        Self { bytes, whole: self.whole || end <= self.bytes.len(), ..self }
    }

    /// A packet of a guarded card.
    fn inet(self, at: usize) -> Result<(), Not> {
        let [first, _, high, low, _, _, offset @ .., _, next] = self.at::<10>(at)?;
        if u16::from_be_bytes(offset) & 0x1fff != 0 {
            return Ok(()); // not the first fragment, without which nobody takes it
        }
        let length = usize::from(first & 0xf).saturating_mul(4);
        only(length >= INET, Drop::Cut)?;
        let packet = self.until(after(at, usize::from(u16::from_be_bytes([high, low]))));
        let at = after(at, length);
        match next {
            UDP => packet.udp(at, DHCP),
            ICMP => packet.at(at).and_then(|[kind]| only(!ROUTERS.contains(&kind), Drop::Server)),
            _ => Ok(()),
        }
    }

    fn inet6(self, at: usize, card: Card) -> Result<(), Not> {
        let [_, _, _, _, high, low, mut next, _] = self.at(at)?;
        let mut at = after(at, INET6);
        let packet = self.until(after(at, usize::from(u16::from_be_bytes([high, low]))));
        let mut fragment = false;
        loop {
            let length = match next {
                ICMPV6 => return packet.icmp(at, fragment, card),
                UDP if card.guarded => return packet.udp(at, DHCPV6),
                FRAGMENT => {
                    let [_, _, high, low] = packet.at(at)?;
                    if u16::from_be_bytes([high, low]) >> 3 != 0 {
                        return Ok(()); // as in IPv4
                    }
                    fragment = true;
                    8
                }
                AUTHENTICATION => after(usize::from(packet.at::<2>(at)?[1]), 2).saturating_mul(4),
                extension if EXTENSIONS.contains(&extension) => {
                    after(usize::from(packet.at::<2>(at)?[1]), 1).saturating_mul(8)
                }
                _ => return Ok(()),
            };
            [next] = packet.at(at)?;
            at = after(at, length);
        }
    }

    fn udp(self, at: usize, [server, client]: [u16; 2]) -> Result<(), Not> {
        let [from @ .., high, low] = self.at::<4>(at)?;
        let is_servers = u16::from_be_bytes(from) == server || u16::from_be_bytes([high, low]) == client;
        only(!is_servers, Drop::Server)
    }

    fn icmp(self, at: usize, fragment: bool, card: Card) -> Result<(), Not> {
        let [kind] = self.at(at)?;
        only(!card.guarded || !ROUTERS6.contains(&kind), Drop::Server)?;
        // Solicitation and advertisement of routers, of neighbours, redirection; and the inverse ones (RFC 3122).
        let fixed = match kind {
            _ if !card.locked => return Ok(()),
            133 | 141 | 142 => 8,
            134 => 16,
            135 | 136 => 24,
            137 => 40,
            _ => return Ok(()),
        };
        if !self.whole {
            return Err(Not::Seen);
        }
        only(!fragment, Drop::Sender)?;
        let mut at = after(at, fixed);
        while at != self.bytes.len() {
            let [option, length] = self.at(at)?;
            only(length != 0, Drop::Sender)?;
            if ADDRESSES.contains(&option) {
                only(length == 1 && self.at::<6>(after(at, 2))? == card.mac, Drop::Sender)?;
            }
            at = after(at, usize::from(length).saturating_mul(8));
        }
        Ok(())
    }
}

fn after(at: usize, count: usize) -> usize {
    at.saturating_add(count)
}

fn only(fine: bool, else_drop: Drop) -> Result<(), Not> {
    if fine { Ok(()) } else { Err(Not::Fine(else_drop)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: [u8; 6] = [0xfe, 0xe1, 0xbb, 0xd1, 2, 3];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
        [&[0xff; 6][..], &MAC, &kind.to_be_bytes(), payload].concat()
    }

    fn arp(sender: [u8; 6]) -> Vec<u8> {
        [&[0, 1, 8, 0, 6, 4, 0, 2][..], &sender, &[10, 0, 0, 1], &OTHER, &[10, 0, 0, 2]].concat()
    }

    /// An IPv6 packet of these headers and what follows; `next` is the protocol of the first.
    fn inet6(next: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u16).to_be_bytes();
        [&[0x60, 0, 0, 0][..], &length, &[next, 255], &[0xfe; 32], payload].concat()
    }

    fn option(kind: u8, mac: [u8; 6]) -> Vec<u8> {
        [&[kind, 1][..], &mac].concat()
    }

    fn nd(kind: u8, options: &[Vec<u8>]) -> Vec<u8> {
        let fixed = match kind {
            133 | 141 | 142 => 8,
            134 => 16,
            137 => 40,
            _ => 24,
        };
        let mut bytes = vec![0; fixed];
        bytes[0] = kind;
        bytes.extend(options.concat());
        bytes
    }

    const LOCKED: Card = Card { mac: MAC, locked: true, guarded: false };
    const GUARDED: Card = Card { mac: MAC, locked: false, guarded: true };

    /// As the card looks at it: the front, then all of it.
    fn judged(card: Card, bytes: &[u8], written: Option<usize>) -> Result<(), Drop> {
        let front = FRONT.min(bytes.len());
        let seen = Frame { bytes: &bytes[..front], whole: front == bytes.len(), written }.is_fine(card);
        let whole = Frame { bytes, whole: true, written }.is_fine(card);
        assert_ne!(whole, Ok(false), "the whole is enough");
        assert!(seen == whole || seen == Ok(false), "the front decides nothing that the whole does not: {bytes:x?}");
        whole.map(|_| ())
    }

    fn passes(frame: &[u8]) -> bool {
        judged(LOCKED, frame, None).is_ok()
    }

    /// Of a guarded card; nothing but that is a reason that it is locked too.
    fn is_servers(frame: &[u8]) -> bool {
        let guarded = judged(GUARDED, frame, None);
        if guarded.is_err() {
            assert!(judged(Card { locked: true, ..GUARDED }, frame, None).is_err(), "{frame:x?}");
        }
        assert!(matches!(guarded, Ok(()) | Err(Drop::Server | Drop::Cut)), "{guarded:?}: {frame:x?}");
        guarded.is_err()
    }

    #[test]
    fn arp_names_the_cards_address_behind_tags_too() {
        for (sender, fine) in [(MAC, true), (OTHER, false), ([0; 6], false), ([0xff; 6], false)] {
            for kind in [ARP, RARP] {
                let plain = ethernet(kind, &arp(sender));
                let mut padded = plain.clone();
                padded.resize(60, 0);
                let mut tagged = plain.clone();
                for tag in [&[0x81, 0, 0, 5][..], &[0x88, 0xa8, 0, 6], &[0x91, 0, 0, 7]].repeat(4) {
                    tagged.splice(12..12, tag.iter().copied());
                }
                let snap = [&plain[..12], &[0, 36], &SNAP, &plain[12..]].concat();
                for frame in [plain, padded, tagged, snap] {
                    assert_eq!(passes(&frame), fine, "{frame:x?}");
                }
            }
        }
        let of_eight = [&[0, 1, 8, 0, 8, 4, 0, 2][..], &MAC, &[0; 18]].concat();
        assert!(!passes(&ethernet(ARP, &of_eight)), "an address of another length");
        assert!(!passes(&ethernet(ARP, &arp(MAC)[..13])), "cut short");
    }

    #[test]
    fn each_link_layer_address_of_neighbour_discovery_is_the_cards() {
        for kind in [133, 134, 135, 136, 137, 141, 142] {
            assert!(passes(&ethernet(IPV6, &inet6(ICMPV6, &nd(kind, &[])))), "{kind}: none");
            for name in ADDRESSES {
                let of = |options: &[Vec<u8>]| passes(&ethernet(IPV6, &inet6(ICMPV6, &nd(kind, options))));
                let (own, other, mtu) = (option(name, MAC), option(name, OTHER), option(5, OTHER));
                assert!(of(std::slice::from_ref(&own)) && of(&[mtu.clone(), own.clone()]), "{kind}");
                assert!(
                    !of(std::slice::from_ref(&other))
                        && !of(&[own.clone(), other.clone()])
                        && !of(&[mtu.clone(), other]),
                    "{kind}"
                );
                let mut long = [own.clone(), vec![0; 8]].concat();
                long[1] = 2;
                assert!(
                    !of(&[long]) && !of(&[vec![name, 0]]) && !of(&[vec![name, 1, 0xfe]]) && !of(&[vec![14]]),
                    "{kind}"
                );
            }
        }
        for other in [1, 128, 129, 130, 143] {
            assert!(passes(&ethernet(IPV6, &inet6(ICMPV6, &nd(other, &[option(2, OTHER)])))), "{other}");
        }
    }

    #[test]
    fn no_header_before_it_hides_neighbour_discovery() {
        let message = |mac| nd(136, &[option(2, mac)]);
        for (mac, fine) in [(MAC, true), (OTHER, false)] {
            for extension in EXTENSIONS {
                let once = [&[ICMPV6, 0][..], &[0; 6], &message(mac)].concat();
                assert_eq!(passes(&ethernet(IPV6, &inet6(extension, &once))), fine, "{extension}");
                let long = [&[AUTHENTICATION, 31][..], &[0; 254], &[ICMPV6, 4], &[0; 22], &message(mac)].concat();
                assert_eq!(passes(&ethernet(IPV6, &inet6(extension, &long))), fine, "{extension}");
            }
            let mut padded = ethernet(IPV6, &inet6(ICMPV6, &message(mac)));
            padded.extend([2, 1, 9, 9, 9, 9, 9, 9]);
            assert_eq!(passes(&padded), fine, "what lies behind the packet is nobody's");
        }
    }

    #[test]
    fn neighbour_discovery_in_fragments_is_dropped_and_others_are_not() {
        let fragment = |offset: u16, next, payload: &[u8]| {
            let field = (offset << 3 | 1).to_be_bytes();
            ethernet(IPV6, &inet6(FRAGMENT, &[&[next, 0][..], &field, &[0; 4], payload].concat()))
        };
        assert!(!passes(&fragment(0, ICMPV6, &nd(136, &[option(2, MAC)]))));
        assert!(
            !passes(&fragment(0, 60, &[ICMPV6, 0, 1, 4, 0, 0, 0, 0])),
            "the rest of which would come in the second"
        );
        assert!(passes(&fragment(0, ICMPV6, &[128; 16])) && passes(&fragment(0, 17, &[9; 16])));
        assert!(
            passes(&fragment(1, ICMPV6, &nd(136, &[option(2, OTHER)]))),
            "no receiver takes a later fragment alone"
        );
    }

    #[test]
    fn of_most_packets_the_front_is_enough() {
        let both = Card { locked: true, ..GUARDED };
        let large = [0x42; 1400];
        for frame in [
            inet(6, 0, &large),
            inet(UDP, 0, &large),
            ethernet(IPV6, &inet6(6, &large)),
            tagged(ethernet(IPV6, &inet6(UDP, &large)), 2),
            ethernet(38, &large),
        ] {
            let front = Frame { bytes: &frame[..FRONT], whole: false, written: None };
            assert_eq!(front.is_fine(both), Ok(true), "{front:x?}");
        }
    }

    /// An IPv4 packet, or a fragment of one at so many bytes, of which more follow.
    fn inet(next: u8, offset: u16, payload: &[u8]) -> Vec<u8> {
        let length = (20 + payload.len() as u16).to_be_bytes();
        let field = ((offset / 8) | 0x2000).to_be_bytes();
        ethernet(IPV4, &[&[0x45, 0][..], &length, &[0, 0], &field, &[64, next, 0, 0], &[9; 8], payload].concat())
    }

    fn udp(from: u16, to: u16) -> Vec<u8> {
        [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 60, 0, 0], &[2; 52]].concat()
    }

    fn tagged(mut frame: Vec<u8>, tags: usize) -> Vec<u8> {
        for tag in [[0x81, 0, 0, 5], [0x88, 0xa8, 0, 6], [0x91, 0, 0, 7]].iter().cycle().take(tags) {
            frame.splice(12..12, *tag);
        }
        frame
    }

    /// However an Ethernet frame can carry it.
    fn carried(frame: Vec<u8>) -> [Vec<u8>; 4] {
        let snap = [&frame[..12], &[0, 36], &SNAP, &frame[12..]].concat();
        let mut padded = frame.clone();
        padded.extend([0; 40]);
        [tagged(frame.clone(), 1), tagged(frame, 5), snap, padded]
    }

    #[test]
    fn a_guarded_guest_is_no_dhcp_server_whatever_ports_the_other_end_of_it_has() {
        for (from, to, servers) in [
            (67, 68, true),
            (67, 67, true),
            (67, 9, true),
            (4011, 68, true),
            (1, 68, true),
            (68, 67, false),
            (5353, 5353, false),
            (547, 546, false),
        ] {
            for frame in carried(inet(UDP, 0, &udp(from, to))) {
                assert_eq!(is_servers(&frame), servers, "{from} to {to}: {frame:x?}");
            }
            let mut options = inet(UDP, 0, &[[1; 40].to_vec(), udp(from, to)].concat());
            options[14] = 0x4f;
            assert_eq!(is_servers(&options), servers, "behind all options");
        }
        for (from, to, servers) in
            [(547, 546, true), (547, 547, true), (1, 546, true), (546, 547, false), (67, 68, false)]
        {
            let datagram = udp(from, to);
            for frame in carried(ethernet(IPV6, &inet6(UDP, &datagram))) {
                assert_eq!(is_servers(&frame), servers, "{from} to {to}: {frame:x?}");
            }
            let behind = [&[60, 0][..], &[0; 6], &[UDP, 1], &[0; 14], &datagram].concat();
            assert_eq!(is_servers(&ethernet(IPV6, &inet6(0, &behind))), servers);
        }
        assert_eq!(judged(LOCKED, &inet(UDP, 0, &udp(67, 68)), None), Ok(()), "of a guarded card alone");
    }

    #[test]
    fn a_guarded_guest_is_no_router() {
        for kind in 0..=255 {
            let message = [&[kind][..], &[0; 39]].concat();
            for frame in carried(inet(ICMP, 0, &message)) {
                assert_eq!(is_servers(&frame), kind == 9 || kind == 5, "{kind}");
            }
            let message = nd(kind, &[option(1, MAC)]);
            for frame in carried(ethernet(IPV6, &inet6(ICMPV6, &message))) {
                assert_eq!(is_servers(&frame), kind == 134 || kind == 137, "{kind}");
            }
        }
        let advertisement = ethernet(IPV6, &inet6(ICMPV6, &nd(134, &[option(1, MAC)])));
        assert_eq!(judged(LOCKED, &advertisement, None), Ok(()), "of a guarded card alone");
    }

    #[test]
    fn no_fragment_and_no_extension_hides_a_server_or_a_router() {
        let fragment = |offset: u16, next, payload: &[u8]| {
            let field = (offset << 3 | 1).to_be_bytes();
            ethernet(IPV6, &inet6(FRAGMENT, &[&[next, 0][..], &field, &[0; 4], payload].concat()))
        };
        for (next, payload) in [(ICMPV6, nd(134, &[])), (UDP, udp(547, 546))] {
            for extension in EXTENSIONS {
                let behind = [&[next, 0][..], &[0; 6], &payload].concat();
                assert!(is_servers(&ethernet(IPV6, &inet6(extension, &behind))), "{extension}");
                assert!(is_servers(&fragment(0, extension, &behind)), "{extension} in a first fragment");
                // Its rest, and what follows it, would come in the second (RFC 7112, RFC 7113).
                for length in 0..9 {
                    assert!(is_servers(&fragment(0, extension, &behind[..length])), "{extension}");
                }
                assert!(is_servers(&fragment(0, extension, &[next, 200, 0, 0, 0, 0, 0, 0])), "{extension}");
            }
            assert!(is_servers(&fragment(0, next, &payload)) && is_servers(&fragment(0, next, &[])));
            assert!(!is_servers(&fragment(1, next, &payload)), "no receiver takes a later fragment alone");
        }
        for payload in [udp(67, 68), vec![9; 8]] {
            let next = if payload.len() == 8 { ICMP } else { UDP };
            assert!(is_servers(&inet(next, 0, &payload)) && !is_servers(&inet(next, 8, &payload)));
        }
        // Cut short: no receiver takes it, and the host's checksum or a later fragment is not to complete it.
        for length in 0..4 {
            assert!(is_servers(&inet(UDP, 0, &udp(68, 67)[..length])));
            assert!(is_servers(&ethernet(IPV6, &inet6(UDP, &udp(546, 547)[..length]))));
        }
        assert!(is_servers(&inet(ICMP, 0, &[])) && is_servers(&ethernet(IPV6, &inet6(ICMPV6, &[]))));
        let mut short = inet(UDP, 0, &udp(68, 67));
        short[14] = 0x44;
        assert!(is_servers(&short), "a header shorter than any");
        let mut behind = inet(UDP, 0, &udp(68, 67));
        behind[17] = 20;
        assert!(is_servers(&behind), "what lies behind the packet is not of it");
        assert!(!is_servers(&inet(6, 0, &udp(67, 68))), "TCP has ports of its own");
    }

    #[test]
    fn no_checksum_is_written_where_it_would_change_what_was_looked_at() {
        let both = Card { locked: true, ..GUARDED };
        let (client, echo) = (inet(UDP, 0, &udp(68, 67)), ethernet(IPV6, &inet6(ICMPV6, &[128; 40])));
        let client6 = tagged(ethernet(IPV6, &inet6(UDP, &udp(546, 547))), 2);
        let hidden = ethernet(IPV6, &inet6(60, &[&[UDP, 0][..], &[1; 6], &udp(9, 9)].concat()));
        for (card, frame, places) in [
            // Addresses, EtherType, length, fragment, protocol, ports.
            (both, &client, vec![0, 5, 6, 11, 12, 13, 16, 17, 20, 21, 22, 23, 33, 34, 36, 37]),
            (both, &client6, vec![6, 12, 15, 16, 20, 26, 27, 28, 62, 64, 65]),
            (GUARDED, &hidden, vec![12, 20, 53, 54, 55, 62, 65]),
            (GUARDED, &echo, vec![12, 20, 53, 54]),
            (LOCKED, &client, vec![6, 11, 12]),
            (LOCKED, &echo, vec![6, 12, 20, 54]),
            (LOCKED, &ethernet(ARP, &arp(MAC)), vec![6, 13, 18, 22, 27]),
        ] {
            assert_eq!(judged(card, frame, None), Ok(()));
            for place in places {
                assert_eq!(judged(card, frame, Some(place)), Err(Drop::Offload), "{place}: {frame:x?}");
            }
        }
        for (frame, place) in [(&client, 40), (&client6, 68), (&hidden, 68), (&inet(6, 0, &[9; 40]), 50), (&echo, 56)] {
            assert_eq!(judged(both, frame, Some(place)), Ok(()), "where the checksum belongs");
        }
        let advertisement = ethernet(IPV6, &inet6(ICMPV6, &nd(136, &[option(2, MAC)])));
        for place in 54..advertisement.len() - 1 {
            let changes = place == 54 || place == 53 || place > 76;
            assert_eq!(judged(LOCKED, &advertisement, Some(place)).is_err(), changes, "{place}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 14..200), next: u8, kind in 0usize..4) {
            let kind = [ARP, IPV6, 0x8100, 30][kind];
            passes(&ethernet(kind, &bytes));
            passes(&ethernet(IPV6, &inet6(next, &bytes)));
            is_servers(&ethernet(IPV6, &inet6(next, &bytes)));
            is_servers(&inet(next, 0, &bytes));
            is_servers(&ethernet(IPV4, &bytes));
            passes(&ethernet(IPV6, &inet6(ICMPV6, &[&[kind.to_be_bytes()[1] % 8 + 130][..], &bytes].concat())));
        }
    }
}
