//! The real daemon under test: started in the foreground with a configuration of the test, asked with the real vmctl.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::artefacts;
use crate::console::Console;
use crate::deadline::{self, DAEMON, GUEST};
use crate::process::Process;
use crate::status::{self, Row};

/// The daemon's control socket, where vmctl finds it.
const SOCKET: &str = "/run/vmd.sock";

/// A running vmd. It is killed with the test; [`Daemon::stop`] ends it properly.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    dir: TempDir,
}

/// What a command printed, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Exit status; `None` if a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error, without the line that vmctl writes when it waits for more than two seconds.
    pub stderr: String,
}

impl Reply {
    /// The reply of a command that must have succeeded.
    pub fn success(self) -> Self {
        assert_eq!(self.status, Some(0), "it failed: {}{}", self.stdout, self.stderr);
        self
    }
}

impl Daemon {
    /// Writes the configuration to a file, starts the daemon with it, and waits until it answers.
    pub fn start(configuration: &str) -> Self {
        Self::launch(configuration).answering()
    }

    /// Starts it without debug messages, as a measurement wants.
    pub fn start_quietly(configuration: &str) -> Self {
        Self::launch_with(&["-d"], configuration).answering()
    }

    fn answering(self) -> Self {
        deadline::until("the daemon to answer", DAEMON, || {
            Path::new(SOCKET)
                .exists()
                .then(|| self.vmctl(&["status"]))?
                .stdout
                .starts_with(status::HEADER)
                .then_some(())
        });
        // Or a count of what there is would miss what vmm is still to be given.
        deadline::until("vmm to have /dev/kvm", DAEMON, || self.in_role("vmm").into_iter().any(has_kvm).then_some(()));
        self
    }

    /// Starts the daemon and does not wait: for configurations that it should refuse.
    pub fn launch(configuration: &str) -> Self {
        Self::launch_with(&["-d", "-vv"], configuration)
    }

    fn launch_with(options: &[&str], configuration: &str) -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let file = dir.path().join("vm.conf");
        fs::write(&file, configuration).expect("the configuration can be written");
        let log = File::create(dir.path().join("log")).expect("the log can be made");
        let child = Command::new(artefacts::vmd())
            .args(options)
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("vmd can be run");
        Self { child, dir }
    }

    /// The daemon's first process.
    pub fn process(&self) -> Process {
        Process { pid: self.child.id() }
    }

    /// A file of the test's own, in the directory that goes away with the daemon.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Everything that the daemon has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Runs vmctl and waits for its end.
    pub fn vmctl(&self, arguments: &[&str]) -> Reply {
        vmctl(arguments)
    }

    /// The status table.
    pub fn status(&self) -> Vec<Row> {
        status::table(&self.vmctl(&["status"]).stdout)
    }

    /// The line of one VM; panics where there is none.
    pub fn row(&self, name: &str) -> Row {
        let rows = self.status();
        rows.into_iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no VM {name:?}\n{}", self.log()))
    }

    /// Waits until a VM is in a state (`running`, `stopped`, ...).
    pub fn wait_state(&self, name: &str, state: &str) -> Row {
        deadline::until(format!("vm {name:?} to be {state}; the log:\n{}", self.log()), GUEST, || {
            self.status().into_iter().find(|row| row.name == name && row.state == state)
        })
    }

    /// Opens the console of a VM that runs, by its device.
    pub fn console(&self, name: &str) -> Console {
        Console::open(&Path::new("/dev/pts").join(self.row(name).tty.trim_start_matches("pts/")))
    }

    /// Opens a terminal with `vmctl console` on it.
    pub fn vmctl_console(&self, name: &str) -> Console {
        Console::of_program(Command::new(artefacts::vmctl()).args(["console", name]))
    }

    /// Processes of the daemon in one role.
    pub fn in_role(&self, role: &str) -> Vec<Process> {
        let family = self.process().family();
        family.into_iter().filter(|it| it.role().as_deref() == Some(role)).collect()
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a child has a pid");
        kill_process(pid, signal).expect("the daemon is ours");
    }

    /// Waits for the daemon's end.
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_within(GUEST)
    }

    /// Ends the daemon with SIGTERM and waits for it.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    fn wait_within(&mut self, limit: Duration) -> ExitStatus {
        let log = self.log();
        let child = &mut self.child;
        deadline::until(format!("the daemon to end; its log:\n{log}"), limit, || {
            child.try_wait().expect("it was started here")
        })
    }
}

/// Where a world has no KVM, /dev/kvm leads to /dev/null, of which each process has two.
fn has_kvm(vmm: Process) -> bool {
    let held = vmm.descriptors();
    held.values().any(|target| target == "/dev/kvm")
        || held.values().filter(|target| *target == "/dev/null").count() > 2
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- the daemon's log ---\n{}---", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs vmctl and waits for its end, whether there is a daemon or not.
pub fn vmctl(arguments: &[&str]) -> Reply {
    let output = Command::new(artefacts::vmctl()).args(arguments).stdin(Stdio::null()).output();
    let output = output.expect("vmctl can be run");
    let waits = |line: &&str| line.starts_with("vmctl: ") && line.trim_end().ends_with(": waiting for vmd");
    let stderr = String::from_utf8_lossy(&output.stderr);
    Reply {
        status: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: stderr.split_inclusive('\n').filter(|line| !waits(line)).collect(),
    }
}
