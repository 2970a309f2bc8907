//! A balloon through its socket: what a guest gives leaves the memory's file, whatever it says (virtio 1.2, 5.5).

mod support;

use std::time::{Duration, Instant};

use devices::balloon::Balloon;
use model::MemorySize;
use rustix::fs::SeekFrom;
use support::{BUFFERS, Desc, Driver, EVENT_IDX, Guest, HOLE, LOW, Part, VERSION_1, Vmm, WRITE};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;

const MUST_TELL_HOST: u64 = 1;
const STATS_VQ: u64 = 1 << 1;
const PAGE_REPORTING: u64 = 1 << 5;
const ALL: u64 = VERSION_1 | MUST_TELL_HOST | STATS_VQ | PAGE_REPORTING;

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const THIRD: usize = 2;
const FOURTH: usize = 3;

const BLOCK: u64 = 2 << 20;
/// The second block of the guest's memory: rings and buffers lie in the first.
const PAGES: std::ops::Range<u32> = 512..1024;

struct Fixture {
    vmm: Vmm,
    queues: Vec<Driver>,
}

impl Fixture {
    fn new(features: u64, queues: u64) -> Fixture {
        let mut vmm = Vmm::new(Balloon::new(MemorySize::DEFAULT), features);
        let queues: Vec<Driver> = (0..queues).map(|queue| Driver::new(&vmm.guest, queue, 64)).collect();
        for (index, queue) in queues.iter().enumerate() {
            vmm.start(index, queue, 0);
        }
        vmm.guest.write(BLOCK, &vec![0xaa; BLOCK as usize]);
        vmm.guest.write(BUFFERS, &[0xbb; 4096]);
        Fixture { vmm, queues }
    }

    /// Puts page numbers into a queue, as one chain.
    fn tell(&mut self, queue: usize, numbers: impl IntoIterator<Item = u32>) {
        let bytes: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
        self.vmm.guest.write(BUFFERS + 0x1000, &bytes);
        self.give(queue, &[Part::Out(BUFFERS + 0x1000, bytes.len() as u32)]);
    }

    fn give(&mut self, queue: usize, parts: &[Part]) {
        let driver = &mut self.queues[queue];
        let head = driver.add(parts);
        driver.kick();
        assert_eq!(driver.used(), (u32::from(head), 0), "nothing was written to the guest");
    }

    /// Whether the second block of memory is a hole of its file.
    fn is_hole(&self) -> bool {
        let data = rustix::fs::seek(self.vmm.guest.file(), SeekFrom::Data(BLOCK));
        data.map_or(true, |at| at >= LOW)
    }

    fn broken(&self, queue: usize) {
        self.queues[queue].wait_error();
        assert!(self.vmm.is_serving(), "its own fault alone");
    }
}

#[test]
fn a_block_of_which_all_pages_were_given_is_a_hole_and_reads_zero() {
    let mut balloon = Fixture::new(ALL, 4);
    balloon.tell(INFLATE, PAGES.skip(1));
    assert!(!balloon.is_hole(), "one page of it is the guest's");
    balloon.tell(INFLATE, [512]);
    assert!(balloon.is_hole());
    assert_eq!(balloon.vmm.guest.read(BLOCK + 77, 2), [0, 0]);
    assert_eq!(balloon.vmm.guest.read(BUFFERS, 2), [0xbb, 0xbb], "what was not given stays");
}

#[test]
fn pages_that_are_taken_back_are_kept_and_given_again_are_a_hole_again() {
    let mut balloon = Fixture::new(ALL, 4);
    balloon.tell(INFLATE, PAGES);
    balloon.tell(DEFLATE, [600]);
    balloon.vmm.guest.write(600 * 4096, b"new");
    balloon.tell(INFLATE, PAGES.filter(|page| *page != 600));
    assert!(!balloon.is_hole() && balloon.vmm.guest.read(600 * 4096, 3) == b"new");
    balloon.tell(INFLATE, [600]);
    assert!(balloon.is_hole());
}

#[test]
fn pages_given_twice_outside_of_memory_or_never_given_change_nothing() {
    let mut balloon = Fixture::new(ALL, 4);
    balloon.tell(DEFLATE, PAGES.chain([u32::MAX]));
    balloon.tell(INFLATE, std::iter::repeat_n(512, 512));
    balloon.tell(INFLATE, [(LOW >> 12) as u32, (HOLE >> 12) as u32, u32::MAX, 0x4_0000 + 256]);
    assert!(!balloon.is_hole());
    assert_eq!(balloon.vmm.guest.read(BLOCK, 2), [0xaa, 0xaa]);
}

#[test]
fn a_driver_that_does_not_tell_before_it_uses_pages_loses_none() {
    let mut balloon = Fixture::new(ALL & !MUST_TELL_HOST, 4);
    balloon.tell(INFLATE, PAGES);
    assert!(!balloon.is_hole());
}

#[test]
fn a_driver_that_begins_anew_has_given_nothing() {
    let mut balloon = Fixture::new(ALL, 4);
    balloon.tell(INFLATE, PAGES.skip(1));
    for queue in 0..4 {
        balloon.vmm.stop(queue);
    }
    balloon.vmm.front_end.reset_device().unwrap();
    for queue in 0..4 {
        balloon.queues[queue].reset();
        balloon.vmm.start(queue, &balloon.queues[queue], 0);
    }
    balloon.tell(INFLATE, [512]);
    assert!(!balloon.is_hole(), "what the driver before gave is in use again");
}

#[test]
fn what_was_given_counts_over_a_pause() {
    let mut balloon = Fixture::new(ALL, 4);
    balloon.tell(INFLATE, PAGES.skip(1));
    let bases: Vec<u16> = (0..4).map(|queue| balloon.vmm.stop(queue)).collect();
    for (queue, base) in bases.into_iter().enumerate() {
        balloon.vmm.start(queue, &balloon.queues[queue], base);
    }
    balloon.tell(INFLATE, [512]);
    assert!(balloon.is_hole());
}

#[test]
fn nothing_is_given_back_while_the_queues_stand() {
    let mut balloon = Fixture::new(ALL, 4);
    let bases: Vec<u16> = (0..4).map(|queue| balloon.vmm.stop(queue)).collect();
    balloon.queues[FOURTH].add(&[Part::In(BLOCK, BLOCK as u32)]);
    balloon.queues[FOURTH].kick();
    balloon.vmm.front_end.get_features().unwrap();
    assert!(!balloon.is_hole());
    balloon.vmm.start(FOURTH, &balloon.queues[FOURTH], bases[FOURTH]);
    balloon.queues[FOURTH].used();
    assert!(balloon.is_hole(), "but afterwards");
}

#[test]
fn free_pages_are_holes_as_far_as_they_are_whole_blocks() {
    let mut balloon = Fixture::new(ALL, 4);
    balloon.give(FOURTH, &[Part::In(BLOCK + 4096, BLOCK as u32 - 4096), Part::In(BLOCK, BLOCK as u32 - 1)]);
    assert!(!balloon.is_hole());
    balloon.give(FOURTH, &[Part::In(HOLE, BLOCK as u32), Part::In(0, u32::MAX), Part::In(BLOCK, BLOCK as u32)]);
    assert!(balloon.is_hole());
}

#[test]
fn without_statistics_the_third_queue_is_of_free_pages() {
    let mut balloon = Fixture::new(ALL & !STATS_VQ, 3);
    balloon.give(THIRD, &[Part::In(BLOCK, BLOCK as u32)]);
    assert!(balloon.is_hole());
}

#[test]
fn the_buffer_of_statistics_is_held_until_there_shall_be_new_ones() {
    let mut balloon = Fixture::new(ALL, 4);
    balloon.vmm.guest.write(BUFFERS + 0x1000, &[4, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    let stats = &mut balloon.queues[THIRD];
    let first = stats.add(&[Part::Out(BUFFERS + 0x1000, 10)]);
    stats.kick();
    assert_eq!(stats.used_within(Duration::from_millis(100)), None, "held");
    let begun = Instant::now();
    assert_eq!(stats.used_within(Duration::from_secs(60)), Some((first.into(), 0)));
    assert!(begun.elapsed() > Duration::from_secs(5), "{:?}", begun.elapsed());
    // Over a pause the same buffer is held again.
    let second = balloon.queues[THIRD].add(&[Part::Out(BUFFERS + 0x1000, 10)]);
    balloon.queues[THIRD].kick();
    let base = balloon.vmm.stop(THIRD);
    balloon.vmm.start(THIRD, &balloon.queues[THIRD], base);
    // Of two buffers the first is given back at once.
    let third = balloon.queues[THIRD].add(&[Part::Out(BUFFERS + 0x1000, 10)]);
    balloon.queues[THIRD].kick();
    assert_eq!(balloon.queues[THIRD].used(), (second.into(), 0));
    assert_ne!(second, third);
}

#[test]
fn every_queue_wants_a_kick_for_the_next_chain() {
    let mut balloon = Fixture::new(ALL | EVENT_IDX, 4);
    balloon.vmm.guest.write(BUFFERS + 0x1000, &[0; 10]);
    let numbers = Part::Out(BUFFERS + 0x1000, 8);
    for (queue, part) in [(INFLATE, numbers), (DEFLATE, numbers), (THIRD, numbers), (FOURTH, Part::In(BLOCK, 4096))] {
        let driver = &mut balloon.queues[queue];
        for count in 1..=3 {
            driver.add(&[part]);
            driver.kick();
            let deadline = Instant::now() + Duration::from_secs(20);
            while driver.avail_event() != count {
                assert!(Instant::now() < deadline, "queue {queue} waits for chain {}", driver.avail_event());
                std::thread::yield_now();
            }
        }
    }
}

#[test]
fn a_chain_of_very_many_numbers_is_read_to_its_end() {
    let mut balloon = Fixture::new(ALL, 4);
    // The same page 65,000 times, and then the block.
    balloon.tell(INFLATE, std::iter::repeat_n(700, 65_000).chain(PAGES));
    assert!(balloon.is_hole());
    balloon.tell(INFLATE, []);
}

#[test]
fn a_guest_that_gives_its_rings_breaks_its_balloon_alone() {
    let mut balloon = Fixture::new(ALL, 4);
    let driver = &mut balloon.queues[FOURTH];
    driver.add(&[Part::In(0, BLOCK as u32)]);
    driver.kick();
    // Its rings are zeros now: what it used is not told, and the next kick finds an available index of 0.
    let deadline = Instant::now() + Duration::from_secs(20);
    while balloon.vmm.guest.read(BUFFERS, 1) != [0] {
        assert!(Instant::now() < deadline, "no hole");
        std::thread::yield_now();
    }
    balloon.queues[FOURTH].kick();
    balloon.broken(FOURTH);
    for queue in 0..4 {
        balloon.vmm.stop(queue);
        balloon.queues[queue].reset();
        balloon.vmm.start(queue, &balloon.queues[queue], 0);
    }
    balloon.tell(INFLATE, PAGES);
    assert!(balloon.is_hole(), "after a reset it serves");
}

#[test]
fn what_is_no_request_breaks_the_ring() {
    let numbers = Part::Out(BUFFERS, 4);
    let buffer = Part::In(BUFFERS, 4);
    for (queue, parts) in [
        (INFLATE, vec![buffer]),
        (DEFLATE, vec![numbers, buffer]),
        (THIRD, vec![buffer]),
        (FOURTH, vec![numbers]),
        (FOURTH, vec![numbers, buffer]),
        (INFLATE, vec![Part::Out(HOLE, 4)]),
        (THIRD, vec![Part::Out(LOW - 4, 10)]),
    ] {
        let mut balloon = Fixture::new(ALL, 4);
        balloon.queues[queue].add(&parts);
        balloon.queues[queue].kick();
        balloon.broken(queue);
    }
}

#[test]
fn a_chain_that_loops_breaks_the_ring() {
    let mut balloon = Fixture::new(ALL, 4);
    let driver = &mut balloon.queues[FOURTH];
    driver.put_desc(0, Desc { addr: BLOCK, len: 4096, flags: WRITE | support::NEXT, next: 0 });
    driver.offer(0);
    driver.kick();
    balloon.broken(FOURTH);
}

#[test]
fn the_configuration_space_asks_for_nothing_at_first() {
    let mut balloon = Fixture::new(ALL, 0);
    let flags = vhost::vhost_user::message::VhostUserConfigFlags::empty();
    assert_eq!(balloon.vmm.front_end.get_config(0, 8, flags, &[0; 8]).unwrap().1, [0; 8]);
    let _: &Guest = &balloon.vmm.guest;
}
