//! An eventfd that both the crates for KVM and vhost, which want vmm-sys-util's, and the event loop can name.
#![allow(unsafe_code)] // vmm-sys-util's EventFd can't be borrowed as a descriptor

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// An eventfd that never blocks.
pub struct Signal(EventFd);

impl Signal {
    /// A new one, at zero.
    pub fn new() -> io::Result<Self> {
        EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map(Self)
    }

    /// Sets it. It may be full, and then is set.
    pub fn set(&self) {
        let _ = self.0.write(1);
    }

    /// Clears it; whether it was set.
    pub fn clear(&self) -> bool {
        self.0.read().is_ok()
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        let mut fds = [rustix::event::PollFd::new(self, rustix::event::PollFlags::IN)];
        let at_once = rustix::time::Timespec::default();
        matches!(rustix::event::poll(&mut fds, Some(&at_once)), Ok(count) if count > 0)
    }
}

impl Deref for Signal {
    type Target = EventFd;

    fn deref(&self) -> &EventFd {
        &self.0
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the EventFd that owns it, which the borrow does not outlive.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_set_until_it_is_cleared_and_never_blocks() {
        let signal = Signal::new().unwrap();
        assert!(!signal.is_set() && !signal.clear());
        signal.set();
        signal.set();
        assert!(signal.is_set() && signal.clear());
        assert!(!signal.is_set() && !signal.clear());
        signal.write(u64::MAX - 1).unwrap(); // full
        signal.set();
        assert!(signal.clear());
    }

    #[test]
    fn both_names_are_of_one_event() {
        let signal = Signal::new().unwrap();
        rustix::io::write(&signal, &1u64.to_ne_bytes()).unwrap();
        assert!(signal.is_set());
        assert_eq!(signal.as_fd().as_raw_fd(), EventFd::as_raw_fd(&signal));
    }
}
