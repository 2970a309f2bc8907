//! One VM and what it does now. A state carries what only that state has.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use model::{BootDevice, MemorySize, Text, UserPath};
use proto::client::Reply;
use proto::device::Report;
use proto::probe::KernelKind;
use proto::{Code, ConnId, Failure, RequestId, VmId};

use super::cdrom::Change;
use super::chain::Chain;
use super::definition::Definition;
use super::rate::Rate;
use super::{Action, File, HostBytes, Run};
use crate::parent::network::local::Pair;

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The client's connection.
    pub conn: ConnId,
    /// The client's number for its request.
    pub id: RequestId,
}

/// A VM on the list.
#[derive(Debug)]
pub struct Vm {
    /// Its id.
    pub id: VmId,
    /// Of its host, for the addresses of its cards.
    pub host: HostBytes,
    /// What it is to be.
    pub definition: Definition,
    /// What it is to be from its next start on, where vm.conf says something else since it runs.
    pub next: Option<Box<Definition>>,
    /// What it does.
    pub life: Life,
    /// The start that its life is of.
    pub run: Option<Run>,
    /// CPUs of that start.
    pub cpus: u8,
    /// What that start was told to boot from.
    pub boot_device: Option<BootDevice>,
    /// Its starts.
    pub rate: Rate,
    /// Its console, from the first start until it is released.
    pub tty: Option<Text<64>>,
    /// The ends of its local interfaces, by index: those of the start that made its taps.
    pub locals: BTreeMap<u8, Pair>,
    /// Which of its cards may send no frames of DHCP servers and routers, as that start found their switches.
    pub guarded: BTreeSet<u8>,
    /// The files of its disks, by index: those of the start that opened them.
    pub chains: BTreeMap<u8, Chain>,
    /// What its guest was asked to get along with, since it was started.
    pub wanted: Option<MemorySize>,
    /// What is in its CD-ROM drive, since it was started.
    pub medium: Option<UserPath>,
    /// What is being put into it, or taken out.
    pub change: Option<Change>,
    /// What its devices last said of its guest, by index, and when.
    pub reports: BTreeMap<u8, (Instant, Report)>,
    /// Order among the started, for the list.
    pub started: u64,
    /// Who waits for its end.
    pub waits: Vec<Asked>,
}

/// What a VM does.
#[derive(Debug)]
pub enum Life {
    /// For its turn in the staggered start.
    Waiting,
    /// Known, not running.
    Stopped,
    /// Its files, taps and console are being made.
    Preparing(Box<Preparation>),
    /// vmm starts it.
    Launching {
        /// Who gets the answer.
        starter: Option<Asked>,
        /// Somebody wants it to end as soon as it has started.
        stop: Option<proto::vmm::Stop>,
        /// When vmm has taken too long.
        deadline: Instant,
    },
    /// It runs.
    Running {
        /// Its vm process.
        pid: u32,
        /// Its guest stands still until it is unpaused.
        paused: bool,
        /// Those who have it paused, and were not answered yet.
        pausing: BTreeSet<RequestId>,
    },
    /// Somebody, or the guest itself, wants it to end.
    Stopping {
        /// Its vm process.
        pid: u32,
    },
}

impl Life {
    /// It has begun to run, or goes on.
    pub fn running(pid: u32) -> Self {
        Self::Running { pid, paused: false, pausing: BTreeSet::new() }
    }
}

/// A start that is being prepared.
#[derive(Debug)]
pub struct Preparation {
    /// Who gets the answer.
    pub starter: Option<Asked>,
    /// Path of the kernel that came for this boot alone.
    pub given: Option<UserPath>,
    /// CPUs for this boot alone.
    pub cpus: Option<u8>,
    /// When it has taken too long.
    pub deadline: Instant,
    /// Files neither open nor found fit.
    pub files: BTreeSet<File>,
    /// Cards without a tap.
    pub taps: BTreeSet<u8>,
    /// The console, once it is there.
    pub tty: Option<Text<64>>,
    /// How the kernel is started, once the probe said.
    pub kernel: Option<KernelKind>,
}

impl Vm {
    /// One that has never started.
    pub fn new(id: VmId, host: HostBytes, definition: Definition, life: Life) -> Self {
        let cpus = definition.cpus;
        Self {
            id,
            host,
            definition,
            next: None,
            life,
            run: None,
            cpus,
            boot_device: None,
            rate: Rate::default(),
            tty: None,
            locals: BTreeMap::new(),
            guarded: BTreeSet::new(),
            chains: BTreeMap::new(),
            wanted: None,
            medium: None,
            change: None,
            reports: BTreeMap::new(),
            started: 0,
            waits: Vec::new(),
        }
    }

    /// Its vm process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        match self.life {
            Life::Running { pid, .. } | Life::Stopping { pid } => Some(pid),
            Life::Waiting | Life::Stopped | Life::Preparing(_) | Life::Launching { .. } => None,
        }
    }

    /// It has processes, or is about to.
    pub fn runs(&self) -> bool {
        !matches!(self.life, Life::Waiting | Life::Stopped)
    }

    /// When its start has taken too long.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.life {
            Life::Preparing(preparation) => Some(preparation.deadline),
            Life::Launching { deadline, .. } => Some(*deadline),
            Life::Waiting | Life::Stopped | Life::Running { .. } | Life::Stopping { .. } => None,
        }
    }

    /// What asks its guest for something needs one that goes on.
    pub fn must_run(&self) -> Result<(), Failure> {
        match self.life {
            Life::Running { .. } => Ok(()),
            Life::Stopping { .. } => {
                Err(Failure::new(Code::Invalid, format!("vm \"{}\" is being stopped", self.definition.name)))
            }
            Life::Stopped | Life::Waiting | Life::Preparing(_) | Life::Launching { .. } => Err(self.not_running()),
        }
    }

    /// Why what needs one that runs can't be done.
    pub fn not_running(&self) -> Failure {
        Failure::new(Code::Invalid, format!("vm \"{}\" is not running", self.definition.name))
    }

    /// Who waited for its end hears of it.
    pub fn tell_waiters(&mut self, out: &mut Vec<Action>) {
        let reply = Reply::Ended { id: self.id.0 };
        out.extend(std::mem::take(&mut self.waits).into_iter().map(|asked| Action::Answer(asked, reply.clone())));
    }

    /// The disk whose last known file this is.
    pub fn chain(&mut self, file: File) -> Option<&mut Chain> {
        let (disk, nth) = match file {
            File::Kernel | File::Initrd | File::Cdrom | File::Medium => return None,
            File::Disk(disk) => (disk, 0),
            File::Base(disk, nth) => (disk, nth),
        };
        self.chains.get_mut(&disk).filter(|chain| chain.last() == nth)
    }

    /// The preparation, while it is one.
    pub fn preparation(&mut self) -> Option<&mut Preparation> {
        if let Life::Preparing(preparation) = &mut self.life { Some(preparation) } else { None }
    }
}

impl Preparation {
    /// Nothing is missing.
    pub fn complete(&self) -> bool {
        self.files.is_empty() && self.taps.is_empty() && self.tty.is_some()
    }
}
