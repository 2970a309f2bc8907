//! Whether the next request has come as a whole, and a reply can go. The vhost crate waits without end for the rest of a
//! header and for room to answer (it takes a socket's timeout for a reason to try again), so it is called only when
//! there is nothing to wait for.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, recv};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a request's header: request, flags, size, 4 bytes each.
const HEADER: usize = 12;

/// Bytes of a request's payload at most, as in vhost's `MAX_MSG_SIZE`.
const MAX_PAYLOAD: usize = 0x1000;

/// What lies in the socket's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// At least one whole request.
    Whole,
    /// The beginning of one.
    Partial,
    /// The beginning of one, and its rest will not come.
    Cut,
    /// Nothing.
    Nothing,
    /// Nothing, and nothing will come.
    Closed,
    /// A header that announces more than any request has.
    Malformed,
}

/// Looks at the queue without taking from it.
pub(super) fn arrived(socket: BorrowedFd<'_>) -> io::Result<Arrived> {
    let found = look(socket)?;
    if found != Arrived::Partial || !has_ended(socket)? {
        return Ok(found);
    }
    let last = look(socket)?; // with what came between the two looks
    Ok(if last == Arrived::Partial { Arrived::Cut } else { last })
}

fn look(socket: BorrowedFd<'_>) -> io::Result<Arrived> {
    let mut bytes = [0u8; HEADER + MAX_PAYLOAD];
    match recv(socket, &mut bytes, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((count, _)) => Ok(judge(bytes.get(..count).unwrap_or(&bytes))),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(Arrived::Nothing),
        Err(rustix::io::Errno::CONNRESET) => Ok(Arrived::Closed),
        Err(error) => Err(error.into()),
    }
}

/// VHOST_USER_SET_VRING_ENABLE.
const SET_VRING_ENABLE: u32 = 18;

/// What a header's flags say.
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// A queue to be enabled or not, and whether that is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Enable {
    pub(super) queue: u32,
    pub(super) enable: bool,
    pub(super) answered: bool,
}

/// Takes the next request, a whole one, if it is a SET_VRING_ENABLE; any other stays where it is.
pub(super) fn take_enable(socket: BorrowedFd<'_>) -> io::Result<Option<Enable>> {
    let mut bytes = [0u8; HEADER + 8];
    let (count, _) = recv(socket, &mut bytes, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    let found = bytes.get(..count).and_then(enable);
    if found.is_some() {
        recv(socket, &mut bytes, RecvFlags::DONTWAIT)?;
    }
    Ok(found)
}

/// Such a request, and the answer to one (vhost-user.rst, "Header" and "A vring state description").
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct VringState {
    request: u32,
    flags: u32,
    size: u32,
    index: u32,
    num: u32,
}

/// Pure: such a request.
fn enable(bytes: &[u8]) -> Option<Enable> {
    let VringState { request, flags, size, index, num } = VringState::read_from_bytes(bytes).ok()?;
    let well_formed = request == SET_VRING_ENABLE && flags & !NEED_REPLY == VERSION && size == 8 && num <= 1;
    well_formed.then_some(Enable { queue: index, enable: num == 1, answered: flags & NEED_REPLY != 0 })
}

/// The answer to such a request: a number of 8 bytes, 0 where it was done.
pub(super) fn answer(done: bool) -> [u8; HEADER + 8] {
    let index = u32::from(!done);
    zerocopy::transmute!(VringState { request: SET_VRING_ENABLE, flags: VERSION | REPLY, size: 8, index, num: 0 })
}

/// Waits until a reply would find room: at least a quarter of the socket's buffer, many times the largest reply. False
/// where the front end has not read for so long.
pub(super) fn takes_reply(socket: BorrowedFd<'_>, wait: Duration) -> io::Result<bool> {
    let timeout = Timespec::try_from(wait).map_err(io::Error::other)?;
    let mut set = [PollFd::from_borrowed_fd(socket, PollFlags::OUT)];
    Ok(rustix::io::retry_on_intr(|| rustix::event::poll(&mut set, Some(&timeout)))? > 0)
}

/// Whether the other end says nothing any more, beside what it has said.
fn has_ended(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut set = [PollFd::from_borrowed_fd(socket, PollFlags::RDHUP)];
    Ok(rustix::io::retry_on_intr(|| rustix::event::poll(&mut set, Some(&Timespec::default())))? > 0)
}

/// Pure: what `bytes`, all there is up to one whole request, amount to.
fn judge(bytes: &[u8]) -> Arrived {
    if bytes.is_empty() {
        return Arrived::Closed;
    }
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER>() else { return Arrived::Partial };
    let [_, _, _, _, _, _, _, _, a, b, c, d] = *header;
    match usize::try_from(u32::from_ne_bytes([a, b, c, d])) {
        Ok(size) if size > MAX_PAYLOAD => Arrived::Malformed,
        Ok(size) if payload.len() >= size => Arrived::Whole,
        Ok(_) => Arrived::Partial,
        Err(_) => Arrived::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Shutdown;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn request(size: u32, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0; 8];
        bytes.extend(size.to_ne_bytes());
        bytes.resize(12 + payload, 0);
        bytes
    }

    #[test]
    fn only_a_whole_request_is_whole() {
        assert_eq!(judge(&[]), Arrived::Closed);
        assert_eq!(judge(&request(0, 0)[..11]), Arrived::Partial);
        assert_eq!(judge(&request(0, 0)), Arrived::Whole);
        assert_eq!(judge(&request(8, 7)), Arrived::Partial);
        assert_eq!(judge(&request(8, 9)), Arrived::Whole);
        assert_eq!(judge(&request(0x1000, 0x1000)), Arrived::Whole);
        assert_eq!(judge(&request(0x1001, 0)), Arrived::Malformed);
        assert_eq!(judge(&request(u32::MAX, 0)), Arrived::Malformed);
    }

    #[test]
    fn a_request_to_enable_is_taken_and_any_other_stays() {
        let (mut front_end, ours) = UnixStream::pair().unwrap();
        let words = |words: [u32; 5]| words.map(u32::to_ne_bytes).concat();
        for (bytes, taken) in [
            (words([18, 1, 8, 1, 1]), Some(Enable { queue: 1, enable: true, answered: false })),
            (words([18, 9, 8, 7, 0]), Some(Enable { queue: 7, enable: false, answered: true })),
            (words([18, 1, 8, 1, 2]), None),
            (words([18, 5, 8, 1, 1]), None),
            (words([18, 2, 8, 1, 1]), None),
            (words([8, 1, 8, 1, 1]), None),
            (request(0, 0), None),
        ] {
            front_end.write_all(&bytes).unwrap();
            assert_eq!(take_enable(ours.as_fd()).unwrap(), taken, "{bytes:?}");
            let left = if taken.is_some() { 0 } else { bytes.len() };
            assert_eq!(rustix::io::ioctl_fionread(&ours).unwrap(), left as u64);
            let _ = recv(&ours, &mut [0; 64], RecvFlags::DONTWAIT);
        }
        assert_eq!(answer(true)[..], words([18, 5, 8, 0, 0])[..]);
        assert_eq!(answer(false)[..], words([18, 5, 8, 1, 0])[..]);
    }

    #[test]
    fn half_a_request_of_who_is_gone_is_not_waited_for() {
        let (mut front_end, ours) = UnixStream::pair().unwrap();
        front_end.write_all(&request(0, 0)).unwrap();
        front_end.write_all(&request(8, 7)).unwrap();
        assert_eq!(arrived(ours.as_fd()).unwrap(), Arrived::Whole);
        rustix::io::read(&ours, &mut [0; HEADER][..]).unwrap();
        assert_eq!(arrived(ours.as_fd()).unwrap(), Arrived::Partial);
        front_end.shutdown(Shutdown::Write).unwrap();
        assert_eq!(arrived(ours.as_fd()).unwrap(), Arrived::Cut);
    }
}
