//! From the wish to run to vmm's answer. Files, taps and console are made side by side; the first failure undoes all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use proto::client::{BootDevice, DiskFormat, Reply};
use proto::opener::What;
use proto::privileged::LocalEnd;
use proto::probe::{KernelKind, ToProbe};
use proto::vmm::{DiskDescription, StartVm, Stop};
use proto::{Code, Failure, IfName, Text, UserPath, VmId};

use super::super::access::Who;
use super::super::definition::{Definition, Nic, obstacle};
use super::super::local::Locals;
use super::life::{Asked, Life, Preparation, Vm};
use super::{Action, Card, File, Found, Keep, LAUNCH_LIMIT, Launch, PREPARE_LIMIT, Registry, Run};

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
    /// Begins a start of a VM that does not run. `starter` gets the one answer.
    pub(super) fn begin(
        &mut self,
        id: VmId,
        starter: Option<Asked>,
        boot: Option<ThisBoot>,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Option<Run> {
        self.next_run += 1;
        let run = Run { vm: id, nth: self.next_run };
        let boot = boot.unwrap_or_default();
        let planned = self.plan(id, &boot, now);
        let vm = self.vm(id)?;
        vm.run = Some(run);
        vm.cpus = boot.cpus.unwrap_or(vm.definition.cpus);
        vm.boot_device = boot.device.or(vm.definition.boot_device);
        match planned {
            Ok(plan) => {
                let given = boot.kernel.is_some();
                vm.life = Life::Preparing(Box::new(plan.preparation(starter, boot, now)));
                plan.act(run, vm, given, out);
                Some(run)
            }
            Err(failure) => {
                self.fail_start(id, starter, failure, out);
                None
            }
        }
    }

    /// What a start needs, or why it can't begin.
    fn plan(&mut self, id: VmId, boot: &ThisBoot, now: Instant) -> Result<Plan, Failure> {
        let switches: Vec<_> = self.switches.iter().map(|(switch, _)| (switch.name.clone(), switch.clone())).collect();
        let unmade = self.unmade.clone();
        let locals = self.locals;
        let gone = || Failure::new(Code::NotFound, "vm not found");
        self.disks_are_free(id)?;
        self.within_limits(id, boot.cpus)?;
        let vm = self.vm(id).ok_or_else(gone)?;
        let name = vm.definition.name.clone();
        if let Some(failure) = obstacle(&vm.definition.model) {
            return Err(failure);
        }
        if !vm.rate.start(now) {
            return Err(Failure::new(
                Code::NotPermitted,
                format!(
                    "vm \"{name}\" restarted too quickly: 3 times within 6 seconds each; wait 6 seconds and start it"
                ),
            ));
        }
        let rebooting = vm.tty.is_some();
        let files = files_of(&vm.definition, boot, rebooting)?;
        let (mut taps, mut warnings) = (Vec::new(), Vec::new());
        let mut pairs = BTreeMap::new();
        for (index, nic) in vm.definition.nics.iter().enumerate() {
            if rebooting {
                break; // its taps are held, whatever has become of their switches
            }
            let index = u8::try_from(index).unwrap_or(u8::MAX);
            let bridge = match &nic.switch {
                None => None,
                Some(wanted) => match switches.iter().find(|(name, _)| name == wanted) {
                    Some((_, switch)) => Some(switch.bridge.clone()),
                    None if unmade.contains(wanted) => {
                        let text = format!(
                            "switch \"{wanted}\" of vm \"{name}\" could not be made; the log says why, and a reload tries again"
                        );
                        return Err(Failure::new(Code::NotFound, text));
                    }
                    None => {
                        let text =
                            format!("vm \"{name}\": switch \"{wanted}\" not found: its interface {index} is on none");
                        warnings.push(text);
                        None
                    }
                },
            };
            let alias = format!("vm{id}-if{index}-{name}");
            let locals = Locals { nat: locals.nat && nic.rdomain.is_none_or(|rdomain| rdomain == 0), ..locals };
            let pair = nic.local.then(|| locals.pair(id, index)).transpose()?;
            pairs.extend(pair.map(|pair| (index, pair)));
            let local = pair.map(|pair| pair.host);
            taps.push(Tap {
                nic: index,
                name: nic.tap.clone(),
                alias,
                bridge,
                up: nic.up,
                rdomain: nic.rdomain,
                group: nic.group,
                local,
            });
        }
        if !rebooting {
            vm.locals = pairs;
        }
        Ok(Plan { files, taps, warnings })
    }

    pub(super) fn opened(
        &mut self,
        run: Run,
        file: File,
        result: Result<(), Failure>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(vm) = self.of_run(run) else { return };
        let id = vm.id;
        let definition = vm.definition.clone();
        let Some(preparation) = vm.preparation() else { return };
        if let Err(failure) = result {
            return self.fail_preparation(id, failure, out);
        }
        match (file, question(&definition, file)) {
            (_, Some(question)) => out.push(Action::Probe(run, file, question)),
            (_, None) => {
                preparation.files.remove(&file);
                self.perhaps_launch(id, now, out);
            }
        }
    }

    pub(super) fn probed(
        &mut self,
        run: Run,
        file: File,
        result: Result<Found, Failure>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(vm) = self.of_run(run) else { return };
        let id = vm.id;
        let path = path_of(vm, file);
        let Some(preparation) = vm.preparation() else { return };
        match result {
            Ok(found) => {
                if let Found::Kernel(kind) = found {
                    preparation.kernel = Some(kind);
                }
                preparation.files.remove(&file);
                self.perhaps_launch(id, now, out);
            }
            Err(why) => {
                let failure = Failure::new(why.code, format!("{file} \"{path}\": {why}"));
                self.fail_preparation(id, failure, out);
            }
        }
    }

    pub(super) fn tap_made(
        &mut self,
        run: Run,
        nic: u8,
        result: Result<IfName, Failure>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(vm) = self.of_run(run) else { return };
        let id = vm.id;
        let Some(preparation) = vm.preparation() else { return };
        match result {
            Ok(name) => {
                preparation.taps.remove(&nic);
                preparation.tap_names.push(name);
                self.perhaps_launch(id, now, out);
            }
            Err(failure) => self.fail_preparation(id, failure, out),
        }
    }

    pub(super) fn console_made(
        &mut self,
        run: Run,
        result: Result<Text<64>, Failure>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(vm) = self.of_run(run) else { return };
        let id = vm.id;
        let Some(preparation) = vm.preparation() else { return };
        match result {
            Ok(tty) => {
                preparation.console = false;
                vm.tty = Some(tty);
                self.perhaps_launch(id, now, out);
            }
            Err(failure) => self.fail_preparation(id, failure, out),
        }
    }

    fn perhaps_launch(&mut self, id: VmId, now: Instant, out: &mut Vec<Action>) {
        let Some(vm) = self.vm(id) else { return };
        let (Life::Preparing(preparation), Some(run)) = (&vm.life, vm.run) else { return };
        if !preparation.complete() {
            return;
        }
        let starter = preparation.starter;
        let launch = launch_of(vm, preparation.kernel.unwrap_or(KernelKind::BzImage), preparation.cpus);
        vm.life = Life::Launching { starter, stop: None, deadline: now + LAUNCH_LIMIT };
        out.push(Action::Launch(run, Box::new(launch)));
    }

    pub(super) fn start_done(&mut self, id: VmId, result: Result<u32, Failure>, out: &mut Vec<Action>) {
        self.started += 1;
        let started = self.started;
        let unwanted = self.new_request();
        let launching = self.vm(id).map(|vm| &vm.life).and_then(|life| match life {
            Life::Launching { starter, stop, .. } => Some((*starter, *stop)),
            _ => None,
        });
        let (Some((starter, stop)), Some(vm)) = (launching, self.vm(id)) else {
            // It was given up, or its VM is forgotten: nobody would ever end it.
            out.extend(result.is_ok().then_some(Action::Terminate(unwanted, id, Stop::Force)));
            return;
        };
        match result {
            Ok(pid) => {
                vm.life = Life::Running { pid, paused: false };
                vm.started = started;
                let tty = vm.tty.clone().unwrap_or_default();
                let name = vm.definition.name.clone();
                let text = format!("started {name} (vm {id}) successfully, tty {tty}");
                out.push(Action::LogOf(name, log::Level::Info, text));
                if let Some(asked) = starter {
                    out.push(Action::Answer(asked, Reply::Started { id: id.0, tty }));
                }
                if let Some(how) = stop {
                    self.stop_for_good(id, how, out);
                }
            }
            Err(failure) => self.fail_start(id, starter, failure, out),
        }
    }

    pub(super) fn late_preparations(&mut self, now: Instant, out: &mut Vec<Action>) {
        let late: Vec<(VmId, String)> = self
            .vms
            .iter()
            .filter_map(|vm| match &vm.life {
                Life::Preparing(p) if p.deadline <= now => Some((vm.id, missing(p))),
                _ => None,
            })
            .collect();
        for (id, missing) in late {
            let text = format!("start took longer than {} s: {missing}", PREPARE_LIMIT.as_secs());
            self.fail_preparation(id, Failure::new(Code::TimedOut, text), out);
        }
    }

    pub(super) fn late_launches(&mut self, now: Instant, out: &mut Vec<Action>) {
        let late = |vm: &Vm| match vm.life {
            Life::Launching { starter, deadline, .. } if deadline <= now => Some((vm.id, starter)),
            _ => None,
        };
        let late: Vec<_> = self.vms.iter().filter_map(late).collect();
        for (id, starter) in late {
            let request = self.new_request();
            out.push(Action::Terminate(request, id, Stop::Force));
            let text =
                format!("the vmm process did not answer within {} s; see its lines in the log", LAUNCH_LIMIT.as_secs());
            self.fail_start(id, starter, Failure::new(Code::TimedOut, text), out);
        }
    }

    /// Gives a preparation up: whoever works for it is ended, whatever was made for it is closed.
    pub(super) fn fail_preparation(&mut self, id: VmId, failure: Failure, out: &mut Vec<Action>) {
        let Some(vm) = self.vm(id) else { return };
        let run = vm.run;
        let Some(preparation) = vm.preparation() else { return };
        let starter = preparation.starter;
        if let Some(run) = run {
            out.push(Action::Abandon(run));
        }
        self.fail_start(id, starter, failure, out);
    }

    fn fail_start(&mut self, id: VmId, starter: Option<Asked>, failure: Failure, out: &mut Vec<Action>) {
        if let Some(name) = self.vm(id).map(|vm| vm.definition.name.clone()) {
            let text = format!("failed to start vm \"{name}\": {failure}");
            out.push(Action::LogOf(name, log::Level::Error, text));
        }
        if let Some(asked) = starter {
            out.push(Action::Answer(asked, Reply::Failed(failure)));
        }
        self.settle(id, out);
    }

    /// Ends a VM whatever it does, for nobody in particular.
    pub(super) fn stop_for_good(&mut self, id: VmId, how: Stop, out: &mut Vec<Action>) {
        let request = self.new_request();
        let Some(vm) = self.vm(id) else { return };
        match &mut vm.life {
            Life::Waiting => vm.life = Life::Stopped,
            Life::Stopped => {}
            Life::Preparing(_) => {
                let failure = Failure::new(Code::Invalid, "the VM was stopped while it started");
                self.fail_preparation(id, failure, out);
            }
            Life::Launching { stop, .. } => *stop = Some(how),
            Life::Running { pid, .. } | Life::Stopping { pid } => {
                vm.life = Life::Stopping { pid: *pid };
                out.push(Action::Terminate(request, id, how));
            }
        }
    }
}

type Files = Vec<(File, What, UserPath)>;

/// What one start has to make.
struct Plan {
    files: Files,
    taps: Vec<Tap>,
    /// What is told in the log.
    warnings: Vec<String>,
}

struct Tap {
    nic: u8,
    name: Option<IfName>,
    alias: String,
    bridge: Option<IfName>,
    up: bool,
    rdomain: Option<u8>,
    group: Option<u32>,
    local: Option<LocalEnd>,
}

impl Plan {
    fn preparation(&self, starter: Option<Asked>, boot: ThisBoot, now: Instant) -> Preparation {
        let mut files: BTreeSet<File> = self.files.iter().map(|(file, ..)| *file).collect();
        files.insert(File::Kernel); // also one that a client gave is looked at by the probe
        Preparation {
            starter,
            cpus: boot.cpus,
            given: boot.kernel,
            deadline: now + PREPARE_LIMIT,
            files,
            taps: self.taps.iter().map(|tap| tap.nic).collect(),
            console: true,
            kernel: None,
            tap_names: Vec::new(),
        }
    }

    fn act(self, run: Run, vm: &Vm, kernel_given: bool, out: &mut Vec<Action>) {
        let name = &vm.definition.name;
        out.extend(self.warnings.into_iter().map(|text| Action::LogOf(name.clone(), log::Level::Warn, text)));
        out.push(Action::MakeConsole(run, vm.definition.owner));
        // What vm.conf names root may open; what a user named, that user.
        let user = vm.definition.user.clone().unwrap_or_default();
        let (theirs, ours) = self.files.into_iter().partition(|(file, ..)| matches!(file, File::Disk(_)));
        for (who, files) in by_opener([(Who::default(), ours), (user, theirs)]) {
            out.push(Action::Open { run, who, files });
        }
        if kernel_given {
            out.push(Action::Probe(run, File::Kernel, ToProbe::Kernel));
        }
        for Tap { nic, name, alias, bridge, up, rdomain, group, local } in self.taps {
            out.push(Action::MakeTap { run, nic, name, alias, bridge, up, rdomain, group, local });
        }
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

/// Files to open. A reboot still holds its disks; its kernel is read anew, as it may have been upgraded.
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
    for (index, disk) in definition.disks.iter().enumerate() {
        if disk.format == DiskFormat::Qcow2 {
            return Err(super::super::definition::unsupported(&format!("disk \"{}\" in qcow2 format", disk.path)));
        }
        if !rebooting {
            let file = File::Disk(u8::try_from(index).unwrap_or(u8::MAX));
            files.push((file, What::Disk { write: !disk.read_only }, disk.path.clone()));
        }
    }
    Ok(files)
}

/// Where a file of a start came from, for what users read.
fn path_of(vm: &Vm, file: File) -> UserPath {
    let given = match &vm.life {
        Life::Preparing(preparation) => preparation.given.clone(),
        _ => None,
    };
    let definition = &vm.definition;
    let path = match file {
        File::Kernel => given.or_else(|| definition.boot.clone()),
        File::Initrd => definition.initrd.clone(),
        File::Disk(index) => definition.disks.get(usize::from(index)).map(|disk| disk.path.clone()),
    };
    path.unwrap_or_default()
}

/// What the probe is asked about a file that is open; nothing where its bytes don't matter.
fn question(definition: &Definition, file: File) -> Option<ToProbe> {
    match file {
        File::Kernel => Some(ToProbe::Kernel),
        File::Initrd => None,
        File::Disk(index) => {
            let said = definition.disks.get(usize::from(index)).is_some_and(|disk| disk.said);
            (!said).then_some(ToProbe::RawDisk)
        }
    }
}

fn missing(preparation: &Preparation) -> String {
    if !preparation.files.is_empty() {
        return "a file did not open; is it on a server that does not answer?".to_owned();
    }
    if preparation.taps.is_empty() { "no console".to_owned() } else { "no tap".to_owned() }
}

fn launch_of(vm: &Vm, kernel: KernelKind, cpus: Option<u8>) -> Launch {
    let definition = &vm.definition;
    let count = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
    let disks = definition.disks.iter();
    Launch {
        vm: StartVm {
            vm: vm.id,
            name: definition.name.clone(),
            memory: definition.memory,
            cpus: cpus.unwrap_or(definition.cpus),
            kernel,
            cmdline: cmdline_of(definition),
            initrd: definition.initrd.is_some(),
            cgroup: false,
            disks: count(definition.disks.len()),
            nics: count(definition.nics.len()),
        },
        disks: disks.map(|d| DiskDescription { format: d.format, read_only: d.read_only }).collect(),
        nics: (0u8..).zip(&definition.nics).map(|(index, nic)| card_of(vm, index, nic)).collect(),
    }
}

fn card_of(vm: &Vm, index: u8, nic: &Nic) -> Card {
    Card {
        mac: nic.mac,
        locked: nic.locked,
        local: vm.locals.get(&index).copied(),
        net_boot: index == 0 && vm.boot_device == Some(BootDevice::Net),
    }
}

/// The command line that was given, else the console and the first disk: what a kernel without one needs to be of use.
fn cmdline_of(definition: &Definition) -> Text<{ proto::MAX_CMDLINE }> {
    if !definition.cmdline.is_empty() {
        return definition.cmdline.clone();
    }
    match definition.disks.first() {
        Some(disk) if disk.read_only => Text::cut("console=ttyS0 root=/dev/vda ro"),
        Some(_) => Text::cut("console=ttyS0 root=/dev/vda rw"),
        None => Text::cut("console=ttyS0"),
    }
}

impl Registry {
    /// After an end or a failed start: closed, and off the list if a client made it.
    pub(super) fn settle(&mut self, id: VmId, out: &mut Vec<Action>) {
        out.push(Action::Release(id, Keep::Nothing));
        let Some(vm) = self.vm(id) else { return };
        vm.life = Life::Stopped;
        vm.run = None;
        vm.tty = None;
        for asked in std::mem::take(&mut vm.waits) {
            out.push(Action::Answer(asked, Reply::Ended { id: id.0 }));
        }
        if !vm.definition.from_config {
            self.vms.retain(|vm| vm.id != id);
        }
    }
}
