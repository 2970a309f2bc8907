//! Which number a VM has (openbsd/daemon.md, 3.3): the same name of the same owner gets the same again, also after a
//! restart of the daemon, for its addresses hang on it.

use std::collections::{BTreeMap, BTreeSet};

use proto::{Code, Failure, VmId};

use super::{HostBytes, Registry};

/// Numbers by name and owner.
pub type Ids = BTreeMap<(String, u32), VmId>;

/// Names of users, beside root's and those on the list, that are remembered: one could make instances by ever new names.
const MAX_REMEMBERED: usize = 4096;
/// Up to here each new name gets a new number, beyond the lowest that is free: local interfaces have no addresses for more.
const LAST_NEW: u32 = 16_383;

impl Registry {
    /// One that knows these from before, on the host of these bytes.
    pub fn knowing(ids: Ids, host: HostBytes) -> Self {
        let last_id = ids.values().map(|id| id.0).max().unwrap_or(0);
        Self { ids, host, last_id, ..Self::default() }
    }

    /// The number of a name, which no VM on the list has.
    pub(super) fn claim(&mut self, name: &str, owner: u32) -> Result<VmId, Failure> {
        let claimed = (name.to_owned(), owner);
        if let Some(id) = self.ids.get(&claimed).filter(|id| !self.is_listed(**id)) {
            return Ok(*id);
        }
        self.forget_oldest();
        let id = self.new_id()?;
        self.ids.insert(claimed, id);
        self.ids_changed = true;
        Ok(id)
    }

    pub(super) fn forget_ids(&mut self) {
        self.ids_changed |= !self.ids.is_empty();
        self.ids.clear();
        self.last_id = 0;
    }

    fn is_listed(&self, id: VmId) -> bool {
        self.vms.iter().any(|vm| vm.id == id)
    }

    /// An eighth of what users' names there are, when those are too many.
    fn forget_oldest(&mut self) {
        if self.ids.len() < MAX_REMEMBERED.saturating_add(self.vms.len()) {
            return; // a VM on the list has one of them
        }
        let listed: BTreeSet<VmId> = self.vms.iter().map(|vm| vm.id).collect();
        let of_users = self.ids.iter().filter(|((_, owner), id)| *owner != 0 && !listed.contains(id));
        let mut numbers: Vec<VmId> = of_users.map(|(_, id)| *id).collect();
        if numbers.len() < MAX_REMEMBERED {
            return;
        }
        numbers.sort_unstable();
        let forgotten: BTreeSet<VmId> = numbers.into_iter().take(MAX_REMEMBERED / 8).collect();
        self.ids.retain(|_, id| !forgotten.contains(id));
    }

    /// After a reset some VMs that end still have theirs.
    fn new_id(&mut self) -> Result<VmId, Failure> {
        while self.last_id < LAST_NEW {
            self.last_id = self.last_id.saturating_add(1);
            if !self.is_listed(VmId(self.last_id)) {
                return Ok(VmId(self.last_id));
            }
        }
        let taken: BTreeSet<u32> =
            self.vms.iter().map(|vm| vm.id).chain(self.ids.values().copied()).map(|id| id.0).collect();
        let too_many = || Failure::new(Code::TooMany, "too many vms: no number is left; \"vmctl reset vms\" frees all");
        (1..=u32::MAX).find(|id| !taken.contains(id)).map(VmId).ok_or_else(too_many)
    }
}
