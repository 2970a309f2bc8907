//! A vmm that says nothing, though it lives: nobody waits for it for ever, and nothing is believed to have ended.

use super::*;

const LATE: Duration = Duration::from_secs(30);

/// Who is told what, of the silence.
fn told(actions: &[Action]) -> Vec<(Asked, Code)> {
    let failed = |action: &Action| match action {
        Action::Answer(asked, Reply::Failed(failure)) => {
            assert!(failure.text.contains("the vmm process has not answered for 30 s"), "{failure}");
            Some((*asked, failure.code))
        }
        _ => None,
    };
    actions.iter().filter_map(failed).collect()
}

#[test]
fn who_waits_for_a_silent_vmm_is_told_and_vms_run_on() {
    let mut f = Fixture::new(vec![definition("web"), definition("db")]);
    let (web, _) = (f.running("web"), f.running("db"));
    let (wait, _) = f.ask_as(root(), Request::Wait { vm: by_name("web") });
    let (pause, _) = f.ask_as(root(), Request::Order { vm: by_name("web"), order: Order::Pause });
    let (stop, _) = f.ask_as(root(), Request::Stop { vm: by_name("web"), force: true, wait: false });
    let (stop_and_wait, _) = f.ask_as(root(), Request::Stop { vm: by_name("db"), force: false, wait: true });
    let actions = f.on(Event::VmmSilent(LATE));
    assert_eq!(told(&actions), [stop, stop_and_wait, pause].map(|asked| (asked, Code::TimedOut)));
    assert_eq!(f.on(Event::VmmSilent(LATE)), [], "once");
    assert_eq!((f.state("web"), f.state("db")), (Some(VmState::Stopping), Some(VmState::Stopping)));
    // It was only slow: the end is told to who still waits, and to nobody else.
    let actions = f.on(Event::Ended(web, End::PoweredOff));
    let answers = actions.iter().filter_map(|action| match action {
        Action::Answer(asked, reply) => Some((*asked, reply.clone())),
        _ => None,
    });
    assert_eq!(answers.collect::<Vec<_>>(), [(wait, Reply::Ended { id: web.0 })]);
}

#[test]
fn a_late_answer_of_a_pause_still_counts() {
    let mut f = Fixture::new(vec![definition("web")]);
    let id = f.running("web");
    let (request, ..) =
        super::pausing::asked_of_vmm(&f.ask(Request::Order { vm: by_name("web"), order: Order::Pause }));
    f.on(Event::VmmSilent(LATE));
    let actions = f.on(Event::OrderDone(request, id, Order::Pause, Ok(true)));
    assert!(replies(&actions).is_empty(), "its client was answered");
    assert_eq!(f.state("web"), Some(VmState::Paused));
}
