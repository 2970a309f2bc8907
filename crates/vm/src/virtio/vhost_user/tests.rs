//! Back ends that keep their front end waiting: each wait has an end.

use std::io::{Read, Write};
use std::thread::JoinHandle;

use super::*;

const BLOCK: Front = Front { virtio_id: 2, queues: 1, queue_size: 256, config_len: 60 };
const LIMIT: Duration = Duration::from_millis(100);

fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
}

/// A back end that gives so many bytes of answers of zeros to whatever it hears, and then says nothing.
fn slow(mut bytes: usize) -> (OwnedFd, JoinHandle<()>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let peer = std::thread::spawn(move || {
        let mut request = [0; 256];
        while theirs.read(&mut request).is_ok_and(|read| read > 0) {
            let answer = bytes.min(20);
            bytes -= answer;
            theirs.write_all(&vec![0; answer]).unwrap();
        }
    });
    (ours.into(), peer)
}

#[test]
fn a_back_end_that_says_nothing_is_given_up() {
    for bytes in [0, 1, 11, 12, 19] {
        let (socket, peer) = slow(bytes);
        let connected = connect(LIMIT, BLOCK, socket, memory());
        assert!(matches!(connected, Err(Failure::Gone(_))), "{bytes} bytes of an answer");
        peer.join().unwrap();
    }
}

#[test]
fn a_back_end_that_no_longer_answers_is_given_up() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let watched: OwnedFd = ours.try_clone().unwrap().into();
    let front_end = Frontend::from_stream(ours, MAX_QUEUES);
    front_end.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    let (limit, active) = (LIMIT, vec![0]);
    let (activation, bases) = (None, Vec::new());
    let memory = memory();
    let mut back_end = VhostUser {
        front_end,
        front: BLOCK,
        resets: true,
        watched,
        limit,
        memory,
        memory_told: true,
        active,
        activation,
        bases,
    };
    assert!(matches!(back_end.stop(), Err(Failure::Gone(_))));
    drop(theirs);
}
