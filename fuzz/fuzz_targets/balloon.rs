//! A hostile guest to its balloon: any rings, chains and page numbers, and what vmm asks in between. The memory's file
//! keeps its size, and no more is counted than the guest has.
#![no_main]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use devices::balloon::Balloon;
use devices::serve_vhost::{self, Device};
use libfuzzer_sys::fuzz_target;
use model::MemorySize;
use proto::device::Ask;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use vmd_fuzz::Script;
use vmd_fuzz::front_end::{message, send};

/// Two blocks and a page. The rings of queue N lie from N * 0x4000 on.
const MEMORY: u64 = (4 << 20) + 0x1000;
const USER: u64 = 0x7000_0000;

fuzz_target!(|input: &[u8]| {
    let mut script = Script(input);
    let memory = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memory object"));
    memory.set_len(MEMORY).expect("its size");
    for queue in 0..4u64 {
        for at in [0x1000u64, 0x2000] {
            let len = usize::from(script.byte()) * 2;
            memory.write_all_at(script.bytes(len), queue * 0x4000 + at).expect("memory can be written");
        }
    }
    let len = usize::from(script.word());
    memory.write_all_at(script.bytes(len), 0x1_0000).expect("memory can be written");
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let say = |request: u32, words: &[u64], fds: &[BorrowedFd<'_>]| {
        let payload: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        send(&ours, &message(request, 1, u32::try_from(payload.len()).expect("few words"), &payload), fds);
    };
    say(3, &[], &[]); // SET_OWNER
    say(16, &[0], &[]); // SET_PROTOCOL_FEATURES
    let some = u64::from(script.byte()) & 0x27;
    say(2, &[1 << 32 | 1 << 30 | u64::from(script.byte() & 3) << 28 | some], &[]); // SET_FEATURES
    say(5, &[1, 0, MEMORY, USER, 0], &[memory.as_fd()]); // SET_MEM_TABLE
    let kick = eventfd(1, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).expect("an eventfd");
    for round in 0..2 {
        for queue in 0..4u64 {
            let rings = USER + queue * 0x4000;
            say(8, &[16 << 32 | queue], &[]); // SET_VRING_NUM
            say(9, &[queue, rings + 0x1000, rings + 0x3000, rings + 0x2000, 0], &[]); // SET_VRING_ADDR
            say(12, &[queue], &[kick.as_fd()]); // SET_VRING_KICK
            say(18, &[1 << 32 | queue], &[]); // SET_VRING_ENABLE
        }
        if round == 0 {
            (0..4).for_each(|queue| say(11, &[queue], &[])); // GET_VRING_BASE
            say(34, &[], &[]); // RESET_DEVICE
        }
    }
    ours.shutdown(std::net::Shutdown::Write).expect("a socket can be shut down");
    let mut balloon = Balloon::new(MemorySize::DEFAULT);
    for _ in 0..script.byte() % 4 {
        let mib = i64::from(script.word()) << 20;
        balloon.asked(Ask::Memory(MemorySize::from_bytes(mib).unwrap_or(MemorySize::MAX)), vec![]);
    }
    serve_vhost::serve(theirs, balloon, None).expect("a loop that waits");
    assert_eq!(memory.metadata().expect("its size").len(), MEMORY);
});
