//! What a command descriptor block asks of the drive, or why it asks for nothing (SPC-4, MMC-6, SBC-3). Pure.
//!
//! A block shorter than the 32 bytes of a request has zeros behind it, which mean nothing.

use super::request::CDB;
use super::sense::Sense;

/// Which features GET CONFIGURATION is asked for (MMC-6, 6.6.2.2, RT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Features {
    /// All from the first on.
    All,
    /// Those that count for the medium.
    Current,
    /// That one.
    One,
}

/// Which values MODE SENSE is asked for (SPC-4, 6.11.3, PC); there are no saved ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// As they are. None changes but the lock, so they are the default ones too.
    Current,
    /// Which bits can be changed: none.
    Changeable,
}

/// What is to be done. `room`: the allocation length, bytes of an answer that the driver takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Whether a medium can be read.
    TestUnitReady,
    /// What is wrong, as data.
    RequestSense {
        /// At most.
        room: u32,
    },
    /// What the drive is, or a page of vital product data.
    Inquiry {
        /// The page.
        page: Option<u8>,
        /// At most.
        room: u32,
    },
    /// A mode page, or all.
    ModeSense {
        /// With the header of 8 bytes.
        long: bool,
        /// Which values.
        values: Values,
        /// The page; 3Fh: all.
        page: u8,
        /// At most.
        room: u32,
    },
    /// Close the tray, or open it.
    Tray {
        /// Open.
        open: bool,
    },
    /// Lock the tray, or unlock it.
    Lock(bool),
    /// How many blocks there are, and of which size.
    Capacity {
        /// The answer of 32 bytes, with 64 bits.
        long: bool,
        /// At most.
        room: u32,
    },
    /// Blocks.
    Read {
        /// The first.
        block: u64,
        /// How many; none is legal.
        count: u32,
    },
    /// The table of contents (MMC-6, 6.26).
    Toc {
        /// 0: tracks; 1: sessions.
        format: u8,
        /// Addresses in minutes, seconds and frames.
        msf: bool,
        /// The first track.
        track: u8,
        /// At most.
        room: u32,
    },
    /// Media events (MMC-6, 6.7).
    Events {
        /// Classes of events, a bit each.
        classes: u8,
        /// At most.
        room: u32,
    },
    /// What kind of disc it is (MMC-6, 6.22).
    DiscInformation {
        /// At most.
        room: u32,
    },
    /// What the drive can do (MMC-6, 6.6).
    Configuration {
        /// Which.
        which: Features,
        /// The first.
        first: u16,
        /// At most.
        room: u32,
    },
    /// What the tray does (MMC-6, 6.9).
    Mechanism {
        /// At most.
        room: u32,
    },
    /// Which units there are.
    ReportLuns {
        /// Only those that are well known.
        known_only: bool,
        /// At most.
        room: u32,
    },
    /// Nothing; blocks must be there.
    Verify {
        /// The first.
        block: u64,
        /// How many.
        count: u32,
    },
    /// Nothing.
    Nothing,
}

/// The least room for REPORT LUNS (SPC-4, 6.33).
const MIN_REPORT_LUNS: u32 = 16;

/// Reads a command.
pub fn parse(cdb: &[u8; CDB]) -> Result<Command, Sense> {
    let [code, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, b12, b13, ..] = *cdb;
    let short = |a, b| u32::from(u16::from_be_bytes([a, b]));
    let long = |a, b, c, d| u32::from_be_bytes([a, b, c, d]);
    let (block, block16) = (u64::from(long(b2, b3, b4, b5)), u64::from_be_bytes([b2, b3, b4, b5, b6, b7, b8, b9]));
    let room = short(b7, b8);
    Ok(match code {
        0x00 => Command::TestUnitReady,
        // The descriptor format (DESC) is not known.
        0x03 if b1 & 1 == 1 => return Err(Sense::INVALID_FIELD),
        0x03 => Command::RequestSense { room: b4.into() },
        0x08 => {
            let count = if b4 == 0 { 256 } else { u32::from(b4) };
            Command::Read { block: u64::from(long(0, b1 & 0x1F, b2, b3)), count }
        }
        0x12 if b1 & 1 == 1 => Command::Inquiry { page: Some(b2), room: short(b3, b4) },
        0x12 if b2 != 0 => return Err(Sense::INVALID_FIELD),
        0x12 => Command::Inquiry { page: None, room: short(b3, b4) },
        0x1A => mode_sense(b2, b3, false, b4.into())?,
        0x5A => mode_sense(b2, b3, true, room)?,
        0x1B => start_stop(b4),
        0x1E => match b4 & 3 {
            0 => Command::Lock(false),
            1 => Command::Lock(true),
            _ => return Err(Sense::INVALID_FIELD), // a lock beyond the host's own eject
        },
        0x25 => Command::Capacity { long: false, room: 8 },
        0x9E if b1 & 0x1F == 0x10 => Command::Capacity { long: true, room: long(b10, b11, b12, b13) },
        0x9E => return Err(Sense::INVALID_FIELD),
        0x28 => Command::Read { block, count: room },
        0xA8 => Command::Read { block, count: long(b6, b7, b8, b9) },
        0x88 => Command::Read { block: block16, count: long(b10, b11, b12, b13) },
        0x2F => Command::Verify { block, count: room },
        0xAF => Command::Verify { block, count: long(b6, b7, b8, b9) },
        0x2B => Command::Verify { block, count: 0 }, // SEEK
        0x35 => Command::Nothing,                    // SYNCHRONIZE CACHE: nothing is written
        0x43 => toc(b1, b2, b6, b9, room)?,
        0x46 => Command::Configuration { which: features(b1)?, first: u16::from_be_bytes([b2, b3]), room },
        // Only polled: no drive tells by itself.
        0x4A if b1 & 1 == 1 => Command::Events { classes: b4, room },
        0x51 if b1 & 7 == 0 => Command::DiscInformation { room },
        0x4A | 0x51 => return Err(Sense::INVALID_FIELD),
        0xA0 => report_luns(b2, long(b6, b7, b8, b9))?,
        0xBD => Command::Mechanism { room: short(b8, b9) },
        _ => return Err(Sense::UNKNOWN),
    })
}

fn mode_sense(selects: u8, subpage: u8, long: bool, room: u32) -> Result<Command, Sense> {
    let page = selects & 0x3F;
    // FFh asks for all subpages; the drive has none.
    if subpage != 0 && (page, subpage) != (0x3F, 0xFF) {
        return Err(Sense::INVALID_FIELD);
    }
    let values = match selects >> 6 {
        0 | 2 => Values::Current,
        1 => Values::Changeable,
        _ => return Err(Sense::NOT_SAVED),
    };
    Ok(Command::ModeSense { long, values, page, room })
}

/// START STOP UNIT (MMC-6, 6.42): a disc that turns or not is the same here.
fn start_stop(byte: u8) -> Command {
    let (power, load, start) = (byte >> 4, byte & 2 != 0, byte & 1 != 0);
    if power == 0 && load { Command::Tray { open: !start } } else { Command::Nothing }
}

fn toc(b1: u8, b2: u8, track: u8, b9: u8, room: u32) -> Result<Command, Sense> {
    // Older drivers have the format in the last byte (SFF-8020i, 10.8.20).
    let format = match b2 & 0x0F {
        0 => b9 >> 6,
        format => format,
    };
    if format > 1 {
        return Err(Sense::INVALID_FIELD);
    }
    Ok(Command::Toc { format, msf: b1 & 2 != 0, track, room })
}

fn features(byte: u8) -> Result<Features, Sense> {
    match byte & 3 {
        0 => Ok(Features::All),
        1 => Ok(Features::Current),
        2 => Ok(Features::One),
        _ => Err(Sense::INVALID_FIELD),
    }
}

fn report_luns(select: u8, room: u32) -> Result<Command, Sense> {
    match select {
        0..=2 if room >= MIN_REPORT_LUNS => Ok(Command::ReportLuns { known_only: select == 1, room }),
        _ => Err(Sense::INVALID_FIELD),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Command, Sense> {
        let mut cdb = [0; CDB];
        cdb[..bytes.len()].copy_from_slice(bytes);
        parse(&cdb)
    }

    #[test]
    fn each_read_has_its_block_and_count() {
        let as_read = |block, count| Ok(Command::Read { block, count });
        assert_eq!(read(&[0x08, 0xE1, 2, 3, 4]), as_read(0x01_0203, 4));
        assert_eq!(read(&[0x08, 0, 0, 0, 0]), as_read(0, 256));
        assert_eq!(read(&[0x28, 0, 1, 2, 3, 4, 0, 5, 6]), as_read(0x0102_0304, 0x0506));
        assert_eq!(read(&[0xA8, 0, 1, 2, 3, 4, 5, 6, 7, 8]), as_read(0x0102_0304, 0x0506_0708));
        let long = [0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        assert_eq!(read(&long), as_read(0x0102_0304_0506_0708, 0x090A_0B0C));
    }

    #[test]
    fn the_tray_moves_only_by_its_bits() {
        for (byte, command) in [
            (0, Command::Nothing),
            (1, Command::Nothing),
            (2, Command::Tray { open: true }),
            (3, Command::Tray { open: false }),
            (0x12, Command::Nothing),
        ] {
            assert_eq!(read(&[0x1B, 0, 0, 0, byte]), Ok(command));
        }
        assert_eq!(read(&[0x1E, 0, 0, 0, 1]), Ok(Command::Lock(true)));
        assert_eq!(read(&[0x1E, 0, 0, 0, 0]), Ok(Command::Lock(false)));
        assert_eq!([2, 3].map(|lock| read(&[0x1E, 0, 0, 0, lock])), [Err(Sense::INVALID_FIELD); 2]);
    }

    #[test]
    fn what_the_drive_does_not_do_is_refused_by_the_field_or_the_code() {
        for cdb in [
            &[0x03, 1, 0, 0, 18][..],               // descriptor sense
            &[0x12, 0, 0x80, 0, 36],                // a page without EVPD
            &[0x9E, 0x11],                          // another service action
            &[0x43, 0, 2],                          // the full table of contents
            &[0x43, 0, 0, 0, 0, 0, 0, 0, 12, 0x80], // the same, as of old
            &[0x46, 3],                             // a reserved RT
            &[0x4A, 0, 0, 0, 0x10],                 // not polled
            &[0x51, 1],                             // track resources
            &[0x1A, 0, 0x01, 1, 255],               // a subpage
            &[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 15],    // no room
            &[0xA0, 0, 3, 0, 0, 0, 0, 0, 0, 16],    // a reserved selection
        ] {
            assert_eq!(read(cdb), Err(Sense::INVALID_FIELD), "{cdb:x?}");
        }
        assert_eq!(read(&[0x1A, 0, 0xC1, 0, 255]), Err(Sense::NOT_SAVED));
        for code in [0x04, 0x0A, 0x15, 0x2A, 0x55, 0xAA, 0x8A, 0xBE, 0xFF] {
            assert_eq!(read(&[code]), Err(Sense::UNKNOWN), "{code:#x}");
        }
    }

    #[test]
    fn allocation_lengths_lie_where_each_command_has_them() {
        for (cdb, expected) in [
            (&[0x03, 0, 0, 0, 18][..], Command::RequestSense { room: 18 }),
            (&[0x12, 0, 0, 1, 2], Command::Inquiry { page: None, room: 0x102 }),
            (&[0x12, 1, 0x83, 0, 9], Command::Inquiry { page: Some(0x83), room: 9 }),
            (
                &[0x1A, 8, 0x2A, 0, 128],
                Command::ModeSense { long: false, values: Values::Current, page: 0x2A, room: 128 },
            ),
            (
                &[0x5A, 0, 0x7F, 0xFF, 0, 0, 0, 1, 0],
                Command::ModeSense { long: true, values: Values::Changeable, page: 0x3F, room: 256 },
            ),
            (&[0x43, 2, 1, 0, 0, 0, 1, 0, 12], Command::Toc { format: 1, msf: true, track: 1, room: 12 }),
            (&[0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8], Command::Events { classes: 0x10, room: 8 }),
            (&[0x46, 2, 0, 3, 0, 0, 0, 0, 8], Command::Configuration { which: Features::One, first: 3, room: 8 }),
            (&[0xBD, 0, 0, 0, 0, 0, 0, 0, 0, 8], Command::Mechanism { room: 8 }),
            (&[0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32], Command::Capacity { long: true, room: 32 }),
            (&[0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0], Command::ReportLuns { known_only: false, room: 256 }),
            (&[0x51, 0, 0, 0, 0, 0, 0, 0, 34], Command::DiscInformation { room: 34 }),
        ] {
            assert_eq!(read(cdb), Ok(expected), "{cdb:x?}");
        }
    }
}
