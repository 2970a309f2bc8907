//! What is known, in the words of vm.conf: for a file that is loaded beside it, and for what is made from it.

use model::Owner;

use super::Registry;
use super::life::Vm;
use crate::parent::accounts::names::Names;

impl Registry {
    /// VMs and switches.
    pub fn known(&self) -> config::Config {
        let vms = self.vms.iter().map(|vm| (*vm.definition.vm).clone()).collect();
        config::Config { vms, ..self.known_switches() }
    }

    /// Switches alone.
    pub(super) fn known_switches(&self) -> config::Config {
        let switches = self.switches.iter().map(|(switch, _)| switch.spec.clone()).collect();
        config::Config { switches, ..config::Config::default() }
    }
}

/// Names of owners, as far as they are known from other VMs.
pub(super) struct Known<'a> {
    vms: &'a [Vm],
    /// An owner was asked for whom no other VM has.
    pub(super) unnamed: bool,
}

impl<'a> Known<'a> {
    pub(super) fn new(vms: &'a [Vm]) -> Self {
        Self { vms, unnamed: false }
    }
}

impl Names for Known<'_> {
    fn owner(&mut self, owner: Owner) -> String {
        let same = self.vms.iter().find(|vm| vm.definition.owner == owner);
        self.unnamed |= same.is_none();
        let numbers = || owner.gid.map_or_else(|| owner.uid.to_string(), |gid| format!("{}:{gid}", owner.uid));
        match (owner, same) {
            (Owner { uid: 0, gid: None }, _) => "root".to_owned(),
            (_, Some(vm)) => vm.definition.owner_name.to_string(),
            (_, None) => numbers(),
        }
    }
}
