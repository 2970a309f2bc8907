//! What the chipset's effects do to the world: interrupt lines, timers, and words to the event loop. Shared by all threads.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hw::{DeviceEffect, Edge, Effect, Now, Slot, Timer, World};
use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use sys::guest_log;

use crate::error::Error;
use crate::kvm::Vm;
use crate::lifecycle::{Event, Pause};
use crate::memory;

/// The serial port has output.
const SERIAL_OUTPUT: u8 = 1;
/// The serial port takes input again.
const SERIAL_ROOM: u8 = 2;

/// What the front ends of devices do with the effects that concern them.
pub trait FrontEnds: Send + Sync {
    /// Carries out an effect of the function in a slot. Never blocks.
    fn perform(&self, slot: Slot, effect: DeviceEffect);
    /// Whether a queue's call waits while its delivery is held.
    fn call_pending(&self, slot: Slot, queue: u16) -> bool;
    /// Has all back ends finish what is under way and serve nothing; told by [`Outside::devices_are`].
    fn quiet(&self, pause: Pause);
    /// Has them serve again; told likewise.
    fn wake_up(&self, pause: Pause);
    /// Has a back end asked for its configuration space, and the guest told.
    fn read_config(&self, slot: Slot);
    /// Has the process at the other end of a vhost-user socket take the place of a back end's.
    fn replace(&self, slot: Slot, socket: OwnedFd);
}

/// Performs effects.
pub struct Outside {
    vm: Arc<Vm>,
    front_ends: Arc<dyn FrontEnds>,
    rtc: OwnedFd,
    pm: OwnedFd,
    /// Where the machine has one.
    vmmci: Option<OwnedFd>,
    wake: OwnedFd,
    serial: AtomicU8,
    /// The last that was said of the devices, until the event loop has taken it.
    devices: Mutex<Option<Event>>,
    ended: OnceLock<Event>,
}

impl Outside {
    /// Makes timers and the event loop's wake-up. `vm` and `front_ends` are those of the chipset that it will serve, which may have
    /// vmmci.
    pub fn new(vm: Arc<Vm>, front_ends: Arc<dyn FrontEnds>, vmmci: bool) -> Result<Self, Error> {
        let timer = || {
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
                .map_err(Error::system("timerfd"))
        };
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(Error::system("eventfd"))?;
        let (serial, devices, ended) = (AtomicU8::new(0), Mutex::default(), OnceLock::new());
        let vmmci = vmmci.then(timer).transpose()?;
        Ok(Self { vm, front_ends, rtc: timer()?, pm: timer()?, vmmci, wake, serial, devices, ended })
    }

    /// The VM.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// For a pause and its end.
    pub fn front_ends(&self) -> &dyn FrontEnds {
        &*self.front_ends
    }

    /// Readable when one of those below has something new.
    pub fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Readable when the chipset's timer is due; `None` of a chip that the machine does not have.
    pub fn timer(&self, timer: Timer) -> Option<BorrowedFd<'_>> {
        match timer {
            Timer::Rtc => Some(self.rtc.as_fd()),
            Timer::Pm => Some(self.pm.as_fd()),
            Timer::Vmmci => self.vmmci.as_ref().map(AsFd::as_fd),
        }
    }

    /// How the VM ends, once it does: the first that said so.
    pub fn ended(&self) -> Option<&Event> {
        self.ended.get()
    }

    /// Ends the VM, unless it has ended already.
    pub fn end(&self, event: Event) {
        if self.ended.set(event).is_ok() {
            self.wake_up(0);
        }
    }

    /// Whether the serial port has output or takes input again since the last call.
    pub fn serial_news(&self) -> bool {
        self.serial.swap(0, Ordering::AcqRel) != 0
    }

    /// All devices are quiet, or serve again.
    pub fn devices_are(&self, what: Event) {
        *self.devices.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
        self.wake_up(0);
    }

    /// What was said of the devices since the last call.
    pub fn devices_news(&self) -> Option<Event> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn wake_up(&self, serial: u8) {
        if serial == 0 || self.serial.fetch_or(serial, Ordering::AcqRel) == 0 {
            // It can't be full: the loop empties it, and each bit adds one at most.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    fn arm(&self, timer: Timer, at: Option<u64>) {
        let Some(fd) = self.timer(timer) else { return };
        // A deadline in the past fires at once; zero would disarm.
        let at = at.map(|ns| ns.max(1));
        let value = Itimerspec { it_interval: timespec(0), it_value: timespec(at.unwrap_or(0)) };
        if let Err(error) = timerfd_settime(fd, TimerfdTimerFlags::ABSTIME, &value) {
            guest_log!(Warn, "the {timer} can't be set to {} ns: {error}", at.unwrap_or(0));
        }
    }
}

impl Edge for Outside {
    fn perform(&self, effect: Effect) {
        match effect {
            Effect::Reset => self.end(Event::GuestReset),
            Effect::PowerOff => self.end(Event::GuestPowerOff),
            Effect::Overdue => {
                guest_log!(Warn, "the guest was asked to stop by vmmci, did not in time, and is ended");
                self.end(Event::GuestPowerOff);
            }
            Effect::Irq { gsi, level } => {
                if let Err(error) = self.vm.fd().set_irq_line(gsi, level) {
                    guest_log!(Warn, "interrupt {gsi} can't be set to {level}: {error}");
                }
            }
            Effect::Deadline { timer, at } => self.arm(timer, at),
            Effect::SerialOutput => self.wake_up(SERIAL_OUTPUT),
            Effect::SerialRoom => self.wake_up(SERIAL_ROOM),
            Effect::WriteMemory { gpa, bytes } => memory::write(self.vm.memory(), gpa, &bytes),
            Effect::Device(slot, effect) => self.front_ends.perform(slot, effect),
        }
    }
}

impl World for Outside {
    fn now(&self) -> Now {
        Now {
            monotonic_ns: nanoseconds(clock_gettime(ClockId::Monotonic)),
            realtime_ns: nanoseconds(clock_gettime(ClockId::Realtime)),
        }
    }

    fn call_pending(&self, slot: Slot, queue: u16) -> bool {
        self.front_ends.call_pending(slot, queue)
    }

    fn read_memory(&self, gpa: u64, into: &mut [u8]) -> bool {
        memory::read(self.vm.memory(), gpa, into)
    }
}

const NS_PER_S: u64 = 1_000_000_000;

fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(NS_PER_S).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

fn timespec(ns: u64) -> Timespec {
    // Both parts fit: 2^64 ns are 585 years.
    Timespec { tv_sec: (ns / NS_PER_S) as i64, tv_nsec: (ns % NS_PER_S) as _ }
}
