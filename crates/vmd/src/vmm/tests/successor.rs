//! All that vmm knows of its VMs is plain data, all that it holds of them are descriptors with names: another vmm goes on with
//! both. There is no such vmm yet; these tests show that nothing is missing.

use super::super::running::orders::ANSWER_LIMIT;
use super::*;

impl Machine {
    /// Another machine with what this one knows, which went through the codec of messages.
    pub(super) fn successor(&self) -> Self {
        let data = postcard::to_stdvec(&self.running).expect("encode");
        Self { running: postcard::from_bytes(&data).expect("decode"), now: self.now }
    }
}

#[test]
fn a_successor_knows_how_a_vm_ended_whose_last_word_it_did_not_hear() {
    for (said, end) in [(exit::POWERED_OFF, End::PoweredOff), (exit::REBOOTED, End::Rebooted)] {
        let mut first = machine();
        let run = first.up(1, "web", 1);
        first.vm(run, FromVm::Ended { status: said });
        let mut second = first.successor();
        assert!(second.dies(run, Member::Vm, Exit::Unknown).contains(&Action::HangUp(run)));
        let mut third = second.successor();
        assert_eq!(ended(&third.exit(run, Member::Device(0), Exit::Unknown)), end);
    }
}

#[test]
fn a_successor_replaces_a_device_that_dies_or_ends_its_vm() {
    let mut first = machine();
    let run = first.up_outliving(1, 1, "web", &[disk(1, 0), balloon(1, 1)]);
    let mut second = first.successor();
    let disk = Process { run, member: Member::Device(0) };
    let actions = second.dies(run, Member::Device(0), Exit::Unknown);
    assert!(actions.contains(&Action::AwaitGone(disk)), "{actions:?}");
    let mut second = second.successor();
    assert_eq!(spawned(&second.event(Event::Gone(disk))), Some(disk));
    let mut second = second.successor();
    let actions = second.dies(run, Member::Device(1), Exit::Unknown);
    assert!(
        log(&actions).contains("vioballoon1 ended (exit status unknown, and 1 death of its devices"),
        "{actions:?}"
    );
    assert_eq!(kills(&actions), [(Member::Vm, Signal::TERM)]);
}

#[test]
fn a_successor_keeps_the_deadlines_of_a_stop() {
    let mut first = machine();
    first.up(1, "web", 0);
    assert_eq!(said_to_vm(&first.stop(1, GRACEFUL)), [ToVm::AskToStop]);
    first.pass(Duration::from_secs(119));
    let mut second = first.successor();
    assert_eq!(kills(&second.pass(Duration::ZERO)), []);
    assert_eq!(kills(&second.pass(Duration::from_secs(1))), [(Member::Vm, Signal::TERM)]);
    let mut third = second.successor();
    assert_eq!(kills(&third.pass(KILL_AFTER)), [(Member::Vm, Signal::KILL)]);
}

#[test]
fn a_successor_answers_who_asked_its_predecessor_for_a_pause() {
    let order = |request, order| ToVmm::Order { request: RequestId(request), vm: VmId(1), order };
    let mut first = machine();
    let run = first.up(1, "web", 0);
    first.parent(order(7, Order::Pause));
    first.parent(order(8, Order::Unpause));
    first.parent(order(9, Order::Pause));
    let mut second = first.successor();
    let actions = second.vm(run, FromVm::Done(Order::Pause, Ok(true)));
    assert!(matches!(answers(&actions).as_slice(), [ToParent::OrderDone { request: RequestId(7), .. }]), "{actions:?}");
    let mut third = second.successor();
    let actions = third.vm(run, FromVm::Done(Order::Unpause, Ok(false)));
    assert!(matches!(answers(&actions).as_slice(), [ToParent::OrderDone { request: RequestId(8), .. }]), "{actions:?}");
    assert_eq!(said_to_vm(&actions), [ToVm::Order(Order::Pause)]);
    let late = third.successor().pass(ANSWER_LIMIT);
    assert!(matches!(answers(&late).as_slice(), [ToParent::OrderDone { request: RequestId(9), result: Err(_), .. }]));
}

#[test]
fn the_record_of_the_largest_vm_fits_a_message() {
    let mut vmm = machine();
    let most = proto::device::MAX_DEVICES;
    let cmdline = model::CommandLine::new([b'x'; model::MAX_CMDLINE]).expect("a command line");
    vmm.spawn(StartVm { cmdline, ..start_of(1, &"n".repeat(model::MAX_NAME), most) });
    let data = postcard::to_stdvec(&vmm.running).expect("encode");
    assert!(data.len() < proto::MAX_MESSAGE, "{} bytes", data.len());
    // Of each process a pidfd and a channel; of each device a pipe and what it serves, and the log and the cgroup; what devices keep.
    let most = usize::from(most);
    for descriptors in [2 * (most + 1), 2 * most + 2, most] {
        assert!(descriptors <= sys::seqpacket::MAX_FDS, "a message each");
    }
}
