//! Linux as safe functions: descriptors, spawn, event loop, tap, netlink, io_uring.

pub mod seqpacket;
