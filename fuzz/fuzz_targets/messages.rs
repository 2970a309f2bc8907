//! Any packet with any descriptors, as each message between processes: refused, or the same after another journey.
#![no_main]

use std::fmt::Debug;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use libfuzzer_sys::fuzz_target;
use proto::{Channel, Message, Received};
use sys::seqpacket;

fuzz_target!(|input: &[u8]| {
    let [kind, fds, packet @ ..] = input else { return };
    match kind % 18 {
        0 => travel::<proto::client::ToControl>(packet, *fds),
        1 => travel::<proto::client::ToClient>(packet, *fds),
        2 => travel::<proto::control::ToControl>(packet, *fds),
        3 => travel::<proto::control::ToParent>(packet, *fds),
        4 => travel::<proto::opener::ToOpener>(packet, *fds),
        5 => travel::<proto::opener::ToParent>(packet, *fds),
        6 => travel::<proto::probe::ToProbe>(packet, *fds),
        7 => travel::<proto::probe::ToParent>(packet, *fds),
        8 => travel::<proto::privileged::ToPriv>(packet, *fds),
        9 => travel::<proto::privileged::ToParent>(packet, *fds),
        10 => travel::<proto::vmm::ToVmm>(packet, *fds),
        11 => travel::<proto::vmm::ToParent>(packet, *fds),
        12 => travel::<proto::vm::ToVm>(packet, *fds),
        13 => travel::<proto::vm::ToVmm>(packet, *fds),
        14 => travel::<proto::device::ToDevice>(packet, *fds),
        15 => travel::<proto::device::ToVmm>(packet, *fds),
        16 => travel::<proto::agentx::ToAgentX>(packet, *fds),
        _ => travel::<proto::agentx::ToParent>(packet, *fds),
    }
});

fn travel<M: Message + Debug>(packet: &[u8], fds: u8) {
    let file = File::open("/dev/null").expect("/dev/null is there");
    let (ours, theirs) = seqpacket::pair().expect("a pair of sockets");
    let fds: Vec<BorrowedFd<'_>> = (0..fds % 8).map(|_| file.as_fd()).collect();
    if seqpacket::send(ours.as_fd(), packet, &fds).is_err() {
        return; // longer than a packet can be
    }
    let (mut receiver, mut sender) = (Channel::<M, M>::new(theirs), Channel::<M, M>::new(ours));
    let Ok(Received::Message(message, fds)) = receiver.recv() else { return };
    let said = format!("{message:?}");
    receiver.send(&message, fds).expect("what was received can be sent");
    match sender.recv() {
        Ok(Received::Message(again, _)) => assert_eq!(format!("{again:?}"), said),
        other => panic!("{said} became {other:?}"),
    }
}
