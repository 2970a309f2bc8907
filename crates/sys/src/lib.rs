//! Linux as safe functions: descriptors, spawn, event loop, tap, netlink, io_uring.

pub mod netlink;
pub mod seqpacket;
pub mod tun;
