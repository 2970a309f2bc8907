//! A device whose process ends while its guest runs: another takes its place, with the same descriptors, and the guest sees a pause.
//!
//! ```text
//! serves ──died────────────────────────────────────► Drains ──Gone──► Begins ──Ready──► serves
//!    └─────left in peace──► Left ──nobody follows──────┘  ▲              │
//!                                                         └────died──────┘
//! ```
//!
//! Each death counts. A VM whose devices die more often than `device restarts` allows ends.

use super::*;

/// How long a death counts.
pub const DEATHS_WITHIN: Duration = Duration::from_secs(60);
/// A device ends in peace when the vm process closes their socket. One that does so by its own end follows within this.
pub const FOLLOWS: Duration = Duration::from_secs(1);

/// A device that has no process that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Lost {
    /// It left in peace then: the vm process may be ending.
    Left(Moment),
    /// The host may still carry out what it had begun, and change its disk or the guest's memory.
    Drains,
    /// Another process is being started, and must be ready by then.
    Begins(Moment),
}

impl Running {
    /// Nothing of a process that has ended is under way any more.
    pub(super) fn gone(&mut self, process: Process, now: Moment, out: &mut Vec<Action>) {
        let (debug, Member::Device(device)) = (self.debug, process.member) else { return };
        let Some((_, vm)) = self.of_run(process.run) else { return };
        if vm.lost.get(&device) == Some(&Lost::Drains) && matches!(vm.life, Life::Up { .. }) {
            vm.lost.insert(device, Lost::Begins(now + READY_LIMIT));
            vm.spawn(process.member, debug, out);
        }
    }
}

impl Vm {
    /// The process of a device has ended while the guest runs.
    pub(super) fn lose(&mut self, device: u8, in_peace: bool, how: &str, now: Moment, out: &mut Vec<Action>) {
        self.last_words.remove(&Member::Device(device));
        if in_peace {
            self.lost.insert(device, Lost::Left(now));
        } else {
            self.replace(device, how, now, out);
        }
    }

    fn replace(&mut self, device: u8, how: &str, now: Moment, out: &mut Vec<Action>) {
        if self.ends() || !self.replaces(device) {
            return self.device_died(Member::Device(device), how, now, out);
        }
        if !self.outlives(now) {
            let (seconds, deaths) = (DEATHS_WITHIN.as_secs(), self.start.device_restarts);
            let how = match deaths {
                0 => format!("{how}; \"device restarts\" allows none"),
                _ => {
                    let s = if deaths == 1 { "" } else { "s" };
                    format!(
                        "{how}, and {deaths} death{s} of its devices within {seconds} s before; \"device restarts\" allows no more"
                    )
                }
            };
            return self.device_died(Member::Device(device), &how, now, out);
        }
        self.deaths.retain(|at| *at + DEATHS_WITHIN > now);
        self.deaths.push(now);
        let name = self.called(Member::Device(device));
        out.push(self.log(Level::Warn, format!("{name} ended ({how}): another process takes its place")));
        self.lost.insert(device, Lost::Drains);
        out.push(Action::AwaitGone(self.process(Member::Device(device))));
    }

    /// Whether another process can go on where one of this device had come.
    fn replaces(&self, device: u8) -> bool {
        self.devices.get(&device).is_some_and(Spec::is_replaced)
    }

    /// Whether the vm process is about to end.
    fn ends(&self) -> bool {
        self.last_words.contains_key(&Member::Vm)
            || matches!(self.life, Life::Up { course: Course::Stopping(Stage::Terminated(_) | Stage::Killed), .. })
    }

    /// Whether it may lose one more device then.
    fn outlives(&self, at: Moment) -> bool {
        let of_late = self.deaths.iter().filter(|death| **death + DEATHS_WITHIN > at).count();
        of_late < usize::from(self.start.device_restarts)
    }

    /// Its next process serves: the vm process is given the socket.
    pub(super) fn serves_again(&mut self, device: u8, out: &mut Vec<Action>) {
        self.lost.remove(&device);
        let Some(front) = self.devices.get(&device).map(|spec| spec.kind().front) else { return };
        out.push(Action::TellVm(self.run, ToVm::Device { device, front }));
        self.ask_again(device, out);
    }

    fn deadline_of(&self, device: u8, lost: Lost) -> Option<Moment> {
        match lost {
            Lost::Left(since) if self.ends() || !self.replaces(device) || !self.outlives(since) => {
                Some(since + KILL_AFTER)
            }
            Lost::Left(since) => Some(since + FOLLOWS),
            Lost::Drains => None,
            Lost::Begins(deadline) => Some(deadline),
        }
    }

    /// When the first of its lost devices is late.
    pub(super) fn lost_deadline(&self) -> Option<Moment> {
        let up = matches!(self.life, Life::Up { .. });
        self.lost.iter().filter(|_| up).filter_map(|(device, lost)| self.deadline_of(*device, *lost)).min()
    }

    /// Sees to its lost devices that are late.
    pub(super) fn lost_late(&mut self, now: Moment, out: &mut Vec<Action>) {
        for (device, lost) in self.lost.clone() {
            let due = self.deadline_of(device, lost).is_some_and(|deadline| deadline <= now);
            if !due || !matches!(self.life, Life::Up { .. }) {
                continue;
            }
            match lost {
                Lost::Left(_) => self.replace(device, "without an error", now, out),
                Lost::Drains => {}
                Lost::Begins(_) => {
                    let name = self.called(Member::Device(device));
                    let text = format!("{name} not ready within {} s", READY_LIMIT.as_secs());
                    self.fail(Failure::new(Code::TimedOut, text), out);
                }
            }
        }
    }
}
