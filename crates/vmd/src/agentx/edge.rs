//! agentx's edge: reads the parent and the master, and carries out what `agent.rs` decides.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use proto::agentx::{ToAgentX, ToParent};
use proto::{Channel, Received};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use sys::event::{Interest, Loop, Ready};

use super::agent::{Action, Agent, Event};
use crate::ending::{self, Fatal};

/// Bytes read from the master before others have their turn.
const READ: usize = 64 * 1024;

/// agentx: its peers and what it knows.
pub(super) struct Edge {
    parent: Channel<ToParent, ToAgentX>,
    agent: Agent,
    master: Option<Master>,
}

struct Master {
    socket: OwnedFd,
    /// Until the loop has it.
    watched: Option<Interest>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Parent,
    Signals,
    Master,
}

impl Edge {
    pub(super) fn new(channel: OwnedFd, agent: Agent) -> Self {
        Self { parent: Channel::new(channel), agent, master: None }
    }

    /// Serves until the parent is gone or a signal ends it; then takes leave of the master.
    pub(super) fn serve(mut self) -> Result<(), Fatal> {
        let signals = ending::signals()?;
        let mut events = Loop::new()?;
        events.add(&self.parent, Token::Parent, Interest::Read)?;
        events.add(&signals, Token::Signals, Interest::Read)?;
        let mut over = false;
        while !over {
            for ready in events.wait(self.agent.deadline())? {
                match ready.token {
                    Token::Parent => over |= self.hear_parent(&mut events),
                    Token::Signals => over |= ending::is_told_to_end(&signals)?,
                    Token::Master => self.hear_master(&ready, &mut events),
                }
            }
            if self.agent.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                self.handle(Event::Time, &mut events);
            }
            self.write(&mut events);
            self.watch(&mut events)?;
        }
        if let Some(master) = self.master {
            let _ = send(&master.socket, &self.agent.close()); // it notices the end of the connection too
        }
        Ok(())
    }

    /// Whether the parent is gone. It never sends malformed messages, so a channel that fails counts as closed.
    fn hear_parent(&mut self, events: &mut Loop<Token>) -> bool {
        loop {
            match self.parent.flush().and_then(|()| self.parent.recv()) {
                Ok(Received::Message(message, fds)) => self.parent_says(message, fds, events),
                Ok(Received::Empty) => return false,
                Ok(Received::Closed) => return true,
                Err(error) => {
                    log::debug!("the parent's channel: {error}");
                    return true;
                }
            }
        }
    }

    fn parent_says(&mut self, message: ToAgentX, fds: Vec<OwnedFd>, events: &mut Loop<Token>) {
        let event = match message {
            ToAgentX::Serve { context } => Event::Serve(context),
            ToAgentX::Connected => {
                self.hang_up(events);
                self.master = fds.into_iter().next().map(|socket| Master { socket, watched: None });
                Event::Connected
            }
            ToAgentX::NotConnected { failure } => Event::NotConnected(failure.to_string()),
            ToAgentX::Vms { request, rows } => Event::Vms(request, rows.into_iter().collect()),
            ToAgentX::VmsEnd { request } => Event::VmsEnd(request),
            ToAgentX::Verbose { debug } => return sys::log::set_level(sys::log::level_of(u8::from(debug))),
        };
        self.handle(event, events);
    }

    fn hear_master(&mut self, ready: &Ready<Token>, events: &mut Loop<Token>) {
        // What was hung up a moment ago may still be in this batch.
        let Some(master) = &self.master else { return };
        if !self.agent.reads() {
            if ready.hangup {
                self.handle(Event::Lost("closed the connection".to_owned()), events);
            }
            return;
        }
        let mut bytes = vec![0; READ];
        match rustix::net::recv(&master.socket, bytes.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.handle(Event::Lost("closed the connection".to_owned()), events),
            Ok((count, _)) => {
                self.handle(Event::Received(bytes.get(..count).unwrap_or_default()), events);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => self.handle(Event::Lost(lost(error)), events),
        }
    }

    fn handle(&mut self, event: Event<'_>, events: &mut Loop<Token>) {
        for action in self.agent.handle(event, Instant::now()) {
            match action {
                Action::Connect => self.ask(&ToParent::Connect),
                Action::List(request) => self.ask(&ToParent::List { request }),
                Action::Hangup => self.hang_up(events),
                Action::Log(level, text) => log::log!(level, "{text}"),
            }
        }
    }

    /// A parent that can't be told is gone, and its channel says so.
    fn ask(&mut self, message: &ToParent) {
        if let Err(error) = self.parent.send(message, vec![]) {
            log::debug!("the parent's channel: {error}");
        }
    }

    fn hang_up(&mut self, events: &mut Loop<Token>) {
        if let Some(master) = self.master.take() {
            let _ = send(&master.socket, self.agent.output()); // its last words, if they are heard
            events.remove(&master.socket);
        }
    }

    /// Gives the master what it takes; what it takes lets the agent read on.
    fn write(&mut self, events: &mut Loop<Token>) {
        while let Some(master) = self.master.as_ref().filter(|_| !self.agent.output().is_empty()) {
            match send(&master.socket, self.agent.output()) {
                Ok(count) => self.handle(Event::Written(count), events),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(error) => self.handle(Event::Lost(lost(error)), events),
            }
        }
    }

    /// Watches for what may be done.
    fn watch(&mut self, events: &mut Loop<Token>) -> io::Result<()> {
        events.change(&self.parent, Interest::of(true, self.parent.wants_write()))?;
        let Some(master) = &mut self.master else { return Ok(()) };
        let wanted = Interest::of(self.agent.reads(), !self.agent.output().is_empty());
        match master.watched.replace(wanted) {
            None => events.add(&master.socket, Token::Master, wanted),
            Some(watched) if watched != wanted => events.change(&master.socket, wanted),
            Some(_) => Ok(()),
        }
    }
}

fn send(socket: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
}

fn lost(error: Errno) -> String {
    format!("can't be reached any more ({})", proto::failure::plain(&error.into()))
}
