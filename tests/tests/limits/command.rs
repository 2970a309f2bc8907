//! vmctl with every kind of wrong argument, without a daemon, and with a socket that is something else.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Command;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, socket_with};
use testkit::apart::apart;
use testkit::artefacts;
use testkit::daemon::{Daemon, vmctl};

use crate::world::{Quiet, as_nobody, ends, refused};

const SOCKET: &str = "/run/vmd.sock";

/// vmctl fails with exactly this.
#[track_caller]
fn says(arguments: &[&str], text: &str) {
    let reply = vmctl(arguments);
    assert_eq!((reply.status, reply.stdout.as_str()), (Some(1), ""), "{arguments:?}: {reply:?}");
    assert_eq!(reply.stderr, format!("{text}\n"), "{arguments:?}");
}

#[test]
fn wrong_arguments_are_told_with_their_value_and_what_is_right() {
    apart("command::wrong_arguments_are_told_with_their_value_and_what_is_right", || {
        let daemon = Daemon::start_quietly("vm \"web\" {\n\tdisable\n\tboot \"/etc/passwd\"\n}\n");
        let quiet = Quiet::of(&daemon);
        let long = "x".repeat(64);
        let too_long = format!("vmctl: name too long: at most 63 bytes\nvmctl: invalid id: {long}");
        let rule = "use letters, digits, \".\", \"-\" and \"_\", the first a letter or digit";
        let has = |name: &str, character: &str| {
            format!("vmctl: invalid VM name: \"{name}\": name has the character {character}; {rule}")
        };
        let bytes = "a number alone is bytes, so write it with M or G";
        for (arguments, said) in [
            (
                &["start", "nosuch"][..],
                "vmctl: start \"nosuch\": vm \"nosuch\" is not known, and no kernel or disk was given to start it from (-b, -d)"
                    .to_owned(),
            ),
            (&["start", "99"], "vmctl: start vm 99: vm 99 not found".to_owned()),
            (&["start", ""], "vmctl: invalid id: : name is empty".to_owned()),
            (&["start", "a b"], has("a b", "' '")),
            (&["start", "é"], has("é", "'é'")),
            (&["start", "fe80::1"], has("fe80::1", "':'")),
            (&["start", ".x"], format!("vmctl: invalid VM name: \".x\": name begins with '.'; {rule}")),
            (&["stop", "--", "-7"], "vmctl: invalid id: -7: name begins with '-'".to_owned()),
            (&["start", "a\u{1b}[31mb"], has("a\u{fffd}[31mb", "'\\u{1b}'")),
            (&["start", &long], too_long),
            (&["start", "-p", "65", "web"], "vmctl: cpu count is too large: 65; give 1 to 64".to_owned()),
            (&["start", "-p", "0", "web"], "vmctl: cpu count is too small: 0; give 1 to 64".to_owned()),
            (&["start", "-m", "512", "web"], format!("vmctl: memory size must be at least 1MB: 512; {bytes}")),
            (&["start", "-m", "200G", "web"], "vmctl: memory size too large (limit is 128G): 200G".to_owned()),
            (
                &["start", "-b", "/no such", "web"],
                "vmctl: invalid boot image path: /no such: No such file or directory".to_owned(),
            ),
            (&["start", "-b", "/dev/null", "web"], "vmctl: kernel must be a regular file: /dev/null".to_owned()),
            (
                &["start", "-B", "floppy", "web"],
                "vmctl: unknown boot device floppy: expected cdrom, disk or net".to_owned(),
            ),
            (&["stop", "nosuch"], "stopping vm nosuch: vm not found".to_owned()),
            (&["stop", "web"], "stopping vm web: failed: vm \"web\" is not running".to_owned()),
            (&["stop", "77"], "stopping vm: vm not found".to_owned()),
            (&["wait", "web"], "waiting for vm web: failed: vm \"web\" is not running".to_owned()),
            (&["console", "nosuch"], "vmctl: console not found: there is no \"nosuch\"".to_owned()),
            (&["console", "1"], "vmctl: console not found: vm 1 does not run".to_owned()),
            (&["unpause", "nosuch"], "vmctl: unpause \"nosuch\": vm \"nosuch\" not found".to_owned()),
            (&["load", ""], "vmctl: load: the file's name is empty".to_owned()),
            (&["st"], "ambiguous argument: st: start, status, stop\nusage:\tvmctl [-v] command [arg ...]\n\tvmctl help [command]".to_owned()),
            (&["frob"], "unknown argument: frob\nusage:\tvmctl [-v] command [arg ...]\n\tvmctl help [command]".to_owned()),
        ] {
            refused(&daemon, arguments, &said);
        }
        fs::set_permissions(SOCKET, fs::Permissions::from_mode(0o666)).expect("it is ours");
        let program = Path::new("/mnt/vmctl");
        fs::copy(artefacts::vmctl(), program).expect("it is ours");
        let others = "belongs to \"root\", and uid 65534 is neither that user nor in that group";
        for (arguments, said) in [
            (&["start", "web"][..], format!("vmctl: start \"web\": vm \"web\" {others}")),
            (&["stop", "web"], format!("stopping vm web: failed: vm \"web\" {others}")),
            (&["reset"], "vmctl: reset: only root may reset, and uid 65534 is not root".to_owned()),
        ] {
            let reply = as_nobody(program, arguments);
            assert_eq!((reply.status, reply.stderr), (Some(1), format!("{said}\n")));
        }
        fs::set_permissions(SOCKET, fs::Permissions::from_mode(0o660)).expect("it is ours");
        let reply = as_nobody(program, &["status"]);
        let said =
            "vmctl: connect: /run/vmd.sock: Permission denied; \"socket owner\" in vm.conf says who may use vmd\n";
        assert_eq!((reply.status, reply.stderr.as_str()), (Some(1), said));
        quiet.again();
        ends(daemon);
    });
}

#[test]
fn status_that_nobody_takes_is_a_failure_and_a_request_whose_outcome_nobody_reads_is_made() {
    let test = "command::status_that_nobody_takes_is_a_failure_and_a_request_whose_outcome_nobody_reads_is_made";
    apart(test, || {
        let daemon = Daemon::start_quietly("vm \"web\" {\n\tdisable\n\tboot \"/etc/passwd\"\n}\n");
        let full = || fs::File::options().write(true).open("/dev/full").expect("it is there");
        let closed = || fs::File::from(rustix::pipe::pipe().expect("a pipe").1);
        let no_room = "vmctl: standard output: No space left on device\n";
        for (arguments, status) in [(&["status"][..], 0), (&["status", "--json"], 0), (&["show", "-r"], 1)] {
            // Who closes the pipe has read enough: nobody is told, and none of the VMs runs.
            for (stream, status, expected) in [(full(), 1, no_room), (closed(), status, "")] {
                let ended = Command::new(artefacts::vmctl()).args(arguments).stdout(stream).output().expect("it runs");
                let said = String::from_utf8_lossy(&ended.stderr).into_owned();
                assert_eq!((ended.status.code(), &*said), (Some(status), expected), "{arguments:?}");
            }
        }
        let silently = |arguments: &[&str], stream: fs::File| {
            Command::new(artefacts::vmctl()).args(arguments).stderr(stream).status().expect("it runs").code()
        };
        assert_eq!([silently(&["stop", "web"], full()), silently(&["start", "web"], closed())], [Some(1); 2]);
        assert_eq!((silently(&["reset"], full()), daemon.status().len()), (Some(0), 0));
        ends(daemon);
    });
}

#[test]
fn a_socket_without_a_daemon_or_of_something_else_is_told() {
    apart("command::a_socket_without_a_daemon_or_of_something_else_is_told", || {
        let connect = |why: &str| says(&["status"], &format!("vmctl: connect: {SOCKET}: {why}"));
        connect("No such file or directory; is vmd running?");
        fs::write(SOCKET, "").expect("it is ours");
        connect("Connection refused; is vmd running?");
        fs::remove_file(SOCKET).expect("it is ours");
        let stream = UnixListener::bind(SOCKET).expect("it is ours");
        let anothers = "Protocol wrong type for socket; another program listens there: end it, then start vmd";
        connect(anothers);
        drop(stream);
        connect("Connection refused; is vmd running?");
        fs::remove_file(SOCKET).expect("it is ours");
        let _datagrams = UnixDatagram::bind(SOCKET).expect("it is ours");
        connect(anothers);
        fs::remove_file(SOCKET).expect("it is ours");

        let listener =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket");
        bind(&listener, &SocketAddrUnix::new(SOCKET).expect("an address")).expect("it is ours");
        listen(&listener, 5).expect("it is bound");
        for (bytes, said) in [
            (&[0xff; 9][..], "vmctl: talking to vmd: malformed message"),
            (b"HTTP/1.0 200 OK\r\n", "vmctl: talking to vmd: malformed message"),
            (&[0xa5; 100_000], "vmctl: talking to vmd: message over"),
            (&[], "vmctl: pipe closed: the daemon ended the connection; see its log"),
        ] {
            let reply = answered_with(&listener, bytes);
            assert_eq!((reply.status, reply.stderr.lines().count()), (Some(1), 1), "{reply:?}");
            assert!(reply.stderr.starts_with(said), "{reply:?}");
        }
    });
}

/// Serves one vmctl with these bytes, and hangs up.
fn answered_with(listener: &OwnedFd, bytes: &[u8]) -> testkit::daemon::Reply {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let client = accept(listener).expect("a client");
            if !bytes.is_empty() {
                sys::seqpacket::send(std::os::fd::AsFd::as_fd(&client), bytes, &[]).expect("sent");
            }
        });
        vmctl(&["status"])
    })
}
