//! What happens to a running VM, from `Started` to its exit status. Pure: no descriptor, no clock, no log.
//!
//! ```text
//! Running ──guest resets──────► Ended(REBOOTED)      Leaving{reboot: true} is told first
//!         ──guest powers off──► Ended(POWERED_OFF)   Leaving{reboot: false} is told first
//!         ──vmm is gone───────► Ended(POWERED_OFF)   nobody is there to be told
//!         ──vCPU or device fails─► Ended(FAILED)
//!
//! Running ──Pause──► Parking ──vCPUs wait──► Quieting ──devices quiet──► Paused ──Unpause──► Waking ──devices serve──► Running
//!                                               └────────────Unpause: the pause is taken back────────────────────────────┘
//! ```
//!
//! Devices finish what is under way however long the host's disk takes for it. A pause that is taken back meanwhile lets the
//! guest run at once, and each device serve as soon as it has finished. Pauses have numbers, so that what is said of one that
//! was taken back is not believed of the next.
//!
//! A paused guest does nothing and hears nothing: no vCPU runs, no device touches its memory or its disks, no timer of the
//! chipset rings. Its clocks go on, as those of a machine that was busy elsewhere. Each of the states can end.

use proto::client::Order;
use proto::vm::{ToVm, ToVmm};
use proto::{Code, Failure, exit};

/// Something that concerns the whole VM.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// vmm says something.
    Message(ToVm),
    /// vmm is gone, or its messages make no sense.
    VmmGone,
    /// The guest resets the machine: reset port, keyboard controller or triple fault.
    GuestReset,
    /// The guest switches the machine off: ACPI S5.
    GuestPowerOff,
    /// A vCPU can't go on.
    VcpuFailed,
    /// Devices can't be served.
    DeviceGone,
    /// All vCPUs wait outside the guest; or one does not leave it.
    Parked(bool),
    /// All devices have finished what was under way, and serve no queue, for the pause of this number.
    Quiet(Pause),
    /// All devices serve their queues again, after that pause.
    Awake(Pause),
}

/// Which pause of a VM, by number.
pub type Pause = u32;

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Ask the guest to stop: by vmmci where its driver listens, else by the power button.
    AskToStop,
    /// Raise the line by which each vCPU's local APIC is told an NMI.
    Nmi,
    /// Have all vCPUs wait outside the guest; answered by `Parked`.
    ParkVcpus,
    /// Let them go on, with the chipset's timers that have rung meanwhile.
    RunVcpus,
    /// Have all devices finish and serve nothing; answered by `Quiet`.
    QuietDevices(Pause),
    /// Have them serve again; answered by `Awake`.
    WakeDevices(Pause),
    /// Tell vmm.
    Tell(ToVmm),
    /// Ask the device of this index for its configuration space, and tell the guest.
    ReadConfig(u8),
    /// The process behind the socket that came along takes the place of the one of the device of this index, which is gone.
    Replace(u8),
    /// Log debug lines, or stop logging them.
    SetDebug(bool),
    /// Stop the vCPUs, then exit with this status.
    End(u8),
    /// End because of a message that has no place now.
    Refuse(&'static str),
}

/// The life of one VM after its start.
#[derive(Debug, Default)]
pub struct Lifecycle {
    ended: bool,
    course: Course,
    /// The last one.
    pause: Pause,
}

/// Whether the guest runs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Course {
    #[default]
    Running,
    Parking,
    Quieting,
    Paused,
    Waking,
}

impl Lifecycle {
    /// Takes what happened. Once it has ended nothing matters any more.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        if self.ended {
            return Vec::new();
        }
        let actions = match event {
            Event::Message(message) => self.message(message),
            Event::VmmGone => vec![Action::End(exit::POWERED_OFF)],
            Event::GuestReset => vec![Action::Tell(ToVmm::Leaving { reboot: true }), Action::End(exit::REBOOTED)],
            Event::GuestPowerOff => {
                vec![Action::Tell(ToVmm::Leaving { reboot: false }), Action::End(exit::POWERED_OFF)]
            }
            Event::VcpuFailed | Event::DeviceGone => vec![Action::End(exit::FAILED)],
            Event::Parked(true) if self.course == Course::Parking => {
                self.pause = self.pause.wrapping_add(1);
                self.turn(Course::Quieting, vec![Action::Tell(ToVmm::Pausing), Action::QuietDevices(self.pause)])
            }
            Event::Parked(false) if self.course == Course::Parking => {
                let failure = Failure::new(Code::TimedOut, "a vCPU does not leave the guest");
                self.turn(Course::Running, vec![Action::RunVcpus, done(Order::Pause, Err(failure))])
            }
            Event::Quiet(pause) if self.course == Course::Quieting && pause == self.pause => {
                self.turn(Course::Paused, vec![done(Order::Pause, Ok(true))])
            }
            Event::Awake(pause) if self.course == Course::Waking && pause == self.pause => {
                self.turn(Course::Running, vec![Action::RunVcpus, done(Order::Unpause, Ok(false))])
            }
            Event::Parked(_) | Event::Quiet(_) | Event::Awake(_) => Vec::new(), // nobody waits for it
        };
        self.ended = actions.iter().any(|action| matches!(action, Action::End(_)));
        actions
    }

    /// Whether a timer of the chipset may ring.
    pub fn guest_runs(&self) -> bool {
        self.course == Course::Running
    }

    fn message(&mut self, message: ToVm) -> Vec<Action> {
        match message {
            ToVm::AskToStop => vec![Action::AskToStop],
            ToVm::Order(order) => self.order(order),
            ToVm::ConfigChanged { device } => vec![Action::ReadConfig(device)],
            ToVm::Verbose { debug } => vec![Action::SetDebug(debug)],
            ToVm::Describe(_) => refuse("a second description"),
            ToVm::Device { device, .. } => vec![Action::Replace(device)],
            ToVm::Begin => refuse("a second start"),
        }
    }

    fn order(&mut self, order: Order) -> Vec<Action> {
        match (self.course, order) {
            (Course::Running, Order::Pause) => self.turn(Course::Parking, vec![Action::ParkVcpus]),
            (Course::Paused, Order::Pause) => vec![done(order, Ok(true))],
            (Course::Paused, Order::Unpause) => self.turn(Course::Waking, vec![Action::WakeDevices(self.pause)]),
            (Course::Quieting, Order::Unpause) => self.take_back(),
            (Course::Running, Order::Unpause) => vec![done(order, Ok(false))],
            (Course::Running, Order::Nmi) => vec![Action::Nmi, done(order, Ok(false))],
            (Course::Paused, Order::Nmi) => {
                let failure = Failure::new(Code::Invalid, "the guest is paused: unpause it first");
                vec![done(order, Err(failure))]
            }
            (Course::Parking | Course::Waking, Order::Pause | Order::Unpause | Order::Nmi)
            | (Course::Quieting, Order::Pause | Order::Nmi) => refuse("an order before the previous one was answered"),
        }
    }

    /// The guest goes on while its devices still finish.
    fn take_back(&mut self) -> Vec<Action> {
        let failure = Failure::new(Code::Invalid, "the guest was unpaused before its devices had finished");
        let actions = vec![
            Action::WakeDevices(self.pause),
            Action::RunVcpus,
            done(Order::Pause, Err(failure)),
            done(Order::Unpause, Ok(false)),
        ];
        self.turn(Course::Running, actions)
    }

    fn turn(&mut self, course: Course, actions: Vec<Action>) -> Vec<Action> {
        self.course = course;
        actions
    }
}

fn done(order: Order, result: Result<bool, Failure>) -> Action {
    Action::Tell(ToVmm::Done(order, result))
}

fn refuse(what: &'static str) -> Vec<Action> {
    vec![Action::Refuse(what), Action::End(exit::FAILED)]
}

#[cfg(test)]
mod tests {
    use proto::device::Front;

    use super::*;

    fn handle(event: Event) -> Vec<Action> {
        Lifecycle::default().handle(event)
    }

    #[test]
    fn reset_is_told_and_ends_as_a_reboot() {
        assert_eq!(
            handle(Event::GuestReset),
            [Action::Tell(ToVmm::Leaving { reboot: true }), Action::End(exit::REBOOTED)]
        );
    }

    #[test]
    fn power_off_is_told_and_ends_well() {
        assert_eq!(
            handle(Event::GuestPowerOff),
            [Action::Tell(ToVmm::Leaving { reboot: false }), Action::End(exit::POWERED_OFF)]
        );
    }

    #[test]
    fn the_vm_ends_with_vmm() {
        assert_eq!(handle(Event::VmmGone), [Action::End(exit::POWERED_OFF)]);
    }

    #[test]
    fn a_failed_vcpu_or_device_is_no_reboot() {
        assert_eq!(handle(Event::VcpuFailed), [Action::End(exit::FAILED)]);
        assert_eq!(handle(Event::DeviceGone), [Action::End(exit::FAILED)]);
    }

    #[test]
    fn a_graceful_stop_asks_the_guest_each_time() {
        let mut lifecycle = Lifecycle::default();
        for _ in 0..2 {
            assert_eq!(lifecycle.handle(Event::Message(ToVm::AskToStop)), [Action::AskToStop]);
        }
    }

    #[test]
    fn a_vm_ends_once() {
        let mut lifecycle = Lifecycle::default();
        lifecycle.handle(Event::GuestReset);
        for event in [Event::GuestReset, Event::GuestPowerOff, Event::VmmGone, Event::VcpuFailed] {
            assert_eq!(lifecycle.handle(event), []);
        }
    }

    #[test]
    fn a_message_of_the_start_has_no_place_later() {
        assert_eq!(handle(Event::Message(ToVm::Begin)), refuse("a second start"));
    }

    #[test]
    fn a_pause_stops_vcpus_then_devices_and_an_unpause_the_other_way_round() {
        let mut vm = Lifecycle::default();
        let steps = [
            (Event::Message(ToVm::Order(Order::Pause)), vec![Action::ParkVcpus], false),
            (Event::Parked(true), vec![Action::Tell(ToVmm::Pausing), Action::QuietDevices(1)], false),
            (Event::Quiet(1), vec![Action::Tell(ToVmm::Done(Order::Pause, Ok(true)))], false),
            (Event::Message(ToVm::Order(Order::Unpause)), vec![Action::WakeDevices(1)], false),
            (Event::Awake(1), vec![Action::RunVcpus, Action::Tell(ToVmm::Done(Order::Unpause, Ok(false)))], true),
        ];
        assert!(vm.guest_runs());
        for (event, actions, runs) in steps {
            assert_eq!(vm.handle(event.clone()), actions, "{event:?}");
            assert_eq!(vm.guest_runs(), runs, "{event:?}");
        }
    }

    #[test]
    fn a_pause_that_waits_for_its_devices_is_taken_back_by_an_unpause() {
        let order = |order| Event::Message(ToVm::Order(order));
        let mut vm = Lifecycle::default();
        vm.handle(order(Order::Pause));
        vm.handle(Event::Parked(true));
        let actions = vm.handle(order(Order::Unpause));
        assert!(
            matches!(
                actions[..],
                [
                    Action::WakeDevices(1),
                    Action::RunVcpus,
                    Action::Tell(ToVmm::Done(Order::Pause, Err(_))),
                    Action::Tell(ToVmm::Done(Order::Unpause, Ok(false)))
                ]
            ),
            "{actions:?}"
        );
        assert!(vm.guest_runs(), "at once");
        // The next pause waits for its own devices, whatever is still said of the first.
        vm.handle(order(Order::Pause));
        assert_eq!(vm.handle(Event::Parked(true)), [Action::Tell(ToVmm::Pausing), Action::QuietDevices(2)]);
        for late in [Event::Quiet(1), Event::Awake(1)] {
            assert_eq!(vm.handle(late), []);
        }
        assert_eq!(vm.handle(Event::Quiet(2)), [Action::Tell(ToVmm::Done(Order::Pause, Ok(true)))]);
        assert_eq!(vm.handle(order(Order::Unpause)), [Action::WakeDevices(2)]);
        assert_eq!(vm.handle(Event::Awake(1)), []);
        assert!(!vm.guest_runs());
    }

    #[test]
    fn a_vm_is_paused_and_unpaused_only_once_and_each_wish_is_answered() {
        let mut vm = Lifecycle::default();
        assert_eq!(
            vm.handle(Event::Message(ToVm::Order(Order::Unpause))),
            [Action::Tell(ToVmm::Done(Order::Unpause, Ok(false)))]
        );
        for event in [Event::Message(ToVm::Order(Order::Pause)), Event::Parked(true), Event::Quiet(1)] {
            vm.handle(event);
        }
        assert_eq!(
            vm.handle(Event::Message(ToVm::Order(Order::Pause))),
            [Action::Tell(ToVmm::Done(Order::Pause, Ok(true)))]
        );
    }

    #[test]
    fn a_vcpu_that_does_not_leave_the_guest_fails_the_pause_and_the_guest_runs_on() {
        let mut vm = Lifecycle::default();
        vm.handle(Event::Message(ToVm::Order(Order::Pause)));
        let actions = vm.handle(Event::Parked(false));
        assert!(
            matches!(actions[..], [Action::RunVcpus, Action::Tell(ToVmm::Done(Order::Pause, Err(_)))]),
            "{actions:?}"
        );
        assert!(vm.guest_runs());
    }

    #[test]
    fn a_wish_before_the_last_was_answered_has_no_place() {
        for second in [Order::Pause, Order::Unpause, Order::Nmi].map(ToVm::Order) {
            let mut vm = Lifecycle::default();
            vm.handle(Event::Message(ToVm::Order(Order::Pause)));
            assert!(matches!(vm.handle(Event::Message(second))[..], [Action::Refuse(_), Action::End(exit::FAILED)]));
        }
    }

    #[test]
    fn an_nmi_reaches_a_guest_that_runs_and_is_refused_while_it_is_paused() {
        let mut vm = Lifecycle::default();
        let nmi = || Event::Message(ToVm::Order(Order::Nmi));
        assert_eq!(vm.handle(nmi()), [Action::Nmi, Action::Tell(ToVmm::Done(Order::Nmi, Ok(false)))]);
        for event in [Event::Message(ToVm::Order(Order::Pause)), Event::Parked(true), Event::Quiet(1)] {
            vm.handle(event);
        }
        let actions = vm.handle(nmi());
        assert!(matches!(&actions[..], [Action::Tell(ToVmm::Done(Order::Nmi, Err(_)))]), "{actions:?}");
        assert!(!vm.guest_runs());
    }

    #[test]
    fn a_vm_ends_at_each_step_of_a_pause() {
        let steps = [
            Event::Message(ToVm::Order(Order::Pause)),
            Event::Parked(true),
            Event::Quiet(1),
            Event::Message(ToVm::Order(Order::Unpause)),
        ];
        for count in 0..=steps.len() {
            let mut vm = Lifecycle::default();
            steps.iter().take(count).for_each(|event| drop(vm.handle(event.clone())));
            assert_eq!(vm.handle(Event::VmmGone), [Action::End(exit::POWERED_OFF)]);
            assert_eq!(vm.handle(Event::Parked(true)), [], "after the end");
        }
    }

    #[test]
    fn what_nobody_waits_for_changes_nothing() {
        let mut vm = Lifecycle::default();
        for event in [Event::Parked(true), Event::Parked(false), Event::Quiet(1), Event::Awake(1)] {
            assert_eq!(vm.handle(event), []);
            assert!(vm.guest_runs());
        }
    }

    #[test]
    fn a_device_after_the_start_takes_the_place_of_one_that_is_gone() {
        let front = Front { virtio_id: 2, queues: 1, queue_size: 256, config_len: 60 };
        assert_eq!(handle(Event::Message(ToVm::Device { device: 3, front })), [Action::Replace(3)]);
    }

    #[test]
    fn verbosity_changes() {
        assert_eq!(handle(Event::Message(ToVm::Verbose { debug: true })), [Action::SetDebug(true)]);
    }
}
