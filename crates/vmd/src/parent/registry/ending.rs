//! From the wish to end to the end.

use std::time::{Duration, Instant};

use proto::client::Reply;
use proto::vmm::End;
use proto::{Code, ConnId, Failure, RequestId, VmId};

use super::life::Life;
use super::plan::ThisBoot;
use super::{Action, Keep, Registry, Stopper};

impl Registry {
    pub(super) fn terminate_done(&mut self, request: RequestId, result: Result<(), Failure>, out: &mut Vec<Action>) {
        let Some(Stopper { asked, vm, wait }) = self.stops.remove(&request) else { return };
        let waits = self.vm(vm).is_some_and(|vm| vm.waits.contains(&asked));
        match result {
            Ok(()) if wait => {} // the end is the answer
            Ok(()) => out.push(Action::Answer(asked, Reply::Accepted { id: vm.0 })),
            Err(_) if wait && !waits => {} // it ended first, and that was the answer
            Err(failure) if wait && failure.code == Code::StopInvalid => {} // its process has ended, the rest follows
            Err(failure) => {
                self.forget_wait(asked.conn, Some(asked.id));
                out.push(Action::Answer(asked, Reply::Failed(failure)));
            }
        }
    }

    pub(super) fn leaving(&mut self, id: VmId, reboot: bool) {
        let Some(vm) = self.vm(id) else { return };
        match (&vm.life, reboot) {
            (Life::Running { pid, .. }, false) => vm.life = Life::Stopping { pid: *pid },
            (Life::Stopping { pid }, true) => vm.life = Life::running(*pid),
            _ => {}
        }
    }

    pub(super) fn ended(&mut self, id: VmId, end: End, now: Instant, out: &mut Vec<Action>) {
        let ending = self.ending;
        let Some(vm) = self.vm(id) else { return };
        let stopping = match &vm.life {
            Life::Running { .. } => false,
            Life::Stopping { .. } => true,
            Life::Waiting | Life::Stopped | Life::Preparing(_) | Life::Launching { .. } => return,
        };
        let (name, log) = (vm.definition.name.clone(), vm.definition.logger());
        let (level, how) = match &end {
            End::PoweredOff => (log::Level::Info, "ended".to_owned()),
            End::Rebooted => (log::Level::Info, "rebooted".to_owned()),
            End::Failed(failure) => (log::Level::Error, format!("failed: {failure}")),
        };
        out.push(log(level, format!("vm \"{name}\" (vm {id}) {how}")));
        let again = end == End::Rebooted && !stopping && !ending && vm.boot_device.is_none();
        if again && vm.definition.boot.is_some() {
            return self.reboot(id, now, out);
        }
        if let (End::Failed(failure), Some(vm)) = (&end, self.vms.iter().find(|vm| vm.id == id)) {
            self.failures.keep(vm, failure);
        }
        if again {
            let text = format!("vm \"{name}\" is not started again: its kernel came with vmctl start -b, for one boot");
            out.push(log(log::Level::Info, text));
        }
        self.settle(id, out);
    }

    /// A fresh process with the same console, disks and taps. Who waited for an end gets one.
    fn reboot(&mut self, id: VmId, now: Instant, out: &mut Vec<Action>) {
        out.push(Action::Release(id, Keep::ForReboot));
        let Some(vm) = self.vm(id) else { return };
        vm.tell_waiters(out);
        self.begin(id, None, ThisBoot::default(), now, out);
    }

    /// What vmm was asked it may still do: a late answer changes the VM's state, and is nobody's any more.
    pub(super) fn vmm_silent(&mut self, late: Duration, out: &mut Vec<Action>) {
        let text = format!("the vmm process has not answered for {} s; see the log", late.as_secs());
        let failure = Failure::new(Code::TimedOut, text);
        for request in self.stops.keys().copied().collect::<Vec<_>>() {
            self.terminate_done(request, Err(failure.clone()), out);
        }
        let pauses = std::mem::take(&mut self.orders).into_values();
        out.extend(pauses.map(|asked| Action::Answer(asked, Reply::Failed(failure.clone()))));
    }

    pub(super) fn vmm_gone(&mut self, out: &mut Vec<Action>) {
        let ids: Vec<VmId> = self.vms.iter().map(|vm| vm.id).collect();
        let failure = || Failure::new(Code::Io, "the vmm process ended, and all VMs with it");
        for id in ids {
            let Some(vm) = self.vm(id) else { continue };
            match vm.life {
                Life::Waiting | Life::Stopped => vm.life = Life::Stopped,
                Life::Preparing(_) => self.fail_preparation(id, failure(), out),
                Life::Launching { starter, .. } => {
                    out.extend(starter.map(|asked| Action::Answer(asked, Reply::Failed(failure()))));
                    self.settle(id, out);
                }
                Life::Running { .. } | Life::Stopping { .. } => self.settle(id, out),
            }
        }
        self.stagger.next = None;
        self.ending = true;
    }

    pub(super) fn gone(&mut self, conn: ConnId, out: &mut Vec<Action>) {
        self.forget_wait(conn, None);
        self.stops.retain(|_, stopper| stopper.asked.conn != conn);
        self.forget_orders(conn, out);
        self.reloads.retain(|reload| reload.asked.conn != conn);
        for vm in &mut self.vms {
            if let Life::Preparing(preparation) = &mut vm.life {
                preparation.starter = preparation.starter.filter(|asked| asked.conn != conn);
            }
            if let Life::Launching { starter, .. } = &mut vm.life {
                *starter = starter.filter(|asked| asked.conn != conn);
            }
        }
    }

    /// All waits of a connection, or the one of a request.
    pub(super) fn forget_wait(&mut self, conn: ConnId, id: Option<RequestId>) {
        for vm in &mut self.vms {
            vm.waits.retain(|asked| asked.conn != conn || id.is_some_and(|id| asked.id != id));
        }
    }
}
