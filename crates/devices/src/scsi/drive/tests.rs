//! What a drive does with commands, one test per rule; and that any commands leave it whole.

use proptest::prelude::*;

use super::*;
use crate::scsi::command::parse;
use crate::scsi::request::CDB;

const BLOCKS: u64 = 1000;

const READY: [u8; 1] = [0];
const SENSE: [u8; 5] = [3, 0, 0, 0, 18];
const EJECT: [u8; 5] = [0x1B, 0, 0, 0, 2];
const LOAD: [u8; 5] = [0x1B, 0, 0, 0, 3];
const LOCK: [u8; 5] = [0x1E, 0, 0, 0, 1];
const UNLOCK: [u8; 5] = [0x1E, 0, 0, 0, 0];
const EVENTS: [u8; 9] = [0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8];
const TOC: [u8; 9] = [0x43, 0, 0, 0, 0, 0, 0, 0, 20];
const CAPACITY: [u8; 1] = [0x25];
const DISC: [u8; 9] = [0x51, 0, 0, 0, 0, 0, 0, 0, 34];
const INQUIRY: [u8; 5] = [0x12, 0, 0, 0, 36];

fn loaded() -> Drive {
    Drive::new(b"cdrom0-web", Some(BLOCKS), false)
}

fn ask(drive: &mut Drive, bytes: &[u8]) -> (Reaction, Vec<u8>) {
    let mut cdb = [0; CDB];
    cdb[..bytes.len()].copy_from_slice(bytes);
    let mut answer = Answer::new();
    let reaction = match parse(&cdb) {
        Ok(command) => drive.perform(Lun::Drive, &command, &mut answer),
        Err(sense) => Reaction::Check(sense),
    };
    (reaction, answer.bytes().to_vec())
}

fn does(drive: &mut Drive, bytes: &[u8]) -> Reaction {
    ask(drive, bytes).0
}

fn event(drive: &mut Drive) -> [u8; 2] {
    let (reaction, bytes) = ask(drive, &EVENTS);
    assert_eq!((reaction, bytes.len()), (Reaction::Done, 8));
    [bytes[4], bytes[5]]
}

#[test]
fn what_needs_a_medium_says_why_it_has_none() {
    for (mut drive, sense) in [
        (Drive::new(b"", None, false), Sense::NO_MEDIUM),
        (Drive::new(b"", None, true), Sense::TRAY_OPEN),
        (Drive::new(b"", Some(BLOCKS), true), Sense::TRAY_OPEN),
    ] {
        let read = [0x28, 0, 0, 0, 0, 0, 0, 0, 1];
        for command in [&READY[..], &CAPACITY, &TOC, &DISC, &read] {
            assert_eq!(does(&mut drive, command), Reaction::Check(sense), "{command:x?}");
        }
        assert_eq!(ask(&mut drive, &SENSE).1, sense.fixed());
        assert_eq!(does(&mut drive, &INQUIRY), Reaction::Done);
    }
}

#[test]
fn blocks_are_read_where_they_lie_and_none_beyond_the_end() {
    let mut drive = loaded();
    let mut read = |block: u32, count: u32| {
        let cdb = [&[0xA8, 0][..], &block.to_be_bytes(), &count.to_be_bytes()].concat();
        does(&mut drive, &cdb)
    };
    assert_eq!(read(999, 1), Reaction::Read { at: 999 * 2048, len: 2048 });
    assert_eq!(read(0, 1000), Reaction::Read { at: 0, len: 1000 * 2048 });
    assert_eq!(read(5, 0), Reaction::Read { at: 5 * 2048, len: 0 });
    for (block, count) in [(999, 2), (1000, 0), (1000, 1), (u32::MAX, u32::MAX), (0, 1001)] {
        assert_eq!(read(block, count), Reaction::Check(Sense::BEYOND_END), "{block} {count}");
    }
    let far = [0x88, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
    assert_eq!(does(&mut drive, &far), Reaction::Check(Sense::BEYOND_END));
}

#[test]
fn a_medium_beyond_4_gib_is_read_with_any_command_that_reaches_it() {
    let mut drive = Drive::new(b"", Some(1 << 33), false);
    let at = 0xFFFF_FFFFu64;
    assert_eq!(
        does(&mut drive, &[0x28, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 1]),
        Reaction::Read { at: at * 2048, len: 2048 }
    );
    let long = [0x88, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1];
    assert_eq!(does(&mut drive, &long), Reaction::Read { at: (1 << 32) * 2048, len: 2048 });
    assert_eq!(ask(&mut drive, &CAPACITY).1[..4], [0xFF; 4]);
}

#[test]
fn the_guest_opens_an_unlocked_tray_and_finds_its_medium_when_it_closes_it() {
    let mut drive = loaded();
    assert_eq!(does(&mut drive, &LOCK), Reaction::Done);
    assert_eq!(does(&mut drive, &EJECT), Reaction::Check(Sense::LOCKED));
    assert_eq!(does(&mut drive, &UNLOCK), Reaction::Done);
    assert_eq!(does(&mut drive, &EJECT), Reaction::Done);
    assert_eq!(does(&mut drive, &READY), Reaction::Check(Sense::TRAY_OPEN));
    assert_eq!((event(&mut drive), event(&mut drive)), ([3, 1], [0, 1]), "told once");
    assert_eq!(does(&mut drive, &LOAD), Reaction::Done);
    assert_eq!(event(&mut drive), [2, 2]);
    assert_eq!(does(&mut drive, &READY), Reaction::Check(Sense::MEDIUM_CHANGED));
    assert_eq!(does(&mut drive, &READY), Reaction::Done);
    assert_eq!(does(&mut drive, &LOAD), Reaction::Done);
    assert_eq!(event(&mut drive), [0, 2], "it was closed already");
}

#[test]
fn the_host_asks_before_it_takes_a_medium_out_of_a_locked_tray() {
    let mut drive = loaded();
    does(&mut drive, &LOCK);
    assert_eq!((drive.eject(false), drive.insert(9, false)), (Err(Locked), Err(Locked)));
    assert_eq!(event(&mut drive), [1, 2], "an eject request");
    assert_eq!(does(&mut drive, &READY), Reaction::Done);
    assert_eq!(drive.eject(true), Ok(()));
    assert!(!drive.is_locked() && !drive.is_loaded() && !drive.is_open());
    assert_eq!(does(&mut drive, &READY), Reaction::Check(Sense::NO_MEDIUM));
    assert_eq!(event(&mut drive), [3, 0]);
    does(&mut drive, &LOCK);
    assert_eq!((drive.eject(false), drive.insert(9, false)), (Ok(()), Ok(())), "an empty drive has nothing to lock");
}

#[test]
fn a_new_medium_is_told_once_before_anything_else_but_what_the_drive_is() {
    let mut drive = Drive::new(b"", None, false);
    drive.insert(7, false).unwrap();
    assert_eq!(does(&mut drive, &INQUIRY), Reaction::Done);
    assert_eq!(does(&mut drive, &[0x46, 0, 0, 0, 0, 0, 0, 0, 8]), Reaction::Done);
    assert_eq!(does(&mut drive, &CAPACITY), Reaction::Check(Sense::MEDIUM_CHANGED));
    assert_eq!(ask(&mut drive, &CAPACITY).1[..4], [0, 0, 0, 6]);
    drive.insert(8, false).unwrap();
    assert_eq!(ask(&mut drive, &SENSE).1, Sense::MEDIUM_CHANGED.fixed());
    assert_eq!(ask(&mut drive, &SENSE).1, Sense::NONE.fixed());
}

#[test]
fn a_reset_of_the_unit_unlocks_it_and_is_told_once() {
    let mut drive = loaded();
    does(&mut drive, &LOCK);
    drive.reset_unit();
    assert!(!drive.is_locked());
    assert_eq!(does(&mut drive, &READY), Reaction::Check(Sense::RESET));
    assert_eq!(does(&mut drive, &READY), Reaction::Done);
}

#[test]
fn an_answer_is_no_longer_than_what_was_asked_for() {
    let mut drive = loaded();
    for room in 0..=36u8 {
        assert_eq!(ask(&mut drive, &[0x12, 0, 0, 0, room]).1.len(), usize::from(room));
    }
    assert_eq!(ask(&mut drive, &[0x12, 0, 0, 0, 255]).1.len(), 36);
    assert_eq!(ask(&mut drive, &TOC).1.len(), 20);
}

#[test]
fn the_well_known_unit_lists_units_and_does_nothing_else() {
    let mut answer = Answer::new();
    let list = Command::ReportLuns { known_only: false, room: 16 };
    assert_eq!(loaded().perform(Lun::ReportLuns, &list, &mut answer), Reaction::Done);
    assert_eq!(answer.bytes().len(), 16);
    let ready = loaded().perform(Lun::ReportLuns, &Command::TestUnitReady, &mut answer);
    assert_eq!(ready, Reaction::Check(Sense::UNKNOWN));
}

proptest! {
    /// Whatever a guest says and the host does, a read lies on the medium, an answer fits its room, and what is locked is closed.
    #[test]
    fn any_commands_leave_the_drive_whole(
        steps in prop::collection::vec((any::<[u8; CDB]>(), 0..40u8, 0..8u8), 1..60),
    ) {
        const CODES: [u8; 22] = [
            0, 3, 8, 0x12, 0x1A, 0x1B, 0x1E, 0x25, 0x28, 0x2B, 0x2F, 0x35, 0x43, 0x46, 0x4A, 0x51, 0x5A, 0x88, 0x9E, 0xA0, 0xA8,
            0xBD,
        ];
        let mut drive = Drive::new(b"serial", Some(BLOCKS), false);
        for (mut cdb, code, host) in steps {
            match host {
                0 => drop(drive.eject(cdb[0] & 1 == 1)),
                1 => drop(drive.insert(BLOCKS, cdb[0] & 1 == 1)),
                _ => {}
            }
            cdb[0] = CODES.get(usize::from(code)).copied().unwrap_or(cdb[0]);
            let Ok(command) = parse(&cdb) else { continue };
            let mut answer = Answer::new();
            if let Reaction::Read { at, len } = drive.perform(Lun::Drive, &command, &mut answer) {
                prop_assert!(drive.is_loaded() && !drive.is_open());
                prop_assert!(at + len <= BLOCKS * 2048);
            }
            prop_assert!(answer.bytes().len() < crate::scsi::MAX_ANSWER);
        }
    }
}
