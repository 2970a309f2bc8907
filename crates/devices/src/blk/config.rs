//! The configuration space of a block device (virtio 1.2, 5.2.4). Never changes while the device runs.

use virtio_bindings::bindings::virtio_blk::virtio_blk_config;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes};

/// Data segments of one request, as every vmd has it (openbsd/devices.md, 3.1): with header and status a queue of 128.
pub const MAX_SEGMENTS: u32 = 126;

/// `struct virtio_blk_config` up to `num_queues`; what follows belongs to features that are not offered, and reads zero.
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
    /// Not offered.
    pub topology: [U32; 2],
    /// Not offered.
    pub writeback: u8,
    unused: u8,
    /// Not offered: one.
    pub num_queues: U16,
}

impl Config {
    /// The space of a disk.
    pub fn new(sectors: u64, block_size: u32) -> Self {
        Config {
            capacity: sectors.into(),
            seg_max: MAX_SEGMENTS.into(),
            blk_size: block_size.into(),
            num_queues: 1.into(),
            ..Config::default()
        }
    }
}

// The end of `num_queues`; what follows in the bindings' struct is not offered.
const _: () = assert!(size_of::<Config>() == std::mem::offset_of!(virtio_blk_config, max_discard_sectors));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_lie_where_the_specification_has_them() {
        let config = Config::new(0x0102_0304_0506, 4096);
        let bytes = config.as_bytes();
        assert_eq!(&bytes[0..8], &[6, 5, 4, 3, 2, 1, 0, 0]);
        assert_eq!(&bytes[8..12], &[0; 4]);
        assert_eq!(&bytes[12..16], &[126, 0, 0, 0]);
        assert_eq!(&bytes[16..20], &[0; 4]);
        assert_eq!(&bytes[20..24], &[0, 16, 0, 0]);
        assert_eq!(&bytes[24..34], &[0; 10]);
        assert_eq!(&bytes[34..36], &[1, 0]);
        assert_eq!(std::mem::offset_of!(virtio_blk_config, seg_max), std::mem::offset_of!(Config, seg_max));
        assert_eq!(std::mem::offset_of!(virtio_blk_config, blk_size), std::mem::offset_of!(Config, blk_size));
        assert_eq!(std::mem::offset_of!(virtio_blk_config, wce), std::mem::offset_of!(Config, writeback));
    }
}
