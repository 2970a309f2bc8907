//! Names and small numbers of the configuration. Who holds one knows that it is a legal one.

use std::fmt;

/// Bytes of a VM's or a switch's name (openbsd/vm.conf.md, 15).
pub const MAX_NAME: usize = 63;

/// Bytes of an interface's or a group's name: Linux's IFNAMSIZ (16) less the end.
pub const MAX_IF_NAME: usize = 15;

/// Bytes of a path in vm.conf (openbsd/vm.conf.md, 15): PATH_MAX of the original less the end.
pub const MAX_PATH: usize = 1023;

/// Bytes of a kernel command line: Linux's COMMAND_LINE_SIZE on x86 (2048) less the end. A longer one would be cut.
pub const MAX_CMDLINE: usize = 2047;

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// More bytes than fit.
    #[error("too long (limit is {0} bytes)")]
    TooLong(usize),
    /// Empty, or a character that the name may not hold.
    #[error("invalid")]
    Invalid,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:expr, $legal:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name, if it is a legal one.
            pub fn new(text: &[u8]) -> Result<Self, NameError> {
                if text.len() > $max {
                    return Err(NameError::TooLong($max));
                }
                let legal: fn(&str) -> bool = $legal;
                match std::str::from_utf8(text) {
                    Ok(name) if legal(name) => Ok(Self(name.to_owned())),
                    _ => Err(NameError::Invalid),
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A VM: 1 to 63 ASCII letters, digits, `.`, `-` and `_`, the first a letter or digit (openbsd/vm.conf.md, 10.2).
    VmName,
    MAX_NAME,
    |name| {
        name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
    }
);

name!(
    /// A switch: 1 to 63 bytes of text without control characters. An interface can name no longer one.
    SwitchName,
    MAX_NAME,
    |name| !name.is_empty() && !name.chars().any(char::is_control)
);

name!(
    /// A network interface of the host, as Linux allows one (dev_valid_name: no blank, `/` or `:`, not `.` or `..`);
    /// of ASCII, and without `%`, which Linux takes for a number to fill in. proto has the same rule.
    IfName,
    MAX_IF_NAME,
    |name| {
        !matches!(name, "" | "." | "..")
            && name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'))
    }
);

name!(
    /// An interface group: as an interface, but it must not end in a digit (openbsd/vm.conf.md, 9).
    GroupName,
    MAX_IF_NAME,
    |name| {
        !name.is_empty()
            && !name.ends_with(|last: char| last.is_ascii_digit())
            && !name.chars().any(|letter| letter.is_whitespace() || letter.is_control())
    }
);

impl IfName {
    /// Whether it is a tap's name as vm.conf takes it: `tap` and a number.
    pub fn is_tap(&self) -> bool {
        self.0
            .strip_prefix("tap")
            .is_some_and(|unit| !unit.is_empty() && unit.bytes().all(|byte| byte.is_ascii_digit()))
    }
}

/// The hardware address of a guest's network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr([u8; 6]);

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

    /// The octets in the order of the wire.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What a kernel is told at boot: UTF-8 of at most [`MAX_CMDLINE`] bytes, none of them NUL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine(Vec<u8>);

impl CommandLine {
    /// The command line, if it is short enough and text.
    pub fn new(text: &[u8]) -> Result<Self, NameError> {
        match text {
            _ if text.len() > MAX_CMDLINE => Err(NameError::TooLong(MAX_CMDLINE)),
            _ if text.contains(&0) || std::str::from_utf8(text).is_err() => Err(NameError::Invalid),
            _ => Ok(Self(text.to_vec())),
        }
    }

    /// Its bytes, without an end mark.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_names_begin_with_a_letter_or_digit() {
        for name in ["a", "9", "web1.example-2_x", &"x".repeat(63)] {
            assert!(VmName::new(name.as_bytes()).is_ok(), "{name}");
        }
        for name in ["", "-a", ".a", "_a", "a b", "a/b", "ä"] {
            assert_eq!(VmName::new(name.as_bytes()), Err(NameError::Invalid), "{name}");
        }
        assert_eq!(VmName::new(&[b'x'; 64]), Err(NameError::TooLong(63)));
    }

    #[test]
    fn interface_names_are_what_linux_takes() {
        for name in ["br0", "lan", "veth.1", "exactly15bytes_"] {
            assert!(IfName::new(name.as_bytes()).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "a b", "a/b", "a:1", "a\tb", "br%d", "bré", "a\u{a0}b", "a\x7f"] {
            assert_eq!(IfName::new(name.as_bytes()), Err(NameError::Invalid), "{name}");
        }
        assert_eq!(IfName::new(b"sixteen_bytes_xx"), Err(NameError::TooLong(15)));
    }

    #[test]
    fn tap_names_are_tap_and_a_number() {
        let tap = |name: &str| IfName::new(name.as_bytes()).is_ok_and(|name| name.is_tap());
        assert!(tap("tap0") && tap("tap255"));
        assert!(!tap("tap") && !tap("tapx") && !tap("eth0"));
    }

    #[test]
    fn group_names_do_not_end_in_a_digit() {
        assert!(GroupName::new(b"dmz").is_ok() && GroupName::new(b"2dmz").is_ok());
        assert_eq!(GroupName::new(b"grp1"), Err(NameError::Invalid));
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

    #[test]
    fn command_line_ends_at_2047_bytes() {
        assert!(CommandLine::new(&[b'x'; 2047]).is_ok());
        assert_eq!(CommandLine::new(&[b'x'; 2048]), Err(NameError::TooLong(2047)));
        assert_eq!(CommandLine::new(b"a\0b"), Err(NameError::Invalid));
        assert_eq!(CommandLine::new(b"a\xe9"), Err(NameError::Invalid));
    }
}
