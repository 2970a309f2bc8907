//! Networks for `local` interfaces: `local prefix` and `local inet6 prefix` (openbsd/vm.conf.md, 8.1 and 8.2).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Length of an IPv4 prefix without one, and the longest allowed: 16 bits must remain for id and interface.
const MAX_PREFIX4: u8 = 16;

/// Length of an IPv6 prefix without one, and the longest allowed.
const MAX_PREFIX6: u8 = 64;

/// Why a text is no prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The length is below the least.
    #[error("too small")]
    TooSmall,
    /// The length is above the greatest.
    #[error("too large")]
    TooLarge,
    /// The length is no number.
    #[error("invalid")]
    Invalid,
    /// The address is invalid.
    #[error("invalid format")]
    Format,
    /// The address has bits beyond the length.
    #[error("bad mask")]
    BadMask,
}

/// A network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix<A> {
    address: A,
    length: u8,
}

/// An IPv4 network of 1 to 16 bits.
pub type Prefix4 = Prefix<Ipv4Addr>;

/// An IPv6 network of 0 to 64 bits.
pub type Prefix6 = Prefix<Ipv6Addr>;

impl<A> Prefix<A> {
    /// The network's first address.
    pub fn address(self) -> A {
        self.address
    }

    /// How many bits the network has.
    pub fn length(&self) -> u8 {
        self.length
    }
}

impl<A: fmt::Display> fmt::Display for Prefix<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Prefix4 {
    /// `100.64.0.0/10`, the shared address space of RFC 6598.
    pub const DEFAULT: Self = Self { address: Ipv4Addr::new(100, 64, 0, 0), length: 10 };

    /// `address[/length]`; the address is a dotted quad, its first octets, or hexadecimal.
    pub fn parse(text: &[u8]) -> Result<Self, PrefixError> {
        let (address, length) = halves(text);
        let length = length.map_or(Ok(MAX_PREFIX4), |length| bounded(length, 1, MAX_PREFIX4))?;
        let address = network4(address).ok_or(PrefixError::Format)?;
        let host = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
        match address & host {
            0 => Ok(Self { address: Ipv4Addr::from(address), length }),
            _ => Err(PrefixError::BadMask),
        }
    }
}

impl Prefix6 {
    /// `address[/length]` with a numeric address.
    pub fn parse(text: &[u8]) -> Result<Self, PrefixError> {
        let (address, length) = halves(text);
        let length = length.map_or(Ok(MAX_PREFIX6), |length| bounded(length, 0, MAX_PREFIX6))?;
        let address = std::str::from_utf8(address).ok().and_then(|text| text.parse::<Ipv6Addr>().ok());
        let address = address.ok_or(PrefixError::Format)?;
        let host = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
        match u128::from(address) & host {
            0 => Ok(Self { address, length }),
            _ => Err(PrefixError::BadMask),
        }
    }
}

/// Address and length, at the last `/`.
fn halves(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut halves = text.rsplitn(2, |byte| *byte == b'/');
    let last = halves.next().unwrap_or_default();
    match halves.next() {
        Some(address) => (address, Some(last)),
        None => (last, None),
    }
}

/// A decimal length as strtonum(3) reads it, with its three reasons.
fn bounded(text: &[u8], least: u8, most: u8) -> Result<u8, PrefixError> {
    let digits = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(PrefixError::Invalid);
    }
    let value = digits
        .iter()
        .fold(0_u32, |sum, digit| sum.saturating_mul(10).saturating_add(u32::from(digit.saturating_sub(b'0'))));
    let below = value < u32::from(least) || (text.starts_with(b"-") && value > 0);
    match u8::try_from(value) {
        _ if below => Err(PrefixError::TooSmall),
        Ok(length) if length <= most => Ok(length),
        _ => Err(PrefixError::TooLarge),
    }
}

/// A network's address as inet_net_pton(3) reads it: missing octets are zero.
fn network4(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok()?;
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u32::from_str_radix(&format!("{digits:0<8}"), 16).ok()
        }
        Some(_) => None,
        None => {
            let mut octets = [0_u8; 4];
            let mut parts = text.split('.');
            for octet in &mut octets {
                match parts.next() {
                    Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => *octet = digits.parse().ok()?,
                    None => {}
                    Some(_) => return None,
                }
            }
            parts.next().is_none().then(|| u32::from_be_bytes(octets))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn four(text: &str) -> Result<String, PrefixError> {
        Prefix4::parse(text.as_bytes()).map(|prefix| prefix.to_string())
    }

    fn six(text: &str) -> Result<String, PrefixError> {
        Prefix6::parse(text.as_bytes()).map(|prefix| prefix.to_string())
    }

    #[test]
    fn ipv4_prefixes_are_read_in_all_forms_of_the_specification() {
        for (text, meant) in [
            ("100.64.0.0/10", "100.64.0.0/10"),
            ("192.168.0.0", "192.168.0.0/16"),
            ("10/8", "10.0.0.0/8"),
            ("172.16/12", "172.16.0.0/12"),
            ("0x0a/8", "10.0.0.0/8"),
            ("0xac10/12", "172.16.0.0/12"),
            ("128.0.0.0/1", "128.0.0.0/1"),
        ] {
            assert_eq!(four(text).as_deref(), Ok(meant), "{text}");
        }
    }

    #[test]
    fn ipv4_prefixes_are_refused_with_the_reasons_of_the_specification() {
        for (text, reason) in [
            ("10.0.0.0/24", PrefixError::TooLarge),
            ("10.0.0.0/0", PrefixError::TooSmall),
            ("10.0.0.0/-1", PrefixError::TooSmall),
            ("10.0.0.0/x", PrefixError::Invalid),
            ("10.0.0.0/", PrefixError::Invalid),
            ("10.0.0.0/99999999999999", PrefixError::TooLarge),
            ("10.0.0.1/16", PrefixError::BadMask),
            ("300.0.0.0/8", PrefixError::Format),
            ("10..0.0/8", PrefixError::Format),
            ("10.0.0.0.0/8", PrefixError::Format),
            ("", PrefixError::Format),
            ("0x/8", PrefixError::Format),
            ("0x0a0a0a0a0a/8", PrefixError::Format),
            ("host/8", PrefixError::Format),
        ] {
            assert_eq!(four(text), Err(reason), "{text}");
        }
    }

    #[test]
    fn ipv6_prefixes_have_at_most_64_bits() {
        assert_eq!(six("fd00:1::").as_deref(), Ok("fd00:1::/64"));
        assert_eq!(six("fd00:1::/48").as_deref(), Ok("fd00:1::/48"));
        assert_eq!(six("::/0").as_deref(), Ok("::/0"));
        assert_eq!(six("fd00::/65"), Err(PrefixError::TooLarge));
        assert_eq!(six("fd00::/x"), Err(PrefixError::Invalid));
        assert_eq!(six("fd00::1"), Err(PrefixError::BadMask));
        assert_eq!(six("host/64"), Err(PrefixError::Format));
    }
}
