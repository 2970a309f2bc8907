//! Linux as safe functions: descriptors, spawn, event loop, tap, netlink, io_uring.
//!
//! All rooms above call the kernel through here. rustix does most of it; where it has no wrapper a module calls libc
//! itself, says `#![allow(unsafe_code)]`, and gives the reason of each block. Nothing here knows what a VM is.

pub mod cgroup;
pub mod child;
pub mod clock;
pub mod creds;
pub mod event;
pub mod exe;
pub mod guest_io;
pub mod inherited;
pub mod ipv6;
pub mod kernel;
pub mod limits;
pub mod lock;
pub mod log;
pub mod logpipe;
pub mod memory;
pub mod names;
pub mod netlink;
pub mod notify;
pub mod plain;
pub mod privileges;
pub mod procfs;
pub mod pty;
pub mod reach;
pub mod ring;
pub mod seqpacket;
pub mod signal;
pub mod signals;
pub mod spawn;
pub mod tap;
pub mod tun;
pub mod users;
pub mod vm_users;
pub mod waits;
pub mod words;

#[cfg(test)]
mod alone;
