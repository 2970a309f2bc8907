//! The host's side of the card: a tap, or a packet socket that carries the same (a header of 12 bytes, then the frame).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sys::guest_io::{Extent, GuestMemory};
use sys::tap::{Scratch, SendError, TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, VNET_HEADER_LENGTH};

use super::frame::Offloads;

/// Where frames go to and come from.
pub struct Tap {
    fd: OwnedFd,
    offloads: bool,
    scratch: Scratch,
}

impl Tap {
    /// Takes a tap, which comes non-blocking, with the header of 12 bytes. What is no tap has no offloads.
    pub fn new(fd: OwnedFd) -> io::Result<Tap> {
        let offloads = match sys::tap::set_header_length(fd.as_fd(), VNET_HEADER_LENGTH) {
            Ok(()) => true,
            Err(error) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::NOTTY) => false,
            Err(error) => return Err(error),
        };
        sys::waits::never(&fd)?;
        Ok(Tap { fd, offloads, scratch: Scratch::default() })
    }

    /// Whether the kernel computes checksums and cuts segments on it.
    pub fn has_offloads(&self) -> bool {
        self.offloads
    }

    /// Says what the guest takes.
    pub fn set_offloads(&self, guest: Offloads) -> io::Result<()> {
        if !self.offloads {
            return Ok(());
        }
        let bit = |wanted, bit| if wanted { bit } else { 0 };
        let flags = bit(guest.checksum, TUN_F_CSUM) | bit(guest.tso4, TUN_F_TSO4) | bit(guest.tso6, TUN_F_TSO6);
        sys::tap::set_offload(self.fd.as_fd(), flags)
    }

    /// Reads one frame with its header; what does not fit is lost. None where there is none now.
    pub fn read(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut *into)) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()), // a socket whose peer is gone
            Ok(count) => Ok(Some(count)),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends one frame: `head` first, then `rest` from guest memory.
    pub fn send(&mut self, head: &[u8], memory: &GuestMemory, rest: &[Extent]) -> Result<(), SendError> {
        sys::tap::send(self.fd.as_fd(), head, memory, rest, &mut self.scratch)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
