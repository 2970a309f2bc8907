//! How a VM ended, as the last message of its process says and its exit status repeats (openbsd/daemon.md, 1.7 and 2.6).

/// The guest powered off, or was stopped.
pub const POWERED_OFF: u8 = 0;
/// The VM failed: the log says why (EIO).
pub const FAILED: u8 = 5;
/// The guest asked for a reboot (EAGAIN on Linux).
pub const REBOOTED: u8 = 11;
