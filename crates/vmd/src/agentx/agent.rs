//! The session with the SNMP master, and its questions. Pure: no clock, no descriptor, no log.
//!
//! ```text
//!   Idle ──Serve──► Waiting ──time──► Asked ──Connected──► Opening ──► Registering ──► Serving
//!                      ▲                │ NotConnected        │             │ ▲ context  │
//!                      └────────────────┴─────────────────────┴─────────────┘ └──────────┤
//!                      └────────── 3 s after: closed, refused, silent, nonsense ◄────────┘
//! ```
//!
//! The edge gives it what the parent says, what the master writes, and the time; it carries the [`Action`]s out and writes
//! [`Agent::output`] to the master. What VMs do is asked of the parent, at most once in [`MAX_AGE`]: so nobody who may ask
//! the master can keep the parent busy.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use log::Level;
use proto::RequestId;
use proto::agentx::{Context, Row};

use super::answers;
use super::codec::Malformed;
use super::mib::{Mib, VM_MIB};
use super::pdu::{Binding, Body, Error, HEADER, Header, Ours, Packet};

/// From a loss to the next try (openbsd/daemon.md, 7).
pub const RETRY: Duration = Duration::from_secs(3);
/// What the master has to answer a packet of ours, and the parent a question.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How often a master that says nothing is asked whether it lives.
pub const PING: Duration = Duration::from_secs(60);
/// What an answer may be older than what it tells.
pub const MAX_AGE: Duration = Duration::from_secs(1);
/// The same warning is not repeated sooner.
pub const TELL_AGAIN: Duration = Duration::from_secs(600);
/// Questions that wait for the parent's answer. A master that asks more is not read until it has come.
const MAX_PENDING: usize = 16;
/// Bytes that the master has not taken yet, beyond which it is not read.
const MAX_OUTPUT: usize = 256 * 1024;
/// Different warnings in that time.
const MAX_TOLD: usize = 8;
/// What the session is called in the master's list.
const NAME: &str = "vmd";

/// What happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// Report VMs, under this context.
    Serve(Option<Context>),
    /// There is a connection.
    Connected,
    /// There is none, and why.
    NotConnected(String),
    /// The master wrote.
    Received(&'a [u8]),
    /// The master took so many bytes of [`Agent::output`].
    Written(usize),
    /// The connection is gone, and why.
    Lost(String),
    /// Some VMs.
    Vms(RequestId, Vec<Row>),
    /// The end of the list.
    VmsEnd(RequestId),
    /// A deadline passed.
    Time,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Ask the parent for a connection; answered by `Connected` or `NotConnected`.
    Connect,
    /// Ask the parent for the VMs; answered by `Vms` and `VmsEnd`.
    List(RequestId),
    /// Close the connection, after one try to write what is left.
    Hangup,
    /// Tell the log.
    Log(Level, String),
}

/// Where the session stands.
#[derive(Clone, Debug, Default, PartialEq)]
enum State {
    #[default]
    Idle,
    Waiting(Instant),
    Asked(Instant),
    Opening {
        packet: u32,
        until: Instant,
    },
    Registering {
        session: u32,
        context: Option<Context>,
        packet: u32,
        until: Instant,
    },
    Serving {
        session: u32,
        context: Option<Context>,
        ping: Ping,
    },
}

/// Whether a master that says nothing lives.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ping {
    At(Instant),
    Sent { packet: u32, until: Instant },
}

/// VMs that the parent is telling of.
#[derive(Debug)]
struct Listing {
    request: RequestId,
    rows: Vec<Row>,
    until: Instant,
}

/// A question of the master that waits for the VMs.
#[derive(Debug)]
struct Question {
    header: Header,
    body: Body,
}

/// agentx.
#[derive(Debug, Default)]
pub struct Agent {
    mib: Mib,
    wanted: Option<Context>,
    state: State,
    packets: u32,
    requests: u32,
    input: Vec<u8>,
    output: Vec<u8>,
    questions: VecDeque<Question>,
    listing: Option<Listing>,
    /// When the VMs that are known are too old.
    stale: Option<Instant>,
    /// Warnings, and when.
    told: BTreeMap<String, Instant>,
    /// The log knows that VMs are reported.
    said: bool,
}

impl Agent {
    /// Of a hypervisor called so.
    pub fn new(software: &str, version: &str) -> Self {
        Self { mib: Mib::new(software, version), ..Self::default() }
    }

    /// What is to be done now that this happened.
    pub fn handle(&mut self, event: Event<'_>, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let out = &mut actions;
        match event {
            Event::Serve(context) => self.serve(context, now, out),
            Event::Connected => self.connected(now),
            Event::NotConnected(why) => self.not_connected(why, now, out),
            Event::Received(bytes) => {
                self.input.extend(bytes);
                self.read(now, out);
            }
            Event::Written(count) => {
                self.output.drain(..count.min(self.output.len()));
                self.read(now, out);
            }
            Event::Lost(why) => self.lose(&why, now, out),
            Event::Vms(request, rows) => self.vms(request, rows),
            Event::VmsEnd(request) => self.vms_end(request, now, out),
            Event::Time => self.time(now, out),
        }
        actions
    }

    /// When [`Event::Time`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        let state = match self.state {
            State::Idle => None,
            State::Waiting(at) | State::Asked(at) | State::Serving { ping: Ping::At(at), .. } => Some(at),
            State::Opening { until, .. }
            | State::Registering { until, .. }
            | State::Serving { ping: Ping::Sent { until, .. }, .. } => Some(until),
        };
        state.into_iter().chain(self.listing.as_ref().map(|listing| listing.until)).min()
    }

    /// What the master is to get.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// Whether the master may be read: not while it does not take what it asked for.
    pub fn reads(&self) -> bool {
        self.questions.len() < MAX_PENDING && self.output.len() < MAX_OUTPUT
    }

    /// Ends the session, for good: what is left to be written.
    pub fn close(mut self) -> Vec<u8> {
        self.take_leave();
        self.output
    }

    fn serve(&mut self, context: Option<Context>, now: Instant, out: &mut Vec<Action>) {
        self.wanted = context;
        match self.state {
            State::Idle => self.ask(now, out),
            State::Serving { .. } => self.adapt(now),
            // The answer to a register brings it about.
            State::Waiting(_) | State::Asked(_) | State::Opening { .. } | State::Registering { .. } => {}
        }
    }

    fn ask(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.state = State::Asked(now + ANSWER_LIMIT);
        out.push(Action::Connect);
    }

    fn connected(&mut self, now: Instant) {
        self.input.clear();
        self.output.clear();
        let packet = self.number();
        self.output.extend(Ours { session: 0, packet }.open(NAME));
        self.state = State::Opening { packet, until: now + ANSWER_LIMIT };
    }

    fn not_connected(&mut self, why: String, now: Instant, out: &mut Vec<Action>) {
        self.state = State::Waiting(now + RETRY);
        self.warn(why, now, out);
    }

    /// The session is over; another is tried in a while.
    fn lose(&mut self, why: &str, now: Instant, out: &mut Vec<Action>) {
        self.take_leave();
        self.state = State::Waiting(now + RETRY);
        self.input.clear();
        self.questions.clear();
        out.push(Action::Hangup);
        self.warn(format!("the SNMP master {why}"), now, out);
    }

    fn warn(&mut self, why: String, now: Instant, out: &mut Vec<Action>) {
        self.told.retain(|_, at| now.saturating_duration_since(*at) < TELL_AGAIN);
        if self.told.contains_key(&why) || self.told.len() >= MAX_TOLD {
            return out.push(Action::Log(Level::Debug, why));
        }
        let retry = RETRY.as_secs();
        out.push(Action::Log(Level::Warn, format!("{why}; VMs are not reported; trying again every {retry} s")));
        self.told.insert(why, now);
        self.said = false;
    }

    /// Says the end of a session that there is. What was written before goes first.
    fn take_leave(&mut self) {
        if let State::Registering { session, .. } | State::Serving { session, .. } = self.state {
            let packet = self.number();
            self.output.extend(Ours { session, packet }.close());
        }
    }

    fn number(&mut self) -> u32 {
        self.packets = self.packets.wrapping_add(1);
        self.packets
    }

    fn register(&mut self, session: u32, now: Instant) {
        let packet = self.number();
        self.output.extend(Ours { session, packet }.register(self.wanted.as_deref(), &VM_MIB));
        self.state = State::Registering { session, context: self.wanted.clone(), packet, until: now + ANSWER_LIMIT };
    }

    /// Goes over to another context, in the same session.
    fn adapt(&mut self, now: Instant) {
        let State::Serving { session, context, .. } = &self.state else { return };
        if *context != self.wanted {
            let (session, old) = (*session, context.clone());
            let packet = self.number();
            self.output.extend(Ours { session, packet }.unregister(old.as_deref(), &VM_MIB));
            self.register(session, now);
        }
    }

    /// As many packets as are whole, and may be read.
    fn read(&mut self, now: Instant, out: &mut Vec<Action>) {
        let mut at = 0;
        while self.reads() && self.is_connected() {
            let rest = self.input.get(at..).unwrap_or_default();
            let header = match Header::read(rest) {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(error) => return self.lose(&format!("sent nonsense ({error})"), now, out),
            };
            let end = HEADER.saturating_add(header.payload);
            let Some(payload) = rest.get(HEADER..end) else { break };
            let body = header.body(payload);
            at = at.saturating_add(end);
            self.packet(header, body, now, out);
        }
        self.input.drain(..at.min(self.input.len()));
    }

    fn is_connected(&self) -> bool {
        match self.state {
            State::Idle | State::Waiting(_) | State::Asked(_) => false,
            State::Opening { .. } | State::Registering { .. } | State::Serving { .. } => true,
        }
    }

    fn packet(&mut self, header: Header, body: Result<Packet, Malformed>, now: Instant, out: &mut Vec<Action>) {
        match body {
            Ok(Packet { body: Body::Response { error }, .. }) => self.response(header, error, now, out),
            Err(error) if header.is_response() => {
                self.lose(&format!("sent a malformed answer ({error})"), now, out);
            }
            Err(error) => {
                out.push(Action::Log(Level::Debug, format!("a malformed question of the master: {error}")));
                self.answer(&header, Error::Parse, 0, &[]);
            }
            Ok(packet) => self.question(header, packet, now, out),
        }
    }

    fn response(&mut self, header: Header, error: u16, now: Instant, out: &mut Vec<Action>) {
        let (awaited, refused) = match self.state {
            State::Opening { packet, .. } => (Some(packet), "refused a session"),
            State::Registering { packet, .. } => (Some(packet), "refused the VM-MIB"),
            State::Serving { ping: Ping::Sent { packet, .. }, .. } => (Some(packet), "no longer knows the session"),
            State::Idle | State::Waiting(_) | State::Asked(_) | State::Serving { .. } => (None, ""),
        };
        if awaited != Some(header.packet) {
            return out.push(Action::Log(Level::Debug, format!("an answer to packet {}: {error}", header.packet)));
        }
        if error != 0 {
            return self.lose(&format!("{refused} ({})", word(error)), now, out);
        }
        let (State::Registering { session, context, .. } | State::Serving { session, context, .. }) = &self.state
        else {
            return self.register(header.session, now);
        };
        self.state = State::Serving { session: *session, context: context.clone(), ping: Ping::At(now + PING) };
        if !std::mem::replace(&mut self.said, true) {
            out.push(Action::Log(Level::Info, "VMs are reported to the SNMP master".to_owned()));
        }
        self.adapt(now);
    }

    fn question(&mut self, header: Header, packet: Packet, now: Instant, out: &mut Vec<Action>) {
        let (session, context) = match &self.state {
            State::Registering { session, context, .. } | State::Serving { session, context, .. } => {
                (*session, context.as_deref().map(str::as_bytes))
            }
            State::Idle | State::Waiting(_) | State::Asked(_) | State::Opening { .. } => {
                return self.answer(&header, Error::NotOpen, 0, &[]);
            }
        };
        if session != header.session {
            return self.answer(&header, Error::NotOpen, 0, &[]);
        }
        let ours = packet.context.as_deref() == context;
        match packet.body {
            Body::Close(reason) => self.closed(reason, now, out),
            Body::Ping => self.answer(&header, Error::None, 0, &[]),
            Body::CleanupSet => {}
            // Nothing was set.
            Body::UndoSet => self.answer(&header, Error::None, 0, &[]),
            Body::CommitSet => self.answer(&header, Error::CommitFailed, 0, &[]),
            Body::Get(_) | Body::GetNext(_) | Body::GetBulk { .. } | Body::TestSet(_) if !ours => {
                self.answer(&header, Error::UnsupportedContext, 0, &[]);
            }
            Body::TestSet(0) => self.answer(&header, Error::None, 0, &[]),
            Body::TestSet(_) => self.answer(&header, Error::NotWritable, 1, &[]),
            body @ (Body::Get(_) | Body::GetNext(_) | Body::GetBulk { .. }) => {
                self.questions.push_back(Question { header, body });
                self.answer_or_list(now, out);
            }
            Body::Response { .. } => {} // was looked at before
        }
    }

    /// The master says that the session is over.
    fn closed(&mut self, reason: u8, now: Instant, out: &mut Vec<Action>) {
        self.state = State::Waiting(now); // so that it is not told of its own end
        self.lose(&format!("closed the session (reason {reason})"), now, out);
    }

    fn answer(&mut self, header: &Header, error: Error, index: u16, bindings: &[Binding]) {
        self.output.extend(header.response(error, index, bindings));
    }

    fn answer_or_list(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.stale.is_some_and(|stale| now < stale) {
            return self.answer_all();
        }
        if self.listing.is_none() {
            self.requests = self.requests.wrapping_add(1);
            let request = RequestId(self.requests);
            self.listing = Some(Listing { request, rows: Vec::new(), until: now + ANSWER_LIMIT });
            out.push(Action::List(request));
        }
    }

    fn answer_all(&mut self) {
        for Question { header, body } in std::mem::take(&mut self.questions) {
            let bindings = answers::bindings(&self.mib, &body);
            self.answer(&header, Error::None, 0, &bindings);
        }
    }

    fn vms(&mut self, request: RequestId, rows: Vec<Row>) {
        if let Some(listing) = self.listing.as_mut().filter(|listing| listing.request == request) {
            listing.rows.extend(rows);
        }
    }

    fn vms_end(&mut self, request: RequestId, now: Instant, out: &mut Vec<Action>) {
        if let Some(listing) = self.listing.take_if(|listing| listing.request == request) {
            self.mib.set(listing.rows);
            self.stale = Some(now + MAX_AGE);
            self.answer_all();
            self.read(now, out);
        }
    }

    fn time(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.listing.take_if(|listing| listing.until <= now).is_some() {
            out.push(Action::Log(Level::Error, "the parent did not answer with the list of VMs".to_owned()));
            for Question { header, .. } in std::mem::take(&mut self.questions) {
                self.answer(&header, Error::General, 0, &[]);
            }
            self.read(now, out);
        }
        match self.state.clone() {
            // The parent's answer to the last one got lost.
            State::Waiting(at) | State::Asked(at) if at <= now => self.ask(now, out),
            State::Opening { until, .. }
            | State::Registering { until, .. }
            | State::Serving { ping: Ping::Sent { until, .. }, .. }
                if until <= now =>
            {
                self.lose(&format!("did not answer within {} s", ANSWER_LIMIT.as_secs()), now, out);
            }
            State::Serving { session, context, ping: Ping::At(at) } if at <= now => {
                let packet = self.number();
                self.output.extend(Ours { session, packet }.ping());
                self.state =
                    State::Serving { session, context, ping: Ping::Sent { packet, until: now + ANSWER_LIMIT } };
            }
            State::Idle
            | State::Waiting(_)
            | State::Asked(_)
            | State::Opening { .. }
            | State::Registering { .. }
            | State::Serving { .. } => {}
        }
    }
}

/// What RFC 2741, 6.2.16, calls an error.
fn word(error: u16) -> String {
    let word = match error {
        256 => "openFailed",
        257 => "notOpen",
        262 => "unsupportedContext",
        263 => "duplicateRegistration: does another vmd report to it?",
        264 => "unknownRegistration",
        266 => "parseError",
        267 => "requestDenied",
        268 => "processingError",
        other => return format!("error {other}"),
    };
    word.to_owned()
}

#[cfg(test)]
#[path = "tests/agent.rs"]
mod tests;
