//! Pause and unpause (openbsd/vmctl.md, 7.3; openbsd/daemon.md, 4.4, 11.3 rows 5 and 6).

use super::*;

fn pause(name: &str) -> Request {
    Request::Order { vm: by_name(name), order: Order::Pause }
}

fn unpause(name: &str) -> Request {
    Request::Order { vm: by_name(name), order: Order::Unpause }
}

/// The number that vmm was asked with, and what for.
pub(super) fn asked_of_vmm(actions: &[Action]) -> (RequestId, VmId, Order) {
    let found = actions.iter().find_map(|action| match action {
        Action::Order(request, vm, order) => Some((*request, *vm, *order)),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("vmm was not asked: {actions:?}"))
}

/// As the client and then vmm do it.
fn done(f: &mut Fixture, request: Request) {
    let (asked, actions) = f.ask_as(root(), request);
    let (request, vm, order) = asked_of_vmm(&actions);
    let actions = f.on(Event::OrderDone(request, vm, order, Ok(order == Order::Pause)));
    assert!(actions.contains(&Action::Answer(asked, Reply::Accepted { id: vm.0 })), "to who asked: {actions:?}");
}

#[test]
fn a_pause_is_answered_to_who_asked_and_shows_until_the_unpause() {
    let mut f = Fixture::new(vec![definition("web")]);
    f.running("web");
    for _ in 0..2 {
        done(&mut f, pause("web"));
        assert_eq!(f.state("web"), Some(VmState::Paused), "a second one succeeds too");
    }
    for _ in 0..2 {
        done(&mut f, unpause("web"));
        assert_eq!(f.state("web"), Some(VmState::Running));
    }
}

#[test]
fn a_pause_shows_while_it_is_under_way() {
    let mut f = Fixture::new(vec![definition("web")]);
    f.running("web");
    let (first, vm, _) = asked_of_vmm(&f.ask(pause("web")));
    let (second, ..) = asked_of_vmm(&f.ask(pause("web")));
    assert_eq!(f.state("web"), Some(VmState::Pausing));
    let (back, ..) = asked_of_vmm(&f.ask(unpause("web")));
    assert_eq!(f.state("web"), Some(VmState::Pausing), "until vmm says otherwise");
    let unpaused = Err(Failure::new(Code::Invalid, "it was unpaused"));
    f.on(Event::OrderDone(second, vm, Order::Pause, unpaused.clone()));
    assert_eq!(f.state("web"), Some(VmState::Pausing));
    f.on(Event::OrderDone(first, vm, Order::Pause, unpaused));
    f.on(Event::OrderDone(back, vm, Order::Unpause, Ok(false)));
    assert_eq!(f.state("web"), Some(VmState::Running));
}

#[test]
fn a_vm_that_does_not_run_is_not_paused() {
    let mut f = Fixture::new(vec![definition("web")]);
    for request in [pause("web"), unpause("web")] {
        assert_eq!(code(&f.ask(request)), Some(Code::Invalid));
    }
    assert_eq!(f.state("web"), Some(VmState::Stopped));
    assert_eq!(code(&f.ask(pause("none"))), Some(Code::NotFound));
}

#[test]
fn a_pause_that_fails_changes_nothing_and_says_why() {
    let mut f = Fixture::new(vec![definition("web")]);
    f.running("web");
    let (request, vm, _) = asked_of_vmm(&f.ask(pause("web")));
    let failure = Failure::new(Code::TimedOut, "a vCPU does not leave the guest");
    let actions = f.on(Event::OrderDone(request, vm, Order::Pause, Err(failure)));
    assert_eq!(code(&actions), Some(Code::TimedOut));
    assert_eq!(f.state("web"), Some(VmState::Running));
}

#[test]
fn a_pause_that_nobody_waits_for_any_more_is_taken_back() {
    let mut f = Fixture::new(vec![definition("web"), definition("db")]);
    f.running("web");
    f.running("db");
    let from =
        |conn, request| Event::Ask { asked: Asked { conn: ConnId(conn), id: RequestId(1) }, who: root(), request };
    let (first, vm, _) = asked_of_vmm(&f.on(from(1, pause("web"))));
    let (second, ..) = asked_of_vmm(&f.on(from(2, pause("web"))));
    asked_of_vmm(&f.on(from(3, pause("db"))));
    assert_eq!(f.on(Event::Gone(ConnId(1))), [], "somebody else waits for it");
    let (back, of, order) = asked_of_vmm(&f.on(Event::Gone(ConnId(2))));
    assert_eq!((of, order), (vm, Order::Unpause));
    assert_eq!(f.on(Event::Gone(ConnId(2))), [], "once");
    let unpaused = || Err(Failure::new(Code::Invalid, "it was unpaused"));
    for request in [second, first] {
        assert!(replies(&f.on(Event::OrderDone(request, vm, Order::Pause, unpaused()))).is_empty(), "nobody waits");
    }
    assert!(replies(&f.on(Event::OrderDone(back, vm, Order::Unpause, Ok(false)))).is_empty());
    assert_eq!((f.state("web"), f.state("db")), (Some(VmState::Running), Some(VmState::Pausing)));
}

#[test]
fn who_leaves_takes_no_pause_back_that_is_done() {
    let mut f = Fixture::new(vec![definition("web")]);
    f.running("web");
    done(&mut f, pause("web"));
    let (asked, actions) = f.ask_as(root(), pause("web"));
    let (request, vm, _) = asked_of_vmm(&actions);
    assert_eq!(f.on(Event::Gone(asked.conn)), [], "somebody had it paused before");
    f.on(Event::OrderDone(request, vm, Order::Pause, Ok(true)));
    assert_eq!(f.state("web"), Some(VmState::Paused));
}

#[test]
fn a_paused_vm_that_is_stopped_or_ends_is_paused_no_more() {
    let mut f = Fixture::new(vec![definition("web")]);
    f.running("web");
    done(&mut f, pause("web"));
    f.ask(Request::Stop { vm: by_name("web"), force: false, wait: false });
    assert_eq!(f.state("web"), Some(VmState::Stopping));
    assert_eq!(code(&f.ask(pause("web"))), Some(Code::Invalid), "it is being stopped");
    let id = VmId(f.line("web").unwrap().id);
    f.on(Event::Ended(id, End::PoweredOff));
    f.running("web");
    assert_eq!(f.state("web"), Some(VmState::Running));
}
