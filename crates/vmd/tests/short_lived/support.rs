//! Starts a role of vmd as its parent does, on a machine that need not have the user `_vmd`.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use proto::{Channel, Message, Received};
use sys::child::{Child, Exit};
use sys::exe::Executable;
use sys::spawn::Spawn;

/// How long an answer may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Mounts a passwd file of ours over the host's, in a mount namespace that ends with the role.
const WITH_USER: &str = "mount --bind \"$0\" /etc/passwd && exec \"$@\"";

/// A running role and the parent's end of its channel.
pub struct Role<Tx, Rx> {
    /// The process.
    pub child: Child,
    /// To it and from it.
    pub channel: Channel<Tx, Rx>,
}

impl<Tx: Message, Rx: Message> Role<Tx, Rx> {
    /// Starts `vmd -x name`.
    pub fn start(name: &str) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let passwd = dir.path().join("passwd");
        let host = std::fs::read_to_string("/etc/passwd").expect("passwd");
        let user = if host.contains("\n_vmd:") { "" } else { "_vmd:x:990:990::/nonexistent:/usr/sbin/nologin\n" };
        std::fs::write(&passwd, host + user).expect("write");
        let passwd = passwd.to_str().expect("UTF-8");
        let unshare = Executable::open(Path::new("/usr/bin/unshare")).expect("util-linux");
        let argv = ["unshare", "--mount", "/bin/sh", "-c", WITH_USER, passwd, env!("CARGO_BIN_EXE_vmd"), "-x", name];
        let (channel, role) = proto::channel::pair::<Tx, Rx>().expect("pair");
        let null = File::options().read(true).write(true).open("/dev/null").expect("/dev/null");
        let child = Spawn::new(&unshare, &argv)
            .fd(0, null.as_fd())
            .fd(1, null.as_fd())
            .fd(2, null.as_fd())
            .fd(3, role.into_socket())
            .spawn()
            .expect("started");
        let started = Self { child, channel };
        started.wait_until_sealed();
        started
    }

    /// The role reads nothing before it is sealed, so what is said to it may be said at once; what /proc shows may not.
    fn wait_until_sealed(&self) {
        let end = std::time::Instant::now() + PATIENCE;
        while self.status("Seccomp") != "2" {
            assert!(std::time::Instant::now() < end, "the role did not seal itself within {PATIENCE:?}");
            std::thread::yield_now();
        }
    }

    /// The value of a line of its /proc/PID/status.
    pub fn status(&self, name: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.pid())).expect("status");
        let line = text.lines().find(|line| line.split(':').next() == Some(name)).expect("the line");
        line.split_once(':').expect("a colon").1.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The numbers of its descriptors.
    pub fn descriptors(&self) -> Vec<u32> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.child.pid())).expect("descriptors");
        let number = |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
        let mut numbers: Vec<u32> = entries.filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Its next answer.
    pub fn answer(&mut self) -> (Rx, Vec<std::os::fd::OwnedFd>) {
        match self.channel.recv_within(PATIENCE).expect("an answer") {
            Received::Message(message, fds) => (message, fds),
            Received::Empty | Received::Closed => panic!("the role ended instead of an answer"),
        }
    }

    /// Waits for its end.
    pub fn end(mut self) -> Exit {
        self.child.wait().expect("waited")
    }
}
