//! Clients that wait: a thousand waits, on one connection and on many, hold up nobody and end with what they wait for.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use e2e::idle::{Does, kernel_file, vm};
use proto::client::{Reply, Request, ToClient};
use proto::{Code, Received, RequestId};
use rustix::process::{Pid, Signal, kill_process};
use testkit::apart::apart;
use testkit::daemon::{self, Daemon};
use testkit::deadline::{self, DAEMON};
use testkit::process::Process;

use crate::socket::{Client, ask, greeted, web};
use crate::world::{Quiet, ends};

/// Beside them control has places for others.
const CONNECTIONS: usize = 200;
/// Waits of one connection.
const THOUSAND: u32 = 1000;
/// What an answer may take while they wait: far less than anything has as its deadline.
const AT_ONCE: Duration = Duration::from_secs(10);

fn signal(process: Process, signal: Signal) {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("it runs");
}

fn told(client: &mut Client) -> (RequestId, Reply) {
    match client.recv_within(DAEMON) {
        Ok(Received::Message(ToClient::Answer { id, reply }, _)) => (id, reply),
        other => panic!("no answer: {other:?}"),
    }
}

/// A daemon with a VM whose kernel is one.
fn daemon(kernel: &tempfile::TempDir) -> Daemon {
    Daemon::start_quietly(&vm("web", &kernel_file(kernel.path(), Does::Nothing), &[]))
}

/// Starts its VM, which does not go on while vmm is stopped: without a KVM none ever runs.
fn begin(daemon: &Daemon) -> (Process, JoinHandle<daemon::Reply>) {
    let vmm = daemon.in_role("vmm")[0];
    signal(vmm, Signal::STOP);
    let start = std::thread::spawn(|| daemon::vmctl(&["start", "web"]));
    deadline::until("the start", DAEMON, || (daemon.row("web").state == "starting").then_some(()));
    (vmm, start)
}

fn fails(vmm: Process, start: JoinHandle<daemon::Reply>) {
    signal(vmm, Signal::CONT);
    let reply = start.join().expect("no panic");
    assert!(reply.stderr.contains("/dev/kvm"), "{reply:?}");
}

#[test]
fn a_thousand_waits_hold_up_nobody_and_end_with_the_vm() {
    apart("waits::a_thousand_waits_hold_up_nobody_and_end_with_the_vm", || {
        let kernel = tempfile::tempdir().expect("a directory");
        let daemon = daemon(&kernel);
        let quiet = Quiet::of(&daemon);
        let (vmm, start) = begin(&daemon);
        let mut greedy = greeted();
        for number in 1..=THOUSAND {
            greedy.send(&ask(number, Request::Wait { vm: web() }), vec![]).expect("sent");
            if number > 1 {
                let (id, reply) = told(&mut greedy);
                assert_eq!(id, RequestId(number));
                assert!(matches!(&reply, Reply::Failed(failure) if failure.code == Code::Busy), "{reply:?}");
            }
        }
        let mut waiting: Vec<Client> = (0..CONNECTIONS).map(|_| greeted()).collect();
        for client in &mut waiting {
            client.send(&ask(7, Request::Wait { vm: web() }), vec![]).expect("sent");
        }
        let begun = Instant::now();
        assert_eq!(daemon.row("web").state, "starting");
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        // Half of them leave, and take their waits along; some of them were never read.
        waiting.truncate(CONNECTIONS / 2);
        assert_eq!(daemon.row("web").state, "starting");
        fails(vmm, start);
        for client in waiting.iter_mut().chain([&mut greedy]) {
            assert!(matches!(told(client).1, Reply::Ended { .. }), "each wait ends with what it waits for");
        }
        drop((waiting, greedy));
        assert_eq!(daemon.row("web").state, "stopped");
        quiet.again();
        ends(daemon);
    });
}

#[test]
fn a_thousand_waits_that_nobody_reads_leave_nothing() {
    apart("waits::a_thousand_waits_that_nobody_reads_leave_nothing", || {
        let kernel = tempfile::tempdir().expect("a directory");
        let daemon = daemon(&kernel);
        let quiet = Quiet::of(&daemon);
        let (vmm, start) = begin(&daemon);
        let meanwhile = Quiet::of(&daemon);
        let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| greeted()).collect();
        for number in 1..=THOUSAND {
            for client in clients.iter_mut().take(4) {
                // Full, or cut off: the next finds out.
                let _ = client.send(&ask(number, Request::Wait { vm: web() }), vec![]);
            }
        }
        for client in &mut clients {
            let _ = client.send(&ask(THOUSAND + 1, Request::Wait { vm: web() }), vec![]);
        }
        let begun = Instant::now();
        assert_eq!(daemon.row("web").state, "starting");
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        drop(clients);
        meanwhile.again();
        fails(vmm, start);
        quiet.again();
        ends(daemon);
    });
}
