//! The descriptors that vmm holds, each by its name: for a launch until they are passed on, of its processes until their end,
//! and for all VMs. With what `running` knows of a VM, those of its launch are all that a successor of vmm would need.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use proto::RequestId;
use proto::device::{Ask, ToDevice};
use proto::vm::ToVm;

use super::running::{HostFd, Member, Process, Run, Slot};
use super::talk::{Living, Talk};

/// What is held.
#[derive(Debug, Default)]
pub struct Held {
    pub(super) runs: BTreeMap<Run, Launch>,
    hosts: BTreeMap<HostFd, OwnedFd>,
}

/// What is held of one launch.
#[derive(Debug, Default)]
pub struct Launch {
    /// To be passed on: each is closed when it was taken and sent, or by `release`. What devices keep and serve is passed on as a copy.
    slots: BTreeMap<Slot, OwnedFd>,
    /// The pidfd of each process that was not reaped yet, and the channel to it.
    pub(super) living: BTreeMap<Member, Living>,
}

/// A message's descriptor is not here: it came too early, or twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its {0} did not come")]
pub struct Missing(pub Slot);

impl Held {
    /// Keeps descriptors for a launch, in the order of the slots.
    pub fn hold(&mut self, run: Run, slots: Vec<Slot>, fds: Vec<OwnedFd>) {
        self.runs.entry(run).or_default().slots.extend(slots.into_iter().zip(fds));
    }

    /// Keeps a descriptor for all VMs.
    pub fn hold_host(&mut self, which: HostFd, fd: Option<OwnedFd>) {
        self.hosts.extend(fd.map(|fd| (which, fd)));
    }

    /// Closes what was to be passed on.
    pub fn release(&mut self, run: Run) {
        if let Some(launch) = self.runs.get_mut(&run) {
            launch.slots.clear();
        }
        self.runs.retain(|_, launch| !launch.slots.is_empty() || !launch.living.is_empty());
    }

    /// Keeps a process that was started.
    pub fn keep(&mut self, process: Process, living: Living) {
        self.runs.entry(process.run).or_default().living.insert(process.member, living);
    }

    /// Forgets one that was reaped.
    pub fn forget(&mut self, process: Process) -> Option<Living> {
        self.runs.get_mut(&process.run)?.living.remove(&process.member)
    }

    /// A process that was not reaped yet.
    pub fn living(&mut self, process: Process) -> Option<&mut Living> {
        self.runs.get_mut(&process.run)?.living.get_mut(&process.member)
    }

    /// The conversation with it, unless that is over.
    pub fn talk(&mut self, process: Process) -> Option<&mut Talk> {
        self.living(process)?.talk.as_mut()
    }

    /// All that are open with a launch.
    pub fn talks(&self, run: Run) -> impl Iterator<Item = &Talk> {
        self.runs
            .get(&run)
            .into_iter()
            .flat_map(|launch| launch.living.values())
            .filter_map(|living| living.talk.as_ref())
    }

    /// Lends one of a launch's.
    pub fn lend(&self, run: Run, slot: Slot) -> Option<BorrowedFd<'_>> {
        self.runs.get(&run)?.slots.get(&slot).map(AsFd::as_fd)
    }

    /// What goes with a message to a vm process, in its order.
    pub fn for_vm(&mut self, run: Run, message: &ToVm) -> io::Result<Vec<OwnedFd>> {
        match message {
            ToVm::Describe(description) => {
                let kvm = self.hosts.get(&HostFd::Kvm).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
                let mut fds = vec![kvm.try_clone()?];
                for slot in [Slot::Console, Slot::Memory, Slot::Kernel] {
                    fds.push(self.take(run, slot)?);
                }
                if description.initrd {
                    fds.push(self.take(run, Slot::Initrd)?);
                }
                Ok(fds)
            }
            ToVm::Device { device, .. } => Ok(vec![self.take(run, Slot::Front(*device))?]),
            ToVm::Begin | ToVm::AskToStop | ToVm::Order(_) | ToVm::ConfigChanged { .. } | ToVm::Verbose { .. } => {
                Ok(Vec::new())
            }
        }
    }

    /// What goes with a message to the process of the device of this index, in its order.
    pub fn for_device(&mut self, run: Run, device: u8, message: &ToDevice) -> io::Result<Vec<OwnedFd>> {
        match message {
            ToDevice::Start { spec, .. } => {
                let resources = (0..=u8::MAX).take(spec.fds()).map(|fd| Slot::Device(device, fd));
                let own = [Slot::Back(device), Slot::Lives(device)];
                let own: Vec<OwnedFd> = own.map(|slot| self.take(run, slot)).into_iter().collect::<io::Result<_>>()?;
                let kept = (spec.keeps() > 0).then_some(Slot::Kept(device));
                let copies = kept.into_iter().chain(resources).map(|slot| self.copy(run, slot));
                own.into_iter().map(Ok).chain(copies).collect()
            }
            ToDevice::Ask(_) | ToDevice::Verbose { .. } => Ok(Vec::new()),
        }
    }

    /// What goes with a request to it: copies, for its next process too.
    pub fn for_request(&self, run: Run, device: u8, request: RequestId, ask: &Ask) -> io::Result<Vec<OwnedFd>> {
        (0..ask.fds()).map(|_| self.copy(run, Slot::Asked(device, request))).collect()
    }

    /// Closes one of a launch's.
    pub fn close(&mut self, run: Run, slot: Slot) {
        self.runs.get_mut(&run).and_then(|launch| launch.slots.remove(&slot));
    }

    /// Holds one of a launch's under another name.
    pub fn rename(&mut self, run: Run, from: Slot, to: Slot) {
        if let Some(launch) = self.runs.get_mut(&run) {
            let moved = launch.slots.remove(&from);
            launch.slots.extend(moved.map(|fd| (to, fd)));
        }
    }

    /// For the next process too.
    fn copy(&self, run: Run, slot: Slot) -> io::Result<OwnedFd> {
        let held = self.lend(run, slot);
        held.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, Missing(slot)))?.try_clone_to_owned()
    }

    fn take(&mut self, run: Run, slot: Slot) -> io::Result<OwnedFd> {
        let held = self.runs.get_mut(&run).and_then(|launch| launch.slots.remove(&slot));
        held.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, Missing(slot)))
    }
}
