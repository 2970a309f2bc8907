//! Whether vmm still answers, and runs what the registry believes. Pure; a question at most every [`PULSE`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::{RequestId, VmId};

/// Between two questions, and how long an answer may take before it is said, again and again. Who waits for vmm is then told
/// that it does not answer; nothing else follows: to end vmm would end all VMs.
pub const PULSE: Duration = Duration::from_secs(30);

/// The question that is out, or when the next is due.
#[derive(Debug)]
pub struct Pulse {
    next: Instant,
    asked: Option<(RequestId, Instant)>,
    said_late: Option<Instant>,
    running: BTreeMap<VmId, u32>,
    count: u32,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Beat {
    /// Ask vmm.
    Ask(RequestId),
    /// It is late, for so long.
    Late(Duration),
}

impl Pulse {
    /// The first question is due one pulse from now.
    pub fn new(now: Instant) -> Self {
        Self { next: now + PULSE, asked: None, said_late: None, running: BTreeMap::new(), count: 0 }
    }

    /// When [`Pulse::due`] has something to say.
    pub fn deadline(&self) -> Option<Instant> {
        match self.asked {
            None => Some(self.next),
            Some((_, at)) => Some(self.said_late.unwrap_or(at) + PULSE),
        }
    }

    /// What is due.
    pub fn due(&mut self, now: Instant) -> Option<Beat> {
        match self.asked {
            None if self.next <= now => {
                self.count = self.count.wrapping_add(1);
                self.asked = Some((RequestId(self.count), now));
                self.running.clear();
                Some(Beat::Ask(RequestId(self.count)))
            }
            Some((_, at)) if self.said_late.unwrap_or(at) + PULSE <= now => {
                self.said_late = Some(now);
                Some(Beat::Late(now.saturating_duration_since(at)))
            }
            None | Some(_) => None,
        }
    }

    /// vmm runs this VM as this process.
    pub fn told(&mut self, request: RequestId, vm: VmId, pid: u32) {
        if self.asked.is_some_and(|(asked, _)| asked == request) {
            self.running.insert(vm, pid);
        }
    }

    /// vmm has told all; they are given, with how late it was if that was said.
    pub fn ended(&mut self, request: RequestId, now: Instant) -> Option<(BTreeMap<VmId, u32>, Option<Duration>)> {
        let (_, at) = self.asked.filter(|(asked, _)| *asked == request)?;
        let late = self.said_late.take().map(|_| now.saturating_duration_since(at));
        self.asked = None;
        self.next = now + PULSE;
        Some((std::mem::take(&mut self.running), late))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_every_pulse_and_gives_what_was_told() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        assert_eq!(pulse.due(start), None);
        assert_eq!(pulse.deadline(), Some(start + PULSE));
        assert_eq!(pulse.due(start + PULSE), Some(Beat::Ask(RequestId(1))));
        pulse.told(RequestId(9), VmId(8), 8);
        pulse.told(RequestId(1), VmId(2), 77);
        assert_eq!(pulse.ended(RequestId(9), start + PULSE), None);
        let (running, late) = pulse.ended(RequestId(1), start + PULSE).unwrap();
        assert_eq!((running, late), (BTreeMap::from([(VmId(2), 77)]), None));
        assert_eq!(pulse.deadline(), Some(start + PULSE * 2));
    }

    #[test]
    fn a_late_answer_is_said_every_pulse_and_how_late_it_came() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        pulse.due(start + PULSE);
        assert_eq!(pulse.due(start + PULSE * 2), Some(Beat::Late(PULSE)));
        assert_eq!((pulse.due(start + PULSE * 2), pulse.deadline()), (None, Some(start + PULSE * 3)));
        assert_eq!(pulse.due(start + PULSE * 3), Some(Beat::Late(PULSE * 2)));
        let (_, late) = pulse.ended(RequestId(1), start + PULSE * 4).unwrap();
        assert_eq!(late, Some(PULSE * 3));
        assert_eq!(pulse.deadline(), Some(start + PULSE * 5));
    }
}
