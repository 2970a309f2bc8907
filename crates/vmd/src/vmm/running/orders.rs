//! Orders to VMs that run. A vm process is given one at a time; each is answered to who asked, also by a deadline or the VM's
//! end.
//!
//! A pause whose guest stands still has no deadline: its devices finish what is under way, for as long as a disk of the host
//! takes. An unpause does not wait for it but takes it back, and with it the pauses that wait. The vm process answers both, one
//! after the other.

use std::collections::VecDeque;

use super::*;

/// How long a vm process may take, of a pause until its guest stands still.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Orders that may wait for one VM.
pub const MAX_WAITING: usize = 16;

/// What one VM was asked, and is to be asked.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Orders {
    /// As its vm process last said.
    paused: bool,
    /// In order; a second one is the unpause that takes the first, a pause, back.
    asked: VecDeque<Asked>,
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

fn busy(vm: VmId) -> Failure {
    Failure::new(Code::Busy, format!("vm {vm} has not answered the previous request yet"))
}

impl Running {
    pub(super) fn order(&mut self, request: RequestId, id: VmId, order: Order, now: Moment, out: &mut Vec<Action>) {
        match self.may_order(id) {
            Ok(vm) if order == Order::Unpause && vm.orders.is_pausing() => {
                vm.orders.take_back(id, out);
                vm.ask(order, Some(request), Some(now + ANSWER_LIMIT), out);
            }
            Ok(vm) if vm.orders.waiting.len() >= MAX_WAITING => {
                out.push(answer(order, request, id, Err(busy(id))));
            }
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
        let silent = vm.orders.asked.iter().any(|asked| asked.request.is_none());
        if silent { Err(busy(id)) } else { Ok(vm) }
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
        if !self.orders.asked.is_empty() {
            return;
        }
        let Some((request, order)) = self.orders.waiting.pop_front() else { return };
        self.ask(order, Some(request), Some(now + ANSWER_LIMIT), out);
    }

    fn ask(&mut self, order: Order, request: Option<RequestId>, deadline: Option<Moment>, out: &mut Vec<Action>) {
        self.orders.asked.push_back(Asked { order, request, deadline });
        out.push(Action::TellVm(self.run, ToVm::Order(order)));
    }

    /// Its guest stands still, and the devices may take their time.
    pub(super) fn stands_still(&mut self, out: &mut Vec<Action>) {
        match self.orders.asked.front_mut() {
            Some(asked) if asked.order == Order::Pause => asked.deadline = None,
            _ => self.breach(Member::Vm, "says that it pauses, and was not asked to", out),
        }
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
        if self.orders.asked.front().is_none_or(|asked| asked.order != order) {
            return self.breach(Member::Vm, "answered a request that was not made", out);
        }
        let request = self.orders.asked.pop_front().and_then(|asked| asked.request);
        if let Ok(paused) = result {
            self.orders.paused = paused;
        }
        out.extend(request.map(|request| answer(order, request, id, result)));
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
        if self.orders.is_pausing() || self.orders.paused && self.orders.asked.is_empty() {
            self.ask(Order::Unpause, None, None, out);
        }
    }
}

impl Orders {
    /// A pause is under way, and nobody takes it back.
    fn is_pausing(&self) -> bool {
        self.asked.back().is_some_and(|asked| asked.order == Order::Pause)
    }

    /// No pause that waits is begun after this.
    fn take_back(&mut self, id: VmId, out: &mut Vec<Action>) {
        let failure = Failure::new(Code::Invalid, format!("vm {id} was unpaused before it was paused"));
        self.waiting.retain(|(request, order)| {
            let stays = *order != Order::Pause;
            if !stays {
                out.push(answer(*order, *request, id, Err(failure.clone())));
            }
            stays
        });
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        self.asked.iter().filter_map(|asked| asked.deadline).min()
    }

    /// Gives up what was not answered in time, and what waits behind it. What the vm process still says to it is heard.
    pub(super) fn late(&mut self, id: VmId, vm: &StartVm, now: Moment, out: &mut Vec<Action>) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            let text = format!("vm \"{}\" (vm {id}) has not answered within {} s", vm.name, ANSWER_LIMIT.as_secs());
            out.push(log_of(vm, Level::Warn, text.clone()));
            self.fail_all(id, &Failure::new(Code::TimedOut, text), out);
        }
    }

    fn fail_all(&mut self, id: VmId, failure: &Failure, out: &mut Vec<Action>) {
        let asked = self.asked.iter_mut().filter_map(|asked| {
            asked.deadline = None;
            asked.request.take().map(|request| (request, asked.order))
        });
        for (request, order) in asked.chain(std::mem::take(&mut self.waiting)) {
            out.push(answer(order, request, id, Err(failure.clone())));
        }
    }
}
