//! Switches whose bridges others make, and have not made yet: systemd-networkd or NetworkManager may be slower than vmd when the
//! host boots. They hold up the VMs on them, and nobody else.

use std::time::{Duration, Instant};

use model::SwitchName;
use proto::client::Reply;
use proto::{Code, Failure};

use super::life::Vm;
use super::{Action, Registry, Switch};

/// An external bridge that nobody has made by then is given up until the next reload: as long as systemd-networkd-wait-online
/// waits for the host's network.
const WAIT: Duration = Duration::from_secs(120);
/// One that only a file of another program's names is vmd's to make by then: the file may be of no use any more.
const WAIT_FOR_A_MAKER: Duration = Duration::from_secs(30);
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
        let external = switch.spec.external;
        if !(external || switch.maker.is_some()) || why.code != Code::NotFound {
            return false;
        }
        let bridge = &switch.spec.interface;
        let maker = switch.maker.clone().unwrap_or_else(|| "another program".to_owned());
        match self.late.get_mut(name) {
            Some(late) if now < late.until => late.next = Some(now + LOOK),
            Some(_) if external => return false,
            Some(_) => {
                let text = format!(
                    "switch \"{name}\": no bridge {bridge} after {} s, though {maker} makes it: vmd makes one of that name; see what keeps the other",
                    WAIT_FOR_A_MAKER.as_secs()
                );
                out.extend([
                    Action::Log(log::Level::Warn.into(), text),
                    Action::MakeSwitch(Switch { maker: None, ..switch.clone() }),
                ]);
                self.late.remove(name);
            }
            None => {
                let wait = if external { WAIT } else { WAIT_FOR_A_MAKER };
                let text = format!(
                    "switch \"{name}\": waiting up to {} s for bridge {bridge}, which {maker} makes",
                    wait.as_secs()
                );
                let note = || Reply::Note(model::Text::cut(&text));
                out.extend(self.reloads.iter().map(|reload| Action::Answer(reload.asked, note())));
                out.push(Action::Log(log::Level::Info.into(), text));
                self.late.insert(name.clone(), Late { until: now + wait, next: Some(now + LOOK) });
            }
        }
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
            "switch \"{name}\" of vm \"{}\" waits for another program to make its bridge; start the VM when it is there",
            vm.definition.name
        );
        Some(Failure::new(Code::NotFound, text))
    }
}
