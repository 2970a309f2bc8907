//! Limits to the last that is allowed, and deadlines to the moment before them.

use super::super::running::orders::ANSWER_LIMIT;
use super::*;

/// The last moment at which a deadline has not passed.
const JUST: Duration = Duration::from_millis(1);

/// Nothing is done just before this much time has passed, and something when it has.
fn waits(vmm: &mut Machine, limit: Duration) -> Vec<Action> {
    assert_eq!(vmm.running.next_deadline(), Some(vmm.now + limit));
    assert_eq!(vmm.pass(limit.saturating_sub(JUST)), [], "too early");
    vmm.pass(JUST)
}

#[test]
fn row_2_3_a_start_at_every_limit_is_taken() {
    let mut vmm = machine();
    let start = start_of(3, "web", proto::device::MAX_DEVICES);
    vmm.describe(StartVm { memory: model::MemorySize::LEAST_BOOTABLE, cpus: model::MAX_CPUS, ..start });
    assert!(!vmm.parent(end(3)).is_empty());
}

#[test]
fn a_vm_needs_descriptors_for_each_of_its_devices_and_of_the_bases_of_its_disks() {
    for (room, fits) in [(11 + 6 * 3 + 2 * 4, true), (11 + 6 * 3 + 2 * 4 - 1, false)] {
        let mut vmm = Machine { running: Running::new(SPARE_DESCRIPTORS + room, false), now: Moment::now() };
        let start = StartVm { bases: 4, ..start_of(3, "web", 3) };
        let actions = vmm.parent(ToVmm::StartVm(Box::new(start)));
        assert_eq!(holds_something(&actions), fits, "{room}");
    }
}

#[test]
fn a_vm_that_ended_has_ten_seconds_for_its_devices() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 1);
    vmm.exit(run, Member::Vm, Exit::Code(0));
    assert_eq!(kills(&waits(&mut vmm, KILL_AFTER)), [(Member::Device(0), Signal::KILL)]);
}

#[test]
fn a_vm_process_has_ten_seconds_to_follow_a_device_that_left_and_is_not_replaced() {
    let mut vmm = machine();
    let run = vmm.up_outliving(0, 1, "web", &[balloon(1, 0)]);
    assert_eq!(kills(&vmm.exit(run, Member::Device(0), Exit::Code(0))), []);
    vmm.parent(ToVmm::Terminate { request: REQUEST, vm: VmId(1), how: Stop::Graceful { seconds: 2 } });
    assert_eq!(kills(&waits(&mut vmm, Duration::from_secs(2))), [(Member::Vm, Signal::TERM)], "the stop's is sooner");
    assert!(
        log(&waits(&mut vmm, KILL_AFTER - Duration::from_secs(2))).contains("vioballoon"),
        "by whose fault it ends"
    );
}

#[test]
fn a_device_that_leaves_during_a_start_gives_the_vm_process_ten_seconds_to_say_why() {
    let mut vmm = machine();
    let (run, _) = vmm.spawn(start_of(1, "web", 1));
    vmm.exit(run, Member::Device(0), Exit::Code(0));
    assert!(!kills(&waits(&mut vmm, KILL_AFTER)).is_empty());
}

#[test]
fn from_sigterm_to_sigkill_are_ten_seconds() {
    let mut vmm = machine();
    vmm.up(1, "web", 0);
    vmm.stop(1, Stop::Graceful { seconds: 3 });
    let actions = waits(&mut vmm, Duration::from_secs(3));
    assert_eq!(kills(&actions), [(Member::Vm, Signal::TERM)]);
    assert_eq!(said_to_vm(&actions), [], "though the button is due too");
    assert_eq!(kills(&waits(&mut vmm, KILL_AFTER)), [(Member::Vm, Signal::KILL)]);
}

#[test]
fn a_pause_is_given_up_at_its_deadline_and_not_before() {
    let mut vmm = machine();
    vmm.up(1, "web", 0);
    vmm.parent(ToVmm::Order { request: REQUEST, vm: VmId(1), order: Order::Pause });
    assert!(matches!(
        answers(&waits(&mut vmm, ANSWER_LIMIT)).as_slice(),
        [ToParent::OrderDone { order: Order::Pause, result: Err(_), .. }]
    ));
}

#[test]
fn force_while_the_vm_process_ends_is_done_and_afterwards_is_none() {
    let mut vmm = machine();
    let run = vmm.up_outliving(0, 1, "web", &[balloon(1, 0)]);
    vmm.exit(run, Member::Device(0), Exit::Code(1));
    assert_eq!(stopped(&vmm.stop(1, Stop::Force)), Ok(()), "it is dying");
    assert_eq!(stopped(&vmm.stop(1, GRACEFUL)), Err(Code::StopInvalid), "and can't be asked");
    let mut vmm = machine();
    let run = vmm.up(1, "web", 1);
    vmm.exit(run, Member::Vm, Exit::Code(0));
    assert_eq!(stopped(&vmm.stop(1, Stop::Force)), Err(Code::StopInvalid), "it has ended");
}

#[test]
fn a_guest_that_shuts_down_by_itself_and_was_paused_is_woken_by_a_stop() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 0);
    vmm.vm(run, FromVm::Leaving { reboot: false });
    vmm.parent(ToVmm::Order { request: RequestId(1), vm: VmId(1), order: Order::Pause });
    vmm.vm(run, FromVm::Done(Order::Pause, Ok(true)));
    assert_eq!(said_to_vm(&vmm.stop(1, GRACEFUL)), [ToVm::Order(Order::Unpause)], "it has pressed its button itself");
}
