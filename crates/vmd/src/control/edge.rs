//! control's edge: accepts, reads and writes, and carries out what `clients.rs` decides.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use proto::channel::ChannelError;
use proto::client::{Reply, ToClient, ToControl as FromClient};
use proto::control::{ToControl, ToParent};
use proto::{Channel, ConnId, Received};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};
use sys::event::{Interest, Loop, Ready};

use super::clients::{Action, CONNECTION, Clients, Event};
use crate::ending::{self, Fatal};

/// Clients accepted, and answers of the parent taken, before the others have their turn.
const MAX_AT_ONCE: usize = 64;

/// control: its peers and what it knows of them.
pub(super) struct Edge {
    events: Loop<Token>,
    /// Patient: no client is read while the parent is behind, so only the ends of all clients come on top.
    parent: Channel<ToParent, ToControl>,
    /// What the loop watches the parent and the listening socket for.
    watched: (Interest, Interest),
    listener: OwnedFd,
    clients: Clients,
    connections: BTreeMap<ConnId, Connection>,
}

struct Connection {
    channel: Channel<ToClient, FromClient>,
    watched: Interest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Parent,
    Signals,
    Listener,
    Client(ConnId),
}

impl Edge {
    pub(super) fn new(channel: OwnedFd, listener: OwnedFd) -> Result<Self, Fatal> {
        // A client that is gone before it is accepted must not make accept wait for another.
        sys::waits::never(&listener)?;
        let mut events = Loop::new()?;
        let parent = Channel::new(channel).patient();
        events.add(&parent, Token::Parent, Interest::Read)?;
        events.add(&listener, Token::Listener, Interest::Read)?;
        let watched = (Interest::Read, Interest::Read);
        Ok(Self { events, parent, watched, listener, clients: Clients::default(), connections: BTreeMap::new() })
    }

    /// Serves until the parent is gone or a signal ends it.
    pub(super) fn serve(mut self) -> Result<(), Fatal> {
        let signals = ending::signals()?;
        self.events.add(&signals, Token::Signals, Interest::Read)?;
        loop {
            for ready in self.events.wait(self.clients.next_tick())? {
                match ready.token {
                    Token::Parent if self.hear_parent() => return Ok(()),
                    Token::Signals if ending::is_told_to_end(&signals)? => return Ok(()),
                    Token::Parent | Token::Signals => {}
                    Token::Listener => _ = self.accept(),
                    Token::Client(conn) => self.hear_client(conn, &ready),
                }
            }
            self.handle(Event::Tick, vec![]);
            if let Err(error) = self.parent.flush() {
                log::debug!("the parent's channel: {error}");
                return Ok(());
            }
            self.watch()?;
        }
    }

    /// Whether the parent is gone.
    fn hear_parent(&mut self) -> bool {
        for _ in 0..MAX_AT_ONCE {
            match self.parent.recv() {
                Ok(Received::Message(message, fds)) => {
                    if let Err(error) = self.parent_says(message, fds) {
                        sys::guest_log!(Error, "the control socket can't be watched: {error}");
                        return true; // the parent starts another, with the new socket
                    }
                }
                Ok(Received::Empty) => return false,
                Ok(Received::Closed) => return true,
                Err(error) if error.is_peers_fault() => {
                    sys::guest_log!(Warn, "refused a message of the parent: {error}")
                }
                Err(error) => {
                    log::debug!("the parent's channel: {error}");
                    return true;
                }
            }
        }
        false
    }

    fn parent_says(&mut self, message: ToControl, mut fds: Vec<OwnedFd>) -> io::Result<()> {
        let event = match message {
            ToControl::Answer { conn, id, reply } => Event::Answer(conn, id, reply),
            ToControl::Listen => return fds.pop().map_or(Ok(()), |listener| self.listen(listener)),
            ToControl::Disconnect { conn } => Event::Disconnect(conn),
            ToControl::Verbose { debug } => {
                sys::log::set_level(sys::log::level_of(u8::from(debug)));
                return Ok(());
            }
        };
        self.handle(event, vec![]);
        Ok(())
    }

    /// Clients come to this socket from now on. Those that wait at the old one are taken first: they are no more than its
    /// queue holds, since nobody can come to it any more.
    fn listen(&mut self, listener: OwnedFd) -> io::Result<()> {
        shutdown(&self.listener, Shutdown::Read)?;
        while self.accept() {}
        self.events.remove(&self.listener);
        self.listener = listener;
        self.watched.1 = Interest::Read;
        self.events.add(&self.listener, Token::Listener, self.watched.1)
    }

    /// Whether there may be more.
    fn accept(&mut self) -> bool {
        for _ in 0..MAX_AT_ONCE {
            if !self.clients.accepts() {
                return false;
            }
            match self.take() {
                Ok((uid, socket)) => self.handle(Event::Accepted(uid), socket),
                Err(Errno::AGAIN) => return false,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    sys::guest_log!(Warn, "not accepting clients for a while: {error}");
                    self.handle(Event::AcceptFailed, vec![]);
                }
            }
        }
        true
    }

    /// The next client's user, and its socket, twice. It is taken when there is room for both: with room for one it would be
    /// lost.
    fn take(&self) -> rustix::io::Result<(u32, Vec<OwnedFd>)> {
        let room = fcntl_dupfd_cloexec(&self.listener, 0)?;
        let socket = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        drop(room);
        let uid = sys::creds::user(&socket)?;
        let shown = fcntl_dupfd_cloexec(&socket, 0)?;
        Ok((uid, vec![shown, socket]))
    }

    fn hear_client(&mut self, conn: ConnId, ready: &Ready<Token>) {
        let may_read = self.clients.reads(conn) && !self.parent.wants_write();
        // What was ended a moment ago may still be in this batch.
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if ready.writable {
            if let Err(error) = connection.channel.flush() {
                log::debug!("client {}: {error}", conn.0);
                return self.handle(Event::Left(conn), vec![]);
            }
        }
        if ready.readable && may_read {
            let (event, fds) = said(conn, connection.channel.recv());
            if let Some(event) = event {
                self.handle(event, fds);
            }
        } else if ready.hangup {
            self.handle(Event::Left(conn), vec![]);
        }
    }

    /// Carries out what follows of an event, and of what becomes of that. `fds` came with the client's message; of a client
    /// that was just accepted they are the parent's copy of its socket, and the socket.
    fn handle(&mut self, event: Event, mut fds: Vec<OwnedFd>) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.clients.handle(event, Instant::now()) {
                self.perform(action, &mut fds, &mut events);
            }
        }
    }

    /// A parent that is gone is noticed at the end of the turn.
    fn tell_parent(&mut self, message: &ToParent, fds: Vec<OwnedFd>) {
        if let Err(error) = self.parent.send(message, fds) {
            log::debug!("the parent's channel: {error}");
        }
    }

    fn perform(&mut self, action: Action, fds: &mut Vec<OwnedFd>, events: &mut VecDeque<Event>) {
        match action {
            Action::Admit(conn) => {
                let (Some(socket), Some(shown)) = (fds.pop(), fds.pop()) else { return };
                self.tell_parent(&ToParent::Connected { conn }, vec![shown]);
                let channel = Channel::new(socket);
                if let Err(error) = self.events.add(&channel, Token::Client(conn), Interest::Read) {
                    sys::guest_log!(Warn, "a client can't be watched: {error}");
                    events.push_back(Event::Left(conn));
                }
                self.connections.insert(conn, Connection { channel, watched: Interest::Read });
            }
            Action::TurnAway(uid, failure) => {
                sys::log::by_user(log::Level::Warn, uid, format_args!("a client was turned away: {failure}"));
                let last = ToClient::Answer { id: CONNECTION, reply: Reply::Failed(failure) };
                // It may be gone already.
                let _ = fds.pop().map(|socket| Channel::<_, FromClient>::new(socket).send(&last, vec![]));
            }
            Action::Tell(conn, message) => {
                let Some(connection) = self.connections.get_mut(&conn) else { return };
                match connection.channel.send(&message, vec![]) {
                    Ok(()) => {}
                    Err(ChannelError::Slow) => events.push_back(Event::Slow(conn)),
                    Err(error) => {
                        log::debug!("client {}: {error}", conn.0);
                        events.push_back(Event::Left(conn));
                    }
                }
            }
            Action::Forward(conn, id, request) => {
                self.tell_parent(&ToParent::Ask { conn, id, request }, std::mem::take(fds));
            }
            Action::End(conn, why) => {
                if let Some(why) = why {
                    sys::guest_log!(Warn, "client {} is disconnected: {why}", conn.0);
                }
                if let Some(connection) = self.connections.remove(&conn) {
                    self.events.remove(&connection.channel);
                    // Closing is not enough while the parent holds its copy. A peer that is gone makes this fail.
                    let _ = shutdown(&connection.channel, Shutdown::Both);
                }
                self.tell_parent(&ToParent::Gone { conn }, vec![]);
            }
        }
    }

    /// Watches for what may be done: no client is read, and none accepted, while the parent is behind.
    fn watch(&mut self) -> io::Result<()> {
        let full = self.parent.wants_write();
        let parent = Interest::of(true, full);
        let listener = Interest::of(!full && self.clients.accepts(), false);
        if self.watched.0 != parent {
            self.events.change(&self.parent, parent)?;
        }
        if self.watched.1 != listener {
            self.events.change(&self.listener, listener)?;
        }
        self.watched = (parent, listener);
        for (conn, connection) in &mut self.connections {
            let wanted = Interest::of(!full && self.clients.reads(*conn), connection.channel.wants_write());
            if connection.watched != wanted {
                self.events.change(&connection.channel, wanted)?;
                connection.watched = wanted;
            }
        }
        Ok(())
    }
}

/// What a read from a client means, and the descriptors that came.
fn said(conn: ConnId, got: Result<Received<FromClient>, ChannelError>) -> (Option<Event>, Vec<OwnedFd>) {
    match got {
        Ok(Received::Message(message, fds)) => (Some(Event::Said(conn, message)), fds),
        Ok(Received::Empty) => (None, vec![]),
        Ok(Received::Closed) => (Some(Event::Left(conn)), vec![]),
        Err(ChannelError::Malformed(_)) => (Some(Event::Malformed(conn, "malformed message".to_owned())), vec![]),
        Err(error) if error.is_peers_fault() => (Some(Event::Malformed(conn, error.to_string())), vec![]),
        Err(error) => {
            log::debug!("client {}: {error}", conn.0);
            (Some(Event::Left(conn)), vec![])
        }
    }
}
