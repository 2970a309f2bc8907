//! The life of VMs with real guests: one that runs is not touched by a reload of a changed file, and is as the file says
//! after its stop; an ordinary user makes an instance of it with a disk of the user's own; one that still boots is stopped well.
#![forbid(unsafe_code)]

use std::fs::{self, File, Permissions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use e2e::vm_conf::Vm;
use rustix::process::Signal;
use testkit::artefacts::{self, Kernel};
use testkit::census::Census;
use testkit::daemon::{self, Daemon, Reply};
use testkit::deadline::GUEST;
use testkit::guest::{Guest, POWER_BUTTON};
use testkit::machine::Machine;

/// Users without an account: the first may use the socket and make instances.
const USER: u32 = 4321;
const STRANGER: u32 = 4322;

/// A stop ends by force at 120 s.
const LIMIT: Duration = Duration::from_secs(100);

/// The first sector of the user's disk, as the guest writes it.
const WRITTEN: &[u8] = b"written by the guest of an ordinary user";

#[test]
fn a_reload_an_instance_of_an_ordinary_user_and_a_stop_during_the_boot() {
    Machine::default().run("a_reload_an_instance_of_an_ordinary_user_and_a_stop_during_the_boot", || {
        let before = Census::take();
        let mut daemon = Daemon::start(&configuration("256M"));
        reload_leaves_a_running_guest_alone(&daemon);
        a_user_has_an_instance(&daemon);
        a_guest_that_still_boots_is_stopped(&daemon);
        the_end_of_the_daemon_is_the_end_of_a_guest_that_still_boots(&mut daemon);
        the_log_says_who_asked_and_nothing_internal(&daemon.log());
        drop(daemon);
        before.wait_same();
    });
}

fn configuration(memory: &str) -> String {
    let guest = Vm::new("guest", Kernel::BzImage).size(1, memory).text();
    let allow = format!("\tallow instance {{ owner {USER}, disk }}\n}}\n");
    format!("socket owner {USER}\n{}", guest.replace("}\n", &allow))
}

fn reload_leaves_a_running_guest_alone(daemon: &Daemon) {
    daemon.vmctl(&["start", "guest"]).success();
    let mut guest = Guest::wait_up(daemon.console("guest"));
    guest.check("echo here >/tmp/mark");
    fs::write(daemon.path("vm.conf"), configuration("384M")).expect("it is ours");
    daemon.vmctl(&["reload"]).success();
    let row = daemon.row("guest");
    assert_eq!((row.state.as_str(), row.maxmem.as_str()), ("running", "256M"));
    assert_eq!(guest.check("cat /tmp/mark").trim(), "here", "the same guest");
    drop(guest);
    daemon.vmctl(&["stop", "-fw", "guest"]).success();
    assert_eq!(daemon.row("guest").maxmem, "384M", "as the file said when it was reloaded");
    daemon.vmctl(&["reload"]).success();
    let row = daemon.row("guest");
    assert_eq!((row.state.as_str(), row.maxmem.as_str()), ("stopped", "384M"));
}

fn a_user_has_an_instance(daemon: &Daemon) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("it is ours");
    let disk = dir.path().join("disk.img");
    File::create(&disk).and_then(|file| file.set_len(1 << 20)).expect("an image can be made");
    chown(&disk, Some(USER), Some(USER)).expect("we are root");
    fs::set_permissions(&disk, Permissions::from_mode(0o600)).expect("we are root");
    let image = format!("raw:{}", disk.display());

    let refused = as_user(STRANGER, &["start", "-t", "guest", "-d", &image, "mine"]);
    assert!(refused.status == Some(1) && refused.stderr.contains("Permission denied"), "{}", refused.stderr);
    as_user(USER, &["start", "-t", "guest", "-d", &image, "mine"]).success();
    let row = daemon.row("mine");
    assert_eq!((row.maxmem.as_str(), row.owner.as_str()), ("384M", USER.to_string().as_str()));
    let mut guest = Guest::wait_up(daemon.console("mine"));
    let text = String::from_utf8_lossy(WRITTEN);
    guest.check(&format!("printf '{text}' | dd of=/dev/vda conv=fsync 2>/dev/null"));
    drop(guest);
    let refused = as_user(USER, &["stop", "guest"]);
    assert!(refused.stderr.contains("belongs to \"root\""), "{}", refused.stderr);
    as_user(USER, &["stop", "-fw", "mine"]).success();
    assert!(daemon.status().iter().all(|row| row.name != "mine"), "it is forgotten");
    assert!(begins_with(&disk, WRITTEN), "the user's disk holds what the guest wrote");
}

/// Its button is pressed before anything in it listens, and again until it does. Who starts it meanwhile is told, or waits.
fn a_guest_that_still_boots_is_stopped(daemon: &Daemon) {
    daemon.vmctl(&["start", "guest"]).success();
    let mut console = daemon.console("guest");
    let began = Instant::now();
    daemon.vmctl(&["stop", "guest"]).success();
    let refused = daemon.vmctl(&["start", "guest"]);
    assert!(refused.status == Some(1) && refused.stderr.contains("is being stopped"), "{}", refused.stderr);
    let joins = thread::spawn(|| daemon::vmctl(&["stop", "-w", "guest"]));
    let starts = thread::spawn(|| daemon::vmctl(&["start", "-w", "guest"]));
    console.expect(POWER_BUTTON, GUEST);
    let stopped = joins.join().expect("a reply").success();
    assert!(stopped.stderr.contains("terminated vm"), "{}", stopped.stderr);
    assert!(began.elapsed() < LIMIT, "by force perhaps: {:?}\n{}", began.elapsed(), daemon.log());
    assert!(!daemon.log().contains("ended by force"), "{}", daemon.log());
    starts.join().expect("a reply").success();
    assert_eq!(daemon.row("guest").state, "running");
}

fn the_end_of_the_daemon_is_the_end_of_a_guest_that_still_boots(daemon: &mut Daemon) {
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success(), "vmd ends well");
    let log = daemon.log();
    assert!(log.contains("waiting up to 120 s for vm \"guest\" to stop"), "{log}");
    assert!(!log.contains("ended by force"), "{log}");
}

fn the_log_says_who_asked_and_nothing_internal(log: &str) {
    for line in [
        "user \"root\" (uid 0) asked to stop vm \"guest\" (vm 1)\n",
        "user (uid 4321) asked to start vm \"mine\" as an instance of \"guest\"\n",
        "user (uid 4321) asked to stop vm \"guest\" (vm 1): refused: ",
    ] {
        assert!(log.contains(line), "no {line:?} in the log");
    }
    let internal = |line: &&str| line.contains("(os error ") || line.contains("cgroups: ");
    assert_eq!(log.lines().filter(internal).collect::<Vec<_>>(), [""; 0]);
}

fn begins_with(disk: &Path, bytes: &[u8]) -> bool {
    fs::read(disk).expect("it is there").starts_with(bytes)
}

/// vmctl as that user, who is in no group of note.
fn as_user(uid: u32, arguments: &[&str]) -> Reply {
    // By descriptor: a user may not reach every directory that this was built in.
    let program = File::open(artefacts::vmctl()).expect("vmctl");
    let mut vmctl = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    vmctl.arg0("vmctl");
    let output = vmctl.args(arguments).uid(uid).gid(uid).stdin(Stdio::null()).output().expect("vmctl can be run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Reply { status: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}
