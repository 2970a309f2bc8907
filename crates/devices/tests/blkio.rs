//! Another's driver in front of our disk: libblkio's virtio-blk over vhost-user, as it is published. It adds its memory region by
//! region, has no indirect tables, and waits for its interrupts or looks for what was used.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use blkio::{Blkio, Blkioq, Completion, MemoryRegion, ReqFlags, iovec};
use devices::blk::{Blk, Blocks, Disk, Engine, MAX_IN_FLIGHT};
use devices::serve_vhost::{Ended, serve};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const DISK: usize = 4 << 20;
const SECTOR: usize = 512;

/// What one request has of the driver's memory.
const SLOT: usize = 256 << 10;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
enum How {
    Ring,
    Plain,
}

/// Memory that the driver shares: its own file, mapped here.
struct Memory {
    file: Arc<File>,
    mapped: GuestMemoryMmap<()>,
    len: usize,
}

impl Memory {
    fn new(len: usize) -> Memory {
        let file = Arc::new(File::from(memfd_create("blkio", MemfdFlags::CLOEXEC).unwrap()));
        file.set_len(len as u64).unwrap();
        let range = (GuestAddress(0), len, Some(FileOffset::from_arc(file.clone(), 0)));
        Memory { file, mapped: GuestMemoryMmap::from_ranges_with_files([range]).unwrap(), len }
    }

    fn address(&self, at: usize) -> usize {
        self.mapped.get_host_address(GuestAddress(at as u64)).unwrap().addr()
    }

    fn region(&self) -> MemoryRegion {
        MemoryRegion {
            addr: self.address(0),
            iova: 0,
            len: self.len,
            fd: self.file.as_raw_fd(),
            fd_offset: 0,
            flags: 0,
        }
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        self.mapped.write_slice(bytes, GuestAddress(at as u64)).unwrap();
    }

    fn get(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mapped.read_slice(&mut bytes, GuestAddress(at as u64)).unwrap();
        bytes
    }
}

/// The driver, started, with one queue and memory.
struct Driver {
    queue: Blkioq,
    blkio: Blkio,
    memory: Memory,
    device: JoinHandle<io::Result<Ended>>,
    file: File,
}

impl Driver {
    fn new(how: How, polls: bool) -> Driver {
        let file = tempfile::tempfile().unwrap();
        file.set_len(DISK as u64).unwrap();
        let (path, device) = listen(how, file.try_clone().unwrap());
        let mut blkio = Blkio::new("virtio-blk-vhost-user").unwrap();
        blkio.set_str("path", path.path().join("disk.sock").to_str().unwrap()).unwrap();
        blkio.connect().unwrap();
        assert_eq!(blkio.get_u64("capacity").unwrap(), DISK as u64);
        assert_eq!(blkio.get_u64("max-mem-regions").unwrap(), 32);
        blkio.set_i32("num-queues", i32::from(!polls)).unwrap();
        blkio.set_i32("num-poll-queues", i32::from(polls)).unwrap();
        let started = blkio.start().unwrap();
        let queue = started.queues.into_iter().chain(started.poll_queues).next().unwrap();
        let memory = Memory::new(64 * SLOT);
        blkio.map_mem_region(&memory.region()).unwrap();
        Driver { queue, blkio, memory, device, file }
    }

    /// The next request that is done: its number and its result.
    fn done(&mut self) -> (usize, i32) {
        let mut completion = [MaybeUninit::<Completion>::uninit()];
        let mut patience = PATIENCE;
        assert_eq!(self.queue.do_io(&mut completion, 1, Some(&mut patience), None).unwrap(), 1);
        let [completion] = completion;
        #[allow(unsafe_code)]
        // SAFETY: `do_io` has written as many completions as it says, which is one.
        let completion = unsafe { completion.assume_init() };
        (completion.user_data, completion.ret)
    }

    /// Hangs up; the disk's file.
    fn end(self) -> File {
        drop((self.queue, self.blkio));
        assert_eq!(self.device.join().expect("the device panicked").unwrap(), Ended::FrontEnd);
        self.file
    }
}

/// A disk behind a listening socket, for one front end.
fn listen(how: How, file: File) -> (tempfile::TempDir, JoinHandle<io::Result<Ended>>) {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("disk.sock")).unwrap();
    let engine = match how {
        How::Ring => Engine::new(file.try_clone().unwrap().into(), MAX_IN_FLIGHT, None),
        How::Plain => Engine::plain(file.try_clone().unwrap().into(), MAX_IN_FLIGHT),
    };
    let disk = Disk { sectors: (DISK / SECTOR) as u64, read_only: false };
    let blk = Blk::new(file.into(), engine, disk, Blocks::of(512), b"blkio");
    let device = std::thread::spawn(move || {
        let (front_end, _) = listener.accept()?;
        let (ours, device) = UnixStream::pair()?;
        let (mut answers, mut to_front_end) = (ours.try_clone()?, front_end.try_clone()?);
        let back = std::thread::spawn(move || io::copy(&mut answers, &mut to_front_end));
        let forth = std::thread::spawn(move || pass_on(front_end, ours));
        let ended = serve(device, blk, None);
        forth.join().expect("the front end's messages are passed on")?;
        let _ = back.join().expect("the answers are passed on");
        ended
    });
    (dir, device)
}

/// Passes on what a front end says. A device of ours refuses an eventfd that would make it wait and can't change one; libblkio makes
/// such. So that is changed on the way, and nothing else.
fn pass_on(mut from: UnixStream, to: UnixStream) -> io::Result<()> {
    loop {
        let mut header = [0; 12];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::WAITALL | RecvFlags::CMSG_CLOEXEC;
        let got = rustix::net::recvmsg(&from, &mut [IoSliceMut::new(&mut header)], &mut control, flags)?;
        if got.bytes == 0 {
            return to.shutdown(Shutdown::Both);
        }
        let mut fds: Vec<OwnedFd> = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        // Memory is passed too, and no flag of it matters.
        fds.iter().try_for_each(sys::waits::never)?;
        let mut message = header.to_vec();
        message.resize(12 + u32::from_ne_bytes(header[8..].try_into().unwrap()) as usize, 0);
        from.read_exact(&mut message[12..])?;
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)));
        let sent = rustix::net::sendmsg(&to, &[io::IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL)?;
        assert_eq!(sent, message.len());
    }
}

/// Numbers that look random and are the same each time (xorshift64*, Vigna 2016).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(4)).flat_map(|_| (self.below(1 << 31) as u32).to_le_bytes()).take(len).collect()
    }
}

/// A request under way: the disk's bytes that it uses, and where in memory what it reads comes to lie.
struct Pending {
    range: std::ops::Range<usize>,
    reads: Option<usize>,
}

/// Requests of every kind, so many at once, against what the disk should hold.
fn load(driver: &mut Driver, depth: usize, rounds: usize) -> Vec<u8> {
    let mut numbers = Numbers(0x1234_5678_9abc_def1 + depth as u64);
    let mut disk = vec![0; DISK];
    let mut pending: HashMap<usize, Pending> = HashMap::new();
    let mut kinds = [0; 8];
    for _ in 0..rounds {
        while pending.len() == depth {
            finish(driver, &disk, &mut pending);
        }
        let slot = (0..depth).find(|slot| !pending.contains_key(slot)).unwrap();
        let len = SECTOR * [1, 2, 7, 8, 9, 128, 129, 384][numbers.below(8)];
        let start = SECTOR * numbers.below((DISK - len) / SECTOR + 1);
        let range = start..start + len;
        if pending.values().any(|other| other.range.start < range.end && range.start < other.range.end) {
            continue; // the order of two that meet is nobody's promise
        }
        let kind = numbers.below(kinds.len());
        kinds[kind] += 1;
        let reads = submit(driver, &mut numbers, kind, slot, &range, &mut disk);
        pending.insert(slot, Pending { range, reads });
    }
    while !pending.is_empty() {
        finish(driver, &disk, &mut pending);
    }
    assert!(kinds.iter().all(|count| *count > rounds / 32), "{kinds:?}");
    disk
}

fn submit(
    driver: &mut Driver,
    numbers: &mut Numbers,
    kind: usize,
    slot: usize,
    range: &std::ops::Range<usize>,
    disk: &mut [u8],
) -> Option<usize> {
    let at = slot * SLOT + [0, 1, 13, 511, 4095][numbers.below(5)];
    let (start, len, buffer) = (range.start as u64, range.len(), driver.memory.address(at) as *mut u8);
    let none = ReqFlags::empty();
    if matches!(kind, 2..=4) {
        disk[range.clone()].copy_from_slice(&numbers.bytes(len));
        driver.memory.put(at, &disk[range.clone()]);
    }
    if matches!(kind, 5..=6) {
        disk[range.clone()].fill(0);
    }
    // Three pieces, none of which is a sector.
    let cuts = [(0, 100), (100, 333), (433, len - 433)];
    let pieces = cuts.map(|(from, len)| iovec { iov_base: driver.memory.address(at + from) as *mut _, iov_len: len });
    match kind {
        0 => driver.queue.read(start, buffer, len, slot, none),
        1 => driver.queue.readv(start, pieces.as_ptr(), 3, slot, none),
        2 => driver.queue.write(start, buffer, len, slot, none),
        3 => driver.queue.writev(start, pieces.as_ptr(), 3, slot, none),
        4 => driver.queue.write(start, buffer, len, slot, ReqFlags::FUA),
        5 => driver.queue.write_zeroes(
            start,
            len as u64,
            slot,
            if at.is_multiple_of(2) { ReqFlags::NO_UNMAP } else { none },
        ),
        6 => driver.queue.discard(start, len as u64, slot, none),
        _ => driver.queue.flush(slot, none),
    }
    matches!(kind, 0..=1).then_some(at)
}

fn finish(driver: &mut Driver, disk: &[u8], pending: &mut HashMap<usize, Pending>) {
    let (slot, result) = driver.done();
    let Pending { range, reads } = pending.remove(&slot).expect("it was under way");
    assert_eq!(result, 0, "{range:?}");
    if let Some(at) = reads {
        assert!(driver.memory.get(at, range.len()) == disk[range.clone()], "{range:?} reads wrong");
    }
}

#[test]
fn what_libblkio_writes_it_reads_back_and_the_file_has_it() {
    for (how, polls, depth, rounds) in [
        (How::Ring, false, 1, 400),
        (How::Ring, false, 64, 2000),
        (How::Ring, true, 64, 2000),
        (How::Plain, false, 1, 400),
        (How::Plain, false, 64, 1000),
    ] {
        let mut driver = Driver::new(how, polls);
        let disk = load(&mut driver, depth, rounds);
        let file = driver.end();
        let mut written = vec![0; DISK];
        file.read_exact_at(&mut written, 0).unwrap();
        assert!(written == disk, "{how:?} at depth {depth}: the file differs");
    }
}

#[test]
fn memory_comes_and_goes_while_libblkio_reads() {
    let mut driver = Driver::new(How::Ring, false);
    driver.file.write_all_at(&[0x5a; SECTOR], 0).unwrap();
    // The queue's memory and the driver's have two of the slots.
    let more: Vec<Memory> = (0..31).map(|_| Memory::new(0x1000)).collect();
    let (last, rest) = more.split_last().unwrap();
    for memory in rest {
        driver.blkio.map_mem_region(&memory.region()).unwrap();
    }
    assert!(driver.blkio.map_mem_region(&last.region()).is_err(), "33 regions");
    let read = |driver: &mut Driver, memory: &Memory| {
        driver.queue.read(0, memory.address(7) as *mut u8, SECTOR, 1, ReqFlags::empty());
        driver.done()
    };
    for memory in rest {
        assert_eq!(read(&mut driver, memory), (1, 0));
        assert_eq!(memory.get(7, SECTOR), [0x5a; SECTOR]);
        driver.blkio.unmap_mem_region(&memory.region());
        assert_ne!(read(&mut driver, memory).1, 0, "this memory was taken away");
    }
    driver.blkio.map_mem_region(&last.region()).unwrap();
    assert_eq!(read(&mut driver, last), (1, 0));
    driver.end();
}

#[test]
fn what_can_not_be_done_is_an_error_and_the_next_request_is_served() {
    let mut driver = Driver::new(How::Ring, false);
    let buffer = driver.memory.address(1) as *mut u8;
    for (start, len) in [(DISK, SECTOR), (DISK - SECTOR, 2 * SECTOR), (0, 100), (0, SECTOR + 1)] {
        driver.queue.read(start as u64, buffer, len, 1, ReqFlags::empty());
        driver.queue.write(start as u64, buffer, len, 2, ReqFlags::empty());
        let mut results = [driver.done(), driver.done()];
        results.sort_unstable();
        assert_eq!(results, [(1, -5), (2, -5)], "EIO for {start}+{len}");
        driver.queue.read(0, buffer, SECTOR, 3, ReqFlags::empty());
        assert_eq!(driver.done(), (3, 0));
    }
    assert_eq!(driver.end().metadata().unwrap().len(), DISK as u64);
}
