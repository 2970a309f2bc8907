//! agentx within the daemon: when it runs, to whom it is connected, and what its end costs. The master here only listens and
//! is no snmpd; that is in `tests/tests/snmp.rs`.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::life::{Daemon, alive, try_list, until, world};
use crate::world::{configuration, nothing_is_left};

/// What agentx writes first, where it begins with its session (RFC 2741, 6.1: version 1, type 1, network byte order).
const OPEN: [u8; 4] = [1, 1, 16, 0];

/// A master's socket that root alone may reach, as Debian's snmpd makes it.
fn listener(path: &str) -> UnixListener {
    let listener = UnixListener::bind(path).expect("a socket");
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).expect("it is ours");
    listener.set_nonblocking(true).expect("a socket");
    listener
}

/// Waits for agentx to come and to open its session.
fn session(listener: &UnixListener) -> UnixStream {
    let mut stream = until("agentx to connect", || listener.accept().ok()).0;
    stream.set_nonblocking(false).expect("a socket");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a deadline");
    let mut first = [0; 4];
    stream.read_exact(&mut first).expect("an open");
    assert_eq!(first, OPEN);
    stream
}

/// Reads on to the end of the connection.
fn ends(mut stream: UnixStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("its end");
}

/// Signals of one kind become one while they wait, so it is read before the next.
fn reload(daemon: &Daemon, dir: &Path, text: &str) {
    let read = || daemon.log().matches("configuration reloaded").count();
    let before = read();
    configuration(dir, text);
    daemon.signal(Signal::HUP);
    until("the reload", || (read() > before).then_some(()));
}

#[test]
fn agentx_runs_only_where_it_is_wanted_and_follows_the_file() {
    let dir = world();
    let (one, other) = (listener("/run/one"), listener("/run/other"));
    let daemon = Daemon::start(dir.path(), "");
    assert_eq!(daemon.role("agentx"), None, "nobody wants it");

    reload(&daemon, dir.path(), "agentx path \"/run/one\"\n");
    let stream = session(&one);
    let first = daemon.role("agentx").expect("it runs");

    // The same once more, and a context: neither ends the connection nor the process.
    reload(&daemon, dir.path(), "agentx path \"/run/one\"\nswitch \"lan\" {\n\tinterface bridge0\n}\n");
    reload(&daemon, dir.path(), "agentx path \"/run/one\" context \"lab\"\n");
    assert_eq!(daemon.role("agentx"), Some(first));
    assert!(one.accept().is_err(), "no other connection");

    reload(&daemon, dir.path(), "agentx path \"/run/other\"\n");
    ends(stream);
    let stream = session(&other);
    until("the first to end", || (!alive(first)).then_some(()));

    reload(&daemon, dir.path(), "");
    ends(stream);
    until("agentx to end", || daemon.role("agentx").is_none().then_some(()));
    assert!(!daemon.log().contains("agentx ended"), "{}", daemon.log());
    assert_eq!(daemon.end(), Some(0));
    for path in ["/run/one", "/run/other"] {
        std::fs::remove_file(path).expect("it is ours");
    }
    nothing_is_left();
}

#[test]
fn agentx_is_started_again_and_connects() {
    let dir = world();
    let master = listener("/run/master");
    let daemon = Daemon::start(dir.path(), "agentx path \"/run/master\"\n");
    let stream = session(&master);
    let first = daemon.kill("agentx");
    ends(stream);
    let stream = session(&master);
    assert_ne!(daemon.role("agentx"), Some(first));
    assert!(daemon.log().contains("agentx ended"), "{}", daemon.log());
    // The master goes away for a while: the same agentx connects again, with one warning.
    let kept = daemon.role("agentx");
    drop((stream, master));
    std::fs::remove_file("/run/master").expect("it is ours");
    until("a warning", || daemon.log().contains("\"/run/master\": No such file").then_some(()));
    let master = listener("/run/master");
    let stream = session(&master);
    assert_eq!(daemon.role("agentx"), kept);
    assert_eq!(daemon.log().matches("No such file or directory (does the master run").count(), 1);
    assert_eq!(daemon.end(), Some(0));
    ends(stream);
    std::fs::remove_file("/run/master").expect("it is ours");
    nothing_is_left();
}

#[test]
fn an_agentx_that_ends_again_and_again_costs_nobody_else_anything() {
    let dir = world();
    let daemon = Daemon::start(dir.path(), "agentx path \"/run/nobody\"\n");
    let others = || ["control", "priv", "vmm"].map(|role| daemon.role(role).expect("a role"));
    let before = others();
    let mut last = None;
    while !daemon.log().contains("agentx ended too often") {
        if let Some(pid) = daemon.role("agentx").filter(|pid| Some(*pid) != last) {
            last = Some(daemon.kill("agentx"));
            assert_eq!(last, Some(pid));
        }
        try_list().expect("clients are served");
    }
    assert_eq!(daemon.role("agentx"), None);
    until("one more, later", || daemon.role("agentx"));
    assert_eq!(others(), before);
    assert_eq!(daemon.end(), Some(0));
    nothing_is_left();
}
