//! One test per rule: the decisions by themselves, then control's edge between a parent and clients of the test.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use proto::client::{Reply, Request, ToClient, ToControl as FromClient, VERSION, VmRef};
use proto::control::{ToControl, ToParent};
use proto::{Channel, Code, ConnId, Failure, Received, RequestId};

mod decisions;
mod random;

use super::clients::{CONNECTION, MAX_CLIENTS, MAX_OPEN_REQUESTS};
use super::edge::Edge;

const SOON: Duration = Duration::from_secs(30);

type Client = Channel<FromClient, ToClient>;

/// A control in a thread, the parent's end of its channel, and where its clients connect.
struct Control {
    parent: Channel<ToControl, ToParent>,
    thread: std::thread::JoinHandle<()>,
    folder: tempfile::TempDir,
}

impl Control {
    fn start() -> Self {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
        let folder = tempfile::tempdir().unwrap();
        let address = SocketAddrUnix::new(folder.path().join("vmd.sock")).unwrap();
        let flags = SocketFlags::CLOEXEC;
        let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        bind(&listener, &address).unwrap();
        listen(&listener, 512).unwrap();
        let (parent, theirs) = proto::channel::pair::<ToControl, ToParent>().unwrap();
        let edge = Edge::new(theirs.into_socket(), listener).unwrap();
        let thread = std::thread::spawn(move || edge.serve().unwrap());
        Self { parent, thread, folder }
    }

    fn connect(&self) -> Client {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
        let address = SocketAddrUnix::new(self.folder.path().join("vmd.sock")).unwrap();
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        connect(&socket, &address).unwrap();
        Channel::new(socket)
    }

    /// A client whose version was accepted, and its name; the parent's copy of its connection is closed.
    fn client(&mut self) -> (Client, ConnId) {
        let mut client = self.connect();
        let conn = match self.hear() {
            (ToParent::Connected { conn }, _) => conn,
            other => panic!("no connection: {other:?}"),
        };
        client.send(&FromClient::Hello { version: VERSION }, vec![]).unwrap();
        assert_eq!(told(&mut client), Some(ToClient::hello()));
        (client, conn)
    }

    fn hear(&mut self) -> (ToParent, Vec<OwnedFd>) {
        match self.parent.recv_within(SOON).unwrap() {
            Received::Message(message, fds) => (message, fds),
            other => panic!("nothing from control: {other:?}"),
        }
    }

    fn answer(&mut self, conn: ConnId, id: u32, reply: Reply) {
        let id = RequestId(id);
        self.parent.send(&ToControl::Answer { conn, id, reply }, vec![]).unwrap();
    }

    fn end(self) {
        drop(self.parent);
        self.thread.join().unwrap();
    }
}

/// What a client is told next; none at the end.
fn told(client: &mut Client) -> Option<ToClient> {
    match client.recv_within(SOON) {
        Ok(Received::Message(message, _)) => Some(message),
        Ok(Received::Closed) => None,
        other => panic!("neither message nor end: {other:?}"),
    }
}

fn ask(client: &mut Client, id: u32, request: Request) {
    client.send(&FromClient::Ask { id: RequestId(id), request }, vec![]).unwrap();
}

fn wait_for(id: u32) -> Request {
    Request::Wait { vm: VmRef::Id(id) }
}

fn is_end_with(told: Option<ToClient>, code: Code) -> bool {
    matches!(told, Some(ToClient::Answer { id: CONNECTION, reply: Reply::Failed(failure) }) if failure.code == code)
}

#[test]
fn a_connection_is_shown_to_the_parent_once_and_is_the_clients() {
    let mut control = Control::start();
    let mut client = control.connect();
    let (shown, fds) = control.hear();
    assert!(matches!((&shown, fds.len()), (ToParent::Connected { .. }, 1)), "{shown:?}");
    // The parent reads the peer from it: the test's own process.
    let peer = rustix::net::sockopt::socket_peercred(&fds[0]).unwrap();
    assert_eq!(peer.pid, rustix::process::getpid());
    client.send(&FromClient::Hello { version: VERSION }, vec![]).unwrap();
    assert_eq!(told(&mut client), Some(ToClient::hello()));
    ask(&mut client, 1, Request::List);
    assert!(matches!(control.hear().0, ToParent::Ask { .. }), "and not shown again");
}

#[test]
fn a_request_goes_to_the_parent_and_its_answers_come_back_to_the_asker() {
    let mut control = Control::start();
    let ((mut one, first), (mut two, second)) = (control.client(), control.client());
    ask(&mut one, 7, Request::List);
    assert_eq!(control.hear().0, ToParent::Ask { conn: first, id: RequestId(7), request: Request::List });
    ask(&mut two, 7, Request::Reload);
    assert_eq!(control.hear().0, ToParent::Ask { conn: second, id: RequestId(7), request: Request::Reload });
    control.answer(second, 7, Reply::Done);
    control.answer(first, 7, Reply::Failed(Failure::new(Code::NotPermitted, "no")));
    assert_eq!(told(&mut two), Some(ToClient::Answer { id: RequestId(7), reply: Reply::Done }));
    let no = Reply::Failed(Failure::new(Code::NotPermitted, "no"));
    assert_eq!(told(&mut one), Some(ToClient::Answer { id: RequestId(7), reply: no }));
}

#[test]
fn a_requests_descriptor_arrives_at_the_parent() {
    let mut control = Control::start();
    let (mut client, conn) = control.client();
    let (read, write) = rustix::pipe::pipe().unwrap();
    let request = Request::Send { vm: VmRef::Id(3) };
    client.send(&FromClient::Ask { id: RequestId(1), request: request.clone() }, vec![write]).unwrap();
    let (message, fds) = control.hear();
    assert_eq!(message, ToParent::Ask { conn, id: RequestId(1), request });
    assert_eq!(rustix::io::write(&fds[0], b"state").unwrap(), 5);
    drop(fds);
    let mut state = [0; 8];
    assert_eq!(rustix::io::read(&read, &mut state).unwrap(), 5);
    // control has closed its copy once it sent it, at the latest when it is asked again.
    ask(&mut client, 2, Request::List);
    control.hear();
    assert_eq!(rustix::io::read(&read, &mut state).unwrap(), 0);
}

#[test]
fn another_version_is_refused_with_both_named() {
    let mut control = Control::start();
    let mut client = control.connect();
    control.hear();
    client.send(&FromClient::Hello { version: VERSION + 1 }, vec![]).unwrap();
    assert_eq!(told(&mut client), Some(ToClient::WrongVersion { daemon: VERSION, client: VERSION + 1 }));
    assert_eq!(told(&mut client), None);
    assert!(matches!(control.hear().0, ToParent::Gone { .. }));
}

#[test]
fn malformed_messages_cost_the_sender_its_connection_and_nobody_else() {
    let mut control = Control::start();
    let (mut good, conn) = control.client();
    let half = postcard::to_stdvec(&FromClient::Ask { id: RequestId(1), request: wait_for(1) }).unwrap();
    let (half, tail) = (&half[..half.len() - 1], [&half[..], &[0]].concat());
    let long = vec![0; 70_000];
    let cases: [(&[u8], usize); 6] = [(&[0xff; 32], 0), (half, 0), (&tail, 0), (&long, 0), (&[9], 0), (&[0, 1], 1)];
    for (bytes, fds) in cases {
        let mut bad = control.connect();
        let (_, shown) = control.hear();
        let fds: Vec<_> = (0..fds).map(|_| bad.as_fd()).collect();
        sys::seqpacket::send(bad.as_fd(), bytes, &fds).unwrap();
        assert!(is_end_with(told(&mut bad), Code::Invalid), "{} bytes", bytes.len());
        assert_eq!(told(&mut bad), None, "ended even while the parent holds a copy");
        drop(shown);
        assert!(matches!(control.hear().0, ToParent::Gone { .. }));
    }
    ask(&mut good, 1, Request::List);
    assert!(matches!(control.hear().0, ToParent::Ask { conn: asker, .. } if asker == conn));
}

#[test]
fn a_client_that_leaves_is_told_to_the_parent_and_its_late_answer_reaches_nobody() {
    let mut control = Control::start();
    let (mut client, conn) = control.client();
    ask(&mut client, 1, wait_for(1));
    control.hear();
    drop(client);
    assert_eq!(control.hear().0, ToParent::Gone { conn });
    let (mut next, other) = control.client();
    assert_ne!(conn, other);
    control.answer(conn, 1, Reply::Ended { id: 1 });
    ask(&mut next, 1, wait_for(2));
    control.hear();
    control.answer(other, 1, Reply::Ended { id: 2 });
    assert_eq!(told(&mut next), Some(ToClient::Answer { id: RequestId(1), reply: Reply::Ended { id: 2 } }));
}

#[test]
fn the_parent_ends_a_connection() {
    let mut control = Control::start();
    let (mut client, conn) = control.client();
    control.parent.send(&ToControl::Disconnect { conn }, vec![]).unwrap();
    assert_eq!(told(&mut client), None);
    assert_eq!(control.hear().0, ToParent::Gone { conn });
}

#[test]
fn one_client_too_many_is_turned_away_until_another_leaves() {
    let mut control = Control::start();
    let mut clients: Vec<_> = (0..MAX_CLIENTS).map(|_| control.client()).collect();
    let mut more = control.connect();
    assert!(is_end_with(told(&mut more), Code::TooMany));
    assert_eq!(told(&mut more), None);
    let (_, conn) = clients.swap_remove(100);
    assert_eq!(control.hear().0, ToParent::Gone { conn });
    control.client();
}

#[test]
fn a_client_that_does_not_read_is_cut_off_and_others_are_served() {
    let mut control = Control::start();
    let ((mut slow, conn), (mut other, _)) = (control.client(), control.client());
    ask(&mut slow, 1, Request::List);
    control.hear();
    let line = Reply::Failed(Failure::new(Code::Invalid, "x".repeat(1000)));
    // Failed would be the last answer, so many requests: each is answered, none of it is read.
    let mut id = 1;
    loop {
        control.answer(conn, id, line.clone());
        id += 1;
        let asked = slow.send(&FromClient::Ask { id: RequestId(id), request: Request::List }, vec![]);
        match control.hear().0 {
            ToParent::Gone { conn: gone } if gone == conn => break,
            ToParent::Ask { .. } => asked.unwrap(),
            unexpected => panic!("{unexpected:?}"),
        }
        assert!(id < 100_000, "never cut off");
    }
    ask(&mut other, 1, Request::List);
    assert!(matches!(control.hear().0, ToParent::Ask { .. }));
}

#[test]
fn more_requests_than_a_client_may_have_wait_until_one_is_answered() {
    let mut control = Control::start();
    let (mut client, conn) = control.client();
    let most = u32::try_from(MAX_OPEN_REQUESTS).unwrap();
    for id in 1..=most + 1 {
        ask(&mut client, id, Request::List);
    }
    for id in 1..=most {
        assert!(matches!(control.hear().0, ToParent::Ask { id: asked, .. } if asked == RequestId(id)));
    }
    let early = control.parent.recv_within(Duration::from_millis(100));
    assert!(early.is_err(), "one too many: {early:?}");
    control.answer(conn, 3, Reply::Done);
    assert!(matches!(control.hear().0, ToParent::Ask { id, .. } if id == RequestId(most + 1)));
}

#[test]
fn a_flood_of_all_clients_waits_for_a_busy_parent_and_loses_nothing() {
    let mut control = Control::start();
    let mut clients: Vec<_> = (0..100).map(|_| control.client()).collect();
    // The parent reads nothing meanwhile: more than a channel queues.
    for id in 1..=5 {
        for (client, _) in &mut clients {
            ask(client, id, Request::List);
        }
    }
    for _ in 0..500 {
        match control.hear().0 {
            ToParent::Ask { conn, id, .. } => control.answer(conn, id.0, Reply::Done),
            other => panic!("{other:?}"),
        }
    }
    // What a control that is behind has not taken yet waits here.
    let end = Instant::now() + SOON;
    while control.parent.wants_write() {
        control.parent.flush().unwrap();
        assert!(Instant::now() < end, "control does not take its answers");
        std::thread::yield_now();
    }
    for (client, _) in &mut clients {
        for id in 1..=5 {
            assert_eq!(told(client), Some(ToClient::Answer { id: RequestId(id), reply: Reply::Done }));
        }
    }
}

#[test]
fn clients_that_all_leave_at_once_are_all_told_to_a_busy_parent() {
    let mut control = Control::start();
    let clients: Vec<_> = (0..MAX_CLIENTS).map(|_| control.client()).collect();
    let mut left: Vec<ConnId> = clients.iter().map(|(_, conn)| *conn).collect();
    drop(clients);
    while !left.is_empty() {
        match control.hear().0 {
            ToParent::Gone { conn } => left.retain(|other| *other != conn),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn control_ends_with_the_parent_and_so_do_its_clients() {
    let mut control = Control::start();
    let (mut client, _) = control.client();
    control.end();
    assert_eq!(told(&mut client), None);
}

#[test]
fn a_malformed_message_of_the_parent_costs_only_itself() {
    let mut control = Control::start();
    let (mut client, conn) = control.client();
    sys::seqpacket::send(control.parent.as_fd(), &[0xff; 40], &[]).unwrap();
    sys::seqpacket::send(control.parent.as_fd(), &vec![1; 70_000], &[]).unwrap();
    ask(&mut client, 1, Request::List);
    control.hear();
    control.answer(conn, 1, Reply::Done);
    assert!(matches!(told(&mut client), Some(ToClient::Answer { .. })));
}

#[test]
fn without_a_descriptor_left_accepting_pauses_until_a_client_leaves() {
    alone("control::tests::without_a_descriptor_left_accepting_pauses_until_a_client_leaves", || {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let before = getrlimit(Resource::Nofile);
        // Of a client control has two descriptors: with room for one it is not accepted either, nor lost.
        for left in [0, 1] {
            let mut control = Control::start();
            let (mut first, conn) = control.client();
            // Once it has heard more, its own copy of the first connection is closed.
            ask(&mut first, 0, Request::List);
            assert!(matches!(control.hear().0, ToParent::Ask { .. }));
            setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..before }).unwrap();
            let mut held: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
            held.truncate(held.len() - 1 - left); // one is for the client's own socket
            let began = Instant::now();
            let mut second = control.connect();
            // Accepting fails; who is connected is served all the same. The first of these may be heard before it is tried.
            for id in [1, 2] {
                ask(&mut first, id, Request::List);
                assert!(matches!(control.hear().0, ToParent::Ask { .. }));
            }
            drop(first);
            assert_eq!(control.hear().0, ToParent::Gone { conn });
            drop(held);
            assert!(matches!(control.hear().0, ToParent::Connected { .. }));
            assert!(began.elapsed() < SOON);
            second.send(&FromClient::Hello { version: VERSION }, vec![]).unwrap();
            assert_eq!(told(&mut second), Some(ToClient::hello()));
            control.end();
            setrlimit(Resource::Nofile, before).unwrap();
        }
    });
}

/// Runs `body` in a process of its own, since it changes the process's limits; `name` is the calling test's path.
fn alone(name: &str, body: impl FnOnce()) {
    if std::env::var_os("VMD_TEST_ALONE").is_some_and(|value| value == name) {
        return body();
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("VMD_TEST_ALONE", name)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{name} alone: {text}\n{errors}");
}
