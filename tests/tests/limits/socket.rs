//! The control socket against clients that mean harm or mean nothing: each loses its own connection, nobody else anything.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::idle::{self, Does};
use e2e::vm_conf::switch;
use model::VmName;
use proto::client::{DiskOperation, Order, Reply, Request, ToClient, ToControl, VERSION, VmRef};
use proto::{Channel, Code, MAX_MESSAGE, Received, RequestId};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Gid, Pid, Signal, Uid, kill_process};
use testkit::apart::apart;
use testkit::daemon::Daemon;
use testkit::deadline::{self, DAEMON};

use crate::world::{NO_KVM, Quiet, ends, refused};

/// A client's end of a connection.
pub type Client = Channel<ToControl, ToClient>;

/// A VM that can't start, and a socket that nobody's group may use.
const CONFIGURATION: &str = "socket owner root:nogroup\nvm \"web\" {\n\tdisable\n\tboot \"/etc/passwd\"\n}\n";

/// A connection on which nothing was said yet.
pub fn connection() -> Client {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket");
    let address = SocketAddrUnix::new("/run/vmd.sock").expect("an address");
    connect(&socket, &address).expect("the daemon listens");
    Channel::new(socket)
}

/// One whose version was accepted.
pub fn greeted() -> Client {
    let mut client = connection();
    client.send(&ToControl::Hello { version: VERSION }, vec![]).expect("sent");
    let hello = client.recv_within(DAEMON);
    assert!(matches!(hello, Ok(Received::Message(ToClient::Hello { .. }, _))), "{hello:?}");
    client
}

/// A request with its number.
pub fn ask(number: u32, request: Request) -> ToControl {
    ToControl::Ask { id: RequestId(number), request }
}

/// The VM of these tests.
pub fn web() -> VmRef {
    VmRef::Name(VmName::new("web").expect("a name"))
}

/// Its start.
pub fn start() -> proto::client::Start {
    proto::client::Start {
        vm: web(),
        instance_of: None,
        memory: None,
        cpus: None,
        kernel: None,
        disks: model::List::default(),
        cdrom: None,
        nics: model::List::default(),
        boot_device: None,
    }
}

/// Reads until the daemon ends the connection; panics if it does not.
fn is_ended(client: &mut Client) {
    loop {
        match client.recv_within(DAEMON) {
            Ok(Received::Message(..)) => {}
            Ok(Received::Closed) => return,
            Err(proto::channel::ChannelError::Socket(_)) => return, // reset: what we had sent was not all read
            other => panic!("the connection is not ended: {other:?}"),
        }
    }
}

/// Another client is served.
fn serves(daemon: &Daemon) {
    assert_eq!(daemon.vmctl(&["status"]).success().stdout.lines().count(), 2);
}

fn sent(client: &Client, bytes: &[u8], fds: &[OwnedFd]) -> bool {
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    sys::seqpacket::send(client.as_fd(), bytes, &fds).is_ok()
}

#[test]
fn garbage_half_messages_and_what_is_too_long_end_their_connection_alone() {
    apart("socket::garbage_half_messages_and_what_is_too_long_end_their_connection_alone", || {
        let daemon = Daemon::start_quietly(CONFIGURATION);
        let quiet = Quiet::of(&daemon);
        let path = model::Text::new(&"/x".repeat(500)).expect("a path");
        let hello = postcard::to_stdvec(&ToControl::Hello { version: VERSION }).expect("encoded");
        let whole = postcard::to_stdvec(&ask(1, Request::Load { path })).expect("encoded");
        let mut witness = greeted();
        for bytes in
            [&[0xff; 9][..], b"GET / HTTP/1.0\r\n\r\n", &hello[..1], &[], &vec![0xa5; MAX_MESSAGE], &vec![1; 150_000]]
        {
            let mut client = connection();
            assert!(sent(&client, bytes, &[]), "{} bytes", bytes.len());
            is_ended(&mut client);
            serves(&daemon);
        }
        for length in [1, 2, 3, 10, whole.len() / 2, whole.len() - 1] {
            let mut client = greeted();
            assert!(sent(&client, &whole[..length], &[]));
            is_ended(&mut client);
        }
        // Descriptors that no message has, and a second greeting.
        let null = || OwnedFd::from(File::open("/dev/null").expect("it is there"));
        let mut client = connection();
        assert!(sent(&client, &hello, &[null(), null(), null()]));
        is_ended(&mut client);
        let mut client = greeted();
        assert!(sent(&client, &hello, &[]));
        is_ended(&mut client);
        serves(&daemon);
        witness.send(&ask(1, Request::List), vec![]).expect("sent");
        let answer = witness.recv_within(DAEMON);
        assert!(
            matches!(answer, Ok(Received::Message(ToClient::Answer { reply: Reply::Vms(_), .. }, _))),
            "{answer:?}"
        );
        drop(witness);
        quiet.again();
        ends(daemon);
    });
}

/// The log has lines with these words, of one limit, and no more than `each` for each window of 10 s since `began`.
fn is_told_at_most(daemon: &Daemon, began: Instant, each: usize, words: &str) {
    let log = daemon.log();
    let lines = log.lines().filter(|line| line.contains(words)).count();
    let windows = usize::try_from(began.elapsed().as_secs() / 10).expect("few") + 2;
    assert!((1..=each * windows).contains(&lines), "{lines} lines of {words:?} in {windows} windows:\n{log}");
}

/// As a user of the group that owns the socket, who may do nothing: another thread with that user's ids.
fn as_stranger<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        let (uid, gid) = (Uid::from_raw(65534), Gid::from_raw(65534));
        rustix::thread::set_thread_groups(&[gid]).expect("root may");
        rustix::thread::set_thread_res_gid(gid, gid, gid).expect("root may");
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("root may");
        body()
    });
    thread.join().expect("no panic")
}

fn every_request() -> Vec<Request> {
    let path = || model::Text::new("/nowhere").expect("a path");
    vec![
        Request::List,
        Request::Start(Box::new(start())),
        Request::Stop { vm: web(), force: false, wait: false },
        Request::Wait { vm: VmRef::Id(1) },
        Request::Order { vm: web(), order: Order::Pause },
        Request::Order { vm: web(), order: Order::Unpause },
        Request::Send { vm: web() },
        Request::Receive { name: VmName::new("new").expect("a name") },
        Request::Log { verbose: false },
        Request::Reload,
        Request::Load { path: path() },
        Request::Reset { vms: false, switches: false },
        Request::DiskFail { vm: web(), disk: 0, operation: DiskOperation::Read, count: 1 },
        Request::FlushStop { vm: web(), disk: 0, count: 1 },
    ]
}

/// Each of them short, long and with a descriptor too many or too few; whoever sends it loses that connection alone.
fn odd_sizes() {
    for request in every_request() {
        let whole = postcard::to_stdvec(&ask(1, request.clone())).expect("encoded");
        let null = || OwnedFd::from(File::open("/dev/null").expect("it is there"));
        let right = request.fds();
        let cut = (1..whole.len()).map(|length| (whole[..length].to_vec(), right));
        let long = [1, 7, 4000].map(|more| ([&whole[..], &vec![0; more]].concat(), right));
        let fds = [(whole.clone(), right + 1), (whole.clone(), 1 - right.min(1))];
        for (bytes, fds) in cut.chain(long).chain(fds) {
            let mut client = greeted();
            let fds: Vec<OwnedFd> = (0..fds).map(|_| null()).collect();
            assert!(sent(&client, &bytes, &fds), "{request:?}");
            is_ended(&mut client);
        }
    }
}

#[test]
fn odd_sizes_of_every_request_cost_their_sender_alone_whoever_it_is() {
    apart("socket::odd_sizes_of_every_request_cost_their_sender_alone_whoever_it_is", || {
        let daemon = Daemon::start_quietly(CONFIGURATION);
        let quiet = Quiet::of(&daemon);
        let mut witness = greeted();
        odd_sizes();
        as_stranger(odd_sizes);
        // What is whole a stranger is refused, word for word, and goes on: but for the list, which is everybody's.
        let refused = as_stranger(|| {
            let mut client = greeted();
            every_request().into_iter().filter(|request| *request != Request::List).all(|request| {
                let fds = (0..request.fds()).map(|_| File::open("/dev/null").expect("it is there").into()).collect();
                client.send(&ask(1, request.clone()), fds).expect("sent");
                let answer = client.recv_within(DAEMON).expect("an answer");
                let Received::Message(ToClient::Answer { reply: Reply::Failed(failure), .. }, _) = answer else {
                    panic!("{request:?}: {answer:?}");
                };
                failure.code == Code::NotPermitted && failure.text.contains("65534")
            })
        });
        assert!(refused);
        serves(&daemon);
        witness.send(&ask(1, Request::List), vec![]).expect("sent");
        assert!(matches!(witness.recv_within(DAEMON), Ok(Received::Message(..))));
        drop(witness);
        quiet.again();
        ends(daemon);
    });
}

#[test]
fn who_leaves_at_any_point_leaves_nothing() {
    apart("socket::who_leaves_at_any_point_leaves_nothing", || {
        let daemon = Daemon::start_quietly(CONFIGURATION);
        let quiet = Quiet::of(&daemon);
        drop(connection());
        let half = connection();
        assert!(sent(&half, &[0], &[]));
        drop(half);
        drop(greeted());
        for request in [Request::List, Request::Start(Box::new(start())), Request::Wait { vm: web() }, Request::Reload]
        {
            let mut client = greeted();
            client.send(&ask(1, request), vec![]).expect("sent");
            drop(client);
            serves(&daemon);
        }
        quiet.again();
        ends(daemon);
    });
}

#[test]
fn who_floods_and_never_reads_is_cut_off_and_others_are_served() {
    apart("socket::who_floods_and_never_reads_is_cut_off_and_others_are_served", || {
        let daemon = Daemon::start_quietly(CONFIGURATION);
        let quiet = Quiet::of(&daemon);
        let list = postcard::to_stdvec(&ask(1, Request::List)).expect("encoded");
        let flooders: Vec<Client> = (0..8).map(|_| greeted()).collect();
        for round in 0..2000 {
            for flooder in &flooders {
                sent(flooder, &list, &[]); // full, or cut off: the next finds out
            }
            if round % 500 == 0 {
                serves(&daemon);
            }
        }
        serves(&daemon);
        drop(flooders);
        quiet.again();
        ends(daemon);
    });
}

#[test]
fn a_thousand_connections_of_one_user_leave_room_for_others() {
    apart("socket::a_thousand_connections_of_one_user_leave_room_for_others", || {
        let daemon = Daemon::start_quietly(CONFIGURATION);
        let quiet = Quiet::of(&daemon);
        let crowd = as_stranger(|| (0..1000).map(|_| connection()).collect::<Vec<Client>>());
        deadline::until("root to be served beside them", DAEMON, || {
            daemon.vmctl(&["status"]).status.filter(|status| *status == 0)
        });
        serves(&daemon);
        drop(crowd);
        quiet.again();
        // Root itself is told when no place is left.
        let crowd: Vec<Client> = (0..256).map(|_| greeted()).collect();
        refused(&daemon, &["status"], "vmctl: vmd already serves 256 clients; try again later");
        drop(crowd);
        quiet.again();
        ends(daemon);
    });
}

/// Connections that are closed at once, a burst or one at a time, until it is told to stop; how many there were.
fn floods(stop: &AtomicBool, burst: usize) -> usize {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        count += (0..burst).map(|_| connection()).collect::<Vec<Client>>().len();
    }
    count
}

/// As many of one user at once, each of them one at a time, as a hundred processes would; and bursts beside them.
const FLOODERS: usize = 100;

/// Whether root gets the list.
fn root_is_served() -> bool {
    let mut client = connection();
    let sent = client.send(&ToControl::Hello { version: VERSION }, vec![]);
    if sent.is_err() || !matches!(client.recv_within(DAEMON), Ok(Received::Message(ToClient::Hello { .. }, _))) {
        return false;
    }
    client.send(&ask(1, Request::List), vec![]).is_ok()
        && matches!(client.recv_within(DAEMON), Ok(Received::Message(ToClient::Answer { reply: Reply::Vms(_), .. }, _)))
}

#[test]
fn who_connects_and_closes_in_a_loop_turns_nobody_away_and_fills_no_log() {
    apart("socket::who_connects_and_closes_in_a_loop_turns_nobody_away_and_fills_no_log", || {
        let daemon = Daemon::start_quietly(CONFIGURATION);
        let quiet = Quiet::of(&daemon);
        let stop = Arc::new(AtomicBool::new(false));
        let began = Instant::now();
        let flood = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                as_stranger(move || {
                    std::thread::scope(|scope| {
                        let single = (0..FLOODERS).map(|_| scope.spawn(|| floods(&stop, 1))).collect::<Vec<_>>();
                        let burst = floods(&stop, 400);
                        single.into_iter().map(|thread| thread.join().expect("no panic")).sum::<usize>() + burst
                    })
                })
            }
        });
        let mut took: Vec<Duration> = Vec::new();
        let mut refused = 0;
        while took.len() < 40 {
            let asked = Instant::now();
            refused += usize::from(!root_is_served());
            took.push(asked.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        let connections = flood.join().expect("no panic");
        took.sort();
        println!("{connections} connections; root's list: median {:?}, worst {:?}", took[20], took[39]);
        assert_eq!(refused, 0, "root was turned away, of 40 times");
        is_told_at_most(&daemon, began, 20, "a client was turned away");
        quiet.again();
        ends(daemon);
    });
}

#[test]
fn starts_of_ever_new_instances_fill_no_log() {
    apart("socket::starts_of_ever_new_instances_fill_no_log", || {
        let dir = tempfile::tempdir().expect("a directory");
        let kernel = idle::kernel_file(dir.path(), Does::Nothing);
        let options = ["interface { switch \"lan\" }", "allow instance { owner nobody }"];
        let template = idle::vm("web", &kernel, &options);
        let daemon = Daemon::start_quietly(&["socket owner nobody\n", &switch("lan", "bridge0"), &template].concat());
        deadline::until("the bridge", DAEMON, || testkit::bridge::exists("bridge0").then_some(()));
        let began = Instant::now();
        as_stranger(|| {
            let mut client = greeted();
            for number in 1..=150 {
                let vm = VmRef::Name(VmName::new(format!("new{number}")).expect("a name"));
                let start = proto::client::Start { vm, instance_of: VmName::new("web").ok(), ..start() };
                client.send(&ask(number, Request::Start(Box::new(start))), vec![]).expect("sent");
                let answer = client.recv_within(DAEMON).expect("an answer");
                let Received::Message(ToClient::Answer { reply: Reply::Failed(failure), .. }, _) = answer else {
                    panic!("{answer:?}");
                };
                assert!(failure.text.ends_with(NO_KVM), "{failure}");
            }
        });
        // Of priv, which limits taps, and of the parent, which limits all lines of a user together.
        is_told_at_most(&daemon, began, 20, "vmd: priv: tap ");
        is_told_at_most(&daemon, began, 20, "vmd/new");
        ends(daemon);
    });
}

#[test]
fn starts_that_are_refused_in_a_loop_fill_no_log() {
    apart("socket::starts_that_are_refused_in_a_loop_fill_no_log", || {
        let daemon = Daemon::start_quietly(CONFIGURATION);
        let began = Instant::now();
        let mut client = greeted();
        for number in 1..=2000 {
            client.send(&ask(number, Request::Start(Box::new(start()))), vec![]).expect("sent");
            let answer = client.recv_within(DAEMON).expect("an answer");
            let Received::Message(ToClient::Answer { reply: Reply::Failed(_), .. }, _) = answer else {
                panic!("{answer:?}");
            };
        }
        is_told_at_most(&daemon, began, 20, "asked to start vm"); // of the user
        is_told_at_most(&daemon, began, 20, "failed to start vm"); // of the VM
        ends(daemon);
    });
}

/// Where the daemon listens.
const SOCKET: &str = "/run/vmd.sock";

/// The daemon answers at its socket again.
fn comes_back(daemon: &Daemon) {
    deadline::until("the daemon to answer at a new socket", DAEMON, || {
        daemon.vmctl(&["status"]).status.filter(|status| *status == 0)
    });
    let socket = fs::symlink_metadata(SOCKET).expect("it is there");
    assert_eq!((socket.mode() & 0o7777, socket.uid(), socket.gid()), (0o660, 0, nogroup()), "whose it is");
}

/// What /etc/group calls so.
fn nogroup() -> u32 {
    sys::users::group_in_files("nogroup").expect("groups can be read").expect("it is there").gid
}

/// Descriptors of control, which has the listening socket too.
fn of_control(daemon: &Daemon) -> usize {
    daemon.in_role("control").first().expect("it runs").descriptors().len()
}

#[test]
fn when_the_sockets_file_goes_it_is_made_anew_and_clients_stay() {
    apart("socket::when_the_sockets_file_goes_it_is_made_anew_and_clients_stay", || {
        let daemon = Daemon::start_quietly(CONFIGURATION);
        let quiet = Quiet::of(&daemon);
        let controls = of_control(&daemon);
        let mut witness = greeted();
        let is_served = |client: &mut Client, number| {
            client.send(&ask(number, Request::List), vec![]).expect("sent");
            let answer = client.recv_within(DAEMON);
            assert!(matches!(answer, Ok(Received::Message(ToClient::Answer { .. }, _))), "{answer:?}");
        };
        fs::remove_file(SOCKET).expect("root may");
        comes_back(&daemon);
        is_served(&mut witness, 1);
        fs::rename(SOCKET, "/run/elsewhere").expect("root may");
        comes_back(&daemon);
        is_served(&mut witness, 2);
        let old =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket");
        let elsewhere = SocketAddrUnix::new("/run/elsewhere").expect("an address");
        assert_eq!(connect(&old, &elsewhere), Err(rustix::io::Errno::CONNREFUSED), "the old one leads nowhere");
        fs::remove_file("/run/elsewhere").expect("it is still there");
        // One whose connection control has not taken when the file goes.
        let control =
            daemon.in_role("control").first().and_then(|it| i32::try_from(it.pid).ok()).and_then(Pid::from_raw);
        let control = control.expect("it runs");
        kill_process(control, Signal::STOP).expect("it is ours");
        let mut early = connection();
        early.send(&ToControl::Hello { version: VERSION }, vec![]).expect("sent");
        fs::remove_file(SOCKET).expect("root may");
        deadline::until("a new socket", DAEMON, || fs::symlink_metadata(SOCKET).ok());
        kill_process(control, Signal::CONT).expect("it is ours");
        let hello = early.recv_within(DAEMON);
        assert!(matches!(hello, Ok(Received::Message(ToClient::Hello { .. }, _))), "{hello:?}");
        is_served(&mut early, 1);
        is_served(&mut witness, 3);
        // A control that is started again has the new one.
        kill_process(control, Signal::KILL).expect("it is ours");
        comes_back(&daemon);
        drop((witness, early));
        quiet.again();
        deadline::until("control to hold what it held", DAEMON, || (of_control(&daemon) == controls).then_some(()));
        ends(daemon);
    });
}

#[test]
fn a_socket_that_is_removed_in_a_loop_takes_nothing_and_fills_no_log() {
    apart("socket::a_socket_that_is_removed_in_a_loop_takes_nothing_and_fills_no_log", || {
        let daemon = Daemon::start_quietly(CONFIGURATION);
        let quiet = Quiet::of(&daemon);
        let controls = of_control(&daemon);
        let began = Instant::now();
        for _ in 0..200 {
            let old = fs::symlink_metadata(SOCKET).expect("it is there").ino();
            fs::remove_file(SOCKET).expect("root may");
            deadline::until("a new socket", DAEMON, || {
                fs::symlink_metadata(SOCKET).ok().filter(|new| new.ino() != old)
            });
        }
        comes_back(&daemon);
        is_told_at_most(&daemon, began, 5, "it was removed, and is made anew");
        quiet.again();
        deadline::until("control to hold what it held", DAEMON, || (of_control(&daemon) == controls).then_some(()));
        ends(daemon);
    });
}

#[test]
fn what_takes_the_sockets_name_is_told_once_left_alone_and_followed_by_a_new_socket() {
    apart("socket::what_takes_the_sockets_name_is_told_once_left_alone_and_followed_by_a_new_socket", || {
        let daemon = Daemon::start_quietly(CONFIGURATION);
        let quiet = Quiet::of(&daemon);
        let mut witness = greeted();
        let told = "control socket /run/vmd.sock: another file has its name; remove it, and vmd listens there again";
        for round in 1..=3 {
            fs::write("/run/other", "mine").expect("root may");
            fs::rename("/run/other", SOCKET).expect("root may");
            let lines = || daemon.log().lines().filter(|line| line.ends_with(told)).count();
            deadline::until("it to be told", DAEMON, || (lines() == round).then_some(()));
            // A reload gives the socket to its owner.
            witness.send(&ask(1, Request::Reload), vec![]).expect("sent");
            let answer = witness.recv_within(DAEMON);
            assert!(
                matches!(answer, Ok(Received::Message(ToClient::Answer { reply: Reply::Done, .. }, _))),
                "{answer:?}"
            );
            let other = fs::symlink_metadata(SOCKET).expect("it is there");
            assert_eq!((other.is_file(), other.gid(), lines()), (true, 0, round), "it is no business of vmd's");
            fs::remove_file(SOCKET).expect("root may");
            comes_back(&daemon);
        }
        // At the end too.
        fs::write("/run/other", "mine").expect("root may");
        fs::rename("/run/other", SOCKET).expect("root may");
        drop(witness);
        quiet.again();
        assert!(daemon.stop().success(), "vmd ends well");
        assert_eq!(fs::read(SOCKET).expect("it is still there"), b"mine");
        fs::remove_file(SOCKET).expect("root may");
        crate::world::gone();
    });
}
