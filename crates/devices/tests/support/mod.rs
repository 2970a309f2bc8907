//! A guest's and a VMM's view of a device, for tests through the public door: memory with a hole, a driver that writes
//! any ring it likes, and a front end on the other side of the socket.
#![allow(dead_code)] // each test program uses its own part

pub mod process;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use devices::serve_vhost::{Device, Ended, serve};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// Low memory: [0, 4 MiB). Then a hole, then high memory.
pub const LOW: u64 = 4 << 20;
/// High memory: [1 GiB, 1 GiB + 1 MiB).
pub const HIGH: u64 = 1 << 30;
pub const HIGH_LEN: u64 = 1 << 20;
/// An address in the hole.
pub const HOLE: u64 = 0x2000_0000;
/// Buffers of tests lie from here on; rings lie before.
pub const BUFFERS: u64 = 1 << 20;

/// Where the front end would have low and high memory in its own address space.
const USER_LOW: u64 = 0x7f00_0000_0000;
const USER_HIGH: u64 = 0x7f80_0000_0000;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

pub const VERSION_1: u64 = 1 << 32;
pub const EVENT_IDX: u64 = 1 << 29;
pub const INDIRECT_DESC: u64 = 1 << 28;

const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a descriptor is readable. False when the time is over.
pub fn readable_within(fd: impl AsFd, wait: Duration) -> bool {
    let timeout = Timespec::try_from(wait).unwrap();
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

/// The guest's memory.
pub struct Guest {
    pub memory: Arc<GuestMemoryMmap<()>>,
    file: Arc<File>,
}

impl Guest {
    pub fn new() -> Guest {
        let file = Arc::new(File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap()));
        file.set_len(LOW + HIGH_LEN).unwrap();
        let part = |start| Some(FileOffset::from_arc(file.clone(), start));
        let ranges = [(GuestAddress(0), LOW as usize, part(0)), (GuestAddress(HIGH), HIGH_LEN as usize, part(LOW))];
        let memory = Arc::new(GuestMemoryMmap::from_ranges_with_files(ranges).unwrap());
        Guest { memory, file }
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn write(&self, addr: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(addr)).unwrap();
    }

    pub fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }

    pub fn regions(&self) -> [VhostUserMemoryRegionInfo; 2] {
        let region = |guest_phys_addr, memory_size, userspace_addr, mmap_offset| VhostUserMemoryRegionInfo {
            guest_phys_addr,
            memory_size,
            userspace_addr,
            mmap_offset,
            mmap_handle: self.file.as_raw_fd(),
        };
        [region(0, LOW, USER_LOW, 0), region(HIGH, HIGH_LEN, USER_HIGH, LOW)]
    }

    /// Where the front end sees a guest address; one in the hole is where it would be.
    pub fn user(addr: u64) -> u64 {
        if addr >= HIGH { USER_HIGH.wrapping_add(addr - HIGH) } else { USER_LOW.wrapping_add(addr) }
    }
}

/// A descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Desc {
    pub addr: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

impl Desc {
    fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// One part of a request that the driver puts together properly.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// The device reads it.
    Out(u64, u32),
    /// The device writes it.
    In(u64, u32),
}

/// A queue as the driver has it.
pub struct Driver {
    pub guest: Arc<Guest>,
    pub size: u16,
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    pub kick: EventFd,
    pub call: EventFd,
    pub err: EventFd,
    /// Next available entry, next free descriptor, next used entry to be looked at.
    pub next: u16,
    free: u16,
    seen: u16,
}

impl Driver {
    pub fn new(guest: &Arc<Guest>, queue: u64, size: u16) -> Driver {
        let event = || EventFd::new(libc_nonblock()).unwrap();
        let base = 0x1_0000 + queue * 0x1_0000;
        Driver {
            guest: guest.clone(),
            size,
            desc: base,
            avail: base + 0x8000,
            used: base + 0xc000,
            kick: event(),
            call: event(),
            err: event(),
            next: 0,
            free: 0,
            seen: 0,
        }
    }

    /// Forgets all that was: an empty ring.
    pub fn reset(&mut self) {
        self.guest.write(self.desc & !0xffff, &[0; 0x1_0000]);
        (self.next, self.free, self.seen) = (0, 0, 0);
        let _ = (self.call.read(), self.err.read(), self.kick.read());
    }

    pub fn put_desc(&self, index: u16, desc: Desc) {
        self.guest.write(self.desc + u64::from(index) * 16, &desc.bytes());
    }

    pub fn put_table(&self, addr: u64, table: &[Desc]) {
        for (index, desc) in table.iter().enumerate() {
            self.guest.write(addr + index as u64 * 16, &desc.bytes());
        }
    }

    pub fn set_avail_idx(&self, idx: u16) {
        self.guest.write(self.avail + 2, &idx.to_le_bytes());
    }

    pub fn set_avail_flags(&self, flags: u16) {
        self.guest.write(self.avail, &flags.to_le_bytes());
    }

    pub fn set_used_event(&self, event: u16) {
        self.guest.write(self.avail + 4 + u64::from(self.size) * 2, &event.to_le_bytes());
    }

    /// The available index with which the device wants its next kick (EVENT_IDX).
    pub fn avail_event(&self) -> u16 {
        u16::from_le_bytes(self.guest.read(self.used + 4 + u64::from(self.size) * 8, 2).try_into().unwrap())
    }

    pub fn used_flags(&self) -> u16 {
        u16::from_le_bytes(self.guest.read(self.used, 2).try_into().unwrap())
    }

    pub fn used_idx(&self) -> u16 {
        u16::from_le_bytes(self.guest.read(self.used + 2, 2).try_into().unwrap())
    }

    /// Makes a head available, whatever it is.
    pub fn offer(&mut self, head: u16) {
        let slot = self.next % self.size;
        self.guest.write(self.avail + 4 + u64::from(slot) * 2, &head.to_le_bytes());
        self.next = self.next.wrapping_add(1);
        self.set_avail_idx(self.next);
    }

    /// Writes a proper chain and makes it available; its head.
    pub fn add(&mut self, parts: &[Part]) -> u16 {
        let head = self.free;
        for (place, part) in parts.iter().enumerate() {
            let (addr, len, flags) = match *part {
                Part::Out(addr, len) => (addr, len, 0),
                Part::In(addr, len) => (addr, len, WRITE),
            };
            let index = self.free;
            self.free = (self.free + 1) % self.size;
            let last = place + 1 == parts.len();
            let flags = if last { flags } else { flags | NEXT };
            self.put_desc(index, Desc { addr, len, flags, next: self.free });
        }
        self.offer(head);
        head
    }

    pub fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// The next used element, waiting for it.
    pub fn used(&mut self) -> (u32, u32) {
        self.used_within(PATIENCE).expect("no used element within 20 s")
    }

    /// The next used element, if it comes within the time.
    pub fn used_within(&mut self, wait: Duration) -> Option<(u32, u32)> {
        let end = std::time::Instant::now() + wait;
        while self.used_idx() == self.seen {
            if std::time::Instant::now() > end {
                return None;
            }
            // The call comes with the element, but a test may have suppressed it: look again soon.
            readable_within(borrow(&self.call), Duration::from_millis(2));
        }
        let slot = u64::from(self.seen % self.size);
        let element = self.guest.read(self.used + 4 + slot * 8, 8);
        self.seen = self.seen.wrapping_add(1);
        let half = |range: std::ops::Range<usize>| u32::from_le_bytes(element[range].try_into().unwrap());
        Some((half(0..4), half(4..8)))
    }

    pub fn was_called(&self, wait: Duration) -> bool {
        readable_within(borrow(&self.call), wait) && self.call.read().is_ok()
    }

    pub fn wait_error(&self) {
        assert!(readable_within(borrow(&self.err), PATIENCE), "the device did not report a broken ring within 20 s");
        self.err.read().unwrap();
    }
}

fn libc_nonblock() -> i32 {
    rustix::event::EventfdFlags::NONBLOCK.bits() as i32
}

/// vmm-sys-util's EventFd is no AsFd.
fn borrow(event: &EventFd) -> OwnedFd {
    OwnedFd::from(File::from(OwnedFd::from(EventOwner(event.try_clone().unwrap()))))
}

struct EventOwner(EventFd);

impl From<EventOwner> for OwnedFd {
    fn from(owner: EventOwner) -> OwnedFd {
        use std::os::fd::{FromRawFd, IntoRawFd};
        #[allow(unsafe_code)]
        // SAFETY: `into_raw_fd` gives up the only owner.
        unsafe {
            OwnedFd::from_raw_fd(owner.0.into_raw_fd())
        }
    }
}

/// A front end that is connected to a device on a thread of its own.
pub struct Vmm {
    pub front_end: Frontend,
    pub guest: Arc<Guest>,
    socket: UnixStream,
    device: Option<JoinHandle<io::Result<Ended>>>,
    thread: Option<rustix::process::Pid>,
}

/// Serves a device on a thread and gives the raw socket.
pub fn spawn<D: Device + Send + 'static>(device: D) -> (UnixStream, JoinHandle<io::Result<Ended>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours, std::thread::spawn(move || serve(theirs, device, None)))
}

impl Vmm {
    /// A device on a thread, connected.
    pub fn new<D: Device + Send + 'static>(device: D, features: u64) -> Vmm {
        Vmm::of(device, features, Arc::new(Guest::new()))
    }

    /// The same, for a guest that there is.
    pub fn of<D: Device + Send + 'static>(device: D, features: u64, guest: Arc<Guest>) -> Vmm {
        let (socket, theirs) = UnixStream::pair().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let device = std::thread::spawn(move || {
            tell.send(rustix::thread::gettid()).unwrap();
            serve(theirs, device, None)
        });
        let mut vmm = Vmm::over_for(socket, features, guest);
        (vmm.device, vmm.thread) = (Some(device), told.recv().ok());
        vmm
    }

    /// Connected to whatever serves the socket: features negotiated, memory shared, no queue set up.
    pub fn over(socket: UnixStream, features: u64) -> Vmm {
        Vmm::over_for(socket, features, Arc::new(Guest::new()))
    }

    fn over_for(socket: UnixStream, features: u64, guest: Arc<Guest>) -> Vmm {
        let mut front_end = Frontend::from_stream(socket.try_clone().unwrap(), 4);
        front_end.set_owner().unwrap();
        let offered = front_end.get_features().unwrap();
        assert_eq!(offered & features, features, "not offered");
        let protocol = front_end.get_protocol_features().unwrap();
        assert!(protocol.contains(VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::CONFIG));
        front_end.set_protocol_features(protocol).unwrap();
        front_end.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        front_end.set_features(features | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()).unwrap();
        front_end.set_mem_table(&guest.regions()).unwrap();
        Vmm { front_end, guest, socket, device: None, thread: None }
    }

    pub fn ring(&self, driver: &Driver) -> VringConfigData {
        VringConfigData {
            queue_max_size: driver.size,
            queue_size: driver.size,
            flags: 0,
            desc_table_addr: Guest::user(driver.desc),
            used_ring_addr: Guest::user(driver.used),
            avail_ring_addr: Guest::user(driver.avail),
            log_addr: None,
        }
    }

    /// Sets a queue up and enables it, as after DRIVER_OK.
    pub fn start(&mut self, queue: usize, driver: &Driver, base: u16) {
        self.front_end.set_vring_num(queue, driver.size).unwrap();
        self.front_end.set_vring_base(queue, base).unwrap();
        self.front_end.set_vring_addr(queue, &self.ring(driver)).unwrap();
        self.front_end.set_vring_call(queue, &driver.call).unwrap();
        self.front_end.set_vring_err(queue, &driver.err).unwrap();
        self.front_end.set_vring_kick(queue, &driver.kick).unwrap();
        self.front_end.set_vring_enable(queue, true).unwrap();
    }

    /// Stops a queue; where it stood.
    pub fn stop(&mut self, queue: usize) -> u16 {
        self.front_end.get_vring_base(queue).unwrap().try_into().unwrap()
    }

    /// Hangs up, and waits for the device to end.
    pub fn end(mut self) -> Ended {
        self.socket.shutdown(std::net::Shutdown::Both).unwrap();
        self.device.take().unwrap().join().expect("the device panicked").unwrap()
    }

    /// CPU time that the device has had (proc(5): the first number of schedstat, in ns).
    pub fn cpu(&self) -> Duration {
        let path = format!("/proc/self/task/{}/schedstat", self.thread.unwrap().as_raw_nonzero());
        let line = std::fs::read_to_string(path).unwrap();
        Duration::from_nanos(line.split(' ').next().unwrap().parse().unwrap())
    }

    pub fn is_serving(&self) -> bool {
        !self.device.as_ref().unwrap().is_finished()
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if let Some(device) = self.device.take() {
            let ended = device.join();
            assert!(std::thread::panicking() || ended.is_ok(), "the device panicked");
        }
    }
}
