//! The configuration space of a block device (virtio 1.2, 5.2.4). Never changes while the device runs.

use virtio_bindings::bindings::virtio_blk::virtio_blk_config;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::request::{MAX_CLEAR_SECTORS, SECTOR};

/// Data segments of one request, as every vmd has it (openbsd/devices.md, 3.1): with header and status a queue of 128.
pub const MAX_SEGMENTS: u32 = 126;

/// What transfers the medium likes. Bytes, powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// The guest's block: requests of less are slow.
    pub logical: u32,
    /// What is written as a whole; at least a logical block.
    pub physical: u32,
    /// The best size of a transfer; 0 where none is better than others.
    pub optimal: u32,
}

impl Blocks {
    /// A medium with blocks of one size.
    pub fn of(logical: u32) -> Blocks {
        Blocks { logical, physical: logical, optimal: 0 }
    }

    /// In logical blocks: the exponent of a physical one, and of the best size.
    fn topology(self) -> (u8, u32) {
        let in_blocks = |bytes: u32| bytes.checked_div(self.logical).unwrap_or(0);
        let exponent = in_blocks(self.physical).checked_ilog2().unwrap_or(0);
        (u8::try_from(exponent).unwrap_or(0), in_blocks(self.optimal))
    }
}

/// `struct virtio_blk_config` up to `write_zeroes_may_unmap`; what follows belongs to features that are not offered, and
/// reads zero.
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
pub struct Config {
    /// Units of 512 bytes, whatever `blk_size` is.
    pub capacity: U64,
    /// Not offered.
    pub size_max: U32,
    /// Data segments of one request.
    pub seg_max: U32,
    /// Not offered; SeaBIOS reads it all the same, and zero serves.
    pub geometry: U32,
    /// The host's logical block in bytes: requests of less are slow.
    pub blk_size: U32,
    /// Logical blocks in a physical one, as a power of two.
    pub physical_block_exp: u8,
    /// Logical blocks until the first physical one.
    pub alignment_offset: u8,
    /// Logical blocks of the least good transfer; 0 says nothing.
    pub min_io_size: U16,
    /// Logical blocks of the best; 0 says nothing.
    pub opt_io_size: U32,
    /// Not offered.
    pub writeback: u8,
    unused: u8,
    /// Not offered: one.
    pub num_queues: U16,
    /// Sectors of one discard at most.
    pub max_discard_sectors: U32,
    /// Its ranges at most.
    pub max_discard_seg: U32,
    /// Sectors of the least that can be given back.
    pub discard_sector_alignment: U32,
    /// Sectors of one write of zeros at most.
    pub max_write_zeroes_sectors: U32,
    /// Its ranges at most.
    pub max_write_zeroes_seg: U32,
    /// Zeros may give blocks back, where the driver allows it.
    pub write_zeroes_may_unmap: u8,
    unused1: [u8; 3],
}

impl Config {
    /// The space of a disk.
    pub fn new(sectors: u64, blocks: Blocks) -> Self {
        let (physical_block_exp, optimal) = blocks.topology();
        Config {
            capacity: sectors.into(),
            seg_max: MAX_SEGMENTS.into(),
            blk_size: blocks.logical.into(),
            physical_block_exp,
            opt_io_size: optimal.into(),
            num_queues: 1.into(),
            ..Config::default()
        }
    }

    /// The same, of a disk whose ranges can be cleared, and given back in units of so many bytes.
    pub fn with_clearing(self, granularity: u32) -> Self {
        Config {
            max_discard_sectors: MAX_CLEAR_SECTORS.into(),
            max_discard_seg: 1.into(),
            discard_sector_alignment: u64::from(granularity)
                .checked_div(SECTOR)
                .and_then(|sectors| u32::try_from(sectors).ok())
                .unwrap_or(1)
                .into(),
            max_write_zeroes_sectors: MAX_CLEAR_SECTORS.into(),
            max_write_zeroes_seg: 1.into(),
            write_zeroes_may_unmap: 1,
            ..self
        }
    }
}

// The padding behind `write_zeroes_may_unmap`; what follows in the bindings' struct is not offered.
const _: () = assert!(size_of::<Config>() == std::mem::offset_of!(virtio_blk_config, max_secure_erase_sectors));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_lie_where_the_specification_has_them() {
        let blocks = Blocks { logical: 512, physical: 4096, optimal: 0x1_0000 };
        let config = Config::new(0x0102_0304_0506, blocks);
        let bytes = config.as_bytes();
        assert_eq!(&bytes[0..8], &[6, 5, 4, 3, 2, 1, 0, 0]);
        assert_eq!(&bytes[8..12], &[0; 4]);
        assert_eq!(&bytes[12..16], &[126, 0, 0, 0]);
        assert_eq!(&bytes[16..20], &[0; 4]);
        assert_eq!(&bytes[20..24], &[0, 2, 0, 0]);
        assert_eq!(&bytes[24..32], &[3, 0, 0, 0, 128, 0, 0, 0]);
        assert_eq!(&bytes[32..34], &[0; 2]);
        assert_eq!(&bytes[34..36], &[1, 0]);
        assert_eq!(&bytes[36..], &[0; 24], "nothing can be cleared");
        let config = config.with_clearing(4096);
        assert_eq!(config.as_bytes()[..36], bytes[..36]);
        let cleared = [0, 0, 0x20, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0x20, 0, 1, 0, 0, 0, 1, 0, 0, 0];
        assert_eq!(config.as_bytes()[36..], cleared);
    }

    #[test]
    fn every_field_has_the_place_of_the_bindings() {
        macro_rules! same {
            ($($theirs:ident = $ours:ident),*) => {
                $(assert_eq!(std::mem::offset_of!(virtio_blk_config, $theirs), std::mem::offset_of!(Config, $ours));)*
            };
        }
        same!(seg_max = seg_max, blk_size = blk_size, physical_block_exp = physical_block_exp);
        same!(alignment_offset = alignment_offset, min_io_size = min_io_size, opt_io_size = opt_io_size);
        same!(wce = writeback, num_queues = num_queues, max_discard_sectors = max_discard_sectors);
        same!(max_discard_seg = max_discard_seg, discard_sector_alignment = discard_sector_alignment);
        same!(max_write_zeroes_sectors = max_write_zeroes_sectors, max_write_zeroes_seg = max_write_zeroes_seg);
        same!(write_zeroes_may_unmap = write_zeroes_may_unmap);
    }

    #[test]
    fn blocks_are_told_in_logical_ones() {
        assert_eq!(Blocks::of(512).topology(), (0, 0));
        assert_eq!(Blocks::of(4096).topology(), (0, 0));
        assert_eq!(Blocks { logical: 4096, physical: 0x1_0000, optimal: 0x10_0000 }.topology(), (4, 256));
        assert_eq!(
            Blocks { logical: 4096, physical: 512, optimal: 512 }.topology(),
            (0, 0),
            "less than a block is none"
        );
        assert_eq!(Blocks { logical: 0, physical: 512, optimal: 512 }.topology(), (0, 0));
    }
}
