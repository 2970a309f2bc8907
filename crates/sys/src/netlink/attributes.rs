//! The attributes of netlink messages, written and read: kind and length in front of each, padded to four bytes (netlink(7)).

use netlink_packet_core::Emitable;

use super::NetlinkError;

/// Set in the kind of an attribute that holds attributes (linux/netlink.h, NLA_F_NESTED).
const NESTED: u16 = 1 << 15;

/// Attributes one behind the other.
#[derive(Debug, Default)]
pub(super) struct Out(pub(super) Vec<u8>);

impl Out {
    pub(super) fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(super) fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Out)) {
        let mut out = Out::default();
        inside(&mut out);
        self.put(kind | NESTED, &out.0);
    }
}

/// A body that is bytes already: the fixed part of a message, and its attributes.
impl Emitable for Out {
    fn buffer_len(&self) -> usize {
        self.0.len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        if let Some(place) = buffer.get_mut(..self.0.len()) {
            place.copy_from_slice(&self.0);
        }
    }
}

/// A string with its NUL.
pub(super) fn text(string: &str) -> Vec<u8> {
    [string.as_bytes(), &[0]].concat()
}

/// Attributes (kind, value) that borrow from the bytes, which netlink-packet-core's iterator does not let out.
pub(super) fn plain(mut bytes: &[u8]) -> Result<Vec<(u16, &[u8])>, NetlinkError> {
    let mut found = Vec::new();
    while let Some((&[l0, l1, k0, k1], _)) = bytes.split_first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(4..length).ok_or(NetlinkError::Malformed)?;
        found.push((u16::from_ne_bytes([k0, k1]) & !NESTED, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    if bytes.is_empty() { Ok(found) } else { Err(NetlinkError::Malformed) }
}

/// The value of the first attribute of a kind.
pub(super) fn find(attributes: &[u8], kind: u16) -> Result<Option<&[u8]>, NetlinkError> {
    Ok(plain(attributes)?.into_iter().find(|(found, _)| *found == kind).map(|(_, value)| value))
}

/// A string up to its NUL. Names and aliases may hold any bytes; what is no UTF-8 can't be one of ours.
pub(super) fn string(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}
