//! What `status --json` prints: `docs/schema/status.json` describes it. Pure.

use config::json::Value;
use proto::client::VmLine;

use crate::table;

/// The VMs in their order.
pub fn vms<'a>(vms: impl Iterator<Item = &'a VmLine>) -> Value {
    Value::Object(vec![("vms", Value::List(vms.map(vm).collect()))])
}

/// A VM without a process has no memory of the host and no console, whatever was last known of them: as in the table.
fn vm(vm: &VmLine) -> Value {
    let running = table::runs(vm);
    let owner = Value::Object(vec![("uid", vm.uid.into()), ("gid", vm.gid.into()), ("name", Value::text(&vm.owner))]);
    Value::Object(vec![
        ("id", vm.id.into()),
        ("name", Value::text(&vm.name)),
        ("state", table::state(vm.state).into()),
        ("pid", vm.pid.filter(|_| running).into()),
        ("cpus", vm.cpus.into()),
        ("memory_bytes", vm.memory.bytes().into()),
        ("resident_bytes", vm.used.filter(|_| running).into()),
        ("tty", vm.tty.as_ref().filter(|_| running).map(Value::text).into()),
        ("owner", owner),
        ("lladdrs", Value::list(vm.macs.iter().map(Value::text))),
    ])
}
