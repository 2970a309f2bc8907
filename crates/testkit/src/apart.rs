//! A test of the real daemon that needs no guest: on this machine, in name spaces of its own. Processes, mounts, network,
//! terminals, /run, /dev and accounts are the test's alone, so what it counts is its own, and what it makes ends with it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::artefacts;
use crate::machine::{self, Machine};

/// Where the world's own files lie.
const PLACE: &str = "/mnt";

/// Devices of the host that every world has. Mostly /dev/kvm is a link to /dev/null: there, and no KVM.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "net/tun"];

/// What `vmd -x doctor` says of a KVM that runs guests of a few bytes: `ok`, or which of these a stock kernel would lack.
const IDLE_GUESTS_RUN: [&str; 6] =
    ["ok", "long mode: ", "CPUID: ", "CMPXCHG16B: ", "vector registers: ", "timer interrupts: "];

/// What a world's /dev/kvm is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kvm {
    /// A link to /dev/null.
    None,
    /// The host's.
    Host,
}

/// Set where the world is to have the host's KVM.
const WITH_KVM: &str = "VMD_TEST_WITH_KVM";

/// Runs `body` as root in such a world. `test` is the test's path as libtest prints it.
pub fn apart(test: &str, body: impl FnOnce()) {
    machine::again(&mut unshare(), test, || {
        make(Kvm::None);
        body();
    });
}

/// Runs `body` in such a world with this machine's KVM, where that runs guests of a few bytes (`idle`), stock kernels or
/// not; else on a machine with a KVM that does, within this limit in seconds.
pub fn with_idle_guests(test: &str, limit_s: u32, body: impl FnOnce()) {
    let inside = || {
        if std::env::var_os(WITH_KVM).is_some() {
            make(Kvm::Host);
        }
        body();
    };
    if !machine::is_inside(test) && idle_guests_run_here() {
        return machine::again(unshare().env(WITH_KVM, "1"), test, inside);
    }
    Machine { limit_s, ..Machine::default() }.run(test, inside);
}

fn idle_guests_run_here() -> bool {
    let asked = Command::new(artefacts::vmd()).args(["-x", "doctor"]).output().expect("vmd can be run");
    let said = String::from_utf8_lossy(&asked.stdout);
    said.lines().last().is_some_and(|last| IDLE_GUESTS_RUN.iter().any(|works| last.starts_with(works)))
}

fn unshare() -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(["--fork", "--kill-child", "--pid", "--net", "--mount", "--propagation", "private", "--"]);
    unshare
}

fn make(kvm: Kvm) {
    mount("-t proc proc /proc");
    mount("-t sysfs sysfs /sys");
    mount("-t tmpfs tmpfs /run");
    mount("-t tmpfs tmpfs /var/lib");
    mount(&format!("-t tmpfs -o mode=755 tmpfs {PLACE}"));
    for (file, line) in [("passwd", "_vmd:x:990:990:vmd:/nonexistent:/usr/sbin/nologin"), ("group", "_vmd:x:990:")] {
        account(file, line);
    }
    devices(kvm);
}

/// The host's file with one account more, which a package would have made.
fn account(file: &str, line: &str) {
    let host = fs::read_to_string(format!("/etc/{file}")).expect("accounts can be read");
    let others = host.lines().filter(|line| !line.starts_with("_vmd:"));
    let text: String = others.chain([line]).map(|line| format!("{line}\n")).collect();
    fs::write(format!("{PLACE}/{file}"), text).expect("it is ours");
    mount(&format!("--bind {PLACE}/{file} /etc/{file}"));
}

fn devices(kvm: Kvm) {
    fs::create_dir_all(format!("{PLACE}/dev/net")).expect("it is ours");
    fs::create_dir_all(format!("{PLACE}/dev/pts")).expect("it is ours");
    for name in DEVICES.into_iter().chain((kvm == Kvm::Host).then_some("kvm")) {
        fs::write(format!("{PLACE}/dev/{name}"), "").expect("it is ours");
        mount(&format!("--bind /dev/{name} {PLACE}/dev/{name}"));
    }
    mount(&format!("-t devpts -o newinstance,ptmxmode=666,mode=620 devpts {PLACE}/dev/pts"));
    symlink("pts/ptmx", format!("{PLACE}/dev/ptmx")).expect("it is ours");
    if kvm == Kvm::None {
        symlink("null", format!("{PLACE}/dev/kvm")).expect("it is ours");
    }
    mount(&format!("--rbind {PLACE}/dev /dev"));
}

/// Runs mount(8) with these words; it must succeed.
pub fn mount(words: &str) {
    run("mount", &format!("-n {words}"));
}

/// Runs umount(8) with these words; it must succeed.
pub fn unmount(words: &str) {
    run("umount", &format!("-n {words}"));
}

fn run(program: &str, words: &str) {
    let output = Command::new(program).args(words.split_whitespace()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let _ = std::io::stdout().write_all(&output.stderr);
    assert!(output.status.success(), "{program} {words}");
}
