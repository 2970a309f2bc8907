//! A hostile front end and a hostile guest at once: any requests with any descriptors, over any memory, to a disk.
#![no_main]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use devices::blk::{Blk, Disk, Engine};
use devices::serve_vhost;
use libfuzzer_sys::fuzz_target;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use vmd_fuzz::Script;
use vmd_fuzz::front_end::{MAX_FDS, message, send};

/// Guest memory, and where the front end says that it has it in its own address space.
const MEMORY: u64 = 0x1_0000;
const USER: u64 = 0x7000_0000;
/// Requests of one conversation: their answers, which nobody reads, find room in the socket.
const MAX_REQUESTS: usize = 40;

/// What a front end may hand over.
struct Descriptors {
    memory: File,
    event: OwnedFd,
    null: File,
    pipe: OwnedFd,
}

fuzz_target!(|input: &[u8]| {
    let mut script = Script(input);
    let memfd = |len| {
        let file = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memory object"));
        file.set_len(len).expect("its size");
        file
    };
    let kick = eventfd(1, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).expect("an eventfd");
    let null = File::options().read(true).write(true).open("/dev/null").expect("/dev/null is there");
    let (_other, pipe) = UnixStream::pair().expect("a pair of sockets");
    let fds = Descriptors { memory: memfd(MEMORY), event: kick, null, pipe: pipe.into() };
    // The guest's part: its rings lie where a good front end will say.
    for at in [0x1000u64, 0x2000, 0x4000] {
        let len = usize::from(script.byte()) * 2;
        fds.memory.write_all_at(script.bytes(len), at).expect("memory can be written");
    }
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    if script.byte() & 3 != 0 {
        begin_well(&ours, &fds);
    }
    for _ in 0..MAX_REQUESTS {
        if script.is_empty() {
            break;
        }
        request(&ours, &mut script, &fds);
    }
    // What may be missing of the last request; the rest is no request.
    send(&ours, &[0; 0x1010], &[]);
    ours.shutdown(std::net::Shutdown::Write).expect("a socket can be shut down");
    let disk = memfd(0x8000);
    let spare = disk.try_clone().expect("a second descriptor");
    let engine = Engine::plain(disk.into(), devices::blk::MAX_IN_FLIGHT);
    let blk = Blk::new(spare.into(), engine, Disk { sectors: 64, read_only: false }, 512, b"fuzz");
    serve_vhost::serve(theirs, blk, None).expect("a loop that waits");
});

/// A start as a front end should make it, with one queue of 16.
fn begin_well(socket: &UnixStream, fds: &Descriptors) {
    let say = |request: u32, words: &[u64], fds: &[BorrowedFd<'_>]| {
        let payload: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        send(socket, &message(request, 1, payload.len() as u32, &payload), fds);
    };
    say(3, &[], &[]); // SET_OWNER
    say(16, &[0], &[]); // SET_PROTOCOL_FEATURES
    say(2, &[1 << 32 | 1 << 30 | 1 << 28 | 1 << 29], &[]); // SET_FEATURES
    say(5, &[1, 0, MEMORY, USER, 0], &[fds.memory.as_fd()]); // SET_MEM_TABLE
    say(8, &[16 << 32], &[]); // SET_VRING_NUM
    say(9, &[0, USER + 0x1000, USER + 0x3000, USER + 0x2000, 0], &[]); // SET_VRING_ADDR
    say(12, &[0], &[fds.event.as_fd()]); // SET_VRING_KICK
    say(18, &[1 << 32], &[]); // SET_VRING_ENABLE
}

fn request(socket: &UnixStream, script: &mut Script<'_>, fds: &Descriptors) {
    let (code, flags, shape) = (script.byte(), script.byte(), script.byte());
    let words = usize::from(shape % 24);
    let mut payload: Vec<u8> = Vec::new();
    for _ in 0..words {
        let word = script.number();
        payload.extend(if shape & 64 != 0 { word.wrapping_add(USER) } else { word }.to_le_bytes());
    }
    payload.truncate(payload.len().saturating_sub(usize::from(shape >> 7) * 4));
    let count = match usize::from(flags >> 4) {
        15 => usize::from(script.byte()) % (MAX_FDS + 1),
        few => few,
    };
    let passed: Vec<BorrowedFd<'_>> = (0..count)
        .map(|_| match script.byte() % 4 {
            0 => fds.memory.as_fd(),
            1 => fds.event.as_fd(),
            2 => fds.null.as_fd(),
            _ => fds.pipe.as_fd(),
        })
        .collect();
    // A wrong size costs the time in which the rest may come, so it is rare.
    let size = if flags & 15 == 8 { script.word().into() } else { payload.len() as u32 };
    let header = if flags & 15 == 15 { u32::from(script.byte()) } else { 1 | u32::from(flags & 1) << 3 };
    send(socket, &message(u32::from(code) % 48, header, size, &payload), &passed);
}
