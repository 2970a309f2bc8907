//! Stops: openbsd/daemon.md, 2.4, 2.7 and 2.9 as [26] has them.

use log::Level;

use super::*;

#[test]
fn row_2_4_terminate_id_zero_is_enoent() {
    assert_eq!(stopped(&machine().stop(0, Stop::Force)), Err(Code::NotFound));
    assert_eq!(stopped(&machine().stop(0, GRACEFUL)), Err(Code::NotFound));
}

#[test]
fn row_2_4_terminate_of_an_unknown_vm_is_stop_invalid() {
    assert_eq!(stopped(&machine().stop(8, Stop::Force)), Err(Code::StopInvalid));
    assert_eq!(stopped(&machine().stop(8, GRACEFUL)), Err(Code::StopInvalid));
}

#[test]
fn row_2_4_force_sends_sigterm_and_after_ten_seconds_sigkill() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 1);
    let actions = vmm.stop(1, Stop::Force);
    assert_eq!(stopped(&actions), Ok(()));
    assert_eq!(kills(&actions), [(Member::Vm, Signal::TERM)]);
    assert_eq!(vmm.pass(KILL_AFTER - Duration::from_millis(1)), []);
    let actions = vmm.pass(Duration::from_millis(1));
    assert_eq!(kills(&actions), [(Member::Vm, Signal::KILL)]);
    assert_eq!(warned(&actions), "vm \"web\": force killed vm 1: it did not end within 10 s of SIGTERM");
    vmm.exit(run, Member::Vm, Exit::Signal(9));
    assert_eq!(ended(&vmm.exit(run, Member::Device(0), Exit::Code(0))), End::PoweredOff);
}

#[test]
fn row_2_4_force_before_there_is_a_process_is_einval() {
    let mut vmm = machine();
    vmm.describe(start_of(1, "web", 0));
    assert_eq!(stopped(&vmm.stop(1, Stop::Force)), Err(Code::Invalid));
}

/// The only thing said to the vm process, if anything was.
fn pressed(actions: &[Action]) -> bool {
    match said_to_vm(actions).as_slice() {
        [] => false,
        [ToVm::AskToStop] => true,
        other => panic!("more than the button: {other:?}"),
    }
}

/// Warnings, and nothing else in the log.
fn warned(actions: &[Action]) -> String {
    for action in actions {
        assert!(!matches!(action, Action::LogOf(_, _, level, _) if *level != Level::Warn), "{action:?}");
    }
    log(actions)
}

#[test]
fn row_2_4_graceful_presses_the_power_button_until_the_guest_is_off_ever_more_slowly() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 0);
    let actions = vmm.stop(1, GRACEFUL);
    assert_eq!((stopped(&actions), said_to_vm(&actions)), (Ok(()), vec![ToVm::AskToStop]));
    let presses: Vec<u64> = (1..120).filter(|_| pressed(&vmm.pass(Duration::from_secs(1)))).collect();
    assert_eq!(presses, [3, 8, 15, 26, 41, 56, 71, 86, 101, 116], "seconds after the first");
    vmm.vm(run, FromVm::Leaving { reboot: false });
    assert_eq!(ended(&vmm.exit(run, Member::Vm, Exit::Code(0))), End::PoweredOff);
    assert_eq!(vmm.running.next_deadline(), None);
}

#[test]
fn a_further_graceful_stop_presses_the_button_at_once_and_gives_no_more_time() {
    let mut vmm = machine();
    vmm.up(1, "web", 0);
    vmm.stop(1, GRACEFUL);
    let until = vmm.now + Duration::from_secs(120);
    let again = vmm.stop(1, GRACEFUL);
    assert_eq!((stopped(&again), pressed(&again)), (Ok(()), false), "it was pressed this very moment");
    vmm.now = vmm.now + Duration::from_secs(1);
    let again = vmm.stop(1, GRACEFUL);
    assert_eq!((stopped(&again), pressed(&again)), (Ok(()), true));
    assert!(!pressed(&vmm.pass(Duration::from_secs(2))), "the next is three seconds after that");
    assert!(pressed(&vmm.pass(Duration::from_secs(1))));
    while vmm.now < until {
        let next = vmm.running.next_deadline().expect("one of the two");
        assert!(next <= until);
        vmm.now = next;
        let actions = vmm.event(Event::Time);
        assert_eq!(kills(&actions).is_empty(), next < until);
    }
}

#[test]
fn row_2_4_graceful_of_a_guest_that_shuts_down_already_sends_nothing() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 0);
    vmm.vm(run, FromVm::Leaving { reboot: false });
    let actions = vmm.stop(1, GRACEFUL);
    assert_eq!((stopped(&actions), actions.len()), (Ok(()), 1));
    assert_eq!(vmm.running.next_deadline(), Some(vmm.now + Duration::from_secs(120)), "but it has a deadline now");
    vmm.now = vmm.now + Duration::from_secs(60);
    assert!(!pressed(&vmm.stop(1, GRACEFUL)));
}

#[test]
fn row_2_4_graceful_of_a_vm_whose_process_is_gone_is_stop_invalid() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 1);
    vmm.stop(1, GRACEFUL);
    vmm.exit(run, Member::Vm, Exit::Code(0));
    assert_eq!(stopped(&vmm.stop(1, GRACEFUL)), Err(Code::StopInvalid));
    assert_eq!(stopped(&vmm.stop(1, Stop::Force)), Err(Code::StopInvalid));
}

#[test]
fn row_2_4_a_reset_at_the_end_of_a_graceful_stop_is_the_stop() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 0);
    vmm.stop(1, GRACEFUL);
    assert_eq!(answers(&vmm.vm(run, FromVm::Leaving { reboot: true })), [], "its wish does not count any more");
    assert_eq!(ended(&vmm.exit(run, Member::Vm, Exit::Code(11))), End::PoweredOff);
}

#[test]
fn graceful_ends_in_sigterm_at_its_deadline_and_in_sigkill_ten_seconds_later() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 0);
    vmm.stop(1, GRACEFUL);
    assert_eq!(kills(&vmm.pass(Duration::from_secs(119))), []);
    let actions = vmm.pass(Duration::from_secs(1));
    assert_eq!((kills(&actions), pressed(&actions)), (vec![(Member::Vm, Signal::TERM)], false));
    let said = "vm \"web\": vm 1 has not stopped by itself in time, and is ended by force; \
                does its guest heed the ACPI power button?";
    assert_eq!(warned(&actions), said);
    assert_eq!(kills(&vmm.pass(KILL_AFTER)), [(Member::Vm, Signal::KILL)]);
    assert_eq!(vmm.running.next_deadline(), None);
    assert_eq!(ended(&vmm.exit(run, Member::Vm, Exit::Signal(9))), End::PoweredOff);
}

#[test]
fn force_during_a_graceful_stop_does_not_wait_for_the_guest_any_more() {
    let mut vmm = machine();
    vmm.up(1, "web", 0);
    vmm.stop(1, GRACEFUL);
    assert_eq!(kills(&vmm.stop(1, Stop::Force)), [(Member::Vm, Signal::TERM)]);
    assert_eq!(kills(&vmm.stop(1, Stop::Force)), [], "and a second one changes nothing");
    assert_eq!(kills(&vmm.pass(KILL_AFTER)), [(Member::Vm, Signal::KILL)]);
}

#[test]
fn a_stop_during_a_start_fails_the_start_and_leaves_no_process() {
    for how in [Stop::Force, GRACEFUL] {
        let mut vmm = machine();
        let (run, _) = vmm.spawn(start_of(1, "web", 1));
        let actions = vmm.stop(1, how);
        assert_eq!(stopped(&actions), Ok(()));
        assert_eq!(kills(&actions), [(Member::Device(0), Signal::KILL), (Member::Vm, Signal::KILL)]);
        vmm.exit(run, Member::Vm, Exit::Signal(9));
        assert_eq!(refused(&vmm.exit(run, Member::Device(0), Exit::Signal(9)), 1), Code::Io);
    }
}

#[test]
fn row_2_7_shutdown_kills_all_vms_and_vmm_ends_when_all_are_reaped() {
    let mut vmm = machine();
    let up = vmm.up(1, "web", 1);
    let (starting, _) = vmm.spawn(start_of(2, "mail", 0));
    let described = vmm.describe(start_of(3, "news", 0));
    let actions = vmm.event(Event::Shutdown);
    let all = [(Member::Device(0), Signal::KILL), (Member::Vm, Signal::KILL), (Member::Vm, Signal::KILL)];
    assert_eq!(kills(&actions), all);
    assert!(actions.contains(&Action::Release(described)) && !actions.contains(&Action::Quit));
    vmm.exit(up, Member::Device(0), Exit::Signal(9));
    let actions = vmm.exit(up, Member::Vm, Exit::Signal(9));
    assert!(ended(&actions) == End::PoweredOff && !actions.contains(&Action::Quit));
    let actions = vmm.exit(starting, Member::Vm, Exit::Signal(9));
    assert!(refused(&actions, 2) == Code::Io && actions.contains(&Action::Quit));
}

#[test]
fn row_2_7_shutdown_without_a_vm_ends_at_once() {
    assert_eq!(machine().event(Event::Shutdown), [Action::Quit]);
}

#[test]
fn a_process_that_was_being_started_at_the_end_is_killed_too() {
    let mut vmm = machine();
    vmm.describe(start_of(1, "web", 0));
    let process = spawned(&vmm.parent(end(1))).expect("the vm process");
    assert!(!vmm.event(Event::Shutdown).contains(&Action::Quit));
    assert_eq!(kills(&vmm.event(Event::Spawned(process, 7))), [(Member::Vm, Signal::KILL)]);
    assert!(vmm.exit(process.run, Member::Vm, Exit::Signal(9)).contains(&Action::Quit));
}
