//! What vmd can't start with: one line, in the background too, exit status 1, and a host as it was.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use testkit::apart::{apart, mount, unmount};
use testkit::artefacts;
use testkit::daemon::{Daemon, Reply};
use testkit::machine::Machine;
use testkit::process::Process;

use crate::world::{as_nobody, ends, gone, in_run, run, text, vmd};

/// Neither in the foreground nor in the background does it start, and both say this.
#[track_caller]
fn does_not_start(why: &str) {
    let conf = tempfile::NamedTempFile::new().expect("a file");
    for options in [&["-d", "-f"][..], &["-f"]] {
        let reply = vmd(&[options, &[text(conf.path())]].concat());
        assert_eq!((reply.status, reply.stdout.as_str()), (Some(1), ""), "{options:?}: {reply:?}");
        assert_eq!(reply.stderr, format!("vmd: {why}\n"), "{options:?}");
    }
}

#[test]
fn a_dev_kvm_that_is_none_is_told_before_anything_is_made() {
    apart("startup::a_dev_kvm_that_is_none_is_told_before_anything_is_made", || {
        let kvm = Path::new("/dev/kvm");
        let said = |why: &str| {
            does_not_start(&format!(
                "/dev/kvm: {why}; is kvm_intel or kvm_amd loaded, and virtualization enabled in the firmware?"
            ));
            gone();
        };
        fs::remove_file(kvm).expect("it is ours");
        said("No such file or directory");
        fs::write(kvm, "no KVM").expect("it is ours");
        said("not a character device");
        fs::remove_file(kvm).and_then(|()| fs::create_dir(kvm)).expect("it is ours");
        said("Is a directory");
        fs::remove_dir(kvm).and_then(|()| symlink("kvm", kvm)).expect("it is ours");
        said("Too many levels of symbolic links");
        fs::remove_file(kvm).expect("it is ours");
        run(std::process::Command::new("mkfifo").arg(kvm)).success();
        said("not a character device");
    });
}

#[test]
fn a_run_that_can_not_be_used_is_told_with_the_name_that_can_not_be_had() {
    apart("startup::a_run_that_can_not_be_used_is_told_with_the_name_that_can_not_be_had", || {
        let said = |what: &str, why: &str| {
            does_not_start(&format!("{what}: {why}; make /run writable, and remove what else has this name"));
        };
        mount("-t tmpfs -o ro tmpfs /run");
        said("pid file /run/vmd.pid", "Read-only file system");
        unmount("/run");
        mount("-t tmpfs -o nr_inodes=2 tmpfs /run");
        said("control socket /run/vmd.sock", "No space left on device");
        assert_eq!(in_run(), Vec::<String>::new());
        unmount("/run");
        for (name, what) in [("vmd.pid", "pid file"), ("vmd.sock", "control socket")] {
            let path = Path::new("/run").join(name);
            fs::create_dir(&path).expect("it is ours");
            said(&format!("{what} {}", path.display()), "Is a directory");
            assert_eq!(in_run(), [name], "nothing but what was in the way");
            fs::remove_dir(path).expect("it is ours");
        }
        symlink("/etc/passwd", "/run/vmd.pid").expect("it is ours");
        said("pid file /run/vmd.pid", "Too many levels of symbolic links");
    });
}

#[test]
fn two_vmds_are_one_and_the_second_names_the_first() {
    apart("startup::two_vmds_are_one_and_the_second_names_the_first", || {
        let first = Daemon::start("vm \"web\" {\n\tdisable\n\tboot \"/etc/passwd\"\n}\n");
        does_not_start(&format!("vmd already runs (pid {}): stop it first", first.process().pid));
        assert_eq!(first.row("web").state, "stopped", "the first serves");
        assert!(first.stop().success());
        gone();
        // In the background: it serves when the command returns.
        let conf = tempfile::NamedTempFile::new().expect("a file");
        assert_eq!(vmd(&["-f", text(conf.path())]).success().stderr, "");
        let pid = fs::read_to_string("/run/vmd.pid").expect("its pid file");
        does_not_start(&format!("vmd already runs (pid {}): stop it first", pid.trim()));
        let pid = Pid::from_raw(pid.trim().parse().expect("a pid")).expect("a pid");
        kill_process(pid, Signal::TERM).expect("it is ours");
        gone();
    });
}

/// Runs vmd in name spaces of its own where everything named is another's: `net`, or a directory.
fn elsewhere(others: &[&str]) -> Reply {
    let conf = tempfile::NamedTempFile::new().expect("a file");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]);
    let mut script = "true".to_owned();
    for other in others {
        match *other {
            "net" => drop(command.arg("--net")),
            directory => script += &format!(" && mount -t tmpfs tmpfs {directory}"),
        }
    }
    script += " && exec timeout 30 \"$@\"";
    command.args(["--", "/bin/sh", "-c", &script, "sh"]).arg(artefacts::vmd()).args(["-d", "-f", text(conf.path())]);
    run(&mut command)
}

/// The first is named, and goes on.
#[track_caller]
fn is_second(first: &Daemon, others: &[&str]) {
    let reply = elsewhere(others);
    let said = format!("vmd: vmd already runs (pid {}): stop it first\n", first.process().pid);
    assert_eq!((reply.status, reply.stderr), (Some(1), said), "with {others:?} of its own");
    let processes: Vec<_> = Process::of_vmd().iter().map(|process| process.pid).collect();
    assert_eq!(first.row("web").state, "stopped", "with {others:?} of its own: {processes:?}");
}

/// Ends a daemon without a chance to tidy up.
fn kill(daemon: Daemon) {
    daemon.signal(Signal::KILL);
    drop(daemon);
}

const WEB: &str = "vm \"web\" {\n\tdisable\n\tboot \"/etc/passwd\"\n}\n";

#[test]
fn whatever_two_vmds_share_shows_the_second_that_the_first_lives() {
    apart("startup::whatever_two_vmds_share_shows_the_second_that_the_first_lives", || {
        let first = Daemon::start(WEB);
        fs::remove_file("/run/vmd.pid").expect("it is there");
        is_second(&first, &[]); // all that a pid file does not tell
        is_second(&first, &["net", "/var/lib"]); // the control socket alone
        is_second(&first, &["/run", "net"]); // the state directory alone
        is_second(&first, &["/run", "/var/lib"]); // the network alone
        // With nothing in common there is no second, until its time is up.
        let other = elsewhere(&["/run", "/var/lib", "net"]);
        assert_eq!((other.status, other.stderr.contains("already runs")), (Some(124), false), "{other:?}");
        assert_eq!(first.row("web").state, "stopped");
        // No lock that a user may take stops a daemon, nor a role of a dead one that has its listening socket.
        let control = first.in_role("control").pop().expect("control");
        let control = Pid::from_raw(i32::try_from(control.pid).expect("a pid")).expect("a pid");
        kill_process(control, Signal::STOP).expect("it is ours");
        kill(first);
        let mut user = Command::new("setpriv");
        user.args([
            "--reuid",
            "65534",
            "--clear-groups",
            "flock",
            "/proc/self/ns/net",
            "sh",
            "-c",
            "echo; exec sleep 1000",
        ]);
        let mut user = user.stdout(Stdio::piped()).spawn().expect("a user");
        user.stdout.take().expect("its output").read_exact(&mut [0]).expect("it has the lock");
        let second = Daemon::start(WEB);
        assert_eq!(second.row("web").state, "stopped", "after a kill the next one starts");
        user.kill().and_then(|()| user.wait()).expect("it is ours");
        kill_process(control, Signal::KILL).expect("it is ours");
        assert_eq!(fs::metadata("/var/lib/vmd/lock").expect("a lock").mode() & 0o7777, 0o600);
        ends(second);
    });
}

#[test]
fn a_second_vmd_in_the_same_cgroup_touches_none_of_the_first() {
    Machine::default().run("startup::a_second_vmd_in_the_same_cgroup_touches_none_of_the_first", || {
        let first = Daemon::start(WEB);
        fs::remove_file("/run/vmd.pid").expect("it is there");
        is_second(&first, &["/run", "/var/lib", "net"]);
        let roles = |daemon: &Daemon| daemon.in_role("control").len() + daemon.in_role("vmm").len();
        assert_eq!(roles(&first), 2, "nobody killed them");
        kill(first);
        let second = Daemon::start(WEB);
        assert_eq!(second.row("web").state, "stopped", "after a kill the next one starts");
        ends(second);
    });
}

#[test]
fn state_is_written_over_no_link_and_what_was_left_half_written_goes() {
    apart("startup::state_is_written_over_no_link_and_what_was_left_half_written_goes", || {
        fs::create_dir("/var/lib/vmd").expect("it is ours");
        fs::write("/mnt/precious", "precious").expect("it is ours");
        for name in ["ids.new", "ids", "lladdr.new", "lladdr"] {
            symlink("/mnt/precious", Path::new("/var/lib/vmd").join(name)).expect("it is ours");
        }
        let first = Daemon::start(WEB);
        for told in
            ["ids: Too many levels of symbolic links; VMs get", "lladdr: Too many levels of symbolic links; cards get"]
        {
            assert!(first.log().contains(&format!("/var/lib/vmd/{told} new ")), "{told}");
        }
        for gone in ["ids.new", "lladdr.new"] {
            assert!(!Path::new("/var/lib/vmd").join(gone).exists(), "{gone}: before anything is written");
        }
        ends(first);
        assert_eq!(fs::read_to_string("/mnt/precious").expect("it is there"), "precious");
        for name in ["/var/lib/vmd/ids", "/var/lib/vmd/lladdr"] {
            let written = fs::symlink_metadata(name).expect("it was written");
            assert_eq!((written.is_file(), written.mode() & 0o7777), (true, 0o600), "{name}");
        }
    });
}

#[test]
fn who_may_not_and_a_host_without_the_user_are_told() {
    apart("startup::who_may_not_and_a_host_without_the_user_are_told", || {
        for options in [&["-d", "-f", "/dev/null"][..], &["-f", "/dev/null"]] {
            let reply = as_nobody(&readable_vmd(), options);
            assert_eq!(
                (reply.status, reply.stderr.as_str()),
                (Some(1), "vmd: need root privileges: start vmd as root\n")
            );
        }
        fs::write("/mnt/passwd", "root:x:0:0::/root:/bin/sh\n").expect("it is ours");
        does_not_start(
            "unknown user _vmd: make it with \"useradd --system --no-create-home --shell /usr/sbin/nologin _vmd\"",
        );
        gone();
    });
}

/// The program where everybody may execute it; where it was built, that may not be so.
fn readable_vmd() -> std::path::PathBuf {
    let copy = Path::new("/mnt/vmd").to_path_buf();
    fs::copy(artefacts::vmd(), &copy).expect("it is ours");
    copy
}

#[test]
fn the_control_socket_is_its_owners_and_groups_alone_and_replaces_what_was_left() {
    apart("startup::the_control_socket_is_its_owners_and_groups_alone_and_replaces_what_was_left", || {
        for (configuration, owner) in
            [("", (0, 0)), ("socket owner nobody\n", (65534, 0)), ("socket owner :daemon\n", (0, 1))]
        {
            // As a daemon that was killed leaves it.
            fs::write("/run/vmd.sock", "").expect("it is ours");
            let daemon = Daemon::start_quietly(configuration);
            let socket = fs::symlink_metadata("/run/vmd.sock").expect("it is there");
            assert!(socket.file_type().is_socket(), "{configuration:?}");
            assert_eq!((socket.uid(), socket.gid()), owner, "{configuration:?}");
            assert_eq!(socket.mode() & 0o7777, 0o660, "{configuration:?}");
            ends(daemon);
        }
    });
}
