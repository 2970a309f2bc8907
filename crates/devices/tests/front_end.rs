//! A front end that does not keep to the protocol: it is cut off or answered, and never brings the device's process down
//! or holds it (openbsd/devices.md, 11.8).

mod support;

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use devices::blk::{Blk, Blocks, Disk, Engine, MAX_IN_FLIGHT};
use devices::serve_vhost::Ended;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

const SET_FEATURES: u32 = 2;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const GET_FEATURES: u32 = 1;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;
const GET_MAX_MEM_SLOTS: u32 = 36;
const ADD_MEM_REG: u32 = 37;
const REM_MEM_REG: u32 = 38;

/// VHOST_USER_F_PROTOCOL_FEATURES, among virtio's features.
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS.
const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;

type Served = JoinHandle<std::io::Result<Ended>>;

fn device() -> (UnixStream, Served) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let engine = Engine::new(file.try_clone().unwrap().into(), MAX_IN_FLIGHT, None);
    let disk = Disk { sectors: 2048, read_only: false };
    support::spawn(Blk::new(file.into(), engine, disk, Blocks::of(512), b"x"))
}

fn message(request: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in [request, 1, payload.len() as u32] {
        bytes.extend(field.to_ne_bytes());
    }
    bytes.extend(payload);
    bytes
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn send_with(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

/// How it ended, which it must have done within the time.
fn ended(served: Served, within: Duration) -> Ended {
    let end = Instant::now() + within;
    while !served.is_finished() {
        assert!(Instant::now() < end, "the device did not end within {within:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    served.join().expect("the device panicked").unwrap()
}

/// The device still answers.
fn answers(socket: &mut UnixStream) {
    socket.write_all(&message(GET_FEATURES, &[])).unwrap();
    let mut reply = [0; 20];
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.read_exact(&mut reply).unwrap();
    assert_eq!(reply[0], 1);
}

#[test]
fn half_a_header_is_cut_off_after_a_while() {
    for cut in [1, 4, 11] {
        let (mut socket, served) = device();
        socket.write_all(&message(GET_FEATURES, &[])[..cut]).unwrap();
        assert_eq!(ended(served, Duration::from_secs(10)), Ended::Protocol);
    }
}

#[test]
fn half_a_payload_is_cut_off_after_a_while() {
    let (mut socket, served) = device();
    socket.write_all(&message(SET_FEATURES, &words(&[1]))[..16]).unwrap();
    assert_eq!(ended(served, Duration::from_secs(10)), Ended::Protocol);
}

#[test]
fn a_request_that_comes_in_pieces_is_served() {
    let (mut socket, served) = device();
    for byte in message(GET_FEATURES, &[]) {
        socket.write_all(&[byte]).unwrap();
        std::thread::sleep(Duration::from_millis(3)); // pieces that arrive apart are what is tried
    }
    let mut reply = [0; 20];
    socket.read_exact(&mut reply).unwrap();
    drop(socket);
    assert_eq!(ended(served, Duration::from_secs(10)), Ended::FrontEnd);
}

#[test]
fn a_hang_up_in_the_middle_ends_at_once() {
    let (mut socket, served) = device();
    socket.write_all(&message(SET_FEATURES, &words(&[1]))[..7]).unwrap();
    drop(socket);
    let hung_up = Instant::now();
    assert_eq!(ended(served, Duration::from_secs(10)), Ended::Protocol);
    assert!(hung_up.elapsed() < Duration::from_millis(900), "the rest was waited for");
}

#[test]
fn what_is_no_request_is_cut_off() {
    let mut long = message(GET_FEATURES, &[]);
    long[8..12].copy_from_slice(&u32::MAX.to_ne_bytes());
    let mut reply = message(GET_FEATURES, &[]);
    reply[4] |= 4;
    let mut version = message(GET_FEATURES, &[]);
    version[4] = 2;
    for bad in [
        long,
        reply,
        version,
        message(0, &[]),
        message(77, &[]),
        message(u32::MAX, &[]),
        message(GET_FEATURES, &[0]), // a payload that it does not have
        message(SET_FEATURES, &[1]), // too short
        message(SET_MEM_TABLE, &[]),
        message(SET_MEM_TABLE, &words(&[9, 0, 0, 0, 0])), // more regions than there are
        message(SET_MEM_TABLE, &words(&[1, 0, 0x1000, 0, 0])), // no descriptor
        message(SET_VRING_KICK, &words(&[0])),            // no descriptor
        message(SET_VRING_ADDR, &words(&[0, 1, 0, 0, 0])), // not aligned
        message(GET_VRING_BASE, &words(&[77])),           // nothing to answer with
        message(SET_VRING_ENABLE, &words(&[5 << 32])),    // neither on nor off
        message(20, &[]),                                 // never offered
        message(GET_MAX_MEM_SLOTS, &[]),                  // not negotiated
        message(REM_MEM_REG, &region(0, 0x1000, 0, 0)),
        message(31, &words(&[0; 3])),
    ] {
        let (mut socket, served) = device();
        socket.write_all(&bad).unwrap();
        assert_eq!(ended(served, Duration::from_secs(10)), Ended::Protocol, "{bad:?}");
    }
}

#[test]
fn descriptors_where_none_belong_are_cut_off_and_closed() {
    for (request, payload, count) in [
        (GET_FEATURES, vec![], 1),
        (SET_FEATURES, words(&[1 << 32]), 3),
        (SET_VRING_KICK, words(&[0]), 2),
        (SET_VRING_CALL, words(&[0x100]), 1), // says that it has none
        (SET_MEM_TABLE, words(&[1, 0, 0x1000, 0, 0]), 2),
        (SET_MEM_TABLE, words(&[1, 0, 0x1000, 0, 0]), 32),
        (ADD_MEM_REG, region(0, 0x1000, 0, 0), 1), // not negotiated
    ] {
        let (socket, served) = device();
        let (mut read, write) = UnixStream::pair().unwrap();
        send_with(&socket, &message(request, &payload), &vec![write.as_fd(); count]);
        drop(write);
        assert_eq!(ended(served, Duration::from_secs(10)), Ended::Protocol);
        read.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(read.read(&mut [0]).unwrap(), 0, "a descriptor is still open");
    }
}

#[test]
fn memory_that_can_not_be_mapped_is_refused_and_the_rest_goes_on() {
    let (mut socket, served) = device();
    let file = tempfile::tempfile().unwrap();
    file.set_len(0x4000).unwrap();
    for region in [
        [0, 0x5000, 0, 0],                 // larger than its file
        [0, 0x1000, 0, 0x4000],            // behind its end
        [0, 1 << 62, 0, 0],                // no address space has it
        [0, 0x1000, 0, 1],                 // no page
        [u64::MAX - 0x1000, 0x1000, 0, 0], // at the end of all addresses
    ] {
        let mut payload = words(&[1]);
        payload.extend(words(&region));
        send_with(&socket, &message(SET_MEM_TABLE, &payload), &[file.as_fd()]);
        answers(&mut socket);
    }
    let overlap = words(&[2, 0, 0x2000, 0, 0, 0x1000, 0x2000, 0x10_0000, 0]);
    send_with(&socket, &message(SET_MEM_TABLE, &overlap), &[file.as_fd(), file.as_fd()]);
    answers(&mut socket);
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    send_with(&socket, &message(SET_MEM_TABLE, &words(&[1, 0, 0x1000, 0, 0])), &[pipe.as_fd()]);
    answers(&mut socket);
    drop(socket);
    assert_eq!(ended(served, Duration::from_secs(10)), Ended::FrontEnd);
}

/// One region as ADD_MEM_REG and REM_MEM_REG have it: padding, guest address, size, user address, offset in its file.
fn region(guest: u64, len: u64, user: u64, offset: u64) -> Vec<u8> {
    words(&[0, guest, len, user, offset])
}

/// How often a file of that name is mapped in this process, and how many descriptors of it there are.
fn uses(name: &str) -> (usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let descriptors =
        std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| entry.ok()?.path().read_link().ok());
    let named = |path: &std::path::Path| path.to_string_lossy().contains(name);
    (maps.lines().filter(|line| line.contains(name)).count(), descriptors.filter(|path| named(path)).count())
}

#[test]
fn a_region_is_mapped_while_it_is_there_and_what_can_not_be_added_is_given_back() {
    let name = "front-end-region";
    let file = File::from(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.set_len(0x4000).unwrap();
    let (mut socket, served) = device();
    socket.write_all(&message(SET_PROTOCOL_FEATURES, &words(&[CONFIGURE_MEM_SLOTS]))).unwrap();
    let mut say = |request, payload: &[u8], fds: &[BorrowedFd<'_>]| {
        send_with(&socket, &message(request, payload), fds);
        answers(&mut socket);
    };
    say(ADD_MEM_REG, &region(0x1000, 0x2000, 0x7000, 0), &[file.as_fd()]);
    assert_eq!(uses(name), (1, 2));
    for (guest, len, offset) in [
        (0x2000, 0x2000, 0),           // overlaps
        (0x1000, 0x2000, 0),           // is there
        (0x8000, 0, 0),                // nothing
        (0x8000, 0x1000, 1),           // no page
        (0x8000, 0x5000, 0),           // larger than its file
        (0x8000, u64::MAX, 0x1000),    // an end that no number has
        (u64::MAX - 0xffe, 0x1000, 0), // at the end of all addresses
    ] {
        say(ADD_MEM_REG, &region(guest, len, 0x10_0000, offset), &[file.as_fd()]);
        assert_eq!(uses(name), (1, 2), "{guest:#x}+{len:#x} at {offset:#x}");
    }
    say(REM_MEM_REG, &region(0x1000, 0x1000, 0x7000, 0), &[file.as_fd()]); // not there; a descriptor comes along, as from older front ends
    assert_eq!(uses(name), (1, 2));
    say(REM_MEM_REG, &region(0x1000, 0x2000, 0x7000, 0), &[file.as_fd()]);
    assert_eq!(uses(name), (0, 1));
    for slot in 0..40 {
        say(ADD_MEM_REG, &region(slot << 20, 0x1000, slot << 20, 0), &[file.as_fd()]);
    }
    assert_eq!(uses(name), (32, 33), "no more than the slots that GET_MAX_MEM_SLOTS tells");
    drop(socket);
    assert_eq!(ended(served, Duration::from_secs(10)), Ended::FrontEnd);
    assert_eq!(uses(name), (0, 1));
}

/// QEMU's network cards have their rings enabled before they know which features the driver takes.
#[test]
fn a_queue_may_be_enabled_before_features_are_set_but_not_before_protocol_features() {
    let (mut socket, served) = device();
    socket.write_all(&message(SET_PROTOCOL_FEATURES, &words(&[0]))).unwrap();
    socket.write_all(&message(SET_VRING_ENABLE, &words(&[1 << 32]))).unwrap();
    answers(&mut socket);
    let mut asks = message(SET_VRING_ENABLE, &words(&[1 << 32 | 3])); // there is no such queue
    asks[4] |= 8;
    socket.write_all(&asks).unwrap();
    let mut reply = [0; 20];
    socket.read_exact(&mut reply).unwrap();
    assert_eq!((reply[0], reply[4], reply[12]), (18, 5, 1), "refused");
    let call = File::from(rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap());
    let features = PROTOCOL_FEATURES | 1 << 32;
    let mut guest = queue_for(&mut socket, call.as_fd(), features);
    assert_eq!(guest.used(), (0, 1), "enabled it was");
    drop(socket);
    assert_eq!(ended(served, Duration::from_secs(10)), Ended::FrontEnd);

    let (mut socket, served) = device();
    socket.write_all(&message(SET_VRING_ENABLE, &words(&[1 << 32]))).unwrap();
    assert_eq!(ended(served, Duration::from_secs(10)), Ended::Protocol);
}

/// A queue with one buffer for a device that was told of both descriptors.
fn queue(socket: &mut UnixStream, kick_and_call: BorrowedFd<'_>) -> support::Driver {
    queue_for(socket, kick_and_call, 1 << 32)
}

fn queue_for(socket: &mut UnixStream, kick_and_call: BorrowedFd<'_>, features: u64) -> support::Driver {
    let mut guest = support::Driver::new(&std::sync::Arc::new(support::Guest::new()), 0, 16);
    let regions = guest.guest.regions();
    let memory: Vec<u64> = regions
        .iter()
        .flat_map(|region| [region.guest_phys_addr, region.memory_size, region.userspace_addr, region.mmap_offset])
        .collect();
    let mut payload = words(&[2]);
    payload.extend(words(&memory));
    socket.write_all(&message(SET_FEATURES, &words(&[features]))).unwrap();
    let file = guest.guest.file();
    send_with(socket, &message(SET_MEM_TABLE, &payload), &[file.as_fd(), file.as_fd()]);
    socket.write_all(&message(SET_VRING_NUM, &words(&[16 << 32]))).unwrap();
    let user = support::Guest::user;
    let ring = [0, user(guest.desc), user(guest.used), user(guest.avail), 0];
    socket.write_all(&message(SET_VRING_ADDR, &words(&ring))).unwrap();
    send_with(socket, &message(SET_VRING_CALL, &words(&[0])), &[kick_and_call]);
    guest.add(&[support::Part::In(support::BUFFERS, 1)]);
    send_with(socket, &message(SET_VRING_KICK, &words(&[0])), &[kick_and_call]);
    guest
}

#[test]
fn kick_and_call_descriptors_may_be_anything_that_does_not_wait() {
    let zero = File::open("/dev/zero").unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let dir = File::open("/").unwrap();
    let (stuck, _other) = rustix::pipe::pipe().unwrap();
    let (hung_up, _) = UnixStream::pair().unwrap();
    for fd in [zero.as_fd(), full.as_fd(), dir.as_fd(), stuck.as_fd(), hung_up.as_fd()] {
        sys::waits::never(fd).unwrap();
        let (mut socket, served) = device();
        let mut guest = queue(&mut socket, fd);
        for _ in 0..20 {
            answers(&mut socket);
        }
        assert_eq!(guest.used(), (0, 1)); // served when it started
        drop(socket);
        assert_eq!(ended(served, Duration::from_secs(10)), Ended::FrontEnd);
    }
}

/// It is shared with the front end, which would be changed too; a device's promise has no such call.
#[test]
fn a_descriptor_that_waits_is_refused_and_stays_as_it_is() {
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let before = rustix::fs::fcntl_getfl(&event).unwrap();
    let (mut socket, served) = device();
    let guest = queue(&mut socket, event.as_fd());
    answers(&mut socket);
    assert_eq!(rustix::fs::fcntl_getfl(&event).unwrap(), before);
    assert_eq!(guest.used_idx(), 0, "there is no queue without a kick");
    drop(socket);
    assert_eq!(ended(served, Duration::from_secs(10)), Ended::FrontEnd);
}

#[test]
fn a_front_end_that_never_reads_is_cut_off() {
    let (mut socket, served) = device();
    socket.set_nonblocking(true).unwrap();
    let flood = message(GET_FEATURES, &[]).repeat(64);
    let end = Instant::now() + Duration::from_secs(20);
    while !served.is_finished() {
        assert!(Instant::now() < end, "still waiting for a front end that does not read");
        if socket.write(&flood).is_err() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    served.join().expect("the device panicked").unwrap();
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Any sequence of well-formed and malformed requests: the device ends or answers, and does not panic.
    #[test]
    fn any_requests_at_all(
        requests in proptest::collection::vec((0u32..45, proptest::collection::vec(0u64..6, 0..9), 0usize..3, 0u8..12), 1..12),
        noise: [u8; 8],
    ) {
        let (socket, served) = device();
        let memory = tempfile::tempfile().unwrap();
        memory.set_len(0x10000).unwrap();
        for (request, payload, fds, how) in requests {
            let mut payload = words(&payload.iter().map(|small| small << (small * 7)).collect::<Vec<_>>());
            if how == 0 {
                payload.extend(noise);
            }
            let mut bytes = message(request, &payload);
            bytes[4] |= how & 8;
            if fds == 0 {
                if (&socket).write_all(&bytes).is_err() {
                    break;
                }
            } else {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let list = vec![memory.as_fd(); fds];
                control.push(SendAncillaryMessage::ScmRights(&list));
                if sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).is_err() {
                    break;
                }
            }
        }
        drop(socket);
        ended(served, Duration::from_secs(10));
    }
}
