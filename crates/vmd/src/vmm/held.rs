//! The descriptors that vmm holds for launches, until they are passed on, and for all VMs.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use proto::device::ToDevice;
use proto::vm::ToVm;

use super::running::{HostFd, Run, Slot};

/// What is held. Each descriptor is closed when it was taken and sent, or with its launch's `release`.
#[derive(Debug, Default)]
pub struct Held {
    runs: BTreeMap<Run, BTreeMap<Slot, OwnedFd>>,
    hosts: BTreeMap<HostFd, OwnedFd>,
}

/// A message's descriptor is not here: it came too early, or twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not held")]
pub struct Missing(pub Slot);

impl Held {
    /// Keeps descriptors for a launch, in the order of the slots.
    pub fn hold(&mut self, run: Run, slots: Vec<Slot>, fds: Vec<OwnedFd>) {
        self.runs.entry(run).or_default().extend(slots.into_iter().zip(fds));
    }

    /// Keeps a descriptor for all VMs.
    pub fn hold_host(&mut self, which: HostFd, fd: Option<OwnedFd>) {
        self.hosts.extend(fd.map(|fd| (which, fd)));
    }

    /// Closes what is left of a launch.
    pub fn release(&mut self, run: Run) {
        self.runs.remove(&run);
    }

    /// Lends one of a launch's.
    pub fn lend(&self, run: Run, slot: Slot) -> Option<BorrowedFd<'_>> {
        self.runs.get(&run)?.get(&slot).map(AsFd::as_fd)
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
            ToVm::Begin | ToVm::PowerButton | ToVm::Order(_) | ToVm::ConfigChanged { .. } | ToVm::Verbose { .. } => {
                Ok(Vec::new())
            }
        }
    }

    /// What goes with a message to the process of the device of this index, in its order.
    pub fn for_device(&mut self, run: Run, device: u8, message: &ToDevice) -> io::Result<Vec<OwnedFd>> {
        match message {
            ToDevice::Start { spec, .. } => {
                let resources = (0..=u8::MAX).take(spec.kind().fds).map(|fd| Slot::Device(device, fd));
                [Slot::Back(device)].into_iter().chain(resources).map(|slot| self.take(run, slot)).collect()
            }
            ToDevice::Ask(_) | ToDevice::Verbose { .. } => Ok(Vec::new()),
        }
    }

    fn take(&mut self, run: Run, slot: Slot) -> io::Result<OwnedFd> {
        let held = self.runs.get_mut(&run).and_then(|slots| slots.remove(&slot));
        held.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, Missing(slot)))
    }
}
