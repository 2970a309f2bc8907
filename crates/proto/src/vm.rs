//! vmm and the process of one VM. The description comes first, then one `Device` each, then `Begin`.

use model::{CommandLine, MemorySize, VmName};
use serde::{Deserialize, Serialize};

use crate::channel::Message;
use crate::client::Order;
use crate::device::Front;
use crate::failure::Failure;
use crate::probe::KernelKind;

/// What vmm says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToVm {
    /// The whole VM. With it: /dev/kvm, console pty master, guest memory, kernel, then the initrd where there is
    /// one.
    Describe(Box<Description>),
    /// A device; its vhost-user socket (the front end's side) comes along. In order of their index.
    Device {
        /// Its index, from 0.
        device: u8,
        /// What the guest sees of it.
        front: Front,
    },
    /// All devices are described and ready: make the VM and run it. Answered by `Started` or `Failed`.
    Begin,
    /// Ask the guest to stop: by vmmci where its driver listens, else by the power button.
    AskToStop,
    /// Do this. Answered by `Done`.
    Order(Order),
    /// The configuration space of a device has changed: ask it, and tell the guest.
    ConfigChanged {
        /// Its index.
        device: u8,
    },
    /// How much to log.
    Verbose {
        /// Debug lines too.
        debug: bool,
    },
}

/// Everything that a VM is, apart from its devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Its name, for logs.
    pub name: VmName,
    /// Guest memory.
    pub memory: MemorySize,
    /// Virtual CPUs, 1 to 64.
    pub cpus: u8,
    /// How the kernel is started.
    pub kernel: KernelKind,
    /// The kernel's command line.
    pub cmdline: CommandLine,
    /// An initial RAM disk comes along.
    pub initrd: bool,
    /// It has vmmci.
    pub vmmci: bool,
    /// Devices that follow.
    pub devices: u8,
    /// Debug lines too.
    pub debug: bool,
}

/// What the VM's process says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToVmm {
    /// The VM is made, its kernel loaded, its vCPUs run.
    Started,
    /// It could not be made; the process ends.
    Failed(Failure),
    /// The guest itself began to power off: VM_SHUTDOWN (openbsd/daemon.md, 2.8).
    Leaving {
        /// It resets instead: VM_REBOOT.
        reboot: bool,
    },
    /// The guest stands still for the pause that was asked for. `Done` follows when its devices have finished what is under
    /// way, for which a disk of the host may take any time.
    Pausing,
    /// Answers `Order`: whether the guest stands still now, or why it was not done.
    Done(Order, Result<bool, Failure>),
    /// Its last message: how it ended. A process that ends without it has failed.
    Ended {
        /// One of `exit`'s.
        status: u8,
    },
}

impl Message for ToVm {
    const VERSION: Option<u32> = Some(crate::VERSION_OF_A_VM);

    fn fds(&self) -> usize {
        match self {
            ToVm::Describe(description) => 4 + usize::from(description.initrd),
            ToVm::Device { .. } => 1,
            ToVm::Begin | ToVm::AskToStop | ToVm::Order(_) | ToVm::ConfigChanged { .. } | ToVm::Verbose { .. } => 0,
        }
    }
}

impl Message for ToVmm {
    const VERSION: Option<u32> = Some(crate::VERSION_OF_A_VM);

    fn fds(&self) -> usize {
        match self {
            ToVmm::Started
            | ToVmm::Failed(_)
            | ToVmm::Leaving { .. }
            | ToVmm::Pausing
            | ToVmm::Ended { .. }
            | ToVmm::Done(..) => 0,
        }
    }
}
