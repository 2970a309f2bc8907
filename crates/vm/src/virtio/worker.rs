//! The devices' thread: asks back ends to start and stop, serves the entropy device, and watches for what goes wrong.
//!
//! A thread of its own, since a back end may take seconds to answer while vmm and the console must be served. It ends with
//! the process. A back end that stops may take any time, since a disk of the host does: it is not waited for, so that the other
//! devices are served, and a pause can be taken back.
//!
//! ```text
//! Idle ──activate──► Serves ──stop: pause or reset──► Stops ──stopped──► Stands ──unpause──► Serves
//!  ▲                                                                       │
//!  └──────────────────────────────────reset────────────────────────────────┘
//! ```
//!
//! A back end that is gone is lost in whatever state it was; vmm sends another. One that stops goes on stopping until then: its
//! process may have died, and the host still carry out what it had begun.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hw::{Activation, Delivery, Slot};
use log::error;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use sys::event::{Interest, Loop};
use sys::guest_log;

use super::front_ends::{FrontEnds, Job};
use super::{BackEnd, Failure, Registers};
use crate::lifecycle::{Event, Pause};

/// Stack of the thread.
const STACK: usize = 128 << 10;
/// After so long a device that still stops is named in the log.
const SLOW: Duration = Duration::from_secs(10);

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
    /// As logs call it: `vioblk0`.
    name: String,
    course: Course,
    /// The driver has reset it, and is to hear when it has stopped.
    resets: bool,
    /// Its configuration space is to be read when it has stopped: until then it answers nothing else.
    config_wanted: bool,
    /// Queues whose calls the loop waits for.
    watched: Vec<u16>,
}

/// What a device does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// No driver has set it up.
    Idle,
    /// Serves its queues.
    Serves,
    /// Finishes what is under way; when to say that it takes long, once.
    Stops(Option<Instant>),
    /// Serves no queue, and remembers where they stand.
    Stands,
}

impl Served {
    /// Whether its driver has set it up, and not reset it.
    fn active(&self) -> bool {
        self.course != Course::Idle && !self.resets
    }

    fn stops(&self) -> bool {
        matches!(self.course, Course::Stops(_))
    }
}

/// The thread before it starts, and its state afterwards.
pub struct Worker {
    front_ends: Arc<FrontEnds>,
    /// In order of slots from 1.
    served: Vec<Served>,
    /// The pause for which no queue is to be served.
    quiet: Option<Pause>,
    events: Loop<Token>,
}

impl Worker {
    /// Watches these back ends, in order of slots from 1.
    pub(super) fn new(front_ends: Arc<FrontEnds>, back_ends: Vec<Box<dyn BackEnd>>) -> io::Result<Self> {
        let mut events = Loop::new()?;
        events.add(front_ends.wake(), Token::Wake, Interest::Read)?;
        let mut served: Vec<Served> = Vec::new();
        for back_end in back_ends {
            let role = back_end.role();
            let number = served.iter().filter(|other| other.back_end.role() == role).count();
            let (name, course, watched) = (format!("{role}{number}"), Course::Idle, Vec::new());
            served.push(Served { back_end, name, course, resets: false, config_wanted: false, watched });
        }
        for (port, served) in front_ends.ports().iter().zip(&served) {
            events.add(&port.broken, Token::Broken(port.slot), Interest::Read)?;
            match (served.back_end.socket(), port.queue(0)) {
                (Some(socket), _) => events.add(socket, Token::Socket(port.slot), Interest::Read)?,
                (None, Some(queue)) => events.add(&queue.kick, Token::Kick(port.slot), Interest::Read)?,
                (None, None) => {}
            }
        }
        Ok(Self { front_ends, served, quiet: None, events })
    }

    /// Starts the thread; it tells what happens to `registers`.
    pub fn start(self, registers: Arc<dyn Registers + Send + Sync>) -> io::Result<JoinHandle<()>> {
        let thread = std::thread::Builder::new().name("virtio".into()).stack_size(STACK);
        thread.spawn(move || self.run(&*registers))
    }

    fn run(mut self, registers: &dyn Registers) {
        loop {
            let ready = match self.events.wait(self.deadline()) {
                Ok(ready) => ready,
                Err(error) => {
                    error!("devices can't be watched: {error}");
                    registers.device_gone();
                    return;
                }
            };
            ready.into_iter().for_each(|ready| self.happened(ready.token, registers));
            self.name_the_slow(Instant::now());
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let slow = |served: &Served| if let Course::Stops(slow) = served.course { slow } else { None };
        self.served.iter().filter_map(slow).min()
    }

    /// Says once of each stop that takes long which device it is that has not finished.
    fn name_the_slow(&mut self, now: Instant) {
        for served in &mut self.served {
            if let Course::Stops(Some(at)) = served.course {
                if at <= now {
                    served.course = Course::Stops(None);
                    let (name, why) = (&served.name, if served.resets { "reset" } else { "pause" });
                    let seconds = SLOW.as_secs();
                    guest_log!(
                        Warn,
                        "{name} was to stop for a {why} {seconds} s ago, and has not finished its requests"
                    );
                }
            }
        }
    }

    fn happened(&mut self, token: Token, registers: &dyn Registers) {
        let front_ends = self.front_ends.clone();
        match token {
            Token::Wake => {
                front_ends.wake().clear();
                // Those that come meanwhile set it again: a guest that resets one device on and on holds up no other.
                front_ends.take_jobs().into_iter().for_each(|job| self.perform(job, registers));
            }
            Token::Socket(slot) => self.answered(slot, registers),
            Token::Broken(slot) => {
                let told = front_ends.port(slot).is_some_and(|port| port.broken.clear());
                // A reset takes a signal back: one that the loop had seen before that says nothing of the device now.
                if told && self.served(slot).is_some_and(|served| served.active()) {
                    self.failed(slot, Failure::Refused("a ring is broken".into()), registers);
                }
            }
            Token::Kick(slot) => self.kicked(slot, registers),
            Token::Call(slot, queue) => {
                if let Some(call) = front_ends.queue(slot, queue).map(|queue| &queue.call) {
                    call.clear();
                    if self.served(slot).is_some_and(|served| served.active()) {
                        registers.queue_interrupt(slot, queue);
                    }
                }
            }
        }
    }

    fn perform(&mut self, job: Job, registers: &dyn Registers) {
        match job {
            Job::Activate(slot, activation) => self.activate(slot, &activation, registers),
            Job::Reset(slot) => self.reset(slot, registers),
            Job::Watch(slot) => self.watch(slot),
            Job::ReadConfig(slot) => self.read_config(slot, registers),
            Job::Replace(slot, socket) => self.replace(slot, socket, registers),
            Job::Quiet(pause) => self.quiet(pause, registers),
            Job::WakeUp(pause) => self.wake_up(pause, registers),
        }
    }

    fn read_config(&mut self, slot: Slot, registers: &dyn Registers) {
        let Some(served) = self.served(slot) else { return };
        served.config_wanted = served.stops();
        if served.config_wanted || served.back_end.is_lost() {
            return; // the next one is asked in any case
        }
        match served.back_end.config() {
            Ok(config) => registers.config_changed(slot, &config),
            Err(failure) => self.failed(slot, failure, registers),
        }
    }

    /// The back end is gone, or of no use: its process ends with its socket, and vmm sees that.
    fn lose(&mut self, slot: Slot, why: &str) {
        let place = usize::from(slot.0).checked_sub(1);
        let Some(served) = place.and_then(|place| self.served.get_mut(place)) else { return };
        if served.back_end.is_lost() {
            return;
        }
        guest_log!(Warn, "{} is lost: {why}", served.name);
        if let Some(socket) = served.back_end.socket() {
            self.events.remove(socket);
        }
        served.back_end.lose();
    }

    /// Another process serves the device from now on, from where the one before it had come.
    fn replace(&mut self, slot: Slot, socket: OwnedFd, registers: &dyn Registers) {
        self.lose(slot, "another process takes its place");
        let front_ends = self.front_ends.clone();
        let place = usize::from(slot.0).checked_sub(1);
        let served = place.and_then(|place| self.served.get_mut(place));
        let (Some(port), Some(served)) = (front_ends.port(slot), served) else { return };
        let replaced = served.back_end.replace(socket).and_then(|config| {
            let socket = served.back_end.socket().ok_or_else(|| Failure::Gone("it has no socket".into()))?;
            let added = self.events.add(socket, Token::Socket(slot), Interest::Read);
            added.map(|()| config).map_err(|error| Failure::Gone(error.to_string()))
        });
        match replaced {
            Ok(config) => registers.config_changed(slot, &config),
            Err(failure) => return self.lose(slot, &failure.to_string()),
        }
        if served.active() {
            // The one that is gone may have handed requests back and not have called.
            port.queues.iter().for_each(|queue| queue.call.set());
        }
        match served.course {
            Course::Serves => self.unpause(slot, registers),
            Course::Stops(_) => {
                self.stopped(slot, registers);
                self.tell_quiet(registers);
            }
            Course::Idle | Course::Stands => {}
        }
    }

    fn quiet(&mut self, pause: Pause, registers: &dyn Registers) {
        self.quiet = Some(pause);
        for slot in self.slots(|served| served.course == Course::Serves) {
            self.stop(slot, registers);
        }
        self.tell_quiet(registers);
    }

    /// Those that still stop serve again as soon as they have.
    fn wake_up(&mut self, pause: Pause, registers: &dyn Registers) {
        self.quiet = None;
        for slot in self.slots(|served| served.course == Course::Stands) {
            self.unpause(slot, registers);
        }
        registers.devices_are(Event::Awake(pause));
    }

    fn unpause(&mut self, slot: Slot, registers: &dyn Registers) {
        let front_ends = self.front_ends.clone();
        let (Some(port), Some(served)) = (front_ends.port(slot), self.served(slot)) else { return };
        served.course = Course::Serves;
        match served.back_end.unpause(port) {
            Ok(()) => self.kicked(slot, registers), // what was not served meanwhile
            Err(failure) => self.failed(slot, failure, registers),
        }
    }

    /// Has it finish. One that can't be stopped is of no use afterwards either.
    fn stop(&mut self, slot: Slot, registers: &dyn Registers) {
        let Some(served) = self.served(slot) else { return };
        served.course = Course::Stops(Some(Instant::now() + SLOW));
        match served.back_end.stop() {
            Ok(true) => self.stopped(slot, registers),
            Ok(false) => {}
            Err(failure) => self.lose(slot, &failure.to_string()),
        }
    }

    /// Unasked, a back end only says that it is gone.
    fn answered(&mut self, slot: Slot, registers: &dyn Registers) {
        let Some(served) = self.served(slot) else { return };
        if !served.stops() {
            // What the loop had seen before may be of one that was replaced since.
            if served.back_end.socket().is_some_and(says_something) {
                self.lose(slot, "its process is gone");
            }
            return;
        }
        match served.back_end.stopped() {
            Ok(true) => {
                self.stopped(slot, registers);
                self.tell_quiet(registers);
            }
            Ok(false) => {}
            Err(failure) => self.lose(slot, &failure.to_string()),
        }
    }

    /// It has stopped: for a reset or a pause, or for a pause that was taken back meanwhile.
    fn stopped(&mut self, slot: Slot, registers: &dyn Registers) {
        let Some(served) = self.served(slot) else { return };
        served.course = Course::Stands;
        let resets = served.resets;
        if served.config_wanted {
            self.read_config(slot, registers);
        }
        if resets {
            self.forget(slot, registers);
        } else if self.quiet.is_none() {
            self.unpause(slot, registers);
        }
    }

    /// For a pause that all devices stand still for.
    fn tell_quiet(&self, registers: &dyn Registers) {
        if let Some(pause) = self.quiet.filter(|_| !self.served.iter().any(Served::stops)) {
            registers.devices_are(Event::Quiet(pause));
        }
    }

    fn activate(&mut self, slot: Slot, activation: &Activation, registers: &dyn Registers) {
        let front_ends = self.front_ends.clone();
        let (Some(port), Some(served)) = (front_ends.port(slot), self.served(slot)) else { return };
        served.course = Course::Serves;
        if let Err(failure) = served.back_end.activate(activation, port) {
            return self.failed(slot, failure, registers);
        }
        self.watch(slot);
        self.kicked(slot, registers) // what came before it ran
    }

    fn reset(&mut self, slot: Slot, registers: &dyn Registers) {
        let Some(served) = self.served(slot) else { return };
        served.resets = true;
        match served.course {
            Course::Serves => self.stop(slot, registers),
            Course::Stops(_) => {}
            Course::Idle | Course::Stands => self.forget(slot, registers),
        }
    }

    /// It is reset, and has stopped.
    fn forget(&mut self, slot: Slot, registers: &dyn Registers) {
        if let Some(served) = self.served(slot) {
            (served.course, served.resets) = (Course::Idle, false);
            if let Err(failure) = served.back_end.reset() {
                self.lose(slot, &failure.to_string());
            }
        }
        self.watch(slot);
        if let Some(port) = self.front_ends.port(slot) {
            port.forget_signals();
        }
        registers.reset_done(slot);
    }

    fn kicked(&mut self, slot: Slot, registers: &dyn Registers) {
        let front_ends = self.front_ends.clone();
        let (Some(port), Some(served)) = (front_ends.port(slot), self.served(slot)) else { return };
        let Some(queue) = port.queue(0).filter(|_| served.back_end.socket().is_none()) else { return };
        queue.kick.clear();
        if served.course != Course::Serves {
            return;
        }
        match served.back_end.kicked(port) {
            Ok(true) => queue.kick.set(), // the other descriptors come first
            Ok(false) => {}
            Err(failure) => self.failed(slot, failure, registers),
        }
    }

    /// A refusal is the driver's matter; after anything else the back end is of no use.
    fn failed(&mut self, slot: Slot, failure: Failure, registers: &dyn Registers) {
        match failure {
            Failure::Refused(why) => {
                guest_log!(Warn, "device in slot {} needs a reset: {why}", slot.0);
                registers.needs_reset(slot);
            }
            Failure::Gone(why) => self.lose(slot, &why),
        }
    }

    /// Waits for the calls of queues that have no vector, while their device is active.
    fn watch(&mut self, slot: Slot) {
        let front_ends = self.front_ends.clone();
        let place = usize::from(slot.0).checked_sub(1);
        let served = place.and_then(|place| self.served.get_mut(place));
        let (Some(port), Some(served)) = (front_ends.port(slot), served) else { return };
        for (index, queue) in (0..).zip(&port.queues) {
            let want = served.active() && queue.delivery() == Delivery::Intx;
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

    fn slots(&self, which: impl Fn(&Served) -> bool) -> Vec<Slot> {
        (1..).map(Slot).zip(&self.served).filter(|(_, served)| which(served)).map(|(slot, _)| slot).collect()
    }

    fn served(&mut self, slot: Slot) -> Option<&mut Served> {
        self.served.get_mut(usize::from(slot.0).checked_sub(1)?)
    }
}

/// Whether there is something to read on a socket, or its end.
fn says_something(socket: BorrowedFd<'_>) -> bool {
    !matches!(recv(socket, &mut [0], RecvFlags::DONTWAIT | RecvFlags::PEEK), Err(Errno::AGAIN | Errno::INTR))
}

#[cfg(test)]
mod tests;
