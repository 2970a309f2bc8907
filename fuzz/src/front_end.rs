//! The front end's side of vhost-user, which says whatever it is told to.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Most descriptors of a request.
pub const MAX_FDS: usize = 33;

/// A request as it is sent (vhost-user: request, flags and size, then the payload), right or not.
pub fn message(request: u32, flags: u32, size: u32, payload: &[u8]) -> Vec<u8> {
    [&request.to_le_bytes()[..], &flags.to_le_bytes(), &size.to_le_bytes(), payload].concat()
}

/// Sends it with its descriptors, at most [`MAX_FDS`].
pub fn send(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).expect("room in the socket");
}

/// Requests on their way: those without descriptors go together, for one call.
pub struct Requests<'a> {
    socket: &'a UnixStream,
    waiting: Vec<u8>,
}

impl<'a> Requests<'a> {
    /// To that socket.
    pub fn new(socket: &'a UnixStream) -> Self {
        Self { socket, waiting: Vec::with_capacity(0x2000) }
    }

    /// One more.
    pub fn say(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        if !fds.is_empty() {
            self.send();
            return send(self.socket, bytes, fds);
        }
        self.waiting.extend_from_slice(bytes);
    }

    /// Sends what waits.
    pub fn send(&mut self) {
        if !self.waiting.is_empty() {
            send(self.socket, &self.waiting, &[]);
            self.waiting.clear();
        }
    }
}
