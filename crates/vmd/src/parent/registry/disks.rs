//! A disk that this daemon itself knows to be in use: told with the VM's name, before the opener is asked. Its locks are
//! what protects the disk, also from other programs and where a path is another one for the same file; they can't tell whom.

use model::Disk;
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
