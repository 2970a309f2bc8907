//! From the first message of a start to the guest's first instruction, or the failure that ends this start alone.

use model::{MAX_CPUS, MemorySize};
use proto::device::MAX_DEVICES;
use proto::vm::Description;

use super::*;

impl Running {
    pub(super) fn start(&mut self, start: StartVm, out: &mut Vec<Action>) {
        let id = start.vm;
        self.refused.remove(&id);
        if let Err(failure) = self.may_start(&start) {
            return self.refuse(id, failure, out);
        }
        let run = Run(self.next_run);
        self.next_run += 1;
        let mut slots = vec![Slot::Log, Slot::Memory, Slot::Kernel];
        slots.extend(start.initrd.then_some(Slot::Initrd));
        slots.extend(start.cgroup.then_some(Slot::Cgroup));
        out.push(Action::Hold(run, slots));
        self.vms.insert(
            id,
            Vm {
                run,
                start,
                devices: BTreeMap::new(),
                alive: BTreeSet::new(),
                last_words: BTreeMap::new(),
                wishes: 0,
                orders: Orders::default(),
                talks: BTreeMap::new(),
                lost: BTreeMap::new(),
                deaths: Vec::new(),
                life: Life::Described,
            },
        );
    }

    fn may_start(&self, start: &StartVm) -> Result<(), Failure> {
        let same_name = self.vms.values().any(|vm| vm.start.name == start.name);
        if self.vms.contains_key(&start.vm) || same_name {
            return Err(Failure::new(Code::Already, format!("vm \"{}\" runs already", start.name)));
        }
        let invalid = |text: String| Err(Failure::new(Code::Invalid, text));
        if !(1..=MAX_CPUS).contains(&start.cpus) {
            return invalid(format!("{} cpus: a vm has 1 to {MAX_CPUS}", start.cpus));
        }
        if start.memory < MemorySize::LEAST_BOOTABLE {
            let least = MemorySize::LEAST_BOOTABLE.mib();
            return invalid(format!("{} MiB of memory: a vm has at least {least}", start.memory.mib()));
        }
        if start.devices > MAX_DEVICES {
            return invalid(format!("{} devices: a vm has at most {MAX_DEVICES}", start.devices));
        }
        let needed: u64 = self.vms.values().map(|vm| &vm.start).chain([start]).map(Self::descriptors_of).sum();
        if needed + SPARE_DESCRIPTORS > self.descriptors {
            let text = format!("vmm may have only {} descriptors, too few for another vm", self.descriptors);
            return Err(Failure::new(Code::NoDescriptors, text));
        }
        if self.ending {
            return Err(Failure::new(Code::Io, "vmm is ending"));
        }
        Ok(())
    }

    /// Answers a start that cannot be, once: what still comes of it until its end is dropped.
    pub(super) fn refuse(&mut self, id: VmId, failure: Failure, out: &mut Vec<Action>) {
        self.refused.insert(id);
        out.push(Action::Reply(ToParent::StartDone { vm: id, result: Err(failure) }));
    }

    /// The description that a part belongs to. None when the start was refused, or is refused now.
    pub(super) fn parts(&mut self, id: VmId, out: &mut Vec<Action>) -> Option<&mut Vm> {
        if self.refused.contains(&id) {
            return None;
        }
        match self.vms.get(&id).map(|vm| &vm.life) {
            Some(Life::Described) => {}
            Some(_) => {
                let late = self.vms.get(&id);
                out.extend(
                    late.map(|vm| vm.log(Level::Warn, "a part of a start came after the end of that start".to_owned())),
                );
                return None;
            }
            None => {
                self.refuse(id, Failure::new(Code::NotFound, format!("there is no start of vm {id}")), out);
                return None;
            }
        }
        self.vms.get_mut(&id)
    }

    /// Forgets a description of which a part was wrong, and answers.
    pub(super) fn spoil(&mut self, id: VmId, code: Code, text: String, out: &mut Vec<Action>) {
        if let Some(vm) = self.vms.remove(&id) {
            out.push(Action::Release(vm.run));
        }
        self.refuse(id, Failure::new(code, text), out);
    }

    pub(super) fn start_device(&mut self, id: VmId, device: u8, spec: Spec, out: &mut Vec<Action>) {
        let Some(vm) = self.parts(id, out) else { return };
        let (run, count) = (vm.run, vm.start.devices);
        if device >= count {
            return self.spoil(id, Code::Invalid, format!("invalid device {device}: the vm has {count}"), out);
        }
        let slots: Vec<Slot> = (0..=u8::MAX).take(spec.fds()).map(|fd| Slot::Device(device, fd)).collect();
        if let Some(before) = vm.devices.insert(device, spec) {
            return self.spoil(id, Code::Invalid, format!("device {device} came twice, the first was {before}"), out);
        }
        out.push(Action::Hold(run, slots));
    }

    pub(super) fn start_cancel(&mut self, id: VmId, out: &mut Vec<Action>) {
        if self.refused.remove(&id) {
            return;
        }
        if self.vms.get(&id).is_some_and(|vm| matches!(vm.life, Life::Described)) {
            out.extend(self.vms.remove(&id).map(|vm| Action::Release(vm.run)));
        } else {
            out.push(Action::Log(Level::Warn, format!("vm {id}: no start to give up")));
        }
    }

    pub(super) fn start_end(&mut self, id: VmId, out: &mut Vec<Action>) {
        let begun = self.parts(id, out).is_some();
        self.refused.remove(&id); // this was its last message
        if !begun {
            return;
        }
        let has_kvm = self.hosts.contains(&HostFd::Kvm);
        let Some(vm) = self.vms.get_mut(&id) else { return };
        if let Err(failure) = complete(&vm.start, vm.devices.len(), has_kvm) {
            out.push(Action::Release(vm.run));
            self.vms.remove(&id);
            return out.push(Action::Reply(ToParent::StartDone { vm: id, result: Err(failure) }));
        }
        let waiting: BTreeSet<Member> = vm.devices.keys().map(|device| Member::Device(*device)).collect();
        let mut left: Vec<Member> = waiting.iter().copied().chain([Member::Vm]).collect();
        left.reverse();
        out.push(Action::Hold(vm.run, vec![Slot::Console]));
        vm.life = Life::Spawning { left, waiting };
        vm.spawn_next(self.debug, out);
    }

    pub(super) fn spawned(&mut self, process: Process, pid: u32, now: Moment, out: &mut Vec<Action>) {
        let debug = self.debug;
        let Some((_, vm)) = self.of_run(process.run) else { return };
        match &mut vm.life {
            Life::Spawning { waiting, .. } => match process.member {
                Member::Vm => {
                    let waiting = std::mem::take(waiting);
                    vm.describe(debug, out);
                    vm.life = Life::Preparing { pid, waiting, deadline: now + READY_LIMIT, left: None };
                    vm.perhaps_begin(now, out);
                }
                Member::Device(index) => {
                    vm.describe_device(index, debug, out);
                    vm.spawn_next(debug, out);
                }
            },
            Life::Up { .. } => {
                if let Member::Device(index) = process.member {
                    vm.describe_device(index, debug, out);
                }
            }
            // It was being made when the start was given up.
            Life::Ending { .. } => out.push(Action::Kill(process, Signal::KILL)),
            Life::Described | Life::Preparing { .. } | Life::Beginning { .. } => {}
        }
    }

    pub(super) fn spawn_failed(&mut self, process: Process, failure: Failure, out: &mut Vec<Action>) {
        let Some((_, vm)) = self.of_run(process.run) else { return };
        if vm.alive.remove(&process.member) {
            let text = format!("start child failed: {}: {failure}", vm.called(process.member));
            vm.fail(Failure::new(failure.code, text), out);
        }
    }

    pub(super) fn device_said(&mut self, process: Process, message: FromDevice, now: Moment, out: &mut Vec<Action>) {
        let Some((id, vm)) = self.of_run(process.run) else { return };
        match message {
            FromDevice::Ready => {
                if let (Member::Device(device), Life::Up { .. }) = (process.member, &vm.life) {
                    if matches!(vm.lost.get(&device), Some(Lost::Begins(_))) {
                        return vm.serves_again(device, out);
                    }
                }
                let (Life::Spawning { waiting, .. } | Life::Preparing { waiting, .. }) = &mut vm.life else {
                    return vm.breach(process.member, "reported twice that it is ready", out);
                };
                if !waiting.remove(&process.member) {
                    return vm.breach(process.member, "reported twice that it is ready", out);
                }
                vm.perhaps_begin(now, out);
            }
            FromDevice::Failed(failure) => {
                let text =
                    format!("{}: {}", vm.called(process.member), sys::logpipe::printable(failure.text.as_bytes()));
                vm.fail(Failure::new(failure.code, text), out);
            }
            FromDevice::Answered { changed, result } => {
                vm.device_answered(id, process.member, changed, result, out);
            }
            FromDevice::Ended => self.last_word(process.run, process.member, 0),
            FromDevice::Report(report) => vm.device_reported(id, process.member, report, now, out),
        }
    }

    pub(super) fn started(&mut self, run: Run, now: Moment, out: &mut Vec<Action>) {
        let Some((id, vm)) = self.of_run(run) else { return };
        let Life::Beginning { pid, left, .. } = vm.life else {
            return vm.breach(Member::Vm, "reported a start that it was not asked for", out);
        };
        vm.life = Life::Up { pid, course: Course::Running };
        if let Some(Member::Device(device)) = left {
            vm.lose(device, true, "", now, out);
        }
        out.push(Action::Reply(ToParent::StartDone { vm: id, result: Ok(pid) }));
    }
}

impl Vm {
    fn spawn_next(&mut self, debug: bool, out: &mut Vec<Action>) {
        let Life::Spawning { left, .. } = &mut self.life else { return };
        let Some(member) = left.pop() else { return };
        self.spawn(member, debug, out);
    }

    pub(super) fn spawn(&mut self, member: Member, debug: bool, out: &mut Vec<Action>) {
        let (role, keeps) = match member {
            Member::Vm => ("vm", 0),
            Member::Device(index) => match self.devices.get(&index) {
                Some(spec) => (spec.kind().role, spec.keeps()),
                None => return,
            },
        };
        self.alive.insert(member);
        let title = format!("vmd: {} {}", self.called(member), self.start.name);
        let title = Title { title, role, user: self.start.user, debug, keeps };
        out.push(Action::Spawn(self.process(member), title));
    }

    fn describe_device(&self, device: u8, debug: bool, out: &mut Vec<Action>) {
        let spec = self.devices.get(&device).map(|spec| Box::new(spec.clone()));
        let told = spec.map(|spec| ToDevice::Start { vm: self.start.name.clone(), spec, debug });
        out.extend(told.map(|told| Action::TellDevice(self.process(Member::Device(device)), told)));
    }

    /// Tells the vm process what it is, and each of its devices in the order that the guest sees.
    fn describe(&self, debug: bool, out: &mut Vec<Action>) {
        let StartVm { name, memory, cpus, kernel, cmdline, initrd, vmmci, devices, .. } = &self.start;
        let description = Description {
            name: name.clone(),
            memory: *memory,
            cpus: *cpus,
            kernel: *kernel,
            cmdline: cmdline.clone(),
            initrd: *initrd,
            vmmci: *vmmci,
            devices: *devices,
            debug,
        };
        let devices =
            self.devices.iter().map(|(device, spec)| ToVm::Device { device: *device, front: spec.kind().front });
        out.push(Action::TellVm(self.run, ToVm::Describe(Box::new(description))));
        out.extend(devices.map(|message| Action::TellVm(self.run, message)));
    }

    fn perhaps_begin(&mut self, now: Moment, out: &mut Vec<Action>) {
        if let Life::Preparing { pid, waiting, deadline, left } = &self.life {
            if waiting.is_empty() {
                let deadline = if left.is_some() { *deadline } else { now + BEGIN_LIMIT };
                self.life = Life::Beginning { pid: *pid, deadline, left: *left };
                out.push(Action::TellVm(self.run, ToVm::Begin));
            }
        }
    }
}

/// Whether all that was announced has come.
fn complete(start: &StartVm, devices: usize, has_kvm: bool) -> Result<(), Failure> {
    if !has_kvm {
        return Err(Failure::new(Code::NoDevice, "/dev/kvm is not there"));
    }
    if devices != usize::from(start.devices) {
        let text = format!("only {devices} of {} devices came", start.devices);
        return Err(Failure::new(Code::Invalid, text));
    }
    Ok(())
}
