//! The entropy device on a ring (openbsd/devices.md, 6.1 and 11.1). It is called, not connected: it runs in the vm
//! process.

mod support;

use std::sync::Arc;

use devices::entropy::{Entropy, FEATURES, MAX_BYTES, QUEUE_SIZE, Served};
use devices::queue::{RingAddresses, RingFault, SetupError};
use devices::serve_vhost::Progress;
use support::{BUFFERS, Driver, EVENT_IDX, Guest, HOLE, INDIRECT_DESC, LOW, Part, VERSION_1};
use vm_memory::GuestAddress;

fn ring(driver: &Driver) -> RingAddresses {
    RingAddresses {
        descriptors: GuestAddress(driver.desc),
        available: GuestAddress(driver.avail),
        used: GuestAddress(driver.used),
    }
}

fn device(features: u64) -> (Entropy, Driver) {
    let guest = Arc::new(Guest::new());
    let driver = Driver::new(&guest, 0, QUEUE_SIZE);
    let entropy = Entropy::new(guest.memory.clone(), ring(&driver), QUEUE_SIZE, 0, features).unwrap();
    (entropy, driver)
}

const IDLE: Served = Served { progress: Progress::Idle, interrupt: true };

#[test]
fn it_offers_what_it_does() {
    assert_eq!(FEATURES, VERSION_1 | EVENT_IDX | INDIRECT_DESC);
}

#[test]
fn every_buffer_that_waits_is_filled_in_all_its_segments() {
    let (mut entropy, mut driver) = device(0);
    for _ in 0..8 {
        driver.add(&[Part::In(BUFFERS, 100), Part::In(HOLE, 0), Part::In(BUFFERS + 0x1000, 412)]);
    }
    assert_eq!(entropy.serve(), Ok(IDLE));
    for _ in 0..8 {
        assert_eq!(driver.used().1, 512);
    }
    let bytes = [driver.guest.read(BUFFERS, 100), driver.guest.read(BUFFERS + 0x1000, 412)].concat();
    let distinct: std::collections::HashSet<u8> = bytes.iter().copied().collect();
    assert!(distinct.len() > 100, "{} values in 512 random bytes", distinct.len()); // fewer: chance below 1e-30
    assert_eq!(driver.guest.read(BUFFERS + 100, 1), [0]);
    assert_eq!(entropy.serve(), Ok(Served { interrupt: false, ..IDLE }));
}

#[test]
fn a_call_gives_no_more_than_its_bound_and_the_next_goes_on() {
    let (mut entropy, mut driver) = device(0);
    for _ in 0..5 {
        driver.add(&[Part::In(BUFFERS, 30_000)]);
    }
    assert_eq!(entropy.serve(), Ok(Served { progress: Progress::More, interrupt: true }));
    let first: Vec<u32> = (0..driver.used_idx()).map(|_| driver.used().1).collect();
    assert_eq!(first.iter().sum::<u32>() as usize, MAX_BYTES);
    assert_eq!(entropy.serve(), Ok(IDLE));
    assert_eq!(driver.used_idx(), 5);
}

#[test]
fn a_huge_buffer_gets_its_front() {
    let (mut entropy, mut driver) = device(0);
    driver.add(&[Part::In(0x20_0000, 1 << 20), Part::In(HOLE, u32::MAX)]);
    assert_eq!(entropy.serve(), Ok(Served { progress: Progress::More, interrupt: true }));
    assert_eq!(driver.used().1 as usize, MAX_BYTES);
    assert_eq!(driver.guest.read(0x20_0000 + MAX_BYTES as u64, 16), [0; 16]);
}

#[test]
fn a_readable_buffer_breaks_the_ring() {
    let (mut entropy, mut driver) = device(0);
    driver.add(&[Part::Out(BUFFERS, 16), Part::In(BUFFERS, 16)]);
    assert_eq!(entropy.serve(), Err(RingFault::Direction));
}

#[test]
fn a_buffer_outside_memory_breaks_the_ring() {
    for addr in [HOLE, LOW - 8, u64::MAX - 7] {
        let (mut entropy, mut driver) = device(0);
        driver.add(&[Part::In(addr, 16)]);
        assert_eq!(entropy.serve(), Err(RingFault::Outside), "{addr:#x}");
    }
}

#[test]
fn a_ring_that_is_broken_is_a_fault() {
    let (mut entropy, mut driver) = device(0);
    driver.offer(QUEUE_SIZE);
    assert_eq!(entropy.serve(), Err(RingFault::Index(QUEUE_SIZE)));
    let (mut entropy, driver) = device(0);
    driver.set_avail_idx(QUEUE_SIZE + 1);
    assert_eq!(entropy.serve(), Err(RingFault::AvailableIndex));
}

#[test]
fn a_ring_that_can_not_be_is_refused() {
    let guest = Arc::new(Guest::new());
    let driver = Driver::new(&guest, 0, QUEUE_SIZE);
    let new = |ring, size| Entropy::new(guest.memory.clone(), ring, size, 0, 0).err();
    let good = ring(&driver);
    for size in [0, 3, 2048] {
        assert_eq!(new(good, size), Some(SetupError::Size(size)));
    }
    let hole = GuestAddress(HOLE);
    assert_eq!(new(RingAddresses { used: hole, ..good }, 64), Some(SetupError::Outside(hole)));
    let odd = GuestAddress(driver.avail + 1);
    assert_eq!(new(RingAddresses { available: odd, ..good }, 64), Some(SetupError::Alignment(odd)));
    assert_eq!(new(good, 64), None);
}

#[test]
fn interrupts_are_held_back_where_the_driver_wants() {
    let (mut entropy, mut driver) = device(EVENT_IDX);
    driver.add(&[Part::In(BUFFERS, 8)]);
    assert!(entropy.serve().unwrap().interrupt);
    driver.set_used_event(2);
    driver.add(&[Part::In(BUFFERS, 8)]);
    assert!(!entropy.serve().unwrap().interrupt);
    driver.add(&[Part::In(BUFFERS, 8)]);
    assert!(entropy.serve().unwrap().interrupt);
}

#[test]
fn another_goes_on_where_it_stood() {
    let (mut entropy, mut driver) = device(0);
    for _ in 0..3 {
        driver.add(&[Part::In(BUFFERS, 8)]);
    }
    entropy.serve().unwrap();
    let saved = entropy.save();
    assert_eq!(saved.last_avail, 3);
    let mut next = Entropy::new(driver.guest.memory.clone(), saved.addresses, saved.size, saved.last_avail, 0).unwrap();
    driver.add(&[Part::In(BUFFERS, 9)]);
    next.serve().unwrap();
    assert_eq!(driver.used_idx(), 4);
    assert_eq!((0..4).map(|_| driver.used().1).collect::<Vec<_>>(), [8, 8, 8, 9]);
}
