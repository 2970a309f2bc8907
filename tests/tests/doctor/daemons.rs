//! Hosts on which a daemon runs, hangs, is of another release, or was killed and left something.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Command;

use proto::client::{ToClient, ToControl};
use proto::{Channel, Received};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with};
use rustix::process::{Pid, Signal, kill_process};
use testkit::bridge;
use testkit::daemon::Daemon;
use testkit::deadline::{self, DAEMON};
use testkit::process::Process;

use crate::world::{Report, as_user, changes, faulty, sound, vmctl};

const SOCKET: &str = "/run/vmd.sock";

fn kill(process: Process, signal: Signal) {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("it is ours");
}

/// A configuration whose bridge is vmd's own.
const CONFIGURATION: &str =
    "switch \"lan\" { interface bridge0 }\nvm \"web\" {\n\tdisable\n\tboot \"/etc/passwd\"\n}\n";

/// A /dev/kvm with which a daemon starts, whatever this machine has: it is found out to be none when a VM starts.
fn null_kvm() {
    std::fs::remove_file("/dev/kvm").expect("it is ours");
    std::os::unix::fs::symlink("null", "/dev/kvm").expect("it is ours");
}

/// Ends all processes of a daemon with SIGKILL: none has a moment to clear up.
pub fn kill_all(mut daemon: Daemon) {
    let parent = daemon.process();
    kill(parent, Signal::STOP); // it would start them again
    for process in parent.family().into_iter().filter(|process| *process != parent) {
        kill(process, Signal::KILL);
    }
    kill(parent, Signal::KILL);
    daemon.wait();
    deadline::until("the end of all processes", DAEMON, || Process::of_vmd().is_empty().then_some(()));
}

#[test]
fn what_a_killed_daemon_left_is_named_and_gone_after_the_next() {
    sound("daemons::what_a_killed_daemon_left_is_named_and_gone_after_the_next", || {
        null_kvm();
        let before = Report::of(&mut vmctl());
        before.has("leftovers", "ok", "nothing is left of an earlier vmd");
        let daemon = Daemon::start(CONFIGURATION);
        deadline::until("the bridge", DAEMON, || bridge::exists("bridge0").then_some(()));
        let pid = daemon.process().pid;
        let runs = Report::of(&mut vmctl());
        runs.has("daemon", "ok", &format!("vmd runs (pid {pid}) and answers"));
        runs.has("leftovers", "ok", "the running daemon");
        let by_user = Report::of(&mut as_user());
        by_user.has("daemon", "note", "user \"4321\" may not talk to it");
        kill_all(daemon);
        let after = Report::of(&mut vmctl());
        let expected = [
            ("leftovers", "warning", "interface bridge0"),
            ("leftovers", "warning", "socket /run/vmd.sock"),
            ("leftovers", "warning", &*format!("/run/vmd.pid of pid {pid}")),
            ("leftovers", "warning", "ip link delete bridge0"),
            ("socket", "warning", "/run/vmd.sock: nobody listens"),
        ];
        changes(&before, &after, &expected);
        assert!(Daemon::start(CONFIGURATION).stop().success(), "vmd ends well");
        changes(&before, &Report::of(&mut vmctl()), &[]);
    });
}

#[test]
fn a_tap_left_in_a_group_of_the_administrators() {
    faulty(
        "daemons::a_tap_left_in_a_group_of_the_administrators",
        &[("leftovers", "warning", "interface tap7"), ("leftovers", "warning", "ip link delete tap7")],
        || {
            let made = "ip tuntap add tap7 mode tap && ip tuntap add tap8 mode tap \
                && ip link property add dev tap7 altname vmd-tap7 && ip link set tap7 group 5 && ip link set tap8 group 5";
            assert!(Command::new("sh").args(["-c", made]).status().expect("sh can be run").success());
        },
    );
}

#[test]
fn a_stale_socket() {
    faulty(
        "daemons::a_stale_socket",
        &[("socket", "warning", "nobody listens"), ("leftovers", "warning", "socket")],
        || {
            drop(listener());
        },
    );
}

#[test]
fn a_socket_that_is_a_directory() {
    faulty("daemons::a_socket_that_is_a_directory", &[("socket", "fault", "/run/vmd.sock: a directory")], || {
        std::fs::create_dir(SOCKET).expect("it is ours");
    });
}

fn listener() -> OwnedFd {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket");
    bind(&socket, &SocketAddrUnix::new(SOCKET).expect("an address")).expect("bound");
    listen(&socket, 5).expect("it listens");
    socket
}

/// Greets as a daemon of that version does.
fn greets(daemon: u32) {
    let listener = listener();
    std::thread::spawn(move || {
        let mut client: Channel<ToClient, ToControl> =
            Channel::new(accept_with(&listener, SocketFlags::CLOEXEC).expect("a client"));
        let hello = client.recv_within(DAEMON).expect("a greeting");
        let Received::Message(ToControl::Hello { version }, _) = hello else { panic!("{hello:?}") };
        client.send(&ToClient::WrongVersion { daemon, client: version }, vec![]).expect("sent");
    });
}

#[test]
fn a_daemon_of_another_release() {
    let expected = [
        ("daemon", "fault", "speaks protocol 99; this vmctl speaks"),
        ("daemon", "fault", "use the vmctl that came with it"),
        ("leftovers", "ok", "the running daemon"),
        ("socket", "ok", "a vmd listens"),
    ];
    faulty("daemons::a_daemon_of_another_release", &expected, || greets(99));
}

#[test]
fn another_program_on_the_socket() {
    let expected = [("daemon", "fault", "does not answer: "), ("socket", "warning", "/run/vmd.sock: ")];
    sound("daemons::another_program_on_the_socket", || {
        let before = Report::of(&mut vmctl());
        let _stream = UnixListener::bind(SOCKET).expect("bound");
        changes(&before, &Report::of(&mut vmctl()), &expected);
    });
}

/// Its connections wait to be taken, and no more fit: connecting itself would wait for ever.
#[test]
fn a_daemon_that_hangs() {
    sound("daemons::a_daemon_that_hangs", || {
        null_kvm();
        let before = Report::of(&mut vmctl());
        let daemon = Daemon::start(CONFIGURATION);
        let control = daemon.in_role("control");
        control.iter().for_each(|process| kill(*process, Signal::STOP));
        let after = Report::of(&mut vmctl());
        after.has("daemon", "fault", "does not answer: ");
        control.iter().for_each(|process| kill(*process, Signal::CONT));
        assert!(daemon.stop().success(), "vmd ends well");
        changes(&before, &Report::of(&mut vmctl()), &[]);
    });
}
