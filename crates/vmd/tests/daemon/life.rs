//! The daemon as a whole: it serves, ends, and leaves nothing, however it ends.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use proto::client::{Reply, Request, ToClient, ToControl, VERSION};
use proto::{Channel, Received, RequestId};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, Signal, kill_process};
use sys::netlink::{Link, LinkKind, Route};

use crate::world::{configuration, mount, nothing_is_left, own_dev, own_world};

const PATIENCE: Duration = Duration::from_secs(30);
const SWITCH: &str = "switch \"lan\" {\n\tinterface bridge0\n}\n";

/// A daemon without guests; killed with the test.
pub struct Daemon {
    child: Child,
    dir: PathBuf,
}

/// A world in which a daemon can run: /dev/kvm exists, but is not KVM. No cgroups: the host's are not the test's.
pub fn world() -> tempfile::TempDir {
    world_with(&[])
}

/// With these devices too: their names below /dev, and what stands for them.
fn world_with(more: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = own_world(true);
    mount(&["-t", "tmpfs", "tmpfs", "/sys/fs/cgroup"]);
    let devices = [("null", "/dev/null"), ("kvm", "/dev/null"), ("net/tun", "/dev/net/tun")];
    own_dev(dir.path(), &[&devices, more].concat());
    dir
}

/// Waits for something, and fails with its name.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Daemon {
    pub fn start(dir: &Path, text: &str) -> Self {
        let file = configuration(dir, text);
        let log = std::fs::File::create(dir.join("log")).expect("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmd"));
        command.args(["-d", "-vv", "-f", &file]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let daemon = Self { child: command.spawn().expect("vmd"), dir: dir.to_owned() };
        until("the daemon to serve", || try_list().ok());
        daemon
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).expect("log")
    }

    /// The process of a role.
    pub fn role(&self, role: &str) -> Option<Pid> {
        let parent = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        let is_role = |pid: &&str| {
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            arguments.split(|byte| *byte == 0).nth(2) == Some(role.as_bytes())
        };
        let pid = children.split_whitespace().find(is_role)?;
        Pid::from_raw(pid.parse().ok()?)
    }

    pub fn kill(&self, role: &str) -> Pid {
        let pid = self.role(role).unwrap_or_else(|| panic!("no {role}"));
        kill_process(pid, Signal::KILL).expect("kill");
        pid
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("signal");
    }

    fn wait(mut self) -> Option<i32> {
        until("the daemon to end", || self.child.try_wait().expect("wait")).code()
    }

    pub fn end(self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.wait()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn connection() -> std::io::Result<Channel<ToControl, ToClient>> {
    let address = SocketAddrUnix::new("/run/vmd.sock")?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &address)?;
    Ok(Channel::new(socket))
}

/// Asks for the list of VMs, with the handshake before it; how many there are.
pub fn try_list() -> std::io::Result<usize> {
    let mut client = connection()?;
    let late = |error: proto::channel::ChannelError| std::io::Error::other(error);
    client.send(&ToControl::Hello { version: VERSION }, vec![]).map_err(late)?;
    let ask = ToControl::Ask { id: RequestId(1), request: Request::List };
    client.send(&ask, vec![]).map_err(late)?;
    let mut vms = 0;
    loop {
        match client.recv_within(Duration::from_secs(5)).map_err(late)? {
            Received::Message(ToClient::Hello { .. }, _) => {}
            Received::Message(ToClient::Answer { reply: Reply::Vms(some), .. }, _) => vms += some.len(),
            Received::Message(ToClient::Answer { reply: Reply::Done, .. }, _) => return Ok(vms),
            other => return Err(std::io::Error::other(format!("{other:?}"))),
        }
    }
}

fn route() -> Route {
    Route::open(PATIENCE).expect("netlink")
}

fn bridge() -> Option<Link> {
    route().link("bridge0").expect("netlink")
}

pub fn alive(pid: Pid) -> bool {
    Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists()
}

#[test]
fn it_makes_its_switches_serves_and_leaves_nothing() {
    let dir = world();
    let daemon = Daemon::start(dir.path(), SWITCH);
    // It is there before it has all that it gets, and up last.
    let made = until("the bridge to be up", || bridge().filter(|link| link.up));
    assert_eq!(made.kind, LinkKind::Bridge);
    assert!(made.alias.starts_with("switch") && made.alias.ends_with("-lan"), "{}", made.alias);
    assert_eq!(try_list().expect("a list"), 0);
    assert_eq!(daemon.end(), Some(0));
    nothing_is_left();
}

#[test]
fn a_killed_parent_takes_all_with_it_and_priv_removes_the_bridge() {
    let dir = world();
    let daemon = Daemon::start(dir.path(), SWITCH);
    until("the bridge", bridge);
    let roles = ["control", "priv", "vmm"].map(|role| daemon.role(role).expect("a role"));
    daemon.signal(Signal::KILL);
    daemon.wait();
    for pid in roles {
        until("a role to end", || (!alive(pid)).then_some(()));
    }
    assert_eq!(bridge(), None);
}

#[test]
fn what_a_killed_daemon_left_goes_at_the_next_start() {
    let dir = world();
    let daemon = Daemon::start(dir.path(), SWITCH);
    until("the bridge", bridge);
    // Stopped first, so that the parent starts no other in its place.
    daemon.signal(Signal::STOP);
    let privileged = daemon.kill("priv");
    daemon.signal(Signal::KILL);
    daemon.wait();
    until("priv to end", || (!alive(privileged)).then_some(()));
    assert!(bridge().is_some(), "left behind");
    let next = Daemon::start(dir.path(), "");
    until("the sweep", || bridge().is_none().then_some(()));
    assert_eq!(next.end(), Some(0));
    nothing_is_left();
}

/// How many descriptors of a role lead to the device that this path leads to.
fn held(daemon: &Daemon, role: &str, path: &str) -> usize {
    let device = std::fs::metadata(path).expect("the device").rdev();
    let pid = daemon.role(role).expect("the role").as_raw_nonzero();
    let held = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
    held.flatten().filter(|fd| std::fs::metadata(fd.path()).is_ok_and(|fd| fd.rdev() == device)).count()
}

#[test]
fn vmm_alone_holds_the_secure_processor_of_a_host_that_has_one() {
    let dir = world_with(&[("sev", "/dev/zero")]);
    let daemon = Daemon::start(dir.path(), "");
    until("vmm to hold it", || (held(&daemon, "vmm", "/dev/sev") == 1).then_some(()));
    assert_eq!(["control", "priv"].map(|role| held(&daemon, role, "/dev/sev")), [0, 0]);
    assert_eq!(daemon.end(), Some(0));
    nothing_is_left();
}

#[test]
fn control_is_started_again_and_serves() {
    let dir = world();
    let daemon = Daemon::start(dir.path(), SWITCH);
    until("the bridge", bridge);
    let mut client = connection().expect("a connection");
    client.send(&ToControl::Hello { version: VERSION }, vec![]).expect("sent");
    assert!(matches!(client.recv_within(PATIENCE), Ok(Received::Message(ToClient::Hello { .. }, _))));
    daemon.kill("control");
    assert!(matches!(client.recv_within(PATIENCE), Ok(Received::Closed)), "its clients are disconnected");
    until("another control", || try_list().ok());
    assert!(daemon.log().contains("control ended"), "{}", daemon.log());
    assert_eq!(daemon.end(), Some(0));
    nothing_is_left();
}

#[test]
fn priv_is_started_again_and_takes_over_the_switches() {
    let dir = world();
    let daemon = Daemon::start(dir.path(), SWITCH);
    let made = until("the bridge", bridge);
    let first = daemon.kill("priv");
    until("another priv", || daemon.role("priv").filter(|pid| *pid != first));
    try_list().expect("clients are served meanwhile");
    assert_eq!(bridge().expect("still there").index, made.index, "the same bridge");
    assert_eq!(daemon.end(), Some(0));
    nothing_is_left();
}

#[test]
fn the_end_of_vmm_ends_the_daemon_and_leaves_nothing() {
    let dir = world();
    let daemon = Daemon::start(dir.path(), SWITCH);
    until("the bridge", bridge);
    daemon.kill("vmm");
    assert_eq!(daemon.wait(), Some(1));
    nothing_is_left();
}
