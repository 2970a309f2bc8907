//! What a block request asks for, or why it is not carried out (virtio 1.2, 5.2.6). Pure: the header is a copy, the data
//! only lengths.

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

/// Bytes of the header: type, reserved, sector (5.2.6).
pub const HEADER: usize = 16;

/// The unit of capacity and of a request's sector.
pub const SECTOR: u64 = 512;

/// Bytes of a range that is to be cleared: sector, sectors, flags (5.2.6).
pub const RANGE: usize = 16;

/// Sectors of one request to clear at most: 1 GiB, so that none holds a slot for long. A larger one is refused.
pub const MAX_CLEAR_SECTORS: u32 = 1 << 21;

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
    /// Clear the range that the data is: see [`range`].
    Clear(Clear),
    /// Give the serial number's first `len` bytes.
    GetId {
        /// At most [`ID_BYTES`].
        len: u32,
    },
}

/// How a range is cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clear {
    /// The guest needs it no more.
    Discard,
    /// It must read as zeros.
    WriteZeroes,
}

/// As the log calls it.
impl std::fmt::Display for Clear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Clear::Discard => "discard",
            Clear::WriteZeroes => "write of zeros",
        })
    }
}

/// A range to be cleared, inside the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// In bytes.
    pub offset: u64,
    /// Bytes; may be none.
    pub len: u64,
    /// For zeros: its blocks may be given back.
    pub unmap: bool,
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
        VIRTIO_BLK_T_DISCARD => clear(Clear::Discard, readable, writable, disk),
        VIRTIO_BLK_T_WRITE_ZEROES => clear(Clear::WriteZeroes, readable, writable, disk),
        _ => Err(Status::Unsupported),
    }
}

/// A request to clear has exactly one range, as the configuration space says.
fn clear(how: Clear, readable: u64, writable: u64, disk: Disk) -> Result<Request, Status> {
    if disk.read_only || writable > 0 || readable != RANGE as u64 {
        return Err(Status::IoErr);
    }
    Ok(Request::Clear(how))
}

/// Reads the range of a request to clear. The error is the status to answer.
pub fn range(how: Clear, bytes: [u8; RANGE], disk: Disk) -> Result<Range, Status> {
    let [sector @ .., a, b, c, d, e, f, g, h] = bytes;
    let (sector, sectors) = (u64::from_le_bytes(sector), u32::from_le_bytes([a, b, c, d]));
    let unmap = match (how, u32::from_le_bytes([e, f, g, h])) {
        (_, 0) => false,
        (Clear::WriteZeroes, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) => true,
        (Clear::Discard | Clear::WriteZeroes, _) => return Err(Status::Unsupported), // 5.2.6.2
    };
    if sectors > MAX_CLEAR_SECTORS {
        return Err(Status::IoErr);
    }
    let len = u64::from(sectors).checked_mul(SECTOR).ok_or(Status::IoErr)?;
    Ok(Range { offset: place(sector, len, disk)?, len, unmap })
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
        // SCSI_CMD, SCSI_CMD_OUT, FLUSH_OUT, GET_LIFETIME, SECURE_ERASE, zones, nonsense
        for kind in [2, 3, 5, 10, 14, 15, 17, 26, 0x8000_0000, u32::MAX] {
            assert_eq!(parse(header(kind, 0), 512, 512, DISK), Err(Status::Unsupported), "{kind}");
        }
    }

    fn bytes(sector: u64, sectors: u32, flags: u32) -> [u8; RANGE] {
        let mut bytes = [0; RANGE];
        bytes[..8].copy_from_slice(&sector.to_le_bytes());
        bytes[8..12].copy_from_slice(&sectors.to_le_bytes());
        bytes[12..].copy_from_slice(&flags.to_le_bytes());
        bytes
    }

    #[test]
    fn clearing_takes_one_range_and_gives_nothing() {
        for (kind, how) in [(VIRTIO_BLK_T_DISCARD, Clear::Discard), (VIRTIO_BLK_T_WRITE_ZEROES, Clear::WriteZeroes)] {
            // the sector of the header is reserved
            assert_eq!(parse(header(kind, u64::MAX), 16, 0, DISK), Ok(Request::Clear(how)));
            for readable in [0, 1, 15, 17, 32, 512, u64::MAX] {
                assert_eq!(parse(header(kind, 0), readable, 0, DISK), Err(Status::IoErr), "{readable}");
            }
            assert_eq!(parse(header(kind, 0), 16, 1, DISK), Err(Status::IoErr));
            let disk = Disk { read_only: true, ..DISK };
            assert_eq!(parse(header(kind, 0), 16, 0, disk), Err(Status::IoErr));
        }
    }

    #[test]
    fn ranges_are_inside_the_disk_and_not_too_long() {
        let whole = Range { offset: 0, len: 51200, unmap: false };
        for how in [Clear::Discard, Clear::WriteZeroes] {
            assert_eq!(range(how, bytes(0, 100, 0), DISK), Ok(whole));
            assert_eq!(range(how, bytes(99, 1, 0), DISK), Ok(Range { offset: 99 * 512, len: 512, unmap: false }));
            assert_eq!(range(how, bytes(100, 0, 0), DISK), Ok(Range { offset: 51200, len: 0, unmap: false }));
            for (sector, sectors) in
                [(0, 101), (99, 2), (100, 1), (101, 0), (u64::MAX, 1), (u64::MAX, u32::MAX), (1 << 55, 8)]
            {
                assert_eq!(range(how, bytes(sector, sectors, 0), DISK), Err(Status::IoErr), "{sector}+{sectors}");
            }
            let disk = Disk { sectors: u64::MAX, read_only: false };
            assert!(range(how, bytes(0, MAX_CLEAR_SECTORS, 0), disk).is_ok());
            assert_eq!(range(how, bytes(0, MAX_CLEAR_SECTORS + 1, 0), disk), Err(Status::IoErr));
        }
    }

    #[test]
    fn flags_that_mean_nothing_are_unsupported() {
        let unmap = Range { offset: 0, len: 512, unmap: true };
        assert_eq!(range(Clear::WriteZeroes, bytes(0, 1, 1), DISK), Ok(unmap));
        assert_eq!(range(Clear::Discard, bytes(0, 1, 1), DISK), Err(Status::Unsupported));
        for flags in [2, 3, 0x8000_0000, u32::MAX] {
            assert_eq!(range(Clear::WriteZeroes, bytes(0, 1, flags), DISK), Err(Status::Unsupported));
            assert_eq!(range(Clear::Discard, bytes(0, 1, flags), DISK), Err(Status::Unsupported));
        }
    }

    proptest! {
        #[test]
        fn no_range_leaves_the_disk(bytes: [u8; RANGE], small: bool, sectors: u64, zeroes: bool) {
            let mut bytes = bytes;
            if small {
                bytes[1..8].fill(0);
                bytes[9..12].fill(0);
            }
            bytes[13..].fill(0);
            let disk = Disk { sectors: if small { sectors % 512 } else { sectors }, read_only: false };
            let how = if zeroes { Clear::WriteZeroes } else { Clear::Discard };
            if let Ok(range) = range(how, bytes, disk) {
                prop_assert!(u128::from(range.offset) + u128::from(range.len) <= u128::from(disk.sectors) * 512);
                prop_assert_eq!((range.offset % 512, range.len % 512), (0, 0));
            }
        }

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
                Ok(Request::Clear(_)) => prop_assert!((readable, writable, read_only) == (16, 0, false)),
                Ok(Request::Nothing | Request::Flush) | Err(_) => {}
            }
        }
    }
}
