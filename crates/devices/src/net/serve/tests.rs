//! Frames between rings in memory and a packet socket: what a card does by itself, without a front end and its thread.

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::queue::RingSetup;
use crate::queue::driver::{BUFFERS, Driver, SETUP, USED};

const MAC: [u8; 6] = [0xfe, 0xe1, 0xbb, 0xd1, 2, 3];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];

const TRANSMIT: usize = 1;

const CSUM: u64 = 1;
const GUEST_CSUM: u64 = 1 << 1;
const GUEST_TSO4: u64 = 1 << 7;
const GUEST_TSO6: u64 = 1 << 8;
const HOST_TSO4: u64 = 1 << 11;
const HOST_TSO6: u64 = 1 << 12;
const MRG_RXBUF: u64 = 1 << 15;

struct Fixture {
    net: Net,
    rx: Driver,
    tx: Driver,
    wire: OwnedFd,
}

impl Fixture {
    fn new(size: u16) -> Fixture {
        let (tap, wire) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let net = Net::new(Tap::new(tap).unwrap(), Card { mac: MAC, locked: false, guarded: false });
        let driver = || Driver::new(RingSetup { size, ..SETUP });
        Fixture { net, rx: driver(), tx: driver(), wire }
    }

    fn leasing(size: u16) -> Fixture {
        let Fixture { net, rx, tx, wire } = Fixture::new(size);
        let lease = Lease {
            mac: MAC,
            host_mac: OTHER,
            host: [100, 64, 1, 2].into(),
            address: [100, 64, 1, 3].into(),
            name_servers: vec![],
            name: None,
            net_boot: false,
        };
        Fixture { net: net.leasing(lease), rx, tx, wire }
    }

    /// Offers buffers of these lengths.
    fn buffers(&mut self, lens: &[u32]) {
        for (index, len) in (0u16..).zip(lens) {
            self.rx.describe(0x1000, index, (BUFFERS + u64::from(index) * 0x800, *len), 2, 0);
            self.rx.offer(index);
        }
    }

    /// Gives the card a frame from outside.
    fn inject(&self, len: usize) {
        send(&self.wire, &vec![0; 12 + len], SendFlags::NOSIGNAL).unwrap();
    }

    /// Offers a frame to be sent, `count` times.
    fn offer(&mut self, bytes: &[u8], count: usize) {
        self.tx.memory.write_slice(bytes, GuestAddress(BUFFERS)).unwrap();
        self.tx.describe(0x1000, 0, (BUFFERS, bytes.len() as u32), 0, 0);
        (0..count).for_each(|_| self.tx.offer(0));
    }

    fn received(&mut self) -> Progress {
        self.net.kicked(RECEIVE, &mut self.rx.active()).unwrap()
    }

    fn transmitted(&mut self) -> Progress {
        self.net.kicked(TRANSMIT, &mut self.tx.active()).unwrap()
    }

    /// How many frames have come out.
    fn heard(&self) -> usize {
        let mut bytes = [0; 2000];
        std::iter::from_fn(|| recv(&self.wire, &mut bytes, RecvFlags::DONTWAIT).ok()).count()
    }

    /// Lengths of the used buffers.
    fn lens(&self) -> Vec<u32> {
        (0..self.rx.used()).map(|slot| self.rx.element(slot.into())[1]).collect()
    }
}

/// A DISCOVER behind its header, with this UDP checksum.
fn discover(checksum: [u8; 2]) -> Vec<u8> {
    let mut bytes = [&[0; 12][..], &[0xff; 6], &MAC, &[0x08, 0x00]].concat();
    let mut ip = vec![0x45, 0, 1, 0x48, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255];
    let sum: u32 = ip.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    ip[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    bytes.extend(ip);
    bytes.extend([0, 68, 0, 67, 1, 0x34, checksum[0], checksum[1], 1, 1, 6, 0, 1, 2, 3, 4]);
    bytes.resize(12 + 14 + 20 + 8 + 28, 0);
    bytes.extend(MAC);
    bytes.resize(12 + 14 + 20 + 8 + 236, 0);
    bytes.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255]);
    bytes.resize(12 + 14 + 20 + 8 + 300, 0);
    bytes
}

// What was negotiated

#[test]
fn each_feature_is_offered_by_its_bit() {
    let every = 1 << 5 | 1 << 15 | 1 << 28 | 1 << 29 | 1 << 32;
    assert_eq!(FEATURES, every);
    assert_eq!(OFFLOADING, every | CSUM | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | HOST_TSO4 | HOST_TSO6);
    let fixture = Fixture::new(4);
    assert_eq!((fixture.net.features(), fixture.net.queues()), (every, 2));
    assert_eq!(fixture.net.config(), MAC);
}

#[test]
fn each_direction_has_the_offloads_that_were_accepted_for_it() {
    let none = Offloads::default();
    let of = |checksum, tso4, tso6| Offloads { checksum, tso4, tso6 };
    for (features, transmit, receive) in [
        (0, none, none),
        (CSUM, of(true, false, false), none),
        (CSUM | HOST_TSO4, of(true, true, false), none),
        (CSUM | HOST_TSO6, of(true, false, true), none),
        (HOST_TSO4 | HOST_TSO6 | GUEST_CSUM, none, of(true, false, false)), // segmentation needs the checksum
        (GUEST_CSUM | GUEST_TSO4, none, of(true, true, false)),
        (GUEST_CSUM | GUEST_TSO6, none, of(true, false, true)),
        (GUEST_TSO4 | GUEST_TSO6, none, none),
    ] {
        let mut net = Fixture::new(4).net;
        net.accept(features);
        assert_eq!((net.transmit.offloads, net.receive.offloads), (transmit, receive), "{features:#x}");
        assert_eq!(net.save(), State { features });
        net.accept(MRG_RXBUF);
        assert!(net.receive.mergeable && net.transmit.offloads == none);
        net.restore(State { features });
        assert_eq!((net.transmit.offloads, net.receive.mergeable), (transmit, false));
    }
}

// Receiving

#[test]
fn the_tap_is_watched_while_there_is_room_and_it_works() {
    let mut fixture = Fixture::new(4);
    let later = Instant::now();
    for (full, quiet, watched) in
        [(false, None, true), (true, None, false), (false, Some(later), false), (true, Some(later), false)]
    {
        (fixture.net.receive.full, fixture.net.receive.quiet) = (full, quiet);
        assert_eq!(fixture.net.source().is_some(), watched, "full {full}, quiet {quiet:?}");
        assert_eq!((fixture.net.receive.full, fixture.net.deadline()), (full, quiet));
    }
}

#[test]
fn an_answer_is_due_while_there_is_room_for_it() {
    let mut fixture = Fixture::leasing(4);
    fixture.offer(&discover([0, 0]), 1);
    assert_eq!(fixture.transmitted(), Progress::Idle);
    assert_eq!(fixture.heard(), 0, "it is not sent on");
    assert_eq!(fixture.net.deadline(), None, "the guest has no buffers");
    fixture.net.receive.full = false;
    let due = fixture.net.deadline().unwrap();
    let later = due + std::time::Duration::from_secs(1);
    fixture.net.receive.quiet = Some(later);
    assert_eq!(fixture.net.deadline(), Some(due), "the sooner of both");
    fixture.net.stop(TRANSMIT, None);
    assert_eq!(fixture.net.deadline(), Some(due));
    fixture.net.stop(RECEIVE, None);
    assert_eq!(fixture.net.deadline(), None);
    fixture.net.receive.full = false;
    assert_eq!(fixture.net.deadline(), None, "the answer is forgotten");
}

#[test]
fn what_waits_is_lost_when_the_queue_stops_or_breaks() {
    let mut fixture = Fixture::new(4);
    let waits = |net: &mut Net| {
        (net.receive.waiting, net.receive.full, net.receive.quiet) = (Some(60), false, Some(Instant::now()));
    };
    let state = |net: &Net| (net.receive.waiting, net.receive.full, net.receive.quiet.is_some());
    waits(&mut fixture.net);
    fixture.net.stop(TRANSMIT, None);
    assert_eq!(state(&fixture.net), (Some(60), false, true));
    fixture.net.stop(RECEIVE, None);
    assert_eq!(state(&fixture.net), (None, true, false));
    waits(&mut fixture.net);
    assert_eq!(fixture.net.ready(None), Ok(Progress::Idle));
    assert_eq!(state(&fixture.net), (None, true, false));
}

#[test]
fn kicks_are_wanted_only_without_buffers() {
    let mut fixture = Fixture::new(4);
    assert_eq!(fixture.received(), Progress::Idle);
    assert_eq!((fixture.rx.at(USED), fixture.net.receive.full), (0, true));
    fixture.buffers(&[100, 100]);
    assert_eq!(fixture.received(), Progress::Idle);
    assert_eq!((fixture.rx.at(USED), fixture.net.receive.full), (1, false));
    fixture.inject(60);
    fixture.inject(60);
    assert_eq!(fixture.net.ready(Some(&mut fixture.rx.active())), Ok(Progress::Idle));
    assert_eq!((fixture.rx.at(USED), fixture.net.receive.full), (0, true));
    assert_eq!(fixture.lens(), [72, 72]);
    assert!(fixture.rx.was_called());
}

#[test]
fn after_a_batch_others_get_their_turn() {
    let mut fixture = Fixture::new(128);
    fixture.rx.describe(0x1000, 0, (BUFFERS, 100), 2, 0);
    (0..70).for_each(|_| fixture.rx.offer(0));
    (0..66).for_each(|_| fixture.inject(60));
    assert_eq!(fixture.received(), Progress::More);
    assert_eq!(fixture.rx.used(), 64);
    assert_eq!(fixture.received(), Progress::Idle);
    assert_eq!(fixture.rx.used(), 66);
}

#[test]
fn buffers_of_the_least_length_are_used() {
    let mut fixture = Fixture::new(4);
    fixture.buffers(&[26]);
    fixture.inject(14);
    assert_eq!(fixture.received(), Progress::Idle);
    assert_eq!(fixture.lens(), [26]);
    let mut fixture = Fixture::new(4);
    fixture.net.accept(MRG_RXBUF);
    fixture.buffers(&[12, 12, 12, 12]);
    fixture.inject(24);
    assert_eq!(fixture.received(), Progress::Idle);
    assert_eq!(fixture.lens(), [12, 12, 12], "no more than the frame fills");
    assert_eq!(fixture.rx.at(BUFFERS + 10), 3, "num_buffers");
}

#[test]
fn buffers_that_are_too_short_or_readable_break_the_ring() {
    for (features, len) in [(0, 25), (0, 12), (0, 1), (MRG_RXBUF, 11), (MRG_RXBUF, 1), (MRG_RXBUF, 0)] {
        let mut fixture = Fixture::new(4);
        fixture.net.accept(features);
        fixture.buffers(&[len]);
        fixture.inject(60);
        let outcome = fixture.net.kicked(RECEIVE, &mut fixture.rx.active());
        assert_eq!(outcome, Err(RingFault::TooShort), "{len} bytes");
    }
    let mut fixture = Fixture::new(4);
    fixture.rx.describe(0x1000, 0, (BUFFERS, 1), 1, 1);
    fixture.rx.describe(0x1000, 1, (BUFFERS, 100), 2, 0);
    fixture.rx.offer(0);
    fixture.inject(60);
    assert_eq!(fixture.net.kicked(RECEIVE, &mut fixture.rx.active()), Err(RingFault::Direction));
}

#[test]
fn what_fits_no_buffer_or_is_no_frame_is_dropped_and_takes_none() {
    let mut fixture = Fixture::new(4);
    fixture.buffers(&[30]);
    fixture.inject(60);
    fixture.inject(13);
    assert_eq!(fixture.received(), Progress::Idle);
    assert_eq!(fixture.rx.used(), 0);
    fixture.inject(18);
    assert_eq!(fixture.received(), Progress::Idle);
    assert_eq!(fixture.lens(), [30]);
}

#[test]
fn an_answer_of_ours_comes_as_a_frame_does() {
    let mut fixture = Fixture::leasing(4);
    fixture.offer(&discover([0, 0]), 1);
    fixture.transmitted();
    fixture.buffers(&[1600]);
    assert_eq!(fixture.received(), Progress::Idle);
    assert_eq!(fixture.lens(), [12 + 14 + 20 + 8 + 300]);
    let frame: [u8; 18] = fixture.rx.memory.read_obj(GuestAddress(BUFFERS)).unwrap();
    assert_eq!((&frame[..12], &frame[12..]), (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0][..], &MAC[..]));
    assert_eq!(fixture.net.deadline(), None);
}

// Transmitting

#[test]
fn after_as_many_frames_as_the_ring_has_entries_others_get_their_turn() {
    let mut fixture = Fixture::new(4);
    fixture.offer(&[0; 100], 4);
    assert_eq!(fixture.transmitted(), Progress::More);
    assert_eq!((fixture.heard(), fixture.tx.used(), fixture.tx.at(USED)), (4, 4, 1), "kicks are off meanwhile");
    assert!(fixture.tx.was_called());
    assert_eq!(fixture.transmitted(), Progress::Idle);
    assert_eq!((fixture.heard(), fixture.tx.used(), fixture.tx.at(USED)), (0, 4, 0));
    fixture.offer(&[0; 100], 1);
    assert_eq!(fixture.transmitted(), Progress::Idle);
    assert_eq!((fixture.heard(), fixture.tx.element(0)), (1, [0, 0]));
}

#[test]
fn a_frame_with_a_part_to_be_written_breaks_the_ring() {
    let mut fixture = Fixture::new(4);
    fixture.tx.describe(0x1000, 0, (BUFFERS, 100), 1, 1);
    fixture.tx.describe(0x1000, 1, (BUFFERS, 100), 2, 0);
    fixture.tx.offer(0);
    assert_eq!(fixture.net.kicked(TRANSMIT, &mut fixture.tx.active()), Err(RingFault::Direction));
    assert_eq!(fixture.heard(), 0);
}

#[test]
fn a_request_with_a_wrong_checksum_is_no_request() {
    let mut fixture = Fixture::leasing(4);
    fixture.offer(&discover([1, 2]), 1);
    fixture.transmitted();
    assert_eq!(fixture.heard(), 1, "it is sent on");
    // the guest leaves this checksum to the host: it is not there yet
    fixture.net.accept(CSUM);
    let mut left = discover([1, 2]);
    left[0] = 1;
    fixture.offer(&left, 1);
    fixture.transmitted();
    assert_eq!(fixture.heard(), 0);
}
