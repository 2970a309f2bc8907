//! How much of its memory a guest is to get along with, as clients ask for it; and what its balloon reports.

use std::time::Instant;

use model::MemorySize;
use proto::client::{Balloon, Reply};
use proto::device::{Ask, Report};
use proto::{Code, Failure, RequestId};

use super::Action;
use super::life::{Asked, Vm};

impl Vm {
    /// Answered at once: whether the guest ever does it is its own matter, and `status` shows how far it has come.
    /// `request` joins an answer that nobody waits for.
    pub(super) fn ask_memory(
        &mut self,
        asked: Asked,
        request: RequestId,
        size: MemorySize,
        out: &mut Vec<Action>,
    ) -> Result<(), Failure> {
        self.must_run()?;
        let (id, name, all) = (self.id, &self.definition.name, self.definition.memory);
        let device = self.balloon_index().ok_or_else(|| {
            let text = format!("vm \"{name}\" has no balloon; add \"balloon\" to it in vm.conf and start it again");
            Failure::new(Code::NoDevice, text)
        })?;
        let least = self.definition.balloon.unwrap_or(all);
        if !(least..=all).contains(&size) {
            let (least, all, size) = (least.mib(), all.mib(), size.mib());
            let text = format!("vm \"{name}\" can get along with {least}M to {all}M, not with {size}M");
            return Err(Failure::new(Code::Invalid, text));
        }
        self.wanted = Some(size);
        out.push(Action::AskDevice(request, id, device, Ask::Memory(size)));
        out.push(Action::Answer(asked, Reply::Accepted { id: id.0 }));
        Ok(())
    }

    /// It comes after the cards and the disks.
    fn balloon_index(&self) -> Option<u8> {
        let before = self.definition.cards.len().saturating_add(self.definition.disks.len());
        self.definition.balloon.and(u8::try_from(before).ok())
    }

    /// What `status` says of it.
    pub(super) fn balloon(&self, now: Instant) -> Option<Balloon> {
        let device = self.balloon_index().filter(|_| self.pid().is_some())?;
        let report = self.reports.get(&device).map(|(when, Report::Memory(report))| {
            let age = now.saturating_duration_since(*when).as_secs();
            (u32::try_from(age).unwrap_or(u32::MAX), report.clone())
        });
        Some(Balloon { wanted: self.wanted.unwrap_or(self.definition.memory), report })
    }
}
