//! A master's packets as bytes, written from RFC 2741 and not by the code under test.

/// In which order a packet's numbers lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Little,
    Big,
}

pub const CONTEXT: u8 = 8;

impl Wire {
    pub fn word(self, number: u32) -> Vec<u8> {
        match self {
            Wire::Little => number.to_le_bytes().to_vec(),
            Wire::Big => number.to_be_bytes().to_vec(),
        }
    }

    pub fn half(self, number: u16) -> Vec<u8> {
        match self {
            Wire::Little => number.to_le_bytes().to_vec(),
            Wire::Big => number.to_be_bytes().to_vec(),
        }
    }

    /// 6.1: the header, session 7, transaction 21, packet 42.
    pub fn packet(self, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        self.packet_of(7, 42, kind, flags, payload)
    }

    pub fn packet_of(self, session: u32, packet: u32, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let order = if self == Wire::Big { 16 } else { 0 };
        let mut bytes = vec![1, kind, flags | order, 0];
        for number in [session, 21, packet, u32::try_from(payload.len()).unwrap()] {
            bytes.extend(self.word(number));
        }
        bytes.extend(payload);
        bytes
    }

    /// 5.1, with a prefix where it can be had.
    pub fn oid(self, name: &[u32], include: bool) -> Vec<u8> {
        let (prefix, rest) = match name {
            [1, 3, 6, 1, prefix @ 1..=255, rest @ ..] => (u8::try_from(*prefix).unwrap(), rest),
            all => (0, all),
        };
        let mut bytes = vec![u8::try_from(rest.len()).unwrap(), prefix, u8::from(include), 0];
        bytes.extend(rest.iter().flat_map(|subid| self.word(*subid)));
        bytes
    }

    /// 5.3.
    pub fn octets(self, octets: &[u8]) -> Vec<u8> {
        let mut bytes = self.word(u32::try_from(octets.len()).unwrap());
        bytes.extend(octets);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// 5.2.
    pub fn range(self, start: &[u32], include: bool, end: &[u32]) -> Vec<u8> {
        [self.oid(start, include), self.oid(end, false)].concat()
    }

    /// 6.2.16, without values.
    pub fn response_to(self, session: u32, packet: u32, error: u16) -> Vec<u8> {
        let payload = [self.word(1234), self.half(error), self.half(0)].concat();
        self.packet_of(session, packet, 18, 0, &payload)
    }

    /// Packets that stand one behind the other, as (type, flags, session, packet, payload).
    pub fn split(self, mut bytes: &[u8]) -> Vec<(u8, u8, u32, u32, Vec<u8>)> {
        let number = |bytes: &[u8]| match self {
            Wire::Little => u32::from_le_bytes(bytes.try_into().unwrap()),
            Wire::Big => u32::from_be_bytes(bytes.try_into().unwrap()),
        };
        let mut packets = Vec::new();
        while !bytes.is_empty() {
            assert_eq!(bytes[0], 1, "version");
            let length = usize::try_from(number(&bytes[16..20])).unwrap();
            let payload = bytes[20..20 + length].to_vec();
            packets.push((bytes[1], bytes[2], number(&bytes[4..8]), number(&bytes[12..16]), payload));
            bytes = &bytes[20 + length..];
        }
        packets
    }
}
