//! vmctl and control. The only conversation between programs of different versions, so it begins with a handshake.

use model::{
    BootDevice, Description, DiskFormat, List, MAX_DISKS, MAX_NICS, MacAddr, MemorySize, SwitchName, Text, UserPath,
    VmName,
};
use serde::{Deserialize, Serialize};

use crate::channel::Message;
use crate::device::MemoryReport;
use crate::failure::{Failure, MAX_TEXT};
use crate::names::RequestId;

/// Where control listens.
pub const SOCKET_PATH: &str = "/run/vmd.sock";
/// Changes whenever a message of this file does.
pub const VERSION: u32 = 14;
/// VMs of one answer: as many of the longest lines as a message holds, so that the queue of a peer has room for 25,000.
pub const MAX_LINES: usize = 100;
/// Unkillable processes of one answer.
pub const MAX_UNKILLABLE: usize = 32;
/// Bytes of one error of a configuration: a message, the line, a caret and a hint.
pub const MAX_WRONG: usize = 4096;

/// What a client says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToControl {
    /// First of all: the version that the client speaks. Answered by `Hello` or `WrongVersion`.
    Hello {
        /// [`VERSION`].
        version: u32,
    },
    /// A request; every answer to it carries the same id.
    Ask {
        /// Chosen by the client, from 1 on; no other open request of the connection has it.
        id: RequestId,
        /// What is wanted.
        request: Request,
    },
}

/// What control says to a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToClient {
    /// The versions agree.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// The daemon's release.
        release: Text<32>,
    },
    /// They don't; the connection ends.
    WrongVersion {
        /// What this daemon speaks.
        daemon: u32,
        /// What the client said.
        client: u32,
    },
    /// An answer to a request; one with id 0 that nobody asked for is `Failed`, and says why the connection ends.
    Answer {
        /// The request's.
        id: RequestId,
        /// The answer.
        reply: Reply,
    },
}

impl ToClient {
    /// The greeting of this release.
    pub fn hello() -> Self {
        Self::Hello { version: VERSION, release: Text::cut(env!("CARGO_PKG_VERSION")) }
    }
}

/// What a client can want.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// All VMs. Answered by `Vms`, as many as it takes, then `Done`.
    List,
    /// What is told of one VM beside its line of the list. Answered by `Detail`, which says nothing where there is nothing to
    /// say, no such VM, or none that the asker may use.
    Detail {
        /// Which.
        vm: VmRef,
    },
    /// Start a VM. Answered by `Started` or `Failed`.
    Start(Box<Start>),
    /// End a VM. Answered by `Accepted`, and with `wait` by `Ended` instead, or `Failed`.
    Stop {
        /// Which.
        vm: VmRef,
        /// At once, without asking the guest.
        force: bool,
        /// Answer when it is gone.
        wait: bool,
    },
    /// Answered by `Ended` when the VM ends, or `Failed`.
    Wait {
        /// Which.
        vm: VmRef,
    },
    /// Have a VM that runs do something. Answered by `Accepted` or `Failed`.
    Order {
        /// Which.
        vm: VmRef,
        /// What.
        order: Order,
    },
    /// Ask a guest to get along with so much of its memory. Answered by `Accepted` or `Failed`.
    Memory {
        /// Which.
        vm: VmRef,
        /// All that its balloon leaves it.
        size: MemorySize,
    },
    /// Change what is in the CD-ROM drive of a VM that runs. Answered by `Accepted` when it is changed, or `Failed`.
    Cdrom {
        /// Which.
        vm: VmRef,
        /// Image to put in, opened with the asking user's rights; nothing: the drive is to be empty.
        medium: Option<UserPath>,
        /// Also where the guest has locked the tray.
        force: bool,
    },
    /// Let requests of a disk fail from one on, for tests of a guest's storage. Answered by `Accepted` when that is
    /// armed and by `Done` when it has happened, or `Failed`.
    DiskFail {
        /// Which.
        vm: VmRef,
        /// Its disk, from 0.
        disk: u8,
        /// Requests that count, and fail.
        operation: DiskOperation,
        /// The first that fails, from 1.
        count: u32,
    },
    /// Pause a VM before its guest hears of a disk's flush. Answered as `DiskFail`.
    FlushStop {
        /// Which.
        vm: VmRef,
        /// Its disk, from 0.
        disk: u8,
        /// The flush, from 1.
        count: u32,
    },
    /// Write a VM's state to the descriptor that comes along, then end it. Answered by `Accepted` or `Failed`.
    Send {
        /// Which.
        vm: VmRef,
    },
    /// Start a VM from the state in the descriptor that comes along. Answered by `Started` or `Failed`.
    Receive {
        /// Its new name.
        name: VmName,
    },
    /// How much every process logs. Answered by `Done` or `Failed`.
    Log {
        /// Debug lines too.
        verbose: bool,
    },
    /// Read the configuration again. Answered by `Done`, or by `Wrong` for each error and then `Failed`.
    Reload,
    /// Read one more configuration file. Answered as `Reload`.
    Load {
        /// As the daemon sees it.
        path: UserPath,
    },
    /// Forget. Answered by `Done` or `Failed`.
    Reset {
        /// All VMs, ended at once.
        vms: bool,
        /// All switches.
        switches: bool,
    },
}

/// What a VM that runs can be told to do. It goes unchanged from the client to the vm process, which answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Freeze: no vCPU runs, no device works.
    Pause,
    /// Go on.
    Unpause,
    /// Interrupt what can't be interrupted otherwise: an NMI, by which a guest that hangs writes its crash dump.
    Nmi,
}

impl Order {
    /// The command's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Unpause => "unpause",
            Self::Nmi => "nmi",
        }
    }

    /// What is said of a VM once it is done.
    pub fn done(self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Unpause => "unpaused",
            Self::Nmi => "sent an NMI to",
        }
    }
}

/// A VM, as a user names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum VmRef {
    /// By number.
    Id(u32),
    /// By name.
    Name(VmName),
}

/// How a VM shall start. A VM that exists takes only `kernel`, `cpus` and `boot_device`, for this boot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Which, or the new VM's name.
    pub vm: VmRef,
    /// The VM that this one is an instance of.
    pub instance_of: Option<VmName>,
    /// Guest memory.
    pub memory: Option<MemorySize>,
    /// Virtual CPUs.
    pub cpus: Option<u8>,
    /// Path of the kernel or firmware that comes along as a descriptor, opened by the client itself.
    pub kernel: Option<UserPath>,
    /// Disk images, opened with the asking user's rights.
    pub disks: List<DiskArg, MAX_DISKS>,
    /// CD-ROM image.
    pub cdrom: Option<UserPath>,
    /// Network cards.
    pub nics: List<NicArg, MAX_NICS>,
    /// What to boot from.
    pub boot_device: Option<BootDevice>,
}

/// A disk of a start request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskArg {
    /// The image.
    pub path: UserPath,
    /// From the prefix; without one the extension decides.
    pub format: Option<DiskFormat>,
}

/// A network card of a start request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum NicArg {
    /// On no switch.
    Plain,
    /// With the daemon's own addresses and DHCP.
    Local,
    /// On a switch of vm.conf.
    Switch(SwitchName),
}

/// What a guest asks of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskOperation {
    /// Read sectors.
    Read,
    /// Write sectors.
    Write,
    /// Have what was written on stable storage.
    Flush,
}

/// What a client gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Some VMs of a list.
    Vms(List<VmLine, MAX_LINES>),
    /// Some processes that can't be killed, after the VMs of a list.
    Unkillable(List<Unkillable, MAX_UNKILLABLE>),
    /// Of one VM.
    Detail(Detail),
    /// Done; nothing more comes.
    Done,
    /// The VM runs.
    Started {
        /// Its id.
        id: u32,
        /// Its console's path.
        tty: Text<64>,
    },
    /// Under way.
    Accepted {
        /// The VM's id.
        id: u32,
    },
    /// The VM ended.
    Ended {
        /// Its id.
        id: u32,
    },
    /// An error of a configuration, with its place; `Failed` follows.
    Wrong(Text<MAX_WRONG>),
    /// What a client should know besides; the answer follows.
    Note(Text<MAX_WRONG>),
    /// It could not be done.
    Failed(Failure),
}

/// What `vmctl status` shows of a VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmLine {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: VmName,
    /// What it is for.
    pub description: Option<Description>,
    /// Process id of its vm process, while it runs.
    pub pid: Option<u32>,
    /// Virtual CPUs.
    pub cpus: u8,
    /// Configured memory.
    pub memory: MemorySize,
    /// Resident bytes of the vm process, while it runs.
    pub used: Option<u64>,
    /// Its console's path.
    pub tty: Option<Text<64>>,
    /// User id it runs for, or its owner's.
    pub uid: u32,
    /// Its owner group.
    pub gid: Option<u32>,
    /// `user[:group]` by name, where names are known to the daemon.
    pub owner: Text<80>,
    /// What it does.
    pub state: VmState,
    /// MAC addresses of its network cards.
    pub macs: List<MacAddr, MAX_NICS>,
    /// Its balloon, while it runs with one.
    pub balloon: Option<Balloon>,
}

/// What is told of one VM beside its line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// Its last failure, unless it has started well since.
    pub failure: Option<PastFailure>,
    /// What changes with its next start, where vm.conf says something else since it runs.
    pub next: Option<Text<MAX_WRONG>>,
    /// What is in its CD-ROM drive, while it runs with one; empty: nothing.
    pub cdrom: Option<UserPath>,
}

/// Why a VM did not start, or why it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastFailure {
    /// How many seconds ago.
    pub age: u32,
    /// As in the log.
    pub reason: Text<MAX_TEXT>,
}

/// A process that was killed and is not gone: the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unkillable {
    /// What it was.
    pub what: Text<80>,
    /// Its number.
    pub pid: u32,
    /// When it was killed, in seconds since 1970 began.
    pub since: u64,
    /// For whose VM it worked; 0 if for none.
    pub uid: u32,
}

/// The balloon of a VM that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balloon {
    /// What the guest was asked to get along with.
    pub wanted: MemorySize,
    /// What it last reported, and how many seconds ago; nothing before a driver did.
    pub report: Option<(u32, MemoryReport)>,
}

/// States as `vmctl status` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmState {
    /// Waits for its turn in the staggered start.
    Waiting,
    /// Being started.
    Starting,
    /// Runs.
    Running,
    /// Its devices finish what is under way, then it is paused.
    Pausing,
    /// Frozen.
    Paused,
    /// Asked to end.
    Stopping,
    /// Known, not running.
    Stopped,
    /// The same, and vm.conf names for it what was not there.
    NotStartable,
}

impl Request {
    /// Descriptors that come with it.
    pub fn fds(&self) -> usize {
        match self {
            Request::Start(start) => usize::from(start.kernel.is_some()),
            Request::Send { .. } | Request::Receive { .. } => 1,
            Request::List
            | Request::Detail { .. }
            | Request::Stop { .. }
            | Request::Wait { .. }
            | Request::Order { .. }
            | Request::Memory { .. }
            | Request::Cdrom { .. }
            | Request::DiskFail { .. }
            | Request::FlushStop { .. }
            | Request::Log { .. }
            | Request::Reload
            | Request::Load { .. }
            | Request::Reset { .. } => 0,
        }
    }
}

impl Message for ToControl {
    fn fds(&self) -> usize {
        match self {
            ToControl::Hello { .. } => 0,
            ToControl::Ask { request, .. } => request.fds(),
        }
    }
}

impl Message for ToClient {
    fn fds(&self) -> usize {
        match self {
            ToClient::Hello { .. } | ToClient::WrongVersion { .. } | ToClient::Answer { .. } => 0,
        }
    }
}
