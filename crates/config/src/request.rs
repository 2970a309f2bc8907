//! What a `vm` block or a `vmctl start` asks for, and why it is refused.

use model::{MemorySize, Right, UserPath, Vm, VmName};

/// What was asked for: a VM in which all that was not said has its default, and what an instance inherits only where it
/// was not said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRequest {
    /// The VM; its memory and CPUs are those below.
    pub vm: Vm,
    /// Memory of the guest.
    pub memory: Option<MemorySize>,
    /// CPUs of the guest, 1 to 64.
    pub cpus: Option<u8>,
    /// Plain network cards are added up to this number.
    pub least_nics: usize,
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
    /// More disks than [`model::MAX_DISKS`] (EINVAL).
    #[error("too many disks: {0}")]
    TooManyDisks(usize),
    /// More network cards than [`model::MAX_NICS`] (EINVAL).
    #[error("too many interfaces: {0}")]
    TooManyInterfaces(usize),
    /// A balloon that would leave more than there is (EINVAL).
    #[error("balloon leaves {}M, and the VM's memory is {}M", .0.mib(), .1.mib())]
    Balloon(MemorySize, MemorySize),
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
        Self { vm: Vm::new(name), memory: None, cpus: None, least_nics: 0 }
    }

    /// Whether anything about the machine was said.
    pub fn has_devices(&self) -> bool {
        let nics = !self.vm.nics.is_empty() || self.least_nics > 0;
        let images = self.vm.boot.is_some() || self.vm.cdrom.is_some() || !self.vm.disks.is_empty();
        nics || images || self.memory.is_some() || self.cpus.is_some()
    }
}
