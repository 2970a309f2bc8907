//! Why VMs failed last, for who asks after one: also for a VM that a client made, which is off the list as soon as it failed.
//! It goes when the VM starts well. Pure.

use std::time::Instant;

use model::{Owner, Text, VmName};
use proto::client::{PastFailure, VmRef};
use proto::failure::MAX_TEXT;
use proto::{Failure, VmId};

use super::access::Who;
use super::life::Vm;

/// Failures that are kept. Beyond that the oldest of the user who has most is forgotten: the log has it.
pub const MAX_KEPT: usize = 256;

/// Those that are kept.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// The oldest first; one for each name of an owner.
    kept: Vec<Kept>,
    /// Of the event that is handled.
    now: Option<Instant>,
}

#[derive(Debug)]
struct Kept {
    id: VmId,
    name: VmName,
    owner: Owner,
    at: Option<Instant>,
    reason: Text<MAX_TEXT>,
}

impl Failures {
    /// The time from now on.
    pub(super) fn it_is(&mut self, now: Instant) {
        self.now = Some(now);
    }

    /// In place of what was known of this VM.
    pub(super) fn keep(&mut self, vm: &Vm, failure: &Failure) {
        let (name, owner) = (vm.definition.name.clone(), vm.definition.owner);
        self.forget(&name, owner);
        if self.kept.len() >= MAX_KEPT {
            self.forget_one();
        }
        self.kept.push(Kept { id: vm.id, name, owner, at: self.now, reason: failure.text.clone() });
    }

    /// It started well.
    pub(super) fn forget(&mut self, name: &VmName, owner: Owner) {
        self.kept.retain(|kept| kept.name != *name || kept.owner.uid != owner.uid);
    }

    fn forget_one(&mut self) {
        let count = |uid: u32| self.kept.iter().filter(|kept| kept.owner.uid == uid).count();
        let most = self.kept.iter().map(|kept| kept.owner.uid).max_by_key(|uid| count(*uid));
        if let Some(at) = self.kept.iter().position(|kept| Some(kept.owner.uid) == most) {
            self.kept.remove(at);
        }
    }

    /// That of the VM that is meant, if this user may use it: the newest, where two owners have one of that name.
    pub(super) fn last(&self, who: &Who, wanted: &VmRef) -> Option<PastFailure> {
        let is_meant = |kept: &&Kept| match wanted {
            VmRef::Id(id) => kept.id.0 == *id,
            VmRef::Name(name) => kept.name == *name,
        };
        let kept = self.kept.iter().rev().filter(is_meant).find(|kept| who.may_use(kept.owner))?;
        let age = self.now.zip(kept.at).map(|(now, at)| now.saturating_duration_since(at).as_secs());
        Some(PastFailure {
            age: age.map_or(0, |age| u32::try_from(age).unwrap_or(u32::MAX)),
            reason: kept.reason.clone(),
        })
    }
}
