//! What the tests share: a refusal word for word, and the proof that nothing was left behind.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use testkit::artefacts;
use testkit::census::Census;
use testkit::daemon::{Daemon, Reply};
use testkit::deadline::{self, DAEMON};
use testkit::process::Process;

/// What a start ends with where all was right but for the KVM, which is /dev/null.
pub const NO_KVM: &str = "/dev/kvm: is not KVM; load kvm_intel or kvm_amd, which create it";

/// Looks in a row that must see the same.
const LOOKS: u32 = 4;

/// A count of all that a request could leave behind, the daemon's first process included.
pub struct Quiet<'a> {
    daemon: &'a Daemon,
    census: Census,
    descriptors: usize,
}

impl<'a> Quiet<'a> {
    /// Counts, once what the last request needed is gone: when several looks see the same.
    pub fn of(daemon: &'a Daemon) -> Self {
        let look = || (Census::take(), daemon.process().descriptors().len());
        let mut last = look();
        let mut same = 0;
        deadline::until("the daemon to be calm", DAEMON, || {
            let now = look();
            same = if now == last { same + 1 } else { 0 };
            last = now;
            (same == LOOKS).then_some(())
        });
        Self { daemon, census: last.0, descriptors: last.1 }
    }

    /// Waits until all is again as it was.
    pub fn again(&self) {
        self.census.wait_same();
        let mut last = 0;
        let what = format!("the daemon to hold {} descriptors again", self.descriptors);
        deadline::until(what, DAEMON, || {
            last = self.daemon.process().descriptors().len();
            (last == self.descriptors).then_some(())
        });
    }
}

/// A daemon without VMs of its own.
pub fn bare() -> Daemon {
    Daemon::start_quietly("")
}

/// vmctl fails with exactly this on standard error, and nothing on standard output.
#[track_caller]
pub fn refused(daemon: &Daemon, arguments: &[&str], text: &str) {
    let reply = daemon.vmctl(arguments);
    assert_eq!((reply.status, reply.stdout.as_str()), (Some(1), ""), "{arguments:?}: {}", reply.stderr);
    assert_eq!(reply.stderr, format!("{text}\n"), "{arguments:?}");
}

/// The daemon ends well, and neither processes nor names in /run are left.
pub fn ends(daemon: Daemon) {
    assert!(daemon.stop().success(), "vmd ends well");
    gone();
}

/// Neither processes of vmd nor names in /run are left.
pub fn gone() {
    deadline::until("the end of all processes", DAEMON, || Process::of_vmd().is_empty().then_some(()));
    let mut left = Vec::new();
    deadline::until("the names in /run to go", DAEMON, || {
        left = in_run();
        left.is_empty().then_some(())
    });
}

/// Names in /run, but for mount(8)'s own.
pub fn in_run() -> Vec<String> {
    let entries = fs::read_dir("/run").expect("/run can be read").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "mount").collect()
}

/// Runs vmd to its end; one that starts although it must not is ended, with status 124.
pub fn vmd(arguments: &[&str]) -> Reply {
    run(Command::new("timeout").arg(DAEMON.as_secs().to_string()).arg(artefacts::vmd()).args(arguments))
}

/// Runs a command as nobody in no group of note.
pub fn as_nobody(program: &Path, arguments: &[&str]) -> Reply {
    run(Command::new(program).args(arguments).uid(65534).gid(65534))
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Reply {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Reply { status: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a test's paths are UTF-8")
}
