//! A block driver as Linux's is: indirect descriptors, event indices, one interrupt wanted for the next used element.

use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

/// What requests do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// VIRTIO_BLK_T_IN.
    Read,
    /// VIRTIO_BLK_T_OUT.
    Write,
}

/// Requests of one length, at places of the image drawn at random.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    /// What they do.
    pub way: Way,
    /// Bytes of each.
    pub len: u32,
    /// So many under way at any time.
    pub depth: u16,
}

impl Pattern {
    /// Whether it writes with many requests under way.
    pub fn is_deep_write(&self) -> bool {
        self.way == Way::Write && self.depth > 1
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.way {
            Way::Read => "read",
            Way::Write => "write",
        };
        write!(f, "{} KiB {way}, depth {}", self.len >> 10, self.depth)
    }
}

/// Entries of the ring: those of our disks.
const SIZE: u16 = 256;

const MEMORY: u64 = 32 << 20;
/// Where the front end would have the memory in its own address space.
const USER: u64 = 0x7f00_0000_0000;
const DESCRIPTORS: u64 = 0x1_0000;
const AVAILABLE: u64 = 0x2_0000;
const USED: u64 = 0x3_0000;
/// A page for each request: its indirect table, from 0x100 on its header, at 0x200 its status.
const REQUESTS: u64 = 0x10_0000;
/// And its data.
const DATA: u64 = 0x80_0000;
const DATA_EACH: u64 = 0x1_0000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// VIRTIO_F_VERSION_1, VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC, VIRTIO_BLK_F_FLUSH.
const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 28 | 1 << 9;

/// A request that is not answered within this time never will be.
const PATIENCE_MS: i32 = 60_000;

/// The driver of one disk.
pub struct Driver {
    memory: Arc<GuestMemoryMmap<()>>,
    /// Connected as long as the disk is driven.
    _front_end: Frontend,
    kick: EventFd,
    call: EventFd,
    /// Waits for the call, which can't be had as an `AsFd`.
    epoll: Epoll,
    /// Bytes of the disk.
    disk: u64,
    offered: u16,
    seen: u16,
    /// The last available index that the device was told by a kick.
    kicked: u16,
    random: u64,
}

impl Driver {
    /// Sets up the queue of a disk of so many bytes.
    pub fn new(socket: UnixStream, disk: u64) -> Driver {
        let file = Arc::new(File::from(memfd_create("guest", MemfdFlags::CLOEXEC).expect("memory")));
        file.set_len(MEMORY).expect("memory");
        let range = (GuestAddress(0), MEMORY as usize, Some(FileOffset::from_arc(file.clone(), 0)));
        let memory = Arc::new(GuestMemoryMmap::from_ranges_with_files([range]).expect("memory can be mapped"));
        // Touched here first: what only the server had touched would count as its own.
        memory.write_slice(&vec![0; MEMORY as usize], GuestAddress(0)).expect("memory");
        let (kick, call) = (event(), event());
        let front_end = connect(socket, &file, &kick, &call).expect("the server speaks vhost-user");
        let epoll = Epoll::new().expect("an epoll");
        let readable = EpollEvent::new(EventSet::IN, 0);
        epoll.ctl(ControlOperation::Add, call.as_raw_fd(), readable).expect("an eventfd can be waited for");
        Driver {
            memory,
            _front_end: front_end,
            kick,
            call,
            epoll,
            disk,
            offered: 0,
            seen: 0,
            kicked: 0,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Keeps as many requests under way as the pattern says, for so long; how many were answered.
    pub fn run(&mut self, pattern: Pattern, time: Duration) -> u64 {
        (0..pattern.depth).for_each(|place| self.prepare(place, pattern));
        (0..pattern.depth).for_each(|place| self.offer(place, pattern));
        self.kick_if_wanted();
        let (end, mut answered, mut under_way) = (Instant::now() + time, 0, pattern.depth);
        while under_way > 0 {
            self.wait();
            let goes_on = Instant::now() < end;
            while self.load(USED + 2) != self.seen {
                let place = self.take();
                answered += 1;
                if goes_on {
                    self.offer(place, pattern);
                } else {
                    under_way -= 1;
                }
            }
            self.kick_if_wanted();
        }
        answered
    }

    /// Writes what is the same in all requests of a place.
    fn prepare(&self, place: u16, pattern: Pattern) {
        let (at, data) = (request(place), DATA + u64::from(place) * DATA_EACH);
        let direction = if pattern.way == Way::Read { WRITE } else { 0 };
        self.describe(at, (at + 0x100, 16), NEXT, 1);
        self.describe(at + 16, (data, pattern.len), direction | NEXT, 2);
        self.describe(at + 32, (at + 0x200, 1), WRITE, 0);
        self.describe(DESCRIPTORS + u64::from(place) * 16, (at, 48), INDIRECT, 0);
    }

    fn describe(&self, at: u64, (addr, len): (u64, u32), flags: u16, next: u16) {
        self.write(addr, at);
        self.write(len, at + 8);
        self.write(flags, at + 12);
        self.write(next, at + 14);
    }

    /// Makes a request available.
    fn offer(&mut self, place: u16, pattern: Pattern) {
        // xorshift64 (Marsaglia, Xorshift RNGs, 2003)
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let sector = self.random % (self.disk / u64::from(pattern.len)) * u64::from(pattern.len / 512);
        let at = request(place);
        self.write([u64::from(pattern.way == Way::Write), sector], at + 0x100); // type, reserved, sector
        self.write(0xffu8, at + 0x200);
        self.write(place, AVAILABLE + 4 + u64::from(self.offered % SIZE) * 2);
        self.offered = self.offered.wrapping_add(1);
        self.memory.store(self.offered, GuestAddress(AVAILABLE + 2), Ordering::Release).expect("memory");
    }

    fn kick_if_wanted(&mut self) {
        fence(Ordering::SeqCst);
        let wanted = self.load(USED + 4 + u64::from(SIZE) * 8);
        let (new, old) = (self.offered, std::mem::replace(&mut self.kicked, self.offered));
        if new.wrapping_sub(wanted).wrapping_sub(1) < new.wrapping_sub(old) {
            self.kick.write(1).expect("an eventfd");
        }
    }

    /// Waits for a used element.
    fn wait(&self) {
        self.write(self.seen, AVAILABLE + 4 + u64::from(SIZE) * 2);
        fence(Ordering::SeqCst);
        while self.load(USED + 2) == self.seen {
            let ready = self.epoll.wait(PATIENCE_MS, &mut [EpollEvent::default()]).expect("it is waited for");
            assert!(ready > 0, "no request was answered within {PATIENCE_MS} ms");
            let _ = self.call.read();
        }
    }

    /// Takes a used element: which request it answers.
    fn take(&mut self) -> u16 {
        let slot = u64::from(self.seen % SIZE);
        let head: u32 = self.memory.read_obj(GuestAddress(USED + 4 + slot * 8)).expect("memory");
        self.seen = self.seen.wrapping_add(1);
        let place = u16::try_from(head).expect("a head of ours");
        let status: u8 = self.memory.read_obj(GuestAddress(request(place) + 0x200)).expect("memory");
        assert_eq!(status, 0, "VIRTIO_BLK_S_OK");
        place
    }

    fn load(&self, at: u64) -> u16 {
        self.memory.load(GuestAddress(at), Ordering::Acquire).expect("memory")
    }

    fn write<T: vm_memory::ByteValued>(&self, value: T, at: u64) {
        self.memory.write_obj(value, GuestAddress(at)).expect("memory");
    }
}

fn request(place: u16) -> u64 {
    REQUESTS + u64::from(place) * 0x1000
}

fn event() -> EventFd {
    EventFd::new(rustix::event::EventfdFlags::NONBLOCK.bits().cast_signed()).expect("an eventfd")
}

/// A front end whose one queue runs.
fn connect(socket: UnixStream, file: &File, kick: &EventFd, call: &EventFd) -> vhost::Result<Frontend> {
    let mut front_end = Frontend::from_stream(socket, 1);
    front_end.set_owner()?;
    let offered = front_end.get_features()?;
    assert_eq!(offered & FEATURES, FEATURES, "the server lacks a feature");
    let protocol = front_end.get_protocol_features()?;
    front_end.set_protocol_features(protocol & VhostUserProtocolFeatures::CONFIG)?;
    front_end.set_features(FEATURES | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())?;
    front_end.set_mem_table(&[VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: MEMORY,
        userspace_addr: USER,
        mmap_offset: 0,
        mmap_handle: file.as_raw_fd(),
    }])?;
    front_end.set_vring_num(0, SIZE)?;
    front_end.set_vring_base(0, 0)?;
    let ring = VringConfigData {
        queue_max_size: SIZE,
        queue_size: SIZE,
        flags: 0,
        desc_table_addr: USER + DESCRIPTORS,
        used_ring_addr: USER + USED,
        avail_ring_addr: USER + AVAILABLE,
        log_addr: None,
    };
    front_end.set_vring_addr(0, &ring)?;
    front_end.set_vring_call(0, call)?;
    front_end.set_vring_kick(0, kick)?;
    front_end.set_vring_enable(0, true)?;
    Ok(front_end)
}
