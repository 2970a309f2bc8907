//! The machine a test runs on: one whose /dev/kvm boots stock kernels, this one or the lab (`scripts/on-kvm`).
//!
//! A test calls [`on_kvm`] with its own name. Outside, that starts the test's own binary again on such a machine, with
//! only that test selected; inside, it runs the body. A machine that failed is told apart from a test that failed, and
//! tried once more, by the script.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::artefacts;
use tempfile::TempDir;

/// Set inside, to the name of the test that may run its body there.
const INSIDE: &str = "VMD_TEST_INSIDE";

/// Printed inside after the body, so that a wrong name (which selects no test, and succeeds) is seen.
const DONE: &str = "test body done:";

/// Set inside a Debian with systemd: the directory that the test has prepared.
const PREPARED: &str = "VMD_TEST_PREPARED";

/// Where such a Debian counts its boots.
const BOOTS: &str = "/var/lib/boots";

/// What a test needs of its machine.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Memory in MiB. What guests do not touch costs nothing.
    pub memory_mib: u32,
    /// Time limit in seconds, the machine's own start included. Beyond it the machine, not the test, has failed: waits
    /// inside end earlier.
    pub limit_s: u32,
}

impl Default for Machine {
    fn default() -> Self {
        Self { memory_mib: 4096, limit_s: 900 }
    }
}

/// Runs `body` on a machine with a working KVM. `test` is the test's path as libtest prints it.
pub fn on_kvm(test: &str, body: impl FnOnce()) {
    Machine::default().run(test, body);
}

/// Runs `body` in the lab even where this machine's KVM would do: it has every controller of cgroups.
pub fn in_lab(test: &str, body: impl FnOnce()) {
    again(Machine::default().command().env("VMD_TEST_MACHINE", "lab"), test, body);
}

impl Machine {
    /// Runs `body` on such a machine. `test` is the test's path as libtest prints it.
    pub fn run(self, test: &str, body: impl FnOnce()) {
        again(&mut self.command(), test, body);
    }

    /// Runs `body` at each boot of a Debian whose first process is systemd, with the number of the boot, from 1, and the
    /// directory that `prepare` made outside. A body that [`reboot`]s is run again; what is on the disk by then stays there.
    pub fn systemd(self, test: &str, prepare: impl FnOnce() -> TempDir, body: impl FnOnce(u32, &Path)) {
        if is_inside(test) {
            let prepared = PathBuf::from(env::var_os(PREPARED).expect("it was set outside"));
            let boot = 1 + fs::read_to_string(BOOTS).map_or(0, |boots| boots.parse().expect("a number"));
            fs::write(BOOTS, u32::to_string(&boot)).expect("the Debian's disk can be written to");
            again(&mut Command::new("true"), test, || body(boot, &prepared));
        } else {
            let prepared = prepare();
            let mut place = Command::new(artefacts::script("on-kvm"));
            place.arg("-s").arg("-r").arg(prepared.path()).args(self.options()).env(PREPARED, prepared.path());
            again(&mut place, test, || ());
        }
    }

    fn command(self) -> Command {
        let mut on_kvm = Command::new(artefacts::script("on-kvm"));
        on_kvm.args(self.options());
        on_kvm
    }

    fn options(self) -> [String; 5] {
        let limit_s = self.limit_s.saturating_mul(crate::long());
        ["-m".to_owned(), self.memory_mib.to_string(), "-t".to_owned(), limit_s.to_string(), "--".to_owned()]
    }
}

/// Boots the Debian anew, as its administrator would. Systemd ends the test with everything else.
pub fn reboot() -> ! {
    let status = Command::new("systemctl").arg("reboot").status().expect("systemctl can be run");
    assert!(status.success(), "systemctl reboot: {status}");
    loop {
        std::thread::park();
    }
}

/// Whether this is the test's own binary, started again for its body.
pub(crate) fn is_inside(test: &str) -> bool {
    env::var_os(INSIDE).is_some_and(|name| name == test)
}

/// Inside, runs the body; outside, starts the test's own binary again behind the words of `place`, for this test alone.
pub(crate) fn again(place: &mut Command, test: &str, body: impl FnOnce()) {
    if is_inside(test) {
        body();
        println!("{DONE} {test}");
        return;
    }
    let (success, output) = start_again(place, test);
    assert!(success, "{test} failed on its machine, see above");
    assert!(output.contains(&format!("{DONE} {test}")), "no test is called {test:?}: its body did not run");
}

fn start_again(place: &mut Command, test: &str) -> (bool, String) {
    let (mut ours, theirs) = std::io::pipe().expect("a pipe");
    place
        .arg(env::current_exe().expect("a test knows its own file"))
        // A test that waits for make test-long is one that is asked for here.
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(INSIDE, test)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(theirs.try_clone().expect("a copy"))
        .stderr(theirs);
    let mut child = place.spawn().unwrap_or_else(|error| panic!("{place:?}: {error}"));
    // Our copies of its ends, so that its output ends with it.
    place.stdout(Stdio::null()).stderr(Stdio::null());
    let mut all = String::new();
    // Line by line: a test that hangs shows how far it came. Guests print anything, so not every line is UTF-8.
    let mut output = BufReader::new(&mut ours);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line).expect("a pipe can be read") > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        all.push_str(&text);
        line.clear();
    }
    (child.wait().expect("it was started here").success(), all)
}
