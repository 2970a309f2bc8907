//! The devices' thread: asks back ends to start and stop, serves the entropy device, and watches for what goes wrong.
//!
//! A thread of its own, since a back end may take seconds to answer while vmm and the console must be served. It ends with
//! the process.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use hw::{Activation, Delivery, Slot};
use log::error;
use sys::event::{Interest, Loop};
use sys::guest_log;

use super::front_ends::{FrontEnds, Job};
use super::{BackEnd, Failure, Registers};

/// Stack of the thread.
const STACK: usize = 128 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// There are jobs.
    Wake,
    /// A back end has hung up.
    Socket(Slot),
    /// A back end has found a ring broken.
    Broken(Slot),
    /// A queue that is served here was kicked.
    Kick(Slot),
    /// A call that has no vector of its own.
    Call(Slot, u16),
}

struct Served {
    back_end: Box<dyn BackEnd>,
    active: bool,
    /// Queues whose calls the loop waits for.
    watched: Vec<u16>,
}

/// Nothing, or the device for whose sake the VM ends.
type Done = Result<(), (Slot, Failure)>;

/// The thread before it starts, and its state afterwards.
pub struct Worker {
    front_ends: Arc<FrontEnds>,
    /// In order of slots from 1.
    served: Vec<Served>,
    /// While the VM is paused no queue is served.
    quiet: bool,
    events: Loop<Token>,
}

impl Worker {
    /// Watches these back ends, in order of slots from 1.
    pub(super) fn new(front_ends: Arc<FrontEnds>, back_ends: Vec<Box<dyn BackEnd>>) -> io::Result<Self> {
        let mut events = Loop::new()?;
        events.add(front_ends.wake(), Token::Wake, Interest::Read)?;
        let served = back_ends.into_iter().map(|back_end| Served { back_end, active: false, watched: Vec::new() });
        let served: Vec<_> = served.collect();
        for (port, served) in front_ends.ports().iter().zip(&served) {
            events.add(&port.broken, Token::Broken(port.slot), Interest::Read)?;
            match (served.back_end.socket(), port.queue(0)) {
                (Some(socket), _) => events.add(socket, Token::Socket(port.slot), Interest::Read)?,
                (None, Some(queue)) => events.add(&queue.kick, Token::Kick(port.slot), Interest::Read)?,
                (None, None) => {}
            }
        }
        Ok(Self { front_ends, served, quiet: false, events })
    }

    /// Starts the thread; it tells what happens to `registers`.
    pub fn start(self, registers: Arc<dyn Registers + Send + Sync>) -> io::Result<JoinHandle<()>> {
        let thread = std::thread::Builder::new().name("virtio".into()).stack_size(STACK);
        thread.spawn(move || self.run(&*registers))
    }

    fn run(mut self, registers: &dyn Registers) {
        loop {
            let ready = match self.events.wait(None) {
                Ok(ready) => ready,
                Err(error) => {
                    error!("devices can't be watched: {error}");
                    registers.device_gone();
                    return;
                }
            };
            let happened = ready.into_iter().try_for_each(|ready| self.happened(ready.token, registers));
            if let Err((slot, failure)) = happened {
                if registers.device_gone() {
                    error!("device in slot {}: {failure}; the VM ends", slot.0);
                }
                return;
            }
        }
    }

    fn happened(&mut self, token: Token, registers: &dyn Registers) -> Done {
        let front_ends = self.front_ends.clone();
        match token {
            Token::Wake => {
                front_ends.wake().clear();
                // Those that come meanwhile set it again: a guest that resets one device on and on holds up no other.
                front_ends.take_jobs().into_iter().try_for_each(|job| self.perform(job, registers))
            }
            Token::Socket(slot) => Err((slot, Failure::Gone("its process is gone".into()))),
            Token::Broken(slot) => {
                let told = front_ends.port(slot).is_some_and(|port| port.broken.clear());
                // A reset takes a signal back: one that the loop had seen before that says nothing of the device now.
                if told && self.served(slot).is_some_and(|served| served.active) {
                    self.failed(slot, Failure::Refused("a ring is broken".into()), registers)?;
                }
                Ok(())
            }
            Token::Kick(slot) => self.kicked(slot, registers),
            Token::Call(slot, queue) => {
                if let Some(call) = front_ends.queue(slot, queue).map(|queue| &queue.call) {
                    call.clear();
                    registers.queue_interrupt(slot, queue);
                }
                Ok(())
            }
        }
    }

    fn perform(&mut self, job: Job, registers: &dyn Registers) -> Done {
        match job {
            Job::Activate(slot, activation) => self.activate(slot, &activation, registers),
            Job::Reset(slot) => self.reset(slot, registers),
            Job::Watch(slot) => {
                self.watch(slot);
                Ok(())
            }
            Job::ReadConfig(slot) => self.read_config(slot, registers),
            Job::Quiet => self.quiet(registers),
            Job::WakeUp => self.wake_up(registers),
        }
    }

    fn read_config(&mut self, slot: Slot, registers: &dyn Registers) -> Done {
        let Some(served) = self.served(slot) else { return Ok(()) };
        match served.back_end.config() {
            Ok(config) => registers.config_changed(slot, &config),
            Err(failure) => self.failed(slot, failure, registers)?,
        }
        Ok(())
    }

    /// A back end that can't be stopped is of no use afterwards either: the VM ends.
    fn quiet(&mut self, registers: &dyn Registers) -> Done {
        self.quiet = true;
        for (slot, served) in (1..).map(Slot).zip(&mut self.served) {
            if served.active {
                served.back_end.pause().map_err(|failure| (slot, failure))?;
            }
        }
        registers.devices_are(true);
        Ok(())
    }

    fn wake_up(&mut self, registers: &dyn Registers) -> Done {
        self.quiet = false;
        let front_ends = self.front_ends.clone();
        for port in front_ends.ports() {
            let Some(served) = self.served(port.slot).filter(|served| served.active) else { continue };
            match served.back_end.unpause(port) {
                Ok(()) => self.kicked(port.slot, registers)?, // what was not served meanwhile
                Err(failure) => self.failed(port.slot, failure, registers)?,
            }
        }
        registers.devices_are(false);
        Ok(())
    }

    fn activate(&mut self, slot: Slot, activation: &Activation, registers: &dyn Registers) -> Done {
        let front_ends = self.front_ends.clone();
        let (Some(port), Some(served)) = (front_ends.port(slot), self.served(slot)) else { return Ok(()) };
        served.active = true;
        if let Err(failure) = served.back_end.activate(activation, port) {
            return self.failed(slot, failure, registers);
        }
        self.watch(slot);
        self.kicked(slot, registers) // what came before it ran
    }

    fn reset(&mut self, slot: Slot, registers: &dyn Registers) -> Done {
        if let Some(served) = self.served(slot) {
            served.active = false;
            served.back_end.stop().map_err(|failure| (slot, failure))?;
        }
        self.watch(slot);
        if let Some(port) = self.front_ends.port(slot) {
            port.forget_signals();
        }
        registers.reset_done(slot);
        Ok(())
    }

    fn kicked(&mut self, slot: Slot, registers: &dyn Registers) -> Done {
        let (front_ends, quiet) = (self.front_ends.clone(), self.quiet);
        let (Some(port), Some(served)) = (front_ends.port(slot), self.served(slot)) else { return Ok(()) };
        let Some(queue) = port.queue(0).filter(|_| served.back_end.socket().is_none()) else { return Ok(()) };
        queue.kick.clear();
        if quiet {
            return Ok(());
        }
        match served.back_end.kicked(port) {
            Ok(true) => {
                queue.kick.set(); // the other descriptors come first
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(failure) => self.failed(slot, failure, registers),
        }
    }

    /// A refusal is the driver's matter; anything else ends the VM.
    fn failed(&mut self, slot: Slot, failure: Failure, registers: &dyn Registers) -> Done {
        match failure {
            Failure::Refused(why) => {
                guest_log!(Warn, "device in slot {} needs a reset: {why}", slot.0);
                registers.needs_reset(slot);
                Ok(())
            }
            gone @ Failure::Gone(_) => Err((slot, gone)),
        }
    }

    /// Waits for the calls of queues that have no vector, while their device is active.
    fn watch(&mut self, slot: Slot) {
        let front_ends = self.front_ends.clone();
        let place = usize::from(slot.0).checked_sub(1);
        let served = place.and_then(|place| self.served.get_mut(place));
        let (Some(port), Some(served)) = (front_ends.port(slot), served) else { return };
        for (index, queue) in (0..).zip(&port.queues) {
            let want = served.active && queue.delivery() == Delivery::Intx;
            let have = served.watched.contains(&index);
            if want && !have {
                match self.events.add(&queue.call, Token::Call(slot, index), Interest::Read) {
                    Ok(()) => served.watched.push(index),
                    Err(error) => guest_log!(Warn, "calls of slot {} can't be watched: {error}", slot.0),
                }
            } else if have && !want {
                self.events.remove(&queue.call);
                served.watched.retain(|watched| *watched != index);
            }
        }
    }

    fn served(&mut self, slot: Slot) -> Option<&mut Served> {
        self.served.get_mut(usize::from(slot.0).checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests;
