//! What one start has to open and make, or why it can't begin. Changes nothing but the count of starts and the addresses that
//! the VM's guest is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use model::{BootDevice, SwitchName, UserPath, VmName};
use proto::opener::What;
use proto::privileged::{Alias, TapSpec};
use proto::probe::ToProbe;
use proto::{Code, Failure, VmId};

use super::access::Who;
use super::cards::Card;
use super::chain::Chain;
use super::definition::{Definition, obstacle};
use super::life::{Asked, Life, Preparation, Vm};
use super::rate::{FAST, MAX_FAST};
use super::{Action, File, PREPARE_LIMIT, Registry, Run};
use crate::parent::network::local::Locals;

/// What a client gave for this boot alone.
#[derive(Debug, Default)]
pub(super) struct ThisBoot {
    /// Path of the kernel that came with the request; the edge holds it for this run.
    pub(super) kernel: Option<UserPath>,
    /// CPUs.
    pub(super) cpus: Option<u8>,
    /// What to boot from; with one, a reboot of the guest is its end.
    pub(super) device: Option<BootDevice>,
}

impl Registry {
    /// What a start needs, or why it can't begin.
    pub(super) fn plan(&mut self, id: VmId, boot: &ThisBoot, now: Instant) -> Result<Plan, Failure> {
        self.disks_are_free(id)?;
        self.within_limits(id, boot.cpus)?;
        self.may_leave_more(id)?;
        let unknown = || Failure::new(Code::NotFound, "vm not found");
        let vm = self.vms.iter().find(|vm| vm.id == id).ok_or_else(unknown)?;
        let (definition, rebooting) = (vm.definition.clone(), vm.tty.is_some());
        let name = &definition.name;
        let late = if rebooting { None } else { self.waits_for(vm) };
        late.or_else(|| obstacle(&definition)).map_or(Ok(()), Err)?;
        self.may_try(name)?;
        let vm = self.vm(id).ok_or_else(unknown)?;
        if !vm.rate.start(now) {
            return Err(too_quick(name, rebooting));
        }
        let mut plan = Plan { files: files_of(&definition, boot, rebooting)?, taps: vec![], warnings: vec![] };
        if rebooting {
            return Ok(plan); // its taps are held, whatever has become of their switches
        }
        let (mut pairs, mut guarded) = (BTreeMap::new(), BTreeSet::new());
        for (index, (nic, card)) in (0..).zip(definition.nics.iter().zip(&definition.cards)) {
            let switch = match nic.switch.as_ref().map(|switch| (switch, self.switch(switch))) {
                None => None,
                Some((_, Some(switch))) => Some(switch),
                Some((switch, None)) if self.unmade.contains(switch) => {
                    let text = format!(
                        "switch \"{switch}\" of vm \"{name}\" could not be set up; the log says why, and a reload tries again"
                    );
                    return Err(Failure::new(Code::NotFound, text));
                }
                Some((switch, None)) => {
                    let text = format!("switch \"{switch}\" not found: interface {index} is not attached to a switch");
                    plan.warnings.push(format!("vm \"{name}\": {text}"));
                    None
                }
            };
            let pair = nic.local.then(|| self.locals_of(card).pair(id, index)).transpose()?;
            pairs.extend(pair.map(|pair| (index, pair)));
            let local = pair.map(|pair| pair.host);
            guarded.extend(switch.filter(|switch| switch.guarded).map(|_| index));
            let (bridge, isolated) =
                (switch.map(|switch| switch.interface.clone()), switch.is_some_and(|switch| switch.isolated));
            let (name, alias) = (nic.tap.clone(), Alias::cut(&format!("vm{id}-if{index}-{name}")));
            let (up, rdomain, group) = (nic.up, card.rdomain, card.group);
            plan.taps.push((index, TapSpec { name, alias, bridge, isolated, up, rdomain, group, local }));
        }
        if let Some(vm) = self.vm(id) {
            vm.locals = pairs;
            vm.guarded = guarded;
        }
        Ok(plan)
    }

    fn switch(&self, wanted: &SwitchName) -> Option<&model::Switch> {
        self.switches.iter().map(|(switch, _)| &switch.spec).find(|switch| switch.name == *wanted)
    }

    /// There is no NAT in a routing domain (docs/conformance.md, switches and taps).
    fn locals_of(&self, card: &Card) -> Locals {
        let outside = card.rdomain.is_none_or(|rdomain| rdomain == 0);
        Locals { nat: self.locals.nat && outside, ..self.locals }
    }
}

/// After the last of several fast starts: by somebody, or by its guest, whose resets nobody may have seen.
fn too_quick(name: &VmName, rebooting: bool) -> Failure {
    let limit = format!("{MAX_FAST} times within {} seconds each", FAST.as_secs());
    let text = match rebooting {
        true => format!(
            "restarted too quickly: its guest reset {limit}, and is not started again; see what it prints with \
             \"vmctl start -c {name}\": a kernel resets like this for lack of memory or of its root file system"
        ),
        false => format!("restarted too quickly: {limit}; wait {} seconds and start it", FAST.as_secs()),
    };
    Failure::new(Code::NotPermitted, format!("vm \"{name}\" {text}"))
}

type Files = Vec<(File, What, UserPath)>;

/// What one start has to make.
pub(super) struct Plan {
    files: Files,
    /// By the index of their cards.
    taps: Vec<(u8, TapSpec)>,
    /// What is told in the log.
    warnings: Vec<String>,
}

impl Plan {
    /// Begins a VM's preparation.
    pub(super) fn begin(
        self,
        run: Run,
        vm: &mut Vm,
        starter: Option<Asked>,
        boot: ThisBoot,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let log = vm.definition.logger();
        out.extend(self.warnings.into_iter().map(|text| log(log::Level::Warn, text)));
        out.push(Action::MakeConsole(run, vm.definition.owner));
        // A reboot opens no disk: what it holds stays known.
        for (file, ..) in &self.files {
            let File::Disk(index) = file else { continue };
            let disk = vm.definition.disks.get(usize::from(*index));
            vm.chains.extend(disk.map(|disk| (*index, Chain::new(disk))));
        }
        let mut files: BTreeSet<File> = self.files.iter().map(|(file, ..)| *file).collect();
        files.insert(File::Kernel); // also one that a client gave is looked at by the probe
        // What vm.conf names root may open; what a user named, that user.
        let user = vm.definition.user.clone().unwrap_or_default();
        let (theirs, ours) = self.files.into_iter().partition(|(file, ..)| matches!(file, File::Disk(_) | File::Cdrom));
        for (who, files) in by_opener([(Who::default(), ours), (user, theirs)]) {
            out.push(Action::Open { run, who, files });
        }
        if boot.kernel.is_some() {
            out.push(Action::HoldKernel(run));
            out.push(Action::Probe(run, File::Kernel, ToProbe::Kernel { memory: vm.definition.memory }));
        }
        let taps = self.taps.iter().map(|(nic, _)| *nic).collect();
        out.extend(self.taps.into_iter().map(|(nic, tap)| Action::MakeTap { run, nic, tap }));
        vm.life = Life::Preparing(Box::new(Preparation {
            starter,
            cpus: boot.cpus,
            given: boot.kernel,
            deadline: now + PREPARE_LIMIT,
            files,
            taps,
            tty: None,
            kernel: None,
        }));
    }
}

/// One opener for each user, none for nothing.
fn by_opener([ours, theirs]: [(Who, Files); 2]) -> Vec<(Who, Files)> {
    let openers = match ours.0 == theirs.0 {
        true => vec![(ours.0, [ours.1, theirs.1].concat())],
        false => vec![ours, theirs],
    };
    openers.into_iter().filter(|(_, files)| !files.is_empty()).collect()
}

/// Files to open. A reboot still holds its disks and what is in its CD-ROM drive; its kernel is read anew, as it may have been upgraded.
fn files_of(definition: &Definition, boot: &ThisBoot, rebooting: bool) -> Result<Files, Failure> {
    let mut files = Vec::new();
    match (&definition.boot, &boot.kernel) {
        (_, Some(_)) => {}
        (Some(path), None) => files.push((File::Kernel, What::Kernel, path.clone())),
        (None, None) => {
            let name = &definition.name;
            let text = format!("vm \"{name}\" has no kernel: name one with \"boot\" in vm.conf or vmctl start -b");
            return Err(Failure::new(Code::BiosMissing, text));
        }
    }
    if let Some(path) = &definition.initrd {
        files.push((File::Initrd, What::Initrd, path.clone()));
    }
    if !rebooting {
        let disks = (0u8..).zip(&definition.disks);
        files.extend(disks.map(|(index, disk)| (File::Disk(index), What::Disk { write: true }, disk.path.clone())));
        files.extend(definition.medium().map(|path| (File::Cdrom, What::Cdrom, path.clone())));
    }
    Ok(files)
}
