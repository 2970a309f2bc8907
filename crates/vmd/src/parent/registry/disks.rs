//! A disk that this daemon itself knows to be in use: told with the VM's name, by its path before the opener is asked, and by the
//! file that it is after the opener found it locked. The locks are what protects a disk, also from other programs; they can't tell
//! who has it.

use model::Disk;
use proto::opener::FileId;
use proto::{Code, Failure, VmId};

use super::Registry;
use super::life::Vm;

impl Registry {
    /// Whether a VM's disks are free, as far as the daemon's own VMs go.
    pub(super) fn disks_are_free(&self, id: VmId) -> Result<(), Failure> {
        let Some(vm) = self.vms.iter().find(|vm| vm.id == id) else { return Ok(()) };
        let name = &vm.definition.name;
        for (at, disk) in vm.definition.disks.iter().enumerate() {
            if vm.definition.disks.iter().take(at).any(|before| excludes(before, disk)) {
                let text = format!("disk \"{}\": given twice to vm \"{name}\"; name another image", disk.path);
                return Err(Failure::new(Code::DiskMissing, text));
            }
            let others = self.vms.iter().filter(|other| other.id != id && may_be_told(vm, other));
            if let Some(other) = others.into_iter().find(|other| has(other, disk)) {
                let other = &other.definition.name;
                let text =
                    format!("disk \"{}\": already in use by vm \"{other}\"; stop it, or name another image", disk.path);
                return Err(Failure::new(Code::DiskMissing, text));
            }
        }
        Ok(())
    }

    /// Who of the daemon's own has a file that is locked, in words.
    pub(super) fn holder(&self, id: VmId, file: FileId) -> Option<String> {
        let vm = self.vms.iter().find(|vm| vm.id == id)?;
        let holds = |other: &&Vm| other.chains.values().any(|chain| chain.has(file));
        let other =
            self.vms.iter().filter(|other| other.id != id && other.runs() && may_be_told(vm, other)).find(holds);
        let name = &vm.definition.name;
        match other {
            Some(other) => {
                Some(format!("already in use by vm \"{}\"; stop it, or name another image", other.definition.name))
            }
            None => {
                holds(&vm).then(|| format!("given to vm \"{name}\" by another of its disks too; name another image"))
            }
        }
    }
}

/// Which images other VMs have is not for a user to find out by asking for them: the lock is enough.
fn may_be_told(vm: &Vm, other: &Vm) -> bool {
    vm.definition.user.is_none() || vm.definition.user == other.definition.user
}

/// Whether it holds the disk now.
fn has(vm: &Vm, disk: &Disk) -> bool {
    vm.runs() && vm.definition.disks.iter().any(|other| excludes(other, disk))
}

/// Whether both can't be open at once: they are one image.
fn excludes(one: &Disk, other: &Disk) -> bool {
    one.path == other.path
}
