//! Names of VMs, switches and interfaces, and other text with a rule. Who holds one knows that it is a legal one.

use crate::bounded::Text;

/// Bytes of a VM's or a switch's name (openbsd/vm.conf.md, 15).
pub const MAX_NAME: usize = 63;

/// Bytes of an interface's or a group's name: Linux's IFNAMSIZ (16) less the end.
pub const MAX_IF_NAME: usize = 15;

/// Bytes of a path of a user's (openbsd/vm.conf.md, 15): PATH_MAX of the original less the end.
pub const MAX_PATH: usize = 1023;

/// A path as a user wrote it, in the host's root. Only client, control, parent and opener carry one.
pub type UserPath = Text<MAX_PATH>;

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("name is empty")]
    Empty,
    /// More bytes than fit.
    #[error("name is longer than {0} bytes")]
    TooLong(usize),
    /// Bytes that are no text.
    #[error("name is not UTF-8")]
    NotUtf8,
    /// A character that the name may not hold.
    #[error("name has the character {c:?}{}", seems(*.0), c = .0)]
    Character(char),
    /// A character that the name may hold, but not begin with.
    #[error("name begins with {0:?}")]
    First(char),
    /// A character that the name may hold, but not end in.
    #[error("name ends in {0:?}")]
    Last(char),
}

fn seems(c: char) -> String {
    crate::lookalike(c).map(|told| format!(", {told}")).unwrap_or_default()
}

/// A text of at most so many bytes that keeps a rule, also when it comes out of a packet.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:expr, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        pub struct $name($crate::Text<$max>);

        impl $name {
            /// The name, if it is a legal one.
            pub fn new(name: impl AsRef<[u8]>) -> Result<Self, $crate::NameError> {
                let bytes = name.as_ref();
                if bytes.len() > $max {
                    return Err($crate::NameError::TooLong($max));
                }
                let name = std::str::from_utf8(bytes).map_err(|_| $crate::NameError::NotUtf8)?;
                let check: fn(&str) -> Result<(), $crate::NameError> = $check;
                check(name)?;
                Ok(Self($crate::Text::cut(name)))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(<&str as serde::Deserialize>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use name;

name!(
    /// A VM: 1 to 63 ASCII letters, digits, `.`, `-` and `_`, the first a letter or digit (openbsd/vm.conf.md, 10.2).
    VmName,
    MAX_NAME,
    |name| {
        none_of(name, |c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-' | '_'))?;
        match name.chars().next() {
            None => Err(NameError::Empty),
            Some(first @ ('.' | '-' | '_')) => Err(NameError::First(first)),
            Some(_) => Ok(()),
        }
    }
);

name!(
    /// A switch: 1 to 63 bytes of text without control characters. An interface can name no longer one.
    SwitchName,
    MAX_NAME,
    |name| {
        none_of(name, char::is_control)?;
        filled(name)
    }
);

name!(
    /// A network interface of the host, as Linux allows one (dev_valid_name: no blank, `/` or `:`, not `.` or `..`);
    /// of ASCII, and without `%`, which Linux takes for a number to fill in.
    IfName,
    MAX_IF_NAME,
    |name| {
        if matches!(name, "." | "..") {
            return Err(NameError::Character('.'));
        }
        none_of(name, |c| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '%'))?;
        filled(name)
    }
);

name!(
    /// An interface group: as an interface, but it must not end in a digit (openbsd/vm.conf.md, 9).
    GroupName,
    MAX_IF_NAME,
    |name| {
        none_of(name, |c| c.is_whitespace() || c.is_control())?;
        match name.chars().next_back() {
            Some(last) if last.is_ascii_digit() => Err(NameError::Last(last)),
            _ => filled(name),
        }
    }
);

impl IfName {
    /// Whether it is a tap's name as vm.conf takes it: `tap` and a number.
    pub fn is_tap(&self) -> bool {
        let unit = self.as_str().strip_prefix("tap");
        unit.is_some_and(|unit| !unit.is_empty() && unit.bytes().all(|byte| byte.is_ascii_digit()))
    }
}

fn filled(name: &str) -> Result<(), NameError> {
    if name.is_empty() { Err(NameError::Empty) } else { Ok(()) }
}

pub(crate) fn none_of(name: &str, odd: impl Fn(char) -> bool) -> Result<(), NameError> {
    name.chars().find(|c| odd(*c)).map_or(Ok(()), |c| Err(NameError::Character(c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_names_begin_with_a_letter_or_digit() {
        for name in ["a", "9front", "web1.example-2_x", &"x".repeat(63)] {
            assert_eq!(VmName::new(name).map(|name| name.to_string()).as_deref(), Ok(name));
        }
        for (bad, why, text) in [
            ("-7", NameError::First('-'), "name begins with '-'"),
            (".x", NameError::First('.'), "name begins with '.'"),
            ("_", NameError::First('_'), "name begins with '_'"),
            ("-a b", NameError::Character(' '), "name has the character ' '"),
            ("a/b", NameError::Character('/'), "name has the character '/'"),
            ("é", NameError::Character('é'), "name has the character 'é'"),
            ("", NameError::Empty, "name is empty"),
            (&"x".repeat(64), NameError::TooLong(63), "name is longer than 63 bytes"),
        ] {
            let error = VmName::new(bad).unwrap_err();
            assert_eq!((error, error.to_string().as_str()), (why, text), "{bad:?}");
        }
        assert_eq!(VmName::new(b"a\xff"), Err(NameError::NotUtf8));
    }

    #[test]
    fn a_name_that_comes_in_a_packet_is_checked_too() {
        let decoded = |name: &str| postcard::from_bytes::<VmName>(&postcard::to_stdvec(name).unwrap());
        assert_eq!(decoded("web"), Ok(VmName::new("web").unwrap()));
        for bad in ["", "-a", "a b", &"x".repeat(64)] {
            assert!(decoded(bad).is_err(), "{bad:?}");
        }
        let name = VmName::new("web").unwrap();
        assert_eq!(postcard::to_stdvec(&name), postcard::to_stdvec("web"));
    }

    #[test]
    fn switch_names_are_text_without_control_characters() {
        assert!(SwitchName::new("my lan").is_ok() && SwitchName::new("ü".repeat(31)).is_ok());
        for (bad, why) in
            [("", NameError::Empty), ("a\n", NameError::Character('\n')), ("\x7f", NameError::Character('\x7f'))]
        {
            assert_eq!(SwitchName::new(bad), Err(why), "{bad:?}");
        }
        assert_eq!(SwitchName::new("ü".repeat(32)), Err(NameError::TooLong(63)));
    }

    #[test]
    fn interface_names_are_what_linux_takes() {
        for name in ["br0", "lan", "veth.1", "exactly15bytes_", "br-0123456789ab"] {
            assert!(IfName::new(name).is_ok(), "{name}");
        }
        assert_eq!(IfName::new(""), Err(NameError::Empty));
        for (name, odd) in [
            (".", '.'),
            ("..", '.'),
            ("a b", ' '),
            ("a/b", '/'),
            ("a:1", ':'),
            ("a\tb", '\t'),
            ("br%d", '%'),
            ("bré", 'é'),
            ("a\u{a0}b", '\u{a0}'),
            ("a\x7f", '\x7f'),
        ] {
            assert_eq!(IfName::new(name), Err(NameError::Character(odd)), "{name}");
        }
        assert_eq!(IfName::new("sixteen_bytes_xx"), Err(NameError::TooLong(15)));
    }

    #[test]
    fn tap_names_are_tap_and_a_number() {
        let tap = |name: &str| IfName::new(name).is_ok_and(|name| name.is_tap());
        assert!(tap("tap0") && tap("tap255"));
        assert!(!tap("tap") && !tap("tapx") && !tap("eth0"));
    }

    #[test]
    fn group_names_do_not_end_in_a_digit() {
        assert!(GroupName::new("dmz").is_ok() && GroupName::new("2dmz").is_ok());
        assert_eq!(GroupName::new("grp1"), Err(NameError::Last('1')));
        assert_eq!(GroupName::new(""), Err(NameError::Empty));
        assert_eq!(GroupName::new("a b"), Err(NameError::Character(' ')));
        assert_eq!(GroupName::new("a\x01"), Err(NameError::Character('\x01')));
    }
}
