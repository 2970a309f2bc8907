//! Saved state: of one chip, and of all. What comes back is read as foreign bytes are: a chip takes only a state that its
//! registers can have, and what it refuses is named.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Version of [`SavedChipset`] itself; each chip has one of its own.
pub(crate) const VERSION: u16 = 1;

/// The state of all chips of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedChipset {
    /// Of this structure.
    pub version: u16,
    /// What the guest took for CLOCK_MONOTONIC, in nanoseconds: its timers go on from here.
    pub monotonic_ns: u64,
    /// Whether the guest has reset the machine or switched it off.
    pub ended: bool,
    /// In the order of the machine's table.
    pub chips: Vec<SavedChip>,
}

/// The state of one chip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedChip {
    /// Which chip.
    pub name: String,
    /// Its state.
    pub state: Saved,
}

/// A state whose form only its chip knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Of the form.
    pub version: u16,
    /// The state itself.
    pub bytes: Vec<u8>,
}

impl Saved {
    /// The state in the form of this version.
    pub fn of(version: u16, state: &impl Serialize) -> Self {
        // Plain data goes into a vector without fail; were that ever wrong, no bytes are no state to restore.
        Self { version, bytes: postcard::to_stdvec(state).unwrap_or_default() }
    }

    /// The state, if it is one of this version and no byte more.
    pub fn open<T: DeserializeOwned>(&self, version: u16) -> Result<T, Flaw> {
        if self.version != version {
            return Err(Flaw::Version { found: self.version, known: version });
        }
        match postcard::take_from_bytes(&self.bytes) {
            Ok((state, [])) => Ok(state),
            Ok(_) | Err(_) => Err(Flaw::Form { version }),
        }
    }
}

/// What a chip can't take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Flaw {
    /// Another program's state.
    #[error("version {found} is not known, only {known}")]
    Version {
        /// What came.
        found: u16,
        /// What this program writes.
        known: u16,
    },
    /// Cut short, too long, or not made of the version's parts.
    #[error("it does not have the form of version {version}")]
    Form {
        /// The version that it claims.
        version: u16,
    },
    /// A value that the chip's registers can't have, or not in this machine.
    #[error("{0} has a value that is not possible in this machine")]
    Field(&'static str),
}

/// Nothing, if it holds; else the field at fault.
pub(crate) fn check(holds: bool, field: &'static str) -> Result<(), Flaw> {
    if holds { Ok(()) } else { Err(Flaw::Field(field)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_state_of_the_known_version_opens() {
        let saved = Saved::of(3, &(7_u16, true));
        assert_eq!(saved, Saved { version: 3, bytes: vec![7, 1] });
        assert_eq!(saved.open::<(u16, bool)>(3), Ok((7, true)));
        assert_eq!(saved.open::<(u16, bool)>(4), Err(Flaw::Version { found: 3, known: 4 }));
        for bytes in [vec![], vec![7], vec![7, 2], vec![7, 1, 0]] {
            let saved = Saved { version: 3, bytes };
            assert_eq!(saved.open::<(u16, bool)>(3), Err(Flaw::Form { version: 3 }), "{saved:?}");
        }
    }
}
