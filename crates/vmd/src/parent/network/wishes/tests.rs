//! One test per rule of what is wished of priv.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use proto::VmId;
use proto::privileged::LocalEnd;

use super::*;

fn name(text: &str) -> IfName {
    IfName::new(text).unwrap()
}

fn switch(id: u32) -> Switch {
    let spec = model::Switch {
        external: false,
        name: SwitchName::new(format!("s{id}")).unwrap(),
        enabled: true,
        interface: name(&format!("bridge{id}")),
        locked_lladdr: false,
        guarded: false,
        isolated: false,
        group: None,
        rdomain: Some(7),
        up: true,
    };
    Switch { id, spec, maker: None }
}

fn run(nth: u64) -> Run {
    Run { vm: VmId(1), nth }
}

fn tap(nat: bool) -> TapSpec {
    let local = Some(LocalEnd { inet: Ipv4Addr::new(100, 64, 1, 2), inet6: None, nat });
    TapSpec {
        name: None,
        alias: Alias::default(),
        bridge: None,
        isolated: false,
        up: true,
        rdomain: None,
        group: None,
        local,
    }
}

/// priv runs, and has swept: its first request was number 1.
fn wishes() -> Wishes {
    let mut wishes = Wishes::default();
    let sweep = Action::Tell(ToPriv::Sweep { request: RequestId(1) });
    assert_eq!(wishes.handle(Event::Started), [sweep]);
    assert_eq!(wishes.handle(Event::Said(removed(1))), []);
    wishes
}

fn busy() -> Failure {
    Failure::new(Code::Busy, "test")
}

fn removed(request: u32) -> ToParent {
    ToParent::Removed { request: RequestId(request) }
}

fn failed(request: u32) -> Event {
    Event::Said(ToParent::Failed { request: RequestId(request), failure: busy() })
}

fn switch_made(request: u32, created: bool) -> Event {
    Event::Said(ToParent::SwitchMade { request: RequestId(request), created })
}

fn tap_made(request: u32) -> Event {
    Event::Said(ToParent::TapMade { request: RequestId(request), name: name("tap0"), mac: MacAddr([2; 6]) })
}

#[test]
fn leftovers_are_swept_by_each_priv_until_one_has_done_it() {
    let mut wishes = Wishes::default();
    let sweep = |request| Action::Tell(ToPriv::Sweep { request: RequestId(request) });
    assert_eq!(wishes.handle(Event::Started), [sweep(1)]);
    assert_eq!(wishes.handle(Event::Lost), []);
    assert_eq!(wishes.handle(Event::Started), [sweep(2)]);
    assert_eq!(wishes.handle(Event::Said(removed(2))), []);
    wishes.handle(Event::Lost);
    assert_eq!(wishes.handle(Event::Started), [], "what is there now is ours");
}

#[test]
fn what_a_sweep_could_not_remove_is_warned_of_and_not_tried_again() {
    let mut wishes = Wishes::default();
    wishes.handle(Event::Started);
    assert_eq!(wishes.handle(failed(1)), [Action::Warn(format!("leftovers of an earlier daemon: {}", busy()))]);
    wishes.handle(Event::Lost);
    assert_eq!(wishes.handle(Event::Started), []);
}

#[test]
fn a_bridge_is_asked_for_by_number_and_name_and_told_when_it_is_there() {
    let mut wishes = wishes();
    let asked = Action::Tell(ToPriv::MakeSwitch {
        request: RequestId(2),
        bridge: name("bridge3"),
        alias: Alias::new("switch3-s3").unwrap(),
        external: false,
        up: true,
        rdomain: Some(7),
    });
    assert_eq!(wishes.handle(Event::Switch(switch(3))), [asked]);
    let made = Action::Switch(switch(3).spec.name, Ok(()));
    assert_eq!(wishes.handle(switch_made(2, true)), [Action::IgnoreRouters(name("bridge3")), made]);
    assert_eq!(wishes.bridges, 1);
}

#[test]
fn a_bridge_of_somebody_else_is_left_as_it_is_and_not_counted() {
    let mut wishes = wishes();
    wishes.handle(Event::Switch(switch(1)));
    assert_eq!(wishes.handle(switch_made(2, false)), [Action::Switch(switch(1).spec.name, Ok(()))]);
    assert_eq!(wishes.bridges, 0);
}

#[test]
fn a_bridge_that_could_not_be_made_is_told() {
    let mut wishes = wishes();
    wishes.handle(Event::Switch(switch(1)));
    assert_eq!(wishes.handle(failed(2)), [Action::Switch(switch(1).spec.name, Err(busy()))]);
}

#[test]
fn a_tap_is_held_with_its_name_and_address() {
    let mut wishes = wishes();
    for (request, nat) in [(2, false), (3, true)] {
        let asked = Action::AskForTap(RequestId(request), tap(nat));
        assert_eq!(wishes.handle(Event::Tap(run(1), 4, tap(nat))), [asked]);
        let (name, mac) = (name("tap0"), MacAddr([2; 6]));
        let held = Action::Hold { run: run(1), nic: 4, name: name.clone(), mac, outside: nat };
        assert_eq!(wishes.handle(tap_made(request)), [Action::IgnoreRouters(name), held]);
    }
}

#[test]
fn a_tap_that_could_not_be_made_or_asked_for_is_told() {
    let mut wishes = wishes();
    wishes.handle(Event::Tap(run(1), 0, tap(false)));
    wishes.handle(Event::Tap(run(1), 1, tap(false)));
    assert_eq!(wishes.handle(failed(2)), [Action::NoTap(run(1), 0, busy())]);
    assert_eq!(wishes.handle(Event::NotAsked(RequestId(3), busy())), [Action::NoTap(run(1), 1, busy())]);
    assert_eq!(wishes.handle(Event::NotAsked(RequestId(3), busy())), [], "told once");
}

#[test]
fn taps_of_a_start_that_was_given_up_are_nobodys_and_what_leads_outside_is_shut_again() {
    let mut wishes = wishes();
    wishes.handle(Event::Tap(run(1), 0, tap(true)));
    wishes.handle(Event::Tap(run(1), 1, tap(false)));
    wishes.handle(Event::Tap(run(2), 0, tap(false)));
    assert_eq!(wishes.handle(Event::GivenUp(run(1))), []);
    let gone = Action::Tell(ToPriv::TapGone { name: name("tap0") });
    assert_eq!(wishes.handle(tap_made(2)), [Action::Close, gone]);
    assert_eq!(wishes.handle(tap_made(3)), []);
    assert!(matches!(&wishes.handle(tap_made(4))[..], [_, Action::Hold { run: held, .. }] if *held == run(2)));
    wishes.handle(Event::Tap(run(3), 0, tap(true)));
    wishes.handle(Event::GivenUp(run(3)));
    assert_eq!(wishes.handle(failed(5)), [], "it was never there");
}

#[test]
fn what_a_dead_priv_owed_has_failed_and_what_is_wished_meanwhile_does_at_once() {
    let mut wishes = wishes();
    wishes.handle(Event::Switch(switch(1)));
    wishes.handle(Event::Tap(run(1), 2, tap(false)));
    wishes.handle(Event::Tap(run(2), 0, tap(true)));
    wishes.handle(Event::GivenUp(run(2)));
    let lost = Failure::new(Code::Io, "the priv process ended before it answered; see the log");
    let told = [Action::Switch(switch(1).spec.name, Err(lost.clone())), Action::NoTap(run(1), 2, lost)];
    assert_eq!(wishes.handle(Event::Lost), told);
    let gone = Failure::new(Code::Io, "the priv process does not run");
    let no_switch = Action::Switch(switch(1).spec.name, Err(gone.clone()));
    assert_eq!(wishes.handle(Event::Switch(switch(1))), [no_switch]);
    assert_eq!(wishes.handle(Event::Tap(run(3), 1, tap(false))), [Action::NoTap(run(3), 1, gone)]);
    assert_eq!(wishes.handle(Event::TapClosed(name("tap0"))), []);
    assert_eq!(wishes.handle(Event::Verbose(true)), []);
    assert_eq!(wishes.handle(tap_made(3)), [], "late words");
}

#[test]
fn closed_taps_and_the_level_of_its_log_are_told_as_they_are() {
    let mut wishes = wishes();
    let gone = Action::Tell(ToPriv::TapGone { name: name("tap7") });
    assert_eq!(wishes.handle(Event::TapClosed(name("tap7"))), [gone]);
    assert_eq!(wishes.handle(Event::Verbose(true)), [Action::Tell(ToPriv::Verbose { debug: true })]);
    let bridge = || name("br0");
    assert_eq!(wishes.handle(Event::NoSwitch(bridge())), [Action::Tell(ToPriv::RemoveSwitch { bridge: bridge() })]);
}

#[test]
fn a_look_is_asked_for_and_what_was_put_back_is_said_whoever_had_asked_what() {
    let mut wishes = wishes();
    wishes.handle(Event::Tap(run(1), 0, tap(false)));
    assert_eq!(wishes.handle(Event::Look), [Action::AskToLook]);
    let said = Event::Said(ToParent::PutBack { name: name("tap0"), undone: Undone::Up, gave_up: true });
    assert_eq!(wishes.handle(said), [Action::SayPutBack(name("tap0"), Undone::Up, true)]);
    assert!(matches!(&wishes.handle(tap_made(2))[..], [_, Action::Hold { .. }]), "no answer to that");
    wishes.handle(Event::Lost);
    assert_eq!(wishes.handle(Event::Look), [], "the next priv does so at its start");
}

#[test]
fn an_answer_to_another_question_is_a_failure_and_not_a_wait_for_ever() {
    let mut wishes = wishes();
    wishes.handle(Event::Switch(switch(1)));
    wishes.handle(Event::Tap(run(1), 0, tap(false)));
    let wrong = Failure::new(Code::Io, "priv gave an answer to another question");
    assert_eq!(wishes.handle(tap_made(2)), [Action::Switch(switch(1).spec.name, Err(wrong.clone()))]);
    assert_eq!(wishes.handle(Event::Said(removed(3))), [Action::NoTap(run(1), 0, wrong)]);
}

/// What the edge and priv may do, in any order.
fn event() -> impl Strategy<Value = Event> {
    let request = || 0..24u32;
    prop_oneof![
        2 => Just(Event::Started),
        2 => Just(Event::Lost),
        6 => (1..4u32).prop_map(|id| Event::Switch(switch(id))),
        8 => (0..4u64, 0..3u8, any::<bool>()).prop_map(|(nth, nic, nat)| Event::Tap(run(nth), nic, tap(nat))),
        2 => (0..4u64).prop_map(|nth| Event::GivenUp(run(nth))),
        1 => request().prop_map(|request| Event::NotAsked(RequestId(request), busy())),
        4 => (request(), any::<bool>()).prop_map(|(request, created)| switch_made(request, created)),
        6 => request().prop_map(tap_made),
        2 => request().prop_map(failed),
        2 => request().prop_map(|request| Event::Said(removed(request))),
    ]
}

proptest! {
    /// Each switch is answered once, and each tap too unless its start was given up; a tap that leads outside is held or shut.
    #[test]
    fn every_wish_is_answered_once_whatever_priv_says(events in prop::collection::vec(event(), 0..60)) {
        let mut wishes = Wishes::default();
        let (mut switches, mut taps) = (0i32, BTreeMap::<(u64, u8), i32>::new());
        for event in events.into_iter().chain([Event::Lost]) {
            match &event {
                Event::Switch(_) => switches += 1,
                Event::Tap(run, nic, _) => *taps.entry((run.nth, *nic)).or_default() += 1,
                Event::GivenUp(run) => taps.retain(|(nth, _), _| *nth != run.nth),
                _ => {}
            }
            for action in wishes.handle(event) {
                match action {
                    Action::Switch(..) => switches -= 1,
                    Action::Hold { run, nic, .. } | Action::NoTap(run, nic, _) => {
                        let owed = taps.get_mut(&(run.nth, nic)).expect("an answer for nobody");
                        *owed -= 1;
                        prop_assert!(*owed >= 0, "answered twice");
                    }
                    Action::Tell(_)
                    | Action::AskForTap(..)
                    | Action::AskToLook
                    | Action::SayPutBack(..)
                    | Action::IgnoreRouters(_)
                    | Action::Close
                    | Action::Warn(_) => {}
                }
            }
        }
        prop_assert!(switches == 0 && taps.values().all(|owed| *owed == 0));
        prop_assert!(wishes.of.is_empty());
    }
}
