//! A hostile front end and a hostile guest at once: any requests with any descriptors, over any memory, to a disk.
#![no_main]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use devices::blk::{Blk, Blocks, Disk, Engine};
use devices::serve_vhost;
use libfuzzer_sys::fuzz_target;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use sys::guest_io::GuestMemory;
use vm_memory::{FileOffset, GuestAddress};
use vmd_fuzz::front_end::{MAX_FDS, Requests, message};
use vmd_fuzz::{Script, guest};

/// Guest memory, and where the front end says that it has it in its own address space.
const MEMORY: u64 = 0x1_0000;
const USER: u64 = 0x7000_0000;
/// Where the region with the rings ends, if there are two.
const RINGS: u64 = 0x4000;
/// Bytes of the disk.
const DISK: u64 = 0x8000;
/// Requests of one conversation: their answers, which nobody reads, find room in the socket.
const MAX_REQUESTS: usize = 40;

/// What a front end may hand over, and the disk: the same in every run, and as new at its beginning.
struct Descriptors {
    memory: Shared,
    event: OwnedFd,
    null: File,
    pipe: UnixStream,
    _other: UnixStream,
    disk: Shared,
}

/// A memory object, also mapped here: a run begins with zeros in it, and no call is needed for that.
struct Shared {
    file: Arc<File>,
    bytes: GuestMemory,
}

impl Shared {
    fn new(len: u64) -> Self {
        let file = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memory object"));
        file.set_len(len).expect("its size");
        let file = Arc::new(file);
        let range = (GuestAddress(0), len as usize, Some(FileOffset::from_arc(file.clone(), 0)));
        Self { file, bytes: GuestMemory::from_ranges_with_files([range]).expect("a mapping") }
    }

    fn clear(&self, len: u64) {
        guest::put(&self.bytes, 0, &ZEROS[..len as usize]);
    }
}

static ZEROS: [u8; MEMORY as usize] = [0; MEMORY as usize];

thread_local! {
    static FDS: Descriptors = {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).expect("an eventfd");
        let null = File::options().read(true).write(true).open("/dev/null").expect("/dev/null is there");
        let (_other, pipe) = UnixStream::pair().expect("a pair of sockets");
        Descriptors { memory: Shared::new(MEMORY), event, null, pipe, _other, disk: Shared::new(DISK) }
    };
}

fuzz_target!(|input: &[u8]| FDS.with(|fds| run(fds, Script(input))));

fn run(fds: &Descriptors, mut script: Script<'_>) {
    fds.memory.clear(MEMORY);
    fds.disk.clear(DISK);
    let _ = rustix::io::read(&fds.event, &mut [0; 8][..]);
    rustix::io::write(&fds.event, &1u64.to_ne_bytes()).expect("a count");
    // The guest's part: its rings lie where a good front end will say.
    for at in [0x1000u64, 0x2000, 0x4000] {
        let len = usize::from(script.byte()) * 2;
        guest::put(&fds.memory.bytes, at, script.bytes(len));
    }
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let mut requests = Requests::new(&ours);
    match script.byte() & 3 {
        0 => {}
        1 => begin_well(&mut requests, fds, Told::ByRegions),
        _ => begin_well(&mut requests, fds, Told::ByTable),
    }
    for _ in 0..MAX_REQUESTS {
        if script.is_empty() {
            break;
        }
        request(&mut requests, &mut script, fds);
    }
    // What may be missing of the last request; the rest is no request.
    requests.say(&ZEROS[..0x1010], &[]);
    requests.send();
    ours.shutdown(std::net::Shutdown::Write).expect("a socket can be shut down");
    let disk = || OwnedFd::from(fds.disk.file.try_clone().expect("one more descriptor"));
    let engine = Engine::plain(disk(), devices::blk::MAX_IN_FLIGHT);
    let blk = Blk::new(disk(), engine, Disk { sectors: DISK / 512, read_only: false }, Blocks::of(512), b"fuzz");
    serve_vhost::serve(theirs, blk, None).expect("a loop that waits");
}

/// How a front end tells of its memory.
enum Told {
    ByTable,
    ByRegions,
}

/// A start as a front end should make it, with one queue of 16.
fn begin_well(requests: &mut Requests<'_>, fds: &Descriptors, told: Told) {
    let mut say = |request: u32, words: &[u64], fds: &[BorrowedFd<'_>]| {
        let mut payload = Vec::with_capacity(48);
        words.iter().for_each(|word| payload.extend_from_slice(&word.to_le_bytes()));
        requests.say(&message(request, 1, payload.len() as u32, &payload), fds);
    };
    say(3, &[], &[]); // SET_OWNER
    let slots = matches!(told, Told::ByRegions);
    say(16, &[u64::from(slots) << 15], &[]); // SET_PROTOCOL_FEATURES: CONFIGURE_MEM_SLOTS
    say(2, &[1 << 32 | 1 << 30 | 1 << 28 | 1 << 29], &[]); // SET_FEATURES
    let memory = fds.memory.file.as_fd();
    match told {
        Told::ByTable => say(5, &[1, 0, MEMORY, USER, 0], &[memory]), // SET_MEM_TABLE
        Told::ByRegions => {
            // ADD_MEM_REG, twice: rings in one, the rest in the other
            say(37, &[0, 0, RINGS, USER, 0], &[memory]);
            say(37, &[0, RINGS, MEMORY - RINGS, USER + RINGS, RINGS], &[memory]);
        }
    }
    say(8, &[16 << 32], &[]); // SET_VRING_NUM
    say(9, &[0, USER + 0x1000, USER + 0x3000, USER + 0x2000, 0], &[]); // SET_VRING_ADDR
    say(12, &[0], &[fds.event.as_fd()]); // SET_VRING_KICK
    say(18, &[1 << 32], &[]); // SET_VRING_ENABLE
}

fn request(requests: &mut Requests<'_>, script: &mut Script<'_>, fds: &Descriptors) {
    let (code, flags, shape) = (script.byte(), script.byte(), script.byte());
    let words = usize::from(shape % 24);
    let mut payload: Vec<u8> = Vec::new();
    for _ in 0..words {
        let word = script.number();
        payload.extend_from_slice(&if shape & 64 != 0 { word.wrapping_add(USER) } else { word }.to_le_bytes());
    }
    payload.truncate(payload.len().saturating_sub(usize::from(shape >> 7) * 4));
    let count = match usize::from(flags >> 4) {
        15 => usize::from(script.byte()) % (MAX_FDS + 1),
        few => few,
    };
    let passed: Vec<BorrowedFd<'_>> = (0..count)
        .map(|_| match script.byte() % 4 {
            0 => fds.memory.file.as_fd(),
            1 => fds.event.as_fd(),
            2 => fds.null.as_fd(),
            _ => fds.pipe.as_fd(),
        })
        .collect();
    let size = if flags & 15 == 8 { script.word().into() } else { payload.len() as u32 };
    let header = if flags & 15 == 15 { u32::from(script.byte()) } else { 1 | u32::from(flags & 1) << 3 };
    requests.say(&message(u32::from(code) % 48, header, size, &payload), &passed);
}
