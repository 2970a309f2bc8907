//! From what a `vm` block or a `vmctl start` asks for to a VM, or why that is impossible (openbsd/vm.conf.md, 10.3).
//! The parent uses it for both; nothing here knows which VMs run.

use model::{MAX_DISKS, MAX_NICS, MemorySize, Nic, Switch, SwitchName, Vm};

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
    let least_nics = request.least_nics.min(MAX_NICS).max(request.nics.len());
    request.nics.resize(least_nics, Nic::default());
    match (&request.template, template) {
        (Some(name), None) => return Err(Refusal::TemplateUnknown(name.clone())),
        (Some(_), Some(template)) => instance::derive(&mut request, template, requester)?,
        (None, _) if !request.has_devices() => return Err(Refusal::NoDevices),
        (None, _) => {}
    }
    let nics = request.nics.len().max(request.least_nics);
    if request.disks.len() > MAX_DISKS {
        return Err(Refusal::TooManyDisks(request.disks.len()));
    }
    if nics > MAX_NICS {
        return Err(Refusal::TooManyInterfaces(nics));
    }
    if request.boot.is_none() && request.disks.is_empty() && request.cdrom.is_none() {
        return Err(Refusal::NothingToBoot);
    }
    for nic in &mut request.nics {
        let switch = nic.switch.as_ref().and_then(&switch);
        nic.locked |= switch.is_some_and(|switch| switch.locked_lladdr);
    }
    Ok(filled(request))
}

fn filled(request: VmRequest) -> Vm {
    Vm {
        name: request.name,
        template: request.template,
        enabled: request.enabled,
        memory: request.memory.unwrap_or(MemorySize::DEFAULT),
        cpus: request.cpus.unwrap_or(1),
        boot: request.boot,
        boot_device: request.boot_device,
        initrd: request.initrd,
        cmdline: request.cmdline,
        cdrom: request.cdrom,
        disks: request.disks,
        nics: request.nics,
        owner: request.owner.unwrap_or_default(),
        allow: request.allow,
        sev: request.sev,
    }
}

#[cfg(test)]
mod tests {
    use model::{BootDevice, Disk, Sev, UserPath, VmName};

    use super::*;

    fn request() -> VmRequest {
        VmRequest::new(VmName::new(b"web").expect("a legal name"))
    }

    fn made(request: VmRequest) -> Result<Vm, Refusal> {
        register(request, None, Requester::ROOT, |_| None)
    }

    #[test]
    fn vm_without_any_device_option_is_no_vm() {
        let silent = VmRequest { sev: Some(Sev::Memory), boot_device: Some(BootDevice::Disk), ..request() };
        assert_eq!(made(silent), Err(Refusal::NoDevices));
    }

    #[test]
    fn vm_needs_something_to_boot_from() {
        assert_eq!(made(VmRequest { cpus: Some(2), ..request() }), Err(Refusal::NothingToBoot));
        let vm = made(VmRequest { boot: UserPath::new("/vmlinuz").ok(), ..request() }).expect("a kernel is enough");
        assert_eq!((vm.cpus, vm.memory), (1, MemorySize::DEFAULT));
    }

    #[test]
    fn interfaces_fills_up_with_plain_ones() {
        let nics = vec![Nic { local: true, ..Nic::default() }];
        let vm = made(VmRequest { boot: UserPath::new("/k").ok(), nics, least_nics: 3, ..request() }).expect("a vm");
        assert_eq!(vm.nics.iter().map(|nic| nic.local).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn limits_hold_for_any_request() {
        let boot = UserPath::new("/k").ok();
        let nics = VmRequest { boot: boot.clone(), nics: vec![Nic::default(); 9], ..request() };
        assert_eq!(made(nics), Err(Refusal::TooManyInterfaces(9)));
        let least = VmRequest { boot: boot.clone(), least_nics: 9, ..request() };
        assert_eq!(made(least), Err(Refusal::TooManyInterfaces(9)));
        let disk = Disk::new(UserPath::new("/d").expect("a path"), None);
        let disks = vec![disk; 17];
        assert_eq!(made(VmRequest { disks, ..request() }), Err(Refusal::TooManyDisks(17)));
    }
}
