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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Open = 1,
    Close = 2,
    Register = 3,
    Unregister = 4,
    Get = 5,
    GetNext = 6,
    GetBulk = 7,
    TestSet = 8,
    CommitSet = 9,
    UndoSet = 10,
    CleanupSet = 11,
    Ping = 13,
    Response = 18,
}

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
            kind if kind == Kind::Close as u8 => {
                let reason = reader.byte()?;
                reader.take(3)?;
                Body::Close(reason)
            }
            kind if kind == Kind::Get as u8 => Body::Get(reader.ranges()?),
            kind if kind == Kind::GetNext as u8 => Body::GetNext(reader.ranges()?),
            kind if kind == Kind::GetBulk as u8 => Body::GetBulk {
                non_repeaters: reader.half()?,
                max_repetitions: reader.half()?,
                ranges: reader.ranges()?,
            },
            kind if kind == Kind::TestSet as u8 => Body::TestSet(reader.bindings()?),
            kind if kind == Kind::CommitSet as u8 => Body::CommitSet,
            kind if kind == Kind::UndoSet as u8 => Body::UndoSet,
            kind if kind == Kind::CleanupSet as u8 => Body::CleanupSet,
            kind if kind == Kind::Ping as u8 => Body::Ping,
            kind if kind == Kind::Response as u8 => {
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
        self.kind == Kind::Response as u8
    }

    /// The answer to it, in its own byte order. The index of an error counts bindings from 1.
    pub fn response(&self, error: Error, index: u16, bindings: &[Binding]) -> Vec<u8> {
        let mut writer = Writer { bytes: Vec::new(), order: self.order };
        writer.word(0); // sysUpTime: the master knows its own
        writer.half(error as u16);
        writer.half(index);
        for (name, value) in bindings {
            writer.binding(name, value);
        }
        packet(writer, Kind::Response, false, *self)
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
        let mut writer = Writer::ours();
        writer.bytes([0; 4]); // the master's own timeout
        writer.oid(&[]);
        writer.octets(name.as_bytes());
        self.packet(writer, Kind::Open, false)
    }

    /// Ends it.
    pub fn close(self) -> Vec<u8> {
        let mut writer = Writer::ours();
        writer.bytes([REASON_SHUTDOWN, 0, 0, 0]);
        self.packet(writer, Kind::Close, false)
    }

    /// Takes all names that begin so.
    pub fn register(self, context: Option<&str>, region: &[u32]) -> Vec<u8> {
        self.region(Kind::Register, context, region)
    }

    /// Gives them back.
    pub fn unregister(self, context: Option<&str>, region: &[u32]) -> Vec<u8> {
        self.region(Kind::Unregister, context, region)
    }

    /// Asks whether the master lives.
    pub fn ping(self) -> Vec<u8> {
        self.packet(Writer::ours(), Kind::Ping, false)
    }

    fn region(self, kind: Kind, context: Option<&str>, region: &[u32]) -> Vec<u8> {
        let mut writer = Writer::ours();
        if let Some(context) = context {
            writer.octets(context.as_bytes());
        }
        writer.bytes([0, DEFAULT_PRIORITY, 0, 0]); // the session's timeout; no range of sub-identifiers
        writer.oid(region);
        self.packet(writer, kind, context.is_some())
    }

    fn packet(self, writer: Writer, kind: Kind, context: bool) -> Vec<u8> {
        let header = Header {
            kind: kind as u8,
            context,
            order: writer.order,
            session: self.session,
            transaction: 0,
            packet: self.packet,
            payload: 0,
        };
        packet(writer, kind, context, header)
    }
}

/// reasonShutdown (RFC 2741, 6.2.2).
const REASON_SHUTDOWN: u8 = 5;
/// RFC 2741, 6.2.3.
const DEFAULT_PRIORITY: u8 = 127;

/// The packet with its header: the numbers of `of`, a type of its own.
fn packet(writer: Writer, kind: Kind, context: bool, of: Header) -> Vec<u8> {
    let order = if writer.order == Order::Big { NETWORK_BYTE_ORDER } else { 0 };
    let flags = order | if context { NON_DEFAULT_CONTEXT } else { 0 };
    let mut whole = Writer { bytes: vec![VERSION, kind as u8, flags, 0], order: writer.order };
    let length = u32::try_from(writer.bytes.len()).unwrap_or(u32::MAX);
    [of.session, of.transaction, of.packet, length].into_iter().for_each(|number| whole.word(number));
    whole.bytes.extend(writer.bytes);
    whole.bytes
}

#[cfg(test)]
#[path = "tests/pdu.rs"]
mod tests;
