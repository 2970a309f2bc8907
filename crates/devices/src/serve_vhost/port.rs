//! One queue of the back end: its ring, and the descriptors by which front end and guest speak about it.
//!
//! ```text
//!        memory, addresses, kick, enable            RingFault
//!  Stopped ───────────────────────────► Running ─────────────► Broken
//!     ▲ ▲                                │   │                    │
//!     │ └─── REM_MEM_REG of its ring ────┘   │                    │
//!     └──────── GET_VRING_BASE, reset ───────┴────────────────────┘
//! ```

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::event::PollFlags;
use sys::guest_io::GuestMemory;

use super::memory::Memory;
use super::records::Records;
use crate::queue::{MAX_QUEUE_SIZE, RecordError, RingAddresses, RingFault, RingSetup, SetupError, Vring};

/// A ring's addresses in the front end's address space, as SET_VRING_ADDR has them.
#[derive(Clone, Copy, Debug)]
pub(super) struct UserAddresses {
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

/// What a queue is doing.
#[derive(Default)]
pub(super) enum State {
    /// Not set up.
    #[default]
    Stopped,
    /// Serving, while enabled.
    Running(Box<Vring>),
    /// The guest broke it; where it stood.
    Broken(u16),
}

/// One queue.
#[derive(Default)]
pub(super) struct Port {
    pub(super) state: State,
    pub(super) size: u16,
    pub(super) base: u16,
    pub(super) addresses: Option<UserAddresses>,
    pub(super) kick: Option<File>,
    pub(super) call: Option<File>,
    pub(super) error: Option<File>,
    pub(super) enabled: bool,
    /// To be served without a kick.
    pub(super) pending: bool,
}

/// What the accepted features mean for a ring.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RingFeatures {
    pub(super) event_idx: bool,
    pub(super) indirect: bool,
}

/// A running queue, as a device gets it.
pub struct Active<'a> {
    /// The guest's memory.
    pub memory: &'a Arc<GuestMemory>,
    /// The ring.
    pub ring: &'a mut Vring,
    call: Option<&'a File>,
}

impl<'a> Active<'a> {
    /// A ring that is served without a front end, as where a device is tried by itself; `call` is an eventfd.
    pub fn new(memory: &'a Arc<GuestMemory>, ring: &'a mut Vring, call: &'a File) -> Self {
        Active { memory, ring, call: Some(call) }
    }

    /// Interrupts the driver if it wants that for what was pushed since the last call.
    pub fn notify(&mut self) -> Result<(), RingFault> {
        if self.ring.needs_interrupt(self.memory)? {
            signal(self.call);
        }
        Ok(())
    }
}

impl Port {
    pub(super) fn new() -> Self {
        Port { size: MAX_QUEUE_SIZE, ..Port::default() }
    }

    /// The queue, if it is to be served.
    pub(super) fn active<'a>(&'a mut self, memory: Option<&'a Memory>) -> Option<Active<'a>> {
        match (&mut self.state, memory) {
            (State::Running(ring), Some(memory)) if self.enabled => {
                Some(Active { memory: &memory.guest, ring, call: self.call.as_ref() })
            }
            _ => None,
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.enabled && matches!(self.state, State::Running(_))
    }

    /// The ring's set-up, as far as the addresses mean guest memory.
    pub(super) fn setup(&self, memory: &Memory, features: RingFeatures) -> Result<RingSetup, SetupError> {
        let translate = |user| memory.translate(user).ok_or(SetupError::Outside(vm_memory::GuestAddress(user)));
        let user = self.addresses.ok_or(SetupError::Alignment(vm_memory::GuestAddress(0)))?;
        let addresses = RingAddresses {
            descriptors: translate(user.descriptors)?,
            available: translate(user.available)?,
            used: translate(user.used)?,
        };
        let RingFeatures { event_idx, indirect } = features;
        Ok(RingSetup { addresses, size: self.size, last_avail: self.base, event_idx, indirect })
    }

    /// Starts a stopped queue when all it needs is there.
    pub(super) fn start(
        &mut self,
        memory: Option<&Memory>,
        features: RingFeatures,
        record: Option<(&Records, usize)>,
    ) -> Result<(), RecordError> {
        let (State::Stopped, Some(memory), Some(_), Some(_), true) =
            (&self.state, memory, self.addresses, &self.kick, self.enabled)
        else {
            return Ok(());
        };
        let setup = self.setup(memory, features)?;
        self.state = State::Running(Box::new(ring(memory, setup, record)?));
        self.pending = true; // the driver may have kicked before we were there
        Ok(())
    }

    /// Forgets the ring, whose memory is gone. All else stays, and [`start`](Self::start) goes on where it stood.
    pub(super) fn suspend(&mut self) {
        if let State::Running(ring) = &self.state {
            self.base = ring.save().last_avail;
            self.state = State::Stopped;
        }
        self.pending = false;
    }

    /// Forgets the ring; the next kick descriptor starts it again. Returns where it stood.
    pub(super) fn stop(&mut self) -> u16 {
        self.base = match &self.state {
            State::Stopped => self.base,
            State::Running(ring) => ring.save().last_avail,
            State::Broken(last_avail) => *last_avail,
        };
        self.state = State::Stopped;
        (self.kick, self.enabled, self.pending) = (None, false, false);
        self.base
    }

    /// The guest broke a ring of this device: it is no longer served.
    pub(super) fn break_off(&mut self) {
        if let State::Running(ring) = &self.state {
            self.state = State::Broken(ring.save().last_avail);
        }
        self.pending = false;
    }

    /// Tells the front end that the guest broke this ring.
    pub(super) fn signal_error(&self) {
        signal(self.error.as_ref());
    }

    /// Takes a kick. A descriptor that gives no complete count, or has failed, is given up; otherwise it would stay
    /// readable for ever.
    pub(super) fn kicked(&mut self, flags: PollFlags) {
        let Some(kick) = &self.kick else { return };
        let mut count = [0u8; 8];
        match rustix::io::read(kick, &mut count) {
            Ok(8) => self.pending = true,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) if flags == PollFlags::IN => {}
            _ => self.kick = None,
        }
    }

    pub(super) fn kick_fd(&self) -> Option<BorrowedFd<'_>> {
        self.kick.as_ref().filter(|_| self.is_active()).map(AsFd::as_fd)
    }
}

/// A ring, with its record where there are records, of which this queue's has the number.
pub(super) fn ring(memory: &Memory, setup: RingSetup, record: Option<(&Records, usize)>) -> Result<Vring, RecordError> {
    let Some((records, queue)) = record else { return Ok(Vring::new(&memory.guest, setup)?) };
    let place = records.place(queue, setup.size).ok_or(RecordError::Record(RingFault::Outside))?;
    Vring::recorded(&memory.guest, setup, place)
}

/// A descriptor of the front end's: whatever it is, reading or writing it must not hold us. It is shared, so one that would
/// is refused and not changed.
pub(super) fn non_blocking(file: Option<File>) -> std::io::Result<Option<File>> {
    file.as_ref().map_or(Ok(()), sys::waits::refuse)?;
    Ok(file)
}

/// Adds one to an event's count. One that is full or gone has been told already, or can't be.
fn signal(event: Option<&File>) {
    if let Some(event) = event {
        let _ = rustix::io::write(event, &1u64.to_ne_bytes());
    }
}
