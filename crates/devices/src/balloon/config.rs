//! The configuration space (virtio 1.2, 5.5.4). What a driver writes to it is not heeded: how much it gave is counted here.

use zerocopy::little_endian::U32;
use zerocopy::{Immutable, IntoBytes};

/// `struct virtio_balloon_config` up to `actual`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub struct Config {
    /// Pages that the guest is to give: `num_pages`.
    pub wanted: U32,
    /// Pages that it gave.
    pub actual: U32,
}

impl Config {
    /// These numbers of pages.
    pub fn new(wanted: u32, actual: u32) -> Self {
        Self { wanted: wanted.into(), actual: actual.into() }
    }

    /// Both in a word.
    pub fn word(self) -> u64 {
        u64::from(self.wanted.get()) | u64::from(self.actual.get()) << 32
    }

    /// Those of a word.
    pub fn of(word: u64) -> Self {
        let [low, high] = zerocopy::transmute!(word.to_le_bytes());
        Self { wanted: low, actual: high }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_as_the_specification_has_them() {
        let config = Config::new(0x0102_0304, 0x0a0b_0c0d);
        assert_eq!(config.as_bytes(), [4, 3, 2, 1, 0x0d, 0x0c, 0x0b, 0x0a]);
        assert_eq!(config.wanted, 0x0102_0304);
        assert_eq!(Config::of(config.word()), config);
    }
}
