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

/// An object that has values, in the order of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Object {
    HvSoftware,
    HvVersion,
    HvObjectId,
    Number,
    Column(Column),
}

/// A column of vmTable that has values; vmIndex (1) is not accessible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Column {
    Name = 2,
    Uuid,
    OsType,
    AdminState,
    OperState,
    AutoStart,
    Persistent,
    CurCpuNumber,
    MinCpuNumber,
    MaxCpuNumber,
    MemUnit,
    CurMem,
    MinMem,
    MaxMem,
}

const OBJECTS: [Object; 18] = [
    Object::HvSoftware,
    Object::HvVersion,
    Object::HvObjectId,
    Object::Number,
    Object::Column(Column::Name),
    Object::Column(Column::Uuid),
    Object::Column(Column::OsType),
    Object::Column(Column::AdminState),
    Object::Column(Column::OperState),
    Object::Column(Column::AutoStart),
    Object::Column(Column::Persistent),
    Object::Column(Column::CurCpuNumber),
    Object::Column(Column::MinCpuNumber),
    Object::Column(Column::MaxCpuNumber),
    Object::Column(Column::MemUnit),
    Object::Column(Column::CurMem),
    Object::Column(Column::MinMem),
    Object::Column(Column::MaxMem),
];

/// This host's values.
#[derive(Debug)]
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
        let object = OBJECTS.into_iter().find_map(|object| Some((object, name.strip_prefix(&*object.name())?)));
        match object {
            None => Value::NoSuchObject,
            Some((Object::Column(column), [id])) => match self.rows.binary_search_by_key(id, |row| row.vm.0) {
                Ok(at) => self.rows.get(at).map_or(Value::NoSuchInstance, |row| column.of(row)),
                Err(_) => Value::NoSuchInstance,
            },
            Some((object, [0])) => self.scalar(object),
            Some(_) => Value::NoSuchInstance,
        }
    }

    /// The first value in a range. If there is none, the answer says so, under the name that the range begins with.
    pub fn next(&self, range: &Range) -> Binding {
        let found = OBJECTS.into_iter().find_map(|object| self.first_of(object, range));
        match found {
            Some((name, value)) if range.end.is_empty() || name < range.end => (name, value),
            Some(_) | None => (range.start.clone(), Value::EndOfMibView),
        }
    }

    /// The first value of an object at or behind the beginning of a range.
    fn first_of(&self, object: Object, range: &Range) -> Option<Binding> {
        let name = object.name();
        let least = match range.start.strip_prefix(&*name) {
            Some([]) => 0,
            Some([instance]) if range.include => *instance,
            Some([instance, ..]) => instance.checked_add(1)?,
            None if range.start < name => 0,
            None => return None, // it lies behind all of them
        };
        let (instance, value) = match object {
            Object::Column(column) => {
                let at = self.rows.partition_point(|row| row.vm.0 < least);
                self.rows.get(at).map(|row| (row.vm.0, column.of(row)))
            }
            scalar @ (Object::HvSoftware | Object::HvVersion | Object::HvObjectId | Object::Number) => {
                (least == 0).then(|| (0, self.scalar(scalar)))
            }
        }?;
        Some(([name, vec![instance]].concat(), value))
    }

    fn scalar(&self, object: Object) -> Value {
        match object {
            Object::HvSoftware => Value::Text(self.software.clone()),
            Object::HvVersion => Value::Text(self.version.clone()),
            Object::HvObjectId => Value::Oid(vec![0, 0]),
            Object::Number => number(self.rows.len()),
            Object::Column(_) => Value::NoSuchInstance,
        }
    }
}

impl Object {
    /// Its name, without an instance.
    fn name(self) -> Oid {
        let below: &[u32] = match self {
            Object::HvSoftware => &[1, 1, 1],
            Object::HvVersion => &[1, 1, 2],
            Object::HvObjectId => &[1, 1, 3],
            Object::Number => &[1, 2],
            Object::Column(column) => &[1, 4, 1, column as u32],
        };
        [&VM_MIB, below].concat()
    }
}

impl Column {
    fn of(self, row: &Row) -> Value {
        match self {
            Column::Name => Value::Text(row.name.as_str().to_owned()),
            Column::Uuid | Column::OsType => Value::Text(String::new()),
            Column::AdminState => Value::Integer(states(row.state).0),
            Column::OperState => Value::Integer(states(row.state).1),
            Column::AutoStart => Value::Integer(if row.disabled { 3 } else { 2 }),
            Column::Persistent => Value::Integer(1),
            Column::CurCpuNumber | Column::MinCpuNumber | Column::MaxCpuNumber => Value::Integer(row.cpus.into()),
            Column::MemUnit => number(MEMORY_UNIT),
            Column::CurMem => number(row.used.unwrap_or(0) / MEMORY_UNIT),
            Column::MinMem => Value::Integer(-1), // there is no such limit
            Column::MaxMem => number(row.memory.bytes() / MEMORY_UNIT),
        }
    }
}

/// vmAdminState and vmOperState: paused, running, or shut down. A VM that was asked to end runs until it has.
fn states(state: VmState) -> (i32, i32) {
    match state {
        VmState::Paused => (3, 8),
        VmState::Running | VmState::Stopping => (1, 4),
        VmState::Waiting | VmState::Starting | VmState::Stopped => (4, 11),
    }
}

fn number(number: impl TryInto<i32>) -> Value {
    Value::Integer(number.try_into().unwrap_or(i32::MAX))
}

#[cfg(test)]
#[path = "tests/mib.rs"]
mod tests;
