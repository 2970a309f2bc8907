//! SOCK_SEQPACKET pairs: one packet is one message, with its descriptors. Called by `proto::Channel` alone.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Descriptors that one packet can carry (design: 64 a message; the kernel's SCM_MAX_FD is 253).
pub const MAX_FDS: usize = 64;

/// What a read of one packet gave.
#[derive(Debug)]
pub enum Packet {
    /// A whole packet and what came with it, close-on-exec.
    Whole(Vec<u8>, Vec<OwnedFd>),
    /// A packet longer than the limit, or with more descriptors than [`MAX_FDS`]; what it carried was closed.
    TooLong,
    /// A packet whose descriptors did not all get a number here, as the process may have no more; all were closed.
    NoRoom(Vec<u8>),
    /// Nothing there now.
    Empty,
    /// The peer is gone.
    Closed,
}

/// A connected pair, close-on-exec and non-blocking.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?)
}

/// Sends one packet, or fails as a whole: `WouldBlock` when the peer's queue is full. Never raises SIGPIPE.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket.as_fd(), &[IoSlice::new(bytes)], &mut control, flags)
    })?;
    if sent == bytes.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
}

/// Reads one packet of at most `max` bytes without waiting.
pub fn recv(socket: BorrowedFd<'_>, max: usize) -> io::Result<Packet> {
    let Some(length) = waiting(socket)? else { return Ok(Packet::Empty) };
    let mut packet = vec![0; length.min(max.saturating_add(1))];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = past_reset(|| {
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut packet)], &mut control, flags)
    });
    let got = match got {
        Err(rustix::io::Errno::AGAIN) => return Ok(Packet::Empty),
        Err(rustix::io::Errno::CONNRESET) => return Ok(Packet::Closed),
        other => other?,
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.bytes > max || got.flags.contains(ReturnFlags::TRUNC) {
        return Ok(Packet::TooLong);
    }
    if got.flags.contains(ReturnFlags::CTRUNC) {
        // More than there is space for here fill that space; fewer did not all get a number (unix(7)).
        packet.truncate(got.bytes);
        return Ok(if fds.len() < MAX_FDS { Packet::NoRoom(packet) } else { Packet::TooLong });
    }
    if got.bytes == 0 && fds.is_empty() {
        return Ok(Packet::Closed);
    }
    packet.truncate(got.bytes);
    Ok(Packet::Whole(packet, fds))
}

/// A peer that closed its end before it had read all of ours makes the next read fail, once: what it had said is still there.
fn past_reset<T>(mut read: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    match rustix::io::retry_on_intr(&mut read) {
        Err(rustix::io::Errno::CONNRESET) => rustix::io::retry_on_intr(read),
        other => other,
    }
}

/// Bytes of the next packet, 0 at the end; none where nothing is there (a read then could cut what just arrives).
fn waiting(socket: BorrowedFd<'_>) -> io::Result<Option<usize>> {
    let flags = RecvFlags::PEEK | RecvFlags::TRUNC | RecvFlags::DONTWAIT;
    let mut none: [u8; 0] = [];
    match past_reset(|| rustix::net::recv(socket, &mut none[..], flags)) {
        Ok((_, length)) => Ok(Some(length)),
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(rustix::io::Errno::CONNRESET) => Ok(Some(0)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(packet: Packet) -> (Vec<u8>, Vec<OwnedFd>) {
        match packet {
            Packet::Whole(bytes, fds) => (bytes, fds),
            other => panic!("no packet: {other:?}"),
        }
    }

    #[test]
    fn a_packet_arrives_whole_with_its_descriptors() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), b"hello", &[a.as_fd(), b.as_fd()]).unwrap();
        let (bytes, fds) = whole(recv(b.as_fd(), 64).unwrap());
        assert_eq!((bytes.as_slice(), fds.len()), (&b"hello"[..], 2));
    }

    #[test]
    fn a_packet_over_the_limit_is_too_long_and_the_next_is_read() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), &[7; 65], &[a.as_fd()]).unwrap();
        send(a.as_fd(), &[8; 64], &[]).unwrap();
        assert!(matches!(recv(b.as_fd(), 64).unwrap(), Packet::TooLong));
        assert_eq!(whole(recv(b.as_fd(), 64).unwrap()).0, [8; 64]);
    }

    #[test]
    fn last_words_of_a_peer_that_did_not_read_ours_are_heard() {
        let (a, b) = pair().unwrap();
        send(b.as_fd(), b"never read", &[]).unwrap();
        send(a.as_fd(), b"why", &[b.as_fd()]).unwrap();
        send(a.as_fd(), b"bye", &[]).unwrap();
        drop(a);
        let (bytes, fds) = whole(recv(b.as_fd(), 64).unwrap());
        assert_eq!((bytes.as_slice(), fds.len()), (&b"why"[..], 1));
        assert_eq!(whole(recv(b.as_fd(), 64).unwrap()).0, b"bye");
        assert!(matches!(recv(b.as_fd(), 64).unwrap(), Packet::Closed));
    }

    #[test]
    fn descriptors_that_find_no_number_are_told_apart_from_too_many() {
        crate::alone::alone("seqpacket::tests::descriptors_that_find_no_number_are_told_apart_from_too_many", || {
            let (a, b) = pair().unwrap();
            let many = vec![a.as_fd(); MAX_FDS];
            send(a.as_fd(), b"two", &many[..2]).unwrap();
            crate::limits::set(crate::limits::Resource::Nofile, 64).unwrap();
            let mut full: Vec<_> = std::iter::from_fn(|| a.try_clone().ok()).collect();
            full.pop();
            assert!(matches!(recv(b.as_fd(), 64).unwrap(), Packet::NoRoom(bytes) if bytes == b"two"));
            assert!(a.try_clone().is_ok(), "the one that found a number was closed");
            full.truncate(full.len() - 1);
            send(a.as_fd(), b"two", &many[..2]).unwrap();
            assert_eq!(whole(recv(b.as_fd(), 64).unwrap()).1.len(), 2);
        });
    }

    #[test]
    fn an_empty_queue_is_empty_and_a_lost_peer_is_closed() {
        let (a, b) = pair().unwrap();
        assert!(matches!(recv(b.as_fd(), 64).unwrap(), Packet::Empty));
        drop(a);
        assert!(matches!(recv(b.as_fd(), 64).unwrap(), Packet::Closed));
        assert!(send(b.as_fd(), b"x", &[]).is_err());
    }

    #[test]
    fn a_full_queue_would_block() {
        let (a, _b) = pair().unwrap();
        let error = (0..100_000).find_map(|_| send(a.as_fd(), &[0; 1024], &[]).err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
