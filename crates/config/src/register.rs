//! From what a `vm` block or a `vmctl start` asks for to a VM, or why that is impossible (openbsd/vm.conf.md, 10.3).
//! The parent uses it for both; nothing here knows which VMs run.

use model::{
    Allow, BootDevice, CommandLine, Disk, MAX_DISKS, MAX_NICS, MemorySize, Nic, Owner, Right, Sev, Switch, SwitchName,
    UserPath, Vm, VmName,
};

use crate::instance::{self, Requester};

/// What was asked for: what was not said is `None` or empty, and no default is filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRequest {
    /// The VM's name.
    pub name: VmName,
    /// The VM to make an instance of.
    pub template: Option<VmName>,
    /// Whether it starts with the daemon.
    pub enabled: bool,
    /// Memory of the guest.
    pub memory: Option<MemorySize>,
    /// CPUs of the guest, 1 to 64.
    pub cpus: Option<u8>,
    /// Kernel or firmware.
    pub boot: Option<UserPath>,
    /// Forced boot device.
    pub boot_device: Option<BootDevice>,
    /// The kernel's initial RAM disk.
    pub initrd: Option<UserPath>,
    /// The kernel's command line.
    pub cmdline: Option<CommandLine>,
    /// CD-ROM image.
    pub cdrom: Option<UserPath>,
    /// Disks in order.
    pub disks: Vec<Disk>,
    /// Network cards in order.
    pub nics: Vec<Nic>,
    /// Plain network cards are added up to this number.
    pub least_nics: usize,
    /// Its owner.
    pub owner: Option<Owner>,
    /// What its instances may change.
    pub allow: Allow,
    /// Memory encryption.
    pub sev: Option<Sev>,
}

/// Why a request makes no VM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing at all was said about the machine (the original's error 1002).
    #[error("invalid configuration, no devices")]
    NoDevices,
    /// Neither kernel nor disk nor CD-ROM (EINVAL).
    #[error("no kernel or disk/cdrom specified")]
    NothingToBoot,
    /// More disks than [`MAX_DISKS`] (EINVAL).
    #[error("too many disks: {0}")]
    TooManyDisks(usize),
    /// More network cards than [`MAX_NICS`] (EINVAL).
    #[error("too many interfaces: {0}")]
    TooManyInterfaces(usize),
    /// The template does not exist (the original's error 1007).
    #[error("invalid template \"{0}\"")]
    TemplateUnknown(VmName),
    /// The requester may make no instance of the template (EPERM).
    #[error("no permission to create vm instance")]
    MayNotCreate,
    /// The template does not let users set this (EPERM).
    #[error("no permission to set {}", thing(*.0))]
    MayNotSet(Right),
    /// A disk of the template (EBUSY).
    #[error("disk {} cannot be reused", .0)]
    DiskReused(UserPath),
    /// An address of the template (EBUSY).
    #[error("lladdr cannot be reused")]
    LladdrReused,
    /// A tap of the template (EBUSY).
    #[error("interface cannot be reused")]
    TapReused,
    /// A switch that no card of the template is on, or a local interface where it has none (EPERM).
    #[error("no permission to use a network that the template does not use")]
    NetworkForeign,
    /// An owner who is neither the requester nor the template's (EPERM).
    #[error("user mismatch")]
    UserMismatch,
    /// A group that is not the template's (EPERM).
    #[error("group mismatch")]
    GroupMismatch,
    /// `allow instance` in an instance (EPERM).
    #[error("cannot change instance permissions")]
    MayNotAllow,
}

/// The original's words for what a right lets one set.
fn thing(right: Right) -> &'static str {
    match right {
        Right::Boot => "boot image",
        Right::Cdrom => "cdrom",
        Right::Cpus => "cpus",
        Right::Disk => "disks",
        Right::Instance => "instance",
        Right::Interface => "interfaces",
        Right::Memory => "memory",
    }
}

impl VmRequest {
    /// A request that says nothing but the name.
    pub fn new(name: VmName) -> Self {
        Self {
            name,
            template: None,
            enabled: true,
            memory: None,
            cpus: None,
            boot: None,
            boot_device: None,
            initrd: None,
            cmdline: None,
            cdrom: None,
            disks: Vec::new(),
            nics: Vec::new(),
            least_nics: 0,
            owner: None,
            allow: Allow::default(),
            sev: None,
        }
    }

    /// Whether anything about the machine was said.
    pub fn has_devices(&self) -> bool {
        let nics = !self.nics.is_empty() || self.least_nics > 0;
        let images = self.boot.is_some() || self.cdrom.is_some() || !self.disks.is_empty();
        nics || images || self.memory.is_some() || self.cpus.is_some()
    }
}

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
