//! What each process does with each signal, and that what `vmctl log` and -v say reaches every process: on processes that
//! run. vm and device processes need a KVM; the others are looked at where there is none.
#![forbid(unsafe_code)]

use std::fs::File;
use std::process::Command;

use e2e::idle::{self, Does, kernel_file};
use e2e::vm_conf::switch;
use rustix::process::{Pid, Signal, kill_process};
use testkit::apart::apart;
use testkit::artefacts;
use testkit::census::Census;
use testkit::daemon::{self, Daemon};
use testkit::deadline::{self, DAEMON};
use testkit::machine::on_kvm;
use testkit::process::Process;
use testkit::status::HEADER;

/// A configuration without VMs, with which all processes that last run.
const NO_VM: &str = "agentx path \"/run/no-master\"\nswitch \"lan\" {\n\tinterface bridge0\n}\n";

/// Those, but for the first.
const ROLES: [&str; 4] = ["control", "priv", "vmm", "agentx"];

fn send(process: Process, signal: Signal) {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).unwrap_or_else(|error| panic!("{}: {error}", process.title()));
}

/// Sends a signal that is to change nothing, and waits until the process has taken it.
fn ignores(process: Process, signal: Signal) {
    let title = process.title();
    send(process, signal);
    deadline::until(format!("{title} to take signal {}", signal.as_raw()), DAEMON, || {
        let pending = process.status("ShdPnd").unwrap_or_else(|| panic!("{title} ended by signal {}", signal.as_raw()));
        (u64::from_str_radix(&pending, 16) == Ok(0)).then_some(())
    });
    assert_eq!(process.title(), title, "it runs on");
}

/// The one process of a role.
fn role(daemon: &Daemon, role: &str) -> Process {
    deadline::until(format!("one {role}"), DAEMON, || match daemon.in_role(role).as_slice() {
        [one] => Some(*one),
        _ => None,
    })
}

/// The number of the bridge, once it is there.
fn bridge() -> String {
    deadline::until("a bridge", DAEMON, || std::fs::read_to_string("/sys/class/net/bridge0/ifindex").ok())
}

/// Waits until each process has done something: control and vmm have, or nothing would have answered.
fn all_serve(daemon: &Daemon) {
    bridge();
    deadline::until("agentx to want its master", DAEMON, || daemon.log().contains("/run/no-master").then_some(()));
}

fn serves(daemon: &Daemon) {
    deadline::until("an answer", DAEMON, || daemon.vmctl(&["status"]).stdout.starts_with(HEADER).then_some(()));
}

/// Lines of a process that begin so. The first process writes those of the others, under its own name.
fn lines(daemon: &Daemon, process: &str, text: &str) -> usize {
    let begin = if process == "vmd" { format!("vmd: {text}") } else { format!("vmd: {process}: {text}") };
    daemon.log().lines().filter(|line| line.starts_with(&begin)).count()
}

fn logs(daemon: &Daemon, process: &str, text: &str, times: usize) {
    let what = format!("{process} to log {text:?} {times} times");
    deadline::until(what, DAEMON, || (lines(daemon, process, text) == times).then_some(()));
}

#[test]
fn hangup_pipe_user1_and_child_change_nothing_but_the_parents_configuration() {
    apart("hangup_pipe_user1_and_child_change_nothing_but_the_parents_configuration", || {
        let daemon = Daemon::start(NO_VM);
        all_serve(&daemon);
        let roles = ROLES.map(|name| role(&daemon, name));
        for signal in [Signal::HUP, Signal::PIPE, Signal::USR1, Signal::CHILD] {
            for process in roles {
                ignores(process, signal);
            }
            if signal != Signal::HUP {
                ignores(daemon.process(), signal);
            }
            serves(&daemon);
        }
        assert_eq!(ROLES.map(|name| role(&daemon, name)), roles, "the same processes");
        // The parent's is a reload.
        std::fs::write(
            daemon.path("vm.conf"),
            format!("{NO_VM}vm \"new\" {{\n\tdisable\n\tboot \"/etc/passwd\"\n}}\n"),
        )
        .expect("it is ours");
        ignores(daemon.process(), Signal::HUP);
        deadline::until("the reload", DAEMON, || (daemon.status().len() == 1).then_some(()));
        // One with an error changes nothing, and the daemon lives.
        std::fs::write(daemon.path("vm.conf"), "vm {\n").expect("it is ours");
        ignores(daemon.process(), Signal::HUP);
        deadline::until("the error", DAEMON, || daemon.log().contains("vm.conf:1:").then_some(()));
        assert_eq!(daemon.row("new").state, "stopped");
        assert!(daemon.stop().success());
    });
}

#[test]
fn terminate_and_interrupt_end_those_that_are_started_again() {
    apart("terminate_and_interrupt_end_those_that_are_started_again", || {
        let daemon = Daemon::start(NO_VM);
        all_serve(&daemon);
        let made = bridge();
        let again = ["control", "priv", "agentx"];
        for (name, signal) in again.into_iter().flat_map(|name| [(name, Signal::TERM), (name, Signal::INT)]) {
            let first = role(&daemon, name);
            send(first, signal);
            deadline::until(format!("another {name}"), DAEMON, || {
                daemon.in_role(name).into_iter().find(|other| *other != first)
            });
            serves(&daemon);
        }
        // What VMs have of priv is left to its successor, which removes it at the daemon's end.
        assert_eq!(bridge(), made);
        assert_eq!(lines(&daemon, "vmd", "priv ended"), 2, "{}", daemon.log());
        assert!(daemon.stop().success());
        assert!(!std::path::Path::new("/sys/class/net/bridge0").exists());
    });
}

#[test]
fn a_priv_that_is_killed_before_it_has_swept_has_a_successor_that_does() {
    apart("a_priv_that_is_killed_before_it_has_swept_has_a_successor_that_does", || {
        // As a killed daemon leaves it.
        let left = "ip link add bridge7 type bridge && ip link set bridge7 group 7761252 alias switch1-lan";
        assert!(Command::new("sh").args(["-c", left]).status().expect("sh can be run").success());
        let daemon = Daemon::launch(NO_VM);
        let first = loop {
            if let Some(first) = daemon.in_role("priv").first() {
                break *first;
            }
            std::thread::yield_now(); // every moment counts: its first request is on the way
        };
        send(first, Signal::KILL);
        deadline::until("another priv", DAEMON, || daemon.in_role("priv").into_iter().find(|other| *other != first));
        serves(&daemon);
        let there = || std::path::Path::new("/sys/class/net/bridge7").exists();
        deadline::until("the leftover to go", DAEMON, || (!there()).then_some(()));
        assert!(daemon.stop().success());
    });
}

#[test]
fn a_daemon_without_priv_or_whose_priv_was_ended_too_leaves_nothing() {
    apart("a_daemon_without_priv_or_whose_priv_was_ended_too_leaves_nothing", || {
        let nothing = Census::take();
        let mut daemon = Daemon::start(NO_VM);
        bridge();
        // As pkill(1) does: priv ends before it is asked to.
        let privileged = role(&daemon, "priv");
        send(privileged, Signal::STOP);
        send(privileged, Signal::TERM);
        daemon.signal(Signal::TERM);
        deadline::until("the daemon to end", DAEMON, || daemon.log().contains("terminating").then_some(()));
        send(privileged, Signal::CONT);
        assert!(daemon.wait().success());
        nothing.wait_same();

        let mut daemon = Daemon::start(NO_VM);
        bridge();
        deadline::until("the parent to wait with another priv", DAEMON, || {
            let pids = daemon.in_role("priv").into_iter().filter_map(|it| Pid::from_raw(i32::try_from(it.pid).ok()?));
            pids.for_each(|pid| _ = kill_process(pid, Signal::KILL)); // it may be gone already
            daemon.log().contains("priv ended too often").then_some(())
        });
        daemon.signal(Signal::TERM);
        assert!(daemon.wait().success());
        nothing.wait_same();
    });
}

#[test]
fn terminate_of_vmm_ends_the_daemon_and_interrupt_of_the_parent_is_as_terminate() {
    apart("terminate_of_vmm_ends_the_daemon_and_interrupt_of_the_parent_is_as_terminate", || {
        let nothing = Census::take();
        for signal in [Signal::TERM, Signal::INT] {
            let mut daemon = Daemon::start(NO_VM);
            send(role(&daemon, "vmm"), signal);
            assert_eq!(daemon.wait().code(), Some(1), "a daemon without vmm has failed");
            logs(&daemon, "vmd", "the vmm process ended, and all VMs with it", 1);
            nothing.wait_same();
        }
        let mut daemon = Daemon::start(NO_VM);
        daemon.signal(Signal::INT);
        assert!(daemon.wait().success());
        logs(&daemon, "vmd", "terminating", 1);
        nothing.wait_same();
    });
}

#[test]
fn a_child_that_does_not_end_is_killed_at_its_deadline_and_named() {
    apart("a_child_that_does_not_end_is_killed_at_its_deadline_and_named", || {
        let nothing = Census::take();
        let mut daemon = Daemon::start(NO_VM);
        send(role(&daemon, "control"), Signal::STOP);
        daemon.signal(Signal::TERM);
        assert!(daemon.wait().success(), "the daemon itself ends well");
        logs(&daemon, "vmd", "control did not end, and was killed", 1);
        // Those that come after it had their time: priv has removed the bridge.
        nothing.wait_same();
    });
}

#[test]
fn a_child_that_ends_otherwise_than_asked_is_told() {
    apart("a_child_that_ends_otherwise_than_asked_is_told", || {
        let mut daemon = Daemon::start(NO_VM);
        let control = role(&daemon, "control");
        send(control, Signal::STOP);
        daemon.signal(Signal::TERM);
        // vmm ends first, and then control is waited for.
        deadline::until("the end of vmm", DAEMON, || daemon.in_role("vmm").is_empty().then_some(()));
        send(control, Signal::KILL);
        assert!(daemon.wait().success());
        logs(&daemon, "vmd", "lost child: control exited abnormally", 1);
        assert_eq!(lines(&daemon, "vmd", "lost child"), 1, "the others ended well, which is not told");
    });
}

#[test]
fn each_v_says_more_on_standard_error() {
    apart("each_v_says_more_on_standard_error", || {
        let words = |flags: &[&str]| {
            let conf = tempfile::NamedTempFile::new().expect("a file");
            let mut log = tempfile::NamedTempFile::new().expect("a file");
            let mut vmd = Command::new(artefacts::vmd())
                .arg("-d")
                .args(flags)
                .arg("-f")
                .arg(conf.path())
                .stderr(log.reopen().expect("the same file"))
                .spawn()
                .expect("vmd can be run");
            deadline::until("the daemon to serve", DAEMON, || {
                daemon::vmctl(&["status"]).stdout.starts_with(HEADER).then_some(())
            });
            kill_process(Pid::from_child(&vmd), Signal::TERM).expect("it runs");
            assert!(vmd.wait().expect("it ends").success());
            let mut text = String::new();
            std::io::Read::read_to_string(log.as_file_mut(), &mut text).expect("a file");
            text
        };
        let (quiet, once, twice) = (words(&[]), words(&["-v"]), words(&["-vv"]));
        assert!(quiet.contains("vmd: startup") && quiet.contains("vmd: terminating"), "{quiet}");
        assert!(!quiet.contains("action: ") && !quiet.contains("vmm: "), "{quiet}");
        assert!(once.contains("action: ") && !once.contains("vmm: parent: "), "the parent's debug lines: {once}");
        assert!(twice.contains("action: ") && twice.contains("vmm: parent: "), "those of all: {twice}");
    });
}

/// All processes that there are get the level, and those that come later have it from their start.
fn levels_reach(daemon: &Daemon, processes: &[&str]) {
    let (verbose, brief) = ("the log level is now DEBUG", "the log level is now INFO");
    daemon.vmctl(&["log", "verbose"]).success();
    for process in processes {
        logs(daemon, process, verbose, 1);
    }
    let first = role(daemon, "control");
    send(first, Signal::KILL);
    let next = deadline::until("another control", DAEMON, || {
        daemon.in_role("control").into_iter().find(|other| *other != first)
    });
    assert!(next.arguments().contains(&"-v".to_owned()), "{:?}", next.arguments());
    serves(daemon);
    daemon.vmctl(&["log", "brief"]).success();
    for process in processes {
        logs(daemon, process, brief, 1);
    }
    // And from then on none of them writes any more.
    let debug = |daemon: &Daemon| daemon.log().lines().filter(|line| line.contains("action: ")).count();
    let before = debug(daemon);
    assert!(before > 0);
    daemon.vmctl(&["log", "brief"]).success();
    serves(daemon);
    assert_eq!(debug(daemon), before, "{}", daemon.log());
}

#[test]
fn levels_of_vmctl_log_reach_every_process_that_lasts() {
    apart("levels_of_vmctl_log_reach_every_process_that_lasts", || {
        let daemon = Daemon::start_quietly(NO_VM);
        levels_reach(&daemon, &["vmd", "control", "priv", "vmm", "agentx"]);
        assert!(daemon.stop().success());
    });
}

/// A daemon with two VMs that run, each with a disk and a card.
fn two_vms(dir: &std::path::Path) -> Daemon {
    let kernel = kernel_file(dir, Does::Nothing);
    let mut text = switch("lan", "bridge0");
    for name in ["one", "two"] {
        let disk = dir.join(format!("{name}.img"));
        File::create(&disk).and_then(|file| file.set_len(1 << 20)).expect("an image can be made");
        let disk = format!("disk \"{}\" format raw", disk.display());
        text += &idle::vm(name, &kernel, &[&disk, "interface { switch \"lan\" }"]);
    }
    let daemon = Daemon::start_quietly(&text);
    for name in ["one", "two"] {
        daemon.vmctl(&["start", name]).success();
    }
    daemon
}

fn member(daemon: &Daemon, role: &str, name: &str) -> Process {
    find(daemon, role, name).unwrap_or_else(|| panic!("no {role} of {name}"))
}

fn find(daemon: &Daemon, role: &str, name: &str) -> Option<Process> {
    daemon.in_role(role).into_iter().find(|it| it.title().rsplit(' ').next() == Some(name))
}

#[test]
fn signals_and_log_levels_reach_the_processes_of_a_vm() {
    on_kvm("signals_and_log_levels_reach_the_processes_of_a_vm", || {
        let dir = tempfile::tempdir().expect("a directory");
        let daemon = two_vms(dir.path());
        let of_vms =
            ["one", "two"].map(|vm| [format!("vm/{vm}"), format!("vm/{vm}/vioblk0"), format!("vm/{vm}/vionet0")]);
        let all: Vec<&str> =
            ["vmd", "control", "priv", "vmm"].into_iter().chain(of_vms.iter().flatten().map(String::as_str)).collect();
        levels_reach(&daemon, &all);

        // A write to a peer that is gone, or a child's end, ends nobody.
        for role in ["vm", "vioblk", "vionet"] {
            ignores(member(&daemon, role, "one"), Signal::PIPE);
            ignores(member(&daemon, role, "one"), Signal::CHILD);
        }
        // All else ends that process: they have nothing to reload, and whoever sends it wants an end. A device's is replaced; with the
        // vm process its VM ends, and no other.
        let pids = || ["one", "two"].map(|name| daemon.row(name).pid);
        let before = pids();
        for (role, signal) in [("vioblk", Signal::INT), ("vionet", Signal::HUP)] {
            let was = member(&daemon, role, "one");
            send(was, signal);
            deadline::until(format!("another {role}"), DAEMON, || {
                find(&daemon, role, "one").is_some_and(|now| now != was).then_some(())
            });
        }
        assert_eq!(pids(), before, "both VMs run");
        send(member(&daemon, "vm", "one"), Signal::TERM);
        daemon.wait_state("one", "stopped");
        assert_eq!(pids(), [None, before[1]]);
        daemon.vmctl(&["start", "one"]);
        // TERM asks the guests, which do not hear it; the second one does not.
        daemon.signal(Signal::TERM);
        deadline::until("the stop", DAEMON, || (daemon.row("two").state == "stopping").then_some(()));
        assert!(daemon.row("two").pid.is_some(), "its guest has its time");
        daemon.signal(Signal::TERM);
        assert!(daemon.stop().success());
    });
}
