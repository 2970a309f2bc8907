//! What was killed and is not gone: whose it is, who hears of it, and how much of it one user may have.

use log::Level;
use proto::client::Unkillable;
use proto::{Code, Failure, VmId};

use super::life::Vm;
use super::{Action, Registry};

/// Processes that a user may have which can't be killed, before no VM of his is started: each is a process, its memory and
/// its descriptors, for as long as a disk or a mount does not answer.
pub const MAX_OF_USER: usize = 8;

impl Registry {
    /// Those that are new are told to the log. Whose they are is what their VM's user was, also when that is gone.
    pub(super) fn found_unkillable(&mut self, found: Vec<(Option<VmId>, Unkillable)>, out: &mut Vec<Action>) {
        let before = std::mem::take(&mut self.unkillable);
        for (vm, mut found) in found {
            let known = before.iter().find(|known| (known.pid, &known.what) == (found.pid, &found.what));
            if let Some(known) = known {
                self.unkillable.push(known.clone());
                continue;
            }
            let vm = self.vms.iter().find(|known| Some(known.id) == vm);
            found.uid = vm.map_or(0, user_of);
            let text = format!(
                "{}, pid {}, can't be killed: it waits in the kernel, as for a mount or a disk that does not answer",
                found.what, found.pid
            );
            out.push(match vm {
                Some(vm) => vm.definition.logger()(Level::Warn, text),
                None => Action::Log(Level::Warn.into(), text),
            });
            self.unkillable.push(found);
        }
    }

    /// Whether a VM of this user may start. Root has the host anyway.
    pub(super) fn may_leave_more(&self, id: VmId) -> Result<(), Failure> {
        let user = self.vms.iter().find(|vm| vm.id == id).map_or(0, user_of);
        let count = self.unkillable.iter().filter(|left| left.uid == user).count();
        if user == 0 || count < MAX_OF_USER {
            return Ok(());
        }
        let text = format!("{count} processes of VMs of uid {user} can't be killed; vmctl status lists them");
        Err(Failure::new(Code::NotPermitted, text))
    }
}

/// Who made it, else its owner.
fn user_of(vm: &Vm) -> u32 {
    vm.definition.user.as_ref().map_or(vm.definition.owner.uid, |user| user.uid)
}
