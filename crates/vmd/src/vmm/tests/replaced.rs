//! A device whose process ends while its guest runs: another takes its place.

use super::super::running::replacing::{DEATHS_WITHIN, FOLLOWS};
use super::*;

/// The process of a VM's device.
fn device(run: Run, index: u8) -> Process {
    Process { run, member: Member::Device(index) }
}

impl Machine {
    /// Its device has died, and its next process is ready: what is said to the vm process then.
    fn is_replaced(&mut self, process: Process, actions: &[Action]) -> Vec<ToVm> {
        assert!(actions.contains(&Action::AwaitGone(process)), "{actions:?}");
        let actions = self.event(Event::Gone(process));
        assert_eq!(spawned(&actions), Some(process));
        let actions = self.event(Event::Spawned(process, 500));
        assert!(
            matches!(&actions[..], [Action::TellDevice(of, ToDevice::Start { .. })] if *of == process),
            "{actions:?}"
        );
        let actions = self.ready(process.run, process.member);
        assert_eq!(kills(&actions), []);
        said_to_vm(&actions)
    }
}

#[test]
fn a_device_that_dies_is_replaced_and_its_vm_is_given_the_next() {
    let mut vmm = machine();
    let run = vmm.up_with(1, "web", &[disk(1, 0), nic(1, 1)]);
    for index in [0, 1, 0] {
        let actions = vmm.exit(run, Member::Device(index), Exit::Signal(9));
        assert_eq!(kills(&actions), []);
        assert!(log(&actions).ends_with("ended (signal 9): another process takes its place"), "{}", log(&actions));
        let said = vmm.is_replaced(device(run, index), &actions);
        assert!(matches!(said[..], [ToVm::Device { device, .. }] if device == index), "{said:?}");
    }
    assert_eq!(vmm.told(), [1]);
    assert!(!kills(&vmm.ready(run, Member::Device(0))).is_empty(), "a second time");
}

#[test]
fn nothing_is_started_while_the_host_may_still_carry_something_out() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 1);
    vmm.exit(run, Member::Device(0), Exit::Signal(9));
    assert_eq!(vmm.running.next_deadline(), None, "however long it takes");
    assert_eq!(vmm.pass(Duration::from_secs(3600)), []);
    assert_eq!(spawned(&vmm.event(Event::Gone(device(run, 0)))), Some(device(run, 0)));
    assert_eq!(vmm.event(Event::Gone(device(run, 0))), [], "once");
}

#[test]
fn one_that_dies_before_it_serves_is_replaced_like_any_other() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 1);
    vmm.exit(run, Member::Device(0), Exit::Signal(9));
    vmm.event(Event::Gone(device(run, 0)));
    vmm.event(Event::Spawned(device(run, 0), 500));
    let actions = vmm.exit(run, Member::Device(0), Exit::Signal(9));
    assert_eq!(vmm.is_replaced(device(run, 0), &actions).len(), 1);
}

#[test]
fn a_device_that_left_in_peace_is_replaced_unless_its_vm_follows() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 2);
    for index in [0, 1] {
        assert_eq!(vmm.exit(run, Member::Device(index), Exit::Code(0)), []);
    }
    assert_eq!(vmm.running.next_deadline(), Some(vmm.now + FOLLOWS));
    let actions = vmm.pass(FOLLOWS);
    for index in [0, 1] {
        assert!(actions.contains(&Action::AwaitGone(device(run, index))), "{actions:?}");
    }

    // It has said that it ends.
    let mut vmm = machine();
    let run = vmm.up(1, "web", 1);
    vmm.exit(run, Member::Device(0), Exit::Code(0));
    vmm.vm(run, FromVm::Ended { status: exit::POWERED_OFF });
    assert_eq!(vmm.pass(FOLLOWS), []);
    assert_eq!(ended(&vmm.dies(run, Member::Vm, Exit::Code(0))), End::PoweredOff);

    // It is being ended.
    let mut vmm = machine();
    let run = vmm.up(1, "web", 1);
    vmm.stop(1, Stop::Force);
    vmm.exit(run, Member::Device(0), Exit::Code(0));
    assert_eq!(vmm.pass(FOLLOWS), []);
    assert_eq!(ended(&vmm.dies(run, Member::Vm, Exit::Signal(15))), End::PoweredOff);
}

#[test]
fn a_device_that_left_just_before_its_guest_ran_is_replaced() {
    let mut vmm = machine();
    let (run, _) = vmm.spawn(start_of(1, "web", 1));
    vmm.ready(run, Member::Device(0));
    vmm.exit(run, Member::Device(0), Exit::Code(0));
    vmm.vm(run, FromVm::Started);
    let actions = vmm.pass(FOLLOWS);
    vmm.is_replaced(device(run, 0), &actions);
}

#[test]
fn a_vm_whose_devices_die_too_often_ends_and_says_why() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 2);
    let die = |vmm: &mut Machine, index| {
        let actions = vmm.exit(run, Member::Device(index), Exit::Signal(9));
        if kills(&actions).is_empty() {
            vmm.is_replaced(device(run, index), &actions);
        }
        actions
    };
    let limit = model::DEVICE_RESTARTS;
    for death in 0..limit {
        assert_eq!(kills(&die(&mut vmm, death % 2)), []);
    }
    vmm.pass(DEATHS_WITHIN);
    for death in 0..limit {
        assert_eq!(kills(&die(&mut vmm, death % 2)), [], "those of before do not count any more");
    }
    vmm.pass(DEATHS_WITHIN.saturating_sub(Duration::from_millis(1)));
    let actions = die(&mut vmm, 0);
    assert_eq!(kills(&actions), [(Member::Vm, Signal::TERM)]);
    assert!(
        log(&actions)
            .contains("vioblk0 ended (signal 9, and 5 deaths of its devices within 60 s before; \"device restarts\" allows no more), so the vm ends")
    );
    vmm.exit(run, Member::Vm, Exit::Signal(15));
    let End::Failed(failure) = ended(&vmm.exit(run, Member::Device(1), Exit::Code(0))) else {
        panic!("it has not failed")
    };
    assert!(failure.text.contains("5 deaths"), "{failure}");
}

#[test]
fn a_next_process_that_fails_is_late_or_is_not_made_ends_the_vm() {
    let fail = |how: &dyn Fn(&mut Machine, Run) -> Vec<Action>| {
        let mut vmm = machine();
        let run = vmm.up(1, "web", 1);
        vmm.exit(run, Member::Device(0), Exit::Signal(9));
        vmm.event(Event::Gone(device(run, 0)));
        assert!(kills(&how(&mut vmm, run)).contains(&(Member::Vm, Signal::KILL)));
        vmm.exit(run, Member::Vm, Exit::Signal(9));
        let gone = vmm.exit(run, Member::Device(0), Exit::Signal(9));
        assert!(vmm.told().is_empty(), "{gone:?}");
    };
    fail(&|vmm, run| vmm.event(Event::SpawnFailed(device(run, 0), Failure::new(Code::Io, "clone"))));
    fail(&|vmm, run| {
        vmm.event(Event::Spawned(device(run, 0), 500));
        vmm.pass(READY_LIMIT)
    });
    fail(&|vmm, run| {
        vmm.event(Event::Spawned(device(run, 0), 500));
        let why = FromDevice::Failed(Failure::new(Code::Invalid, "the image has shrunk"));
        vmm.event(Event::Device(device(run, 0), why))
    });
}

#[test]
fn a_vm_that_ends_meanwhile_leaves_no_process() {
    for steps in 0..3 {
        let mut vmm = machine();
        let run = vmm.up(1, "web", 1);
        vmm.exit(run, Member::Device(0), Exit::Signal(9));
        if steps > 0 {
            vmm.event(Event::Gone(device(run, 0)));
        }
        if steps > 1 {
            vmm.event(Event::Spawned(device(run, 0), 500));
        }
        let mut actions = vmm.exit(run, Member::Vm, Exit::Code(0));
        if steps == 1 {
            let spawned = vmm.event(Event::Spawned(device(run, 0), 500));
            assert_eq!(kills(&spawned), [(Member::Device(0), Signal::KILL)]);
        }
        if steps > 0 {
            actions = vmm.exit(run, Member::Device(0), Exit::Signal(9));
        }
        assert_eq!(ended(&actions), End::PoweredOff, "{steps}");
        assert_eq!(vmm.event(Event::Gone(device(run, 0))), []);
    }
}
