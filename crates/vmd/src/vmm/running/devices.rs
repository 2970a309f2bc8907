//! What devices are asked while their guest runs, and what they have learned of it. No kind of device is known here.

use proto::device::{Ask, REPORT_EVERY, Report};

use super::*;

/// A device's side of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Talk {
    /// Requests that it has not answered.
    asked: u32,
    /// When it last reported.
    reported: Option<Moment>,
}

impl Running {
    /// The parent may not have heard yet that the VM ends: then nobody is asked.
    pub(super) fn ask_device(&mut self, id: VmId, device: u8, ask: Ask, out: &mut Vec<Action>) {
        let running = |vm: &&mut Vm| matches!(vm.life, Life::Up { .. }) && vm.devices.contains_key(&device);
        let Some(vm) = self.vms.get_mut(&id).filter(running) else { return };
        let talk = vm.talks.entry(device).or_default();
        talk.asked = talk.asked.saturating_add(1);
        out.push(Action::TellDevice(vm.process(Member::Device(device)), ToDevice::Ask(ask)));
    }
}

impl Vm {
    pub(super) fn device_answered(&mut self, member: Member, changed: bool, out: &mut Vec<Action>) {
        let (Member::Device(device), Life::Up { .. } | Life::Ending { .. }) = (member, &self.life) else {
            return self.breach(member, "answered before its guest ran", out);
        };
        let Some(talk) = self.talks.get_mut(&device).filter(|talk| talk.asked > 0) else {
            return self.breach(member, "answered a request that was not made", out);
        };
        talk.asked -= 1;
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
