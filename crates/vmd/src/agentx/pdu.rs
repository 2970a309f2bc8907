//! AgentX's packets (RFC 2741, 6): what a master sends, every length checked before it is believed, and what we send.
//!
//! Pure. A master is no part of the daemon: what it sends is as foreign as a client's bytes. `codec.rs` has the numbers, names
//! and lists that all packets are made of.

use super::codec::{Malformed, Oid, Order, Range, Reader, Value, Writer};

/// Bytes of every packet's header.
pub const HEADER: usize = 20;
/// Bytes of a packet's payload: the largest SNMP message, 64 KiB of the shortest names that are ours, comes to about 250 KiB
/// here. A master that announces more is given up.
pub const MAX_PAYLOAD: usize = 512 * 1024;

const VERSION: u8 = 1;
const NON_DEFAULT_CONTEXT: u8 = 1 << 3;
const NETWORK_BYTE_ORDER: u8 = 1 << 4;

/// Types of packets (RFC 2741, 6.1).
const OPEN: u8 = 1;
const CLOSE: u8 = 2;
const REGISTER: u8 = 3;
const UNREGISTER: u8 = 4;
const GET: u8 = 5;
const GET_NEXT: u8 = 6;
const GET_BULK: u8 = 7;
const TEST_SET: u8 = 8;
const COMMIT_SET: u8 = 9;
const UNDO_SET: u8 = 10;
const CLEANUP_SET: u8 = 11;
const PING: u8 = 13;
const RESPONSE: u8 = 18;

/// What a response says of its request (RFC 2741, 6.2.16; RFC 3416, 3, for those below 256).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Error {
    /// Done.
    None = 0,
    /// It could not be answered.
    General = 5,
    /// Nothing was tested that could be committed.
    CommitFailed = 14,
    /// Nothing here can be set.
    NotWritable = 17,
    /// Not a session of ours.
    NotOpen = 257,
    /// Not the context that we serve.
    UnsupportedContext = 262,
    /// The packet is malformed.
    Parse = 266,
}

/// The beginning of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    kind: u8,
    context: bool,
    order: Order,
    /// Whose session.
    pub session: u32,
    /// The SNMP request that it belongs to.
    pub transaction: u32,
    /// Joins a response to its request.
    pub packet: u32,
    /// Bytes that follow.
    pub payload: usize,
}

/// What a packet to us says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Under which context, where it is not the default one.
    pub context: Option<Vec<u8>>,
    /// The rest.
    pub body: Body,
}

/// What is wanted, or answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The master ends the session, for a reason (RFC 2741, 6.2.2).
    Close(u8),
    /// These values.
    Get(Vec<Range>),
    /// The value after each.
    GetNext(Vec<Range>),
    /// Several after each.
    GetBulk {
        /// Of these first ranges only one.
        non_repeaters: u16,
        /// Of the others so many.
        max_repetitions: u16,
        /// From where.
        ranges: Vec<Range>,
    },
    /// May so many values be set?
    TestSet(usize),
    /// Set them.
    CommitSet,
    /// As they were.
    UndoSet,
    /// The end of a set; not answered.
    CleanupSet,
    /// Are you there?
    Ping,
    /// What became of a packet of ours.
    Response {
        /// 0: done.
        error: u16,
    },
}

/// A value with its name.
pub type Binding = (Oid, Value);

impl Header {
    /// The header at the beginning of `bytes`; none yet, where there are fewer than it has.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some((header, _)) = bytes.split_at_checked(HEADER) else { return Ok(None) };
        let flags = header.get(2).copied().unwrap_or_default();
        let order = if flags & NETWORK_BYTE_ORDER == 0 { Order::Little } else { Order::Big };
        let mut reader = Reader { bytes: header, order };
        let (version, kind, _) = (reader.byte()?, reader.byte()?, reader.half()?);
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        let (session, transaction, packet) = (reader.word()?, reader.word()?, reader.word()?);
        let length = reader.word()?;
        let payload = usize::try_from(length).ok().filter(|length| *length <= MAX_PAYLOAD && length % 4 == 0);
        let payload = payload.ok_or(Malformed::Length(length))?;
        Ok(Some(Self { kind, context: flags & NON_DEFAULT_CONTEXT != 0, order, session, transaction, packet, payload }))
    }

    /// What its payload says.
    pub fn body(&self, payload: &[u8]) -> Result<Packet, Malformed> {
        let mut reader = Reader { bytes: payload, order: self.order };
        let context = if self.context { Some(reader.octets()?.to_vec()) } else { None };
        let body = match self.kind {
            CLOSE => {
                let reason = reader.byte()?;
                reader.take(3)?;
                Body::Close(reason)
            }
            GET => Body::Get(reader.ranges()?),
            GET_NEXT => Body::GetNext(reader.ranges()?),
            GET_BULK => Body::GetBulk {
                non_repeaters: reader.half()?,
                max_repetitions: reader.half()?,
                ranges: reader.ranges()?,
            },
            TEST_SET => Body::TestSet(reader.bindings()?),
            COMMIT_SET => Body::CommitSet,
            UNDO_SET => Body::UndoSet,
            CLEANUP_SET => Body::CleanupSet,
            PING => Body::Ping,
            RESPONSE => {
                let (_up_time, error, _index) = (reader.word()?, reader.half()?, reader.half()?);
                reader.bindings()?;
                Body::Response { error }
            }
            other => return Err(Malformed::Kind(other)),
        };
        if !reader.bytes.is_empty() {
            return Err(Malformed::Rest(reader.bytes.len()));
        }
        Ok(Packet { context, body })
    }

    /// Whether it answers a packet of ours. Such a one is itself never answered.
    pub fn is_response(&self) -> bool {
        self.kind == RESPONSE
    }

    /// The answer to it, in its own byte order. The index of an error counts bindings from 1.
    pub fn response(&self, error: Error, index: u16, bindings: &[Binding]) -> Vec<u8> {
        let mut writer = Writer::new(self.order);
        writer.word(0); // sysUpTime: the master knows its own
        writer.half(error as u16);
        writer.half(index);
        for (name, value) in bindings {
            writer.binding(name, value);
        }
        Self { kind: RESPONSE, context: false, ..*self }.packet(&writer.bytes)
    }

    /// The packet with this payload.
    fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let order = if self.order == Order::Big { NETWORK_BYTE_ORDER } else { 0 };
        let flags = order | if self.context { NON_DEFAULT_CONTEXT } else { 0 };
        let mut whole = Writer { bytes: vec![VERSION, self.kind, flags, 0], order: self.order };
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        [self.session, self.transaction, self.packet, length].into_iter().for_each(|number| whole.word(number));
        whole.bytes.extend(payload);
        whole.bytes
    }
}

/// A packet of ours: its session, 0 before there is one, and its own number.
#[derive(Clone, Copy, Debug)]
pub struct Ours {
    /// The session.
    pub session: u32,
    /// The number.
    pub packet: u32,
}

impl Ours {
    /// Begins a session, which the master lists by this name.
    pub fn open(self, name: &str) -> Vec<u8> {
        let mut writer = Writer::new(Order::Big);
        writer.bytes([0; 4]); // the master's own timeout
        writer.oid(&[]);
        writer.octets(name.as_bytes());
        self.packet(OPEN, false, &writer.bytes)
    }

    /// Ends it.
    pub fn close(self) -> Vec<u8> {
        self.packet(CLOSE, false, &[REASON_SHUTDOWN, 0, 0, 0])
    }

    /// Takes all names that begin so.
    pub fn register(self, context: Option<&str>, region: &[u32]) -> Vec<u8> {
        self.region(REGISTER, context, region)
    }

    /// Gives them back.
    pub fn unregister(self, context: Option<&str>, region: &[u32]) -> Vec<u8> {
        self.region(UNREGISTER, context, region)
    }

    /// Asks whether the master lives.
    pub fn ping(self) -> Vec<u8> {
        self.packet(PING, false, &[])
    }

    fn region(self, kind: u8, context: Option<&str>, region: &[u32]) -> Vec<u8> {
        let mut writer = Writer::new(Order::Big);
        if let Some(context) = context {
            writer.octets(context.as_bytes());
        }
        writer.bytes([0, DEFAULT_PRIORITY, 0, 0]); // the session's timeout; no range of sub-identifiers
        writer.oid(region);
        self.packet(kind, context.is_some(), &writer.bytes)
    }

    fn packet(self, kind: u8, context: bool, payload: &[u8]) -> Vec<u8> {
        let Self { session, packet } = self;
        Header { kind, context, order: Order::Big, session, transaction: 0, packet, payload: 0 }.packet(payload)
    }
}

/// reasonShutdown (RFC 2741, 6.2.2).
const REASON_SHUTDOWN: u8 = 5;
/// RFC 2741, 6.2.3.
const DEFAULT_PRIORITY: u8 = 127;

#[cfg(test)]
#[path = "tests/pdu.rs"]
mod tests;
