//! The VM-MIB (RFC 7666): names to values, in their order. Pure.
//!
//! | below 1.3.6.1.2.1.236 | object |
//! |---|---|
//! | 1.1.1.0, 1.1.2.0, 1.1.3.0 | vmHvSoftware, vmHvVersion, vmHvObjectID |
//! | 1.2.0 | vmNumber |
//! | 1.4.1.C.I | column C of vmTable for the VM with number I |

use proto::agentx::Row;
use proto::client::VmState;

use super::codec::{Oid, Range, Value};
use super::pdu::Binding;

/// vmMIB: the region that is registered.
pub const VM_MIB: [u32; 7] = [1, 3, 6, 1, 2, 1, 236];

/// Bytes in vmMemUnit.
const MEMORY_UNIT: u64 = 1 << 20;

/// Where the values of an object come from.
#[derive(Clone, Copy)]
enum Object {
    /// There is one, of the host.
    Scalar(fn(&Mib) -> Value),
    /// A column of vmTable, with one for each VM.
    Column(fn(&Row) -> Value),
}

/// The objects that have values, by their names below vmMIB, in the order of names. vmIndex, column 1, is not accessible.
const OBJECTS: [(&[u32], Object); 18] = [
    (&[1, 1, 1], Object::Scalar(|mib| text(&mib.software))), // vmHvSoftware
    (&[1, 1, 2], Object::Scalar(|mib| text(&mib.version))),  // vmHvVersion
    (&[1, 1, 3], Object::Scalar(|_| Value::Oid(vec![0, 0]))), // vmHvObjectID
    (&[1, 2], Object::Scalar(|mib| number(mib.rows.len()))), // vmNumber
    (&[1, 4, 1, 2], Object::Column(|row| text(row.name.as_str()))), // vmName
    (&[1, 4, 1, 3], Object::Column(|_| text(""))),           // vmUUID
    (&[1, 4, 1, 4], Object::Column(|_| text(""))),           // vmOSType
    (&[1, 4, 1, 5], Object::Column(|row| number(states(row).0))), // vmAdminState
    (&[1, 4, 1, 6], Object::Column(|row| number(states(row).1))), // vmOperState
    (&[1, 4, 1, 7], Object::Column(|row| number(if row.disabled { 3 } else { 2 }))), // vmAutoStart
    (&[1, 4, 1, 8], Object::Column(|_| number(1))),          // vmPersistent
    (&[1, 4, 1, 9], Object::Column(|row| number(row.cpus))), // vmCurCpuNumber
    (&[1, 4, 1, 10], Object::Column(|row| number(row.cpus))), // vmMinCpuNumber
    (&[1, 4, 1, 11], Object::Column(|row| number(row.cpus))), // vmMaxCpuNumber
    (&[1, 4, 1, 12], Object::Column(|_| number(MEMORY_UNIT))), // vmMemUnit
    (&[1, 4, 1, 13], Object::Column(|row| number(row.used.unwrap_or(0) / MEMORY_UNIT))), // vmCurMem
    (&[1, 4, 1, 14], Object::Column(|_| number(-1))),        // vmMinMem: there is no such limit
    (&[1, 4, 1, 15], Object::Column(|row| number(row.memory.bytes() / MEMORY_UNIT))), // vmMaxMem
];

/// This host's values.
#[derive(Debug, Default)]
pub struct Mib {
    software: String,
    version: String,
    /// By number, each once.
    rows: Vec<Row>,
}

impl Mib {
    /// Of a hypervisor called so, and no VM.
    pub fn new(software: &str, version: &str) -> Self {
        Self { software: software.to_owned(), version: version.to_owned(), rows: Vec::new() }
    }

    /// The VMs. Number 0 is not one of them.
    pub fn set(&mut self, mut rows: Vec<Row>) {
        rows.retain(|row| row.vm.0 != 0);
        rows.sort_by_key(|row| row.vm);
        rows.dedup_by_key(|row| row.vm);
        self.rows = rows;
    }

    /// The value of this name.
    pub fn get(&self, name: &[u32]) -> Value {
        let below = name.strip_prefix(&VM_MIB).unwrap_or_default();
        let object = OBJECTS.into_iter().find_map(|(object, of)| Some((of, below.strip_prefix(object)?)));
        match object {
            None => Value::NoSuchObject,
            Some((Object::Column(of), [id])) => {
                let at = self.rows.binary_search_by_key(id, |row| row.vm.0).ok();
                at.and_then(|at| self.rows.get(at)).map_or(Value::NoSuchInstance, of)
            }
            Some((Object::Scalar(of), [0])) => of(self),
            Some(_) => Value::NoSuchInstance,
        }
    }

    /// The first value in a range. A range without one is answered by endOfMibView, under the name that it begins with.
    pub fn next(&self, range: &Range) -> Binding {
        let found = OBJECTS.into_iter().find_map(|(below, of)| self.first_of([&VM_MIB, below].concat(), of, range));
        match found {
            Some((name, value)) if range.end.is_empty() || name < range.end => (name, value),
            Some(_) | None => (range.start.clone(), Value::EndOfMibView),
        }
    }

    /// The first value of the object of this name at or behind the beginning of a range.
    fn first_of(&self, mut name: Oid, object: Object, range: &Range) -> Option<Binding> {
        let least = match range.start.strip_prefix(&*name) {
            Some([]) => 0,
            Some([instance]) if range.include => *instance,
            Some([instance, ..]) => instance.checked_add(1)?,
            None if range.start < name => 0,
            None => return None, // it lies behind all of them
        };
        let (instance, value) = match object {
            Object::Column(of) => {
                let at = self.rows.partition_point(|row| row.vm.0 < least);
                self.rows.get(at).map(|row| (row.vm.0, of(row)))
            }
            Object::Scalar(of) => (least == 0).then(|| (0, of(self))),
        }?;
        name.push(instance);
        Some((name, value))
    }
}

/// vmAdminState and vmOperState: paused, running, or shut down. A VM that was asked to end runs until it has.
fn states(row: &Row) -> (i32, i32) {
    match row.state {
        VmState::Paused => (3, 8),
        VmState::Running | VmState::Pausing | VmState::Stopping => (1, 4),
        VmState::Waiting | VmState::Starting | VmState::Stopped | VmState::NotStartable => (4, 11),
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn number(number: impl TryInto<i32>) -> Value {
    Value::Integer(number.try_into().unwrap_or(i32::MAX))
}

#[cfg(test)]
#[path = "tests/mib.rs"]
mod tests;
