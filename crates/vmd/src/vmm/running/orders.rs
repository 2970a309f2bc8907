//! Orders to VMs that run. A vm process is given one at a time; each is answered to who asked, also by a deadline or the VM's
//! end.

use std::collections::VecDeque;

use super::*;

/// How long a vm process may take. Its devices finish what is under way, for which a disk of the host may have to be waited.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Orders that may wait for one VM.
pub const MAX_WAITING: usize = 16;

/// What one VM was asked, and is to be asked.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Orders {
    /// As its vm process last said.
    paused: bool,
    asked: Option<Asked>,
    waiting: VecDeque<(RequestId, Order)>,
}

/// What the vm process has not answered yet.
#[derive(Debug, Serialize, Deserialize)]
struct Asked {
    order: Order,
    /// Who waits for it; nobody, where it is our own order or was given up.
    request: Option<RequestId>,
    /// When it is given up.
    deadline: Option<Moment>,
}

fn answer(order: Order, request: RequestId, vm: VmId, result: Result<bool, Failure>) -> Action {
    Action::Reply(ToParent::OrderDone { request, vm, order, result })
}

impl Running {
    pub(super) fn order(&mut self, request: RequestId, id: VmId, order: Order, now: Moment, out: &mut Vec<Action>) {
        match self.may_order(id) {
            Ok(vm) => {
                vm.orders.waiting.push_back((request, order));
                vm.ask_next(now, out);
            }
            Err(failure) => out.push(answer(order, request, id, Err(failure))),
        }
    }

    fn may_order(&mut self, id: VmId) -> Result<&mut Vm, Failure> {
        let unknown = || Failure::new(Code::NotFound, format!("vm {id} does not run"));
        let vm = self.vms.get_mut(&id).ok_or_else(unknown)?;
        match &vm.life {
            Life::Up { course: Course::Running | Course::Leaving, .. } => {}
            Life::Up { course: Course::Stopping(_), .. } => {
                return Err(Failure::new(Code::Invalid, format!("vm {id} is being stopped")));
            }
            Life::Described | Life::Spawning { .. } | Life::Preparing { .. } | Life::Beginning { .. } => {
                return Err(Failure::new(Code::Invalid, format!("the guest of vm {id} does not run yet")));
            }
            Life::Ending { .. } => return Err(unknown()),
        }
        let silent = vm.orders.asked.as_ref().is_some_and(|asked| asked.request.is_none());
        if silent || vm.orders.waiting.len() >= MAX_WAITING {
            return Err(Failure::new(Code::Busy, format!("vm {id} has not answered the previous request yet")));
        }
        Ok(vm)
    }

    /// Nobody will answer for VMs that end.
    pub(super) fn fail_orders_of_ending(&mut self, out: &mut Vec<Action>) {
        for (id, vm) in &mut self.vms {
            if matches!(vm.life, Life::Ending { .. }) {
                vm.orders.fail_all(*id, &Failure::new(Code::Io, format!("vm {id} ended")), out);
            }
        }
    }
}

impl Vm {
    fn ask_next(&mut self, now: Moment, out: &mut Vec<Action>) {
        if self.orders.asked.is_some() {
            return;
        }
        let Some((request, order)) = self.orders.waiting.pop_front() else { return };
        self.orders.asked = Some(Asked { order, request: Some(request), deadline: Some(now + ANSWER_LIMIT) });
        out.push(Action::TellVm(self.run, ToVm::Order(order)));
    }

    /// The vm process has done it, or can't.
    pub(super) fn answered(
        &mut self,
        id: VmId,
        order: Order,
        result: Result<bool, Failure>,
        now: Moment,
        out: &mut Vec<Action>,
    ) {
        let Some(asked) = self.orders.asked.take_if(|asked| asked.order == order) else {
            return self.breach(Member::Vm, "answered a request that was not made", out);
        };
        if let Ok(paused) = result {
            self.orders.paused = paused;
        }
        out.extend(asked.request.map(|request| answer(order, request, id, result)));
        if matches!(self.life, Life::Up { course: Course::Stopping(_), .. }) {
            self.wake(out);
        }
        self.ask_next(now, out);
    }

    /// It is to stop by itself, for which it must run: no other order counts any more.
    pub(super) fn wake_to_stop(&mut self, id: VmId, out: &mut Vec<Action>) {
        let failure = Failure::new(Code::Invalid, format!("vm {id} is being stopped"));
        for (request, order) in std::mem::take(&mut self.orders.waiting) {
            out.push(answer(order, request, id, Err(failure.clone())));
        }
        self.wake(out);
    }

    fn wake(&mut self, out: &mut Vec<Action>) {
        if self.orders.paused && self.orders.asked.is_none() {
            self.orders.asked = Some(Asked { order: Order::Unpause, request: None, deadline: None });
            out.push(Action::TellVm(self.run, ToVm::Order(Order::Unpause)));
        }
    }
}

impl Orders {
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.asked.as_ref().and_then(|asked| asked.deadline)
    }

    /// Gives up what was not answered in time, and what waits behind it. What the vm process still says to it is heard.
    pub(super) fn late(&mut self, id: VmId, name: &VmName, now: Moment, out: &mut Vec<Action>) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            let text = format!("vm \"{name}\" (vm {id}) has not answered within {} s", ANSWER_LIMIT.as_secs());
            out.push(log_of(name, Level::Warn, text.clone()));
            self.fail_all(id, &Failure::new(Code::TimedOut, text), out);
        }
    }

    fn fail_all(&mut self, id: VmId, failure: &Failure, out: &mut Vec<Action>) {
        let asked = self.asked.as_mut().and_then(|asked| {
            asked.deadline = None;
            asked.request.take().map(|request| (request, asked.order))
        });
        for (request, order) in asked.into_iter().chain(std::mem::take(&mut self.waiting)) {
            out.push(answer(order, request, id, Err(failure.clone())));
        }
    }
}
