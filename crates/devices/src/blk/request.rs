//! What a block request asks for, or why it is not carried out (virtio 1.2, 5.2.6). Pure: the header is a copy, the data
//! only lengths.

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};

/// Bytes of the header: type, reserved, sector (5.2.6).
pub const HEADER: usize = 16;

/// The unit of capacity and of a request's sector.
pub const SECTOR: u64 = 512;

/// Bytes of the answer to GET_ID.
pub const ID_BYTES: u32 = VIRTIO_BLK_ID_BYTES;

/// What the disk is, as far as requests are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Size in units of 512 bytes.
    pub sectors: u64,
    /// Writes are answered with an error.
    pub read_only: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing: a read or write of no data.
    Nothing,
    /// Fill the data from byte `offset` of the disk on.
    Read {
        /// In bytes; with the data's length inside the disk.
        offset: u64,
        /// Bytes of data, which with the status byte fit the used element.
        len: u32,
    },
    /// Put the data to byte `offset` of the disk on.
    Write {
        /// In bytes; with the data's length inside the disk.
        offset: u64,
    },
    /// What was written and answered before must be on the medium.
    Flush,
    /// Give the serial number's first `len` bytes.
    GetId {
        /// At most [`ID_BYTES`].
        len: u32,
    },
}

/// The status byte at the end of a request (5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = VIRTIO_BLK_S_OK.to_le_bytes()[0],
    /// Not done.
    IoErr = VIRTIO_BLK_S_IOERR.to_le_bytes()[0],
    /// Not known.
    Unsupported = VIRTIO_BLK_S_UNSUPP.to_le_bytes()[0],
}

impl Status {
    /// As the driver reads it.
    pub fn byte(self) -> u8 {
        self as u8
    }
}

/// Reads a request: its header, the bytes that follow the header and are readable, and the writable bytes before the
/// status. The error is the status to answer.
pub fn parse(header: [u8; HEADER], readable: u64, writable: u64, disk: Disk) -> Result<Request, Status> {
    let [a, b, c, d, _, _, _, _, sector @ ..] = header;
    let sector = u64::from_le_bytes(sector);
    match u32::from_le_bytes([a, b, c, d]) {
        VIRTIO_BLK_T_IN if readable > 0 => Err(Status::IoErr),
        VIRTIO_BLK_T_IN => {
            let offset = place(sector, writable, disk)?;
            // Whole sectors, so that the used element's length has room for the status too.
            let len = u32::try_from(writable).map_err(|_| Status::IoErr)?;
            Ok(if len == 0 { Request::Nothing } else { Request::Read { offset, len } })
        }
        VIRTIO_BLK_T_OUT if disk.read_only || writable > 0 => Err(Status::IoErr),
        VIRTIO_BLK_T_OUT => {
            let offset = place(sector, readable, disk)?;
            Ok(if readable == 0 { Request::Nothing } else { Request::Write { offset } })
        }
        VIRTIO_BLK_T_FLUSH => Ok(Request::Flush),
        VIRTIO_BLK_T_GET_ID => Ok(Request::GetId { len: u32::try_from(writable).unwrap_or(ID_BYTES).min(ID_BYTES) }),
        _ => Err(Status::Unsupported),
    }
}

/// The byte at which whole sectors of data begin, if all of them are inside the disk.
fn place(sector: u64, len: u64, disk: Disk) -> Result<u64, Status> {
    let room = disk.sectors.checked_sub(sector).ok_or(Status::IoErr)?;
    match (len.checked_div(SECTOR), len.checked_rem(SECTOR)) {
        (Some(count), Some(0)) if count <= room => sector.checked_mul(SECTOR).ok_or(Status::IoErr),
        _ => Err(Status::IoErr),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DISK: Disk = Disk { sectors: 100, read_only: false };

    fn header(kind: u32, sector: u64) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&sector.to_le_bytes());
        bytes
    }

    #[test]
    fn sectors_become_bytes() {
        let read = parse(header(VIRTIO_BLK_T_IN, 99), 0, 512, DISK);
        assert_eq!(read, Ok(Request::Read { offset: 99 * 512, len: 512 }));
        let write = parse(header(VIRTIO_BLK_T_OUT, 0), 51200, 0, DISK);
        assert_eq!(write, Ok(Request::Write { offset: 0 }));
    }

    #[test]
    fn what_is_not_wholly_on_the_disk_is_refused() {
        for sector in [99, 100, 101, 1 << 55, (1 << 55) + 1, u64::MAX / 512, u64::MAX - 1, u64::MAX] {
            assert_eq!(parse(header(VIRTIO_BLK_T_IN, sector), 0, 1024, DISK), Err(Status::IoErr), "{sector}");
            assert_eq!(parse(header(VIRTIO_BLK_T_OUT, sector), 1024, 0, DISK), Err(Status::IoErr), "{sector}");
        }
    }

    #[test]
    fn data_that_is_no_whole_sector_is_refused_at_an_aligned_place_too() {
        for len in [1, 511, 513, 1023] {
            assert_eq!(parse(header(VIRTIO_BLK_T_IN, 0), 0, len, DISK), Err(Status::IoErr));
            assert_eq!(parse(header(VIRTIO_BLK_T_OUT, 0), len, 0, DISK), Err(Status::IoErr));
        }
    }

    #[test]
    fn no_data_is_nothing_to_do() {
        assert_eq!(parse(header(VIRTIO_BLK_T_IN, 100), 0, 0, DISK), Ok(Request::Nothing));
        assert_eq!(parse(header(VIRTIO_BLK_T_OUT, 0), 0, 0, DISK), Ok(Request::Nothing));
        assert_eq!(parse(header(VIRTIO_BLK_T_IN, 101), 0, 0, DISK), Err(Status::IoErr));
    }

    #[test]
    fn data_of_the_wrong_direction_is_refused() {
        assert_eq!(parse(header(VIRTIO_BLK_T_IN, 0), 512, 512, DISK), Err(Status::IoErr));
        assert_eq!(parse(header(VIRTIO_BLK_T_OUT, 0), 512, 512, DISK), Err(Status::IoErr));
    }

    #[test]
    fn a_read_only_disk_refuses_writes_and_serves_the_rest() {
        let disk = Disk { read_only: true, ..DISK };
        assert_eq!(parse(header(VIRTIO_BLK_T_OUT, 0), 512, 0, disk), Err(Status::IoErr));
        assert!(parse(header(VIRTIO_BLK_T_IN, 0), 0, 512, disk).is_ok());
        assert_eq!(parse(header(VIRTIO_BLK_T_FLUSH, 0), 0, 0, disk), Ok(Request::Flush));
    }

    #[test]
    fn four_gibibytes_do_not_fit_the_answer() {
        let disk = Disk { sectors: u64::MAX, read_only: false };
        assert_eq!(parse(header(VIRTIO_BLK_T_IN, 0), 0, 1 << 32, disk), Err(Status::IoErr));
        assert!(parse(header(VIRTIO_BLK_T_IN, 0), 0, (1 << 32) - 512, disk).is_ok());
    }

    #[test]
    fn flush_ignores_its_sector() {
        assert_eq!(parse(header(VIRTIO_BLK_T_FLUSH, u64::MAX), 0, 0, DISK), Ok(Request::Flush));
    }

    #[test]
    fn the_id_is_at_most_20_bytes() {
        for (room, len) in [(0, 0), (1, 1), (19, 19), (20, 20), (21, 20), (1 << 40, 20)] {
            assert_eq!(parse(header(VIRTIO_BLK_T_GET_ID, 0), 0, room, DISK), Ok(Request::GetId { len }));
        }
    }

    #[test]
    fn other_types_are_unsupported() {
        // SCSI_CMD, SCSI_CMD_OUT, FLUSH_OUT, GET_LIFETIME, DISCARD, WRITE_ZEROES, SECURE_ERASE, zones, nonsense
        for kind in [2, 3, 5, 10, 11, 13, 14, 15, 17, 26, 0x8000_0000, u32::MAX] {
            assert_eq!(parse(header(kind, 0), 512, 512, DISK), Err(Status::Unsupported), "{kind}");
        }
    }

    proptest! {
        #[test]
        fn no_request_leaves_the_disk(
            header: [u8; HEADER], kind in 0u32..16, small: bool, readable: u64, writable: u64, sectors: u64,
            read_only: bool,
        ) {
            let mut header = header;
            header[..4].copy_from_slice(&kind.to_le_bytes());
            let shrink = |len: u64| if small { (len % 64) * 512 } else { len };
            let (readable, writable) = (shrink(readable), shrink(writable));
            let disk = Disk { sectors: if small { sectors % 128 } else { sectors }, read_only };
            if small {
                let sector = u64::from_le_bytes(header[8..].try_into().unwrap()) % 256;
                header[8..].copy_from_slice(&sector.to_le_bytes());
            }
            let end = u128::from(disk.sectors) * 512;
            match parse(header, readable, writable, disk) {
                Ok(Request::Read { offset, len }) => {
                    prop_assert!(u128::from(offset) + u128::from(len) <= end);
                    prop_assert_eq!((u64::from(len), readable, offset % 512), (writable, 0, 0));
                }
                Ok(Request::Write { offset }) => {
                    prop_assert!(u128::from(offset) + u128::from(readable) <= end);
                    prop_assert!(!read_only && writable == 0);
                }
                Ok(Request::GetId { len }) => prop_assert!(u64::from(len) <= writable && len <= 20),
                Ok(Request::Nothing | Request::Flush) | Err(_) => {}
            }
        }
    }
}
