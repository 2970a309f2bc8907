//! The VMs that run, from description to reap. Pure: no clock, no descriptor, no log.
//!
//! ```text
//! StartVm ► Described ──StartEnd──► Spawning ──all spawned──► Preparing ──devices ready──► Beginning ──Started──► Up
//!                                      │ failure, stop            │ deadline too              │                    │
//!                                      ▼                          ▼                           ▼                    │
//!        (StartDone, or Ended) ◄──── Ending ◄──────── the vm process or a device ended, SIGTERM, SIGKILL ◄─────────┘
//!
//! A device that ends while its VM is up is replaced (`replacing.rs`), or ends it.
//!
//! Up: Running ◄──the guest's reboot, its shutdown──► Leaving; both ──stop──► Stopping: Asked ► Terminated ► Killed
//! ```
//!
//! Ending is left when the last process is reaped; then the start is answered, or the end told, and the VM forgotten.
//! Every process that is asked for by `Spawn` is in `Vm::alive` until its exit, or the failure of its start, is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use log::Level;
use model::VmName;
use proto::client::Order;
use proto::device::{Ask, Spec, ToDevice, ToVmm as FromDevice};
use proto::vm::{ToVm, ToVmm as FromVm};
use proto::vmm::{End, StartVm, Stop, ToParent, ToVmm};
use proto::{Code, Failure, RequestId, VmId};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use sys::child::Exit;

use super::moment::Moment;

mod asked;
mod button;
mod devices;
mod ending;
mod lost;
pub mod orders;
pub mod replacing;
mod starting;

use button::Presses;
use devices::Talk;
use orders::Orders;
use replacing::Lost;

/// A device process must be ready within this. It opens nothing and asks nobody, but hosts can be slow.
pub const READY_LIMIT: Duration = Duration::from_secs(30);
/// The vm process must run its guest within this: it loads kernel and initrd, which a disk may have to give first.
pub const BEGIN_LIMIT: Duration = Duration::from_secs(60);
/// From SIGTERM to SIGKILL (openbsd/daemon.md, 2.4, [26]), and what devices have to flush when their VM is gone.
pub const KILL_AFTER: Duration = Duration::from_secs(10);
/// How often a guest may begin to shut down or to reboot: each reboot ends its process, so more is a flood.
pub const MAX_WISHES: u8 = 16;
/// Descriptors that stay free for the parent's next messages: a packet whose descriptors find no room is lost.
pub const SPARE_DESCRIPTORS: u64 = 128;

/// One launch of one VM. Never used again, so that what comes late of an ended VM cannot hit the next of the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Run(pub u64);

/// Which process of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Member {
    /// The process of the device of this index.
    Device(u8),
    /// The vm process.
    Vm,
}

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// Whose.
    pub run: Run,
    /// Which.
    pub member: Member,
}

/// A descriptor that the edge holds for a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// Write end of the log pipe.
    Log,
    /// Guest memory.
    Memory,
    /// The kernel.
    Kernel,
    /// The initial RAM disk.
    Initrd,
    /// The cgroup's directory.
    Cgroup,
    /// What a device serves, by its index, in the order that it came.
    Device(u8, u8),
    /// What a request to a device brings, by its index.
    Asked(u8, RequestId),
    /// The console's pty master.
    Console,
    /// The front end's side of a device's vhost-user socket, by its index; made when its process is.
    Front(u8),
    /// The back end's side.
    Back(u8),
    /// The write end of a pipe that a device's process holds for as long as the host may still carry out something for it, by its
    /// index; made when its process is.
    Lives(u8),
    /// The read end, which hangs up then.
    Gone(u8),
    /// The memory that a device keeps, by its index: made with its first process, for all of them.
    Kept(u8),
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Slot::Log => f.write_str("log"),
            Slot::Memory => f.write_str("memory"),
            Slot::Kernel => f.write_str("kernel"),
            Slot::Initrd => f.write_str("initrd"),
            Slot::Cgroup => f.write_str("cgroup"),
            Slot::Device(device, nth) => write!(f, "descriptor {nth} of device {device}"),
            Slot::Asked(device, _) => write!(f, "descriptor of a request to device {device}"),
            Slot::Console => f.write_str("console"),
            Slot::Front(device) | Slot::Back(device) => write!(f, "socket of device {device}"),
            Slot::Lives(device) | Slot::Gone(device) => write!(f, "pipe of device {device}"),
            Slot::Kept(device) => write!(f, "memory of device {device}"),
        }
    }
}

/// A descriptor of the host's that is there once for all VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HostFd {
    /// /dev/kvm.
    Kvm,
    /// /dev/sev.
    Psp,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The parent said this; its descriptors are the edge's until an action keeps them.
    Parent(ToVmm),
    /// A message of the parent could not be read.
    Lost(String),
    /// This one's descriptors found no number here: all of them are closed.
    WithoutDescriptors(Box<ToVmm>),
    /// The parent is gone, or vmm shall end.
    Shutdown,
    /// A process was started.
    Spawned(Process, u32),
    /// A process could not be started; nothing of it is left.
    SpawnFailed(Process, Failure),
    /// A vm process said this.
    Vm(Run, FromVm),
    /// A device's process said this.
    Device(Process, FromDevice),
    /// What a process sent is no message, or it does not take ours: the conversation is over.
    Broken(Process, String),
    /// A process ended and was reaped.
    Exited(Process, Exit),
    /// Answers `AwaitGone`.
    Gone(Process),
    /// A deadline may have passed.
    Time,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Keep the descriptors of the message being handled for a launch, in this order.
    Hold(Run, Vec<Slot>),
    /// Keep the descriptor of the message being handled for all.
    HoldHost(HostFd),
    /// Start a process; answered by `Spawned` or `SpawnFailed`.
    Spawn(Process, Title),
    /// Tell a vm process, with what is held for it.
    TellVm(Run, ToVm),
    /// Tell a device's process, with what is held for it.
    TellDevice(Process, ToDevice),
    /// Ask a device's process, with what is held for this request, which stays held.
    Ask(Process, RequestId, Ask),
    /// Close what is held of a launch under this name.
    Drop(Run, Slot),
    /// What is held of a launch under the first name is held under the second from now on, in place of what was there.
    Move(Run, Slot, Slot),
    /// Close all that is still held for a launch; its processes stay.
    Release(Run),
    /// Close our direction of the channels to a launch's processes, which tells devices to end. What they still say is heard.
    HangUp(Run),
    /// Tell by `Gone` when the host carries out nothing more for a device's process that has ended.
    AwaitGone(Process),
    /// Send a signal; to a process that has ended it does nothing.
    Kill(Process, Signal),
    /// Tell the parent.
    Reply(ToParent),
    /// Tell the log.
    Log(Level, String),
    /// Tell the log of a VM, which this user made.
    LogOf(VmName, Option<u32>, Level, String),
    /// How much vmm logs.
    Verbose(bool),
    /// No VM is left: end vmm.
    Quit,
}

/// What a process is called in ps(1) and how much it logs at first.
#[derive(Clone, Debug, PartialEq)]
pub struct Title {
    /// Its first argument.
    pub title: String,
    /// Its role.
    pub role: &'static str,
    /// Its user and group, where they are not vmm's.
    pub user: Option<u32>,
    /// Debug lines too.
    pub debug: bool,
    /// Bytes that a device keeps for its next process.
    pub keeps: u64,
}

/// All VMs that vmm knows.
#[derive(Debug, Serialize, Deserialize)]
pub struct Running {
    vms: BTreeMap<VmId, Vm>,
    /// Starts that were refused and answered, of which messages may still come until `StartEnd`.
    refused: BTreeSet<VmId>,
    hosts: BTreeSet<HostFd>,
    debug: bool,
    ending: bool,
    next_run: u64,
    /// The process's limit.
    descriptors: u64,
}

/// One VM: all that is known of it, as plain data that a successor of this process could be handed.
#[derive(Debug, Serialize, Deserialize)]
struct Vm {
    run: Run,
    start: StartVm,
    /// Those that have been described, by index: in the order that the guest sees.
    devices: BTreeMap<u8, Spec>,
    alive: BTreeSet<Member>,
    /// The last messages of processes that end: of the vm process one of `proto::exit`, of a device 0.
    last_words: BTreeMap<Member, u8>,
    /// How often the guest changed its mind about shutting down.
    wishes: u8,
    orders: Orders,
    /// What its devices were asked and told.
    talks: BTreeMap<u8, Talk>,
    /// Devices without a process that serves, while the guest runs.
    lost: BTreeMap<u8, Lost>,
    /// When processes of its devices died, of late.
    deaths: Vec<Moment>,
    life: Life,
}

/// Where a VM is, with what only there is known.
#[derive(Debug, Serialize, Deserialize)]
enum Life {
    /// Its description is coming.
    Described,
    /// Its processes are started, one after the other; `left` is yet to be, the last of it first.
    Spawning { left: Vec<Member>, waiting: BTreeSet<Member> },
    /// All are started; these devices are not ready yet. A device that left in peace: the vm process may have failed.
    Preparing { pid: u32, waiting: BTreeSet<Member>, deadline: Moment, left: Option<Member> },
    /// The vm process was told to run its guest. The same.
    Beginning { pid: u32, deadline: Moment, left: Option<Member> },
    /// The guest runs.
    Up { pid: u32, course: Course },
    /// Nothing leads back: when the last process is reaped this is told.
    Ending { outcome: Outcome, deadline: Option<Moment> },
}

/// Where a guest that runs is going.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Course {
    /// On.
    Running,
    /// It shuts down by itself: a reset now is no reboot.
    Leaving,
    /// It was told to stop.
    Stopping(Stage),
}

/// How hard a VM is being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// The power button is being pressed, unless the guest began to shut down before; SIGTERM follows at `until`.
    Asked { until: Moment, presses: Option<Presses> },
    /// SIGTERM was sent; SIGKILL follows then.
    Terminated(Moment),
    /// SIGKILL was sent.
    Killed,
}

/// What is told at the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Outcome {
    /// The start failed.
    StartFailed(Failure),
    /// It had run.
    Ended(End),
}

impl Running {
    /// No VM; the process may have so many descriptors.
    pub fn new(descriptors: u64, debug: bool) -> Self {
        let (vms, refused, hosts) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { vms, refused, hosts, debug, ending: false, next_run: 0, descriptors }
    }

    /// What is to be done now that this happened.
    pub fn handle(&mut self, event: Event, now: Moment) -> Vec<Action> {
        let mut actions = Vec::new();
        let out = &mut actions;
        match event {
            Event::Parent(message) => self.parent_said(message, now, out),
            Event::Lost(why) => self.lost(&why, out),
            Event::WithoutDescriptors(message) => self.without_descriptors(&message, out),
            Event::Shutdown => self.shutdown(out),
            Event::Spawned(process, pid) => self.spawned(process, pid, now, out),
            Event::SpawnFailed(process, failure) => self.spawn_failed(process, failure, out),
            Event::Vm(run, message) => self.vm_said(run, message, now, out),
            Event::Device(process, message) => self.device_said(process, message, now, out),
            Event::Broken(process, why) => self.broken(process, &why, out),
            Event::Exited(process, exit) => self.exited(process, exit, now, out),
            Event::Gone(process) => self.gone(process, now, out),
            Event::Time => self.time(now, out),
        }
        self.settle(out);
        actions
    }

    /// When [`Event::Time`] is due.
    pub fn next_deadline(&self) -> Option<Moment> {
        let deadlines = self.vms.values().flat_map(|vm| [vm.life.deadline(), vm.orders.deadline(), vm.lost_deadline()]);
        deadlines.flatten().min()
    }

    fn parent_said(&mut self, message: ToVmm, now: Moment, out: &mut Vec<Action>) {
        match message {
            ToVmm::Kvm => self.host_fd(HostFd::Kvm, out),
            ToVmm::Psp => self.host_fd(HostFd::Psp, out),
            ToVmm::Config(config) => self.verbose(config.debug, out),
            ToVmm::StartVm(start) => self.start(*start, out),
            ToVmm::StartDevice { vm, device, spec } => self.start_device(vm, device, *spec, out),
            ToVmm::StartEnd { vm } => self.start_end(vm, out),
            ToVmm::StartCancel { vm } => self.start_cancel(vm, out),
            ToVmm::Terminate { request, vm, how } => self.terminate(request, vm, how, now, out),
            ToVmm::Info { request } => self.info(request, out),
            ToVmm::Order { request, vm, order } => self.order(request, vm, order, now, out),
            ToVmm::AskDevice { request, vm, device, ask } => self.ask_device(request, vm, device, ask, out),
            ToVmm::Verbose { debug } => self.verbose(debug, out),
        }
    }

    /// Forgets the VMs whose last process is gone, and says so.
    fn settle(&mut self, out: &mut Vec<Action>) {
        self.fail_orders_of_ending(out);
        let over = |vm: &Vm| vm.alive.is_empty() && matches!(vm.life, Life::Ending { .. });
        let ids: Vec<VmId> = self.vms.iter().filter(|(_, vm)| over(vm)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(Vm { run, life: Life::Ending { outcome, .. }, .. }) = self.vms.remove(&id) else { continue };
            out.push(Action::HangUp(run));
            out.push(Action::Release(run));
            out.push(Action::Reply(match outcome {
                Outcome::StartFailed(failure) => ToParent::StartDone { vm: id, result: Err(failure) },
                Outcome::Ended(end) => ToParent::Ended { vm: id, end },
            }));
        }
        if self.ending && self.vms.is_empty() {
            out.push(Action::Quit);
        }
    }

    /// Descriptors that a VM needs at most: its files, and of each process two; of each device a socket, a pipe, what it keeps and
    /// what it serves; while one starts the other ends, and copies.
    fn descriptors_of(vm: &StartVm) -> u64 {
        11 + 6 * u64::from(vm.devices) + 2 * u64::from(vm.bases)
    }

    fn of_run(&mut self, run: Run) -> Option<(VmId, &mut Vm)> {
        self.vms.iter_mut().find(|(_, vm)| vm.run == run).map(|(id, vm)| (*id, vm))
    }
}

fn log_of(vm: &StartVm, level: Level, text: String) -> Action {
    Action::LogOf(vm.name.clone(), vm.maker, level, text)
}

impl Vm {
    /// A line of the log that is of it.
    fn log(&self, level: Level, text: String) -> Action {
        log_of(&self.start, level, text)
    }

    /// Whether its start was answered with success: its end is told by `Ended` then.
    fn had_started(&self) -> bool {
        match &self.life {
            Life::Described | Life::Spawning { .. } | Life::Preparing { .. } | Life::Beginning { .. } => false,
            Life::Up { .. } => true,
            Life::Ending { outcome, .. } => matches!(outcome, Outcome::Ended(_)),
        }
    }

    fn kill_all(&self, signal: Signal, out: &mut Vec<Action>) {
        out.extend(self.alive.iter().map(|member| Action::Kill(self.process(*member), signal)));
    }

    fn process(&self, member: Member) -> Process {
        Process { run: self.run, member }
    }

    fn all_called(&self, members: &BTreeSet<Member>) -> String {
        members.iter().map(|member| self.called(*member)).collect::<Vec<_>>().join(", ")
    }

    /// As logs and ps(1) call a process of it.
    fn called(&self, member: Member) -> String {
        match member {
            Member::Vm => "vm".to_owned(),
            Member::Device(index) => {
                self.devices.get(&index).map_or_else(|| format!("device {index}"), Spec::to_string)
            }
        }
    }
}

impl Life {
    fn deadline(&self) -> Option<Moment> {
        match self {
            Life::Preparing { deadline, .. } | Life::Beginning { deadline, .. } => Some(*deadline),
            Life::Up { course, .. } => course.deadline(),
            Life::Ending { deadline, .. } => *deadline,
            Life::Described | Life::Spawning { .. } => None,
        }
    }

    /// The vm process, while there is one that answers.
    fn pid(&self) -> Option<u32> {
        match self {
            Life::Preparing { pid, .. } | Life::Beginning { pid, .. } | Life::Up { pid, .. } => Some(*pid),
            Life::Described | Life::Spawning { .. } | Life::Ending { .. } => None,
        }
    }
}

impl Course {
    fn deadline(&self) -> Option<Moment> {
        match self {
            Course::Stopping(Stage::Asked { until, presses }) => {
                presses.map(Presses::next).into_iter().chain([*until]).min()
            }
            Course::Stopping(Stage::Terminated(deadline)) => Some(*deadline),
            Course::Running | Course::Leaving | Course::Stopping(Stage::Killed) => None,
        }
    }
}
