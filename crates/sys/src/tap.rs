//! Frames out of guest memory to a tap, and the offloads that it is told of (linux/if_tun.h). Used by vionet on
//! descriptors that priv has made taps of.
#![allow(unsafe_code)] // two ioctls and a write of raw vectors

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::ioctl::{IntegerSetter, Opcode, Setter, ioctl, opcode};

use crate::guest_io::{Extent, GuestMemory, OutsideMemory, vector};

/// `struct virtio_net_hdr_v1` before each frame (virtio 1.2, 5.1.6): with num_buffers, as VIRTIO_F_VERSION_1 has it.
pub const VNET_HEADER_LENGTH: u8 = 12;

/// Vectors of one write; the kernel's UIO_MAXIOV.
const MAX_VECTORS: usize = 1024;

const TUNSETOFFLOAD: Opcode = opcode::write::<libc::c_uint>(b'T', 208);
const TUNSETVNETHDRSZ: Opcode = opcode::write::<libc::c_int>(b'T', 216);

/// Frames with a partial checksum may be read.
pub const TUN_F_CSUM: u32 = 0x01;
/// TCP segments of IPv4 larger than the link's may be read.
pub const TUN_F_TSO4: u32 = 0x02;
/// TCP segments of IPv6 likewise.
pub const TUN_F_TSO6: u32 = 0x04;

/// Why a frame was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// A part of it is no guest memory.
    #[error(transparent)]
    Outside(#[from] OutsideMemory),
    /// The tap did not take it: too large, too many parts, down, full, or a header it can't use.
    #[error("tap: {0}")]
    Refused(#[from] io::Error),
}

/// Says which frames the reader can take whole (`TUN_F_*`).
pub fn set_offload(tap: BorrowedFd<'_>, offload: u32) -> io::Result<()> {
    let offload = usize::try_from(offload).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: TUNSETOFFLOAD takes its flags as the argument itself and touches no memory.
    unsafe { ioctl(tap, IntegerSetter::<TUNSETOFFLOAD>::new_usize(offload)) }.map_err(io::Error::from)
}

/// Makes the header before each frame `length` bytes.
pub fn set_header_length(tap: BorrowedFd<'_>, length: u8) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    unsafe { ioctl(tap, Setter::<TUNSETVNETHDRSZ, libc::c_int>::new(libc::c_int::from(length))) }
        .map_err(io::Error::from)
}

/// Sends one frame: `head` (checked copies, which the guest can't change any more), then `rest` straight from guest
/// memory. `vectors` is scratch space, so that no frame allocates.
pub fn send(
    tap: BorrowedFd<'_>,
    head: &[u8],
    memory: &GuestMemory,
    rest: &[Extent],
    scratch: &mut Scratch,
) -> Result<(), SendError> {
    let vectors = &mut scratch.0;
    vectors.clear();
    vectors.push(libc::iovec { iov_base: head.as_ptr().cast_mut().cast(), iov_len: head.len() });
    for extent in rest.iter().filter(|extent| extent.len > 0) {
        vectors.push(vector(memory, *extent).ok_or(OutsideMemory(*extent))?);
    }
    if vectors.len() > MAX_VECTORS {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE).into());
    }
    let count = libc::c_int::try_from(vectors.len()).unwrap_or(libc::c_int::MAX);
    // SAFETY: `head` and `memory` are borrowed for the whole call; writev only reads what the vectors name.
    let sent = unsafe { libc::writev(tap.as_fd().as_raw_fd(), vectors.as_ptr(), count) };
    vectors.clear();
    if sent < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
}

/// Space for the vectors of a frame, used again for each; empty between calls.
#[derive(Default)]
pub struct Scratch(Vec<libc::iovec>);

// SAFETY: empty between calls, so no pointer ever goes to another thread.
unsafe impl Send for Scratch {}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    #[test]
    fn a_frame_goes_out_as_one() {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (tap, wire) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        memory.write_slice(b"guest", GuestAddress(0x100)).unwrap();
        let at = |addr, len| Extent { addr: GuestAddress(addr), len };
        let rest = [at(0x100, 2), at(0x5000, 0), at(0x102, 3)];
        send(tap.as_fd(), b"head ", &memory, &rest, &mut Scratch::default()).unwrap();
        let mut got = [0u8; 64];
        let (length, _) = recv(&wire, &mut got, RecvFlags::empty()).unwrap();
        assert_eq!(&got[..length], b"head guest");

        let outside = send(tap.as_fd(), b"head", &memory, &[at(0xfff, 2)], &mut Scratch::default());
        assert!(matches!(outside, Err(SendError::Outside(_))));
        let many = vec![at(0, 1); MAX_VECTORS];
        let refused = send(tap.as_fd(), b"head", &memory, &many, &mut Scratch::default());
        assert!(matches!(refused, Err(SendError::Refused(_))));
        assert!(recv(&wire, &mut got, RecvFlags::empty()).is_err());
    }

    #[test]
    fn what_is_no_tap_has_no_offloads() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(set_offload(file.as_fd(), TUN_F_CSUM).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        let error = set_header_length(file.as_fd(), VNET_HEADER_LENGTH).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }
}
