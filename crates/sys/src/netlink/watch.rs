//! That something changed: a socket on which the kernel tells of changes by anybody. What changed is not read: whoever
//! watches lists what is there now, so that nothing is missed when the kernel had to drop some.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};

use super::NetlinkError;

/// Groups of linux/netfilter/nfnetlink.h and linux/rtnetlink.h, which libc lacks or has as bits.
const NFNLGRP_NFTABLES: u32 = 7;
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
/// Datagrams that are taken at once; the rest is told by the next readiness.
const MAX_AT_ONCE: usize = 1024;
/// More than a message that is cut is not read.
const CUT: usize = 64;

/// A socket that becomes readable when something changed, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
}

impl Watch {
    /// Of the tables, chains and rules of nftables (iptables-nft is one of its users, iptables-legacy is not).
    pub fn rules() -> Result<Self, NetlinkError> {
        Self::open(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES])
    }

    /// Of interfaces, and of their addresses.
    pub fn links() -> Result<Self, NetlinkError> {
        Self::open(NETLINK_ROUTE, &[RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR])
    }

    fn open(protocol: isize, groups: &[u32]) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        Ok(Self { socket })
    }

    /// Whether anything was told since the last call, or was lost.
    pub fn changed(&self) -> Result<bool, NetlinkError> {
        let mut bytes = [0; CUT];
        let mut changed = false;
        for _ in 0..MAX_AT_ONCE {
            match self.socket.recv_from(&mut &mut bytes[..], 0) {
                // Root's other processes may write to our port; only the kernel is believed.
                Ok((_, from)) => changed |= from.port_number() == 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(changed)
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
