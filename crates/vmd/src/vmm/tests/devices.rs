//! What devices are asked while their guest runs, and what they say then.

use model::MemorySize;
use proto::device::{Ask, Cdrom, MemoryReport, REPORT_EVERY, Report};

use super::*;

const ASK: Ask = Ask::Memory(MemorySize::LEAST_BOOTABLE);

fn process(run: Run) -> Process {
    Process { run, member: Member::Device(0) }
}

fn done(id: u32, result: Result<(), Failure>) -> Action {
    Action::Reply(ToParent::DeviceDone { request: RequestId(id), vm: VmId(id), result })
}

impl Machine {
    fn ask(&mut self, id: u32) -> Vec<Action> {
        self.parent(ToVmm::AskDevice { request: RequestId(id), vm: VmId(id), device: 0, ask: ASK })
    }

    fn device(&mut self, run: Run, message: FromDevice) -> Vec<Action> {
        self.event(Event::Device(process(run), message))
    }
}

#[test]
fn a_device_of_a_vm_that_runs_is_asked_and_its_change_is_told_to_the_vm() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 1);
    assert_eq!(vmm.ask(1), [Action::Ask(process(run), RequestId(1), ASK)]);
    assert_eq!(
        vmm.device(run, FromDevice::Answered { changed: true, result: Ok(()) }),
        [done(1, Ok(())), Action::TellVm(run, ToVm::ConfigChanged { device: 0 })]
    );
    vmm.ask(1);
    let why = || Err(Failure::new(Code::Busy, "not now"));
    assert_eq!(vmm.device(run, FromDevice::Answered { changed: false, result: why() }), [done(1, why())]);
}

#[test]
fn what_is_not_there_is_not_asked() {
    let mut vmm = machine();
    let refused = |id| done(id, Err(Failure::new(Code::NotFound, format!("vm {id} has no such device that runs"))));
    assert_eq!(vmm.ask(1), [refused(1)], "no vm");
    vmm.spawn(start_of(1, "web", 1));
    assert_eq!(vmm.ask(1), [refused(1)], "its guest does not run yet");
    vmm.up(2, "bare", 0);
    assert_eq!(vmm.ask(2), [refused(2)], "no device");
}

#[test]
fn what_a_request_brings_goes_with_it_to_the_device() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 1);
    let ask = Ask::Insert { called: model::Text::cut("/a.iso"), force: false };
    let message = ToVmm::AskDevice { request: RequestId(7), vm: VmId(1), device: 0, ask: ask.clone() };
    let hold = Action::Hold(run, vec![Slot::Asked(0, RequestId(7))]);
    assert_eq!(vmm.parent(message.clone()), [hold, Action::Ask(process(run), RequestId(7), ask)]);
    let none = Failure::new(Code::NoDescriptors, "vmm has no descriptor free for what the request brings");
    assert!(vmm.event(Event::WithoutDescriptors(Box::new(message))).contains(&Action::Reply(ToParent::DeviceDone {
        request: RequestId(7),
        vm: VmId(1),
        result: Err(none),
    })));
}

#[test]
fn a_device_that_does_not_answer_is_asked_no_more() {
    let mut vmm = machine();
    vmm.up(1, "web", 1);
    for _ in 0..64 {
        assert!(matches!(vmm.ask(1)[..], [Action::Ask(..)]));
    }
    let busy = Failure::new(Code::Busy, "a device of vm 1 has not answered its previous requests yet");
    assert_eq!(vmm.ask(1), [done(1, Err(busy))]);
}

#[test]
fn an_answer_that_nobody_waits_for_ends_the_vm() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 1);
    vmm.ask(1);
    vmm.device(run, FromDevice::Answered { changed: true, result: Ok(()) });
    let actions = vmm.device(run, FromDevice::Answered { changed: true, result: Ok(()) });
    assert!(actions.contains(&Action::Kill(process(run), Signal::KILL)), "{actions:?}");
    assert!(!said_to_vm(&actions).contains(&ToVm::ConfigChanged { device: 0 }), "{actions:?}");
}

#[test]
fn reports_go_to_the_parent_but_a_flood_of_them_does_not() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 1);
    let report = |taken| Report::Memory(MemoryReport { taken, ..MemoryReport::default() });
    let told = |taken| Action::Reply(ToParent::Report { vm: VmId(1), device: 0, report: report(taken) });
    assert_eq!(vmm.device(run, FromDevice::Report(report(1))), [told(1)]);
    for _ in 0..1000 {
        assert_eq!(vmm.device(run, FromDevice::Report(report(2))), []);
    }
    vmm.now = vmm.now + REPORT_EVERY / 2;
    assert_eq!(vmm.device(run, FromDevice::Report(report(3))), [told(3)]);
}

/// A drive that is empty.
fn drive() -> ToVmm {
    let told = Told::Cdrom(Cdrom { serial: Text::cut("cdrom0"), medium: false, called: Text::cut(""), open: true });
    ToVmm::StartDevice { vm: VmId(1), device: 0, spec: Box::new(Spec { number: 0, told }) }
}

/// What the next process of the device is told, which has died.
fn told_next(vmm: &mut Machine, run: Run) -> Vec<Action> {
    vmm.dies(run, Member::Device(0), Exit::Signal(9));
    vmm.event(Event::Gone(process(run)));
    vmm.event(Event::Spawned(process(run), 500))
}

#[test]
fn what_a_process_that_died_had_not_answered_is_asked_of_the_next() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 1);
    let ask = |vmm: &mut Machine, request| {
        vmm.parent(ToVmm::AskDevice { request: RequestId(request), vm: VmId(1), device: 0, ask: ASK })
    };
    let asked = |request| Action::Ask(process(run), RequestId(request), ASK);
    ask(&mut vmm, 1);
    ask(&mut vmm, 2);
    vmm.device(run, FromDevice::Answered { changed: false, result: Ok(()) });
    told_next(&mut vmm, run);
    assert_eq!(ask(&mut vmm, 3), [], "no process serves yet");
    let actions = vmm.ready(run, Member::Device(0));
    assert_eq!(actions.get(1..), Some(&[asked(2), asked(3)][..]), "in their order");
    let answered =
        |request| Action::Reply(ToParent::DeviceDone { request: RequestId(request), vm: VmId(1), result: Ok(()) });
    for request in [2, 3] {
        assert_eq!(vmm.device(run, FromDevice::Answered { changed: false, result: Ok(()) }), [answered(request)]);
    }
}

#[test]
fn one_that_is_not_asked_yet_can_not_answer() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 1);
    vmm.ask(1);
    told_next(&mut vmm, run);
    let actions = vmm.device(run, FromDevice::Answered { changed: false, result: Ok(()) });
    assert!(actions.contains(&Action::Kill(process(run), Signal::KILL)), "{actions:?}");
}

#[test]
fn the_next_process_of_a_drive_has_what_was_put_in() {
    let mut vmm = machine();
    let run = vmm.up_with(1, "web", &[drive()]);
    let change = |vmm: &mut Machine, request, ask, result| {
        vmm.parent(ToVmm::AskDevice { request: RequestId(request), vm: VmId(1), device: 0, ask });
        vmm.device(run, FromDevice::Answered { changed: false, result })
    };
    let in_it = |actions: &[Action]| match actions {
        [Action::TellDevice(_, ToDevice::Start { spec, .. })] => match &spec.told {
            Told::Cdrom(cdrom) => (cdrom.medium, cdrom.called.to_string(), cdrom.open),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let insert = || Ask::Insert { called: Text::cut("/a.iso"), force: false };
    let (slot, held) = (Slot::Device(0, 0), |request| Slot::Asked(0, RequestId(request)));

    let locked = Err(Failure::new(Code::Busy, "the guest has locked the tray"));
    let actions = change(&mut vmm, 1, insert(), locked);
    assert_eq!(actions.first(), Some(&Action::Drop(run, held(1))));
    assert_eq!(in_it(&told_next(&mut vmm, run)), (false, String::new(), true));
    vmm.ready(run, Member::Device(0));

    let actions = change(&mut vmm, 2, insert(), Ok(()));
    assert_eq!(actions.first(), Some(&Action::Move(run, held(2), slot)));
    assert_eq!(in_it(&told_next(&mut vmm, run)), (true, "/a.iso".to_owned(), false));
    vmm.ready(run, Member::Device(0));

    let actions = change(&mut vmm, 3, Ask::Eject { force: true }, Ok(()));
    assert_eq!(actions.first(), Some(&Action::Drop(run, slot)));
    assert_eq!(in_it(&told_next(&mut vmm, run)), (false, String::new(), false));
}
