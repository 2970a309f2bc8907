//! Clients that leave, and answers that come when another was given: each is told once, and nobody else's answer is lost.

use super::*;

/// A client beside the fixture's own.
const OTHER: ConnId = ConnId(8);

fn failure() -> Failure {
    Failure::new(Code::Io, "no")
}

fn request_of(actions: &[Action]) -> RequestId {
    let found = actions.iter().find_map(|action| match action {
        Action::Terminate(request, ..) | Action::Order(request, ..) => Some(*request),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("vmm is not asked: {actions:?}"))
}

impl Fixture {
    /// What a client is told by `event` when another has left, and when it has itself.
    fn told_by(make: impl Fn() -> (Self, Event)) -> (usize, usize) {
        let after = |gone: ConnId| {
            let (mut fixture, event) = make();
            fixture.on(Event::Gone(gone));
            replies(&fixture.on(event)).len()
        };
        (after(OTHER), after(ConnId(7)))
    }
}

#[test]
fn who_leaves_takes_its_own_answers_with_it_and_no_others() {
    let stopped = || {
        let mut f = Fixture::new(vec![definition("web")]);
        f.running("web");
        let request = request_of(&f.stop("web", false, false));
        (f, Event::TerminateDone(request, Ok(())))
    };
    let paused = || {
        let mut f = Fixture::new(vec![definition("web")]);
        let id = f.running("web");
        let request = request_of(&f.ask(Request::Order { vm: by_name("web"), order: Order::Pause }));
        (f, Event::OrderDone(request, id, Order::Pause, Ok(true)))
    };
    let waited = || {
        let mut f = Fixture::new(vec![definition("web")]);
        let id = f.running("web");
        f.ask(Request::Wait { vm: by_name("web") });
        (f, Event::Ended(id, End::PoweredOff))
    };
    let prepared = || {
        let mut f = Fixture::new(vec![definition("web")]);
        f.start("web");
        let run = f.registry.vms[0].run.unwrap();
        (f, Event::Opened(run, File::Kernel, Err(failure())))
    };
    let launched_by = || {
        let mut f = Fixture::new(vec![definition("web")]);
        let actions = f.start("web");
        let id = launched(&f.prepare(actions)).unwrap();
        (f, Event::StartDone(id, Ok(42)))
    };
    let reloaded = || {
        let mut f = Fixture::new(vec![]);
        let (asked, _) = f.ask_as(root(), Request::Reload);
        let lan = switch("lan", "br0");
        let name = lan.spec.name.clone();
        let settings = Settings { switches: vec![lan], ..settings(vec![]) };
        let reading = Reading { asked: Some(asked), load: None };
        assert_eq!(replies(&f.on(Event::ConfigRead(reading, Ok(Box::new(settings))))), [], "a switch is pending");
        (f, Event::SwitchMade(name, Ok(())))
    };
    assert_eq!(Fixture::told_by(stopped), (1, 0), "stop");
    assert_eq!(Fixture::told_by(paused), (1, 0), "pause");
    assert_eq!(Fixture::told_by(waited), (1, 0), "wait");
    assert_eq!(Fixture::told_by(prepared), (1, 0), "start that is prepared");
    assert_eq!(Fixture::told_by(launched_by), (1, 0), "start that vmm carries out");
    assert_eq!(Fixture::told_by(reloaded), (1, 0), "reload");
}

#[test]
fn a_stop_that_fails_is_told_unless_its_end_was_the_answer() {
    let mut f = Fixture::new(vec![definition("web")]);
    let id = f.running("web");
    let request = request_of(&f.stop("web", false, false));
    assert_eq!(code(&f.on(Event::TerminateDone(request, Err(failure())))), Some(Code::Io), "without a wait");
    let request = request_of(&f.stop("web", true, true));
    assert_eq!(code(&f.on(Event::TerminateDone(request, Err(failure())))), Some(Code::Io), "the VM is still there");
    let request = request_of(&f.stop("web", true, true));
    assert_eq!(replies(&f.on(Event::Ended(id, End::PoweredOff))), [Reply::Ended { id: 1 }], "one wait is left");
    assert_eq!(f.on(Event::TerminateDone(request, Err(failure()))), []);
}

#[test]
fn a_stop_that_fails_ends_its_own_wait_and_no_other() {
    let mut f = Fixture::new(vec![definition("web")]);
    let id = f.running("web");
    f.ask(Request::Wait { vm: by_name("web") });
    let request = request_of(&f.stop("web", false, true));
    f.on(Event::TerminateDone(request, Err(failure())));
    let waiting = Asked { conn: ConnId(7), id: RequestId(2) };
    let answers: Vec<Action> =
        f.on(Event::Ended(id, End::PoweredOff)).into_iter().filter(|a| matches!(a, Action::Answer(..))).collect();
    assert_eq!(answers, [Action::Answer(waiting, Reply::Ended { id: 1 })]);
}
