//! What a VM's processes take of the host's memory has a bound: guest memory is as large as it is, its cgroup has a limit, and
//! who is ended for it is told.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use testkit::census::Census;
use testkit::daemon::Daemon;
use testkit::deadline::{self, DAEMON};
use testkit::idle::{self, Does};
use testkit::machine::in_lab;
use testkit::process::Process;

const MIB: u64 = 1 << 20;

/// What `idle::vm` gives its guest.
const GUEST: u64 = 64 * MIB;

#[test]
fn a_vm_whose_processes_take_too_much_is_ended_alone_and_told() {
    in_lab("a_vm_whose_processes_take_too_much_is_ended_alone_and_told", || {
        let before = Census::take();
        let dir = tempfile::tempdir().expect("a directory");
        let kernel = idle::kernel_file(dir.path(), Does::Nothing);
        let disk = dir.path().join("disk.img");
        File::create(&disk).and_then(|file| file.set_len(MIB)).expect("it is ours");
        let disk = format!("disk \"{}\"", disk.display());
        let daemon = Daemon::start(&[idle::vm("web", &kernel, &[&disk]), idle::vm("other", &kernel, &[])].concat());
        assert!(!daemon.log().contains("no controller"), "the lab has them: {}", daemon.log());
        for name in ["web", "other"] {
            daemon.vmctl(&["start", name]).success();
        }
        let spared = daemon.row("other");
        guest_memory_is_as_large_as_it_is(&daemon);
        each_has_a_limit_of_its_own(&daemon);
        less_than_it_has_ends_it(&daemon);
        a_process_that_takes_more_ends_it(&daemon);
        let row = daemon.row("other");
        assert_eq!((row.state.as_str(), row.pid), ("running", spared.pid), "nobody else is meant");
        for name in ["web", "other"] {
            daemon.vmctl(&["stop", "-fw", name]);
        }
        assert!(daemon.stop().success(), "vmd ends well");
        before.wait_same();
    });
}

/// The VM's cgroup.
fn cgroup(daemon: &Daemon, name: &str) -> PathBuf {
    format!("/sys/fs/cgroup/vmd/vms/vm-{}", daemon.row(name).id).into()
}

fn number(daemon: &Daemon, name: &str, file: &str) -> u64 {
    let text = fs::read_to_string(cgroup(daemon, name).join(file)).expect("the controller's file");
    text.trim().parse().unwrap_or_else(|_| panic!("{file}: {text}"))
}

fn guest_memory_is_as_large_as_it_is(daemon: &Daemon) {
    let vm = Process { pid: daemon.row("web").pid.expect("it runs") };
    let fds = vm.descriptors();
    let (fd, _) = fds.iter().find(|(_, target)| target.contains("guest memory")).expect("guest memory is open");
    let memory = File::options().write(true).open(format!("/proc/{}/fd/{fd}", vm.pid)).expect("root may");
    for flags in [FallocateFlags::empty(), FallocateFlags::KEEP_SIZE] {
        assert_eq!(fallocate(&memory, flags, GUEST, 4 << 30), Err(Errno::NOSPC));
    }
}

fn each_has_a_limit_of_its_own(daemon: &Daemon) {
    let (other, web) = (number(daemon, "other", "memory.max"), number(daemon, "web", "memory.max"));
    assert!(other > GUEST + 64 * MIB && other < GUEST + 80 * MIB, "{other}");
    assert!(web > other + 256 * MIB && web < other + 272 * MIB, "and a page cache for its disk: {web}");
    for name in ["web", "other"] {
        assert_eq!(number(daemon, name, "memory.oom.group"), 1);
        let taken = number(daemon, name, "memory.current");
        assert!(taken < GUEST, "an idle guest takes little: {taken}");
    }
}

/// All of it is gone, the log says why, and it can start again.
fn is_ended_for(daemon: &Daemon, bytes: u64, times: usize, processes: &[Process]) {
    daemon.wait_state("web", "stopped");
    let log = daemon.log();
    let told = format!(
        "vm \"web\" (vm {}) failed: out of memory: its processes needed more than the {} MiB that they may have",
        daemon.row("web").id,
        bytes / MIB
    );
    assert_eq!(log.matches(&told).count(), times, "{told}: {log}");
    let left = || processes.iter().any(|process| fs::exists(format!("/proc/{}", process.pid)).unwrap_or(true));
    deadline::until("its processes to be gone", DAEMON, || (!left()).then_some(()));
    deadline::until("its cgroup to be gone", DAEMON, || (!cgroup(daemon, "web").exists()).then_some(()));
    daemon.vmctl(&["start", "web"]).success();
    assert_eq!(daemon.row("web").state, "running");
}

fn processes(daemon: &Daemon) -> Vec<Process> {
    let text = fs::read_to_string(cgroup(daemon, "web").join("cgroup.procs")).expect("its processes");
    let processes: Vec<Process> = text.lines().map(|pid| Process { pid: pid.parse().expect("a number") }).collect();
    assert!(processes.len() >= 2, "the vm process and the disk's, and a thread of KVM's: {text}");
    processes
}

fn less_than_it_has_ends_it(daemon: &Daemon) {
    let all = processes(daemon);
    fs::write(cgroup(daemon, "web").join("memory.max"), "0").expect("root may");
    is_ended_for(daemon, 0, 1, &all);
}

/// As one would that was taken over: it has not the least right beside its own.
fn a_process_that_takes_more_ends_it(daemon: &Daemon) {
    let all = processes(daemon);
    let limit = number(daemon, "web", "memory.max");
    let enter =
        format!("echo $$ >{}/cgroup.procs && exec dd if=/dev/zero of=/dev/null bs=1G", cgroup(daemon, "web").display());
    let mut hostile: Child = Command::new("/bin/sh")
        .args(["-c", &enter])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("a shell can be run");
    is_ended_for(daemon, limit, 1, &all);
    assert!(!hostile.wait().expect("it was ended").success());
}
