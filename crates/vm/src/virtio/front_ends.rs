//! What the chipset's effects do to devices: wires at once, and jobs for the worker where a back end must be asked.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hw::{Activation, Delivery, DeviceEffect, Slot};
use sys::guest_log;
use sys::signal::Signal;

use super::port::{Port, Queue};
use super::routes::Routes;
use super::wiring::{FIRST_GSI, Wiring};
use crate::lifecycle::Pause;
use crate::outside;

/// What the worker is to do. There are never more than five of a device: after an activation it gives a reset, and then
/// nothing until the worker says that it is done; one look of each kind; and the last back end that took another's place. A pause and its end are one each at most: where they
/// wait, the next takes their place.
#[derive(Debug)]
pub enum Job {
    /// Start a back end.
    Activate(Slot, Activation),
    /// Stop a back end.
    Reset(Slot),
    /// Look again at where the device's calls go.
    Watch(Slot),
    /// Ask for the configuration space.
    ReadConfig(Slot),
    /// A process at the other end of this socket takes the place of the back end's.
    Replace(Slot, OwnedFd),
    /// Have all back ends finish and serve nothing.
    Quiet(Pause),
    /// Have those that served serve again.
    WakeUp(Pause),
}

/// The devices as vCPUs see them.
pub struct FrontEnds {
    wiring: Arc<dyn Wiring>,
    routes: Mutex<Routes>,
    ports: Vec<Port>,
    jobs: Mutex<VecDeque<Job>>,
    wake: Signal,
}

impl FrontEnds {
    /// Devices with so many queues each, in slots from 1.
    pub fn new(wiring: Arc<dyn Wiring>, queues: &[usize]) -> io::Result<Self> {
        let mut gsi = FIRST_GSI;
        let mut ports = Vec::new();
        for (slot, count) in (1..=u8::MAX).zip(queues) {
            ports.push(Port::new(Slot(slot), *count, gsi)?);
            gsi = gsi.saturating_add(u32::try_from(*count).unwrap_or(u32::MAX));
        }
        Ok(Self { wiring, routes: Mutex::default(), ports, jobs: Mutex::default(), wake: Signal::new()? })
    }

    /// The device in a slot.
    pub fn port(&self, slot: Slot) -> Option<&Port> {
        self.ports.get(usize::from(slot.0.checked_sub(1)?))
    }

    /// A queue of the device in a slot.
    pub fn queue(&self, slot: Slot, index: u16) -> Option<&Queue> {
        self.port(slot)?.queue(index)
    }

    /// All devices.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Readable when there are jobs.
    pub fn wake(&self) -> &Signal {
        &self.wake
    }

    /// The jobs that are there now, in order.
    pub fn take_jobs(&self) -> VecDeque<Job> {
        std::mem::take(&mut self.jobs())
    }

    fn ask(&self, job: Job) {
        self.jobs().push_back(job);
        self.wake.set();
    }

    /// Of a pause and the end of one only the last counts: users may change their minds faster than the worker comes to it.
    fn ask_last(&self, job: Job) {
        self.jobs().retain(|other| !matches!(other, Job::Quiet(_) | Job::WakeUp(_)));
        self.ask(job);
    }

    /// However often it is wanted, it is done once: the guest switches MSI-X on and off as it likes.
    fn ask_once(&self, job: Job) {
        let same = |other: &Job| match (other, &job) {
            (Job::Watch(a), Job::Watch(b)) | (Job::ReadConfig(a), Job::ReadConfig(b)) => a == b,
            _ => false,
        };
        if !self.jobs().iter().any(same) {
            self.ask(job);
        }
    }

    fn jobs(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl outside::FrontEnds for FrontEnds {
    fn perform(&self, slot: Slot, effect: DeviceEffect) {
        match effect {
            DeviceEffect::Activate(activation) => self.ask(Job::Activate(slot, activation)),
            DeviceEffect::Reset => self.ask(Job::Reset(slot)),
            DeviceEffect::Notify(queue) => {
                if let Some(queue) = self.queue(slot, queue) {
                    queue.kick.set();
                }
            }
            DeviceEffect::Delivery(queue, delivery) => {
                if let Some(queue) = self.queue(slot, queue) {
                    let before = queue.deliver(delivery, &self.routes, &*self.wiring);
                    if (before == Delivery::Intx) != (delivery == Delivery::Intx) {
                        self.ask_once(Job::Watch(slot));
                    }
                }
            }
            DeviceEffect::NotifyBase(base) => {
                if let Some(port) = self.port(slot) {
                    port.move_notify(base, &*self.wiring);
                }
            }
            DeviceEffect::Signal(message) => {
                if let Err(error) = self.wiring.signal(message) {
                    guest_log!(
                        Warn,
                        "MSI-X message {:#x} to {:#x} can't be delivered: {error}",
                        message.data,
                        message.address
                    );
                }
            }
        }
    }

    fn quiet(&self, pause: Pause) {
        self.ask_last(Job::Quiet(pause));
    }

    fn wake_up(&self, pause: Pause) {
        self.ask_last(Job::WakeUp(pause));
    }

    fn read_config(&self, slot: Slot) {
        self.ask_once(Job::ReadConfig(slot));
    }

    fn replace(&self, slot: Slot, socket: OwnedFd) {
        self.jobs().retain(|other| !matches!(other, Job::Replace(of, _) if *of == slot));
        self.ask(Job::Replace(slot, socket));
    }

    fn call_pending(&self, slot: Slot, queue: u16) -> bool {
        self.queue(slot, queue).is_some_and(|queue| queue.call.is_set())
    }
}
