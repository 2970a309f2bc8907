//! VMs that can't be started as the file has them: what it names was not there when it was read. They are listed as such. A file
//! may come, and is looked for at each start; an owner is looked up when the file is read again.

use log::Level;
use model::{Text, VmName};
use proto::client::Reply;
use proto::{Code, Failure};

use super::life::{Asked, Life, Vm};
use super::{Action, Registry};

/// Why a VM can't be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// It is not known whose the VM is, so that nobody may have it.
    pub owner: bool,
    /// With its place in the file.
    pub reason: String,
}

impl Registry {
    /// The file was read, and has these: who asked for that is told, and the log.
    pub(super) fn tell_troubles(&mut self, asked: Option<Asked>, out: &mut Vec<Action>) {
        for vm in self.vms.iter().filter(|vm| vm.pid().is_none()) {
            let Some(trouble) = self.unfit.get(&vm.definition.name) else { continue };
            let text = format!("vm \"{}\" is not startable: {}", vm.definition.name, trouble.reason);
            self.failures.keep(vm, &Failure::new(Code::NotFound, &trouble.reason));
            out.extend(asked.map(|asked| Action::Answer(asked, Reply::Note(Text::cut(&text)))));
            out.push(vm.definition.logger()(Level::Warn, text));
        }
    }

    /// It does not run, and the file names what was not there.
    pub(super) fn is_unfit(&self, vm: &Vm) -> bool {
        matches!(vm.life, Life::Stopped) && vm.definition.from_config && self.unfit.contains_key(&vm.definition.name)
    }

    /// Whether a start may be tried.
    pub(super) fn may_try(&self, name: &VmName) -> Result<(), Failure> {
        match self.unfit.get(name) {
            Some(Trouble { owner: true, reason }) => {
                let text = format!("vm \"{name}\" is not startable: {reason}; make the account, then vmctl reload");
                Err(Failure::new(Code::NotFound, text))
            }
            Some(Trouble { owner: false, .. }) | None => Ok(()),
        }
    }
}
