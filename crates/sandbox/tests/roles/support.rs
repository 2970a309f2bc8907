//! Runs the fixture as a role, and says how it ended.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// SIGSYS: what a call outside the promise ends with.
pub const KILLED: Ended = Ended::Signal(31);

/// How a fixture ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The errno of the first step that failed; 0: none did.
    Errno(i32),
    /// A signal.
    Signal(i32),
}

/// Whether VMs have users of their own here: in a chroot no user namespace can be made, and some containers forbid it.
pub fn vms_have_users() -> bool {
    let made = Command::new("unshare").args(["--user", "true"]).stderr(Stdio::null()).status();
    made.expect("unshare(1) can be run").success()
}

/// The whole command line for `role`: the children of vmm are started by a vmm that the parent started.
fn command_line<'a>(role: &'a str, steps: &[&'a str]) -> Vec<&'a str> {
    let chain: &[&str] = match role {
        "vm" | "vioblk" | "vionet" | "vioballoon" | "vioscsi" if vms_have_users() => {
            &["parent", "start", "vmm", "as-vm", "7", "start"]
        }
        "vm" | "vioblk" | "vionet" | "vioballoon" | "vioscsi" => &["parent", "start", "vmm", "start"],
        "opener" | "probe" | "control" | "priv" | "agentx" | "vmm" => &["parent", "start"],
        _ => &[],
    };
    [chain, &[role], steps].concat()
}

fn command(role: &str, steps: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox-fixture"));
    command.args(command_line(role, steps)).stderr(Stdio::null());
    command
}

/// Runs the role's steps to the end.
pub fn run(role: &str, steps: &[&str]) -> Ended {
    run_onto(role, steps, Stdio::null())
}

/// The same with that as its standard output.
pub fn run_onto(role: &str, steps: &[&str], stdout: Stdio) -> Ended {
    let status = command(role, steps).stdin(Stdio::null()).stdout(stdout).status().expect("the fixture starts");
    match (status.code(), status.signal()) {
        (Some(code), _) if code > 128 && code < 200 => Ended::Signal(code - 128), // passed on by its starter
        (Some(code), _) => Ended::Errno(code),
        (None, signal) => Ended::Signal(signal.expect("an exit or a signal")),
    }
}

/// A role that has entered its promise and waits; it ends when this is dropped.
pub struct Idle {
    fixture: Child,
    /// Its process id, that of the last process of the chain.
    pub pid: u32,
}

impl Idle {
    /// Starts the role and waits until it is idle.
    pub fn start(role: &str, steps: &[&str]) -> Self {
        Self::run(role, command(role, &[steps, &["idle"]].concat()))
    }

    /// The same as a role of the VM of this number; of none, or where VMs have no users, as one of the daemon's user.
    pub fn start_of(vm: Option<u32>, role: &str) -> Self {
        let number = vm.unwrap_or_default().to_string();
        let own: &[&str] = if vm.is_some() && vms_have_users() { &["as-vm", &number] } else { &[] };
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox-fixture"));
        command.args(["parent", "start", "vmm"]).args(own).args(["start", role, "idle"]).stderr(Stdio::null());
        Self::run(role, command)
    }

    /// Its starter.
    pub fn starter(&self) -> u32 {
        self.status("PPid").parse().expect("a pid")
    }

    /// The same with `dir` as the root, which is no mount point.
    pub fn start_in_chroot(dir: &Path, role: &str) -> Self {
        std::fs::copy(env!("CARGO_BIN_EXE_sandbox-fixture"), dir.join("fixture")).expect("a copy");
        for name in ["proc", "etc"] {
            std::fs::create_dir(dir.join(name)).expect("a directory");
        }
        let users = "root:x:0:0::/:/bin/sh\n_vmd:x:990:990::/nonexistent:/usr/sbin/nologin\n";
        std::fs::write(dir.join("etc/passwd"), users).expect("a file");
        let mut command = Command::new("unshare");
        let script = "mount --rbind /proc \"$0/proc\" && exec chroot \"$0\" /fixture \"$@\"";
        // In a chroot there is no user namespace, so VMs have no users of their own.
        let line = command_line(role, &["idle"]).into_iter().filter(|step| !["as-vm", "7"].contains(step));
        command.args(["--mount", "sh", "-c", script]).arg(dir).args(line);
        Self::run(role, command)
    }

    fn run(role: &str, mut command: Command) -> Self {
        let mut fixture = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the fixture starts");
        let mut line = String::new();
        BufReader::new(fixture.stdout.take().expect("piped")).read_line(&mut line).expect("its output");
        assert_eq!(line, "idle\n", "{role} did not come up");
        let pid = youngest(fixture.id());
        Self { fixture, pid }
    }

    /// The value of a line of its /proc/PID/status.
    pub fn status(&self, name: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("status");
        let line = text.lines().find(|line| line.split(':').next() == Some(name)).expect("the line");
        line.split_once(':').expect("a colon").1.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The inode that names one of its namespaces.
    pub fn namespace(&self, name: &str) -> std::path::PathBuf {
        std::fs::read_link(format!("/proc/{}/ns/{name}", self.pid)).expect("namespace")
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        drop(self.fixture.stdin.take());
        let _ = self.fixture.wait();
    }
}

/// The end of a chain of only children.
fn youngest(pid: u32) -> u32 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children");
    match children.split_whitespace().next() {
        Some(child) => youngest(child.parse().expect("a pid")),
        None => pid,
    }
}

/// A `call` step from a number and its arguments.
pub fn call(number: i64, arguments: &[i64]) -> String {
    let all: Vec<String> = std::iter::once(&number).chain(arguments).map(i64::to_string).collect();
    all.join(",")
}
