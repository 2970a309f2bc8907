//! The session from its begin to its losses, the questions of a master, and masters that are hostile, broken or late.

use model::VmName;
use proptest::prelude::*;
use proto::VmId;
use proto::client::VmState;

use super::super::codec::{Range, Value};
use super::super::wire::{CONTEXT, Wire};
use super::*;

const OPEN: u8 = 1;
const CLOSE: u8 = 2;
const REGISTER: u8 = 3;
const UNREGISTER: u8 = 4;
const GET: u8 = 5;
const GET_NEXT: u8 = 6;
const GET_BULK: u8 = 7;
const TEST_SET: u8 = 8;
const PING_KIND: u8 = 13;
const RESPONSE: u8 = 18;

struct Fixture {
    agent: Agent,
    now: Instant,
}

/// A packet of ours: type, flags, session, packet, payload.
type Packet = (u8, u8, u32, u32, Vec<u8>);

impl Fixture {
    fn new() -> Self {
        Self { agent: Agent::new("vmd", "6.1"), now: Instant::now() }
    }

    /// A session of number 7 that serves a context.
    fn serving(context: Option<&str>) -> Self {
        let mut f = Self::new();
        assert_eq!(f.on(Event::Serve(context.map(|context| Context::new(context).unwrap()))), [Action::Connect]);
        f.connect();
        f
    }

    /// From the connection to the info line, where there is to be one.
    fn connect(&mut self) -> Vec<Action> {
        assert_eq!(self.on(Event::Connected), []);
        let [(OPEN, 16, 0, packet, _)] = self.said()[..] else { panic!("no open") };
        assert_eq!(self.hear(&Wire::Big.response_to(7, packet, 0)), []);
        let [(REGISTER, _, 7, packet, _)] = self.said()[..] else { panic!("no register") };
        self.hear(&Wire::Little.response_to(7, packet, 0))
    }

    fn on(&mut self, event: Event<'_>) -> Vec<Action> {
        self.agent.handle(event, self.now)
    }

    fn hear(&mut self, bytes: &[u8]) -> Vec<Action> {
        self.on(Event::Received(bytes))
    }

    fn after(&mut self, time: Duration) -> Vec<Action> {
        self.now += time;
        self.on(Event::Time)
    }

    /// What went to the master, in its order of bytes.
    fn said_in(&mut self, wire: Wire) -> Vec<Packet> {
        let bytes = self.agent.output().to_vec();
        self.on(Event::Written(bytes.len()));
        wire.split(&bytes)
    }

    fn said(&mut self) -> Vec<Packet> {
        self.said_in(Wire::Big)
    }

    /// Tells of these VMs, whatever was asked last.
    fn tell(&mut self, actions: &[Action], rows: Vec<Row>) -> Vec<Action> {
        let Some(Action::List(request)) = actions.last() else { panic!("no question: {actions:?}") };
        for some in rows.chunks(256) {
            self.on(Event::Vms(*request, some.to_vec()));
        }
        self.on(Event::VmsEnd(*request))
    }

    /// The error and the bindings' bytes of the one response.
    fn response(&mut self, wire: Wire) -> (u16, u16, Vec<u8>) {
        let said = self.said_in(wire);
        let [(RESPONSE, _, 7, 42, payload)] = &said[..] else { panic!("no response: {said:?}") };
        let half = |bytes: &[u8]| match wire {
            Wire::Little => u16::from_le_bytes(bytes.try_into().unwrap()),
            Wire::Big => u16::from_be_bytes(bytes.try_into().unwrap()),
        };
        (half(&payload[4..6]), half(&payload[6..8]), payload[8..].to_vec())
    }
}

fn row(id: u32) -> Row {
    let name = VmName::new(format!("vm{id}")).unwrap();
    Row {
        vm: VmId(id),
        name,
        state: VmState::Running,
        disabled: false,
        cpus: 1,
        memory: model::MemorySize::LEAST_BOOTABLE,
        used: None,
    }
}

fn below(rest: &[u32]) -> Vec<u32> {
    [&VM_MIB, rest].concat()
}

fn get(wire: Wire, name: &[u32]) -> Vec<u8> {
    wire.packet(GET, 0, &wire.range(name, false, &[]))
}

fn warnings(actions: &[Action]) -> Vec<&str> {
    let warning = |action| match action {
        &Action::Log(Level::Warn, ref text) => Some(text.as_str()),
        _ => None,
    };
    actions.iter().filter_map(warning).collect()
}

#[test]
fn a_session_is_opened_registered_and_said_once() {
    let mut f = Fixture::new();
    assert_eq!(f.agent.deadline(), None, "nothing until it is told what to serve");
    assert_eq!(f.on(Event::Serve(None)), [Action::Connect]);
    let said = f.connect();
    assert!(matches!(&said[..], [Action::Log(Level::Info, _)]), "{said:?}");
    f.on(Event::Lost("closed the connection".to_owned()));
    assert_eq!(f.after(RETRY), [Action::Connect]);
    assert_eq!(f.connect().len(), 1, "after a warning it is said again");
}

#[test]
fn a_master_that_is_away_is_tried_every_three_seconds_and_warned_of_once() {
    let mut f = Fixture::new();
    f.on(Event::Serve(None));
    let away = || Event::NotConnected("no such file".to_owned());
    let first = f.on(away());
    assert_eq!(warnings(&first), ["no such file; VMs are not reported; trying again every 3 s"]);
    for _ in 0..100 {
        assert_eq!(f.agent.deadline(), Some(f.now + RETRY));
        assert_eq!(f.after(RETRY - Duration::from_millis(1)), []);
        assert_eq!(f.after(Duration::from_millis(1)), [Action::Connect]);
        assert_eq!(warnings(&f.on(away())), [] as [&str; 0]);
    }
    f.now += TELL_AGAIN;
    assert_eq!(warnings(&f.on(away())).len(), 1, "another time, much later");
    let other = f.on(Event::NotConnected("permission denied".to_owned()));
    assert_eq!(warnings(&other).len(), 1, "another reason is another warning");
}

#[test]
fn a_parent_that_does_not_say_whether_there_is_a_connection_is_asked_again() {
    let mut f = Fixture::new();
    assert_eq!(f.on(Event::Serve(None)), [Action::Connect]);
    assert_eq!(f.agent.deadline(), Some(f.now + ANSWER_LIMIT));
    assert_eq!(f.after(ANSWER_LIMIT - Duration::from_nanos(1)), []);
    assert_eq!(f.after(Duration::from_nanos(1)), [Action::Connect]);
    assert!(matches!(f.connect()[..], [Action::Log(Level::Info, _)]), "one that comes late serves all the same");
}

#[test]
fn a_master_with_ever_new_reasons_does_not_fill_the_log() {
    let mut f = Fixture::serving(None);
    let lines: usize = (0..1000).map(|n| warnings(&f.on(Event::NotConnected(n.to_string()))).len()).sum();
    assert_eq!(lines, MAX_TOLD);
}

#[test]
fn a_refused_session_or_region_is_told_and_tried_again() {
    for (refused, kind) in [("a session (openFailed)", OPEN), ("the VM-MIB (duplicateRegistration", REGISTER)] {
        let mut f = Fixture::new();
        f.on(Event::Serve(None));
        f.on(Event::Connected);
        let [(_, _, _, mut packet, _)] = f.said()[..] else { panic!() };
        if kind == REGISTER {
            f.hear(&Wire::Big.response_to(7, packet, 0));
            packet = f.said()[0].3;
        }
        let error = if kind == OPEN { 256 } else { 263 };
        let actions = f.hear(&Wire::Big.response_to(7, packet, error));
        assert_eq!(actions[0], Action::Hangup);
        assert!(warnings(&actions)[0].contains(refused), "{actions:?}");
        let bye = f.said();
        assert_eq!(bye.len(), usize::from(kind == REGISTER), "a session that there is gets its close: {bye:?}");
        assert_eq!(f.after(RETRY), [Action::Connect]);
        f.connect();
    }
}

#[test]
fn a_silent_master_is_given_up_at_each_step() {
    let mut f = Fixture::new();
    f.on(Event::Serve(None));
    f.on(Event::Connected);
    let late = f.after(ANSWER_LIMIT);
    assert!(late.contains(&Action::Hangup) && warnings(&late)[0].contains("did not answer"), "to an open: {late:?}");

    let mut f = Fixture::serving(None);
    assert_eq!(f.after(PING - Duration::from_millis(1)), []);
    assert_eq!(f.after(Duration::from_millis(1)), []);
    let [(PING_KIND, 16, 7, packet, _)] = f.said()[..] else { panic!("no ping") };
    f.hear(&Wire::Big.response_to(7, packet, 0));
    assert_eq!(f.after(PING), []);
    assert_eq!(f.said().len(), 1, "and again");
    assert!(f.after(ANSWER_LIMIT).contains(&Action::Hangup), "to a ping");

    let mut f = Fixture::serving(None);
    f.after(PING);
    let packet = f.said()[0].3;
    assert!(f.hear(&Wire::Big.response_to(7, packet, 257)).contains(&Action::Hangup), "it knows us no more");
}

#[test]
fn a_new_context_is_registered_in_the_same_session_and_the_old_one_given_back() {
    let mut f = Fixture::serving(None);
    assert_eq!(f.on(Event::Serve(None)), []);
    assert_eq!(f.said(), [], "nothing has changed");
    assert_eq!(f.on(Event::Serve(Some(Context::new("lab").unwrap()))), []);
    let said = f.said();
    let [(UNREGISTER, 16, 7, _, _), (REGISTER, 24, 7, packet, payload)] = &said[..] else { panic!("{said:?}") };
    assert_eq!(payload[..8], Wire::Big.octets(b"lab")[..]);
    // The one before it is answered too, whatever it is.
    f.hear(&Wire::Big.response_to(7, packet - 1, 264));
    // Changed once more, while the answer is under way.
    f.on(Event::Serve(None));
    assert_eq!(f.said(), []);
    f.hear(&Wire::Big.response_to(7, *packet, 0));
    let said = f.said();
    let [(UNREGISTER, 24, ..), (REGISTER, 16, ..)] = &said[..] else { panic!("{said:?}") };
}

#[test]
fn questions_of_another_context_or_session_are_refused() {
    let mut f = Fixture::serving(Some("lab"));
    f.hear(&get(Wire::Big, &below(&[1, 2, 0])));
    assert_eq!(f.response(Wire::Big).0, 262);
    let wire = Wire::Little;
    let payload = |context: &[u8]| [wire.octets(context), wire.range(&below(&[1, 2, 0]), false, &[])].concat();
    f.hear(&wire.packet(GET, CONTEXT, &payload(b"lap")));
    assert_eq!(f.response(wire).0, 262);
    let actions = f.hear(&wire.packet(GET, CONTEXT, &payload(b"lab")));
    f.tell(&actions, vec![]);
    assert_eq!(f.response(wire).0, 0);
    f.hear(&wire.packet_of(8, 42, GET, CONTEXT, &payload(b"lab")));
    assert_eq!(f.said_in(wire)[0].4[4..6], wire.half(257));
}

#[test]
fn a_question_waits_for_the_vms_and_those_after_it_are_answered_from_the_same() {
    for wire in [Wire::Little, Wire::Big] {
        let mut f = Fixture::serving(None);
        let actions = f.hear(&get(wire, &below(&[1, 2, 0])));
        assert_eq!(actions.len(), 1);
        assert_eq!(f.hear(&get(wire, &below(&[1, 2, 0]))), [], "one listing for both");
        assert_eq!(f.said(), []);
        assert_eq!(f.tell(&actions, (1..=600).map(row).collect()), []);
        assert_eq!(f.said_in(wire).len(), 2);
        f.now += MAX_AGE - Duration::from_millis(1);
        assert_eq!(f.hear(&get(wire, &below(&[1, 2, 0]))), [], "fresh enough");
        let binding = [wire.half(2), wire.half(0), vec![10, 0, 0, 0]].concat();
        let (error, _, bytes) = f.response(wire);
        assert_eq!((error, &bytes[..8], &bytes[bytes.len() - 4..]), (0, &binding[..], &wire.word(600)[..]));
        f.now += Duration::from_millis(1);
        assert_eq!(f.hear(&get(wire, &below(&[1, 2, 0]))).len(), 1, "too old");
    }
}

#[test]
fn a_parent_that_does_not_answer_is_a_general_error_and_what_comes_late_is_passed_over() {
    let mut f = Fixture::serving(None);
    let first = f.hear(&get(Wire::Big, &below(&[1, 2, 0])));
    let late = f.after(ANSWER_LIMIT);
    assert!(matches!(&late[..], [Action::Log(Level::Error, _)]), "{late:?}");
    assert_eq!(f.response(Wire::Big).0, 5);
    let second = f.hear(&get(Wire::Big, &below(&[1, 2, 0])));
    f.tell(&first, vec![row(1)]);
    assert_eq!(f.said(), [], "that was for the first");
    f.tell(&second, vec![]);
    assert_eq!(f.response(Wire::Big).2.last(), Some(&0), "no VM");
}

#[test]
fn get_next_goes_on_and_ends_with_the_name_that_was_asked_for() {
    let wire = Wire::Big;
    let mut f = Fixture::serving(None);
    let ranges = [
        wire.range(&below(&[1, 4, 1, 2, 1]), true, &below(&[1, 4, 1, 2, 2])),
        wire.range(&below(&[1, 4, 1, 2, 1]), false, &below(&[1, 4, 1, 2, 2])),
    ];
    let actions = f.hear(&wire.packet(GET_NEXT, 0, &ranges.concat()));
    f.tell(&actions, vec![row(1), row(2)]);
    let (error, _, bytes) = f.response(wire);
    let name: Vec<u8> = below(&[1, 4, 1, 2, 1]).iter().flat_map(|subid| wire.word(*subid)).collect();
    let binding = |kind, value| [wire.half(kind), wire.half(0), vec![12, 0, 0, 0], name.clone(), value].concat();
    assert_eq!((error, bytes), (0, [binding(4, wire.octets(b"vm1")), binding(130, vec![])].concat()));
}

#[test]
fn get_bulk_gives_once_and_round_after_round_until_all_ends_or_it_is_long_enough() {
    let wire = Wire::Big;
    let agent_with = |vms: u32| {
        let mut f = Fixture::serving(None);
        let actions = f.hear(&get(wire, &below(&[1, 2, 0])));
        f.tell(&actions, (1..=vms).map(row).collect());
        f.said();
        f.agent
    };
    let range = |start: &[u32], end: &[u32]| Range { start: below(start), include: false, end: below(end) };
    let bulk = |ranges: Vec<Range>, max_repetitions| Body::GetBulk { non_repeaters: 1, max_repetitions, ranges };
    let agent = agent_with(3);
    let once = range(&[1, 1], &[2]);
    let (names, states) = (range(&[1, 4, 1, 2], &[1, 4, 1, 3]), range(&[1, 4, 1, 6], &[1, 4, 1, 7]));
    let got = answers::bindings(&agent.mib, &bulk(vec![once.clone(), names.clone(), states.clone()], 2));
    let name = |rest: &[u32]| below(rest);
    let expected: [&[u32]; 5] = [&[1, 1, 1, 0], &[1, 4, 1, 2, 1], &[1, 4, 1, 6, 1], &[1, 4, 1, 2, 2], &[1, 4, 1, 6, 2]];
    assert_eq!(got.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), expected.map(name));
    let got = answers::bindings(&agent.mib, &bulk(vec![once.clone(), names.clone()], u16::MAX));
    assert_eq!(got.len(), 1 + 3 + 1, "one round says that nothing follows");
    assert_eq!(got.last().unwrap(), &(below(&[1, 4, 1, 2, 3]), Value::EndOfMibView));
    assert_eq!(answers::bindings(&agent.mib, &bulk(vec![], 9)), []);

    let agent = agent_with(10_000);
    let got = answers::bindings(&agent.mib, &bulk(vec![once, range(&[1, 4], &[2])], u16::MAX));
    let size: usize = got.iter().map(answers::size_of).sum();
    assert!(size > answers::MAX_BULK && size < answers::MAX_BULK + 200, "{size} bytes");
}

#[test]
fn nothing_can_be_set() {
    let wire = Wire::Big;
    let mut f = Fixture::serving(None);
    let name = wire.oid(&below(&[1, 4, 1, 5, 1]), false);
    let set = [wire.half(2), wire.half(0), name, wire.word(4)].concat();
    f.hear(&wire.packet(TEST_SET, 0, &set));
    assert_eq!(f.response(wire), (17, 1, vec![]));
    f.hear(&wire.packet(11, 0, &[]));
    assert_eq!(f.said(), [], "a cleanup is not answered");
    f.hear(&wire.packet(9, 0, &[]));
    assert_eq!(f.response(wire), (14, 0, vec![]));
    f.hear(&wire.packet(10, 0, &[]));
    assert_eq!(f.response(wire), (0, 0, vec![]));
    f.hear(&wire.packet(TEST_SET, 0, &[]));
    assert_eq!(f.response(wire), (0, 0, vec![]));
}

#[test]
fn a_master_that_closes_is_not_told_of_it_and_the_end_of_agentx_is() {
    let mut f = Fixture::serving(None);
    let actions = f.hear(&Wire::Big.packet(CLOSE, 0, &[6, 0, 0, 0]));
    assert!(actions.contains(&Action::Hangup) && warnings(&actions)[0].contains("reason 6"), "{actions:?}");
    assert_eq!(f.said(), []);
    assert_eq!(f.after(RETRY), [Action::Connect]);

    let f = Fixture::serving(None);
    assert!(matches!(&Wire::Big.split(&f.agent.close())[..], [(CLOSE, 16, 7, _, reason)] if reason[0] == 5));
    assert_eq!(Fixture::new().agent.close(), [], "no session, no good-bye");
}

#[test]
fn a_malformed_question_is_answered_so_and_a_malformed_header_ends_the_session() {
    let wire = Wire::Big;
    let mut f = Fixture::serving(None);
    for packet in [wire.packet(GET, 0, &[9, 0, 0, 0]), wire.packet(99, 0, &[]), wire.packet(9, 0, &[0; 4])] {
        f.hear(&packet);
        assert_eq!(f.response(wire), (266, 0, vec![]));
    }
    f.hear(&wire.packet(PING_KIND, 0, &[]));
    assert_eq!(f.response(wire), (0, 0, vec![]), "it lives on");
    let mut other = wire.packet(GET, 0, &[]);
    other[0] = 3;
    let actions = f.hear(&other);
    assert!(warnings(&actions)[0].contains("nonsense (version 3"), "{actions:?}");
    assert!(matches!(Fixture::serving(None).hear(&wire.packet(RESPONSE, 0, &[]))[..], [Action::Hangup, ..]));
}

#[test]
fn packets_may_come_in_pieces_and_many_at_once() {
    let wire = Wire::Big;
    let mut f = Fixture::serving(None);
    let packets = wire.packet(PING_KIND, 0, &[]).repeat(5);
    for byte in &packets {
        f.hear(&[*byte]);
    }
    assert_eq!(f.said().len(), 5);
    f.hear(&packets);
    assert_eq!(f.said().len(), 5);
}

#[test]
fn a_master_that_asks_and_does_not_read_is_not_read_either() {
    let wire = Wire::Big;
    let mut f = Fixture::serving(None);
    let question = get(wire, &below(&[1, 2, 0]));
    let first = f.hear(&question.repeat(1000));
    assert!(!f.agent.reads());
    assert_eq!(f.agent.questions.len(), MAX_PENDING);
    f.tell(&first, vec![row(1)]);
    assert!(f.agent.reads() && f.agent.input.is_empty(), "the rest was answered from the same");

    let bulk = [wire.half(0), wire.half(u16::MAX), wire.range(&VM_MIB, false, &[])].concat();
    let actions = f.hear(&wire.packet(GET_BULK, 0, &bulk));
    assert_eq!(actions, []);
    f.now += MAX_AGE;
    let actions = f.hear(&wire.packet(GET_BULK, 0, &bulk).repeat(100));
    f.tell(&actions, (1..10_000).map(row).collect());
    let most = MAX_OUTPUT + MAX_PENDING * (answers::MAX_BULK + 1000);
    assert!(!f.agent.reads() && f.agent.output().len() < most, "{} bytes", f.agent.output().len());
    let mut answers = 0;
    while !f.agent.output().is_empty() {
        answers += f.said().len();
    }
    assert_eq!(answers, 1000 + 1 + 100, "as it reads, all is answered");
}

#[test]
fn what_a_lost_master_asked_is_forgotten() {
    let mut f = Fixture::serving(None);
    let actions = f.hear(&get(Wire::Big, &below(&[1, 2, 0])));
    f.on(Event::Lost("closed the connection".to_owned()));
    f.said();
    assert_eq!(f.tell(&actions, vec![row(1)]), []);
    assert_eq!(f.said(), []);
}

/// What a broken or hostile world does.
#[derive(Clone, Debug)]
enum Step {
    Bytes(Vec<u8>),
    Packet { kind: u8, flags: u8, session: u32, packet: u32, payload: Vec<u8> },
    Answer(u16),
    Serve(bool),
    Connected,
    NotConnected,
    Lost,
    Vms(u32),
    Wait(u64),
    Take(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
    let range = (any::<bool>(), 0u32..6, 0u32..20)
        .prop_map(|(include, one, two)| Wire::Big.range(&below(&[1, one, 1, two]), include, &[]));
    let payload = prop_oneof![bytes(), range];
    prop_oneof![
        bytes().prop_map(Step::Bytes),
        (0u8..20, prop_oneof![Just(0u8), Just(CONTEXT), Just(16)], 6u32..9, 0u32..9, payload)
            .prop_map(|(kind, flags, session, packet, payload)| Step::Packet { kind, flags, session, packet, payload }),
        prop_oneof![Just(0u16), any::<u16>()].prop_map(Step::Answer),
        any::<bool>().prop_map(Step::Serve),
        Just(Step::Connected),
        Just(Step::NotConnected),
        Just(Step::Lost),
        (0u32..4).prop_map(Step::Vms),
        (0u64..70).prop_map(Step::Wait),
        (0usize..5000).prop_map(Step::Take),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn whatever_a_master_does_memory_and_time_stay_bounded(steps in proptest::collection::vec(step(), 0..80)) {
        let mut f = Fixture::new();
        let mut asked = None;
        for step in steps {
            let now = f.now;
            let actions = match step {
                Step::Bytes(bytes) => f.hear(&bytes),
                Step::Packet { kind, flags, session, packet, payload } => {
                    f.hear(&Wire::Big.packet_of(session, packet, kind, flags & CONTEXT, &payload))
                }
                Step::Answer(error) => {
                    let packet = f.agent.packets;
                    f.hear(&Wire::Big.response_to(7, packet, error))
                }
                Step::Serve(context) => f.on(Event::Serve(context.then(|| Context::new("lab").unwrap()))),
                Step::Connected => f.on(Event::Connected),
                Step::NotConnected => f.on(Event::NotConnected("away".to_owned())),
                Step::Lost => f.on(Event::Lost("gone".to_owned())),
                Step::Vms(count) => match asked.take() {
                    None => vec![],
                    Some(request) => {
                        f.on(Event::Vms(request, (1..=count).map(row).collect()));
                        f.on(Event::VmsEnd(request))
                    }
                },
                Step::Wait(seconds) => f.after(Duration::from_secs(seconds)),
                Step::Take(count) => f.on(Event::Written(count)),
            };
            for action in actions {
                if let Action::List(request) = action {
                    asked = Some(request);
                }
            }
            prop_assert!(f.agent.questions.len() <= MAX_PENDING);
            prop_assert!(f.agent.output().len() < MAX_OUTPUT + MAX_PENDING * 2 * answers::MAX_BULK);
            prop_assert!(f.agent.told.len() <= MAX_TOLD);
            prop_assert!(f.agent.deadline().is_none_or(|at| at <= f.now + PING), "it never waits longer");
            prop_assert!(f.now >= now);
        }
    }
}
