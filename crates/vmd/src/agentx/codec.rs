//! What AgentX's packets are made of (RFC 2741, 5): numbers in either order, names, octet strings, ranges and values. Reading
//! checks each length against what is there, and allocates no more than was received.

/// Names of one question: no more than this fit the largest SNMP message, at 7 bytes for the shortest. Each costs some ten
/// times its bytes here, and its answer as much.
pub const MAX_RANGES: usize = 10_000;
/// Sub-identifiers of a name (RFC 2578, 3.5).
pub const MAX_SUBIDS: usize = 128;

/// The beginning that a name's one-byte prefix stands for: iso.org.dod.internet.
const INTERNET: [u32; 4] = [1, 3, 6, 1];

/// A name: its sub-identifiers.
pub type Oid = Vec<u32>;

/// Where a value is looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// From here on.
    pub start: Oid,
    /// A value with this very name counts.
    pub include: bool,
    /// Before this; to the end where it is empty.
    pub end: Oid,
}

/// A value, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Integer(i32),
    /// An octet string.
    Text(String),
    /// A name.
    Oid(Oid),
    /// Nothing of this kind is here.
    NoSuchObject,
    /// This kind is, this one is not.
    NoSuchInstance,
    /// Nothing follows.
    EndOfMibView,
}

/// Why a packet can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Another protocol.
    #[error("version {0} instead of 1")]
    Version(u8),
    /// Longer than a packet may be, or no multiple of four.
    #[error("a payload of {0} bytes")]
    Length(u32),
    /// It ends within what it begins.
    #[error("a packet that ends too early")]
    Short,
    /// Bytes beyond its end.
    #[error("{0} bytes too many")]
    Rest(usize),
    /// A name of more than [`MAX_SUBIDS`].
    #[error("a name of {0} sub-identifiers")]
    Name(usize),
    /// More than [`MAX_RANGES`].
    #[error("more than {MAX_RANGES} names")]
    Ranges,
    /// A type of packet that nobody sends to a subagent.
    #[error("a packet of type {0}")]
    Kind(u8),
    /// A value of no known type.
    #[error("a value of type {0}")]
    Value(u16),
}

/// How numbers lie in a packet; each packet says it for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The least significant byte first.
    Little,
    /// Network byte order.
    Big,
}

impl Order {
    /// The bytes of a number in network byte order as they lie in the packet, or the other way round.
    fn swapped<const N: usize>(self, mut number: [u8; N]) -> [u8; N] {
        if self == Order::Little {
            number.reverse();
        }
        number
    }
}

/// What is left of a payload.
pub struct Reader<'a> {
    /// What was not read yet.
    pub bytes: &'a [u8],
    /// Of its numbers.
    pub order: Order,
}

impl<'a> Reader<'a> {
    /// So many bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(Malformed::Short)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed::Short)
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_ne_bytes)
    }

    /// A number of 16 bits.
    pub fn half(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.order.swapped(self.array()?)))
    }

    /// A number of 32 bits.
    pub fn word(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.order.swapped(self.array()?)))
    }

    /// A length, so many bytes, and what fills the last word.
    pub fn octets(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.word()?).map_err(|_| Malformed::Short)?;
        let octets = self.take(length)?;
        self.take(length.wrapping_neg() % 4)?;
        Ok(octets)
    }

    /// A name, and whether it is meant itself.
    pub fn oid(&mut self) -> Result<(Oid, bool), Malformed> {
        let [count, prefix, include, _] = self.array()?;
        let mut name = if prefix == 0 { Vec::new() } else { [INTERNET.as_slice(), &[prefix.into()]].concat() };
        let length = name.len().saturating_add(usize::from(count));
        if length > MAX_SUBIDS {
            return Err(Malformed::Name(length));
        }
        for _ in 0..count {
            name.push(self.word()?);
        }
        Ok((name, include != 0))
    }

    /// Ranges, to the end.
    pub fn ranges(&mut self) -> Result<Vec<Range>, Malformed> {
        let mut ranges = Vec::new();
        while !self.bytes.is_empty() {
            let ((start, include), (end, _)) = (self.oid()?, self.oid()?);
            if ranges.len() >= MAX_RANGES {
                return Err(Malformed::Ranges);
            }
            ranges.push(Range { start, include, end });
        }
        Ok(ranges)
    }

    /// How many; none of their values is of any use here.
    pub fn bindings(&mut self) -> Result<usize, Malformed> {
        let mut count = 0;
        while !self.bytes.is_empty() {
            let kind = self.half()?;
            self.half()?;
            self.oid()?;
            match kind {
                2 | 65..=67 => drop(self.take(4)?),  // Integer; Counter32, Gauge32, TimeTicks
                4 | 64 | 68 => drop(self.octets()?), // Octet String, IpAddress, Opaque
                5 | 128..=130 => {}                  // Null, and the three exceptions
                6 => drop(self.oid()?),
                70 => drop(self.take(8)?), // Counter64
                other => return Err(Malformed::Value(other)),
            }
            count += 1;
        }
        Ok(count)
    }
}

/// A payload that grows.
pub struct Writer {
    /// What was written.
    pub bytes: Vec<u8>,
    /// Of its numbers.
    pub order: Order,
}

impl Writer {
    /// Nothing was written.
    pub fn new(order: Order) -> Self {
        Self { bytes: Vec::new(), order }
    }

    /// These bytes.
    pub fn bytes<const N: usize>(&mut self, bytes: [u8; N]) {
        self.bytes.extend(bytes);
    }

    /// A number of 16 bits.
    pub fn half(&mut self, number: u16) {
        self.bytes(self.order.swapped(number.to_be_bytes()));
    }

    /// A number of 32 bits.
    pub fn word(&mut self, number: u32) {
        self.bytes(self.order.swapped(number.to_be_bytes()));
    }

    /// What we write is shorter than 4 GiB by far.
    pub fn octets(&mut self, octets: &[u8]) {
        self.word(u32::try_from(octets.len()).unwrap_or(u32::MAX));
        self.bytes.extend(octets);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// A name, without a prefix.
    pub fn oid(&mut self, name: &[u32]) {
        self.bytes([u8::try_from(name.len()).unwrap_or(u8::MAX), 0, 0, 0]);
        name.iter().for_each(|subid| self.word(*subid));
    }

    /// A value with its name.
    pub fn binding(&mut self, name: &[u32], value: &Value) {
        let kind = match value {
            Value::Integer(_) => 2,
            Value::Text(_) => 4,
            Value::Oid(_) => 6,
            Value::NoSuchObject => 128,
            Value::NoSuchInstance => 129,
            Value::EndOfMibView => 130,
        };
        self.half(kind);
        self.half(0);
        self.oid(name);
        match value {
            Value::Integer(number) => self.word(number.cast_unsigned()),
            Value::Text(text) => self.octets(text.as_bytes()),
            Value::Oid(name) => self.oid(name),
            Value::NoSuchObject | Value::NoSuchInstance | Value::EndOfMibView => {}
        }
    }
}
