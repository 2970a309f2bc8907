//! The clients of this moment, from accept to end, and where each answer goes. Pure: no socket, no clock, no log.
//!
//! ```text
//! accepted --> Greeting --(Hello, our version)--> Open --+
//!                 |                                      |
//!                 +-- wrong version, late, bad ----------+--> gone: the parent is told, the name never comes again
//! ```
//!
//! Nobody here knows what a request does, or whether it is allowed. Whose a connection is counts for nothing but how many
//! places one user may have.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

use proto::client::{Reply, Request, ToClient, ToControl, VERSION};
use proto::control::MAX_CONNECTIONS;
use proto::{Code, ConnId, Failure, RequestId};

/// Clients at a time. More are turned away.
pub const MAX_CLIENTS: usize = 256;
/// How many of these places only root may have, so that no number of users keeps it out.
pub const ROOTS_PLACES: usize = 32;
/// Requests of one client that the parent has not answered in full; more wait in the client's socket.
pub const MAX_OPEN_REQUESTS: usize = 8;
/// What a client may take to say its version: one that never does holds a place.
pub const GREETING_TIME: Duration = Duration::from_secs(10);
/// How long no client is accepted when no descriptor is left, unless one leaves before (openbsd/daemon.md, 4.1).
pub const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// The id of an answer that is about the connection, and not about one of its requests.
pub const CONNECTION: RequestId = RequestId(0);

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A client of this user came.
    Accepted(u32),
    /// A client could not be accepted: no descriptor, no memory.
    AcceptFailed,
    /// A client said something.
    Said(ConnId, ToControl),
    /// A client sent what is no message: the error in words.
    Malformed(ConnId, String),
    /// A client closed its end, or its socket failed.
    Left(ConnId),
    /// A client does not read its answers.
    Slow(ConnId),
    /// The parent's answer for a client.
    Answer(ConnId, RequestId, Reply),
    /// The parent ends a connection.
    Disconnect(ConnId),
    /// Time has passed.
    Tick,
}

/// What to do about it, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The client that came has this name: keep its connection, show it to the parent.
    Admit(ConnId),
    /// The client that came, of this user, is one too many: tell it so, close it.
    TurnAway(u32, Failure),
    /// Tell a client.
    Tell(ConnId, ToClient),
    /// Hand a request and its descriptors to the parent.
    Forward(ConnId, RequestId, Request),
    /// Close a connection, and tell the parent that it is gone. After this no action names it.
    End(ConnId, Option<Why>),
}

/// Why control ended a connection; none where the client did itself.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Why {
    /// Another version.
    #[error("speaks version {0}, this daemon {VERSION}")]
    Version(u32),
    /// No version in time.
    #[error("did not send its version within {GREETING_TIME:?}")]
    Silent,
    /// No message.
    #[error("{0}")]
    Malformed(String),
    /// A message that has no place there.
    #[error("{0}")]
    Misplaced(&'static str),
    /// It does not read.
    #[error("does not read its answers")]
    Slow,
    /// The parent's wish.
    #[error("ended by the parent")]
    Parent,
}

#[derive(Debug)]
enum Client {
    Greeting {
        until: Instant,
    },
    /// Of each request whether it is answered when a VM ends: one a client is (openbsd/daemon.md, 4.1, hardening wish).
    Open {
        requests: BTreeMap<RequestId, bool>,
    },
}

/// All clients.
#[derive(Debug, Default)]
pub struct Clients {
    of: BTreeMap<ConnId, Client>,
    /// Whose they are. Nothing but the number of places depends on it.
    users: BTreeMap<ConnId, u32>,
    next: u64,
    paused_until: Option<Instant>,
}

impl Clients {
    /// One step.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Accepted(uid) => vec![self.accepted(uid, now)],
            Event::AcceptFailed => {
                self.paused_until = Some(now + ACCEPT_PAUSE);
                vec![]
            }
            Event::Said(conn, message) => self.said(conn, message),
            Event::Malformed(conn, error) => self.refuse(conn, Why::Malformed(error)),
            Event::Left(conn) => self.end(conn, None),
            Event::Slow(conn) => self.end(conn, Some(Why::Slow)),
            Event::Answer(conn, id, reply) => self.answer(conn, id, reply),
            Event::Disconnect(conn) => self.end(conn, Some(Why::Parent)),
            Event::Tick => self.tick(now),
        }
    }

    /// Whether new clients are taken from the listening socket.
    pub fn accepts(&self) -> bool {
        self.paused_until.is_none()
    }

    /// Whether a client's next message is read now; else it waits in its socket.
    pub fn reads(&self, conn: ConnId) -> bool {
        match self.of.get(&conn) {
            Some(Client::Greeting { .. }) => true,
            Some(Client::Open { requests }) => requests.len() < MAX_OPEN_REQUESTS,
            None => false,
        }
    }

    /// When `Tick` is due.
    pub fn next_tick(&self) -> Option<Instant> {
        let greetings = self.of.values().filter_map(|client| match client {
            Client::Greeting { until } => Some(*until),
            Client::Open { .. } => None,
        });
        greetings.chain(self.paused_until).min()
    }

    fn accepted(&mut self, uid: u32, now: Instant) -> Action {
        if let Some(text) = self.full(uid) {
            return Action::TurnAway(uid, Failure::new(Code::TooMany, text));
        }
        let conn = ConnId(self.next);
        self.next += 1; // one a nanosecond would last 584 years
        self.of.insert(conn, Client::Greeting { until: now + GREETING_TIME });
        self.users.insert(conn, uid);
        Action::Admit(conn)
    }

    /// Why a user has no place, before anything is done for the connection.
    fn full(&self, uid: u32) -> Option<String> {
        let places = if uid == 0 { MAX_CLIENTS } else { MAX_CLIENTS - ROOTS_PLACES };
        let users = self.users.values();
        let (all, own) = match uid {
            0 => (self.of.len(), 0),
            _ => (users.clone().filter(|user| **user != 0).count(), users.filter(|user| **user == uid).count()),
        };
        if own >= MAX_CONNECTIONS {
            return Some(format!("uid {uid} has {own} connections; one more is refused"));
        }
        let full = all >= places || self.of.len() >= MAX_CLIENTS;
        full.then(|| format!("vmd already serves {places} clients; try again later"))
    }

    fn said(&mut self, conn: ConnId, message: ToControl) -> Vec<Action> {
        match (self.of.get_mut(&conn), message) {
            (None, _) => vec![],
            (Some(client @ Client::Greeting { .. }), ToControl::Hello { version: VERSION }) => {
                *client = Client::Open { requests: BTreeMap::new() };
                vec![Action::Tell(conn, ToClient::hello())]
            }
            (Some(Client::Greeting { .. }), ToControl::Hello { version }) => {
                let refusal = ToClient::WrongVersion { daemon: VERSION, client: version };
                self.end_with(conn, refusal, Why::Version(version))
            }
            (Some(Client::Greeting { .. }), ToControl::Ask { .. }) => {
                self.refuse(conn, Why::Misplaced("sent a request before its version"))
            }
            (Some(Client::Open { .. }), ToControl::Hello { .. }) => {
                self.refuse(conn, Why::Misplaced("sent its version twice"))
            }
            (Some(Client::Open { requests }), ToControl::Ask { id, request }) => {
                let waits = waits(&request);
                if requests.contains_key(&id) {
                    return self.refuse(conn, Why::Misplaced("gave two requests the same number"));
                }
                if waits && requests.values().any(|other| *other) {
                    let text = "this connection already waits for a VM; wait for another on a separate connection";
                    let reply = Reply::Failed(Failure::new(Code::Busy, text));
                    return vec![Action::Tell(conn, ToClient::Answer { id, reply })];
                }
                requests.insert(id, waits);
                vec![Action::Forward(conn, id, request)]
            }
        }
    }

    fn answer(&mut self, conn: ConnId, id: RequestId, reply: Reply) -> Vec<Action> {
        // An answer to a client that left, or to a request that has had its last, goes nowhere.
        let Some(Client::Open { requests }) = self.of.get_mut(&conn) else { return vec![] };
        let Entry::Occupied(request) = requests.entry(id) else { return vec![] };
        if is_last(*request.get(), &reply) {
            request.remove();
        }
        vec![Action::Tell(conn, ToClient::Answer { id, reply })]
    }

    fn tick(&mut self, now: Instant) -> Vec<Action> {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        let late = |client: &Client| matches!(client, Client::Greeting { until } if *until <= now);
        let silent: Vec<ConnId> = self.of.iter().filter(|(_, client)| late(client)).map(|(conn, _)| *conn).collect();
        silent.into_iter().flat_map(|conn| self.refuse(conn, Why::Silent)).collect()
    }

    /// Ends a connection and first tells the client why.
    fn refuse(&mut self, conn: ConnId, why: Why) -> Vec<Action> {
        let failure = Failure::new(Code::Invalid, format!("the daemon ends this connection: {why}"));
        let reply = Reply::Failed(failure);
        self.end_with(conn, ToClient::Answer { id: CONNECTION, reply }, why)
    }

    fn end_with(&mut self, conn: ConnId, last: ToClient, why: Why) -> Vec<Action> {
        let mut actions = self.end(conn, Some(why));
        if !actions.is_empty() {
            actions.insert(0, Action::Tell(conn, last));
        }
        actions
    }

    fn end(&mut self, conn: ConnId, why: Option<Why>) -> Vec<Action> {
        if self.of.remove(&conn).is_none() {
            return vec![];
        }
        self.users.remove(&conn);
        self.paused_until = None; // its descriptor is free now
        vec![Action::End(conn, why)]
    }
}

fn waits(request: &Request) -> bool {
    match request {
        Request::Stop { wait: true, .. }
        | Request::Wait { .. }
        | Request::DiskFail { .. }
        | Request::FlushStop { .. } => true,
        Request::Stop { wait: false, .. }
        | Request::List
        | Request::Detail { .. }
        | Request::Start(_)
        | Request::Order { .. }
        | Request::Memory { .. }
        | Request::Cdrom { .. }
        | Request::Send { .. }
        | Request::Receive { .. }
        | Request::Log { .. }
        | Request::Reload
        | Request::Load { .. }
        | Request::Reset { .. } => false,
    }
}

fn is_last(waits: bool, reply: &Reply) -> bool {
    match reply {
        Reply::Vms(_) | Reply::Unkillable(_) | Reply::Wrong(_) | Reply::Note(_) => false,
        Reply::Accepted { .. } => !waits, // who waits hears of the end
        Reply::Done | Reply::Detail(_) | Reply::Started { .. } | Reply::Ended { .. } | Reply::Failed(_) => true,
    }
}
