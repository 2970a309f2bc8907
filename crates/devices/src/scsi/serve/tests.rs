//! Requests from rings in memory: what a SCSI host does with them by itself, without a front end and its thread.

use std::fs::File;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::queue::RingSetup;
use crate::queue::driver::{BUFFERS, Driver, END, INDIRECT, NEXT, SETUP, WRITE};
use crate::scsi::request::{CDB, RESPONSE};

const TABLE: u64 = 0x1000;
const ANSWER: u64 = BUFFERS + 0x100;
const DATA: u64 = BUFFERS + 0x1000;

fn image() -> File {
    let file = tempfile::tempfile().unwrap();
    for block in 0..4u8 {
        file.write_all_at(&[block + 1; 2048], u64::from(block) * 2048).unwrap();
    }
    file
}

fn medium(file: &File) -> Medium {
    let engine = Engine::plain(file.try_clone().unwrap().into(), MAX_IN_FLIGHT);
    Medium { engine, blocks: 4, called: "/srv/a.iso".to_owned() }
}

struct Fixture {
    scsi: Scsi,
    driver: Driver,
    file: File,
}

/// What a request gave: length of the used element, sense length, residual, status, response, key and codes.
#[derive(Debug, PartialEq)]
struct Gave {
    used: u32,
    residual: u32,
    status: u8,
    response: u8,
    sense: [u8; 3],
}

impl Fixture {
    fn new(size: u16) -> Fixture {
        let file = image();
        let scsi = Scsi::new(b"cdrom0-web", Some(medium(&file)), false);
        Fixture { scsi, driver: Driver::new(RingSetup { size, ..SETUP }), file }
    }

    fn write_request(&self, lun: [u8; 4], cdb: &[u8]) {
        let mut bytes = [0; REQUEST];
        bytes[..4].copy_from_slice(&lun);
        bytes[19..19 + cdb.len()].copy_from_slice(cdb);
        self.driver.memory.write_slice(&bytes, GuestAddress(BUFFERS)).unwrap();
        self.driver.memory.write_slice(&[0xEE; RESPONSE], GuestAddress(ANSWER)).unwrap();
    }

    fn kicked(&mut self, queue: usize) -> Result<Progress, RingFault> {
        self.scsi.kicked(queue, &mut self.driver.active())
    }

    /// One command with room for data, of the drive.
    fn command(&mut self, cdb: &[u8], room: u32) -> Gave {
        self.command_to([1, 0, 0x40, 0], cdb, room)
    }

    fn command_to(&mut self, lun: [u8; 4], cdb: &[u8], room: u32) -> Gave {
        self.write_request(lun, cdb);
        self.driver.describe(TABLE, 0, (BUFFERS, 51), NEXT, 1);
        self.driver.describe(TABLE, 1, (ANSWER, 108), WRITE | if room > 0 { NEXT } else { 0 }, 2);
        self.driver.describe(TABLE, 2, (DATA, room), WRITE, 0);
        self.gave()
    }

    fn gave(&mut self) -> Gave {
        let slot = u64::from(self.driver.used() % self.driver.ring.size());
        self.driver.offer(0);
        self.kicked(REQUESTS).unwrap();
        let [head, used] = self.driver.element(slot);
        assert_eq!(head, 0);
        let mut bytes = [0; RESPONSE];
        self.driver.memory.read_slice(&mut bytes, GuestAddress(ANSWER)).unwrap();
        Gave {
            used,
            residual: u32::from_le_bytes(bytes[4..8].try_into().unwrap()),
            status: bytes[10],
            response: bytes[11],
            sense: [bytes[14] & 0xF, bytes[24], bytes[25]],
        }
    }

    fn data(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.driver.memory.read_slice(&mut bytes, GuestAddress(DATA)).unwrap();
        bytes
    }
}

fn good(data: u32, residual: u32) -> Gave {
    Gave { used: 108 + data, residual, status: 0, response: 0, sense: [0; 3] }
}

fn check(sense: [u8; 3], residual: u32) -> Gave {
    Gave { used: 108, residual, status: 2, response: 0, sense }
}

#[test]
fn a_read_puts_blocks_into_the_buffer_and_counts_what_is_left() {
    let mut f = Fixture::new(4);
    assert_eq!(f.command(&[0x28, 0, 0, 0, 0, 2, 0, 0, 2], 4096), good(4096, 0));
    assert_eq!(f.data(4096), [[3; 2048], [4; 2048]].concat());
    f.driver.memory.write_slice(&[0xEE; 4096], GuestAddress(DATA)).unwrap();
    assert_eq!(f.command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1], 4096), good(2048, 2048));
    assert_eq!(f.data(4096), [[1; 2048], [0xEE; 2048]].concat());
    assert_eq!(f.command(&[0x28], 2048), good(0, 2048), "no block");
}

#[test]
fn a_read_that_does_not_fit_its_buffer_is_an_overrun() {
    let mut f = Fixture::new(4);
    let gave = f.command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 2], 2048);
    assert_eq!(gave, Gave { used: 108, residual: 2048, status: 0, response: 1, sense: [0; 3] });
    assert_eq!(f.command(&[0x08, 0, 0, 0, 1], 0).response, 1);
    assert_eq!(f.data(2048), [0; 2048]);
}

#[test]
fn an_image_that_shrinks_is_a_medium_error() {
    let mut f = Fixture::new(4);
    f.file.set_len(2048).unwrap();
    assert_eq!(f.command(&[0x28, 0, 0, 0, 0, 1, 0, 0, 1], 2048), check([3, 0x11, 0], 2048));
    assert_eq!(f.command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1], 2048), good(2048, 0));
}

#[test]
fn an_answer_is_cut_to_the_buffer_and_to_what_was_asked_for() {
    let mut f = Fixture::new(4);
    assert_eq!(f.command(&[0x12, 0, 0, 0, 36], 255), good(36, 219));
    assert_eq!(&f.data(36)[8..24], b"OpenBSD VMM CD-R");
    assert_eq!(f.command(&[0x12, 0, 0, 0, 255], 5), good(5, 0));
    assert_eq!(f.command(&[0x12, 0, 0, 0, 0], 8), good(0, 8));
}

#[test]
fn what_is_not_known_is_answered_with_sense() {
    let mut f = Fixture::new(4);
    assert_eq!(f.command(&[0x04], 0), check([5, 0x20, 0], 0));
    assert_eq!(f.command(&[0x12, 1, 0xB0, 0, 64], 64), check([5, 0x24, 0], 64));
    assert_eq!(f.command(&[0x28, 0, 0, 0, 0, 4, 0, 0, 1], 2048), check([5, 0x21, 0], 2048));
}

#[test]
fn only_the_drive_and_the_list_of_units_are_there() {
    let mut f = Fixture::new(4);
    for lun in [[1, 1, 0, 0], [1, 0, 0, 1], [0; 4], [1, 255, 0x40, 0]] {
        assert_eq!(f.command_to(lun, &[0], 0).response, 3, "{lun:?}");
    }
    assert_eq!(f.command_to([1, 0, 0, 0], &[0], 0), good(0, 0));
    assert_eq!(f.command_to([0xC1, 1, 0, 0], &[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16], 16), good(16, 0));
}

#[test]
fn data_to_a_cd_is_not_taken() {
    let mut f = Fixture::new(4);
    f.write_request([1, 0, 0, 0], &[0x2A, 0, 0, 0, 0, 0, 0, 0, 1]);
    f.driver.describe(TABLE, 0, (BUFFERS, 51), NEXT, 1);
    f.driver.describe(TABLE, 1, (DATA, 2048), NEXT, 2);
    f.driver.describe(TABLE, 2, (ANSWER, 108), WRITE, 0);
    assert_eq!(f.gave(), check([5, 0x20, 0], 2048));
}

#[test]
fn headers_may_be_cut_anywhere() {
    let mut f = Fixture::new(8);
    f.write_request([1, 0, 0, 0], &[0x28, 0, 0, 0, 0, 1, 0, 0, 1]);
    f.driver.describe(TABLE, 0, (BUFFERS, 7), NEXT, 1);
    f.driver.describe(TABLE, 1, (BUFFERS + 7, 44), NEXT, 2);
    f.driver.describe(TABLE, 2, (ANSWER, 1), NEXT | WRITE, 3);
    f.driver.describe(TABLE, 3, (ANSWER + 1, 107), NEXT | WRITE, 4);
    f.driver.describe(TABLE, 4, (DATA, 3), NEXT | WRITE, 5);
    f.driver.describe(TABLE, 5, (DATA + 3, 2045), WRITE, 0);
    assert_eq!(f.gave(), good(2048, 0));
    assert_eq!(f.data(2048), [2; 2048]);
    // and the answer begins in the middle of a buffer
    f.driver.describe(TABLE, 2, (ANSWER, 108 + 2048), WRITE, 0);
    assert_eq!(f.gave(), good(2048, 0));
    let mut bytes = [0; 2048];
    f.driver.memory.read_slice(&mut bytes, GuestAddress(ANSWER + 108)).unwrap();
    assert_eq!(bytes, [2; 2048]);
}

#[test]
fn a_chain_that_has_no_room_for_an_answer_breaks_the_ring() {
    for (request, response, at, fault) in [
        (50, 108, ANSWER, RingFault::TooShort),
        (51, 107, ANSWER, RingFault::TooShort),
        (51, 108, END - 1, RingFault::Outside),
    ] {
        let mut f = Fixture::new(4);
        f.write_request([1, 0, 0, 0], &[0]);
        f.driver.describe(TABLE, 0, (BUFFERS, request), NEXT, 1);
        f.driver.describe(TABLE, 1, (at, response), WRITE, 0);
        f.driver.offer(0);
        assert_eq!(f.kicked(REQUESTS), Err(fault));
        assert_eq!(f.driver.used(), 0);
    }
}

#[test]
fn a_buffer_outside_memory_is_answered() {
    let mut f = Fixture::new(4);
    f.write_request([1, 0, 0, 0], &[0x28, 0, 0, 0, 0, 0, 0, 0, 1]);
    f.driver.describe(TABLE, 0, (BUFFERS, 51), NEXT, 1);
    f.driver.describe(TABLE, 1, (ANSWER, 108), WRITE | NEXT, 2);
    f.driver.describe(TABLE, 2, (END - 8, 2048), WRITE, 0);
    assert_eq!(f.gave(), check([3, 0x11, 0], 2048));
}

#[test]
fn more_requests_than_slots_are_all_answered() {
    let mut f = Fixture::new(64);
    f.write_request([1, 0, 0, 0], &[0x28, 0, 0, 0, 0, 1, 0, 0, 1]);
    f.driver.describe(TABLE, 0, (BUFFERS, 51), NEXT, 1);
    f.driver.describe(TABLE, 1, (ANSWER, 108), WRITE | NEXT, 2);
    f.driver.describe(TABLE, 2, (DATA, 2048), WRITE, 0);
    (0..60).for_each(|_| f.driver.offer(0));
    let mut rounds = 1;
    while f.kicked(REQUESTS).unwrap() == Progress::More {
        rounds += 1;
        assert!(rounds < 10, "it ends");
    }
    assert_eq!(f.driver.used(), 60);
    assert!(f.driver.was_called());
}

#[test]
fn task_management_is_answered_once_each() {
    let mut f = Fixture::new(4);
    let mut ask = |kind: u8, subtype: u8, lun: [u8; 4], readable: u32, writable: u32| {
        let mut bytes = [0; TASK_REQUEST];
        (bytes[0], bytes[4]) = (kind, subtype);
        let at = if kind == 0 { 8 } else { 4 };
        bytes[at..at + 4].copy_from_slice(&lun);
        f.driver.memory.write_slice(&bytes, GuestAddress(BUFFERS)).unwrap();
        f.driver.memory.write_slice(&[0xEE; 8], GuestAddress(ANSWER)).unwrap();
        f.driver.describe(TABLE, 0, (BUFFERS, readable), NEXT, 1);
        f.driver.describe(TABLE, 1, (ANSWER, writable), WRITE, 0);
        let slot = u64::from(f.driver.used() % 4);
        f.driver.offer(0);
        f.scsi.kicked(CONTROL, &mut f.driver.active()).map(|_| {
            let bytes: [u8; 8] = f.driver.memory.read_obj(GuestAddress(ANSWER)).unwrap();
            (f.driver.element(slot)[1], bytes)
        })
    };
    let drive = [1, 0, 0, 0];
    let answered = |byte: u8| Ok((1, [byte, 0xEE, 0xEE, 0xEE, 0xEE, 0xEE, 0xEE, 0xEE]));
    for (subtype, response) in [(0, 0), (1, 0), (2, 11), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (8, 11), (255, 11)] {
        assert_eq!(ask(0, subtype, drive, 24, 1), answered(response), "{subtype}");
    }
    assert_eq!(ask(0, 5, [1, 0, 0, 1], 24, 1), answered(12));
    assert_eq!(ask(0, 5, [1, 7, 0, 0], 24, 1), answered(3));
    assert_eq!(ask(9, 0, drive, 24, 1), answered(11));
    for kind in [1, 2] {
        assert_eq!(ask(kind, 0, drive, 16, 5), Ok((5, [0, 0, 0, 0, 0, 0xEE, 0xEE, 0xEE])), "no events");
    }
    assert_eq!(ask(0, 5, drive, 23, 1), Err(RingFault::TooShort));
    assert_eq!(f.command(&[0], 0), check([6, 0x29, 0], 0), "the reset is told");
}

#[test]
fn buffers_for_events_stay() {
    let mut f = Fixture::new(4);
    f.driver.describe(TABLE, 0, (BUFFERS, 16), WRITE, 0);
    f.driver.offer(0);
    assert_eq!(f.kicked(EVENTS), Ok(Progress::Idle));
    assert_eq!(f.driver.used(), 0);
}

#[test]
fn a_successor_goes_on_from_what_was_saved() {
    let mut f = Fixture::new(4);
    f.scsi.accept(FEATURES);
    f.command(&[0x1E, 0, 0, 0, 1], 0);
    let mut second = Scsi::new(b"cdrom0-web", Some(medium(&f.file)), false);
    second.restore(&f.scsi.save());
    assert_eq!(second.save(), f.scsi.save());
    assert!(second.drive.is_locked());
}

fn other() -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[9; 4096], 0).unwrap();
    file
}

fn insert(file: &File, force: bool) -> (Ask, Vec<OwnedFd>) {
    let called = model::Text::cut("/srv/b.iso");
    (Ask::Insert { called, force }, vec![file.try_clone().unwrap().into()])
}

#[test]
fn vmm_changes_the_medium_and_the_guest_hears_of_it() {
    let mut f = Fixture::new(4);
    let (ask, fds) = insert(&other(), false);
    assert!(f.scsi.asked(ask, fds));
    let done = Some(ToVmm::Answered { changed: false, result: Ok(()) });
    assert_eq!((f.scsi.news(), f.scsi.news()), (done.clone(), None));
    assert_eq!(f.command(&[0], 0), check([6, 0x28, 0], 0));
    assert_eq!(f.command(&[0x28, 0, 0, 0, 0, 1, 0, 0, 1], 2048), good(2048, 0));
    assert_eq!(f.data(2048), [9; 2048]);
    assert_eq!(f.command(&[0x28, 0, 0, 0, 0, 2, 0, 0, 1], 2048).sense, [5, 0x21, 0]);
    assert!(f.scsi.asked(Ask::Eject { force: false }, vec![]));
    assert_eq!(f.scsi.news(), done);
    assert_eq!(f.command(&[0x28, 0, 0, 0, 0, 1, 0, 0, 1], 2048), check([2, 0x3A, 1], 2048));
}

#[test]
fn a_locked_tray_refuses_until_it_is_forced_and_keeps_its_medium() {
    let mut f = Fixture::new(4);
    f.command(&[0x1E, 0, 0, 0, 1], 0);
    for force in [false, true] {
        let (ask, fds) = insert(&other(), force);
        assert!(f.scsi.asked(ask, fds));
        let Some(ToVmm::Answered { result, .. }) = f.scsi.news() else { panic!("no answer") };
        assert_eq!(result.is_ok(), force, "{result:?}");
        let first = f.command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1], 2048);
        assert_eq!(first.sense, if force { [6, 0x28, 0] } else { [0; 3] });
    }
    assert_eq!(f.command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1], 2048), good(2048, 0));
    assert_eq!(f.data(2048), [9; 2048]);
}

#[test]
fn what_is_no_image_is_refused_and_what_other_devices_do_is_not_known() {
    let mut f = Fixture::new(4);
    let empty = tempfile::tempfile().unwrap();
    let (ask, fds) = insert(&empty, false);
    assert!(f.scsi.asked(ask.clone(), fds));
    let Some(ToVmm::Answered { result: Err(why), .. }) = f.scsi.news() else { panic!("no refusal") };
    assert!(why.to_string().contains("0 bytes"), "{why}");
    assert_eq!(f.command(&[0], 0), good(0, 0));
    assert!(!f.scsi.asked(ask, vec![]), "nothing came along");
    assert!(!f.scsi.asked(Ask::Memory(model::MemorySize::DEFAULT), vec![]));
}

#[test]
fn a_change_waits_for_the_reads_that_are_under_way() {
    // A socket in place of the image: its read ends when the other side has written.
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let engine = Engine::new(ours.into(), MAX_IN_FLIGHT, None);
    assert!(matches!(engine, Engine::Ring(_)), "this host gives no io_uring");
    let mut f = Fixture::new(4);
    f.scsi = Scsi::new(b"", Some(Medium { engine, blocks: 4, called: String::new() }), false);
    f.write_request([1, 0, 0, 0], &[0x28, 0, 0, 0, 0, 0, 0, 0, 1]);
    f.driver.describe(TABLE, 0, (BUFFERS, 51), NEXT, 1);
    f.driver.describe(TABLE, 1, (ANSWER, 108), WRITE | NEXT, 2);
    f.driver.describe(TABLE, 2, (DATA, 2048), WRITE, 0);
    f.driver.offer(0);
    f.kicked(REQUESTS).unwrap();
    let (ask, fds) = insert(&other(), false);
    assert!(f.scsi.asked(ask.clone(), fds));
    assert_eq!((f.scsi.news(), f.driver.used()), (None, 0));
    assert!(f.scsi.asked(ask, insert(&other(), false).1), "a second one is refused");
    assert!(matches!(f.scsi.news(), Some(ToVmm::Answered { result: Err(_), .. })));
    f.driver.offer(0);
    f.kicked(REQUESTS).unwrap();
    assert_eq!(f.driver.used(), 0, "nothing is begun before the change");
    std::io::Write::write_all(&mut theirs, &[7; 2048]).unwrap();
    while f.driver.used() < 2 {
        if let Some(medium) = &mut f.scsi.medium {
            medium.engine.wait().unwrap();
        }
        f.scsi.ready(Some(&mut f.driver.active())).unwrap();
    }
    assert_eq!(f.scsi.news(), Some(ToVmm::Answered { changed: false, result: Ok(()) }));
    assert_eq!(f.driver.element(0), [0, 108 + 2048], "of the old medium");
    assert_eq!(f.driver.element(1), [0, 108], "of the new one: it hears of that first");
}

#[derive(Clone, Debug)]
struct Piece {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

fn piece() -> impl Strategy<Value = Piece> {
    let addr = prop_oneof![4 => BUFFERS..END, 1 => Just(END - 4), 1 => any::<u64>()];
    let len = prop_oneof![2 => 0..200u32, 3 => Just(51), 3 => Just(108), 2 => 0..5000u32, 1 => any::<u32>()];
    let flags =
        prop_oneof![4 => Just(NEXT), 4 => Just(NEXT | WRITE), 3 => Just(WRITE), 1 => Just(INDIRECT), 1 => any::<u16>()];
    (addr, len, flags, 0..10u16).prop_map(|(addr, len, flags, next)| Piece { addr, len, flags, next })
}

proptest! {
    /// Any chains with any bytes in any queue: nothing panics, no more chains come back than were offered, each length is no
    /// more than its chain could take, and the image stays as it is.
    #[test]
    fn any_queue_leaves_the_host_whole(
        pieces in prop::collection::vec(piece(), 8),
        headers in prop::collection::vec((any::<[u8; CDB]>(), 0..4usize), 4),
        heads in prop::collection::vec(0..9u16, 1..12),
        queue in 0..3usize,
        indirect in any::<bool>(),
    ) {
        const CODES: [u8; 4] = [0x28, 0x12, 0x1B, 0x43];
        let file = image();
        let mut scsi = Scsi::new(b"s", Some(medium(&file)), false);
        let mut driver = Driver::new(RingSetup { size: 8, indirect, ..SETUP });
        for (at, (mut cdb, code)) in headers.into_iter().enumerate() {
            let place = BUFFERS + at as u64 * 0x200;
            cdb[0] = CODES[code];
            driver.memory.write_slice(&[1, 0, 0, 0], GuestAddress(place)).unwrap();
            driver.memory.write_slice(&cdb, GuestAddress(place + 19)).unwrap();
        }
        for (index, piece) in (0u16..).zip(&pieces) {
            driver.describe(TABLE, index, (piece.addr, piece.len), piece.flags, piece.next);
        }
        let offered = heads.len().min(8);
        heads.iter().take(offered).for_each(|head| driver.offer(*head));
        let mut rounds = 0;
        while scsi.kicked(queue, &mut driver.active()) == Ok(Progress::More) {
            rounds += 1;
            prop_assert!(rounds < 100, "it ends");
        }
        prop_assert!(usize::from(driver.used()) <= offered);
        scsi.stop(queue, None);
        prop_assert!(scsi.is_idle());
        let mut bytes = [0; 8192];
        file.read_exact_at(&mut bytes, 0).unwrap();
        prop_assert!(bytes.chunks(2048).zip(1..).all(|(block, is)| block.iter().all(|byte| *byte == is)));
    }
}

/// Enumerated whole: a read of one block by each chain of one to four descriptors of either direction, each empty, a third of a
/// header or of an answer, a whole header, or room for answer and data. What holds header and answer is answered, with the data if
/// there is room for it; every other chain is a fault.
#[test]
fn each_chain_up_to_four_is_answered_if_it_has_header_and_answer() {
    const LENS: [u32; 5] = [0, 17, 36, 51, 108 + 2048];
    let mut f = Fixture::new(4);
    f.write_request([1, 0, 0x40, 0], &[0x28, 0, 0, 0, 0, 0, 0, 0, 1]);
    for (count, number) in (1..=4u16).flat_map(|count| (0..10u32.pow(count.into())).map(move |number| (count, number)))
    {
        let pieces = (0..count).map(|place| {
            let choice = number / 10u32.pow(place.into()) % 10;
            (choice >= 5, LENS[(choice % 5) as usize])
        });
        let pieces: Vec<(bool, u32)> = pieces.collect();
        let mut places = [BUFFERS, ANSWER];
        for (index, (writable, len)) in (0u16..).zip(&pieces) {
            let place = &mut places[usize::from(*writable)];
            let flags = if *writable { WRITE } else { 0 } | if index + 1 < count { NEXT } else { 0 };
            f.driver.describe(TABLE, index, (*place, *len), flags, index + 1);
            *place += u64::from(*len);
        }
        let sum = |of| pieces.iter().filter(|(writable, _)| *writable == of).map(|(_, len)| len).sum::<u32>();
        let expected = if !pieces.is_sorted_by_key(|(writable, _)| *writable) {
            Err(RingFault::Direction)
        } else if sum(false) < 51 || sum(true) < 108 {
            Err(RingFault::TooShort)
        } else {
            Ok(if sum(true) < 108 + 2048 { 108 } else { 108 + 2048 })
        };
        let before = f.driver.used();
        f.driver.offer(0);
        let is = f.kicked(REQUESTS).map(|_| f.driver.element(u64::from(before % 4))[1]);
        assert_eq!(is, expected, "{pieces:?}");
        assert_eq!(f.driver.used(), before.wrapping_add(u16::from(expected.is_ok())), "{pieces:?}");
    }
}
