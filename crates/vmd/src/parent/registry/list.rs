//! What `vmctl status` and the SNMP master are told. For vmctl: the running first, in order of
//! start, then the others in order of registration.

use std::time::Instant;

use model::{List, MacAddr};
use proto::agentx::Row;
use proto::client::{MAX_LINES, MAX_UNKILLABLE, Reply, VmLine, VmState};

use super::life::{Asked, Life, Vm};
use super::{Action, Registry};

impl Registry {
    pub(super) fn list(&self, asked: Asked, now: Instant, out: &mut Vec<Action>) {
        let mut vms: Vec<&Vm> = self.vms.iter().collect();
        vms.sort_by_key(|vm| if vm.pid().is_some() { (0, vm.started) } else { (1, 0) });
        for some in vms.chunks(MAX_LINES) {
            let lines: Vec<VmLine> = some.iter().map(|vm| self.seen(line(vm, now), vm)).collect();
            out.push(Action::Answer(asked, Reply::Vms(lines.try_into().unwrap_or_default())));
        }
        for some in self.unkillable.chunks(MAX_UNKILLABLE) {
            out.push(Action::Answer(asked, Reply::Unkillable(some.to_vec().try_into().unwrap_or_default())));
        }
        out.push(Action::Answer(asked, Reply::Done));
    }

    /// Whether it could be started is the registry's to say.
    fn seen(&self, line: VmLine, vm: &Vm) -> VmLine {
        if self.is_unfit(vm) { VmLine { state: VmState::NotStartable, ..line } } else { line }
    }

    /// What the VM-MIB says of each VM, and the process whose resident memory it uses, while it runs.
    pub fn rows(&self) -> Vec<(Row, Option<u32>)> {
        self.vms.iter().map(|vm| (row(vm), vm.pid())).collect()
    }
}

fn row(vm: &Vm) -> Row {
    let definition = &vm.definition;
    Row {
        vm: vm.id,
        name: definition.name.clone(),
        state: state(vm),
        disabled: definition.from_config && !definition.enabled,
        cpus: definition.cpus,
        memory: definition.memory,
        used: None,
    }
}

fn line(vm: &Vm, now: Instant) -> VmLine {
    let definition = &vm.definition;
    let macs: Vec<MacAddr> = (0u8..).zip(&definition.cards).map(|(index, _)| vm.mac(index)).collect();
    VmLine {
        id: vm.id.0,
        name: definition.name.clone(),
        description: definition.description.clone(),
        pid: vm.pid(),
        cpus: if vm.pid().is_some() { vm.cpus } else { definition.cpus },
        memory: definition.memory,
        used: None,
        tty: vm.tty.clone().filter(|_| vm.pid().is_some()),
        uid: definition.owner.uid,
        gid: definition.owner.gid,
        owner: definition.owner_name.clone(),
        state: state(vm),
        macs: List::try_from(macs).unwrap_or_default(),
        balloon: vm.balloon(now),
    }
}

fn state(vm: &Vm) -> VmState {
    match &vm.life {
        Life::Waiting => VmState::Waiting,
        Life::Stopped => VmState::Stopped,
        Life::Preparing(_) | Life::Launching { .. } => VmState::Starting,
        Life::Running { paused: true, .. } => VmState::Paused,
        Life::Running { pausing, .. } if !pausing.is_empty() => VmState::Pausing,
        Life::Running { .. } => VmState::Running,
        Life::Stopping { .. } => VmState::Stopping,
    }
}
