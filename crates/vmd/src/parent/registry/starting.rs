//! From the wish to run to vmm's answer. Files, taps and console are made side by side; the first failure undoes all.

use std::time::Instant;

use model::{BootDevice, CommandLine, Disk, IfName, List, MacAddr, Text, UserPath};
use proto::client::Reply;
use proto::device::{self, Local, Spec, Told};
use proto::opener::{FileId, OpenFile, What};
use proto::probe::{Found, KernelKind, ToProbe};
use proto::vmm::{StartVm, Stop};
use proto::{Code, Failure, VmId};
use sys::log::{Level, Weight};

use super::access::Who;
use super::cards;
use super::chain::Chain;
use super::life::{Asked, Life, Preparation, Vm};
use super::plan::ThisBoot;
use super::{Action, Device, File, Keep, LAUNCH_LIMIT, Launch, PREPARE_LIMIT, Registry, Run};

impl Registry {
    /// Begins a start of a VM that does not run. `starter` gets the one answer.
    pub(super) fn begin(
        &mut self,
        id: VmId,
        starter: Option<Asked>,
        boot: ThisBoot,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        self.next_run += 1;
        let run = Run { vm: id, nth: self.next_run };
        let planned = self.plan(id, &boot, now);
        let Some(vm) = self.vm(id) else { return };
        vm.end_change(out);
        vm.run = Some(run);
        if vm.tty.is_none() {
            vm.medium = vm.definition.medium().cloned(); // a reboot finds what is in the drive
        }
        vm.cpus = boot.cpus.unwrap_or(vm.definition.cpus);
        vm.boot_device = boot.device.or(vm.definition.boot_device);
        match planned {
            Ok(plan) => plan.begin(run, vm, starter, boot, now, out),
            Err(failure) => self.fail_start(id, starter, failure, out),
        }
    }

    /// An open file is there, unless the probe is to see it first.
    pub(super) fn opened(
        &mut self,
        run: Run,
        file: File,
        result: Result<OpenFile, Failure>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        if file == File::Medium {
            return self.medium_opened(run, result.map(drop), out);
        }
        let Some(vm) = self.of_run(run).filter(|vm| matches!(vm.life, Life::Preparing(_))) else { return };
        let memory = vm.definition.memory;
        let question = match (result, vm.chain(file)) {
            (Ok(open), Some(chain)) => chain.opened(open),
            (Ok(_), None) => Ok((file == File::Kernel).then_some(ToProbe::Kernel { memory })),
            (Err(failure), Some(chain)) => Err(chain.told(&failure)),
            (Err(failure), None) => Err(failure),
        };
        match question {
            Ok(Some(question)) => out.push(Action::Probe(run, file, question)),
            Ok(None) => self.made(run, Ok(()), now, out, |start, ()| start.files.retain(|of| *of != file)),
            Err(failure) => self.made(run, Err(failure), now, out, |_, ()| {}),
        }
    }

    /// Who has a file locked the lock does not tell; the registry knows its own VMs.
    pub(super) fn locked(
        &mut self,
        run: Run,
        file: File,
        id: FileId,
        failure: Failure,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let holder = self.holder(run.vm, id);
        let Some(chain) = self.of_run(run).and_then(|vm| vm.chain(file)) else {
            return self.opened(run, file, Err(failure), now, out);
        };
        if chain.has(id) {
            let failure = chain.leads_back(id);
            return self.made(run, Err(failure), now, out, |_, ()| {});
        }
        let named = holder.map(|who| Failure::new(Code::DiskMissing, format!("{file} \"{}\": {who}", chain.path())));
        self.opened(run, file, Err(named.unwrap_or(failure)), now, out);
    }

    pub(super) fn probed(
        &mut self,
        run: Run,
        file: File,
        result: Result<Found, Failure>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(vm) = self.of_run(run).filter(|vm| matches!(vm.life, Life::Preparing(_))) else { return };
        let path = path_of(vm, file);
        let (kernel, more) = match (result, vm.chain(file)) {
            (Ok(Found::Kernel { kind }), _) => (Some(kind), Ok(None)),
            (Ok(found), Some(chain)) => (None, chain.found(found).map(|more| more.then(|| chain.clone()))),
            (Ok(Found::Raw | Found::Qcow2 { .. }), None) => (None, Ok(None)),
            (Err(why), Some(chain)) => (None, Err(chain.refused(&why))),
            (Err(why), None) => (None, Err(Failure::new(why.code, format!("{file} \"{path}\": {why}")))),
        };
        let base = more.map(|more| {
            let (File::Disk(disk) | File::Base(disk, _)) = file else { return None };
            let chain = more?;
            let base = File::Base(disk, chain.last());
            let user = vm.definition.user.clone().unwrap_or_default();
            let who = if user.is_root() && !chain.is_beside() { Who::nobody() } else { user };
            out.push(Action::Open { run, who, files: vec![(base, What::Base, chain.path())] });
            Some(base)
        });
        self.made(run, base, now, out, |start, base| {
            start.kernel = kernel.or(start.kernel);
            start.files.remove(&file);
            start.files.extend(base);
        });
    }

    /// The log of the VM then has all that its network is known by.
    pub(super) fn tap_made(
        &mut self,
        run: Run,
        nic: u8,
        result: Result<IfName, Failure>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        if let (Ok(tap), Some(vm)) = (&result, self.of_run(run).filter(|vm| matches!(vm.life, Life::Preparing(_)))) {
            out.push(vm.definition.logger()(Level::Info, network_of(vm, nic, tap)));
        }
        self.made(run, result, now, out, |start, _| start.taps.retain(|tap| *tap != nic));
    }

    /// Something that a start needs is there, or not: with the last of it vmm is asked, and the first failure undoes all.
    pub(super) fn made<T>(
        &mut self,
        run: Run,
        result: Result<T, Failure>,
        now: Instant,
        out: &mut Vec<Action>,
        take: impl FnOnce(&mut Preparation, T),
    ) {
        let Some(preparation) = self.of_run(run).and_then(Vm::preparation) else { return };
        match result {
            Ok(made) => {
                take(preparation, made);
                self.perhaps_launch(run, now, out);
            }
            Err(failure) => self.fail_preparation(run.vm, failure, out),
        }
    }

    fn perhaps_launch(&mut self, run: Run, now: Instant, out: &mut Vec<Action>) {
        let Some(vm) = self.of_run(run) else { return };
        let Some(preparation) = vm.preparation().filter(|preparation| preparation.complete()) else { return };
        let (starter, kernel, cpus) = (preparation.starter, preparation.kernel, preparation.cpus);
        vm.tty = preparation.tty.take();
        let launch = launch_of(vm, kernel.unwrap_or(KernelKind::BzImage), cpus);
        vm.life = Life::Launching { starter, stop: None, deadline: now + LAUNCH_LIMIT };
        out.push(Action::Launch(run, Box::new(launch)));
    }

    pub(super) fn start_done(&mut self, id: VmId, result: Result<u32, Failure>, out: &mut Vec<Action>) {
        self.started += 1;
        let started = self.started;
        let unwanted = self.new_request();
        let Some((vm, starter, stop)) = self.vm(id).and_then(|vm| {
            let Life::Launching { starter, stop, .. } = vm.life else { return None };
            Some((vm, starter, stop))
        }) else {
            // It was given up, or its VM is forgotten: nobody would ever end it.
            out.extend(result.is_ok().then_some(Action::Terminate(unwanted, id, Stop::Force)));
            return;
        };
        match result {
            Ok(pid) => {
                vm.life = Life::running(pid);
                vm.started = started;
                let tty = vm.tty.clone().unwrap_or_default();
                let definition = &vm.definition;
                let text = format!("started {} (vm {id}) successfully, tty {tty}", definition.name);
                out.push(definition.logger()(Level::Info, text));
                let (name, owner) = (definition.name.clone(), definition.owner);
                self.failures.forget(&name, owner);
                self.unfit.remove(&name);
                out.extend(starter.map(|asked| Action::Answer(asked, Reply::Started { id: id.0, tty })));
                if let Some(how) = stop {
                    self.stop_for_good(id, how, out);
                }
            }
            Err(failure) => self.fail_start(id, starter, failure, out),
        }
    }

    /// Gives up the starts that took too long.
    pub(super) fn late_starts(&mut self, now: Instant, out: &mut Vec<Action>) {
        let late = |vm: &&Vm| vm.deadline().is_some_and(|deadline| deadline <= now);
        let late: Vec<VmId> = self.vms.iter().filter(late).map(|vm| vm.id).collect();
        for id in late {
            let request = self.new_request();
            let Some(vm) = self.vm(id) else { continue };
            if let Life::Preparing(preparation) = &vm.life {
                let missing = missing(preparation);
                let text = format!("start took longer than {} s: {missing}", PREPARE_LIMIT.as_secs());
                self.fail_preparation(id, Failure::new(Code::TimedOut, text), out);
            } else if let Life::Launching { starter, .. } = vm.life {
                out.push(Action::Terminate(request, id, Stop::Force));
                let limit = LAUNCH_LIMIT.as_secs();
                let text = format!("the vmm process did not answer within {limit} s; see its lines in the log");
                self.fail_start(id, starter, Failure::new(Code::TimedOut, text), out);
            }
        }
    }

    /// Gives a preparation up: whoever works for it is ended, whatever was made for it is closed.
    pub(super) fn fail_preparation(&mut self, id: VmId, failure: Failure, out: &mut Vec<Action>) {
        let Some(vm) = self.vm(id) else { return };
        let run = vm.run;
        let Some(preparation) = vm.preparation() else { return };
        let starter = preparation.starter;
        out.extend(run.map(Action::Abandon));
        self.fail_start(id, starter, failure, out);
    }

    fn fail_start(&mut self, id: VmId, starter: Option<Asked>, failure: Failure, out: &mut Vec<Action>) {
        if let Some(vm) = self.vms.iter().find(|vm| vm.id == id) {
            self.failures.keep(vm, &failure);
            let definition = &vm.definition;
            let text = format!("failed to start vm \"{}\": {failure}", definition.name);
            // Who asked is told; nobody else's fault is an error of the daemon's.
            let theirs = starter.is_some() && failure.code.is_of_the_request();
            let weight = if theirs { Weight::Notice } else { Level::Error.into() };
            out.push(Action::LogOf(
                definition.name.clone(),
                definition.user.as_ref().map(|user| user.uid),
                weight,
                text,
            ));
        }
        out.extend(starter.map(|asked| Action::Answer(asked, Reply::Failed(failure))));
        self.settle(id, out);
    }

    /// After an end or a failed start: closed, and off the list if a client made it.
    pub(super) fn settle(&mut self, id: VmId, out: &mut Vec<Action>) {
        out.push(Action::Release(id, Keep::Nothing));
        let Some(vm) = self.vm(id) else { return };
        vm.end_change(out);
        vm.life = Life::Stopped;
        vm.run = None;
        vm.tty = None;
        vm.chains.clear();
        vm.wanted = None;
        vm.medium = None;
        vm.reports.clear();
        vm.tell_waiters(out);
        if vm.definition.from_config {
            self.become_next(id, out);
        } else {
            self.vms.retain(|vm| vm.id != id);
        }
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

/// Where a file of a start came from, for what users read.
fn path_of(vm: &Vm, file: File) -> UserPath {
    let given = if let Life::Preparing(preparation) = &vm.life { preparation.given.clone() } else { None };
    let definition = &vm.definition;
    let path = match file {
        File::Kernel => given.or_else(|| definition.boot.clone()),
        File::Initrd => definition.initrd.clone(),
        File::Disk(index) | File::Base(index, _) => {
            definition.disks.get(usize::from(index)).map(|disk| disk.path.clone())
        }
        File::Cdrom | File::Medium => vm.medium.clone(),
    };
    path.unwrap_or_default()
}

/// `interface 0 of vm "web" is tap "tap0" ...`: its switch, and its addresses on both sides.
fn network_of(vm: &Vm, nic: u8, tap: &IfName) -> String {
    let definition = &vm.definition;
    let index = usize::from(nic);
    let switch = definition.nics.get(index).and_then(|nic| nic.switch.as_ref());
    let switch = switch.map(|switch| format!(" on switch \"{switch}\"")).unwrap_or_default();
    let local = vm.locals.get(&nic).map(|pair| {
        let inet6 = pair.host.inet6.map(|inet6| format!(" and {inet6}")).unwrap_or_default();
        format!(", host {}{inet6}, guest {}", pair.host.inet, pair.guest)
    });
    format!(
        "interface {nic} of vm \"{}\" is tap \"{tap}\"{switch}, lladdr {}{}",
        definition.name,
        vm.mac(nic),
        local.unwrap_or_default()
    )
}

fn missing(preparation: &Preparation) -> String {
    if !preparation.files.is_empty() {
        return "a file could not be opened in time; is it on a server that does not answer?".to_owned();
    }
    if preparation.taps.is_empty() { "no console".to_owned() } else { "no tap".to_owned() }
}

pub(super) fn launch_of(vm: &Vm, kernel: KernelKind, cpus: Option<u8>) -> Launch {
    let definition = &vm.definition;
    let cards = (0u8..).zip(&definition.cards).map(|(number, card)| nic_of(vm, number, card));
    let devices: Vec<Device> = cards
        .chain((0u8..).zip(&definition.disks).map(|(n, disk)| disk_of(vm, n, disk)))
        .chain(balloon_of(vm))
        .chain(cdrom_of(vm))
        .collect();
    let bases: usize = vm.chains.values().map(|chain| chain.bases().len()).sum();
    let growth = vm.chains.iter().filter_map(|(disk, chain)| Some((*disk, growth_of(chain.size()?)))).collect();
    Launch {
        vm: StartVm {
            vm: vm.id,
            name: definition.name.clone(),
            memory: definition.memory,
            cpus: cpus.unwrap_or(definition.cpus),
            kernel,
            cmdline: cmdline_of(definition),
            initrd: definition.initrd.is_some(),
            vmmci: definition.vmmci,
            device_restarts: definition.device_restarts.unwrap_or(model::DEVICE_RESTARTS),
            cgroup: false,
            user: None,
            maker: definition.user.as_ref().map(|who| who.uid),
            devices: u8::try_from(devices.len()).unwrap_or(u8::MAX),
            bases: u16::try_from(bases).unwrap_or(u16::MAX),
        },
        devices,
        growth,
    }
}

fn nic_of(vm: &Vm, number: u8, card: &cards::Card) -> Device {
    let pair = vm.locals.get(&number);
    let local = pair.map(|pair| Local {
        host_mac: MacAddr::default(),
        host: pair.host.inet,
        guest: pair.guest,
        name_servers: List::default(),
        net_boot: number == 0 && vm.boot_device == Some(BootDevice::Net),
    });
    let guarded = vm.guarded.contains(&number);
    let told = device::Net { mac: vm.mac(number), locked: card.locked, guarded, local };
    Device { spec: Spec { number, told: Told::Net(told) }, outside: pair.is_some_and(|pair| pair.host.nat) }
}

/// The last of the devices.
fn cdrom_of(vm: &Vm) -> Option<Device> {
    vm.definition.cdrom.as_ref()?;
    let serial = Text::cut(&format!("cdrom0-{}", vm.definition.name));
    let called = vm.medium.clone().unwrap_or_default();
    let told = Told::Cdrom(device::Cdrom { serial, medium: vm.medium.is_some(), called, open: false });
    Some(Device { spec: Spec { number: 0, told }, outside: false })
}

/// After cards and disks: `memory.rs` finds it there.
fn balloon_of(vm: &Vm) -> Option<Device> {
    let told = Told::Balloon(device::Balloon { memory: vm.definition.memory });
    vm.definition.balloon.map(|_| Device { spec: Spec { number: 0, told }, outside: false })
}

/// What an image of a disk of so many bytes can grow by: all of the disk, and for each cluster of 512 bytes, the smallest, 8 of
/// its L2 entry and 8 of its refcount.
fn growth_of(size: u64) -> u64 {
    size.saturating_add(size / 32).saturating_add(1 << 20)
}

fn disk_of(vm: &Vm, number: u8, disk: &Disk) -> Device {
    // The number first: a long name is cut, and the guest tells its disks apart by this.
    let serial = Text::cut(&format!("disk{number}-{}", vm.definition.name));
    let called = disk.path.clone();
    Device {
        spec: Spec {
            number,
            told: Told::Blk(device::Blk {
                format: disk.format.kind,
                bases: vm.chains.get(&number).map(Chain::bases).unwrap_or_default(),
                read_only: false,
                limits: disk.limits,
                serial,
                called,
            }),
        },
        outside: false,
    }
}

/// The command line that was given, else the console and the first disk: what a kernel without one needs to be of use.
fn cmdline_of(vm: &model::Vm) -> CommandLine {
    let given = vm.cmdline.clone().filter(|given| !given.as_str().is_empty());
    given.unwrap_or_else(|| {
        let words = if vm.disks.is_empty() { "console=ttyS0" } else { "console=ttyS0 root=/dev/vda rw" };
        CommandLine::new(words).unwrap_or_default()
    })
}
