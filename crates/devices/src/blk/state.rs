//! What of a disk's process must outlive it: for a pause, a migration, a restart. The rings' part is `Vring::save`, and
//! nothing is under way once a queue has stopped, so this is little.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The format's number; another is refused.
const VERSION: u32 = 1;

/// A disk's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// What the driver accepted.
    pub features: u64,
    /// A flush has failed: what it lost stays lost, and so does the answer.
    pub sync_failed: bool,
}

/// As it is stored: little-endian on every machine that runs this (x86-64).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Stored {
    version: u32,
    sync_failed: u32,
    features: u64,
}

impl State {
    /// The state as bytes.
    pub fn save(&self) -> [u8; 16] {
        let stored = Stored { version: VERSION, sync_failed: self.sync_failed.into(), features: self.features };
        zerocopy::transmute!(stored)
    }

    /// The state that `save` gave; none where the bytes are not such.
    pub fn restore(bytes: &[u8]) -> Option<State> {
        let stored = Stored::read_from_bytes(bytes).ok()?;
        let sync_failed = match stored.sync_failed {
            0 => false,
            1 => true,
            _ => return None,
        };
        (stored.version == VERSION).then_some(State { features: stored.features, sync_failed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_as_it_was() {
        for state in [State::default(), State { features: 1 << 32 | 1 << 9, sync_failed: true }] {
            assert_eq!(State::restore(&state.save()), Some(state));
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        let mut bytes = State::default().save();
        assert_eq!(State::restore(&bytes[..15]), None);
        bytes[0] = 2;
        assert_eq!(State::restore(&bytes), None);
        bytes[0] = 1;
        bytes[4] = 2;
        assert_eq!(State::restore(&bytes), None);
    }
}
