//! The configuration read again: what stays, starts and goes (openbsd/daemon.md, 3.11; openbsd/vm.conf.md, 12). It
//! comes here whole and without an error, or it changes nothing.
//!
//! | a VM | in the file | after a reload | after a load |
//! |---|---|---|---|
//! | runs, or starts or ends | as before, or otherwise | as it was, and as the file says when it stops | as it was |
//! | runs | no | as it was, until the first reload after its end | as it was |
//! | does not run | yes | as the file says now; started if enabled | as it was |
//! | does not run | no | gone; its id stays reserved | as it was |
//! | is not known | yes | listed; started if enabled | the same |
//!
//! Switches are replaced by name, and made anew where they differ; one that the file no longer has is forgotten by a reload,
//! and its bridge goes with the last tap that is on it, if vmd made it.

use std::collections::BTreeSet;
use std::time::Instant;

use model::{IfName, Text, UserPath};
use proto::client::{MAX_WRONG, Reply};
use proto::{Code, Failure};
use sys::log::{Level, Weight};

use super::life::{Asked, Vm};
use super::{Action, Reading, Registry, Settings, Switch};

/// Errors of one file that a client is told; the log has all of them.
const MAX_TOLD: usize = 100;

/// A client whose configuration was taken; it waits for the switches.
#[derive(Debug)]
pub(super) struct Reload {
    pub(super) asked: Asked,
    /// The first switch that could not be made.
    failure: Option<Failure>,
    /// And how many more.
    more: usize,
}

impl Reload {
    pub(super) fn failed(&mut self, code: Code, why: &str) {
        match &self.failure {
            None => self.failure = Some(Failure::new(code, why)),
            Some(_) => self.more = self.more.saturating_add(1),
        }
    }

    fn reply(self) -> Reply {
        let Some(Failure { code, text }) = self.failure else { return Reply::Done };
        let more = match self.more {
            0 => String::new(),
            more => format!(" (and {more} more, see the log)"),
        };
        Reply::Failed(Failure::new(code, format!("{text}{more}; the rest of the configuration has taken effect")))
    }
}

impl Registry {
    /// An empty path means the daemon's own file (openbsd/daemon.md, 3.11).
    pub(super) fn ask_reading(
        &mut self,
        asked: Asked,
        load: Option<UserPath>,
        out: &mut Vec<Action>,
    ) -> Result<(), Failure> {
        if self.ending {
            return Err(Failure::new(Code::Invalid, "the daemon is shutting down"));
        }
        let load = load.filter(|path| !path.is_empty());
        out.push(Action::ReadConfig(Reading { asked: Some(asked), load }));
        Ok(())
    }

    pub(super) fn hangup(&mut self, out: &mut Vec<Action>) {
        if !self.ending {
            out.push(Action::ReadConfig(Reading { asked: None, load: None }));
        }
    }

    pub(super) fn config_read(
        &mut self,
        reading: Reading,
        read: Result<Box<Settings>, Vec<String>>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let mut settings = match read {
            Ok(settings) => *settings,
            Err(errors) => return refuse(&reading, &errors, out),
        };
        let bridges: BTreeSet<IfName> = self.bridges();
        if reading.load.is_none() {
            self.vms.retain(Vm::runs);
            self.switches
                .retain(|(known, _)| settings.switches.iter().any(|switch| switch.spec.name == known.spec.name));
            self.stagger.parallel = settings.parallel;
            self.stagger.delay = settings.delay;
            self.locals = settings.locals;
            self.unfit = std::mem::take(&mut settings.troubles).into_iter().collect();
            self.unmade.clear(); // the file says anew which are to be made
            out.push(Action::GiveSocket(settings.socket));
            self.report(settings.snmp.take(), out);
        }
        self.stagger.next = None;
        self.reloads.extend(reading.asked.map(|asked| Reload { asked, failure: None, more: 0 }));
        self.take_in(settings, reading.load.is_none(), now, out);
        if reading.load.is_none() {
            self.tell_what_waits(reading.asked, out);
            self.tell_troubles(reading.asked, out);
        }
        let left = self.bridges();
        out.extend(bridges.into_iter().filter(|bridge| !left.contains(bridge)).map(Action::RemoveBridge));
        self.answer_reloads(out);
        let what = reading.load.map_or_else(|| "reloaded".to_owned(), |path| format!("\"{path}\" loaded"));
        out.push(Action::Log(Level::Info.into(), format!("configuration {what}")));
    }

    fn bridges(&self) -> BTreeSet<IfName> {
        self.switches.iter().map(|(switch, _)| switch.spec.interface.clone()).collect()
    }

    /// What waits for the next start of a VM that runs.
    fn tell_what_waits(&self, asked: Option<Asked>, out: &mut Vec<Action>) {
        let mut told = 0_usize;
        for vm in &self.vms {
            let Some(word) = Self::word_of_next(vm) else { continue };
            let text = format!("vm \"{}\" runs: {word}", vm.definition.name);
            if let Some(asked) = asked.filter(|_| told < MAX_TOLD) {
                out.push(Action::Answer(asked, Reply::Note(Text::cut(&text))));
            }
            told = told.saturating_add(1);
            out.push(vm.definition.logger()(log::Level::Info, text));
        }
        if let (Some(asked), Some(rest @ 1..)) = (asked, told.checked_sub(MAX_TOLD)) {
            let text = format!("{rest} more VMs run and change with their next start; the log has all");
            out.push(Action::Answer(asked, Reply::Note(Text::cut(&text))));
        }
    }

    /// What is not known yet; who starts with the daemon, its turn is next. What runs may be replaced later.
    pub(super) fn take_in(&mut self, settings: Settings, replace: bool, now: Instant, out: &mut Vec<Action>) {
        for switch in settings.switches {
            self.take_switch(switch, out);
        }
        for definition in settings.vms {
            if let Some(vm) = self.vms.iter_mut().find(|vm| vm.definition.name == definition.name) {
                vm.definition.from_config = true;
                if replace {
                    Self::run_later(vm, definition);
                }
            } else if let Err(failure) = self.register(definition) {
                out.push(Action::Log(Level::Error.into(), failure.to_string()));
            }
        }
        self.next_batch(now, out);
    }

    fn take_switch(&mut self, switch: Switch, out: &mut Vec<Action>) {
        let highest = self.switches.iter().map(|(switch, _)| switch.id).max().unwrap_or(0);
        let switch = match self.switches.iter().position(|(known, _)| known.spec.name == switch.spec.name) {
            None => Switch { id: highest.saturating_add(1), ..switch },
            Some(at) => {
                let (known, made) = self.switches.remove(at);
                let switch = Switch { id: known.id, ..switch };
                if switch.spec == known.spec {
                    self.wait_anew(&known, out);
                    return self.switches.insert(at, (known, made));
                }
                switch
            }
        };
        out.push(Action::MakeSwitch(switch.clone()));
        self.switches.push((switch, false));
    }

    /// Once no switch is pending.
    pub(super) fn answer_reloads(&mut self, out: &mut Vec<Action>) {
        if self.switches_pending() {
            return;
        }
        for reload in std::mem::take(&mut self.reloads) {
            out.push(Action::Answer(reload.asked, reload.reply()));
        }
    }
}

/// Nothing was changed; both log and client learn why.
fn refuse(reading: &Reading, errors: &[String], out: &mut Vec<Action>) {
    let count = match errors.len() {
        1 => "1 error".to_owned(),
        more => format!("{more} errors"),
    };
    let text = format!("{count} in the configuration; nothing was changed");
    let what = if reading.load.is_some() { "load" } else { "reload" };
    let lines = errors.iter().flat_map(|error| error.lines()).map(str::to_owned);
    // Who asked is told, and it is that user's mistake; after SIGHUP there is only the log.
    let weight = if reading.asked.is_some() { Weight::Notice } else { Level::Error.into() };
    out.extend(lines.chain([format!("{what}: {text}")]).map(|line| Action::Log(weight, line)));
    let Some(asked) = reading.asked else { return };
    let told = errors.iter().take(MAX_TOLD).map(|error| Reply::Wrong(Text::<MAX_WRONG>::cut(error)));
    out.extend(told.map(|reply| Action::Answer(asked, reply)));
    let text = match errors.len().checked_sub(MAX_TOLD) {
        Some(rest @ 1..) => format!("{text} ({rest} more errors are only in the log)"),
        Some(0) | None => text,
    };
    out.push(Action::Answer(asked, Reply::Failed(Failure::new(Code::Invalid, text))));
}
