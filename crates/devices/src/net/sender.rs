//! What a frame of a locked card says of its sender behind the Ethernet header: the link-layer addresses that ARP (RFC 826),
//! RARP and neighbour discovery (RFC 4861) have others learn. Pure: it sees a copy that the guest can't change any more.
//!
//! ```text
//! front of the frame: other protocol -------------------> fine
//!                     ARP -----------------------------> its sender is the card
//!                     IPv6, with what may be ICMPv6 ----> the whole: each link-layer address in it is the card's
//! ```
//!
//! What no receiver takes (cut short, or neighbour discovery in fragments, RFC 6980) is dropped.

use super::frame::{Drop, ETHERNET};

/// Bytes that are looked at first: with two VLAN tags and an IPv6 header.
pub const FRONT: usize = ETHERNET + 2 * 4 + 40;

/// The EtherTypes that matter (IANA ieee-802-numbers).
const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
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
const ICMPV6: u8 = 58;
/// Bytes of an IPv6 header.
const INET6: usize = 40;
/// Options of neighbour discovery: source and target link-layer address.
const ADDRESSES: [u8; 2] = [1, 2];

/// Why there is no verdict that it is fine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Not {
    /// The rest decides.
    Seen,
    /// It is dropped.
    Fine,
}

/// The front of a frame, or the whole.
#[derive(Clone, Copy)]
struct Frame<'a> {
    bytes: &'a [u8],
    whole: bool,
}

/// Whether the card of this address may send a frame that begins so, and is no longer if it is `whole`. False: the whole
/// has to be seen.
pub fn is_fine(bytes: &[u8], whole: bool, mac: &[u8; 6]) -> Result<bool, Drop> {
    match (Frame { bytes, whole }).check(mac) {
        Ok(()) => Ok(true),
        Err(Not::Seen) => Ok(false),
        Err(Not::Fine) => Err(Drop::Sender),
    }
}

impl Frame<'_> {
    fn at<const N: usize>(self, at: usize) -> Result<[u8; N], Not> {
        let missing = if self.whole { Not::Fine } else { Not::Seen };
        self.bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(missing)
    }

    fn check(self, mac: &[u8; 6]) -> Result<(), Not> {
        match self.protocol()? {
            (ARP | RARP, at) => {
                let [_, _, _, _, length, _, _, _, sender @ ..] = self.at::<14>(at)?;
                only(length == 6 && sender == *mac)
            }
            (IPV6, at) => self.inet6(at, mac),
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
                    Err(Not::Seen) => return Err(Not::Seen),
                    _ => return Ok((length, at)),
                },
                kind => return Ok((kind, at)),
            }
        }
    }

    fn inet6(self, at: usize, mac: &[u8; 6]) -> Result<(), Not> {
        let [_, _, _, _, high, low, mut next, _] = self.at(at)?;
        let mut at = after(at, INET6);
        // What lies behind the packet is padding, and nobody reads it.
        let end = after(at, usize::from(u16::from_be_bytes([high, low])));
        let packet =
            Self { bytes: self.bytes.get(..end).unwrap_or(self.bytes), whole: self.whole || end <= self.bytes.len() };
        let mut fragment = false;
        loop {
            let length = match next {
                ICMPV6 => return packet.icmp(at, fragment, mac),
                FRAGMENT => {
                    let [_, _, high, low] = packet.at(at)?;
                    if u16::from_be_bytes([high, low]) >> 3 != 0 {
                        return Ok(()); // not the first, without which nobody takes it
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

    fn icmp(self, at: usize, fragment: bool, mac: &[u8; 6]) -> Result<(), Not> {
        let [kind] = self.at(at)?;
        // Solicitation and advertisement of routers, of neighbours, redirection; and the inverse ones (RFC 3122).
        let fixed = match kind {
            133 | 141 | 142 => 8,
            134 => 16,
            135 | 136 => 24,
            137 => 40,
            _ => return Ok(()),
        };
        if !self.whole {
            return Err(Not::Seen);
        }
        only(!fragment)?;
        let mut at = after(at, fixed);
        while at != self.bytes.len() {
            let [option, length] = self.at(at)?;
            only(length != 0)?;
            if ADDRESSES.contains(&option) {
                only(length == 1 && self.at::<6>(after(at, 2))? == *mac)?;
            }
            at = after(at, usize::from(length).saturating_mul(8));
        }
        Ok(())
    }
}

fn after(at: usize, count: usize) -> usize {
    at.saturating_add(count)
}

fn only(fine: bool) -> Result<(), Not> {
    if fine { Ok(()) } else { Err(Not::Fine) }
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

    /// As the card looks at it: the front, then all of it.
    fn passes(frame: &[u8]) -> bool {
        let front = FRONT.min(frame.len());
        let seen = is_fine(&frame[..front], front == frame.len(), &MAC);
        let whole = is_fine(frame, true, &MAC);
        assert_ne!(whole, Ok(false), "the whole is enough");
        assert!(seen == whole || seen == Ok(false), "the front decides nothing that the whole does not: {frame:x?}");
        whole.is_ok()
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
        for frame in [ethernet(0x0800, &[0; 2000]), ethernet(IPV6, &inet6(6, &[0; 2000])), ethernet(38, &[0x42; 60])] {
            assert_eq!(is_fine(&frame[..FRONT], false, &MAC), Ok(true));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 14..200), next: u8, kind in 0usize..4) {
            let kind = [ARP, IPV6, 0x8100, 30][kind];
            passes(&ethernet(kind, &bytes));
            passes(&ethernet(IPV6, &inet6(next, &bytes)));
            passes(&ethernet(IPV6, &inet6(ICMPV6, &[&[kind.to_be_bytes()[1] % 8 + 130][..], &bytes].concat())));
        }
    }
}
