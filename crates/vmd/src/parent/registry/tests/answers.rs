//! What is answered, and what is said in the log (openbsd/daemon.md, 3.7 and 4.4).

use super::*;

#[test]
fn a_wait_for_a_vm_that_does_not_run_is_invalid() {
    let mut f = Fixture::new(vec![definition("web")]);
    for reference in [by_name("web"), VmRef::Id(1)] {
        assert_eq!(code(&f.ask(Request::Wait { vm: reference })), Some(Code::Invalid));
    }
    let id = f.running("web");
    assert_eq!(f.ask(Request::Wait { vm: by_name("web") }), []);
    f.on(Event::Ended(id, End::PoweredOff));
    assert_eq!(code(&f.ask(Request::Wait { vm: by_name("web") })), Some(Code::Invalid));
}

/// The original boots such a VM with its default firmware.
#[test]
fn a_vm_whose_kernel_came_for_one_boot_is_not_started_again_and_says_why() {
    let mut f = Fixture::new(vec![]);
    let kernel = UserPath::new("/k").ok();
    let start = Start { kernel, ..start_of(by_name("new")) };
    let actions = f.ask(Request::Start(Box::new(start)));
    let id = launched(&f.prepare(actions)).expect("no launch");
    f.on(Event::StartDone(id, Ok(42)));
    let (asked, _) = f.ask_as(root(), Request::Wait { vm: by_name("new") });
    let actions = f.on(Event::Ended(id, End::Rebooted));
    assert_eq!(launched(&actions), None);
    assert!(actions.contains(&Action::Answer(asked, Reply::Ended { id: id.0 })), "{actions:?}");
    let why = "vm \"new\" is not started again: its kernel came with vmctl start -b";
    let says = |action: &Action| matches!(action, Action::LogOf(.., text) if text.starts_with(why));
    assert!(actions.iter().any(says), "{actions:?}");
    assert_eq!(f.state("new"), None, "a client's VM goes with its end");
}

/// Nothing of an earlier or an unknown VM is believed, and nobody is told of it.
#[test]
fn events_of_a_vm_that_is_unknown_or_does_not_run_change_nothing() {
    let mut f = Fixture::new(vec![definition("web")]);
    for id in [VmId(1), VmId(77)] {
        assert_eq!(f.on(Event::Ended(id, End::Rebooted)), []);
        assert_eq!(f.on(Event::Leaving(id, false)), []);
        assert_eq!(f.on(Event::TerminateDone(RequestId(99), Ok(()))), []);
    }
    assert_eq!(f.state("web"), Some(VmState::Stopped));
}
