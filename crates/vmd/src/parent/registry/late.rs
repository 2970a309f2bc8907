//! Switches whose bridges others make, and have not made yet: systemd-networkd or NetworkManager may be slower than vmd when the
//! host boots. They hold up the VMs on them, and nobody else.

use std::time::{Duration, Instant};

use model::SwitchName;
use proto::client::Reply;
use proto::{Code, Failure};

use super::life::Vm;
use super::{Action, Registry, Switch};

/// A bridge that nobody has made by then is given up until the next reload: longer than a host needs from vmd's start to its
/// network, as systemd-networkd-wait-online waits 120 s.
const WAIT: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// A bridge that is waited for.
#[derive(Debug)]
pub(super) struct Late {
    /// Until then.
    until: Instant,
    /// When it is looked for again; not while an answer is due.
    pub(super) next: Option<Instant>,
}

impl Registry {
    /// Whether a switch that could not be made is waited for.
    pub(super) fn is_late(&mut self, name: &SwitchName, why: &Failure, now: Instant, out: &mut Vec<Action>) -> bool {
        let Some((switch, _)) = self.switches.iter().find(|(switch, _)| switch.spec.name == *name) else {
            return false;
        };
        if !switch.spec.external || why.code != Code::NotFound {
            return false;
        }
        if let Some(late) = self.late.get_mut(name) {
            late.next = Some(now + LOOK);
            return now < late.until;
        }
        let text = format!("switch \"{name}\" waits {} s for others to make its bridge: {why}", WAIT.as_secs());
        for reload in &self.reloads {
            out.push(Action::Answer(reload.asked, Reply::Note(model::Text::cut(&text))));
        }
        out.push(Action::Log(log::Level::Warn, text));
        self.late.insert(name.clone(), Late { until: now + WAIT, next: Some(now + LOOK) });
        true
    }

    /// Looks for those bridges whose turn it is.
    pub(super) fn look_for_the_late(&mut self, now: Instant, out: &mut Vec<Action>) {
        let switches = &self.switches;
        self.late.retain(|name, _| switches.iter().any(|(switch, _)| switch.spec.name == *name));
        for (name, late) in &mut self.late {
            if late.next.is_none_or(|next| now < next) {
                continue;
            }
            late.next = None;
            let switch = switches.iter().find(|(switch, _)| switch.spec.name == *name);
            out.extend(switch.map(|(switch, _)| Action::MakeSwitch(switch.clone())));
        }
    }

    /// A reload waits as long again.
    pub(super) fn wait_anew(&mut self, switch: &Switch, out: &mut Vec<Action>) {
        let asked = self.late.remove(&switch.spec.name).filter(|late| late.next.is_some());
        out.extend(asked.map(|_| Action::MakeSwitch(switch.clone())));
    }

    /// The bridge that a VM's start would miss.
    pub(super) fn waits_for(&self, vm: &Vm) -> Option<Failure> {
        let mut switches = vm.definition.nics.iter().filter_map(|nic| nic.switch.as_ref());
        let name = switches.find(|switch| self.late.contains_key(*switch))?;
        let text = format!(
            "switch \"{name}\" of vm \"{}\" waits for others to make its bridge; start the VM when it is there",
            vm.definition.name
        );
        Some(Failure::new(Code::NotFound, text))
    }
}
