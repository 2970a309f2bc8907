//! Tap interfaces: an open /dev/net/tun becomes one (Linux, Documentation/networking/tuntap.rst).
//!
//! Called by priv with descriptors that the parent opened. Interfaces made here are never persistent: they end with the
//! last copy of their descriptor. Frames carry the 12 byte virtio-net header before them.
#![allow(unsafe_code)] // an ioctl on the tun control device

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use thiserror::Error;

use crate::netlink::MAX_NAME;
use crate::tap::{VNET_HEADER_LENGTH, set_header_length};

// linux/if_tun.h
const TUNSETIFF: Opcode = opcode::write::<libc::c_int>(b'T', 202);
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const IFF_TUN_EXCL: u16 = 0x8000;

/// Why a descriptor became no tap.
#[derive(Debug, Error)]
pub enum TunError {
    /// An interface has that name; another may be free.
    #[error("the name is taken")]
    Busy,
    /// No interface can have that name.
    #[error("not a valid name for an interface")]
    Name,
    /// The kernel refused.
    #[error("{0}")]
    Refused(#[from] io::Error),
}

/// `struct ifreq` as TUNSETIFF reads and writes it: a name, flags, and the rest of the union.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; MAX_NAME + 1],
    flags: u16,
    rest: [u8; 22],
}

/// Makes `fd`, an open /dev/net/tun, the tap `name`: a new one, that nobody had. priv gets it non-blocking, and could not
/// make it so.
pub fn attach(fd: BorrowedFd<'_>, name: &str) -> Result<(), TunError> {
    let mut request = InterfaceRequest {
        name: name_bytes(name).ok_or(TunError::Name)?,
        flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL,
        rest: [0; 22],
    };
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq` of 40 bytes, which InterfaceRequest is.
    let made = unsafe { ioctl(fd, Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request)) };
    match made {
        Ok(()) => {}
        Err(Errno::BUSY) => return Err(TunError::Busy),
        Err(error) => return Err(io::Error::from(error).into()),
    }
    set_header_length(fd, VNET_HEADER_LENGTH)?;
    Ok(crate::waits::never(fd)?)
}

/// The name with its NUL, if it fits and is taken as it stands: of a `%d` the kernel would make a number.
fn name_bytes(name: &str) -> Option<[u8; MAX_NAME + 1]> {
    if name.is_empty() || name.len() > MAX_NAME || name.contains(['%', '\0']) {
        return None;
    }
    let mut bytes = [0; MAX_NAME + 1];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    Some(bytes)
}
