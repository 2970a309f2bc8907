//! What the parent asks of VMs that run, and of vmm itself.

use super::*;

impl Running {
    /// A second one is refused: the sender's message fails, vmm lives (openbsd/daemon.md, 2.3).
    pub(super) fn host_fd(&mut self, which: HostFd, out: &mut Vec<Action>) {
        out.push(match self.hosts.insert(which) {
            true => Action::HoldHost(which),
            false => Action::Log(
                Level::Error,
                format!(
                    "already received {} fd",
                    match which {
                        HostFd::Kvm => "kvm",
                        HostFd::Psp => "psp",
                    }
                ),
            ),
        });
    }

    pub(super) fn verbose(&mut self, debug: bool, out: &mut Vec<Action>) {
        self.debug = debug;
        out.push(Action::Verbose(debug));
        for vm in self.vms.values() {
            for member in &vm.alive {
                out.push(match member {
                    Member::Vm => Action::TellVm(vm.run, ToVm::Verbose { debug }),
                    device => Action::TellDevice(vm.process(*device), ToDevice::Verbose { debug }),
                });
            }
        }
    }

    pub(super) fn terminate(&mut self, request: RequestId, id: VmId, how: Stop, now: Moment, out: &mut Vec<Action>) {
        let result = self.stop(id, how, now, out);
        out.push(Action::Reply(ToParent::TerminateDone { request, vm: id, result }));
    }

    /// openbsd/daemon.md, 2.4, its conditions in its order.
    fn stop(&mut self, id: VmId, how: Stop, now: Moment, out: &mut Vec<Action>) -> Result<(), Failure> {
        if id == VmId(0) {
            return Err(Failure::new(Code::NotFound, "no vm has the id 0"));
        }
        let not_running = || Failure::new(Code::StopInvalid, format!("vm {id} does not run"));
        let vm = self.vms.get_mut(&id).ok_or_else(not_running)?;
        match &mut vm.life {
            Life::Described => {
                Err(Failure::new(Code::Invalid, format!("vm {id} has no process yet that could be stopped")))
            }
            Life::Spawning { .. } | Life::Preparing { .. } | Life::Beginning { .. } => {
                vm.end_now(Outcome::StartFailed(Failure::new(Code::Io, "stopped before its guest ran")), out);
                Ok(())
            }
            Life::Up { course, .. } => {
                let before = *course;
                *course = Course::Stopping(stage_of(before, how, now));
                match (before, *course) {
                    (Course::Running, Course::Stopping(Stage::Asked { .. })) => {
                        vm.wake_to_stop(id, out);
                        out.push(Action::TellVm(vm.run, ToVm::AskToStop));
                    }
                    (Course::Leaving, Course::Stopping(Stage::Asked { .. })) => vm.wake_to_stop(id, out),
                    (Course::Stopping(stage), Course::Stopping(now)) if stage == now => {}
                    (Course::Stopping(_), Course::Stopping(Stage::Asked { .. })) => {
                        out.push(Action::TellVm(vm.run, ToVm::AskToStop));
                    }
                    (_, Course::Stopping(Stage::Terminated(_))) => {
                        out.push(Action::Kill(vm.process(Member::Vm), Signal::TERM));
                    }
                    _ => {}
                }
                Ok(())
            }
            Life::Ending { .. } if how == Stop::Force && vm.alive.contains(&Member::Vm) => Ok(()), // it is dying
            Life::Ending { .. } => Err(not_running()),
        }
    }

    /// The VMs with a vm process (openbsd/daemon.md, 2.12 [26]). How much memory that has, the parent reads itself:
    /// there is no /proc here.
    pub(super) fn info(&self, request: RequestId, out: &mut Vec<Action>) {
        for (id, vm) in &self.vms {
            if let Some(pid) = vm.life.pid() {
                let StartVm { cpus, memory, .. } = vm.start;
                out.push(Action::Reply(ToParent::Info { request, vm: *id, pid, cpus, memory }));
            }
        }
        out.push(Action::Reply(ToParent::InfoEnd { request }));
    }
}

/// How a VM on this course is stopped so: harder than it is already, or as it is. One that shuts down by itself is not asked,
/// but has a deadline; one that is asked twice has its button pressed at once, and no more time.
fn stage_of(course: Course, how: Stop, now: Moment) -> Stage {
    let asked = |seconds: u16, presses| Stage::Asked { until: now + Duration::from_secs(seconds.into()), presses };
    match (course, how) {
        (Course::Running, Stop::Graceful { seconds }) => asked(seconds, Some(Presses::first(now))),
        (Course::Leaving, Stop::Graceful { seconds }) => asked(seconds, None),
        (Course::Stopping(Stage::Asked { until, presses: Some(mut presses) }), Stop::Graceful { .. }) => {
            presses.asked_again(now);
            Stage::Asked { until, presses: Some(presses) }
        }
        (Course::Running | Course::Leaving | Course::Stopping(Stage::Asked { .. }), Stop::Force) => {
            Stage::Terminated(now + KILL_AFTER)
        }
        (Course::Stopping(stage), Stop::Graceful { .. } | Stop::Force) => stage,
    }
}
