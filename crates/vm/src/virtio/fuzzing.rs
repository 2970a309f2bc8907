//! The front end of one back end, for the fuzzer, which is that back end: it has said all it will before it is asked.

use std::os::fd::OwnedFd;

use hw::virtio::Device;
use hw::{Activation, Slot};
use proto::device::Front;

use super::port::Port;
use super::vhost_user::{self, MAX_ANSWERS, VhostUser};
use super::wiring::FIRST_GSI;
use super::{BackEnd, Failure};
use crate::memory::GuestMemory;

/// What a step of it gives: an answer that says no leaves the VM running, anything else wrong ends it.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// As asked.
    Done(T),
    /// The driver must reset the device.
    Refused,
    /// The VM ends.
    Gone,
}

/// A connected back end, and the descriptors of its queues.
pub struct FrontEnd(VhostUser, Port);

/// Asks a back end what it offers.
pub fn connect(front: Front, stream: OwnedFd, memory: GuestMemory) -> Step<(Device, FrontEnd)> {
    let port = Port::new(Slot(2), front.queues.into(), FIRST_GSI).expect("a few eventfds");
    step(vhost_user::connect(MAX_ANSWERS, front, stream, memory)).map(|(device, it)| (device, FrontEnd(it, port)))
}

impl FrontEnd {
    /// Its queues are served from now on.
    pub fn activate(&mut self, activation: &Activation) -> Step<()> {
        step(self.0.activate(activation, &self.1))
    }

    /// Its configuration space.
    pub fn config(&mut self) -> Step<Vec<u8>> {
        step(self.0.config())
    }

    /// Its driver has reset it.
    pub fn stop(&mut self) -> Step<()> {
        match self.pause() {
            Step::Done(()) => step(self.0.reset()),
            other => other,
        }
    }

    /// It serves no queue for a while. What it says to that has come, or its end.
    pub fn pause(&mut self) -> Step<()> {
        let mut stopped = self.0.stop();
        while let Ok(false) = stopped {
            stopped = self.0.stopped();
        }
        step(stopped.map(|_| ()))
    }

    /// It goes on.
    pub fn unpause(&mut self) -> Step<()> {
        step(self.0.unpause(&self.1))
    }
}

impl<T> Step<T> {
    fn map<U>(self, then: impl FnOnce(T) -> U) -> Step<U> {
        match self {
            Self::Done(it) => Step::Done(then(it)),
            Self::Refused => Step::Refused,
            Self::Gone => Step::Gone,
        }
    }
}

fn step<T>(result: Result<T, Failure>) -> Step<T> {
    match result {
        Ok(it) => Step::Done(it),
        Err(Failure::Refused(_)) => Step::Refused,
        Err(Failure::Gone(_)) => Step::Gone,
    }
}
