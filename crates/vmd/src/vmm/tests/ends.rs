//! Ends: openbsd/daemon.md, 2.6 and 2.8, and what a device's end means.

use super::*;

#[test]
fn row_2_6_unknown_process_is_ignored() {
    let mut vmm = machine();
    vmm.up(1, "web", 0);
    assert_eq!(vmm.exit(Run(77), Member::Vm, Exit::Code(1)), []);
    assert_eq!(vmm.told(), [1]);
}

#[test]
fn row_2_6_exit_zero_is_a_power_off() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 0);
    let actions = vmm.exit(run, Member::Vm, Exit::Code(0));
    assert_eq!(ended(&actions), End::PoweredOff);
    assert!(actions.contains(&Action::Release(run)) && actions.contains(&Action::HangUp(run)));
    assert!(vmm.told().is_empty());
}

#[test]
fn row_2_6_exit_eagain_is_a_reboot() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 0);
    assert_eq!(ended(&vmm.exit(run, Member::Vm, Exit::Code(11))), End::Rebooted);
}

#[test]
fn row_2_6_exit_eagain_on_pending_shutdown_is_no_reboot() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 0);
    vmm.vm(run, FromVm::Leaving { reboot: false });
    assert_eq!(ended(&vmm.exit(run, Member::Vm, Exit::Code(11))), End::PoweredOff);
}

#[test]
fn row_2_6_other_exit_codes_and_signals_are_eio_also_in_one_batch_after_another_vm() {
    let mut vmm = machine();
    for (id, exit) in [(1, Exit::Code(5)), (2, Exit::Signal(9)), (3, Exit::Code(300)), (4, Exit::Signal(11))] {
        let rebooted = vmm.up(100 + id, &format!("first{id}"), 0);
        let run = vmm.up(id, &format!("vm{id}"), 0);
        assert_eq!(ended(&vmm.exit(rebooted, Member::Vm, Exit::Code(11))), End::Rebooted);
        let actions = vmm.exit(run, Member::Vm, exit);
        assert!(matches!(ended(&actions), End::Failed(failure) if failure.code == Code::Io), "{exit}");
        assert!(log(&actions).contains(&format!("vm \"vm{id}\": vm process failed: {exit}")));
    }
}

#[test]
fn row_2_6_end_is_told_once_and_only_when_all_its_processes_are_reaped() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 3);
    let actions = vmm.exit(run, Member::Vm, Exit::Code(0));
    assert!(actions.contains(&Action::HangUp(run)), "which tells its devices to flush and end");
    for member in [Member::Device(1), Member::Device(2)] {
        assert_eq!(answers(&vmm.exit(run, member, Exit::Code(0))), []);
    }
    assert_eq!(ended(&vmm.exit(run, Member::Device(0), Exit::Code(0))), End::PoweredOff);
    assert_eq!(vmm.exit(run, Member::Device(0), Exit::Code(0)), []);
}

#[test]
fn row_1_8_devices_that_do_not_end_with_their_vm_are_killed_at_the_deadline() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 1);
    vmm.exit(run, Member::Vm, Exit::Code(0));
    let actions = vmm.pass(KILL_AFTER);
    assert_eq!(kills(&actions), [(Member::Device(0), Signal::KILL)]);
    assert!(log(&actions).contains("vioblk0 did not end: killed"));
    assert_eq!(ended(&vmm.exit(run, Member::Device(0), Exit::Signal(9))), End::PoweredOff);
}

#[test]
fn row_1_8_a_crashed_device_that_is_not_replaced_ends_its_vm_alone_and_the_log_names_it() {
    for exit in [Exit::Signal(11), Exit::Code(1)] {
        let mut vmm = machine();
        vmm.up(2, "other", 1);
        let run = vmm.up_outliving(0, 1, "web", &[disk(1, 0), balloon(1, 1)]);
        let actions = vmm.exit(run, Member::Device(1), exit);
        assert_eq!(
            log(&actions),
            format!("vm \"web\": vioballoon1 ended ({exit}; \"device restarts\" allows none), so the vm ends")
        );
        assert_eq!(kills(&actions), [(Member::Vm, Signal::TERM)]);
        vmm.exit(run, Member::Vm, Exit::Signal(15));
        let end = ended(&vmm.exit(run, Member::Device(0), Exit::Code(0)));
        assert_eq!(
            end,
            End::Failed(Failure::new(Code::Io, format!("vioballoon1 ended: {exit}; \"device restarts\" allows none")))
        );
        assert_eq!(vmm.told(), [2]);
    }
}

#[test]
fn devices_that_left_just_before_their_vm_say_nothing_of_why_it_ended() {
    for (status, end) in [(0, End::PoweredOff), (11, End::Rebooted)] {
        let mut vmm = machine();
        let run = vmm.up(1, "web", 2);
        for disk in [0, 1] {
            assert_eq!(vmm.exit(run, Member::Device(disk), Exit::Code(0)), []);
        }
        assert_eq!(ended(&vmm.exit(run, Member::Vm, Exit::Code(status))), end);
    }
}

/// A start whose vm process was told to begin; its disk is ready.
fn beginning(vmm: &mut Machine) -> Run {
    let (run, _) = vmm.spawn(start_of(1, "web", 1));
    vmm.ready(run, Member::Device(0));
    run
}

fn start_failed(actions: &[Action]) -> Failure {
    match answers(actions).as_slice() {
        [ToParent::StartDone { result: Err(failure), .. }] => failure.clone(),
        other => panic!("no failed start: {other:?}"),
    }
}

#[test]
fn a_device_that_left_before_the_guest_ran_does_not_hide_why_the_vm_failed() {
    let mut vmm = machine();
    let run = beginning(&mut vmm);
    assert_eq!(vmm.exit(run, Member::Device(0), Exit::Code(0)), []);
    let why = Failure::new(Code::NoDevice, "/dev/kvm: is not KVM");
    vmm.vm(run, FromVm::Failed(why.clone()));
    assert_eq!(start_failed(&vmm.exit(run, Member::Vm, Exit::Signal(9))), why);
}

#[test]
fn a_device_that_left_before_the_guest_ran_and_whose_vm_does_not_follow_fails_the_start() {
    for ready in [true, false] {
        let mut vmm = machine();
        let (run, _) = vmm.spawn(start_of(1, "web", 1));
        if ready {
            vmm.ready(run, Member::Device(0));
        }
        vmm.exit(run, Member::Device(0), Exit::Code(0));
        assert_eq!(kills(&vmm.pass(KILL_AFTER)), [(Member::Vm, Signal::KILL)]);
        let failure = start_failed(&vmm.exit(run, Member::Vm, Exit::Signal(9)));
        assert_eq!(&*failure.text, "vioblk0 ended before the guest ran: without an error");
    }
}

#[test]
fn a_device_that_left_and_whose_vm_does_not_follow_ends_it_where_none_takes_its_place() {
    let mut vmm = machine();
    let run = vmm.up_outliving(0, 1, "web", &[balloon(1, 0)]);
    vmm.exit(run, Member::Device(0), Exit::Code(0));
    let actions = vmm.pass(KILL_AFTER);
    assert_eq!(kills(&actions), [(Member::Vm, Signal::TERM)]);
    assert!(log(&actions).contains("vioballoon0 ended"));
    assert_eq!(kills(&vmm.pass(KILL_AFTER)), [(Member::Vm, Signal::KILL)]);
    assert!(matches!(ended(&vmm.exit(run, Member::Vm, Exit::Signal(9))), End::Failed(_)));
}

#[test]
fn row_2_8_vm_shutdown_sets_shutdown_and_is_told() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 0);
    let leaving = ToParent::Leaving { vm: VmId(1), reboot: false };
    assert_eq!(vmm.vm(run, FromVm::Leaving { reboot: false }), [Action::Reply(leaving)]);
    assert_eq!(ended(&vmm.exit(run, Member::Vm, Exit::Code(11))), End::PoweredOff);
}

#[test]
fn row_2_8_vm_reboot_clears_shutdown_so_that_its_reset_restarts_it() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 0);
    vmm.vm(run, FromVm::Leaving { reboot: false });
    vmm.vm(run, FromVm::Leaving { reboot: true });
    assert_eq!(ended(&vmm.exit(run, Member::Vm, Exit::Code(11))), End::Rebooted);
}

#[test]
fn row_2_8_a_malformed_message_costs_its_vm_alone() {
    for (member, name) in [(Member::Vm, "vm"), (Member::Device(0), "vioblk0")] {
        let mut vmm = machine();
        vmm.up(2, "other", 0);
        let run = vmm.up(1, "web", 1);
        let actions = vmm.event(Event::Broken(Process { run, member }, "malformed message".to_owned()));
        assert!(log(&actions).contains(&format!("vm \"web\": {name}: malformed message")));
        assert_eq!(kills(&actions), [(Member::Device(0), Signal::KILL), (Member::Vm, Signal::KILL)]);
        vmm.exit(run, Member::Device(0), Exit::Signal(9));
        assert!(matches!(ended(&vmm.exit(run, Member::Vm, Exit::Signal(9))), End::Failed(_)));
        assert_eq!(vmm.told(), [2]);
    }
}

#[test]
fn row_2_8_a_message_out_of_place_costs_its_vm_alone() {
    let wrong = [
        FromVm::Started,
        FromVm::Pausing,
        FromVm::Done(Order::Pause, Ok(true)),
        FromVm::Done(Order::Unpause, Ok(false)),
    ];
    for message in wrong {
        let mut vmm = machine();
        let run = vmm.up(1, "web", 0);
        assert_eq!(kills(&vmm.vm(run, message)), [(Member::Vm, Signal::KILL)]);
        assert!(matches!(ended(&vmm.exit(run, Member::Vm, Exit::Signal(9))), End::Failed(_)));
    }
    for message in [FromVm::Started, FromVm::Leaving { reboot: true }] {
        let mut vmm = machine();
        let (run, _) = vmm.spawn(start_of(1, "web", 1));
        assert!(!kills(&vmm.vm(run, message)).is_empty(), "before it was told to begin");
    }
    let mut vmm = machine();
    let run = vmm.up(1, "web", 1);
    assert!(!kills(&vmm.ready(run, Member::Device(0))).is_empty(), "a second time");
}

#[test]
fn row_2_8_a_flood_of_wishes_costs_its_vm_and_not_the_parent() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 0);
    let told = (0..1000).flat_map(|n| answers(&vmm.vm(run, FromVm::Leaving { reboot: n % 2 == 0 }))).count();
    assert_eq!(told, usize::from(MAX_WISHES));
    assert!(matches!(ended(&vmm.exit(run, Member::Vm, Exit::Signal(9))), End::Failed(_)));
}

#[test]
fn row_11_3_an_event_of_an_earlier_run_does_not_hit_the_next_of_the_same_id() {
    let mut vmm = machine();
    let first = vmm.up(1, "web", 0);
    vmm.exit(first, Member::Vm, Exit::Code(11));
    let second = vmm.up(1, "web", 0);
    assert_ne!(first, second);
    assert_eq!(vmm.exit(first, Member::Vm, Exit::Signal(9)), []);
    assert_eq!(vmm.vm(first, FromVm::Leaving { reboot: false }), []);
    assert_eq!(vmm.event(Event::Broken(Process { run: first, member: Member::Vm }, "late".to_owned())), []);
    assert_eq!(vmm.told(), [1]);
}

#[test]
fn a_vm_that_ends_without_a_last_word_has_failed_whatever_its_status() {
    for status in [0, 11] {
        let mut vmm = machine();
        let run = vmm.up(1, "web", 0);
        let actions = vmm.dies(run, Member::Vm, Exit::Code(status));
        assert!(matches!(ended(&actions), End::Failed(failure) if failure.code == Code::Io), "{status}");
    }
}

#[test]
fn a_last_word_counts_whatever_the_status() {
    for (said, end) in [(exit::POWERED_OFF, End::PoweredOff), (exit::REBOOTED, End::Rebooted)] {
        let mut vmm = machine();
        let run = vmm.up(1, "web", 0);
        vmm.vm(run, FromVm::Ended { status: said });
        assert_eq!(vmm.told(), [1], "it runs until it has ended");
        assert_eq!(ended(&vmm.dies(run, Member::Vm, Exit::Signal(9))), end);
    }
}

#[test]
fn a_device_that_ends_without_a_last_word_has_died() {
    let mut vmm = machine();
    let run = vmm.up_outliving(0, 1, "web", &[balloon(1, 0)]);
    let actions = vmm.dies(run, Member::Device(0), Exit::Code(0));
    assert_eq!(
        log(&actions),
        "vm \"web\": vioballoon0 ended (exit status 0; \"device restarts\" allows none), so the vm ends"
    );
}
