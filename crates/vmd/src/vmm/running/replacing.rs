//! A device whose process ends while its guest runs: another takes its place, with the same descriptors, and the guest sees a pause.
//!
//! ```text
//! serves ──died────────────────────────────────────► Drains ──Gone──► Begins ──Ready──► serves
//!    └─────left in peace──► Left ──nobody follows──────┘  ▲              │
//!                                                         └────died──────┘
//! ```
//!
//! Each death counts. A VM whose devices die more often than it may ends, as one does whose device is of a kind that can't be replaced.

use super::*;

/// Deaths of a VM's devices within [`DEATHS_WITHIN`] after which it goes on; one more ends it.
pub const MAX_DEATHS: usize = 5;
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
        if !self.replaces(device) {
            return self.device_died(Member::Device(device), how, now, out);
        }
        self.deaths.retain(|at| *at + DEATHS_WITHIN > now);
        self.deaths.push(now);
        if self.deaths.len() > MAX_DEATHS {
            let seconds = DEATHS_WITHIN.as_secs();
            let how = format!("{how}, and {MAX_DEATHS} deaths of its devices within {seconds} s before");
            return self.device_died(Member::Device(device), &how, now, out);
        }
        let name = self.called(Member::Device(device));
        out.push(self.log(Level::Warn, format!("{name} ended ({how}): another process takes its place")));
        self.lost.insert(device, Lost::Drains);
        out.push(Action::AwaitGone(self.process(Member::Device(device))));
    }

    /// Whether another process would take the place of a device's.
    fn replaces(&self, device: u8) -> bool {
        let ends = self.last_words.contains_key(&Member::Vm)
            || matches!(self.life, Life::Up { course: Course::Stopping(Stage::Terminated(_) | Stage::Killed), .. });
        !ends && self.devices.get(&device).is_some_and(|spec| spec.is_replaced())
    }

    /// Its next process serves: the vm process is given the socket.
    pub(super) fn serves_again(&mut self, device: u8, out: &mut Vec<Action>) {
        self.lost.remove(&device);
        let Some(front) = self.devices.get(&device).map(|spec| spec.kind().front) else { return };
        out.push(Action::TellVm(self.run, ToVm::Device { device, front }));
    }

    fn deadline_of(&self, device: u8, lost: Lost) -> Option<Moment> {
        match lost {
            Lost::Left(since) => Some(since + if self.replaces(device) { FOLLOWS } else { KILL_AFTER }),
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
