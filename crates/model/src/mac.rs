//! Hardware addresses of network cards, and the forms in which vm.conf takes them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The hardware address of a guest's network card.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Six hexadecimal octets between colons, each of one or two digits, also with `0x` before it. `None` when it
    /// is none; all zero is an address here, though vm.conf takes it for "random".
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = text.split(|byte| *byte == b':');
        let mut octets = [0; 6];
        for octet in &mut octets {
            let digits = parts.next()?;
            let digits = digits.strip_prefix(b"0x").or_else(|| digits.strip_prefix(b"0X")).unwrap_or(digits);
            let plain = matches!(digits.len(), 1 | 2) && digits.iter().all(u8::is_ascii_hexdigit);
            let significant = std::str::from_utf8(digits).ok().filter(|_| plain)?;
            *octet = u8::from_str_radix(significant, 16).ok()?;
        }
        parts.next().is_none().then_some(Self(octets))
    }

    /// Whether all octets are zero.
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }

    /// Whether it is a group's address, which no card may own.
    pub fn is_multicast(self) -> bool {
        let [first, ..] = self.0;
        first & 1 == 1
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zero_address_and_addresses_of_groups_are_told_from_a_cards() {
        let of = |first: u8| MacAddr([first, 0, 0, 0, 0, 0]);
        assert!(of(0).is_zero() && !of(2).is_zero() && !MacAddr([0, 0, 0, 0, 0, 1]).is_zero());
        for (first, multicast) in [(0, false), (1, true), (2, false), (3, true), (0xfe, false), (0xff, true)] {
            assert_eq!(of(first).is_multicast(), multicast, "{first}");
        }
    }

    #[test]
    fn mac_addresses_are_read_in_all_forms_of_the_specification() {
        for text in ["0:1:a:B:c:ff", "00:01:0a:0b:0c:ff", "0x0:0x1:0xa:0XB:0xc:0xff", "0:1:a:b:c:FF"] {
            let read = MacAddr::parse(text.as_bytes()).map(|mac| mac.to_string());
            assert_eq!(read.as_deref(), Some("00:01:0a:0b:0c:ff"), "{text}");
        }
        for text in [
            "",
            "00:11:22:33:44",
            "00:11:22:33:44:55:66",
            "000:1:2:3:4:5",
            "0000:11:22:33:44:54",
            "00000000000a:1:2:3:4:5",
            "0x:1:2:3:4:5",
            "0x000:1:2:3:4:5",
            "0:0:0:0:0:100",
            "g:0:0:0:0:0",
            "0::0:0:0:0",
            "+1:0:0:0:0:0",
        ] {
            assert_eq!(MacAddr::parse(text.as_bytes()), None, "{text}");
        }
    }
}
