//! The end of the daemon: its VMs are stopped, and the log says for whom it waits.

use std::time::{Duration, Instant};

use log::Level;
use proto::VmId;
use proto::vmm::Stop;

use super::life::Vm;
use super::{Action, GRACE_SECONDS, Registry};

/// Between two lines.
pub const REMIND_AFTER: Duration = Duration::from_secs(10);
/// VMs that a line names.
const MAX_NAMED: usize = 8;

impl Registry {
    /// Gracefully the first time, at once the second.
    pub(super) fn terminate(&mut self, now: Instant, out: &mut Vec<Action>) {
        let again = self.ending;
        let how = if again { Stop::Force } else { Stop::Graceful { seconds: GRACE_SECONDS } };
        self.ending = true;
        self.stagger.next = None;
        let ids: Vec<VmId> = self.vms.iter().map(|vm| vm.id).collect();
        for id in ids {
            self.stop_for_good(id, how, out);
        }
        let Some(vms) = self.awaited() else { return };
        out.push(match again {
            false => Action::Log(Level::Info.into(), format!("waiting up to {GRACE_SECONDS} s for {vms} to stop")),
            true => Action::Log(Level::Warn.into(), format!("told to end a second time: {vms} will be ended by force")),
        });
        self.remind = Some(now + REMIND_AFTER);
    }

    /// Says again for whom it waits, when it is time to.
    pub(super) fn remind(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.remind.is_none_or(|next| now < next) {
            return;
        }
        let line =
            self.awaited().map(|vms| Action::Log(Level::Info.into(), format!("still waiting for {vms} to stop")));
        self.remind = line.is_some().then(|| now + REMIND_AFTER);
        out.extend(line);
    }

    /// Those that run, the first of them by name.
    fn awaited(&self) -> Option<String> {
        let names: Vec<String> =
            self.vms.iter().filter(|vm| Vm::runs(vm)).map(|vm| format!("\"{}\"", vm.definition.name)).collect();
        let named = names.get(..MAX_NAMED).unwrap_or(&names).join(", ");
        Some(match names.len() {
            0 => return None,
            1 => format!("vm {named}"),
            count @ 2..=MAX_NAMED => format!("{count} VMs ({named})"),
            count => format!("{count} VMs ({named} and {} more)", count.saturating_sub(MAX_NAMED)),
        })
    }
}
