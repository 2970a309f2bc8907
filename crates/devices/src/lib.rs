//! The virtio back ends, one folder per device, each a process.
#![forbid(unsafe_code)]
