//! A hostile guest to its CD-ROM drive: any rings, chains, commands and task management, and what vmm asks in between. The
//! image stays as it is.
#![no_main]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use devices::blk::Engine;
use devices::scsi::{MAX_IN_FLIGHT, Medium, Scsi};
use devices::serve_vhost::{self, Device};
use libfuzzer_sys::fuzz_target;
use proto::device::Ask;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use vmd_fuzz::Script;
use vmd_fuzz::front_end::{message, send};

/// The rings of queue N lie from N * 0x4000 on, what they point to behind them.
const MEMORY: u64 = 0x4_0000;
const USER: u64 = 0x7000_0000;
const BLOCKS: u64 = 8;

fn image() -> File {
    let file = File::from(memfd_create("image", MemfdFlags::CLOEXEC).expect("a memory object"));
    file.write_all_at(&[0x5a; (BLOCKS * 2048) as usize], 0).expect("memory can be written");
    file
}

fn copy(file: &File) -> OwnedFd {
    file.try_clone().expect("a descriptor").into()
}

fuzz_target!(|input: &[u8]| {
    let mut script = Script(input);
    let memory = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memory object"));
    memory.set_len(MEMORY).expect("its size");
    for queue in 0..3u64 {
        for at in [0x1000u64, 0x2000] {
            let len = usize::from(script.byte()) * 2;
            memory.write_all_at(script.bytes(len), queue * 0x4000 + at).expect("memory can be written");
        }
    }
    // Requests of the drive, of which the input chooses the command.
    for place in 0..8u64 {
        let at = 0x1_0000 + place * 0x200;
        memory.write_all_at(&[1, 0, 0x40, 0], at).expect("memory can be written");
        memory.write_all_at(script.bytes(32), at + 19).expect("memory can be written");
    }
    let len = usize::from(script.word());
    memory.write_all_at(script.bytes(len), 0x2_0000).expect("memory can be written");
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let say = |request: u32, words: &[u64], fds: &[BorrowedFd<'_>]| {
        let payload: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        send(&ours, &message(request, 1, u32::try_from(payload.len()).expect("few words"), &payload), fds);
    };
    say(3, &[], &[]); // SET_OWNER
    say(16, &[0], &[]); // SET_PROTOCOL_FEATURES
    say(2, &[1 << 32 | 1 << 30 | u64::from(script.byte() & 3) << 28], &[]); // SET_FEATURES
    say(5, &[1, 0, MEMORY, USER, 0], &[memory.as_fd()]); // SET_MEM_TABLE
    let kick = eventfd(1, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).expect("an eventfd");
    for queue in 0..3u64 {
        let rings = USER + queue * 0x4000;
        say(8, &[16 << 32 | queue], &[]); // SET_VRING_NUM
        say(9, &[queue, rings + 0x1000, rings + 0x3000, rings + 0x2000, 0], &[]); // SET_VRING_ADDR
        say(12, &[queue], &[kick.as_fd()]); // SET_VRING_KICK
        say(18, &[1 << 32 | queue], &[]); // SET_VRING_ENABLE
    }
    ours.shutdown(std::net::Shutdown::Write).expect("a socket can be shut down");
    let (first, second) = (image(), image());
    let engine = Engine::plain(copy(&first), MAX_IN_FLIGHT);
    let medium = Medium { engine, blocks: BLOCKS, called: String::new() };
    let mut scsi = Scsi::new(b"fuzz", (script.byte() & 1 == 1).then_some(medium), script.byte() & 1 == 1);
    for _ in 0..script.byte() % 4 {
        let force = script.byte() & 1 == 1;
        match script.byte() & 1 {
            0 => scsi.asked(Ask::Eject { force }, vec![]),
            _ => scsi.asked(Ask::Insert { called: model::Text::cut("b"), force }, vec![copy(&second)]),
        };
    }
    serve_vhost::serve(theirs, scsi, None).expect("a loop that waits");
    for image in [first, second] {
        let mut bytes = vec![0; (BLOCKS * 2048) as usize];
        image.read_exact_at(&mut bytes, 0).expect("it is there");
        assert!(bytes.iter().all(|byte| *byte == 0x5a) && image.metadata().is_ok_and(|now| now.len() == BLOCKS * 2048));
    }
});
