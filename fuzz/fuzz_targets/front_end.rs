//! A hostile back end to the vm process: any answers, in part or with descriptors, to all that it is asked from the
//! connection on. What is taken over has the lengths and numbers that were asked for.
#![no_main]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use hw::{Activation, QueueSetup};
use libfuzzer_sys::fuzz_target;
use proto::device::Front;
use rustix::fs::{MemfdFlags, memfd_create};
use sys::guest_io::GuestMemory;
use vm::fuzzing::{FrontEnd, Step, connect};
use vm_memory::{FileOffset, GuestAddress};
use vmd_fuzz::Script;
use vmd_fuzz::front_end::{Requests, message};

/// Of vhost-user: a reply of version 1.
const REPLY: u32 = 5;
const GET_FEATURES: u32 = 1;
const GET_VRING_BASE: u32 = 11;
const GET_PROTOCOL_FEATURES: u32 = 15;
const GET_QUEUE_NUM: u32 = 17;
const GET_CONFIG: u32 = 24;
const VERSION_1: u64 = 1 << 32;
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// MQ, REPLY_ACK, CONFIG and RESET_DEVICE.
const OFFERED: u64 = 1 | 1 << 3 | 1 << 9 | 1 << 13;
/// What is asked after the connection, of one device: less than this, so that what is asked finds room in the socket, which
/// the back end does not read.
const MAX_STEPS: usize = 6;
/// Bytes that the back end says: they find room in the socket.
const MAX_SAID: usize = 0x1_0000;
const MEMORY: usize = 0x1_0000;

thread_local! {
    static MEMORY_OF_ALL: (GuestMemory, File) = {
        let file = Arc::new(File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memory object")));
        file.set_len(MEMORY as u64).expect("its size");
        let null = File::open("/dev/null").expect("/dev/null is there");
        let range = (GuestAddress(0), MEMORY, Some(FileOffset::from_arc(file, 0)));
        (GuestMemory::from_ranges_with_files([range]).expect("a mapping"), null)
    };
}

/// What the vm process does with a device.
#[derive(Clone, Copy)]
enum Do {
    Activate,
    Config,
    Stop,
    Pause,
    Unpause,
}

fuzz_target!(|input: &[u8]| MEMORY_OF_ALL.with(|(memory, null)| run(memory, null, Script(input))));

fn run(memory: &GuestMemory, null: &File, mut script: Script<'_>) {
    let choice = script.byte();
    let front = Front {
        virtio_id: 2,
        queues: u16::from(choice % 4) + 1,
        queue_size: 256,
        config_len: [60, 0, 6, 256][usize::from(choice >> 2 & 3)],
    };
    let steps = steps(&mut script);
    let activation = activation(&mut script, front);
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let mut said = Said { requests: Requests::new(&theirs), script, fds: [null.as_fd(); 2], left: MAX_SAID };
    said.connected(front);
    steps.iter().for_each(|step| said.step(*step, front, &activation));
    said.requests.send();
    theirs.shutdown(std::net::Shutdown::Write).expect("a socket can be shut down");
    let (device, mut back_end) = match connect(front, ours.into(), memory.clone()) {
        Step::Done(connected) => connected,
        Step::Refused | Step::Gone => return,
    };
    assert_eq!(device.queues, vec![front.queue_size; front.queues.into()]);
    assert_eq!(device.config.len(), usize::from(front.config_len));
    assert!(device.features & VERSION_1 != 0);
    for step in steps {
        if perform(&mut back_end, step, front, &activation) == Step::Gone {
            return;
        }
    }
}

fn perform(back_end: &mut FrontEnd, step: Do, front: Front, activation: &Activation) -> Step<()> {
    match step {
        Do::Activate => back_end.activate(activation),
        Do::Stop => back_end.stop(),
        Do::Pause => back_end.pause(),
        Do::Unpause => back_end.unpause(),
        Do::Config => match back_end.config() {
            Step::Done(config) => {
                assert_eq!(config.len(), usize::from(front.config_len));
                Step::Done(())
            }
            Step::Refused => Step::Refused,
            Step::Gone => Step::Gone,
        },
    }
}

fn steps(script: &mut Script<'_>) -> Vec<Do> {
    let count = usize::from(script.byte()) % MAX_STEPS;
    let all = [Do::Activate, Do::Stop, Do::Pause, Do::Unpause, Do::Config];
    (0..count).map(|nth| all[(usize::from(script.byte()) + nth) % all.len()]).collect()
}

/// Of all queues mostly; hw has checked what stands in it.
fn activation(script: &mut Script<'_>, front: Front) -> Activation {
    let choice = script.byte();
    let queue = |index: u16| {
        let at = u64::from(index) * 0x3000;
        QueueSetup { index, size: 256, desc: at + 0x1000, avail: at + 0x2000, used: at + 0x2800 }
    };
    let queues = (0..front.queues).filter(|index| choice >> index & 0x11 != 0x11).map(queue).collect();
    Activation { features: VERSION_1 | u64::from(choice & 3) << 28, queues }
}

/// What the back end says, mostly as it should.
struct Said<'a> {
    requests: Requests<'a>,
    script: Script<'a>,
    fds: [BorrowedFd<'a>; 2],
    left: usize,
}

impl Said<'_> {
    fn connected(&mut self, front: Front) {
        let features = if self.script.byte() < 0xF0 { 0x3000_0224 } else { self.script.number() };
        self.number(GET_FEATURES, features | VERSION_1 | PROTOCOL_FEATURES);
        self.number(GET_PROTOCOL_FEATURES, OFFERED);
        self.number(GET_QUEUE_NUM, front.queues.into());
        self.config(front);
    }

    fn step(&mut self, step: Do, front: Front, activation: &Activation) {
        let queues = || activation.queues.iter().map(|queue| queue.index);
        match step {
            Do::Config => self.config(front),
            Do::Activate | Do::Unpause => {
                if matches!(step, Do::Activate) {
                    self.number(5, 0);
                }
                self.number(2, 0);
                for _ in queues() {
                    [8, 10, 9, 14, 13, 12].into_iter().for_each(|request| self.number(request, 0));
                }
                queues().for_each(|_| self.number(18, 0));
            }
            Do::Stop | Do::Pause => {
                for queue in queues() {
                    let base = u64::from(self.script.byte());
                    self.number(GET_VRING_BASE, base << 32 | u64::from(queue));
                }
                if matches!(step, Do::Stop) {
                    self.number(34, 0);
                }
            }
        }
    }

    fn config(&mut self, front: Front) {
        if front.config_len > 0 {
            let words = [0, u32::from(front.config_len), 0];
            let mut payload = words.map(u32::to_le_bytes).concat();
            payload.resize(12 + usize::from(front.config_len), 7);
            self.reply(GET_CONFIG, payload);
        }
    }

    fn number(&mut self, request: u32, value: u64) {
        self.reply(request, value.to_le_bytes().to_vec());
    }

    /// One answer, or something else in its place.
    fn reply(&mut self, request: u32, mut payload: Vec<u8>) {
        let (mut request, mut flags, mut size) = (request, REPLY, payload.len() as u32);
        let mut fds = 0;
        let choice = self.script.byte();
        match choice {
            0xE0..=0xE3 => request = u32::from(self.script.byte()),
            0xE4..=0xE7 => flags = u32::from(self.script.byte()),
            0xE8..=0xEA => size = u32::from(self.script.word()),
            0xEB => size = self.script.number() as u32,
            0xEC..=0xF3 => {
                let at = usize::from(self.script.byte()) % payload.len();
                let value = self.script.number().to_le_bytes();
                payload[at..].iter_mut().zip(value).for_each(|(to, from)| *to = from);
            }
            0xF4 | 0xF5 => fds = 1 + usize::from(choice & 1),
            0xF6 | 0xF7 => {
                payload.resize(usize::from(self.script.word()) % 0x1100, choice);
                size = payload.len() as u32;
            }
            0xF8 | 0xF9 => payload.truncate(usize::from(self.script.byte())),
            0xFA => return,
            0xFB => payload = self.script.bytes(60).to_vec(),
            0xFC | 0xFD => payload[0] = 1, // refused
            _ => {}
        }
        let bytes = message(request, flags, size, &payload);
        if let Some(left) = self.left.checked_sub(bytes.len()) {
            self.left = left;
            self.requests.say(&bytes, &self.fds[..fds]);
        }
    }
}
