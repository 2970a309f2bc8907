//! From what a `vm` block or a `vmctl start` asks for to a VM, or why that is impossible (openbsd/vm.conf.md, 10.3).
//! The parent uses it for both; nothing here knows which VMs run.

use model::{MAX_DISKS, MAX_NICS, Nic, Switch, SwitchName, Vm};

use crate::instance::{self, Requester};
use crate::request::{Refusal, VmRequest};

/// The VM that a request makes. `template` is the VM that it names, if there is one; `switch` finds the switches
/// known by now, whose `locked lladdr` the VM's interfaces take over.
///
/// That no VM has the name yet is for the caller to see to.
pub fn register<'a>(
    mut request: VmRequest,
    template: Option<&Vm>,
    requester: Requester<'_>,
    switch: impl Fn(&SwitchName) -> Option<&'a Switch>,
) -> Result<Vm, Refusal> {
    let least_nics = request.least_nics.min(MAX_NICS).max(request.vm.nics.len());
    request.vm.nics.resize(least_nics, Nic::default());
    match (&request.vm.template, template) {
        (Some(name), None) => return Err(Refusal::TemplateUnknown(name.clone())),
        (Some(_), Some(template)) => instance::derive(&mut request, template, requester)?,
        (None, _) if !request.has_devices() => return Err(Refusal::NoDevices),
        (None, _) => {}
    }
    let VmRequest { mut vm, memory, cpus, least_nics } = request;
    let nics = vm.nics.len().max(least_nics);
    if vm.disks.len() > MAX_DISKS {
        return Err(Refusal::TooManyDisks(vm.disks.len()));
    }
    if nics > MAX_NICS {
        return Err(Refusal::TooManyInterfaces(nics));
    }
    if vm.boot.is_none() && vm.disks.is_empty() && vm.cdrom.is_none() {
        return Err(Refusal::NothingToBoot);
    }
    for nic in &mut vm.nics {
        let switch = nic.switch.as_ref().and_then(&switch);
        nic.locked |= switch.is_some_and(|switch| switch.locked_lladdr);
    }
    let memory = memory.unwrap_or(vm.memory);
    if let Some(least) = vm.balloon.filter(|least| *least > memory) {
        return Err(Refusal::Balloon(least, memory));
    }
    Ok(Vm { memory, cpus: cpus.unwrap_or(vm.cpus), ..vm })
}

#[cfg(test)]
mod tests {
    use model::{BootDevice, Disk, MemorySize, Sev, UserPath, VmName};

    use super::*;

    fn request() -> VmRequest {
        VmRequest::new(VmName::new(b"web").expect("a legal name"))
    }

    fn saying(say: impl FnOnce(&mut Vm)) -> VmRequest {
        let mut request = request();
        say(&mut request.vm);
        request
    }

    fn made(request: VmRequest) -> Result<Vm, Refusal> {
        register(request, None, Requester::ROOT, |_| None)
    }

    #[test]
    fn vm_without_any_device_option_is_no_vm() {
        let silent = saying(|vm| (vm.sev, vm.boot_device) = (Some(Sev::Memory), Some(BootDevice::Disk)));
        assert_eq!(made(silent), Err(Refusal::NoDevices));
    }

    #[test]
    fn vm_needs_something_to_boot_from() {
        assert_eq!(made(VmRequest { cpus: Some(2), ..request() }), Err(Refusal::NothingToBoot));
        let vm = made(saying(|vm| vm.boot = UserPath::new("/vmlinuz").ok())).expect("a kernel is enough");
        assert_eq!((vm.cpus, vm.memory), (1, MemorySize::DEFAULT));
    }

    #[test]
    fn interfaces_fills_up_with_plain_ones() {
        let nics = vec![Nic { local: true, ..Nic::default() }];
        let request = saying(|vm| (vm.boot, vm.nics) = (UserPath::new("/k").ok(), nics));
        let vm = made(VmRequest { least_nics: 3, ..request }).expect("a vm");
        assert_eq!(vm.nics.iter().map(|nic| nic.local).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn limits_hold_for_any_request() {
        let nics = saying(|vm| vm.nics = vec![Nic::default(); 9]);
        assert_eq!(made(nics), Err(Refusal::TooManyInterfaces(9)));
        let least = VmRequest { least_nics: 9, ..saying(|vm| vm.boot = UserPath::new("/k").ok()) };
        assert_eq!(made(least), Err(Refusal::TooManyInterfaces(9)));
        let disk = Disk::new(UserPath::new("/d").expect("a path"), None);
        assert_eq!(made(saying(|vm| vm.disks = vec![disk; 17])), Err(Refusal::TooManyDisks(17)));
    }
}
