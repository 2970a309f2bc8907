//! `vmctl doctor` names what is wrong with a host. Each host is made faulty in earnest: devices, mounts, accounts, filters of
//! system calls and limits are really as it finds them, in name spaces of the test's own.
//!
//! What follows from the probe guest is left out where this machine's KVM decides it; `healthy` has a KVM that works.
#![forbid(unsafe_code)]

mod daemons;
mod devices;
mod healthy;
mod kernels;
mod world;
