//! A host on which all is well: a KVM that runs stock kernels (the lab, or this machine where it has one). And what a KVM
//! that can't run guests, a killed daemon's cgroups, and an ordinary user look like there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use testkit::artefacts;
use testkit::console::Console;
use testkit::daemon::Daemon;
use testkit::deadline::GUEST;
use testkit::machine::on_kvm;

use crate::daemons::kill_all;
use crate::kernels::forbid;
use crate::world::{Report, USER, copy_programs};

/// ioctl(KVM_RUN), linux/kvm.h.
const KVM_RUN: u64 = 0xAE80;

fn vmctl() -> Command {
    Command::new(artefacts::vmctl())
}

#[test]
fn a_healthy_host_runs_the_probe_guest_and_has_no_fault() {
    on_kvm("healthy::a_healthy_host_runs_the_probe_guest_and_has_no_fault", || {
        let report = Report::of(&mut vmctl());
        assert_eq!(report.status, Some(0), "{report:#?}");
        report.has("kvm-guest", "ok", "the probe guest ran");
        for id in ["kernel", "cpu", "kvm-module", "kvm-device", "kvm-access", "vmd", "account", "tun", "seccomp"] {
            report.has(id, "ok", "");
        }
        as_a_person_sees_it();
        as_a_user_sees_it();
        a_killed_daemons_cgroups();
        a_kvm_that_does_not_run(); // last: this thread's filter stays
    });
}

/// In colours on a terminal, and on lines for anything else.
fn as_a_person_sees_it() {
    let mut terminal = Console::of_program(vmctl().arg("doctor").env("TERM", "xterm").env_remove("NO_COLOR"));
    assert_eq!(terminal.finish(GUEST), Some(0));
    let said = terminal.said();
    assert!(said.contains("\x1b[32mok      \x1b[mkvm-guest       the probe guest ran"), "{said}");
    let output = vmctl().arg("doctor").output().expect("vmctl can be run");
    let lines = String::from_utf8(output.stdout).expect("text");
    assert!(lines.contains("\nok: kvm-guest: the probe guest ran"), "{lines}");
    assert!(lines.contains("\nVMs can run here: 0 faults, ") && !lines.contains('\x1b'), "{lines}");
}

/// With rights on /dev/kvm the probe guest runs for a user too; without, that is told, and is no fault.
fn as_a_user_sees_it() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    copy_programs(dir.path());
    let of_user = |mode| {
        fs::set_permissions("/dev/kvm", fs::Permissions::from_mode(mode)).expect("root may");
        Report::of(Command::new(dir.path().join("vmctl")).uid(USER).gid(USER))
    };
    let before = fs::metadata("/dev/kvm").expect("it is there").permissions();
    let (allowed, denied) = (of_user(0o666), of_user(0o600));
    fs::set_permissions("/dev/kvm", before).expect("root may");
    allowed.has("kvm-guest", "ok", "the probe guest ran");
    denied.has("kvm-access", "note", "user \"4321\" may not open /dev/kvm");
    assert_eq!((allowed.status, denied.status), (Some(0), Some(0)));
}

fn a_killed_daemons_cgroups() {
    let daemon = Daemon::start("");
    Report::of(&mut vmctl()).has(
        "daemon",
        "ok",
        &format!("and answers, release {}, protocol", env!("CARGO_PKG_VERSION")),
    );
    kill_all(daemon);
    let left = Report::of(&mut vmctl());
    left.has("leftovers", "warning", "cgroup /sys/fs/cgroup");
    assert_eq!(left.status, Some(0), "the next vmd removes it");
    assert!(Daemon::start("").stop().success(), "vmd ends well");
    Report::of(&mut vmctl()).has("leftovers", "ok", "nothing is left of an earlier vmd");
}

fn a_kvm_that_does_not_run() {
    forbid(libc::SYS_ioctl, Some(KVM_RUN), libc::EIO);
    let report = Report::of(&mut vmctl());
    report.has("kvm-guest", "fault", "the probe guest failed: instructions: ");
    report.has("kvm-device", "ok", "");
    assert_eq!(report.status, Some(1));
}
