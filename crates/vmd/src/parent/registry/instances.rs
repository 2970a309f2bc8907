//! VMs that users make from one that allows it (openbsd/daemon.md, 3.2), and how much of the host those may take
//! (openbsd/daemon.md, 5.4).

use config::instance::{Requester, may_create};
use model::VmName;
use proto::client::{Start, VmRef};
use proto::{Code, Failure, VmId};

use super::asking::Asker;
use super::definition::of_request;
use super::known::Known;
use super::life::Vm;
use super::{Action, Registry};

/// CPUs of all VMs of a user that run.
pub const MAX_CPUS: u64 = 4;
/// MiB of their memory.
pub const MAX_MEMORY: u64 = 2048;
/// Their network cards.
pub const MAX_NICS: u64 = 8;

impl Registry {
    /// Everybody may learn whether the template exists, as from status; the rest only those who may make instances of
    /// it.
    pub(super) fn instance(
        &mut self,
        asker: &Asker,
        start: &Start,
        template: &VmName,
        out: &mut Vec<Action>,
    ) -> Result<VmId, Failure> {
        let VmRef::Name(name) = &start.vm else {
            return Err(Failure::new(Code::Invalid, "an instance needs a name of its own, which can't be a number"));
        };
        let unknown = || Failure::new(Code::ParentInvalid, format!("template \"{template}\" not found"));
        let template = self.vms.iter().find(|vm| vm.definition.name == *template).ok_or_else(unknown)?;
        let template = template.definition.vm.clone();
        let gids = asker.who.gids();
        may_create(&template, Requester { uid: asker.who.uid, gids: &gids })
            .map_err(|_| may_not_create(name, &template.name, asker.who.uid))?;
        if self.vms.iter().any(|vm| vm.definition.name == *name) {
            return Err(Failure::new(Code::Exists, format!("vm \"{name}\" exists; give the instance another name")));
        }
        let mut names = Known::new(&self.vms);
        let definition = of_request(start, name, Some((&template, &asker.who)), &self.known_switches(), &mut names)?;
        let (owner, unnamed) = (definition.owner, names.unnamed);
        let id = self.register(definition)?;
        out.extend(unnamed.then_some(Action::NameOwner(id, owner)));
        Ok(id)
    }

    /// Whether one more VM leaves what its user's VMs take within bounds. What vm.conf defines is the administrator's
    /// word, and not counted.
    pub(super) fn within_limits(&self, id: VmId, cpus: Option<u8>) -> Result<(), Failure> {
        let Some(vm) = self.vms.iter().find(|vm| vm.id == id) else { return Ok(()) };
        let Some(user) = vm.definition.user.as_ref().map(|user| user.uid) else { return Ok(()) };
        let others: Vec<&Vm> = self.vms.iter().filter(|other| other.id != id && takes(other, user)).collect();
        let sum = |of: fn(&Vm) -> u64| others.iter().map(|vm| of(vm)).sum::<u64>();
        let own = &vm.definition;
        for (what, used, wanted, most) in [
            ("cpus", sum(cpus_of), u64::from(cpus.unwrap_or(own.cpus)), MAX_CPUS),
            ("MiB of memory", sum(|vm| vm.definition.memory.mib()), own.memory.mib(), MAX_MEMORY),
            ("interfaces", sum(nics_of), nics_of(vm), MAX_NICS),
        ] {
            if used.saturating_add(wanted) > most {
                let text = format!(
                    "uid {user} has {used} {what} in VMs of its own and asks for {wanted} more; at most {most} are allowed"
                );
                return Err(Failure::new(Code::NotPermitted, text));
            }
        }
        Ok(())
    }
}

/// The text says where vm.conf names those who may, but not who they are.
fn may_not_create(name: &VmName, template: &model::VmName, uid: u32) -> Failure {
    let text = format!(
        "vm \"{name}\": uid {uid} may make no instance of \"{template}\"; \"allow instance {{ owner ... }}\" of that vm in \
         vm.conf says who may"
    );
    Failure::new(Code::NotPermitted, text)
}

fn takes(vm: &Vm, user: u32) -> bool {
    let theirs = vm.definition.user.as_ref().is_some_and(|theirs| theirs.uid == user);
    theirs && vm.runs()
}

fn cpus_of(vm: &Vm) -> u64 {
    u64::from(vm.cpus)
}

fn nics_of(vm: &Vm) -> u64 {
    u64::try_from(vm.definition.nics.len()).unwrap_or(u64::MAX)
}
