//! How much memory a guest can have.

use serde::{Deserialize, Deserializer, Serialize};

/// One mebibyte: the unit that memory and disks are counted in.
pub const MIB: u64 = 1 << 20;

/// Memory of a guest in bytes: whole MiB, 1 MiB to 128 GiB (openbsd/vm.conf.md, 7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct MemorySize(u64);

/// Why a number of bytes is no memory size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Less than a MiB.
    #[error("memory size must be at least 1MB")]
    TooSmall,
    /// More than 128 GiB.
    #[error("memory size too large (limit is 128G)")]
    TooLarge,
}

impl MemorySize {
    /// 512 MiB, for a VM that says nothing.
    pub const DEFAULT: Self = Self(512 * MIB);

    /// 128 GiB (openbsd/vm.conf.md, 15).
    pub const MAX: Self = Self(128 * 1024 * MIB);

    /// The least with which a VM is started: a stock kernel finds no room in less.
    pub const LEAST_BOOTABLE: Self = Self(64 * MIB);

    /// That many bytes, rounded down to whole MiB.
    pub fn from_bytes(bytes: i64) -> Result<Self, MemoryError> {
        match u64::try_from(bytes) {
            Ok(bytes) if bytes > Self::MAX.0 => Err(MemoryError::TooLarge),
            Ok(bytes) if bytes >= MIB => Ok(Self(bytes & !(MIB - 1))),
            _ => Err(MemoryError::TooSmall),
        }
    }

    /// Bytes, a multiple of 1 MiB.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// MiB.
    pub fn mib(self) -> u64 {
        self.0 >> 20
    }
}

impl<'de> Deserialize<'de> for MemorySize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = u64::deserialize(deserializer)?;
        let size = i64::try_from(bytes).ok().and_then(|bytes| Self::from_bytes(bytes).ok());
        size.filter(|size| size.0 == bytes).ok_or_else(|| serde::de::Error::custom("not a memory size"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_whole_mebibytes_between_its_limits() {
        assert_eq!(MemorySize::from_bytes(1_048_575), Err(MemoryError::TooSmall));
        assert_eq!(MemorySize::from_bytes(-1), Err(MemoryError::TooSmall));
        assert_eq!(MemorySize::from_bytes(1_048_576).map(MemorySize::bytes), Ok(1_048_576));
        assert_eq!(MemorySize::from_bytes(3_000_000).map(MemorySize::bytes), Ok(2_097_152));
        assert_eq!(MemorySize::from_bytes(137_438_953_472).map(MemorySize::mib), Ok(131_072));
        assert_eq!(MemorySize::from_bytes(137_438_953_473), Err(MemoryError::TooLarge));
    }

    #[test]
    fn a_vm_that_says_nothing_has_512_mebibytes_and_none_boots_in_less_than_64() {
        let sizes = [MemorySize::DEFAULT, MemorySize::LEAST_BOOTABLE, MemorySize::MAX];
        assert_eq!(sizes.map(MemorySize::mib), [512, 64, 131_072]);
    }

    #[test]
    fn a_size_in_a_packet_is_whole_mebibytes_too() {
        let decoded = |bytes: u64| postcard::from_bytes::<MemorySize>(&postcard::to_stdvec(&bytes).unwrap());
        assert_eq!(decoded(64 << 20), Ok(MemorySize::LEAST_BOOTABLE));
        for bad in [0, (64 << 20) + 1, (128 << 30) + (1 << 20), u64::MAX] {
            assert!(decoded(bad).is_err(), "{bad}");
        }
    }
}
