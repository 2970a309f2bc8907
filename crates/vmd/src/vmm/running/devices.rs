//! What devices are asked while their guest runs, and what they have learned of it. No kind of device is known here.

use std::collections::VecDeque;

use proto::device::{REPORT_EVERY, Report};

use super::*;

/// Requests that a device may have to answer; one more is refused.
pub const MAX_ASKED: usize = 64;

/// A device's side of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Talk {
    /// Requests that it has not answered, at most [`MAX_ASKED`]: a process that takes another's place is asked them again.
    asked: VecDeque<(RequestId, Ask)>,
    /// When it last reported.
    reported: Option<Moment>,
}

impl Running {
    /// The parent may not have heard yet that the VM ends: then nobody is asked.
    pub(super) fn ask_device(&mut self, request: RequestId, id: VmId, device: u8, ask: Ask, out: &mut Vec<Action>) {
        let running = |vm: &&mut Vm| matches!(vm.life, Life::Up { .. }) && vm.devices.contains_key(&device);
        let mut refuse = |code, text| {
            let result = Err(Failure::new(code, text));
            out.push(Action::Reply(ToParent::DeviceDone { request, vm: id, result }));
        };
        let Some(vm) = self.vms.get_mut(&id).filter(running) else {
            return refuse(Code::NotFound, format!("vm {id} has no such device that runs"));
        };
        let talk = vm.talks.entry(device).or_default();
        if talk.asked.len() >= MAX_ASKED {
            return refuse(Code::Busy, format!("a device of vm {id} has not answered its previous requests yet"));
        }
        talk.asked.push_back((request, ask.clone()));
        if ask.fds() > 0 {
            out.push(Action::Hold(vm.run, vec![Slot::Asked(device, request)]));
        }
        if !vm.lost.contains_key(&device) {
            out.push(Action::Ask(vm.process(Member::Device(device)), request, ask));
        }
    }
}

impl Vm {
    /// Asks a process that serves now what the one before it has not answered: each request may be done twice, and none is lost.
    pub(super) fn ask_again(&self, device: u8, out: &mut Vec<Action>) {
        let process = self.process(Member::Device(device));
        let asked = self.talks.get(&device).into_iter().flat_map(|talk| &talk.asked);
        out.extend(asked.map(|(request, ask)| Action::Ask(process, *request, ask.clone())));
    }

    /// What was asked is done: a next process is told of it, and given what the request brought.
    fn heed(&mut self, device: u8, request: RequestId, ask: &Ask, out: &mut Vec<Action>) {
        let Some(spec) = self.devices.get_mut(&device) else { return };
        spec.heed(ask);
        if ask.fds() > 0 {
            out.push(Action::Move(self.run, Slot::Asked(device, request), Slot::Device(device, 0)));
        } else if spec.fds() == 0 {
            out.push(Action::Drop(self.run, Slot::Device(device, 0)));
        }
    }

    pub(super) fn device_answered(
        &mut self,
        vm: VmId,
        member: Member,
        changed: bool,
        result: Result<(), Failure>,
        out: &mut Vec<Action>,
    ) {
        let (Member::Device(device), Life::Up { .. } | Life::Ending { .. }) = (member, &self.life) else {
            return self.breach(member, "answered before its guest ran", out);
        };
        let serves = !self.lost.contains_key(&device);
        let talk = self.talks.get_mut(&device).filter(|_| serves);
        let Some((request, ask)) = talk.and_then(|talk| talk.asked.pop_front()) else {
            return self.breach(member, "answered a request that was not made", out);
        };
        match &result {
            Ok(()) => self.heed(device, request, &ask, out),
            Err(_) if ask.fds() > 0 => out.push(Action::Drop(self.run, Slot::Asked(device, request))),
            Err(_) => {}
        }
        let result = result.map_err(|why| Failure::new(why.code, sys::logpipe::printable(why.text.as_bytes())));
        out.push(Action::Reply(ToParent::DeviceDone { request, vm, result }));
        if changed && matches!(self.life, Life::Up { .. }) {
            out.push(Action::TellVm(self.run, ToVm::ConfigChanged { device }));
        }
    }

    /// One that reports without end makes no work for the parent: what comes too soon is dropped.
    pub(super) fn device_reported(
        &mut self,
        vm: VmId,
        member: Member,
        report: Report,
        now: Moment,
        out: &mut Vec<Action>,
    ) {
        let (Member::Device(device), Life::Up { .. }) = (member, &self.life) else { return };
        let talk = self.talks.entry(device).or_default();
        if talk.reported.is_none_or(|last| now >= last + REPORT_EVERY / 2) {
            talk.reported = Some(now);
            out.push(Action::Reply(ToParent::Report { vm, device, report }));
        }
    }
}
