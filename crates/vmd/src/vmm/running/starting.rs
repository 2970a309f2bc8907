//! From the first message of a start to the guest's first instruction, or the failure that ends this start alone.

use model::{MAX_CPUS, MAX_DISKS, MAX_NICS, MemorySize, Text};
use proto::vm::{Description, DeviceKind};

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
                alive: BTreeSet::new(),
                wishes: 0,
                pausing: Pausing::default(),
                life: Life::Described(Parts::default()),
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
        if usize::from(start.disks) > MAX_DISKS || usize::from(start.nics) > MAX_NICS {
            return invalid(format!("a vm has at most {MAX_DISKS} disks and {MAX_NICS} network cards"));
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
            Some(Life::Described(_)) => {}
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

    pub(super) fn start_disk(&mut self, id: VmId, disk: u8, what: DiskDescription, out: &mut Vec<Action>) {
        let Some(vm) = self.parts(id, out) else { return };
        let (run, disks) = (vm.run, vm.start.disks);
        let Life::Described(parts) = &mut vm.life else { return };
        if disk >= disks {
            return self.spoil(id, Code::Invalid, format!("invalid disk id {disk}: the vm has {disks}"), out);
        }
        if parts.disks.insert(disk, what).is_some() {
            return self.spoil(id, Code::Invalid, format!("too many images for disk {disk}"), out);
        }
        out.push(Action::Hold(run, vec![Slot::Disk(disk)]));
    }

    pub(super) fn start_nic(&mut self, id: VmId, nic: u8, what: NicDescription, out: &mut Vec<Action>) {
        let Some(vm) = self.parts(id, out) else { return };
        let (run, nics) = (vm.run, vm.start.nics);
        let Life::Described(parts) = &mut vm.life else { return };
        if nic >= nics {
            return self.spoil(id, Code::Invalid, format!("invalid interface id {nic}: the vm has {nics}"), out);
        }
        if parts.nics.insert(nic, what).is_some() {
            return self.spoil(id, Code::Invalid, format!("interface {nic} came twice"), out);
        }
        out.push(Action::Hold(run, vec![Slot::Nic(nic)]));
    }

    /// Held, and closed when the VM runs: a vm without a SCSI controller (this release) has nothing to show it with.
    pub(super) fn start_cdrom(&mut self, id: VmId, out: &mut Vec<Action>) {
        let Some(vm) = self.parts(id, out) else { return };
        let run = vm.run;
        let Life::Described(parts) = &mut vm.life else { return };
        if std::mem::replace(&mut parts.cdrom, true) {
            return self.spoil(id, Code::Invalid, "the cdrom came twice".to_owned(), out);
        }
        out.push(Action::Hold(run, vec![Slot::Cdrom]));
    }

    pub(super) fn start_cancel(&mut self, id: VmId, out: &mut Vec<Action>) {
        if self.refused.remove(&id) {
            return;
        }
        if self.vms.get(&id).is_some_and(|vm| matches!(vm.life, Life::Described(_))) {
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
        let Life::Described(parts) = &mut vm.life else { return };
        if let Err(failure) = complete(&vm.start, parts, has_kvm) {
            out.push(Action::Release(vm.run));
            self.vms.remove(&id);
            return out.push(Action::Reply(ToParent::StartDone { vm: id, result: Err(failure) }));
        }
        let parts = std::mem::take(parts);
        let devices =
            || parts.nics.keys().map(|nic| Member::Net(*nic)).chain(parts.disks.keys().map(|d| Member::Blk(*d)));
        let waiting = devices().collect();
        let mut left: Vec<Member> = devices().chain([Member::Vm]).collect();
        left.reverse();
        out.push(Action::Hold(vm.run, vec![Slot::Console]));
        vm.life = Life::Spawning { parts, left, waiting };
        vm.spawn_next(self.debug, out);
    }

    pub(super) fn spawned(&mut self, process: Process, pid: u32, now: Instant, out: &mut Vec<Action>) {
        let debug = self.debug;
        let Some((_, vm)) = self.of_run(process.run) else { return };
        match &mut vm.life {
            Life::Spawning { parts, waiting, .. } => match process.member {
                Member::Vm => {
                    let (parts, waiting) = (std::mem::take(parts), std::mem::take(waiting));
                    vm.describe(&parts, debug, out);
                    vm.life = Life::Preparing { pid, waiting, deadline: now + READY_LIMIT, left: None };
                    vm.perhaps_begin(now, out);
                }
                member => {
                    out.extend(described(&vm.start, parts, member, debug).map(|say| Action::TellDevice(process, say)));
                    vm.spawn_next(debug, out);
                }
            },
            // It was being made when the start was given up.
            Life::Ending { .. } => out.push(Action::Kill(process, Signal::KILL)),
            Life::Described(_) | Life::Preparing { .. } | Life::Beginning { .. } | Life::Up { .. } => {}
        }
    }

    pub(super) fn spawn_failed(&mut self, process: Process, failure: Failure, out: &mut Vec<Action>) {
        let Some((_, vm)) = self.of_run(process.run) else { return };
        if vm.alive.remove(&process.member) {
            let text = format!("start child failed: {}: {failure}", process.member);
            vm.fail(Failure::new(failure.code, text), out);
        }
    }

    pub(super) fn device_said(&mut self, process: Process, message: FromDevice, now: Instant, out: &mut Vec<Action>) {
        let Some((_, vm)) = self.of_run(process.run) else { return };
        match message {
            FromDevice::Ready => {
                let waiting = match &mut vm.life {
                    Life::Spawning { waiting, .. } | Life::Preparing { waiting, .. } => waiting,
                    _ => return vm.breach(process.member, "reported twice that it is ready", out),
                };
                if !waiting.remove(&process.member) {
                    return vm.breach(process.member, "reported twice that it is ready", out);
                }
                vm.perhaps_begin(now, out);
            }
            FromDevice::Failed(failure) => {
                let text = format!("{}: {}", process.member, sys::logpipe::printable(failure.text.as_bytes()));
                vm.fail(Failure::new(failure.code, text), out);
            }
        }
    }

    pub(super) fn started(&mut self, run: Run, out: &mut Vec<Action>) {
        let Some((id, vm)) = self.of_run(run) else { return };
        match vm.life {
            Life::Beginning { pid, deadline, left } => {
                let left = left.map(|device| (device, deadline));
                vm.life = Life::Up { pid, course: Course::Running, left };
                out.push(Action::Reply(ToParent::StartDone { vm: id, result: Ok(pid) }));
            }
            _ => vm.breach(Member::Vm, "reported a start that it was not asked for", out),
        }
    }
}

impl Vm {
    fn spawn_next(&mut self, debug: bool, out: &mut Vec<Action>) {
        let Life::Spawning { left, .. } = &mut self.life else { return };
        let Some(member) = left.pop() else { return };
        self.alive.insert(member);
        let title = Title { title: format!("vmd: {member} {}", self.start.name), debug };
        out.push(Action::Spawn(self.process(member), title));
    }

    /// Tells the vm process what it is, and each of its devices in the order that the guest sees: cards, then disks.
    fn describe(&self, parts: &Parts, debug: bool, out: &mut Vec<Action>) {
        let StartVm { name, memory, cpus, kernel, cmdline, initrd, disks, nics, .. } = &self.start;
        let description = Description {
            name: name.clone(),
            memory: *memory,
            cpus: *cpus,
            kernel: *kernel,
            cmdline: cmdline.clone(),
            initrd: *initrd,
            devices: nics.saturating_add(*disks),
            debug,
        };
        let cards = parts.nics.keys().map(|nic| DeviceKind::Net { nic: *nic });
        let devices = cards.chain(parts.disks.keys().map(|disk| DeviceKind::Blk { disk: *disk }));
        let addresses = parts.addresses.iter().map(|(nic, mac)| ToVm::TapAddress { nic: *nic, mac: *mac });
        let messages = devices.map(ToVm::Device).chain(addresses);
        out.push(Action::TellVm(self.run, ToVm::Describe(Box::new(description))));
        out.extend(messages.map(|message| Action::TellVm(self.run, message)));
        out.push(Action::Release(self.run));
    }

    fn perhaps_begin(&mut self, now: Instant, out: &mut Vec<Action>) {
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
fn complete(start: &StartVm, parts: &Parts, has_kvm: bool) -> Result<(), Failure> {
    if !has_kvm {
        return Err(Failure::new(Code::NoDevice, "/dev/kvm is not there"));
    }
    let (disks, nics) = (parts.disks.len(), parts.nics.len());
    if disks != usize::from(start.disks) || nics != usize::from(start.nics) {
        let text = format!("only {disks} of {} disks and {nics} of {} interfaces came", start.disks, start.nics);
        return Err(Failure::new(Code::Invalid, text));
    }
    Ok(())
}

/// What a device is told.
fn described(start: &StartVm, parts: &Parts, member: Member, debug: bool) -> Option<ToDevice> {
    let vm = start.name.clone();
    match member {
        Member::Net(nic) => {
            parts.nics.get(&nic).map(|what| ToDevice::Net { vm, nic, description: what.clone(), debug })
        }
        Member::Blk(disk) => parts.disks.get(&disk).map(|what| ToDevice::Blk {
            // The number first: a long name is cut, and the guest tells its disks apart by this.
            serial: Text::cut(&format!("disk{disk}-{vm}")),
            vm,
            disk,
            description: what.clone(),
            debug,
        }),
        Member::Vm => None,
    }
}
