//! Names and numbers of things, right by type.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::bounded::Text;

/// A path as a user wrote it, in the host's root. Only client, control, parent and opener carry one.
pub type UserPath = Text<1023>;
/// A switch's name in vm.conf (spec: 63 bytes, any string).
pub type SwitchName = Text<63>;

/// The small positive number that vmd gives a VM and shows to users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VmId(pub u32);

/// One client's connection; never used again after it ended, so that no answer can reach another client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnId(pub u64);

/// Joins an answer to its request on one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u32);

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a name was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Nothing there.
    #[error("name is empty")]
    Empty,
    /// Longer than the type takes.
    #[error("name is longer than {0} bytes")]
    TooLong(usize),
    /// A character that the rule does not allow.
    #[error("name has the character {0:?}")]
    Character(char),
    /// One that a name may have, but not begin with.
    #[error("name begins with {0:?}")]
    First(char),
}

/// A VM's name: 1 to 63 of `[A-Za-z0-9.-_]`, the first not `-`, `.` or `_` (openbsd/daemon.md, 9).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct VmName(Text<63>);

impl VmName {
    /// The name, if it obeys the rule.
    pub fn new(name: &str) -> Result<Self, BadName> {
        let text = Text::new(name).map_err(|_| BadName::TooLong(63))?;
        let first = name.chars().next().ok_or(BadName::Empty)?;
        let odd = |c: &char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-' | '_');
        match name.chars().find(odd) {
            Some(c) => Err(BadName::Character(c)),
            None if matches!(first, '-' | '.' | '_') => Err(BadName::First(first)),
            None => Ok(Self(text)),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// A network interface's name: 1 to 15 bytes, no `/`, `:` or blank, not `.` or `..` (Linux, dev_valid_name).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct IfName(Text<15>);

impl IfName {
    /// The name, if the kernel would take it.
    pub fn new(name: &str) -> Result<Self, BadName> {
        let text = Text::new(name).map_err(|_| BadName::TooLong(15))?;
        match name {
            "" => return Err(BadName::Empty),
            "." | ".." => return Err(BadName::Character('.')),
            _ => {}
        }
        let odd = |c: &char| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '%');
        match name.chars().find(odd) {
            Some(c) => Err(BadName::Character(c)),
            None => Ok(Self(text)),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

macro_rules! checked_name {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(<&str>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

checked_name!(VmName);
checked_name!(IfName);

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MacAddr(pub [u8; 6]);

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
    fn vm_names_follow_the_rule() {
        for good in ["a", "9front", "web-1.example_org", &"x".repeat(63)] {
            assert_eq!(VmName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", ".a", "_a", "a b", "a/b", "é", &"x".repeat(64)] {
            assert!(VmName::new(bad).is_err(), "{bad:?}");
            let wire = postcard::to_stdvec(bad).unwrap();
            assert!(postcard::from_bytes::<VmName>(&wire).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_that_begins_wrongly_is_told_from_one_with_a_character_that_none_has() {
        for (bad, why, text) in [
            ("-7", BadName::First('-'), "name begins with '-'"),
            (".x", BadName::First('.'), "name begins with '.'"),
            ("_", BadName::First('_'), "name begins with '_'"),
            ("-a b", BadName::Character(' '), "name has the character ' '"),
            ("é", BadName::Character('é'), "name has the character 'é'"),
            ("", BadName::Empty, "name is empty"),
        ] {
            let error = VmName::new(bad).unwrap_err();
            assert_eq!((error, error.to_string().as_str()), (why, text), "{bad:?}");
        }
    }

    #[test]
    fn interface_names_are_what_the_kernel_takes() {
        assert!(IfName::new("br-0123456789ab").is_ok());
        for bad in ["", ".", "..", "a/b", "a b", "a:1", "tap%d", "sixteen-bytes-xx"] {
            assert!(IfName::new(bad).is_err(), "{bad:?}");
        }
    }
}
