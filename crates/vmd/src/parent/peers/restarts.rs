//! When a process that the guests outlive is started again after its end: at once, or where that went too fast, a while
//! later. Pure. It never gives up: a control that fails again and again costs its clients, and no VM.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::parent::registry::rate::{FAST, Rate};

/// A process that is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lasting {
    /// It speaks to clients.
    Control,
    /// It makes taps and bridges.
    Privileged,
    /// It reports VMs to an SNMP master, where that is wanted.
    AgentX,
}

impl Lasting {
    /// As logs and ps have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Privileged => "priv",
            Self::AgentX => "agentx",
        }
    }
}

/// The ends of all of them.
#[derive(Debug, Default)]
pub struct Restarts {
    rates: BTreeMap<Lasting, Rate>,
    due: BTreeMap<Lasting, Instant>,
}

impl Restarts {
    /// It ended: true if it may be started now; else [`Restarts::due`] tells when.
    pub fn ended(&mut self, role: Lasting, now: Instant) -> bool {
        let soon = self.rates.entry(role).or_default().start(now);
        if !soon {
            self.later(role, now);
        }
        soon
    }

    /// It could not be started: it is tried again a while later.
    pub fn later(&mut self, role: Lasting, now: Instant) {
        self.due.insert(role, now + FAST);
    }

    /// It is no longer wanted.
    pub fn forget(&mut self, role: Lasting) {
        self.due.remove(&role);
    }

    /// When `due` is to be asked.
    pub fn deadline(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// One whose time has come; it is told once.
    pub fn due(&mut self, now: Instant) -> Option<Lasting> {
        let role = *self.due.iter().find(|(_, at)| **at <= now)?.0;
        self.due.remove(&role);
        self.rates.entry(role).or_default().start(now);
        Some(role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_ends_too_often_is_started_later_and_for_ever() {
        let mut restarts = Restarts::default();
        let mut now = Instant::now();
        for _ in 0..100 {
            let starts = (0..9).take_while(|_| restarts.ended(Lasting::Control, now)).count();
            assert!((1..=3).contains(&starts), "{starts}");
            assert_eq!(restarts.deadline(), Some(now + FAST));
            assert_eq!(restarts.due(now + FAST - Duration::from_millis(1)), None);
            now += FAST;
            assert_eq!(restarts.due(now), Some(Lasting::Control));
            assert_eq!((restarts.due(now), restarts.deadline()), (None, None));
        }
    }

    #[test]
    fn one_that_fails_holds_up_no_other() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        while restarts.ended(Lasting::Control, now) {}
        assert!(restarts.ended(Lasting::Privileged, now));
        restarts.later(Lasting::Privileged, now + FAST);
        assert_eq!(restarts.due(now + FAST), Some(Lasting::Control));
        assert_eq!((restarts.due(now + FAST), restarts.deadline()), (None, Some(now + FAST * 2)));
        restarts.forget(Lasting::Privileged);
        assert_eq!(restarts.deadline(), None, "wanted no more");
    }
}
