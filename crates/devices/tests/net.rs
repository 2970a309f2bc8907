//! A network card through its socket, with a packet socket in the tap's place: it carries the same header and frames
//! (openbsd/devices.md, 11.1 and 11.4).

mod support;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use devices::net::{Card, Lease, Net, Tap};
use devices::serve_vhost::Ended;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use support::{BUFFERS, Desc, Driver, EVENT_IDX, Guest, HOLE, LOW, NEXT, Part, VERSION_1, Vmm, WRITE, readable_within};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;

const MAC: [u8; 6] = [0xfe, 0xe1, 0xbb, 0xd1, 2, 3];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];
const MRG_RXBUF: u64 = 1 << 15;
const F_MAC: u64 = 1 << 5;

const RX: usize = 0;
const TX: usize = 1;

const PATIENCE: Duration = Duration::from_secs(20);

struct Fixture {
    vmm: Vmm,
    rx: Driver,
    tx: Driver,
    wire: OwnedFd,
}

impl Fixture {
    fn new(locked: bool, features: u64) -> Fixture {
        Fixture::with(locked, features, 64)
    }

    fn with(locked: bool, features: u64, size: u16) -> Fixture {
        Fixture::of(Card { mac: MAC, locked, guarded: false }, features, size, |net| net)
    }

    /// A card whose guest is told its address.
    fn leasing(features: u64) -> Fixture {
        let lease = Lease {
            mac: MAC,
            host_mac: OTHER,
            host: [100, 64, 1, 2].into(),
            address: [100, 64, 1, 3].into(),
            name_servers: vec![],
            name: None,
            net_boot: false,
        };
        let card = Card { mac: MAC, locked: true, guarded: false };
        Fixture::of(card, features, 64, |net| net.leasing(lease))
    }

    fn of(card: Card, features: u64, size: u16, change: impl FnOnce(Net) -> Net) -> Fixture {
        let (tap, wire) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&tap, 1 << 20).unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&wire, 1 << 20).unwrap();
        let net = change(Net::new(Tap::new(tap).unwrap(), card));
        let mut vmm = Vmm::new(net, features | VERSION_1 | F_MAC);
        let (rx, tx) = (Driver::new(&vmm.guest, 0, size), Driver::new(&vmm.guest, 1, size));
        vmm.start(RX, &rx, 0);
        vmm.start(TX, &tx, 0);
        Fixture { vmm, rx, tx, wire }
    }

    fn guest(&self) -> &Guest {
        &self.vmm.guest
    }

    /// Sends a frame from the guest, header and frame cut into these lengths (the last part takes the rest).
    fn transmit(&mut self, header: [u8; 12], frame: &[u8], cuts: &[usize]) {
        let bytes = [&header[..], frame].concat();
        let mut parts = Vec::new();
        let mut at = 0;
        for cut in cuts.iter().copied().chain([bytes.len()]) {
            let len = cut.min(bytes.len() - at);
            // apart from each other, so that nothing is whole by luck
            let place = BUFFERS + 0x2_0000 + parts.len() as u64 * 0x1000;
            self.guest().write(place, &bytes[at..at + len]);
            parts.push(Part::Out(place, len as u32));
            at += len;
        }
        let head = self.tx.add(&parts);
        self.tx.kick();
        assert_eq!(self.tx.used(), (u32::from(head), 0), "nothing was written to the guest");
    }

    /// What comes out of the card, without its header.
    fn heard(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut bytes = [0; 70000];
        match recv(&self.wire, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((len, _)) => Some((bytes[..12].to_vec(), bytes[12..len].to_vec())),
            Err(_) => None,
        }
    }

    /// Gives the card a frame from outside.
    fn inject(&self, header: [u8; 12], frame: &[u8]) {
        send(&self.wire, &[&header[..], frame].concat(), SendFlags::NOSIGNAL).unwrap();
    }

    fn offer_buffers(&mut self, count: u64, len: u32) {
        for _ in 0..count {
            let place = self.buffer(u64::from(self.rx.next));
            self.guest().write(place, &vec![0xee; len as usize]);
            self.rx.add(&[Part::In(place, len)]);
        }
        self.rx.kick();
    }

    fn buffer(&self, index: u64) -> u64 {
        BUFFERS + 0x1000 + (index % 64) * 0x800
    }

    fn heals(&mut self, broken: usize) {
        if broken == RX {
            self.rx.wait_error()
        } else {
            self.tx.wait_error()
        }
        // the whole device stopped
        let used = (self.rx.used_idx(), self.tx.used_idx());
        self.tx.add(&[Part::Out(BUFFERS, 60)]);
        self.tx.kick();
        assert_eq!(self.tx.used_within(Duration::from_millis(30)), None, "served while it needs a reset");
        assert_eq!((self.rx.used_idx(), self.tx.used_idx()), used);
        for queue in [RX, TX] {
            self.vmm.stop(queue);
        }
        self.rx.reset();
        self.tx.reset();
        while self.heard().is_some() {}
        self.vmm.start(RX, &self.rx, 0);
        self.vmm.start(TX, &self.tx, 0);
        self.transmit([0; 12], &frame(OTHER, MAC, 60), &[]);
        assert!(self.heard().is_some());
    }
}

fn frame(to: [u8; 6], from: [u8; 6], len: usize) -> Vec<u8> {
    let mut bytes = [&to[..], &from, &[0x08, 0x00]].concat();
    bytes.extend((0..=255u8).cycle().take(len.max(14) - 14));
    bytes
}

/// A DISCOVER of the guest; its UDP checksum is none.
fn discover() -> Vec<u8> {
    let mut bytes = [&[0xff; 6][..], &MAC, &[0x08, 0x00]].concat();
    let mut ip = vec![0x45, 0, 1, 0x48, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255];
    let words = ip.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum = words.sum::<u32>();
    ip[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    bytes.extend(ip);
    bytes.extend([0, 68, 0, 67, 1, 0x34, 0, 0, 1, 1, 6, 0, 1, 2, 3, 4]);
    bytes.resize(14 + 20 + 8 + 28, 0);
    bytes.extend(MAC);
    bytes.resize(14 + 20 + 8 + 236, 0);
    bytes.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255]);
    bytes.resize(14 + 20 + 8 + 300, 0);
    bytes
}

// What a card is for

#[test]
fn a_request_is_answered_to_the_guest_and_not_sent_on() {
    for features in [0, MRG_RXBUF, MRG_RXBUF | EVENT_IDX] {
        let mut fixture = Fixture::leasing(features);
        fixture.offer_buffers(1, 1600);
        for cuts in [vec![], vec![12], vec![3, 30, 1, 200]] {
            fixture.transmit([0; 12], &discover(), &cuts);
            let (id, len) = fixture.rx.used_within(PATIENCE).expect("an answer");
            let frame = fixture.guest().read(fixture.buffer(u64::from(id)), len as usize);
            assert_eq!(&frame[12..18], MAC);
            assert_eq!(&frame[12 + 58..12 + 62], [100, 64, 1, 3], "the address, {cuts:?}");
            assert_eq!(fixture.heard(), None, "nothing goes out");
            fixture.offer_buffers(1, 1600);
        }
        let other = frame(OTHER, MAC, 342);
        fixture.transmit([0; 12], &other, &[]);
        assert_eq!(fixture.heard().map(|(_, frame)| frame), Some(other), "what is no request goes out");
    }
}

#[test]
fn d9_requests_without_buffers_hold_nobody_up() {
    let mut fixture = Fixture::leasing(MRG_RXBUF);
    for _ in 0..10_000 {
        fixture.transmit([0; 12], &discover(), &[]);
    }
    assert_eq!(fixture.heard(), None);
    fixture.offer_buffers(32, 1600);
    for _ in 0..16 {
        fixture.rx.used_within(PATIENCE).expect("an answer");
    }
    assert_eq!(fixture.rx.used_within(Duration::from_millis(50)), None, "the rest was dropped");
}

#[test]
fn a_card_that_is_not_local_sends_requests_on() {
    let mut fixture = Fixture::new(true, 0);
    fixture.transmit([0; 12], &discover(), &[]);
    assert_eq!(fixture.heard().map(|(_, frame)| frame), Some(discover()));
}

#[test]
fn frames_go_out_whole_however_they_are_cut() {
    let mut fixture = Fixture::new(false, 0);
    let frame = frame(OTHER, MAC, 100);
    // the header alone; header split 6 + 6; the Ethernet header split at each byte
    let mut cuts = vec![vec![], vec![12], vec![6, 6], vec![0, 5, 0, 7]];
    cuts.extend((1..14).map(|byte| vec![12 + byte]));
    cuts.push(vec![1; 60]);
    for cut in cuts {
        fixture.transmit([0; 12], &frame, &cut);
        assert_eq!(fixture.heard(), Some((vec![0; 12], frame.clone())), "{cut:?}");
    }
}

#[test]
fn frames_come_in_with_their_header_whole() {
    for features in [0, MRG_RXBUF, EVENT_IDX, MRG_RXBUF | EVENT_IDX] {
        let mut fixture = Fixture::new(false, features);
        fixture.offer_buffers(8, 2048);
        for index in 0..8 {
            let frame = frame(MAC, OTHER, 60 + index as usize);
            fixture.inject([0; 12], &frame);
            let (head, len) = fixture.rx.used();
            assert_eq!((u64::from(head), len as usize), (index, 12 + frame.len()));
            let place = fixture.buffer(index);
            assert_eq!(fixture.guest().read(place, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]); // N5: num_buffers 1
            assert_eq!(fixture.guest().read(place + 12, frame.len()), frame);
            assert_eq!(fixture.guest().read(place + 12 + frame.len() as u64, 1), [0xee]);
        }
        assert!(fixture.rx.was_called(PATIENCE));
    }
}

#[test]
fn a_large_frame_fills_several_buffers_that_come_at_once() {
    let mut fixture = Fixture::new(false, MRG_RXBUF);
    fixture.offer_buffers(10, 1500);
    let frame = frame(MAC, OTHER, 9000);
    fixture.inject([0; 12], &frame);
    let lens: Vec<usize> = (0..7).map(|_| fixture.rx.used().1 as usize).collect();
    assert_eq!(lens, [1500, 1500, 1500, 1500, 1500, 1500, 12]);
    let mut bytes = Vec::new();
    for (index, len) in lens.iter().enumerate() {
        bytes.extend(fixture.guest().read(fixture.buffer(index as u64), *len));
    }
    assert_eq!(bytes[10..12], [7, 0]);
    assert_eq!(bytes[12..], frame);
}

#[test]
fn the_address_is_in_the_configuration_space() {
    let mut fixture = Fixture::new(false, 0);
    let (_, bytes) = fixture.vmm.front_end.get_config(0, 8, VhostUserConfigFlags::empty(), &[0; 8]).unwrap();
    assert_eq!(bytes, [&MAC[..], &[0, 0]].concat());
}

#[test]
fn what_is_no_tap_offers_no_offloads() {
    let fixture = Fixture::new(false, 0);
    let offered = fixture.vmm.front_end.get_features().unwrap();
    assert_eq!(offered & 0x1983, 0);
    assert_eq!(offered & (F_MAC | MRG_RXBUF | VERSION_1), F_MAC | MRG_RXBUF | VERSION_1);
}

#[test]
fn a_front_end_that_hangs_up_ends_it() {
    assert_eq!(Fixture::new(false, 0).vmm.end(), Ended::FrontEnd);
}

// 11.4

#[test]
fn n1_less_than_a_header_breaks_the_ring() {
    let mut fixture = Fixture::new(false, 0);
    for parts in [vec![Part::Out(BUFFERS, 11)], vec![Part::Out(BUFFERS, 0)], vec![Part::Out(BUFFERS, 1); 11]] {
        fixture.tx.add(&parts);
        fixture.tx.kick();
        fixture.heals(TX);
    }
}

#[test]
fn n1_frames_too_short_or_too_long_are_dropped() {
    let mut fixture = Fixture::new(false, 0);
    for len in [0, 1, 13] {
        fixture.transmit([0; 12], &frame(OTHER, MAC, 60)[..len], &[12]);
        assert_eq!(fixture.heard(), None, "{len} bytes");
    }
    fixture.transmit([0; 12], &frame(OTHER, MAC, 14), &[12]);
    assert!(fixture.heard().is_some());
    fixture.transmit([0; 12], &frame(OTHER, MAC, 65553), &[]);
    assert!(fixture.heard().is_some());
    fixture.transmit([0; 12], &frame(OTHER, MAC, 65554), &[]);
    assert_eq!(fixture.heard(), None);
    let head = fixture.tx.add(&[Part::Out(BUFFERS, 12), Part::Out(0, u32::MAX), Part::Out(0, u32::MAX)]);
    fixture.tx.kick();
    assert_eq!(fixture.tx.used(), (u32::from(head), 0));
}

#[test]
fn n2_a_locked_guest_can_not_send_in_another_name() {
    let mut fixture = Fixture::new(true, 0);
    let mut cuts = vec![vec![], vec![12]];
    cuts.extend((1..14).map(|byte| vec![12 + byte]));
    cuts.push(vec![1; 30]);
    let spoofed = [frame(MAC, OTHER, 60), frame(OTHER, [0xff; 6], 60), frame(OTHER, [0x01, 0, 0x5e, 0, 0, 1], 60)];
    for cut in &cuts {
        for frame in &spoofed {
            for kind in [[0x08, 0x00], [0x81, 0x00], [0x00, 0x2e]] {
                let mut frame = frame.clone();
                frame[12..14].copy_from_slice(&kind);
                fixture.transmit([0; 12], &frame, cut);
                assert_eq!(fixture.heard(), None, "{cut:?}");
            }
        }
        fixture.transmit([0; 12], &frame(OTHER, MAC, 60), cut);
        assert!(fixture.heard().is_some(), "{cut:?}");
    }
}

/// An ARP reply, and a neighbour advertisement, from the card but with this address in them.
fn claims(mac: [u8; 6]) -> [Vec<u8>; 2] {
    let arp = [&[0xff; 6][..], &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &mac, &[10, 0, 0, 1], &OTHER, &[10, 0, 0, 2]];
    let ip = [0x60, 0, 0, 0, 0, 32, 58, 255];
    let advertisement = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &[0xfe; 16], &[2, 1], &mac];
    let nd = [&[&[0x33, 0x33, 0, 0, 0, 1][..], &MAC, &[0x86, 0xdd], &ip, &[0xfe; 32]][..], &advertisement].concat();
    [arp.concat(), nd.concat()]
}

#[test]
fn n2_a_locked_guest_can_not_claim_another_address_by_arp_or_neighbour_discovery() {
    let mut fixture = Fixture::new(true, 0);
    for cut in [vec![], vec![12], vec![26], vec![74], vec![1; 40]] {
        for claim in claims(OTHER) {
            let tagged = [&claim[..12], &[0x81, 0, 0, 5], &claim[12..]].concat();
            for claim in [claim, tagged] {
                fixture.transmit([0; 12], &claim, &cut);
                assert_eq!(fixture.heard(), None, "{cut:?} {claim:x?}");
            }
        }
        for claim in claims(MAC) {
            fixture.transmit([0; 12], &claim, &cut);
            assert_eq!(fixture.heard(), Some((vec![0; 12], claim)), "{cut:?}");
        }
    }
    let mut open = Fixture::new(false, 0);
    for claim in claims(OTHER) {
        open.transmit([0; 12], &claim, &[]);
        assert!(open.heard().is_some(), "only a locked card is held to its address");
    }
}

/// An offer of a DHCP server, and a router advertisement, from the card; and what its clients say in the same way.
fn servers_and_clients() -> [[Vec<u8>; 2]; 2] {
    let udp = |from: u8, to: u8| {
        let ip = [0x45, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        [&[0xff; 6][..], &MAC, &[8, 0], &ip, &[0, from, 0, to, 0, 16, 0, 0], &[2; 8]].concat()
    };
    let router = |kind: u8| {
        let message = [&[kind, 0, 0, 0, 64, 0, 7, 8, 1, 1][..], &MAC].concat();
        let ip = [&[0x60, 0, 0, 0, 0, 16, 58, 255][..], &[0xfe; 32]].concat();
        [&[0x33, 0x33, 0, 0, 0, 1][..], &MAC, &[0x86, 0xdd], &ip, &message].concat()
    };
    [[udp(67, 68), router(134)], [udp(68, 67), router(133)]]
}

#[test]
fn a_guarded_guest_is_heard_as_a_client_and_not_as_a_server_or_router() {
    for locked in [false, true] {
        let card = Card { mac: MAC, locked, guarded: true };
        let mut fixture = Fixture::of(card, 0, 64, |net| net);
        let [servers, clients] = servers_and_clients();
        for cut in [vec![], vec![12], vec![26], vec![46, 1], vec![66], vec![1; 40]] {
            for frame in &servers {
                let tagged = [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
                for frame in [frame, &tagged] {
                    fixture.transmit([0; 12], frame, &cut);
                    assert_eq!(fixture.heard(), None, "{cut:?} {frame:x?}");
                }
            }
            for frame in &clients {
                fixture.transmit([0; 12], frame, &cut);
                assert_eq!(fixture.heard(), Some((vec![0; 12], frame.clone())), "{cut:?}");
            }
        }
    }
    let mut open = Fixture::new(true, 0);
    for frame in servers_and_clients().concat() {
        open.transmit([0; 12], &frame, &[]);
        assert!(open.heard().is_some(), "only a guarded card's is looked at for it");
    }
}

#[test]
fn n2_a_locked_guest_sees_nothing_that_is_for_others() {
    let mut fixture = Fixture::new(true, 0);
    fixture.offer_buffers(4, 2048);
    fixture.inject([0; 12], &frame(OTHER, OTHER, 60));
    fixture.inject([0; 12], &frame(MAC, OTHER, 61)); // a dropped frame does not end the batch
    fixture.inject([0; 12], &frame(OTHER, OTHER, 62));
    fixture.inject([0; 12], &frame([0xff; 6], OTHER, 63));
    assert_eq!(fixture.rx.used(), (0, 12 + 61));
    assert_eq!(fixture.rx.used(), (1, 12 + 63));
    let untouched = fixture.buffer(2);
    assert_eq!(fixture.guest().read(untouched, 2048), vec![0xee; 2048]);
}

#[test]
fn n3_headers_that_ask_for_what_was_not_negotiated_are_dropped() {
    let mut fixture = Fixture::new(false, 0);
    let whole = frame(OTHER, MAC, 100);
    for header in [
        [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0],  // a checksum
        [0, 1, 54, 0, 100, 0, 0, 0, 0, 0, 0, 0], // segmentation
        [1, 4, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0],
        [0, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        fixture.transmit(header, &whole, &[]);
        assert_eq!(fixture.heard(), None, "{header:?}");
    }
    // what means nothing is not passed on
    fixture.transmit([2, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9], &whole, &[]);
    assert_eq!(fixture.heard(), Some((vec![0; 12], whole.clone())));
    fixture.offer_buffers(2, 2048);
    fixture.inject([1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0], &whole);
    fixture.inject([0; 12], &whole[..70]);
    assert_eq!(fixture.rx.used(), (0, 12 + 70));
}

#[test]
fn n4_buffers_that_are_too_small_break_the_ring() {
    for (features, lens) in [(0, [0, 12, 25]), (MRG_RXBUF, [0, 1, 11])] {
        for len in lens {
            let mut fixture = Fixture::new(false, features);
            fixture.rx.add(&[Part::In(BUFFERS, len)]);
            fixture.rx.kick();
            fixture.inject([0; 12], &frame(MAC, OTHER, 60));
            fixture.heals(RX);
        }
    }
}

#[test]
fn n4_readable_buffers_break_the_ring() {
    let mut fixture = Fixture::new(false, 0);
    fixture.rx.add(&[Part::Out(BUFFERS, 100), Part::In(BUFFERS, 2000)]);
    fixture.rx.kick();
    fixture.inject([0; 12], &frame(MAC, OTHER, 60));
    fixture.heals(RX);
}

#[test]
fn n4_writable_parts_of_a_sent_frame_break_the_ring() {
    let mut fixture = Fixture::new(false, 0);
    fixture.tx.add(&[Part::Out(BUFFERS, 100), Part::In(BUFFERS, 100)]);
    fixture.tx.kick();
    fixture.heals(TX);
}

#[test]
fn n4_without_buffers_frames_wait_and_nothing_spins() {
    let mut fixture = Fixture::new(false, 0);
    fixture.inject([0; 12], &frame(MAC, OTHER, 60));
    let before = fixture.vmm.cpu();
    assert_eq!(fixture.rx.used_within(Duration::from_millis(300)), None);
    let spent = fixture.vmm.cpu() - before;
    assert!(spent < Duration::from_millis(150), "{spent:?} of CPU in 300 ms without a buffer");
    fixture.offer_buffers(1, 2048);
    assert_eq!(fixture.rx.used(), (0, 72));
    fixture.inject([0; 12], &frame(MAC, OTHER, 80));
    assert_eq!(fixture.rx.used_within(Duration::from_millis(30)), None);
    fixture.offer_buffers(1, 2048);
    assert_eq!(fixture.rx.used(), (1, 92));
}

#[test]
fn n4_a_buffer_of_many_segments_is_filled() {
    let mut fixture = Fixture::with(false, 0, 1024);
    let parts: Vec<Part> = (0..1024).map(|place| Part::In(BUFFERS + place * 16, u32::from(place % 2 == 0))).collect();
    fixture.rx.add(&parts);
    fixture.rx.kick();
    let frame = frame(MAC, OTHER, 400);
    fixture.inject([0; 12], &frame);
    assert_eq!(fixture.rx.used(), (0, 412));
    let bytes: Vec<u8> = (0..412).map(|place| fixture.guest().read(BUFFERS + place * 32, 1)[0]).collect();
    assert_eq!(bytes[12..], frame);
}

#[test]
fn n6_a_frame_larger_than_all_buffers_leaves_them_as_they_were() {
    let mut fixture = Fixture::new(false, MRG_RXBUF);
    fixture.offer_buffers(4, 1500);
    fixture.inject([0; 12], &frame(MAC, OTHER, 9000));
    assert_eq!(fixture.rx.used_within(Duration::from_millis(50)), None);
    for index in 0..4 {
        assert_eq!(fixture.guest().read(fixture.buffer(index), 1500), vec![0xee; 1500]);
    }
    // it waits for the driver's next buffers, and is dropped if they do not do
    fixture.offer_buffers(1, 1500);
    fixture.inject([0; 12], &frame(MAC, OTHER, 60));
    assert_eq!(fixture.rx.used(), (0, 72));
    // with enough it is received
    fixture.inject([0; 12], &frame(MAC, OTHER, 9000));
    assert_eq!(fixture.rx.used_within(Duration::from_millis(50)), None);
    fixture.offer_buffers(4, 1500);
    assert_eq!((0..7).map(|_| fixture.rx.used().1).sum::<u32>(), 9012);
}

#[test]
fn n6_a_frame_larger_than_the_one_buffer_is_dropped() {
    let mut fixture = Fixture::new(false, 0);
    fixture.offer_buffers(2, 100);
    fixture.inject([0; 12], &frame(MAC, OTHER, 89));
    fixture.inject([0; 12], &frame(MAC, OTHER, 88));
    assert_eq!(fixture.rx.used(), (0, 100));
}

#[test]
fn n8_a_tap_that_fails_is_left_alone_for_a_while() {
    let mut fixture = Fixture::new(false, 0);
    fixture.offer_buffers(4, 2048);
    // the other end is gone: the descriptor is ready for ever and reads nothing
    let (gone, _) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    drop(std::mem::replace(&mut fixture.wire, gone));
    let before = fixture.vmm.cpu();
    std::thread::sleep(Duration::from_millis(400)); // the time over which it is measured
    let spent = fixture.vmm.cpu() - before;
    assert!(spent < Duration::from_millis(200), "{spent:?} of CPU in 400 ms on a tap that fails");
    // and sending loses frames, no more
    let head = fixture.tx.add(&[Part::Out(BUFFERS, 100)]);
    fixture.tx.kick();
    assert_eq!(fixture.tx.used(), (u32::from(head), 0));
}

#[test]
fn n9_a_flood_of_one_queue_does_not_hold_the_other() {
    let mut fixture = Fixture::new(false, 0);
    fixture.offer_buffers(1, 2048);
    let end = Instant::now() + PATIENCE;
    fixture.inject([0; 12], &frame(MAC, OTHER, 60));
    while fixture.rx.used_within(Duration::ZERO).is_none() {
        assert!(Instant::now() < end, "the receiving queue starves");
        for _ in 0..32 {
            fixture.tx.add(&[Part::Out(BUFFERS, 100)]);
        }
        fixture.tx.kick();
        while fixture.tx.used_within(Duration::ZERO).is_some() {}
        while fixture.heard().is_some() {}
        if fixture.tx.next.wrapping_sub(fixture.tx.used_idx()) > 32 {
            fixture.tx.used();
        }
    }
}

// 11.1

#[test]
fn v1_frames_outside_memory_break_the_ring() {
    let mut fixture = Fixture::new(false, 0);
    for (addr, len) in [(HOLE, 100), (LOW - 50, 100), (u64::MAX - 50, 100)] {
        fixture.tx.add(&[Part::Out(BUFFERS, 12), Part::Out(addr, len)]);
        fixture.tx.kick();
        fixture.heals(TX);
        // also where the addresses are memory and the rest is not
        fixture.tx.add(&[Part::Out(BUFFERS, 40), Part::Out(addr, len)]);
        fixture.tx.kick();
        fixture.heals(TX);
        fixture.rx.add(&[Part::In(BUFFERS, 12), Part::In(addr, len)]);
        fixture.rx.kick();
        fixture.inject([0; 12], &frame(MAC, OTHER, 80));
        fixture.heals(RX);
    }
}

#[test]
fn v3_loops_break_the_ring() {
    let mut fixture = Fixture::new(false, 0);
    for (queue, flags) in [(RX, WRITE), (TX, 0)] {
        let driver = if queue == RX { &mut fixture.rx } else { &mut fixture.tx };
        driver.put_desc(0, Desc { addr: BUFFERS, len: 100, flags: NEXT | flags, next: 0 });
        driver.offer(0);
        driver.kick();
        fixture.inject([0; 12], &frame(MAC, OTHER, 60));
        fixture.heals(queue);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    #[test]
    fn any_rings_at_all(
        descs in proptest::collection::vec((0usize..6, 0u32..2000, 0u16..8, 0u16..18), 32),
        heads in proptest::collection::vec(0u16..17, 32),
        mergeable: bool,
        locked: bool,
    ) {
        let mut fixture = Fixture::with(locked, if mergeable { MRG_RXBUF } else { 0 }, 16);
        let places = [BUFFERS, BUFFERS + 0x1000, HOLE, LOW - 100, BUFFERS, u64::MAX - 10];
        for (index, (place, len, flags, next)) in descs.iter().enumerate() {
            let driver = if index < 16 { &fixture.rx } else { &fixture.tx };
            let desc = Desc { addr: places[*place], len: *len, flags: *flags, next: *next };
            driver.put_desc((index % 16) as u16, desc);
        }
        for (index, head) in heads.iter().enumerate() {
            if index < 16 { fixture.rx.offer(*head) } else { fixture.tx.offer(*head) }
        }
        for _ in 0..4 {
            fixture.inject([0; 12], &frame(MAC, OTHER, 200));
        }
        fixture.rx.kick();
        fixture.tx.kick();
        fixture.tx.used_within(Duration::from_millis(2));
        for queue in [RX, TX] {
            fixture.vmm.stop(queue);
        }
        fixture.rx.reset();
        fixture.tx.reset();
        while fixture.heard().is_some() {}
        fixture.vmm.start(RX, &fixture.rx, 0);
        fixture.vmm.start(TX, &fixture.tx, 0);
        fixture.transmit([0; 12], &frame(OTHER, MAC, 60), &[]);
        proptest::prop_assert!(readable_within(&fixture.wire, PATIENCE));
    }
}
