//! From a question of the master to the values that it wants: Get, GetNext and GetBulk over the table. Pure.

use super::codec::{Range, Value};
use super::mib::Mib;
use super::pdu::{Binding, Body};

/// Bytes of an answer to GetBulk, beyond which no further round is added: more fits no SNMP message.
pub const MAX_BULK: usize = 64 * 1024;

/// The values that a question wants, with their names; none for what is no question for values.
pub fn bindings(mib: &Mib, body: &Body) -> Vec<Binding> {
    match body {
        Body::Get(ranges) => ranges.iter().map(|range| (range.start.clone(), mib.get(&range.start))).collect(),
        Body::GetNext(ranges) => ranges.iter().map(|range| mib.next(range)).collect(),
        Body::GetBulk { non_repeaters, max_repetitions, ranges } => {
            let (once, again) = ranges.split_at(usize::from(*non_repeaters).min(ranges.len()));
            let mut bindings: Vec<Binding> = once.iter().map(|range| mib.next(range)).collect();
            repeat(mib, again.to_vec(), *max_repetitions, &mut bindings);
            bindings
        }
        Body::TestSet(_)
        | Body::CommitSet
        | Body::UndoSet
        | Body::CleanupSet
        | Body::Close(_)
        | Body::Ping
        | Body::Response { .. } => Vec::new(),
    }
}

/// Round after round, until nothing follows or the answer is long enough: fewer rounds than asked for are allowed.
fn repeat(mib: &Mib, mut ranges: Vec<Range>, rounds: u16, bindings: &mut Vec<Binding>) {
    let mut size: usize = bindings.iter().map(size_of).sum();
    for _ in 0..rounds {
        let mut more = false;
        for range in &mut ranges {
            let (name, value) = mib.next(range);
            more |= value != Value::EndOfMibView;
            *range = Range { start: name.clone(), include: false, end: std::mem::take(&mut range.end) };
            size = size.saturating_add(size_of(&(name.clone(), value.clone())));
            bindings.push((name, value));
        }
        if !more || size > MAX_BULK {
            break;
        }
    }
}

/// About what a binding takes in an answer.
pub fn size_of((name, value): &Binding) -> usize {
    let value = match value {
        Value::Text(text) => text.len(),
        Value::Oid(name) => name.len().saturating_mul(4),
        Value::Integer(_) | Value::NoSuchObject | Value::NoSuchInstance | Value::EndOfMibView => 4,
    };
    name.len().saturating_mul(4).saturating_add(value).saturating_add(12)
}
