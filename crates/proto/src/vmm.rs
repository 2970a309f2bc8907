//! Parent and vmm. A start is a bounded sequence: `StartVm`, a `StartDevice` for each device, `StartEnd`; nothing happens
//! before the last, and no message needs more descriptors than one thing has.

use model::{CommandLine, MemorySize, VmName};
use serde::{Deserialize, Serialize};

use crate::channel::Message;
use crate::client::Order;
use crate::device::{Ask, Report, Spec};
use crate::failure::Failure;
use crate::names::{RequestId, VmId};
use crate::probe::KernelKind;

/// What the parent says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToVmm {
    /// /dev/kvm comes along; a second one is refused.
    Kvm,
    /// /dev/sev comes along; a second one is refused.
    Psp,
    /// Global settings.
    Config(Config),
    /// A start begins. With it: write end of the VM's log pipe, guest memory, kernel, then initrd and cgroup
    /// where they are.
    StartVm(Box<StartVm>),
    /// A device, in the order that the guest sees. Its descriptors come along.
    StartDevice {
        /// Whose.
        vm: VmId,
        /// Its index, below `StartVm`'s number of devices.
        device: u8,
        /// What it is.
        spec: Box<Spec>,
    },
    /// The console's pty master comes along; the VM starts. Answered by `StartDone`.
    StartEnd {
        /// Which.
        vm: VmId,
    },
    /// The start is given up before its end: forget it.
    StartCancel {
        /// Which.
        vm: VmId,
    },
    /// End a VM. Answered by `TerminateDone`; `Ended` comes when it is gone.
    Terminate {
        /// Joins the answer.
        request: RequestId,
        /// Which.
        vm: VmId,
        /// How.
        how: Stop,
    },
    /// All running VMs. Answered by `Info` each, then `InfoEnd`.
    Info {
        /// Joins the answers.
        request: RequestId,
    },
    /// Have a VM that runs do something. Answered by `OrderDone`.
    Order {
        /// Joins the answer.
        request: RequestId,
        /// Which.
        vm: VmId,
        /// What.
        order: Order,
    },
    /// Ask a device of a VM that runs; what the request brings comes along. Answered by `DeviceDone`, unless the VM ends.
    AskDevice {
        /// Joins the answer.
        request: RequestId,
        /// Whose.
        vm: VmId,
        /// Its index.
        device: u8,
        /// What.
        ask: Ask,
    },
    /// How much vmm and all it started log.
    Verbose {
        /// Debug lines too.
        debug: bool,
    },
}

/// Settings for all VMs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Debug lines too.
    pub debug: bool,
}

/// How a VM is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// SIGTERM, then SIGKILL.
    Force,
    /// The guest is asked, by vmmci or the power button; by force when the guest has not gone by then.
    Graceful {
        /// Seconds that the guest has.
        seconds: u16,
    },
}

/// The VM that starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartVm {
    /// Its id.
    pub vm: VmId,
    /// Its name, for logs and process titles.
    pub name: VmName,
    /// Guest memory.
    pub memory: MemorySize,
    /// Virtual CPUs, 1 to 64.
    pub cpus: u8,
    /// How the kernel is started, as the probe found.
    pub kernel: KernelKind,
    /// The kernel's command line.
    pub cmdline: CommandLine,
    /// An initial RAM disk comes along.
    pub initrd: bool,
    /// It has vmmci.
    pub vmmci: bool,
    /// So many deaths of its devices' processes within a minute it outlives.
    pub device_restarts: u8,
    /// The descriptor of the VM's cgroup comes along.
    pub cgroup: bool,
    /// The user and group of its processes; none: those of vmm.
    pub user: Option<u32>,
    /// The user of the host who made it, where root did not: what it writes to the log counts against him.
    pub maker: Option<u32>,
    /// Devices that follow.
    pub devices: u8,
    /// Bases of its disks: descriptors that these devices bring beside one each.
    pub bases: u16,
}

/// What vmm says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToParent {
    /// A start succeeded or failed; after a failure nothing of it is left. Once for each `StartEnd`, or for the first
    /// message of a start that is refused.
    StartDone {
        /// Which.
        vm: VmId,
        /// Process id of the vm process.
        result: Result<u32, Failure>,
    },
    /// Answers `Terminate`.
    TerminateDone {
        /// The request's.
        request: RequestId,
        /// Which.
        vm: VmId,
        /// Under way, or why not.
        result: Result<(), Failure>,
    },
    /// The guest began to shut down by itself (no restart follows), or to reboot (a restart follows).
    Leaving {
        /// Which.
        vm: VmId,
        /// A reboot.
        reboot: bool,
    },
    /// A VM that had been started is gone, with all its processes.
    Ended {
        /// Which.
        vm: VmId,
        /// Why.
        end: End,
    },
    /// A running VM.
    Info {
        /// The request's.
        request: RequestId,
        /// Which.
        vm: VmId,
        /// Process id of the vm process.
        pid: u32,
        /// Virtual CPUs.
        cpus: u8,
        /// Guest memory.
        memory: MemorySize,
    },
    /// What a device has learned of its guest.
    Report {
        /// Whose.
        vm: VmId,
        /// Its index.
        device: u8,
        /// What.
        report: Report,
    },
    /// Answers `AskDevice`.
    DeviceDone {
        /// The request's.
        request: RequestId,
        /// Which.
        vm: VmId,
        /// What the device could do by itself is done, or why not.
        result: Result<(), Failure>,
    },
    /// No more VMs.
    InfoEnd {
        /// The request's.
        request: RequestId,
    },
    /// Answers `Order`.
    OrderDone {
        /// The request's.
        request: RequestId,
        /// Which.
        vm: VmId,
        /// What was to be done.
        order: Order,
        /// Whether the guest stands still now, or why it was not done.
        result: Result<bool, Failure>,
    },
}

/// Why a VM ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// The guest powered off, or was stopped as asked.
    PoweredOff,
    /// The guest wants to start again.
    Rebooted,
    /// A process of it failed.
    Failed(Failure),
}

impl Message for ToVmm {
    fn fds(&self) -> usize {
        match self {
            ToVmm::Kvm | ToVmm::Psp => 1,
            ToVmm::StartVm(start) => 3 + usize::from(start.initrd) + usize::from(start.cgroup),
            ToVmm::StartDevice { spec, .. } => spec.fds(),
            ToVmm::StartEnd { .. } => 1,
            ToVmm::Config(_)
            | ToVmm::StartCancel { .. }
            | ToVmm::Terminate { .. }
            | ToVmm::Info { .. }
            | ToVmm::Order { .. }
            | ToVmm::Verbose { .. } => 0,
            ToVmm::AskDevice { ask, .. } => ask.fds(),
        }
    }
}

impl Message for ToParent {
    fn fds(&self) -> usize {
        match self {
            ToParent::StartDone { .. }
            | ToParent::TerminateDone { .. }
            | ToParent::Leaving { .. }
            | ToParent::Ended { .. }
            | ToParent::Info { .. }
            | ToParent::InfoEnd { .. }
            | ToParent::Report { .. }
            | ToParent::DeviceDone { .. }
            | ToParent::OrderDone { .. } => 0,
        }
    }
}
