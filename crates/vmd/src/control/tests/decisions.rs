//! Rules of `clients.rs` that need no socket.

use std::time::Instant;

use proto::client::{Reply, Request, ToClient, ToControl as FromClient, VERSION, VmRef};
use proto::control::MAX_CONNECTIONS;
use proto::{Code, ConnId, RequestId};

use crate::control::clients::{ACCEPT_PAUSE, Action, CONNECTION, Clients, Event, GREETING_TIME, ROOTS_PLACES, Why};

fn accepted(clients: &mut Clients, now: Instant) -> ConnId {
    match clients.handle(Event::Accepted(0), now).as_slice() {
        [Action::Admit(conn)] => *conn,
        other => panic!("not admitted: {other:?}"),
    }
}

fn hello(version: u32) -> FromClient {
    FromClient::Hello { version }
}

fn open(clients: &mut Clients, now: Instant) -> ConnId {
    let conn = accepted(clients, now);
    let actions = clients.handle(Event::Said(conn, hello(VERSION)), now);
    assert_eq!(actions, [Action::Tell(conn, ToClient::hello())]);
    conn
}

fn ask(clients: &mut Clients, conn: ConnId, id: u32, request: Request) -> Vec<Action> {
    clients.handle(Event::Said(conn, FromClient::Ask { id: RequestId(id), request }), Instant::now())
}

fn why(actions: &[Action]) -> &Why {
    match actions {
        [Action::Tell(_, ToClient::Answer { id: CONNECTION, .. }), Action::End(_, Some(why))] => why,
        other => panic!("not ended with a reason: {other:?}"),
    }
}

fn failed(actions: &[Action]) -> Code {
    match actions {
        [Action::Tell(_, ToClient::Answer { reply: Reply::Failed(failure), .. })] => failure.code,
        other => panic!("no failure alone: {other:?}"),
    }
}

fn wait() -> Request {
    Request::Wait { vm: VmRef::Id(1) }
}

fn stop(wait: bool) -> Request {
    Request::Stop { vm: VmRef::Id(1), force: false, wait }
}

#[test]
fn names_of_connections_are_never_used_again() {
    let (mut clients, now) = (Clients::default(), Instant::now());
    let first = accepted(&mut clients, now);
    assert_eq!(clients.handle(Event::Left(first), now), [Action::End(first, None)]);
    assert_ne!(accepted(&mut clients, now), first);
}

#[test]
fn the_version_comes_first_and_once() {
    let (mut clients, now) = (Clients::default(), Instant::now());
    let conn = accepted(&mut clients, now);
    assert!(matches!(why(&ask(&mut clients, conn, 1, Request::List)), Why::Misplaced(_)));
    let conn = open(&mut clients, now);
    assert!(matches!(why(&clients.handle(Event::Said(conn, hello(VERSION)), now)), Why::Misplaced(_)));
}

#[test]
fn a_client_that_says_no_version_in_time_is_ended() {
    let (mut clients, now) = (Clients::default(), Instant::now());
    let (silent, speaks) = (accepted(&mut clients, now), open(&mut clients, now));
    assert_eq!(clients.next_tick(), Some(now + GREETING_TIME));
    assert_eq!(clients.handle(Event::Tick, now), []);
    let actions = clients.handle(Event::Tick, now + GREETING_TIME);
    assert_eq!(why(&actions), &Why::Silent);
    assert_eq!(clients.next_tick(), None);
    assert!(!clients.reads(silent) && clients.reads(speaks));
}

#[test]
fn accepting_pauses_for_a_second_or_until_a_client_leaves() {
    let (mut clients, now) = (Clients::default(), Instant::now());
    let conn = open(&mut clients, now);
    clients.handle(Event::AcceptFailed, now);
    assert_eq!((clients.accepts(), clients.next_tick()), (false, Some(now + ACCEPT_PAUSE)));
    clients.handle(Event::Tick, now + ACCEPT_PAUSE / 2);
    assert!(!clients.accepts());
    clients.handle(Event::Tick, now + ACCEPT_PAUSE);
    assert!(clients.accepts());
    clients.handle(Event::AcceptFailed, now);
    clients.handle(Event::Left(conn), now);
    assert!(clients.accepts());
}

#[test]
fn one_wait_a_client_and_a_second_is_busy() {
    let (mut clients, now) = (Clients::default(), Instant::now());
    let (one, two) = (open(&mut clients, now), open(&mut clients, now));
    assert!(matches!(ask(&mut clients, one, 1, wait()).as_slice(), [Action::Forward(..)]));
    assert_eq!(failed(&ask(&mut clients, one, 2, stop(true))), Code::Busy);
    assert!(matches!(ask(&mut clients, one, 3, stop(false)).as_slice(), [Action::Forward(..)]));
    assert!(matches!(ask(&mut clients, two, 1, stop(true)).as_slice(), [Action::Forward(..)]));
    clients.handle(Event::Answer(one, RequestId(1), Reply::Ended { id: 1 }), now);
    assert!(matches!(ask(&mut clients, one, 4, wait()).as_slice(), [Action::Forward(..)]));
}

#[test]
fn two_open_requests_of_one_number_end_the_connection() {
    let (mut clients, now) = (Clients::default(), Instant::now());
    let conn = open(&mut clients, now);
    ask(&mut clients, conn, 5, Request::List);
    assert!(matches!(why(&ask(&mut clients, conn, 5, Request::List)), Why::Misplaced(_)));
}

#[test]
fn a_number_is_free_after_the_last_answer() {
    let (mut clients, now) = (Clients::default(), Instant::now());
    let conn = open(&mut clients, now);
    ask(&mut clients, conn, 5, Request::List);
    let done = Event::Answer(conn, RequestId(5), Reply::Done);
    assert_eq!(clients.handle(done.clone(), now).len(), 1);
    assert_eq!(clients.handle(done, now), [], "an answer after the last goes nowhere");
    assert!(matches!(ask(&mut clients, conn, 5, Request::List).as_slice(), [Action::Forward(..)]));
}

#[test]
fn who_waits_for_the_end_hears_that_it_is_under_way_and_then_of_the_end() {
    let (mut clients, now) = (Clients::default(), Instant::now());
    let conn = open(&mut clients, now);
    ask(&mut clients, conn, 1, stop(true));
    for reply in [Reply::Accepted { id: 1 }, Reply::Ended { id: 1 }] {
        let told = ToClient::Answer { id: RequestId(1), reply: reply.clone() };
        assert_eq!(clients.handle(Event::Answer(conn, RequestId(1), reply), now), [Action::Tell(conn, told)]);
    }
}

/// What becomes of the next client of a user.
fn comes(clients: &mut Clients, uid: u32) -> Result<(), String> {
    match clients.handle(Event::Accepted(uid), Instant::now()).as_slice() {
        [Action::Admit(_)] => Ok(()),
        [Action::TurnAway(of, failure)] if *of == uid => Err(failure.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_user_has_so_many_places_and_all_users_together_leave_some_to_root() {
    let mut clients = Clients::default();
    let admitted = |clients: &mut Clients, uid| (0..1000).filter(|_| comes(clients, uid).is_ok()).count();
    assert_eq!(admitted(&mut clients, 1000), MAX_CONNECTIONS);
    assert_eq!(comes(&mut clients, 1000), Err("uid 1000 has 64 connections; one more is refused".to_owned()));
    assert_eq!([1001, 1002, 1003, 1004].map(|uid| admitted(&mut clients, uid)), [64, 64, 32, 0]);
    assert_eq!(comes(&mut clients, 1004), Err("vmd already serves 224 clients; try again later".to_owned()));
    assert_eq!(admitted(&mut clients, 0), ROOTS_PLACES);
    assert_eq!(comes(&mut clients, 0), Err("vmd already serves 256 clients; try again later".to_owned()));
    // Who leaves makes room.
    clients.handle(Event::Left(ConnId(0)), Instant::now());
    assert_eq!((comes(&mut clients, 1004), comes(&mut clients, 1000).is_err()), (Ok(()), true));
}

#[test]
fn what_root_has_takes_no_user_a_place_but_the_last_ones() {
    let mut clients = Clients::default();
    (0..ROOTS_PLACES).for_each(|_| comes(&mut clients, 0).unwrap());
    assert_eq!(comes(&mut clients, 1000), Ok(()));
    while comes(&mut clients, 0).is_ok() {}
    assert!(comes(&mut clients, 1001).is_err());
}
