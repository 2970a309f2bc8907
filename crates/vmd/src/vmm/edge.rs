//! vmm's edge: waits, turns what came into events of `running.rs`, and performs its actions.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use proto::channel::ChannelError;
use proto::device::ToDevice;
use proto::vmm::{ToParent, ToVmm};
use proto::{Channel, Failure, Received};
use rustix::process::Signal as Kill;
use sys::event::{Interest, Loop, Ready};
use sys::exe::Executable;
use sys::limits;
use sys::signals::{Signal, Signals};

use super::held::Held;
use super::members;
use super::moment::Moment;
use super::running::{Action, Event, Member, Process, Run, Running, Slot, Title};
use super::talk::{Heard, Living, Talk, Unsent};
use crate::ending;

/// Messages read from one process in one turn of the loop, so that a flood of one does not hold the others.
const MAX_HEARD: usize = 16;
/// Turns of reading that one process gets after its end: more than a socket holds, and not without end, as it may have given
/// its socket away.
const MAX_LAST_TURNS: usize = 64;

/// vmm: its peers, its table, what it holds.
pub struct Edge {
    parent: Channel<ToParent, ToVmm>,
    exe: Executable,
    events: Loop<Token>,
    signals: Signals,
    pub(super) running: Running,
    pub(super) held: Held,
    queue: VecDeque<Event>,
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Parent,
    Signals,
    Talk(Process),
    Exit(Process),
    /// The pipe of a device's process that has ended.
    Gone(Process),
}

impl Edge {
    /// With the parent at the other end of `channel`, and vmd's executable.
    pub fn new(channel: OwnedFd, exe: OwnedFd) -> io::Result<Self> {
        let signals = ending::signals()?;
        let parent = Channel::new(channel).patient();
        let mut events = Loop::new()?;
        events.add(&parent, Token::Parent, Interest::Read)?;
        events.add(&signals, Token::Signals, Interest::Read)?;
        let debug = log::max_level() >= log::Level::Debug;
        let descriptors = limits::descriptors();
        Ok(Self {
            parent,
            exe: Executable::from_fd(exe),
            events,
            signals,
            running: Running::new(descriptors, debug),
            held: Held::default(),
            queue: VecDeque::new(),
            over: false,
        })
    }

    /// Serves until the parent is gone or a signal ends it, and no VM is left.
    pub fn serve(mut self) -> io::Result<()> {
        while !self.over {
            self.turn()?;
        }
        Ok(())
    }

    /// Waits once, and does what is due then.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        for ready in self.events.wait(self.running.next_deadline().map(Moment::instant))? {
            self.ready(&ready)?;
            self.drain();
        }
        self.happened(Event::Time, Vec::new());
        Ok(())
    }

    fn ready(&mut self, ready: &Ready<Token>) -> io::Result<()> {
        match ready.token {
            Token::Parent => self.hear_parent(),
            Token::Signals => {
                while let Some(signal) = self.signals.next()? {
                    if matches!(signal, Signal::Terminate | Signal::Interrupt) {
                        self.happened(Event::Shutdown, Vec::new());
                    }
                }
            }
            Token::Talk(process) => {
                self.hear(process);
                self.flush(process);
            }
            Token::Exit(process) => self.reap(process)?,
            Token::Gone(process) => self.gone(process),
        }
        Ok(())
    }

    /// Tells the machine, performs what it says, and tells it what came of that.
    fn happened(&mut self, event: Event, mut fds: Vec<OwnedFd>) {
        let mut next = Some(event);
        while let Some(event) = next {
            for action in self.running.handle(event, Moment::now()) {
                self.perform(action, &mut fds);
            }
            fds.clear();
            next = self.queue.pop_front();
        }
    }

    /// Tells the machine what performing and sending brought.
    fn drain(&mut self) {
        if let Some(event) = self.queue.pop_front() {
            self.happened(event, Vec::new());
        }
    }

    fn perform(&mut self, action: Action, fds: &mut Vec<OwnedFd>) {
        match action {
            Action::Hold(run, slots) => self.held.hold(run, slots, std::mem::take(fds)),
            Action::HoldHost(which) => self.held.hold_host(which, fds.pop()),
            Action::Spawn(process, title) => {
                let event = match self.spawn(process, &title) {
                    Ok(pid) => Event::Spawned(process, pid),
                    Err(failure) => Event::SpawnFailed(process, failure),
                };
                self.queue.push_back(event);
            }
            Action::TellVm(run, message) => {
                let process = Process { run, member: Member::Vm };
                let fds = self.held.for_vm(run, &message);
                self.told(process, |talk| Ok(talk.tell_vm(&message, fds?)));
            }
            Action::TellDevice(process, message) => {
                let Member::Device(device) = process.member else { return };
                let fds = self.held.for_device(process.run, device, &message);
                self.told(process, |talk| Ok(talk.tell_device(&message, fds?)));
            }
            Action::Ask(process, request, ask) => {
                let Member::Device(device) = process.member else { return };
                let fds = self.held.for_request(process.run, device, request, &ask);
                self.told(process, |talk| Ok(talk.tell_device(&ToDevice::Ask(ask), fds?)));
            }
            Action::Drop(run, slot) => self.held.close(run, slot),
            Action::Move(run, from, to) => self.held.rename(run, from, to),
            Action::AwaitGone(process) => self.await_gone(process),
            Action::Release(run) => self.held.release(run),
            Action::HangUp(run) => self.say_no_more(run),
            Action::Kill(process, signal) => self.kill(process, signal),
            Action::Reply(message) => self.reply(&message),
            Action::Log(level, text) => {
                static LIMIT: sys::log::RateLimit = sys::log::RateLimit::new();
                sys::log::limited(&LIMIT, level, format_args!("{text}"));
            }
            Action::LogOf(vm, maker, level, text) => {
                sys::log::of_vm(level, vm.as_str(), maker, format_args!("{text}"));
            }
            Action::Verbose(debug) => sys::log::set_level(sys::log::level_of(u8::from(debug))),
            Action::Quit => self.over = true,
        }
    }

    fn spawn(&mut self, process: Process, title: &Title) -> Result<u32, Failure> {
        let mut living = members::start(&self.exe, &mut self.held, process, title)?;
        if let Err(error) = self.watch(process, &living) {
            self.events.remove(&living.child);
            // It has just been executed and holds nothing, so it dies at once.
            let killed = living.child.kill(Kill::KILL).and_then(|()| living.child.wait());
            log::debug!("{}: not watched, killed: {killed:?}", title.title);
            return Err(Failure::io("event loop", &error));
        }
        let pid = living.child.pid();
        self.held.keep(process, living);
        Ok(pid)
    }

    pub(super) fn watch(&mut self, process: Process, living: &Living) -> io::Result<()> {
        self.events.add(&living.child, Token::Exit(process), Interest::Read)?;
        match &living.talk {
            Some(talk) => self.events.add(talk, Token::Talk(process), Interest::Read),
            None => Ok(()),
        }
    }

    /// Sends, if the process is there, and says what came of it.
    fn told(&mut self, process: Process, send: impl FnOnce(&mut Talk) -> io::Result<Result<(), Unsent>>) {
        match self.held.talk(process).map(send) {
            None => {}
            Some(Err(error)) => self.queue.push_back(Event::Broken(process, error.to_string())),
            Some(Ok(sent)) => self.sent(process, sent),
        }
    }

    fn sent(&mut self, process: Process, sent: Result<(), Unsent>) {
        match sent {
            Ok(()) => self.watch_for_room(process, true),
            // What it said before is still to be heard.
            Err(Unsent::Gone) => self.watch_for_room(process, false),
            Err(Unsent::Broken(why)) => {
                self.hang_up(process);
                self.queue.push_back(Event::Broken(process, why));
            }
        }
    }

    fn watch_for_room(&mut self, process: Process, takes_more: bool) {
        let Some(talk) = self.held.talk(process) else { return };
        let interest = if takes_more && talk.wants_write() { Interest::ReadWrite } else { Interest::Read };
        if let Err(error) = self.events.change(talk, interest) {
            self.queue.push_back(Event::Broken(process, error.to_string()));
        }
    }

    fn flush(&mut self, process: Process) {
        if let Some(flushed) = self.held.talk(process).map(Talk::flush) {
            self.sent(process, flushed);
        }
    }

    /// True where there may be more.
    fn hear(&mut self, process: Process) -> bool {
        for _ in 0..MAX_HEARD {
            match self.held.talk(process).map_or(Heard::Nothing, |talk| talk.hear(process)) {
                Heard::Event(event) => {
                    if matches!(event, Event::Broken(..)) {
                        self.hang_up(process);
                    }
                    self.happened(event, Vec::new());
                }
                Heard::Nothing => return false,
                Heard::End => {
                    self.hang_up(process); // its exit tells the rest
                    return false;
                }
            }
        }
        true
    }

    /// The end of a process. All that it had said before counts.
    fn reap(&mut self, process: Process) -> io::Result<()> {
        (0..MAX_LAST_TURNS).take_while(|_| self.hear(process)).for_each(drop);
        let Some(living) = self.held.living(process) else { return Ok(()) };
        let Some(exit) = living.child.try_wait()? else { return Ok(()) };
        self.hang_up(process);
        if let Some(living) = self.held.forget(process) {
            self.events.remove(&living.child);
        }
        self.happened(Event::Exited(process, exit), Vec::new());
        Ok(())
    }

    fn await_gone(&mut self, process: Process) {
        let Member::Device(device) = process.member else { return };
        let added = match self.held.lend(process.run, Slot::Gone(device)) {
            Some(pipe) => self.events.add(pipe, Token::Gone(process), Interest::Hangup),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        if let Err(error) = added {
            self.queue.push_back(Event::Broken(process, format!("its pipe can't be watched: {error}")));
        }
    }

    fn gone(&mut self, process: Process) {
        let Member::Device(device) = process.member else { return };
        if let Some(pipe) = self.held.lend(process.run, Slot::Gone(device)) {
            self.events.remove(pipe);
        }
        self.happened(Event::Gone(process), Vec::new());
    }

    fn say_no_more(&mut self, run: Run) {
        for talk in self.held.talks(run) {
            if let Err(error) = rustix::net::shutdown(talk, rustix::net::Shutdown::Write) {
                log::debug!("channel of a process that ends: {error}");
            }
        }
    }

    fn hang_up(&mut self, process: Process) {
        if let Some(talk) = self.held.living(process).and_then(|living| living.talk.take()) {
            self.events.remove(&talk);
        }
    }

    fn kill(&mut self, process: Process, signal: Kill) {
        let Some(living) = self.held.living(process) else { return };
        if let Err(error) = living.child.kill(signal) {
            sys::guest_log!(Error, "signal to pid {}: {error}", living.child.pid());
        }
    }

    fn hear_parent(&mut self) {
        for _ in 0..MAX_HEARD {
            match self.parent.recv() {
                Ok(Received::Message(message, fds)) => self.happened(Event::Parent(message), fds),
                Ok(Received::Empty) => break,
                Ok(Received::Closed) => return self.parent_gone("closed"),
                Err(ChannelError::Socket(error)) => return self.parent_gone(&error.to_string()),
                Err(error) => {
                    let lost = self.parent.take_lost().map(|message| Event::WithoutDescriptors(Box::new(message)));
                    self.happened(lost.unwrap_or_else(|| Event::Lost(error.to_string())), Vec::new());
                }
            }
        }
        let flushed = self.parent.flush();
        self.spoke(flushed);
    }

    fn reply(&mut self, message: &ToParent) {
        let sent = self.parent.send(message, Vec::new());
        self.spoke(sent);
    }

    /// The parent is read also while it is behind, as it may be behind because it waits for something of ours.
    fn spoke(&mut self, sent: Result<(), ChannelError>) {
        if let Err(error) = sent {
            return self.parent_gone(&error.to_string());
        }
        let interest = if self.parent.wants_write() { Interest::ReadWrite } else { Interest::Read };
        if !self.over {
            if let Err(error) = self.events.change(self.parent.as_fd(), interest) {
                log::debug!("channel of the parent: {error}");
            }
        }
    }

    fn parent_gone(&mut self, why: &str) {
        log::debug!("parent: {why}");
        self.events.remove(&self.parent);
        self.queue.push_back(Event::Shutdown);
    }
}
