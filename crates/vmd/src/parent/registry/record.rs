//! What the log says of requests: who asked for what, and why it was refused if it was.

use config::size;
use model::VmName;
use proto::Failure;
use proto::client::{Order, Request, VmRef};

use super::access::Who;
use super::{Action, Registry};

impl Registry {
    /// The line of a request that is about to be carried out; none of one that only asks how things are.
    pub(super) fn record(&self, who: &Who, request: &Request) -> Option<Record> {
        let vm = vm_of(request).map(|wanted| (wanted, self.vms.iter().find(|vm| vm.is_meant(wanted))));
        let name = vm.and_then(|(_, known)| Some(known?.definition.name.clone()));
        let given = vm.and_then(|(wanted, _)| if let VmRef::Name(name) = wanted { Some(name.clone()) } else { None });
        let called = match vm {
            Some((_, Some(vm))) => format!("vm \"{}\" (vm {})", vm.definition.name, vm.id),
            Some((VmRef::Name(name), None)) => format!("vm \"{name}\""),
            Some((VmRef::Id(id), None)) => format!("vm {id}"),
            None => String::new(),
        };
        Some(Record { uid: who.uid, name, given, what: what_of(request, &called)? })
    }
}

/// A line that is still without its end.
#[derive(Debug)]
pub(super) struct Record {
    uid: u32,
    /// The VM that it is of.
    name: Option<VmName>,
    /// What the request calls it, which may be there only once it was carried out.
    given: Option<VmName>,
    what: String,
}

impl Record {
    /// The whole line.
    pub(super) fn of(self, result: &Result<(), Failure>) -> Action {
        let vm = self.name.or_else(|| self.given.filter(|_| result.is_ok()));
        let refused = result.as_ref().err().map(ToString::to_string);
        Action::Asked { uid: self.uid, vm, what: self.what, refused }
    }
}

fn vm_of(request: &Request) -> Option<&VmRef> {
    match request {
        Request::Start(start) => Some(&start.vm),
        Request::Stop { vm, .. }
        | Request::Detail { vm }
        | Request::Wait { vm }
        | Request::Order { vm, .. }
        | Request::Memory { vm, .. }
        | Request::Cdrom { vm, .. }
        | Request::DiskFail { vm, .. }
        | Request::FlushStop { vm, .. }
        | Request::Send { vm } => Some(vm),
        Request::List
        | Request::Receive { .. }
        | Request::Log { .. }
        | Request::Reload
        | Request::Load { .. }
        | Request::Reset { .. } => None,
    }
}

/// What stands behind "asked to".
fn what_of(request: &Request, vm: &str) -> Option<String> {
    Some(match request {
        Request::List | Request::Detail { .. } | Request::Wait { .. } => return None,
        Request::Start(start) => match &start.instance_of {
            Some(template) => format!("start {vm} as an instance of \"{template}\""),
            None => format!("start {vm}"),
        },
        Request::Stop { force: false, .. } => format!("stop {vm}"),
        Request::Stop { force: true, .. } => format!("stop {vm} by force"),
        Request::Order { order: Order::Pause, .. } => format!("pause {vm}"),
        Request::Order { order: Order::Unpause, .. } => format!("unpause {vm}"),
        Request::Order { order: Order::Nmi, .. } => format!("send {vm} an NMI"),
        Request::Memory { size, .. } => format!("have {vm} get along with {}", size::format(size.bytes())),
        Request::Cdrom { medium: Some(path), .. } => format!("put \"{path}\" into the CD-ROM drive of {vm}"),
        Request::Cdrom { medium: None, .. } => format!("empty the CD-ROM drive of {vm}"),
        Request::DiskFail { disk, .. } => format!("let disk {disk} of {vm} fail"),
        Request::FlushStop { disk, .. } => format!("pause {vm} at a flush of disk {disk}"),
        Request::Send { .. } => format!("send {vm}"),
        Request::Receive { name } => format!("receive vm \"{name}\""),
        Request::Log { verbose: true } => "log debug lines too".to_owned(),
        Request::Log { verbose: false } => "log no debug lines".to_owned(),
        Request::Reload => "reload the configuration".to_owned(),
        Request::Load { path } => format!("load \"{path}\""),
        Request::Reset { vms: true, switches: true } => "forget all VMs and switches".to_owned(),
        Request::Reset { vms: true, switches: false } => "forget all VMs".to_owned(),
        Request::Reset { vms: false, switches: true } => "forget all switches".to_owned(),
        Request::Reset { vms: false, switches: false } => "forget nothing".to_owned(),
    })
}
