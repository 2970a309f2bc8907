//! What is in the CD-ROM drive of a VM that runs, as clients change it. The image is opened as the user who asks; the device
//! takes it, or says why not. One change at a time.

use std::time::Instant;

use model::UserPath;
use proto::client::{Reply, VmRef};
use proto::device::Ask;
use proto::opener::What;
use proto::{Code, Failure, RequestId, VmId};

use super::asking::Asker;
use super::life::{Asked, Life, Vm};
use super::{Action, File, Medium, PREPARE_LIMIT, Registry, Run};

/// A change that is under way.
#[derive(Debug)]
pub struct Change {
    request: RequestId,
    /// Who hears of it; nobody, once it took too long.
    asked: Option<Asked>,
    /// What is put in; nothing is only taken out.
    medium: Option<UserPath>,
    force: bool,
    step: Step,
    /// When it takes too long.
    deadline: Instant,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The image is being opened.
    Opening,
    /// The device was asked.
    Asked,
}

impl Registry {
    pub(super) fn ask_cdrom(
        &mut self,
        asker: &Asker,
        wanted: &VmRef,
        medium: Option<UserPath>,
        force: bool,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Result<(), Failure> {
        let request = self.new_request();
        let vm = self.found(&asker.who, wanted)?;
        vm.must_run()?;
        let name = &vm.definition.name;
        let device = vm.cdrom_index().ok_or_else(|| {
            let text =
                format!("vm \"{name}\" has no CD-ROM drive; add \"cdrom none\" to it in vm.conf and start it again");
            Failure::new(Code::NoDevice, text)
        })?;
        if vm.change.is_some() {
            return Err(Failure::new(
                Code::Busy,
                format!("the CD-ROM drive of vm \"{name}\" is being changed already"),
            ));
        }
        let Some(run) = vm.run else { return Err(vm.not_running()) };
        let step = match &medium {
            Some(path) => {
                let files = vec![(File::Medium, What::Cdrom, path.clone())];
                out.push(Action::Open { run, who: asker.who.clone(), files });
                Step::Opening
            }
            None => {
                out.push(Action::AskDevice(request, vm.id, device, Ask::Eject { force }));
                Step::Asked
            }
        };
        let (asked, deadline) = (Some(asker.asked), now + PREPARE_LIMIT);
        vm.change = Some(Change { request, asked, medium, force, step, deadline });
        Ok(())
    }

    /// The image is open and held, or not.
    pub(super) fn medium_opened(&mut self, run: Run, result: Result<(), Failure>, out: &mut Vec<Action>) {
        let Some(vm) = self.of_run(run) else { return };
        let Some(device) = vm.cdrom_index() else { return };
        let Some(change) = vm.change.as_mut().filter(|change| change.step == Step::Opening) else { return };
        match result {
            Ok(()) => {
                change.step = Step::Asked;
                let (called, force) = (change.medium.clone().unwrap_or_default(), change.force);
                out.push(Action::AskDevice(change.request, vm.id, device, Ask::Insert { called, force }));
            }
            Err(failure) => {
                let asked = vm.change.take().and_then(|change| change.asked);
                out.extend(asked.map(|asked| Action::Answer(asked, Reply::Failed(failure))));
            }
        }
    }

    /// A device has answered, perhaps what nobody waits for.
    pub(super) fn device_done(
        &mut self,
        request: RequestId,
        id: VmId,
        result: Result<(), Failure>,
        out: &mut Vec<Action>,
    ) {
        let Some(vm) = self.vm(id) else { return };
        let is_it = |change: &mut Change| change.request == request && change.step == Step::Asked;
        let Some(change) = vm.change.take_if(is_it) else { return };
        let reply = match result {
            Ok(()) => {
                out.push(Action::Medium(id, if change.medium.is_some() { Medium::Opened } else { Medium::None }));
                let what = match &change.medium {
                    Some(path) => format!("\"{path}\" is in the CD-ROM drive of vm {id}"),
                    None => format!("the CD-ROM drive of vm {id} is empty"),
                };
                out.push(vm.definition.logger()(log::Level::Info, what));
                vm.medium = change.medium;
                Reply::Accepted { id: id.0 }
            }
            Err(failure) => {
                out.push(Action::Medium(id, Medium::Same));
                Reply::Failed(failure)
            }
        };
        out.extend(change.asked.map(|asked| Action::Answer(asked, reply)));
    }

    /// Changes that take too long. What the device was asked it may still do, and nothing else is asked of it until it has
    /// answered.
    pub(super) fn late_changes(&mut self, now: Instant, out: &mut Vec<Action>) {
        for vm in &mut self.vms {
            let late = |change: &mut Change| change.asked.is_some() && change.deadline <= now;
            let run = vm.run;
            let Some(mut change) = vm.change.take_if(late) else { continue };
            let (limit, path) = (PREPARE_LIMIT.as_secs(), change.medium.clone().unwrap_or_default());
            let text = match change.step {
                Step::Opening => format!(
                    "cdrom \"{path}\" could not be opened within {limit} s; is it on a server that does not answer?"
                ),
                Step::Asked => format!("the CD-ROM drive did not answer within {limit} s; it may still do it"),
            };
            let failure = Failure::new(Code::TimedOut, text);
            out.extend(change.asked.take().map(|asked| Action::Answer(asked, Reply::Failed(failure))));
            match change.step {
                Step::Opening => out.extend(run.map(Action::EndOpeners)),
                Step::Asked => vm.change = Some(change),
            }
        }
    }
}

impl Vm {
    /// It is the last of the devices.
    fn cdrom_index(&self) -> Option<u8> {
        let definition = &self.definition;
        let before = definition.cards.len().saturating_add(definition.disks.len());
        let before = before.saturating_add(usize::from(definition.balloon.is_some()));
        definition.cdrom.as_ref().and(u8::try_from(before).ok())
    }

    /// When the change of its CD-ROM takes too long.
    pub(super) fn change_deadline(&self) -> Option<Instant> {
        self.change.as_ref().filter(|change| change.asked.is_some()).map(|change| change.deadline)
    }

    /// What `status` says of its drive: empty where nothing is in it.
    pub(super) fn in_cdrom(&self) -> Option<UserPath> {
        self.definition.cdrom.as_ref().filter(|_| matches!(self.life, Life::Running { .. } | Life::Stopping { .. }))?;
        Some(self.medium.clone().unwrap_or_default())
    }

    /// It has ended, or reboots: who waits for a change of its drive waits no longer.
    pub(super) fn end_change(&mut self, out: &mut Vec<Action>) {
        let Some(change) = self.change.take() else { return };
        out.extend(self.run.filter(|_| change.step == Step::Opening).map(Action::EndOpeners));
        out.push(Action::Medium(self.id, Medium::Same));
        let failure = Failure::new(Code::Invalid, format!("vm \"{}\" ended meanwhile", self.definition.name));
        out.extend(change.asked.map(|asked| Action::Answer(asked, Reply::Failed(failure))));
    }
}
