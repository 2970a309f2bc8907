//! Addresses of `local interface`s (openbsd/daemon.md, 3.12): from a prefix, a VM's number and a card's index. Pure.
//!
//! The IPv4 network is cut into 256 addresses a VM, these into pairs: the even one is the host's, the odd one the
//! guest's. The first pair is left out, so that no router ends in .0. No two cards have an address in common.

use std::net::{Ipv4Addr, Ipv6Addr};

use config::prefix::Prefix4;
use proto::privileged::LocalEnd;
use proto::{Code, Failure, VmId};

/// Cards beyond this have no pair left in their VM's 256 addresses.
const MAX_LOCAL: u8 = 126;

/// What vm.conf says of local interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locals {
    /// Where IPv4 addresses come from.
    pub inet: Prefix4,
    /// Where IPv6 addresses come from, if there are any: the first 64 bits count.
    pub inet6: Option<Ipv6Addr>,
    /// Guests reach the outside.
    pub nat: bool,
}

impl Default for Locals {
    fn default() -> Self {
        Self { inet: Prefix4::DEFAULT, inet6: None, nat: true }
    }
}

/// The two ends of one local interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The host's.
    pub host: LocalEnd,
    /// The guest's.
    pub guest: Ipv4Addr,
}

impl Locals {
    /// The ends of a VM's card.
    pub fn pair(&self, vm: VmId, nic: u8) -> Result<Pair, Failure> {
        let exceeded = || {
            let text = format!(
                "dhcp address range exceeded: interface {nic} of vm {vm} has no address in {}; widen \"local prefix\"",
                self.inet
            );
            Failure::new(Code::Invalid, text)
        };
        if nic > MAX_LOCAL {
            return Err(exceeded());
        }
        let offset = (u64::from(vm.0) << 8) + (u64::from(nic) + 1) * 2;
        let beyond = u64::from(u32::MAX >> self.inet.length());
        let offset = u32::try_from(offset).ok().filter(|_| offset <= beyond).ok_or_else(exceeded)?;
        let host = Ipv4Addr::from(u32::from(self.inet.address()) + offset);
        let guest = Ipv4Addr::from(u32::from(host) + 1);
        Ok(Pair {
            host: LocalEnd { inet: host, inet6: self.inet6.map(|prefix| host6(prefix, guest)), nat: self.nat },
            guest,
        })
    }
}

/// The host's IPv6 address: the prefix, the guest's IPv4 address, and 1.
fn host6(prefix: Ipv6Addr, guest: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from((u128::from(prefix) >> 64 << 64) + (u128::from(u32::from(guest)) << 32) + 1)
}

/// A network below fd00::/8 (RFC 4193), from 56 random bits.
pub fn random_network(random: [u8; 7]) -> Ipv6Addr {
    let [a, b, c, d, e, f, g] = random;
    Ipv6Addr::from([0xfd, a, b, c, d, e, f, g, 0, 0, 0, 0, 0, 0, 0, 0])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn locals(prefix: &str) -> Locals {
        Locals { inet: Prefix4::parse(prefix.as_bytes()).unwrap(), ..Locals::default() }
    }

    #[test]
    fn addresses_are_the_specs() {
        let pair =
            |vm, nic| Locals::default().pair(VmId(vm), nic).map(|pair| (pair.host.inet.octets(), pair.guest.octets()));
        assert_eq!(pair(1, 0), Ok(([100, 64, 1, 2], [100, 64, 1, 3])));
        assert_eq!(pair(3, 1), Ok(([100, 64, 3, 4], [100, 64, 3, 5])));
        assert_eq!(pair(16383, 126), Ok(([100, 127, 255, 254], [100, 127, 255, 255])));
    }

    #[test]
    fn a_vm_or_card_beyond_the_prefix_has_none() {
        for (prefix, vm, nic, good) in [
            ("100.64.0.0/10", 16383, 0, true),
            ("100.64.0.0/10", 16384, 0, false),
            ("100.64.0.0/10", 1, 126, true),
            ("100.64.0.0/10", 1, 127, false),
            ("100.64.0.0/10", 1, 255, false),
            ("10.7.0.0/16", 255, 0, true),
            ("10.7.0.0/16", 256, 0, false),
            ("0.0.0.0/1", u32::MAX, 0, false),
            ("128.0.0.0/1", 1 << 24, 0, false), // 2^32: the original wraps to the first VM's
        ] {
            let found = locals(prefix).pair(VmId(vm), nic);
            assert_eq!(found.is_ok(), good, "{prefix} {vm} {nic}: {found:?}");
            if let Err(failure) = found {
                assert!(failure.to_string().contains("dhcp address range exceeded"), "{failure}");
            }
        }
    }

    #[test]
    fn inet6_is_the_prefix_the_guests_inet_and_one() {
        let inet6 = Some("fd12:3456:789a:bcde::".parse().unwrap());
        let pair = Locals { inet6, ..Locals::default() }.pair(VmId(1), 0).unwrap();
        assert_eq!(pair.host.inet6, Some("fd12:3456:789a:bcde:6440:103::1".parse().unwrap()));
        assert_eq!(random_network([1, 2, 3, 4, 5, 6, 7]).to_string(), "fd01:203:405:607::");
    }

    proptest! {
        #[test]
        fn every_address_lies_in_its_prefix_and_no_two_cards_share_one(
            length in 1u8..=16, bits: u32, a in (any::<u32>(), any::<u8>()), b in (any::<u32>(), any::<u8>()), near: bool,
        ) {
            let mask = !(u32::MAX >> length);
            let prefix = locals(&format!("{}/{length}", Ipv4Addr::from(bits & mask)));
            let shrink = |vm: u32| if near { vm & (u32::MAX >> length >> 8) } else { vm };
            let pairs = [a, b].map(|(vm, nic)| prefix.pair(VmId(shrink(vm)), nic));
            for pair in pairs.iter().flatten() {
                for address in [pair.host.inet, pair.guest] {
                    prop_assert_eq!(u32::from(address) & mask, bits & mask);
                }
                prop_assert_eq!(u32::from(pair.host.inet) ^ 1, u32::from(pair.guest), "a /31");
                prop_assert_ne!(pair.host.inet.octets()[3], 0);
            }
            if let [Ok(one), Ok(other)] = &pairs {
                let same = (shrink(a.0), a.1) == (shrink(b.0), b.1);
                prop_assert_eq!(one.host.inet == other.host.inet, same);
                prop_assert!(one.guest != other.host.inet && one.host.inet != other.guest);
            }
            for ((vm, nic), pair) in [a, b].iter().zip(&pairs) {
                let fits = u64::from(shrink(*vm)) <= u64::from(u32::MAX >> length >> 8) && *nic < 127;
                prop_assert_eq!(pair.is_ok(), fits);
            }
        }
    }
}
