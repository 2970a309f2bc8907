//! What happens to a running VM, from `Started` to its exit status. Pure: no descriptor, no clock, no log.
//!
//! ```text
//! Running ──guest resets──────► Ended(REBOOTED)      Leaving{reboot: true} is told first
//!         ──guest powers off──► Ended(POWERED_OFF)   Leaving{reboot: false} is told first
//!         ──vmm is gone───────► Ended(POWERED_OFF)   nobody is there to be told
//!         ──vCPU or device fails─► Ended(FAILED)
//! ```

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
    /// A device's process is gone.
    DeviceGone,
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Press the power button.
    PressPowerButton,
    /// Tell vmm.
    Tell(ToVmm),
    /// Log debug lines, or no more.
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
}

impl Lifecycle {
    /// Takes what happened. Once it has ended nothing matters any more.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        if self.ended {
            return Vec::new();
        }
        let actions = match event {
            Event::Message(message) => Self::message(message),
            Event::VmmGone => vec![Action::End(exit::POWERED_OFF)],
            Event::GuestReset => vec![Action::Tell(ToVmm::Leaving { reboot: true }), Action::End(exit::REBOOTED)],
            Event::GuestPowerOff => {
                vec![Action::Tell(ToVmm::Leaving { reboot: false }), Action::End(exit::POWERED_OFF)]
            }
            Event::VcpuFailed | Event::DeviceGone => vec![Action::End(exit::FAILED)],
        };
        self.ended = actions.iter().any(|action| matches!(action, Action::End(_)));
        actions
    }

    fn message(message: ToVm) -> Vec<Action> {
        let later = || Err(Failure::new(Code::Unsupported, "a VM can't be paused by this release"));
        match message {
            ToVm::PowerButton => vec![Action::PressPowerButton],
            ToVm::Pause => vec![Action::Tell(ToVmm::Paused(later()))],
            ToVm::Unpause => vec![Action::Tell(ToVmm::Unpaused(later()))],
            // For devices that live in this process; the card itself has it from vmm.
            ToVm::TapAddress { .. } => Vec::new(),
            ToVm::Verbose { debug } => vec![Action::SetDebug(debug)],
            ToVm::Describe(_) => refuse("a second description"),
            ToVm::Device(_) => refuse("a device after the start"),
            ToVm::Begin => refuse("a second start"),
        }
    }
}

fn refuse(what: &'static str) -> Vec<Action> {
    vec![Action::Refuse(what), Action::End(exit::FAILED)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::MacAddr;

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
    fn a_graceful_stop_presses_the_button_each_time() {
        let mut lifecycle = Lifecycle::default();
        for _ in 0..2 {
            assert_eq!(lifecycle.handle(Event::Message(ToVm::PowerButton)), [Action::PressPowerButton]);
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
    fn pause_is_answered() {
        assert!(matches!(handle(Event::Message(ToVm::Pause))[..], [Action::Tell(ToVmm::Paused(Err(_)))]));
        assert!(matches!(handle(Event::Message(ToVm::Unpause))[..], [Action::Tell(ToVmm::Unpaused(Err(_)))]));
    }

    #[test]
    fn verbosity_changes_and_a_taps_address_changes_nothing() {
        assert_eq!(handle(Event::Message(ToVm::Verbose { debug: true })), [Action::SetDebug(true)]);
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        assert_eq!(handle(Event::Message(ToVm::TapAddress { nic: 0, mac })), []);
    }
}
