//! Requests from a ring in memory: what a disk does with them by itself, without a front end and its thread.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use model::Rate;
use sys::guest_io::GuestMemory;

use super::*;
use crate::blk::Range;
use crate::queue::RingSetup;
use crate::queue::driver::{BUFFERS, DESCRIPTORS as TABLE, Driver, SETUP, USED, WRITE};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const DATA: u64 = BUFFERS + 0x1000;
const STATUS: u64 = BUFFERS + 0x100;

const WITH_FLUSH: u64 = 1 << 9;

const FULL: i32 = 28;
const IO: i32 = 5;

const READ: Work = Work::Read { offset: 0, len: 512 };

fn disk(file: impl Into<OwnedFd>, read_only: bool) -> Blk {
    let file = file.into();
    let engine = Engine::plain(file.try_clone().unwrap(), MAX_IN_FLIGHT);
    Blk::new(file, engine, Disk { sectors: 8, read_only }, Blocks::of(512), b"")
}

#[test]
fn the_log_has_the_users_words() {
    let disk = disk(image(), false).called("/srv/a.img");
    let line = |work: Work, errno| disk.line(work, &Why::Host(io::Error::from_raw_os_error(errno)));
    let write = |durable| Work::Write { offset: 0, len: 512, durable };
    let full = "disk \"/srv/a.img\": write: no space left on device";
    assert_eq!(line(write(false), FULL), full);
    assert_eq!(line(write(true), FULL), full);
    assert_eq!(line(READ, IO), "disk \"/srv/a.img\": read: input/output error");
    assert_eq!(line(Work::Flush, IO), "disk \"/srv/a.img\": flush: input/output error");
    let range = Range { offset: 0, len: 512, unmap: false };
    let clear = |how| Work::Clear { how, range, durable: false };
    assert_eq!(line(clear(Clear::Discard), IO), "disk \"/srv/a.img\": discard: input/output error");
    assert_eq!(line(clear(Clear::WriteZeroes), IO), "disk \"/srv/a.img\": write of zeros: input/output error");
}

fn image() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(8 * 512).unwrap();
    file
}

struct Fixture {
    blk: Blk,
    driver: Driver,
}

impl Fixture {
    fn new(size: u16) -> Fixture {
        Fixture { blk: disk(image(), false), driver: Driver::new(RingSetup { size, ..SETUP }) }
    }

    /// Writes a request of one sector as the chain of descriptor 0.
    fn write(&self, kind: u32) {
        self.driver.memory.write_obj([kind, 0, 0, 0], GuestAddress(BUFFERS)).unwrap();
        self.driver.memory.write_obj(0xeeu8, GuestAddress(STATUS)).unwrap();
        self.driver.describe(0x1000, 0, (BUFFERS, 16), 1, if kind == FLUSH { 2 } else { 1 });
        self.driver.describe(0x1000, 1, (DATA, 512), if kind == IN { 3 } else { 1 }, 2);
        self.driver.describe(0x1000, 2, (STATUS, 1), 2, 0);
    }

    fn offer(&mut self, count: usize) {
        (0..count).for_each(|_| self.driver.offer(0));
    }

    fn kicked(&mut self) -> Progress {
        self.blk.kicked(0, &mut self.driver.active()).unwrap()
    }

    fn ready(&mut self) -> Progress {
        self.blk.ready(Some(&mut self.driver.active())).unwrap()
    }

    /// One request's status.
    fn status(&mut self, kind: u32) -> u8 {
        self.write(kind);
        self.offer(1);
        self.kicked();
        self.driver.memory.read_obj(GuestAddress(STATUS)).unwrap()
    }
}

#[test]
fn each_feature_is_offered_by_its_bit() {
    let all = 1 << 2 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 28 | 1 << 29 | 1 << 32;
    assert_eq!(disk(image(), false).features(), all | 1 << 13 | 1 << 14);
    assert_eq!(disk(image(), true).features(), all | 1 << 5);
    assert_eq!(disk(image(), false).queues(), 1);
}

#[test]
fn the_configuration_space_is_the_disks() {
    let blk = disk(image(), false);
    assert_eq!((blk.config().len(), &blk.config()[..8]), (60, &8u64.to_le_bytes()[..]));
}

#[test]
fn an_empty_ring_leaves_nothing_to_do_and_kicks_on() {
    let mut fixture = Fixture::new(4);
    assert_eq!(fixture.kicked(), Progress::Idle);
    assert_eq!(fixture.driver.at(USED), 0);
    assert!(!fixture.driver.was_called());
}

#[test]
fn after_as_many_requests_as_the_ring_has_entries_others_get_their_turn() {
    let mut fixture = Fixture::new(4);
    fixture.write(IN);
    fixture.offer(4);
    assert_eq!(fixture.kicked(), Progress::More);
    assert_eq!((fixture.driver.used(), fixture.driver.at(USED)), (4, 1), "kicks are off meanwhile");
    assert!(fixture.driver.was_called());
    assert_eq!(fixture.kicked(), Progress::Idle);
    assert_eq!((fixture.driver.used(), fixture.driver.at(USED)), (4, 0));
    fixture.offer(3);
    assert_eq!(fixture.kicked(), Progress::Idle);
    assert_eq!(fixture.driver.used(), 7);
}

#[test]
fn what_found_no_slot_is_taken_when_slots_are_free_again() {
    let mut fixture = Fixture::new(64);
    fixture.write(IN);
    fixture.offer(40);
    assert_eq!(fixture.kicked(), Progress::More);
    assert_eq!(fixture.driver.used(), MAX_IN_FLIGHT);
    assert_eq!(fixture.kicked(), Progress::Idle);
    assert_eq!(fixture.driver.used(), 40);
    fixture.offer(1);
    fixture.blk.starved = true;
    assert_eq!(fixture.ready(), Progress::Idle);
    assert_eq!(fixture.driver.used(), 41);
}

#[test]
fn what_completes_does_not_take_what_was_not_kicked() {
    let mut fixture = Fixture::new(4);
    fixture.write(IN);
    fixture.offer(1);
    assert_eq!(fixture.ready(), Progress::Idle);
    assert_eq!(fixture.driver.used(), 0);
}

#[test]
fn a_write_is_on_the_medium_before_its_answer_where_the_driver_can_not_flush() {
    for (features, durable) in [(0, true), (WITH_FLUSH, false)] {
        let mut fixture = Fixture::new(4);
        fixture.blk.accept(features);
        fixture.write(OUT);
        fixture.offer(1);
        fixture.blk.take(&mut fixture.driver.active()).unwrap();
        let works: Vec<Work> = fixture.blk.under_way.iter().flatten().map(|one| one.work).collect();
        assert_eq!(works, [Work::Write { offset: 0, len: 512, durable }]);
    }
}

/// Two requests at once, then one in 10 ms.
const SLOW: DiskLimits = DiskLimits { iops: Rate::new(100, 2), bandwidth: None };

/// One request, whose bytes are paid for in minutes.
const ONE: DiskLimits = DiskLimits { iops: Rate::new(1, 1), bandwidth: Rate::new(1, 1) };

fn limited(limits: DiskLimits) -> Fixture {
    let fixture = Fixture::new(64);
    Fixture { blk: fixture.blk.limited(limits), ..fixture }
}

#[test]
fn beyond_its_burst_a_guest_waits_with_kicks_off_and_gets_its_answers_in_time() {
    let began = Instant::now();
    let mut fixture = limited(SLOW);
    fixture.write(IN);
    fixture.offer(6);
    fixture.kicked();
    loop {
        let used = u128::from(fixture.driver.used());
        assert!(used >= 2 && used <= 2 + began.elapsed().as_millis() / 10, "{used} after {:?}", began.elapsed());
        let due = fixture.blk.deadline();
        assert_eq!(fixture.driver.at(USED), u16::from(due.is_some()), "kicks are off while it waits");
        let Some(due) = due else { break };
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        fixture.ready();
    }
    assert_eq!(fixture.driver.used(), 6);
}

#[test]
fn what_is_held_back_is_forgotten_with_its_queue() {
    for stop in [true, false] {
        let mut fixture = limited(ONE);
        fixture.write(IN);
        fixture.offer(2);
        fixture.kicked();
        assert_eq!(fixture.driver.used(), 1);
        assert!(fixture.blk.deadline().is_some());
        if stop {
            fixture.blk.stop(0, Some(&mut fixture.driver.active()));
        } else {
            fixture.blk.ready(None).unwrap();
        }
        assert_eq!(fixture.blk.deadline(), None);
    }
}

#[test]
fn what_the_disk_refuses_or_knows_by_itself_costs_nothing() {
    let mut fixture = limited(ONE);
    for (kind, status) in [(99, 2), (GET_ID, 0), (99, 2), (IN, 0)] {
        assert_eq!(fixture.status(kind), status, "{kind}");
    }
    assert_eq!(fixture.status(IN), 0xee, "it waits");
}

fn under_way(work: Work) -> UnderWay {
    UnderWay { head: 3, status: GuestAddress(0), work }
}

/// The raw disk behind it, without a ring.
fn raw(blk: &mut Blk) -> &mut Raw {
    let BackEnd::Raw(raw) = &mut blk.back_end else { panic!("a raw disk") };
    raw
}

/// A request in a slot, and its operation is done.
fn is_done(blk: &mut Blk, slot: u16, request: UnderWay, memory: &Arc<GuestMemory>) {
    blk.under_way[usize::from(slot)] = Some(request);
    let begun = blk.back_end.begin(slot, Work::Flush, memory, &[]);
    assert_eq!(begun, back_end::Begun::UnderWay);
}

#[test]
fn a_write_of_zeros_in_pieces_lets_others_have_their_turn() {
    let file = image();
    file.set_len(3 << 20).unwrap();
    file.write_all_at(&[7; 3 << 20], 0).unwrap();
    let engine = Engine::plain(file.try_clone().unwrap().into(), MAX_IN_FLIGHT);
    let disk = Disk { sectors: 6144, read_only: false };
    let mut blk = Blk::new(file.try_clone().unwrap().into(), engine, disk, Blocks::of(512), b"");
    raw(&mut blk).host.can_nothing();
    let mut fixture = Fixture { blk, driver: Driver::new(SETUP) };
    fixture.write(WRITE_ZEROES);
    fixture.driver.memory.write_obj([0u32, 0, 6144, 1], GuestAddress(DATA)).unwrap();
    fixture.driver.describe(0x1000, 1, (DATA, 16), 1, 2);
    fixture.offer(1);
    let zeros = || {
        let mut bytes = vec![0; 3 << 20];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes.iter().filter(|byte| **byte == 0).count() >> 20
    };
    fixture.kicked();
    assert_eq!((zeros(), fixture.driver.used()), (2, 0), "the second is begun when the first has ended");
    assert!(fixture.blk.deadline().is_some_and(|at| at <= Instant::now()), "a turn is due");
    fixture.ready();
    assert_eq!((zeros(), fixture.driver.used()), (3, 0));
    fixture.ready();
    assert_eq!((fixture.driver.used(), fixture.blk.deadline()), (1, None));
    assert_eq!(fixture.driver.memory.read_obj::<u8>(GuestAddress(STATUS)).unwrap(), 0);
}

#[test]
fn zeros_that_were_to_be_durable_are_refused_after_a_loss_and_discards_are_not() {
    let mut fixture = Fixture::new(4);
    for (features, kind, status) in
        [(0, WRITE_ZEROES, 1), (WITH_FLUSH, WRITE_ZEROES, 0), (0, DISCARD, 0), (WITH_FLUSH, DISCARD, 0)]
    {
        fixture.blk.restore(State { features, sync_failed: true });
        fixture.write(kind);
        fixture.driver.memory.write_obj([0u32, 0, 8, 0], GuestAddress(DATA)).unwrap();
        fixture.driver.describe(0x1000, 1, (DATA, 16), 1, 2);
        fixture.offer(1);
        fixture.kicked();
        while fixture.blk.deadline().is_some() {
            fixture.ready();
        }
        let answer: u8 = fixture.driver.memory.read_obj(GuestAddress(STATUS)).unwrap();
        assert_eq!(answer, status, "{features:#x}, {kind}");
    }
}

#[test]
fn what_a_failure_lost_stays_lost() {
    let failed = |lost| Err(Failed { why: Why::Host(io::Error::from_raw_os_error(IO)), lost });
    let mut blk = disk(image(), false);
    for (result, status, lost) in [
        (Ok(()), Status::Ok, false),
        (failed(false), Status::IoErr, false),
        (failed(true), Status::IoErr, true),
        (failed(false), Status::IoErr, true),
        (Ok(()), Status::Ok, true),
    ] {
        assert_eq!((blk.judge(Work::Flush, result), blk.save().sync_failed), (status, lost));
    }
}

#[test]
fn after_a_loss_only_what_claims_no_durability_is_done() {
    for (features, statuses) in [(WITH_FLUSH, [0, 0, 1]), (0, [0, 1, 1])] {
        let mut fixture = Fixture::new(4);
        fixture.blk.restore(State { features, sync_failed: true });
        assert_eq!(fixture.blk.save(), State { features, sync_failed: true });
        assert_eq!([IN, OUT, FLUSH].map(|kind| fixture.status(kind)), statuses, "features {features:#x}");
    }
}

#[test]
fn an_answer_whose_place_is_gone_breaks_the_ring() {
    let mut fixture = Fixture::new(4);
    let slot = fixture.blk.free.pop().unwrap();
    let status = GuestAddress(0x1_0000); // behind all memory
    let memory = fixture.driver.memory.clone();
    is_done(&mut fixture.blk, slot, UnderWay { status, ..under_way(READ) }, &memory);
    assert_eq!(fixture.blk.reap(Some(&mut fixture.driver.active())), Err(RingFault::Outside));
    assert_eq!((fixture.driver.used(), fixture.blk.free.len()), (0, usize::from(MAX_IN_FLIGHT)));
}

#[test]
fn what_was_given_up_completes_to_nobody_and_frees_its_slot() {
    let mut blk = disk(image(), false);
    let slot = blk.free.pop().unwrap();
    is_done(&mut blk, slot, under_way(READ), &Driver::new(SETUP).memory);
    blk.forget();
    assert!(blk.under_way.iter().all(Option::is_none), "its head is of a ring that is gone");
    blk.reap(None).unwrap();
    assert_eq!((blk.free.len(), blk.used.len()), (usize::from(MAX_IN_FLIGHT), 0));
}

#[test]
fn the_back_end_has_its_turn_when_it_is_due() {
    let mut blk = disk(image(), false);
    assert_eq!(blk.deadline(), None);
    let at = Some(Instant::now());
    blk.due = at;
    assert_eq!(blk.deadline(), at);
    blk.ready(None).unwrap();
    assert_eq!(blk.deadline(), None);
}

#[test]
fn a_queue_stops_when_nothing_of_it_is_under_way() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let file: OwnedFd = ours.into();
    let engine = Engine::new(file.try_clone().unwrap(), MAX_IN_FLIGHT, None);
    assert!(matches!(engine, Engine::Ring(_)), "this host gives no io_uring");
    let blk = Blk::new(file, engine, Disk { sectors: 8, read_only: false }, Blocks::of(512), b"");
    let mut fixture = Fixture { blk, driver: Driver::new(SETUP) };
    fixture.write(IN);
    fixture.offer(1);
    assert_eq!(fixture.kicked(), Progress::Idle);
    assert!(fixture.blk.source().is_some(), "its end is waited for");
    assert!(!raw(&mut fixture.blk).engine.unsubmitted(), "the host has it");
    assert_eq!(fixture.driver.used(), 0);
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        theirs.write_all(&[7; 512]).unwrap();
        theirs
    });
    fixture.blk.stop(0, Some(&mut fixture.driver.active()));
    assert_eq!((fixture.driver.used(), fixture.driver.element(0)), (1, [0, 513]));
    assert!(fixture.driver.was_called());
    assert!(fixture.blk.source().is_none());
    late.join().unwrap();
}

thread_local! {
    /// What this test has logged.
    static LOGGED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LOGGED.with_borrow_mut(|logged| logged.push(record.args().to_string()));
    }

    fn flush(&self) {}
}

#[test]
fn at_the_end_a_disk_that_is_written_is_flushed() {
    log::set_logger(&Logger).unwrap();
    log::set_max_level(log::LevelFilter::Error);
    // fdatasync of a character device fails, which is told
    let null = || File::options().read(true).write(true).open("/dev/null").unwrap();
    disk(null(), true).finish();
    assert_eq!(LOGGED.take(), [""; 0]);
    disk(null(), false).finish();
    assert_eq!(LOGGED.take().len(), 1);
    disk(image(), false).finish();
    assert_eq!(LOGGED.take(), [""; 0]);
}

/// Enumerated whole: reads and writes by each chain of one to four descriptors of either direction, each empty, a status byte, half a
/// header, or a sector. One with a place for the status is answered, without an error exactly
/// if it has a header and whole sectors of the right direction; every other chain is a fault.
#[test]
fn each_chain_up_to_four_is_answered_if_it_has_a_place_for_the_status() {
    const LENS: [u32; 4] = [0, 1, 8, 512];
    let mut f = Fixture::new(4);
    let numbers = (1..=4u16).flat_map(|count| (0..8u32.pow(count.into())).map(move |number| (count, number)));
    for (kind, (count, number)) in [IN, OUT].into_iter().flat_map(|kind| numbers.clone().map(move |of| (kind, of))) {
        let pieces = (0..count).map(|place| {
            let choice = number / 8u32.pow(place.into()) % 8;
            (choice >= 4, LENS[(choice % 4) as usize])
        });
        let pieces: Vec<(bool, u32)> = pieces.collect();
        f.driver.memory.write_obj([kind, 0, 0, 0], GuestAddress(BUFFERS)).unwrap();
        let mut places = [BUFFERS, DATA];
        for (index, (writable, len)) in (0u16..).zip(&pieces) {
            let place = &mut places[usize::from(*writable)];
            let flags = if *writable { WRITE } else { 0 } | u16::from(index + 1 < count);
            f.driver.describe(TABLE, index, (*place, *len), flags, index + 1);
            *place += u64::from(*len);
        }
        let sum = |of| pieces.iter().filter(|(writable, _)| *writable == of).map(|(_, len)| len).sum::<u32>();
        let (readable, writable) = (sum(false), sum(true));
        let expected = if !pieces.is_sorted_by_key(|(writable, _)| *writable) {
            Err(RingFault::Direction)
        } else if writable == 0 {
            Err(RingFault::TooShort)
        } else {
            let (data, other) = if kind == IN {
                (writable - 1, readable - readable.min(16))
            } else {
                (readable - readable.min(16), writable - 1)
            };
            let right = readable >= 16 && other == 0 && data % 512 == 0;
            Ok(if right { (0u8, if kind == IN { writable } else { 1 }) } else { (1, 1) })
        };
        let before = f.driver.used();
        f.driver.offer(0);
        let is = f.blk.kicked(0, &mut f.driver.active()).map(|_| {
            let status = f.driver.memory.read_obj(GuestAddress(DATA + u64::from(writable) - 1)).unwrap();
            (status, f.driver.element(u64::from(before % 4))[1])
        });
        assert_eq!(is, expected, "{kind}: {pieces:?}");
        assert_eq!(f.driver.used(), before.wrapping_add(u16::from(expected.is_ok())), "{kind}: {pieces:?}");
    }
}
