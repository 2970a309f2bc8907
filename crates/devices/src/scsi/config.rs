//! The configuration space of the SCSI host (virtio 1.2, 5.6.4). Never changes while the device runs.

use virtio_bindings::bindings::virtio_scsi::{
    VIRTIO_SCSI_CDB_DEFAULT_SIZE, VIRTIO_SCSI_SENSE_DEFAULT_SIZE, virtio_scsi_config,
};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

use super::MAX_IN_FLIGHT;

/// Data segments of one request: with the request's and the response's a queue of 128.
const MAX_SEGMENTS: u32 = 126;

/// Units of 512 bytes that one request transfers at most: 1 MiB.
const MAX_SECTORS: u32 = 2048;

/// `struct virtio_scsi_event` (5.6.6.3). None is ever sent.
const EVENT: u32 = 16;

/// `struct virtio_scsi_config`. One target with one LUN. The sizes of sense data and of commands stay what they are: a
/// driver that wants others reads back that it has not got them.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub struct Config {
    /// Request queues.
    pub num_queues: U32,
    /// Data segments of one request.
    pub seg_max: U32,
    /// Units of 512 bytes of one request.
    pub max_sectors: U32,
    /// Requests under way.
    pub cmd_per_lun: U32,
    /// Bytes of an event.
    pub event_info_size: U32,
    /// Bytes of sense data in a response.
    pub sense_size: U32,
    /// Bytes of a command in a request.
    pub cdb_size: U32,
    /// The last channel.
    pub max_channel: U16,
    /// The last target.
    pub max_target: U16,
    /// The last LUN.
    pub max_lun: U32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            num_queues: 1.into(),
            seg_max: MAX_SEGMENTS.into(),
            max_sectors: MAX_SECTORS.into(),
            cmd_per_lun: u32::from(MAX_IN_FLIGHT).into(),
            event_info_size: EVENT.into(),
            sense_size: VIRTIO_SCSI_SENSE_DEFAULT_SIZE.into(),
            cdb_size: VIRTIO_SCSI_CDB_DEFAULT_SIZE.into(),
            max_channel: 0.into(),
            max_target: 0.into(),
            max_lun: 0.into(),
        }
    }
}

const _: () = assert!(size_of::<Config>() == size_of::<virtio_scsi_config>());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_lie_where_the_specification_has_them() {
        let config = Config::default();
        let words: Vec<u32> =
            config.as_bytes()[..28].chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words, [1, 126, 2048, 16, 16, 96, 32]);
        assert_eq!(config.as_bytes()[28..], [0; 8]);
        assert_eq!(std::mem::offset_of!(virtio_scsi_config, max_lun), std::mem::offset_of!(Config, max_lun));
    }
}
