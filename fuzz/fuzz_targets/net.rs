//! A card between a hostile guest and a hostile network: any rings, chains and frames from both sides, before and after
//! the features change. What leaves was checked, and a locked card shows its guest no frame that is another's.
#![no_main]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use devices::net::{Card, Header, Lease, Net, Offloads, Tap, check_header, may_receive, may_send};
use devices::queue::{RingFault, Vring, accepted};
use devices::serve_vhost::{Active, Device, Progress};
use libfuzzer_sys::fuzz_target;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use sys::guest_io::GuestMemory;
use vmd_fuzz::Script;
use vmd_fuzz::guest::{self, BUFFERS, Ring};
use zerocopy::FromBytes;

const MAC: [u8; 6] = [0xfe, 0xe1, 0xbb, 0xd1, 2, 3];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];
const HEADER: usize = 12;
const ETHERNET: usize = 14;
const MAX_FRAME: usize = 65535 + ETHERNET + 4;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Steps of one run, and turns that a device may want in a row: a chain is done with at most once.
const MAX_STEPS: usize = 64;
const MAX_TURNS: usize = 1100;

/// What is the same in every run.
struct Host {
    memory: Arc<GuestMemory>,
    call: File,
    tap: OwnedFd,
    wire: OwnedFd,
}

thread_local! {
    static HOST: Host = {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a pair of sockets");
        let call = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).expect("an eventfd").into();
        Host { memory: Arc::new(guest::memory()), call, tap: pair.0, wire: pair.1 }
    };
}

fuzz_target!(|input: &[u8]| HOST.with(|host| Run::new(host, Script(input)).run()));

struct Run<'a> {
    host: &'a Host,
    script: Script<'a>,
    card: Card,
    leases: bool,
    net: Net,
    features: u64,
    driver: [Ring; 2],
    running: [Option<Vring>; 2],
}

impl<'a> Run<'a> {
    fn new(host: &'a Host, mut script: Script<'a>) -> Self {
        guest::clear(&host.memory);
        let choice = script.byte();
        let (card, leases) = (Card { mac: MAC, locked: choice & 1 != 0, guarded: choice & 4 != 0 }, choice & 2 != 0);
        let tap = Tap::new(host.tap.try_clone().expect("one more descriptor")).expect("what carries frames as a tap");
        let net = Net::new(tap, card);
        let net = if leases { net.leasing(lease()) } else { net };
        let driver = [0, 1].map(|queue| Ring::new(queue, script.byte()));
        let mut run = Run { host, script, card, leases, net, features: 0, driver, running: [None, None] };
        (0..2).for_each(|queue| run.restart(queue, 0));
        run
    }

    fn run(mut self) {
        for _ in 0..MAX_STEPS {
            if self.script.is_empty() {
                break;
            }
            let choice = self.script.byte();
            let queue = usize::from(choice >> 7);
            match choice % 8 {
                0 | 1 => self.driver[queue].act(&self.host.memory, &mut self.script, queue == RECEIVE),
                2 | 3 => self.guest_sends(),
                4 => self.host_sends(),
                5 | 6 => self.turns(queue),
                _ => {
                    let base = if choice & 8 == 0 { 0 } else { self.script.word() };
                    self.restart(queue, base);
                }
            }
            self.check_sent();
        }
        (0..2).for_each(|queue| self.net.stop(queue, None));
        self.net.finish();
        assert!(self.net.deadline().is_none(), "a card that has stopped waits for nothing");
        self.drain();
    }

    /// The queue stops and starts; the features change where neither runs.
    fn restart(&mut self, queue: usize, base: u16) {
        let was = self.running[queue].take();
        self.net.stop(queue, None);
        if self.running.iter().all(Option::is_none) {
            self.features = u64::from(self.script.word()) | u64::from(self.script.byte() & 3) << 28 | 1 << 32;
            self.net.accept(self.features);
        }
        let base = was.map_or(base, |ring| ring.save().last_avail);
        let setup = self.driver[queue].setup(base, accepted(self.features, 29), accepted(self.features, 28));
        self.running[queue] = Vring::new(&self.host.memory, setup).ok();
    }

    fn offloads(&self, checksum: u32, tso4: u32, tso6: u32) -> Offloads {
        let has = |bit| accepted(self.features, bit) && accepted(self.features, checksum);
        Offloads { checksum: has(checksum), tso4: has(tso4), tso6: has(tso6) }
    }

    fn guest_sends(&mut self) {
        let frame = frame(&mut self.script, MAC, OTHER);
        let frame = &frame[..frame.len().min(0x7800)];
        guest::put(&self.host.memory, BUFFERS, frame);
        let (mut parts, mut at) = (Vec::new(), 0);
        for _ in 0..self.script.byte() % 4 {
            let len = usize::from(self.script.byte()).min(frame.len() - at);
            parts.push((BUFFERS + at as u64, len as u32, false));
            at += len;
        }
        parts.push((BUFFERS + at as u64, (frame.len() - at) as u32, false));
        let indirect = self.script.byte() % 4 == 0;
        self.driver[TRANSMIT].offer(&self.host.memory, &parts, indirect);
    }

    /// A frame comes, and is received by itself: whether it may be is said by its front.
    fn host_sends(&mut self) {
        let frame = frame(&mut self.script, OTHER, MAC);
        if self.script.byte() % 2 == 0 {
            let _ = send(&self.host.wire, &frame, SendFlags::empty());
            return;
        }
        self.drain();
        let (memory, before) = (&self.host.memory, self.driver[RECEIVE].used(&self.host.memory));
        let _ = send(&self.host.wire, &frame, SendFlags::empty());
        self.ready();
        let offloads = self.offloads(1, 7, 8);
        let may = frame.split_first_chunk::<HEADER>().is_some_and(|(header, rest)| {
            let header = Header::read_from_bytes(&header[..]).expect("a header's bytes");
            let front = rest.first_chunk::<ETHERNET>();
            check_header(header, rest.len() as u64, offloads).is_ok()
                && rest.len() <= MAX_FRAME
                && front.is_some_and(|front| !self.card.locked || may_receive(front, &MAC).is_ok())
        });
        if !may && !self.leases {
            assert_eq!(before, self.driver[RECEIVE].used(memory), "the guest got a frame that is not for it");
        }
    }

    /// The queue was kicked, and the device does what it has to do; and again while it says that there is more.
    fn turns(&mut self, queue: usize) {
        for _ in 0..MAX_TURNS {
            match self.turn(|net, on| net.kicked(queue, on), queue) {
                Some(Ok(Progress::More)) => {}
                Some(Ok(Progress::Idle)) | None => return,
                Some(Err(_)) => return self.running = [None, None],
            }
        }
        panic!("no end of queue {queue}");
    }

    fn ready(&mut self) {
        if self.net.source().is_none() && self.net.deadline().is_none() {
            return;
        }
        match self.turn(|net, on| net.ready(Some(on)), RECEIVE) {
            Some(Ok(_)) => {}
            Some(Err(_)) => self.running = [None, None],
            None => drop(self.net.ready(None)),
        }
    }

    fn turn(
        &mut self,
        act: impl FnOnce(&mut Net, &mut Active<'_>) -> Result<Progress, RingFault>,
        queue: usize,
    ) -> Option<Result<Progress, RingFault>> {
        let ring = self.running[queue].as_mut()?;
        Some(act(&mut self.net, &mut Active::new(&self.host.memory, ring, &self.host.call)))
    }

    /// What has left asks for no more than was negotiated, and is the card's own.
    fn check_sent(&self) {
        let offloads = self.offloads(0, 11, 12);
        let mut bytes = [0; HEADER + MAX_FRAME + 1];
        while let Ok((len, _)) = recv(&self.host.wire, &mut bytes[..], RecvFlags::empty()) {
            let (header, frame) = bytes[..len].split_first_chunk::<HEADER>().expect("a whole header");
            assert!((ETHERNET..=MAX_FRAME).contains(&frame.len()), "{} bytes", frame.len());
            let header = Header::read_from_bytes(&header[..]).expect("a header's bytes");
            assert_eq!(check_header(header, frame.len() as u64, offloads), Ok(header));
            // The host fills in a checksum where the header says.
            let place = usize::from(header.csum_start.get()) + usize::from(header.csum_offset.get());
            let filled = (header.flags & 1 != 0).then(|| {
                let mut filled = frame.to_vec();
                filled[place..place + 2].iter_mut().for_each(|byte| *byte = !*byte);
                filled
            });
            [Some(frame.to_vec()), filled].iter().flatten().for_each(|frame| self.check_seen(frame));
        }
    }

    /// What others will see of it.
    fn check_seen(&self, frame: &[u8]) {
        let kind = &frame[12..14];
        if self.card.locked {
            assert_eq!(may_send(frame.first_chunk().expect("an Ethernet header"), &MAC), Ok(()));
            assert!(*kind != [8, 6] || frame.get(22..28) == Some(&MAC), "ARP names another sender");
        }
        if let (true, [8, 0, 0x45, _, _, _, _, _, high, low, _, 17, ..]) = (self.card.guarded, &frame[12..]) {
            let first = high & 0x1f == 0 && *low == 0;
            let ports = frame.get(34..38).map(|ports| (&ports[..2] == [0, 67], &ports[2..] == [0, 68]));
            assert!(!first || ports == Some((false, false)), "a lease is offered: {ports:?}");
        }
    }

    fn drain(&self) {
        let mut bytes = [0; 1];
        for end in [&self.host.tap, &self.host.wire] {
            while recv(end, &mut bytes[..], RecvFlags::empty()).is_ok() {}
        }
        let _ = rustix::io::read(&self.host.call, &mut [0; 8][..]);
    }
}

fn lease() -> Lease {
    Lease {
        mac: MAC,
        host_mac: [2; 6],
        host: [100, 64, 1, 2].into(),
        address: [100, 64, 1, 3].into(),
        name_servers: vec![[192, 0, 2, 53].into()],
        name: Some("web".to_owned()),
        net_boot: true,
    }
}

/// What a DHCP server sends, up to its ports; and a router, up to its kind.
const OFFER: &[u8] = &[8, 0, 0x45, 0, 0, 60, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 67, 0, 68];
const ADVERTISEMENT: &[u8] = &{
    let mut packet = [0xfe; 43];
    let front = [0x86, 0xdd, 0x60, 0, 0, 0, 0, 40, 58, 255];
    let mut at = 0;
    while at < front.len() {
        packet[at] = front[at];
        at += 1;
    }
    packet[42] = 134;
    packet
};

/// A header and a frame, mostly of `from` to `to`.
fn frame(script: &mut Script<'_>, from: [u8; 6], to: [u8; 6]) -> Vec<u8> {
    let choice = script.byte();
    let mut bytes = vec![0; HEADER];
    match choice % 4 {
        0 | 1 => {}
        2 => bytes.iter_mut().zip(script.bytes(HEADER)).for_each(|(to, from)| *to = *from),
        _ => {
            // A checksum and segments, of lengths that are near to right.
            bytes[..2].copy_from_slice(&[script.byte() & 3, [0, 1, 4, 3][usize::from(script.byte() % 4)]]);
            bytes[2..12].copy_from_slice(&[54, 0, script.byte(), 5, script.byte(), 0, 16, 0, 0, script.byte() & 1]);
        }
    }
    let address = |choice, usual| match choice {
        0..=2 => usual,
        3 => [0xff; 6],
        4 => [0x33, 0x33, 0, 0, 0, 1],
        5 => MAC,
        6 => OTHER,
        _ => [0xfe, 0xe1, 0xbb, 0xd1, 2, 4],
    };
    bytes.extend(address(choice >> 2 & 7, to));
    bytes.extend(if choice & 0xE0 == 0xE0 { address(script.byte() % 8, from) } else { from });
    let kinds: [&[u8]; 8] =
        [&[8, 0], &[8, 6], &[0x86, 0xdd], &[0x81, 0, 0, 5, 8, 6], &[0x80, 0x35], &[0, 38], OFFER, ADVERTISEMENT];
    bytes.extend(kinds[usize::from(script.byte() % 8)]);
    let len = usize::from(script.byte());
    bytes.extend(script.bytes(len));
    let most = HEADER + MAX_FRAME;
    let len = [bytes.len(), bytes.len(), 72, 342, 1526, 9012, 0x7800, most - 1, most, most + 1, 25, 26, 13];
    bytes.resize(len[usize::from(script.byte()) % len.len()], 0);
    bytes
}
