//! Any events in any order, against a model: what may never happen never does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proto::client::{Reply, Request, ToClient, ToControl as FromClient, VERSION, VmRef};
use proto::{ConnId, Failure, RequestId};

use crate::control::clients::{Action, CONNECTION, Clients, Event, MAX_CLIENTS, MAX_OPEN_REQUESTS};

/// Events of few connections and few numbers, so that they meet.
fn event() -> impl Strategy<Value = Event> {
    let conn = || (0u64..12).prop_map(ConnId);
    let id = || (1u32..12).prop_map(RequestId);
    let request = prop_oneof![
        Just(Request::List),
        Just(Request::Reload),
        any::<bool>().prop_map(|wait| Request::Stop { vm: VmRef::Id(1), force: true, wait }),
        Just(Request::Wait { vm: VmRef::Id(2) }),
    ];
    let reply = prop_oneof![
        Just(Reply::Done),
        Just(Reply::Accepted { id: 1 }),
        Just(Reply::Ended { id: 1 }),
        Just(Reply::Wrong(model::Text::cut("x"))),
        Just(Reply::Failed(Failure::new(proto::Code::Io, "x"))),
    ];
    prop_oneof![
        3 => Just(Event::Accepted(0)),
        1 => Just(Event::AcceptFailed),
        4 => conn().prop_map(|conn| Event::Said(conn, FromClient::Hello { version: VERSION })),
        1 => conn().prop_map(|conn| Event::Said(conn, FromClient::Hello { version: 99 })),
        9 => (conn(), id(), request).prop_map(|(conn, id, request)| Event::Said(conn, FromClient::Ask { id, request })),
        1 => conn().prop_map(|conn| Event::Malformed(conn, "odd".into())),
        1 => conn().prop_map(Event::Left),
        1 => conn().prop_map(Event::Slow),
        6 => (conn(), id(), reply).prop_map(|(conn, id, reply)| Event::Answer(conn, id, reply)),
        1 => conn().prop_map(Event::Disconnect),
        1 => Just(Event::Tick),
    ]
}

/// What the outside has seen.
#[derive(Default)]
struct Seen {
    live: BTreeMap<ConnId, bool>,
    ended: BTreeSet<ConnId>,
    /// Open requests; whether they are for a VM's end.
    asked: BTreeMap<ConnId, BTreeMap<RequestId, bool>>,
}

impl Seen {
    fn check(&mut self, event: &Event, action: &Action) {
        match action {
            Action::Admit(conn) => {
                assert!(!self.ended.contains(conn), "{conn:?} came again");
                assert!(self.live.insert(*conn, false).is_none(), "{conn:?} came twice");
                assert!(self.live.len() <= MAX_CLIENTS);
            }
            Action::TurnAway(..) => assert_eq!(self.live.len(), MAX_CLIENTS),
            Action::Tell(conn, message) => self.told(*conn, message, event),
            Action::Forward(conn, id, request) => {
                assert_eq!(self.live.get(conn), Some(&true), "no version before a request");
                let asked = self.asked.entry(*conn).or_default();
                let waits = matches!(request, Request::Wait { .. } | Request::Stop { wait: true, .. });
                assert!(!waits || !asked.values().any(|waits| *waits), "a second wait");
                assert!(asked.insert(*id, waits).is_none(), "a number twice");
                assert!(asked.len() <= MAX_OPEN_REQUESTS);
            }
            Action::End(conn, _) => {
                assert!(self.live.remove(conn).is_some(), "{conn:?} ended twice");
                self.ended.insert(*conn);
            }
        }
    }

    fn told(&mut self, conn: ConnId, message: &ToClient, event: &Event) {
        let open = self.live.get_mut(&conn).expect("told after its end");
        match message {
            ToClient::Hello { .. } => *open = true,
            ToClient::WrongVersion { .. } => assert!(!*open),
            ToClient::Answer { id, .. } if *id == CONNECTION => {}
            ToClient::Answer { id, reply } => {
                assert!(*open);
                let asked = self.asked.entry(conn).or_default();
                // The parent's answer to what was asked, or control's own refusal of a second wait.
                let waits = asked.get(id).copied();
                assert!(waits.is_some() || matches!(event, Event::Said(..)), "an answer that nobody asked for");
                // More comes after an error of a configuration, and after the word that a wait has begun.
                let more = match reply {
                    Reply::Wrong(_) | Reply::Note(_) => true,
                    Reply::Accepted { .. } => waits == Some(true),
                    _ => false,
                };
                if !more {
                    asked.remove(id);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn clients_are_admitted_once_ended_once_and_told_only_what_they_asked(
        events in prop::collection::vec((event(), 0u64..3), 1..400)
    ) {
        let (mut clients, mut seen, mut now) = (Clients::default(), Seen::default(), Instant::now());
        for (event, seconds) in events {
            now += Duration::from_secs(seconds);
            // A client whose requests are all open is not read.
            if let Event::Said(conn, FromClient::Ask { .. }) = &event {
                if seen.live.get(conn) == Some(&true) && !clients.reads(*conn) {
                    continue;
                }
            }
            for action in clients.handle(event.clone(), now) {
                seen.check(&event, &action);
            }
            prop_assert!(seen.live.len() <= MAX_CLIENTS);
            prop_assert!(clients.next_tick().is_none_or(|tick| tick <= now + Duration::from_secs(10)));
            let full = |conn| seen.asked.get(conn).is_some_and(|asked| asked.len() == MAX_OPEN_REQUESTS);
            prop_assert!(seen.live.keys().all(|conn| clients.reads(*conn) != full(conn)));
        }
    }

    #[test]
    fn places_are_never_exceeded(arrivals in 0usize..600, leave in prop::collection::btree_set(0u64..300, 0..40)) {
        let (mut clients, mut seen, now) = (Clients::default(), Seen::default(), Instant::now());
        let left = leave.into_iter().map(|conn| Event::Left(ConnId(conn)));
        let events = std::iter::repeat_n(Event::Accepted(0), arrivals).chain(left).chain([Event::Accepted(0)]);
        for event in events {
            for action in clients.handle(event.clone(), now) {
                seen.check(&event, &action);
            }
        }
    }
}
