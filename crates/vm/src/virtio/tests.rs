//! Front ends against a real back end loop on a socket pair, with KVM's part recorded: from the driver's registers to the
//! queue and back.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use boot::layout;
use devices::queue::{Chain, RingFault, fill_front};
use devices::serve_vhost::{self, Active, Progress};
use hw::{Chipset, DeviceEffect, Edge, Effect, MsiMessage, Now, Setup, Slot, World};
use proto::device::Front;
use rustix::event::PollFlags;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::front_ends::FrontEnds;
use super::wiring::Wiring;
use super::worker::Worker;
use super::{BackEnd, Failure, Registers, entropy, vhost_user};
use crate::lifecycle::Event;
use crate::memory::{self, GuestMemory};
use crate::outside::FrontEnds as _;

const TWO_QUEUES: Front = Front { virtio_id: 1, queues: 2, queue_size: 256, config_len: 12 };
const RAM: u64 = 64 << 20;
const BAR: u64 = layout::PCI_MMIO32;
const VERSION_1: u64 = 1 << 32;
const PATIENCE: Duration = Duration::from_secs(10);
const DESC: u64 = 0x10_0000;
const AVAIL: u64 = 0x10_2000;
const USED: u64 = 0x10_3000;
const BUFFER: u64 = 0x20_0000;
/// What the fake device writes into a buffer.
const ANSWER: &[u8] = b"served";

/// A device that answers each chain with the same bytes, or finds each broken, or takes each and does no more.
#[derive(Default)]
struct Answering {
    accepted: Arc<AtomicU64>,
    breaks: bool,
    holds: Option<Arc<AtomicUsize>>,
    records: Option<File>,
    /// It offers less than the others.
    lacks: u64,
}

impl serve_vhost::Device for Answering {
    fn queues(&self) -> usize {
        2
    }
    fn features(&self) -> u64 {
        (VERSION_1 | 1 << 5) & !self.lacks
    }
    fn config(&self) -> &[u8] {
        &[2, 0, 0, 0, 0, 7]
    }
    fn accept(&mut self, features: u64) {
        self.accepted.store(features, Ordering::SeqCst);
    }
    fn kicked(&mut self, _: usize, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        let mut chain = Chain::default();
        while on.ring.pop(on.memory, &mut chain)? {
            if self.breaks {
                return Err(RingFault::TooLong);
            }
            if let Some(held) = &self.holds {
                held.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            let written = fill_front(on.memory, &chain.writable, ANSWER)?;
            on.ring.push_used(on.memory, &[(chain.head, u32::try_from(written).unwrap())])?;
        }
        on.notify()?;
        Ok(Progress::Idle)
    }
    fn source(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        None
    }
    fn ready(&mut self, _: Option<&mut Active<'_>>) -> Result<Progress, RingFault> {
        Ok(Progress::Idle)
    }
    fn deadline(&self) -> Option<Instant> {
        None
    }
    fn stop(&mut self, _: usize, _: Option<&mut Active<'_>>) {}
    fn records(&self) -> Option<&File> {
        self.records.as_ref()
    }
    fn finish(&mut self) {}
}

/// What KVM was told.
#[derive(Default)]
struct Recorded {
    kicks: BTreeSet<u64>,
    calls: BTreeSet<u32>,
    routes: Vec<(u32, MsiMessage)>,
    signals: Vec<MsiMessage>,
}

/// KVM that agrees to all.
#[derive(Default)]
pub(super) struct FakeKvm(Mutex<Recorded>);

impl FakeKvm {
    fn told<T>(&self, look: impl FnOnce(&mut Recorded) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

fn once(first: bool) -> io::Result<()> {
    if first { Ok(()) } else { Err(io::ErrorKind::AlreadyExists.into()) }
}

impl Wiring for FakeKvm {
    fn add_kick(&self, gpa: u64, _: &EventFd) -> io::Result<()> {
        once(self.told(|kvm| kvm.kicks.insert(gpa)))
    }
    fn remove_kick(&self, gpa: u64, _: &EventFd) -> io::Result<()> {
        once(self.told(|kvm| kvm.kicks.remove(&gpa)))
    }
    fn add_call(&self, gsi: u32, _: &EventFd) -> io::Result<()> {
        once(self.told(|kvm| kvm.calls.insert(gsi)))
    }
    fn remove_call(&self, gsi: u32, _: &EventFd) -> io::Result<()> {
        once(self.told(|kvm| kvm.calls.remove(&gsi)))
    }
    fn set_routes(&self, messages: &[(u32, MsiMessage)]) -> io::Result<()> {
        self.told(|kvm| kvm.routes = messages.to_vec());
        Ok(())
    }
    fn signal(&self, message: MsiMessage) -> io::Result<()> {
        self.told(|kvm| kvm.signals.push(message));
        Ok(())
    }
}

struct TestEdge {
    front_ends: Arc<FrontEnds>,
}

impl Edge for TestEdge {
    fn perform(&self, effect: Effect) {
        if let Effect::Device(slot, effect) = effect {
            self.front_ends.perform(slot, effect);
        }
    }
}

impl World for TestEdge {
    fn now(&self) -> Now {
        Now { monotonic_ns: 0, realtime_ns: 0 }
    }
    fn call_pending(&self, slot: Slot, queue: u16) -> bool {
        self.front_ends.call_pending(slot, queue)
    }
    fn read_memory(&self, _: u64, _: &mut [u8]) -> bool {
        false
    }
}

/// A machine with one device in slot 1, and a driver's hands.
struct Machine {
    chipset: Chipset,
    edge: TestEdge,
    memory: GuestMemory,
    kvm: Arc<FakeKvm>,
    gone: AtomicUsize,
    /// How often the devices became quiet, and how often they served again.
    paused: [AtomicUsize; 2],
}

impl Registers for Machine {
    fn reset_done(&self, slot: Slot) {
        self.chipset.reset_done(slot, &self.edge);
    }
    fn needs_reset(&self, slot: Slot) {
        self.chipset.needs_reset(slot, &self.edge);
    }
    fn config_changed(&self, slot: Slot, config: &[u8]) {
        self.chipset.set_device_config(slot, config, &self.edge);
    }
    fn queue_interrupt(&self, slot: Slot, queue: u16) {
        self.chipset.queue_interrupt(slot, queue, &self.edge);
    }
    fn devices_are(&self, what: Event) {
        let quiet = matches!(what, Event::Quiet(_));
        self.paused[usize::from(!quiet)].fetch_add(1, Ordering::SeqCst);
    }
    fn device_gone(&self) -> bool {
        self.gone.fetch_add(1, Ordering::SeqCst) == 0
    }
}

const SLOT: Slot = Slot(1);

fn machine(function: hw::virtio::Device, back_end: Box<dyn BackEnd>, memory: GuestMemory) -> Arc<Machine> {
    let kvm = Arc::new(FakeKvm::default());
    let front_ends = Arc::new(FrontEnds::new(kvm.clone(), &[function.queues.len()]).unwrap());
    let worker = Worker::new(front_ends.clone(), vec![back_end]).unwrap();
    let edge = TestEdge { front_ends };
    let setup = Setup {
        ram: std::iter::once(0..RAM).collect(),
        vcpus: 1,
        mmio: layout::PCI_MMIO32..layout::ECAM,
        ecam: layout::ECAM,
        devices: vec![function],
        vmmci: None,
        now: edge.now(),
    };
    let chipset = Chipset::new(setup).unwrap();
    let machine =
        Arc::new(Machine { chipset, edge, memory, kvm, gone: AtomicUsize::new(0), paused: Default::default() });
    worker.start(machine.clone()).unwrap();
    machine.write(machine.config(0x10), 4, BAR);
    machine.write(machine.config(0x04), 2, 6);
    machine
}

fn guest_memory() -> GuestMemory {
    memory::for_test(&layout::ram(RAM).unwrap())
}

/// A machine whose device is served on a thread, and the other end of the socket for ending it.
fn served(breaks: bool) -> (Arc<Machine>, UnixStream, Arc<AtomicU64>) {
    let accepted = Arc::new(AtomicU64::new(0));
    let (machine, end) = served_by(Answering { accepted: accepted.clone(), breaks, ..Answering::default() });
    (machine, end, accepted)
}

fn served_by(device: Answering) -> (Arc<Machine>, UnixStream) {
    let (ours, end) = on_a_thread(device);
    let memory = guest_memory();
    let (function, back_end) = vhost_user::connect(vhost_user::MAX_ANSWERS, TWO_QUEUES, ours, memory.clone()).unwrap();
    assert_eq!((function.queues.len(), &function.config[..6]), (2, &[2, 0, 0, 0, 0, 7][..]));
    (machine(function, Box::new(back_end), memory), end)
}

/// The front end's side of a device's socket, and the other end for ending it.
fn on_a_thread(device: Answering) -> (OwnedFd, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let end = theirs.try_clone().unwrap();
    std::thread::spawn(move || serve_vhost::serve(theirs, device, None).unwrap());
    (ours.into(), end)
}

impl Machine {
    fn config(&self, offset: u64) -> u64 {
        layout::ECAM + (u64::from(SLOT.0) << 15) + offset
    }

    fn read(&self, gpa: u64, width: usize) -> u64 {
        let mut data = [0; 8];
        self.chipset.mmio_read(gpa, &mut data[..width], &self.edge);
        u64::from_le_bytes(data)
    }

    fn write(&self, gpa: u64, width: usize, value: u64) {
        self.chipset.mmio_write(gpa, &value.to_le_bytes()[..width], &self.edge);
    }

    fn status(&self) -> u64 {
        self.read(BAR + 0x14, 1)
    }

    /// A driver's way to DRIVER_OK, with queue 0 and one empty buffer in it.
    fn start(&self) {
        let ring = [0u8; 0x4000];
        self.memory.write_slice(&ring, GuestAddress(DESC)).unwrap();
        self.write(BAR + 0x14, 1, 3);
        for word in 0..2 {
            self.write(BAR + 0x08, 4, word);
            self.write(BAR + 0x0C, 4, VERSION_1 >> (32 * word));
        }
        self.write(BAR + 0x14, 1, 0xB);
        self.write(BAR + 0x16, 2, 0);
        for (register, address) in [(0x20, DESC), (0x28, AVAIL), (0x30, USED)] {
            self.write(BAR + register, 8, address);
        }
        self.write(BAR + 0x1C, 2, 1);
        self.write(BAR + 0x14, 1, 0xF);
        assert_eq!(self.status(), 0xF);
    }

    /// Puts a buffer into queue 0 and notifies by an exit.
    fn offer(&self, index: u16) {
        let descriptor: [u64; 2] = [BUFFER, 64 | 2 << 32]; // writable
        for (place, word) in (0..).zip(descriptor) {
            self.memory.write_obj(word, GuestAddress(DESC + place * 8)).unwrap();
        }
        self.memory.write_obj(index, GuestAddress(AVAIL + 2)).unwrap();
        self.write(BAR + 0x3000, 2, 0);
    }

    fn used(&self) -> u16 {
        self.memory.read_obj(GuestAddress(USED + 2)).unwrap()
    }

    fn wait(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The devices' part of a pause, or of its end.
    fn pause(&self, quiet: bool) {
        let told = &self.paused[usize::from(!quiet)];
        let before = told.load(Ordering::SeqCst);
        if quiet {
            self.edge.front_ends.quiet(1)
        } else {
            self.edge.front_ends.wake_up(1)
        };
        self.wait("the devices", |_| told.load(Ordering::SeqCst) > before);
    }

    /// What is offered while the devices are quiet is served after it, and everything once.
    fn is_served_around_pauses(&self) {
        self.start();
        self.offer(1);
        self.wait("the answer", |machine| machine.used() == 1);
        for round in 1..4u16 {
            self.pause(true);
            self.offer(round + 1);
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(1)); // nobody may serve it, so there is nothing to wait for
                assert_eq!(self.used(), round, "served while it was paused");
            }
            self.pause(false);
            self.wait("the answer to what was offered meanwhile", |machine| machine.used() == round + 1);
        }
        self.reset();
        self.start();
        self.offer(1);
        self.wait("the answer after a reset", |machine| machine.used() == 1);
        assert_eq!(self.gone.load(Ordering::SeqCst), 0);
    }

    fn reset(&self) {
        self.write(BAR + 0x14, 1, 0);
        self.wait("the reset", |machine| machine.status() == 0);
    }

    /// MSI-X on, queue 0 on vector 1 with this message data.
    fn use_vector(&self, data: u64) {
        self.write(self.config(0x42), 2, 0x8000); // MSI-X is the first capability
        self.write(BAR + 0x16, 2, 0);
        self.write(BAR + 0x1A, 2, 1);
        self.write(BAR + 0x8010, 8, 0xFEE0_0000);
        self.write(BAR + 0x8018, 4, data);
        self.mask(false);
    }

    fn mask(&self, masked: bool) {
        self.write(BAR + 0x801C, 4, u64::from(masked));
    }
}

#[test]
fn a_buffer_goes_to_the_back_end_and_comes_back() {
    let (machine, _end, accepted) = served(false);
    machine.start();
    machine.offer(1);
    machine.wait("the answer", |machine| machine.used() == 1);
    let mut answer = [0; ANSWER.len()];
    machine.memory.read_slice(&mut answer, GuestAddress(BUFFER)).unwrap();
    assert_eq!(answer, ANSWER);
    assert_eq!(accepted.load(Ordering::SeqCst), VERSION_1 | 1 << 30, "only what the driver accepted");
    machine.wait("the interrupt without a vector", |machine| machine.read(BAR + 0x1000, 1) == 1);
}

#[test]
fn kicks_follow_the_bar() {
    let (machine, _end, _) = served(false);
    let kicks = || machine.kvm.told(|kvm| kvm.kicks.iter().copied().collect::<Vec<_>>());
    assert_eq!(kicks(), [BAR + 0x3000, BAR + 0x3004]);
    machine.write(machine.config(0x10), 4, BAR + 0x10_0000);
    assert_eq!(kicks(), [BAR + 0x10_3000, BAR + 0x10_3004]);
    machine.write(machine.config(0x04), 2, 0);
    assert!(kicks().is_empty());
}

#[test]
fn a_masked_vector_holds_its_call_and_shows_it_as_pending() {
    let (machine, _end, _) = served(false);
    machine.use_vector(0x41);
    let wired = |machine: &Machine| machine.kvm.told(|kvm| (kvm.calls.len(), kvm.routes.clone()));
    let route = |data| vec![(24, MsiMessage { address: 0xFEE0_0000, data })];
    assert_eq!(wired(&machine), (1, route(0x41)));
    machine.mask(true);
    assert_eq!(wired(&machine).0, 0);
    machine.start();
    machine.write(BAR + 0x1A, 2, 1);
    machine.offer(1);
    machine.wait("the pending bit", |machine| machine.read(BAR + 0xC000, 8) == 2);
    assert_eq!(machine.read(BAR + 0x1000, 1), 0, "the ISR is not for queues with vectors");
    machine.use_vector(0x42);
    assert_eq!(wired(&machine), (1, route(0x42)), "KVM delivers what waits when the irqfd comes back");
    assert_eq!(machine.read(BAR + 0xC000, 8), 0);
}

#[test]
fn a_configuration_interrupt_is_signalled() {
    let (machine, _end, _) = served(false);
    machine.use_vector(0x41);
    machine.start();
    machine.write(BAR + 0x10, 2, 1);
    machine.needs_reset(SLOT);
    let message = MsiMessage { address: 0xFEE0_0000, data: 0x41 };
    assert_eq!(machine.kvm.told(|kvm| kvm.signals.clone()), [message]);
}

#[test]
fn a_reset_stops_the_back_end_and_the_device_starts_again() {
    let (machine, _end, _) = served(false);
    for _ in 0..3 {
        machine.start();
        machine.offer(1);
        machine.wait("the answer", |machine| machine.used() == 1);
        machine.reset();
    }
    machine.offer(2);
    assert_eq!(machine.gone.load(Ordering::SeqCst), 0);
}

#[test]
fn a_paused_back_end_serves_nothing_and_goes_on_where_it_stood() {
    let (machine, _end, _) = served(false);
    machine.is_served_around_pauses();
}

#[test]
fn a_paused_entropy_device_serves_nothing_and_goes_on() {
    let memory = guest_memory();
    let (function, back_end) = entropy::make(memory.clone());
    machine(function, Box::new(back_end), memory).is_served_around_pauses();
}

#[test]
fn devices_that_no_driver_started_are_paused_too() {
    let (machine, _end, _) = served(false);
    machine.pause(true);
    machine.pause(false);
    machine.start();
    machine.offer(1);
    machine.wait("the answer", |machine| machine.used() == 1);
}

#[test]
fn a_broken_ring_needs_a_reset_and_lives_on_after_it() {
    let (machine, _end, _) = served(true);
    machine.start();
    machine.offer(1);
    machine.wait("DEVICE_NEEDS_RESET", |machine| machine.status() == 0x4F);
    machine.reset();
    machine.start();
    assert_eq!(machine.gone.load(Ordering::SeqCst), 0);
}

/// Whether the other end of a socket is closed.
fn hung_up(socket: &UnixStream) -> bool {
    let mut set = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::empty())];
    rustix::event::poll(&mut set, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
    set[0].revents().contains(rustix::event::PollFlags::HUP)
}

/// A file for records, where a device has one.
fn records(has: bool) -> Option<File> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(serve_vhost::MAX_RECORDS_LEN).unwrap();
    has.then_some(file)
}

#[test]
fn another_back_end_answers_what_one_that_is_gone_had_taken() {
    for recorded in [false, true] {
        let held = Arc::new(AtomicUsize::new(0));
        let device = || Answering { holds: Some(held.clone()), records: records(recorded), ..Answering::default() };
        let (machine, mut end) = served_by(device());
        machine.start();
        machine.offer(1);
        for deaths in 1..=3 {
            machine.wait("the taking", |_| held.load(Ordering::SeqCst) == deaths);
            end.shutdown(std::net::Shutdown::Both).unwrap();
            let (next, its_end) = on_a_thread(device());
            machine.edge.front_ends.replace(SLOT, next);
            end = its_end;
        }
        machine.wait("the last taking", |_| held.load(Ordering::SeqCst) == 4);
        end.shutdown(std::net::Shutdown::Both).unwrap();
        let last = Answering { records: records(recorded), ..Answering::default() };
        let (next, _end) = on_a_thread(last);
        machine.edge.front_ends.replace(SLOT, next);
        machine.wait("the answer", |machine| machine.used() == 1);
        machine.offer(2);
        machine.wait("the next answer", |machine| machine.used() == 2);
        machine.reset();
        machine.start();
        machine.offer(1);
        machine.wait("the answer after a reset", |machine| machine.used() == 1);
        assert_eq!(machine.gone.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn one_that_can_not_take_the_place_costs_nothing_of_what_is_recorded() {
    let (held, kept) = (Arc::new(AtomicUsize::new(0)), records(true));
    let first = kept.as_ref().unwrap().try_clone().unwrap();
    let (machine, end) = served_by(Answering { holds: Some(held.clone()), records: kept, ..Answering::default() });
    machine.start();
    machine.offer(1);
    machine.wait("the taking", |_| held.load(Ordering::SeqCst) == 1);
    end.shutdown(std::net::Shutdown::Both).unwrap();
    let (worse, its_end) = on_a_thread(Answering { records: records(true), lacks: 1 << 5, ..Answering::default() });
    machine.edge.front_ends.replace(SLOT, worse);
    // It is let go of.
    machine.wait("its end", |_| hung_up(&its_end));
    let (next, _end) = on_a_thread(Answering { records: records(true), ..Answering::default() });
    machine.edge.front_ends.replace(SLOT, next);
    machine.wait("the answer", |machine| machine.used() == 1);
    // The used index in the record of the first (QEMU's docs/interop/vhost-user.rst, "Inflight I/O tracking").
    let recorded = || {
        let mut index = [0; 2];
        std::os::unix::fs::FileExt::read_exact_at(&first, &mut index, 14).unwrap();
        u16::from_le_bytes(index)
    };
    machine.wait("the record of the answer", |_| recorded() == 1);
}

#[test]
fn a_reset_without_a_back_end_is_done_when_there_is_another() {
    let (machine, end, _) = served(false);
    machine.start();
    end.shutdown(std::net::Shutdown::Both).unwrap();
    machine.write(BAR + 0x14, 1, 0);
    let (next, _end) = on_a_thread(Answering::default());
    machine.edge.front_ends.replace(SLOT, next);
    machine.wait("the reset", |machine| machine.status() == 0);
    machine.start();
    machine.offer(1);
    machine.wait("the answer", |machine| machine.used() == 1);
}

#[test]
fn a_driver_that_starts_without_a_back_end_is_served_by_the_next() {
    let (machine, end, _) = served(false);
    end.shutdown(std::net::Shutdown::Both).unwrap();
    machine.start();
    machine.offer(1);
    let (worse, _) = UnixStream::pair().unwrap();
    machine.edge.front_ends.replace(SLOT, worse.into());
    let (next, _end) = on_a_thread(Answering { records: records(true), ..Answering::default() });
    machine.edge.front_ends.replace(SLOT, next);
    machine.wait("the answer", |machine| machine.used() == 1);
}

#[test]
fn a_peer_that_is_no_back_end_is_refused() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let peer = std::thread::spawn(move || {
        let mut request = [0; 64];
        let _ = io::Read::read(&mut theirs, &mut request);
        let _ = io::Write::write(&mut theirs, &[0xFF; 64]);
    });
    let failed = vhost_user::connect(vhost_user::MAX_ANSWERS, TWO_QUEUES, OwnedFd::from(ours), guest_memory());
    assert!(matches!(failed, Err(Failure::Gone(_))));
    peer.join().unwrap();
}

#[test]
fn a_back_end_with_fewer_queues_than_its_device_has_is_refused() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let device = Answering::default();
    let peer = std::thread::spawn(move || serve_vhost::serve(theirs, device, None).unwrap());
    let failed = vhost_user::connect(
        vhost_user::MAX_ANSWERS,
        Front { queues: 3, ..TWO_QUEUES },
        OwnedFd::from(ours),
        guest_memory(),
    );
    assert!(matches!(failed, Err(Failure::Gone(_))));
    peer.join().unwrap();
}

#[test]
fn the_entropy_device_fills_buffers_and_survives_a_reset() {
    let memory = guest_memory();
    let (function, back_end) = entropy::make(memory.clone());
    let machine = machine(function, Box::new(back_end), memory);
    for _ in 0..2 {
        machine.memory.write_slice(&[0; 64], GuestAddress(BUFFER)).unwrap();
        machine.start();
        machine.offer(1);
        machine.wait("the random bytes", |machine| machine.used() == 1);
        let mut bytes = [0; 64];
        machine.memory.read_slice(&mut bytes, GuestAddress(BUFFER)).unwrap();
        assert!(bytes.iter().any(|byte| *byte != 0));
        machine.wait("the interrupt", |machine| machine.read(BAR + 0x1000, 1) == 1);
        machine.reset();
    }
}

#[test]
fn an_entropy_queue_that_makes_no_sense_needs_a_reset() {
    let memory = guest_memory();
    let (function, back_end) = entropy::make(memory.clone());
    let machine = machine(function, Box::new(back_end), memory);
    machine.start();
    machine.offer(1000); // further ahead than the ring is long
    machine.wait("DEVICE_NEEDS_RESET", |machine| machine.status() == 0x4F);
    machine.reset();
    assert_eq!(machine.gone.load(Ordering::SeqCst), 0);
}

#[test]
fn jobs_do_not_pile_up_while_the_worker_is_busy() {
    let front_ends = FrontEnds::new(Arc::new(FakeKvm::default()), &[1]).unwrap();
    let message = MsiMessage { address: 0xFEE0_0000, data: 0x41 };
    for _ in 0..1000 {
        for delivery in [hw::Delivery::Held, hw::Delivery::Msi(message), hw::Delivery::Intx] {
            front_ends.perform(SLOT, DeviceEffect::Delivery(0, delivery));
        }
    }
    assert_eq!(front_ends.take_jobs().len(), 1);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn kvm_takes_the_wires_and_gives_them_back() {
    let kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm").expect("/dev/kvm is needed");
    let vm = crate::kvm::Host::new(kvm.into()).unwrap().make_vm(&guest_memory()).unwrap();
    let signal = sys::signal::Signal::new().unwrap();
    let message = |data| MsiMessage { address: 0xFEE0_0000, data };
    vm.set_routes(&[(24, message(0x41)), (90, message(0x42))]).unwrap();
    for _ in 0..2 {
        vm.add_call(24, &signal).unwrap();
        assert!(vm.add_call(24, &signal).is_err(), "it is there");
        vm.remove_call(24, &signal).unwrap();
        for gpa in [BAR + 0x3000, BAR + 0x3004] {
            vm.add_kick(gpa, &signal).unwrap();
            assert!(vm.add_kick(gpa, &signal).is_err(), "it is there");
        }
        for gpa in [BAR + 0x3000, BAR + 0x3004] {
            vm.remove_kick(gpa, &signal).unwrap();
        }
    }
    vm.set_routes(&[]).unwrap();
    vm.signal(message(0x41)).unwrap_or_else(|error| assert_ne!(error.raw_os_error(), Some(libc::EINVAL)));
}
