//! How VMs end: by themselves, by a process that fails, at a deadline, with the daemon.

use proto::exit;

use super::*;

impl Running {
    pub(super) fn vm_said(&mut self, run: Run, message: FromVm, now: Moment, out: &mut Vec<Action>) {
        match message {
            FromVm::Started => self.started(run, now, out),
            FromVm::Failed(failure) => {
                let Some((_, vm)) = self.of_run(run) else { return };
                let text = sys::logpipe::printable(failure.text.as_bytes());
                vm.fail(Failure::new(failure.code, text), out);
            }
            FromVm::Leaving { reboot } => self.leaving(run, reboot, out),
            FromVm::Ended { status } => self.last_word(run, Member::Vm, status),
            FromVm::Pausing => {
                if let Some((_, vm)) = self.of_run(run) {
                    vm.stands_still(out);
                }
            }
            FromVm::Done(order, result) => self.vm_answered(run, order, result, now, out),
        }
    }

    fn vm_answered(
        &mut self,
        run: Run,
        order: Order,
        result: Result<bool, Failure>,
        now: Moment,
        out: &mut Vec<Action>,
    ) {
        let Some((id, vm)) = self.of_run(run) else { return };
        let printable = |failure: Failure| Failure::new(failure.code, sys::logpipe::printable(failure.text.as_bytes()));
        vm.answered(id, order, result.map_err(printable), now, out);
    }

    /// What a process says before it ends. This decides, and not the exit status, which its starter alone can read.
    pub(super) fn last_word(&mut self, run: Run, member: Member, status: u8) {
        if let Some((_, vm)) = self.of_run(run) {
            vm.last_words.insert(member, status);
        }
    }

    /// The guest's own wish. One that was told to stop has none: its reset ends it (openbsd/daemon.md, 2.4).
    fn leaving(&mut self, run: Run, reboot: bool, out: &mut Vec<Action>) {
        let Some((id, vm)) = self.of_run(run) else { return };
        match &mut vm.life {
            Life::Up { course: Course::Stopping(_), .. } | Life::Ending { .. } => {}
            Life::Up { .. } if vm.wishes == MAX_WISHES => {
                vm.breach(Member::Vm, "keeps sending requests without end", out)
            }
            Life::Up { course, .. } => {
                vm.wishes += 1;
                *course = if reboot { Course::Running } else { Course::Leaving };
                out.push(Action::Reply(ToParent::Leaving { vm: id, reboot }));
            }
            Life::Described | Life::Spawning { .. } | Life::Preparing { .. } | Life::Beginning { .. } => {
                vm.breach(Member::Vm, "wants to stop or reboot before it started", out);
            }
        }
    }

    pub(super) fn broken(&mut self, process: Process, why: &str, out: &mut Vec<Action>) {
        if let Some((_, vm)) = self.of_run(process.run) {
            vm.breach(process.member, why, out);
        }
    }

    pub(super) fn exited(&mut self, process: Process, exit: Exit, now: Moment, out: &mut Vec<Action>) {
        let Some((_, vm)) = self.of_run(process.run) else { return };
        if vm.alive.remove(&process.member) {
            match process.member {
                Member::Vm => vm.vm_exited(exit, now, out),
                device => vm.device_exited(device, exit, now, out),
            }
        }
    }

    pub(super) fn time(&mut self, now: Moment, out: &mut Vec<Action>) {
        for (id, vm) in &mut self.vms {
            vm.orders.late(*id, &vm.start, now, out);
            if vm.life.deadline().is_some_and(|deadline| deadline <= now) {
                vm.late(*id, now, out);
            }
            vm.lost_late(now, out);
        }
    }

    /// vmm ends: SIGKILL for all (openbsd/daemon.md, 2.7 [26]), since nobody is left who would wait for a guest that is
    /// asked. Descriptions are forgotten, starts fail.
    pub(super) fn shutdown(&mut self, out: &mut Vec<Action>) {
        self.ending = true;
        self.refused.clear();
        let described = |vm: &Vm| matches!(vm.life, Life::Described);
        out.extend(self.vms.values().filter(|vm| described(vm)).map(|vm| Action::Release(vm.run)));
        self.vms.retain(|_, vm| !described(vm));
        for vm in self.vms.values_mut() {
            let outcome = match vm.had_started() {
                true => Outcome::Ended(End::PoweredOff),
                false => Outcome::StartFailed(Failure::new(Code::Io, "the daemon ended")),
            };
            vm.end_now(outcome, out);
        }
    }
}

impl Vm {
    /// Its process or a device of it cannot go on. A start fails; one that ran ends as failed.
    pub(super) fn fail(&mut self, failure: Failure, out: &mut Vec<Action>) {
        if matches!(self.life, Life::Ending { .. }) {
            return;
        }
        out.push(self.log(Level::Error, failure.to_string()));
        let outcome = match self.had_started() {
            true => Outcome::Ended(End::Failed(failure)),
            false => Outcome::StartFailed(failure),
        };
        self.end_now(outcome, out);
    }

    /// A process of it said what it must not: nothing it has is to be trusted, and only its VM pays. What comes from one
    /// that is ending anyway is ignored.
    pub(super) fn breach(&mut self, member: Member, what: &str, out: &mut Vec<Action>) {
        self.fail(Failure::new(Code::Io, format!("{}: {what}", self.called(member))), out);
    }

    /// SIGKILL to all. The first outcome stays.
    pub(super) fn end_now(&mut self, outcome: Outcome, out: &mut Vec<Action>) {
        self.kill_all(Signal::KILL, out);
        if let Life::Ending { deadline, .. } = &mut self.life {
            *deadline = None;
        } else {
            self.life = Life::Ending { outcome, deadline: None };
        }
    }

    /// Its processes are asked to end: the vm process by SIGTERM, devices by the end of their channels, when they flush.
    /// What is left at the deadline is killed.
    fn end_cleanly(&mut self, outcome: Outcome, now: Moment, out: &mut Vec<Action>) {
        if self.alive.contains(&Member::Vm) {
            out.push(Action::Kill(self.process(Member::Vm), Signal::TERM));
        }
        out.push(Action::HangUp(self.run));
        self.life = Life::Ending { outcome, deadline: Some(now + KILL_AFTER) };
    }

    fn vm_exited(&mut self, exit: Exit, now: Moment, out: &mut Vec<Action>) {
        let failed = |what: &str| Failure::new(Code::Io, format!("vm process {what}: {exit}"));
        let end = match &self.life {
            Life::Up { course, .. } => match (course, self.last_words.get(&Member::Vm).copied()) {
                (_, Some(exit::POWERED_OFF)) => End::PoweredOff,
                (Course::Running, Some(exit::REBOOTED)) => End::Rebooted,
                // A reset at the end of a shutdown is no reboot.
                (Course::Leaving | Course::Stopping(_), Some(exit::REBOOTED)) => End::PoweredOff,
                // By the signal that it was sent.
                (Course::Stopping(Stage::Terminated(_) | Stage::Killed), None) => End::PoweredOff,
                (Course::Running | Course::Leaving | Course::Stopping(_), _) => End::Failed(failed("failed")),
            },
            Life::Ending { .. } => return,
            Life::Described | Life::Spawning { .. } | Life::Preparing { .. } | Life::Beginning { .. } => {
                return self.fail(failed("ended before its guest ran"), out);
            }
        };
        if let End::Failed(failure) = &end {
            out.push(self.log(Level::Error, failure.to_string()));
        }
        self.end_cleanly(Outcome::Ended(end), now, out);
    }

    fn device_exited(&mut self, device: Member, exit: Exit, now: Moment, out: &mut Vec<Action>) {
        let in_peace = self.last_words.contains_key(&device);
        match &mut self.life {
            // The vm process has failed and closed their socket; why is still to be read from it, or from its status.
            Life::Preparing { deadline, left, .. } | Life::Beginning { deadline, left, .. } if in_peace => {
                left.get_or_insert(device);
                *deadline = (now + KILL_AFTER).min(*deadline);
            }
            Life::Described | Life::Spawning { .. } | Life::Preparing { .. } | Life::Beginning { .. } => {
                self.left_early(device, &exit.to_string(), out);
            }
            Life::Up { .. } => {
                if let Member::Device(index) = device {
                    self.lose(index, in_peace, &exit.to_string(), now, out);
                }
            }
            Life::Ending { .. } => {}
        }
    }

    /// A device was lost before the guest ran: the start fails.
    fn left_early(&mut self, device: Member, how: &str, out: &mut Vec<Action>) {
        let name = self.called(device);
        self.fail(Failure::new(Code::Io, format!("{name} ended before the guest ran: {how}")), out);
    }

    /// A guest that runs has lost a device for good: the VM ends, and the log says by whose fault.
    pub(super) fn device_died(&mut self, device: Member, how: &str, now: Moment, out: &mut Vec<Action>) {
        let name = self.called(device);
        out.push(self.log(Level::Error, format!("{name} ended ({how}), so the vm ends")));
        let failure = Failure::new(Code::Io, format!("{name} ended: {how}"));
        self.end_cleanly(Outcome::Ended(End::Failed(failure)), now, out);
    }

    fn late(&mut self, id: VmId, now: Moment, out: &mut Vec<Action>) {
        match &mut self.life {
            Life::Preparing { left: Some(device), .. } | Life::Beginning { left: Some(device), .. } => {
                let device = *device;
                self.left_early(device, "without an error", out);
            }
            Life::Preparing { waiting, .. } => {
                let waiting = std::mem::take(waiting);
                let text = format!("{} not ready within {} s", self.all_called(&waiting), READY_LIMIT.as_secs());
                self.fail(Failure::new(Code::TimedOut, text), out);
            }
            Life::Beginning { .. } => {
                let text = format!("the guest did not run within {} s", BEGIN_LIMIT.as_secs());
                self.fail(Failure::new(Code::TimedOut, text), out);
            }
            Life::Up { course: Course::Stopping(stage), .. } => match stage {
                Stage::Asked { until, .. } if *until <= now => {
                    *stage = Stage::Terminated(now + KILL_AFTER);
                    let text = format!(
                        "vm {id} has not stopped by itself in time, and is ended by force; does its guest heed the ACPI power button?"
                    );
                    out.push(super::log_of(&self.start, Level::Warn, text));
                    out.push(Action::Kill(self.process(Member::Vm), Signal::TERM));
                }
                Stage::Asked { presses: Some(presses), .. } => {
                    let press = Action::TellVm(self.run, ToVm::AskToStop);
                    out.extend(presses.due(now).then_some(press));
                }
                Stage::Terminated(_) => {
                    *stage = Stage::Killed;
                    let text =
                        format!("force killed vm {id}: it did not end within {} s of SIGTERM", KILL_AFTER.as_secs());
                    out.push(super::log_of(&self.start, Level::Warn, text));
                    out.push(Action::Kill(self.process(Member::Vm), Signal::KILL));
                }
                Stage::Asked { presses: None, .. } | Stage::Killed => {}
            },
            Life::Ending { deadline, .. } => {
                *deadline = None;
                let names = self.all_called(&self.alive);
                out.push(self.log(Level::Warn, format!("vm {id}: {names} did not end: killed")));
                self.kill_all(Signal::KILL, out);
            }
            Life::Described | Life::Spawning { .. } | Life::Up { .. } => {}
        }
    }
}
