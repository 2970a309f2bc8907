//! Back ends that keep their front end waiting: each wait has an end, but that for requests under way.

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

/// A back end with a queue that is served, and its other end.
fn active() -> (VhostUser, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let watched: OwnedFd = ours.try_clone().unwrap().into();
    let front_end = Frontend::from_stream(ours, MAX_QUEUES);
    front_end.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    let (limit, active) = (LIMIT, vec![0]);
    let (activation, bases, answer) =
        (Some(Activation { features: 0, queues: Vec::new() }), Vec::new(), Answer::default());
    let memory = memory();
    let back_end = VhostUser {
        front_end,
        front: BLOCK,
        features: 0,
        offered: VhostUserProtocolFeatures::RESET_DEVICE,
        watched,
        limit,
        memory,
        memory_told: true,
        active,
        activation,
        bases,
        answer,
        records: None,
        lost: false,
    };
    (back_end, theirs)
}

#[test]
fn a_back_end_that_no_longer_answers_is_given_up() {
    let (mut back_end, _theirs) = active();
    assert!(matches!(back_end.config(), Err(Failure::Gone(_))));
}

/// Where queue 0 stands: request, flags, size, queue and base.
const STANDS: [u32; 5] = [11, 0b101, 8, 0, 7];

#[test]
fn requests_under_way_are_waited_for_however_long_they_take() {
    let (mut back_end, mut theirs) = active();
    assert!(!back_end.stop().unwrap());
    std::thread::sleep(LIMIT * 5);
    assert!(!back_end.stopped().unwrap(), "nor is it waited for");
    let mut asked = [0; 20];
    theirs.read_exact(&mut asked).unwrap();
    assert_eq!(asked[..4], 11u32.to_le_bytes());
    theirs.write_all(&STANDS.map(u32::to_le_bytes).concat()).unwrap();
    assert!(back_end.stopped().unwrap());
    assert_eq!(back_end.bases, [(0, 7)]);
    assert!(back_end.stop().unwrap(), "it has stopped already");
}

#[test]
fn a_back_end_that_goes_while_it_is_waited_for_is_gone() {
    let (mut back_end, theirs) = active();
    assert!(!back_end.stop().unwrap());
    drop(theirs);
    assert!(matches!(back_end.stopped(), Err(Failure::Gone(_))));
    let (mut back_end, theirs) = active();
    drop(theirs);
    assert!(matches!(back_end.stop(), Err(Failure::Gone(_))));
}

#[test]
fn a_back_end_that_has_stopped_and_does_not_answer_its_reset_is_given_up() {
    let (mut back_end, _theirs) = active();
    back_end.active.clear();
    assert!(matches!(back_end.reset(), Err(Failure::Gone(_))));
}
