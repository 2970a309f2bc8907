//! Rules of docs/openbsd that only the whole program shows: the check and the start are one, names keep their
//! meaning, and what comes with a request that is refused is closed.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use testkit::apart::{apart, mount};
use testkit::artefacts;
use testkit::daemon::{Daemon, vmctl};
use testkit::deadline::{self, DAEMON};
use testkit::idle::{self, Does};

use crate::world::{Quiet, as_nobody, ends, gone, refused, run, text, vmd};

/// A VM that is not started by itself.
fn web(options: &str) -> String {
    format!("vm \"web\" {{\n\tdisable\n\tboot \"/etc/hostname\"\n\t{options}\n}}\n")
}

#[test]
fn what_the_check_accepts_starts_and_says_the_same_of_what_will_not() {
    apart("rules::what_the_check_accepts_starts_and_says_the_same_of_what_will_not", || {
        let kernel = idle::kernel_file(Path::new("/mnt"), Does::Nothing);
        let web = |option: &str| web(option).replace("/etc/hostname", text(&kernel));
        for (option, why) in [
            ("memory 1M", "memory of 1 MiB is less than the 64 MiB that a kernel needs"),
            (
                "cdrom \"/dev/null\"",
                "cdrom \"/dev/null\": is a character device, cdrom must be a regular file or a block device",
            ),
            ("sev", "memory encryption is not supported by this release"),
        ] {
            let note = format!("vmd: warning: vm \"web\" will not start: {why}\n");
            let daemon = Daemon::start_quietly(&web(option));
            let checked = vmd(&["-n", "-f", text(&daemon.path("vm.conf"))]).success();
            assert_eq!(checked.stderr, format!("{note}configuration OK\n"));
            assert!(daemon.log().starts_with(&note), "{}", daemon.log());
            assert_eq!(daemon.row("web").state, "stopped");
            refused(&daemon, &["start", "web"], &format!("vmctl: start \"web\": {why}"));
            assert_eq!(daemon.row("web").state, "stopped");
            daemon.vmctl(&["reload"]).success();
            ends(daemon);
        }
    });
}

#[test]
fn what_a_start_refuses_for_certain_the_check_foresees_in_the_same_words() {
    apart("rules::what_a_start_refuses_for_certain_the_check_foresees_in_the_same_words", || {
        let kernel = idle::kernel_file(Path::new("/mnt"), Does::Nothing);
        for (name, bytes) in
            [("qcow.img", &b"QFI\xfb\0\0\0\x03"[..]), ("short.img", b"x"), ("empty", b""), ("script", b"#!/bin/sh\n")]
        {
            fs::write(Path::new("/mnt").join(name), bytes).expect("it is ours");
        }
        let image = fs::OpenOptions::new().write(true).open("/mnt/qcow.img").and_then(|file| file.set_len(1 << 20));
        image.expect("it is ours");
        for (name, base) in [("a.qcow2", "b.qcow2"), ("b.qcow2", "none.qcow2"), ("loop.qcow2", "/mnt/loop.qcow2")] {
            qcow2(&Path::new("/mnt").join(name), base);
        }
        let cut = fs::read(&kernel).expect("a kernel");
        fs::write("/mnt/cut", &cut[..cut.len() / 2]).expect("it is ours");
        let (own, kernel) = (|path: &str| format!("boot \"{path}\""), format!("boot \"{}\"", text(&kernel)));
        for (options, why) in [
            (
                format!("{kernel}\n\tdisk \"/mnt/qcow.img\""),
                "disk \"/mnt/qcow.img\": the image begins like a qcow2 image",
            ),
            (
                format!("{kernel}\n\tdisk \"/mnt/a.qcow2\""),
                "disk \"/mnt/a.qcow2\": base \"/mnt/b.qcow2\": its base \"/mnt/none.qcow2\": no such file",
            ),
            (
                format!("{kernel}\n\tdisk \"/mnt/loop.qcow2\""),
                "disk \"/mnt/loop.qcow2\": its base \"/mnt/loop.qcow2\": is \"/mnt/loop.qcow2\" again",
            ),
            (format!("{kernel}\n\tdisk \"/mnt/short.img\""), "disk \"/mnt/short.img\": has 1 bytes"),
            (format!("{kernel}\n\tinitrd \"/mnt/empty\""), "initrd \"/mnt/empty\": is empty"),
            (own("/mnt/script"), "kernel \"/mnt/script\": is a script"),
            (own("/mnt/empty"), "kernel \"/mnt/empty\": is empty"),
            (own("/mnt/cut"), "kernel \"/mnt/cut\": "),
        ] {
            let daemon = Daemon::start_quietly(&format!("vm \"web\" {{\n\tdisable\n\t{options}\n}}\n"));
            let checked = vmd(&["-n", "-f", text(&daemon.path("vm.conf"))]).success().stderr;
            let foreseen = checked.strip_prefix("vmd: warning: vm \"web\" will not start: ");
            let foreseen = foreseen.and_then(|rest| rest.lines().next()).unwrap_or_else(|| panic!("{checked}"));
            assert!(foreseen.starts_with(why), "{foreseen}");
            let said = daemon.vmctl(&["start", "web"]);
            assert_eq!((said.status, said.stderr), (Some(1), format!("vmctl: start \"web\": {foreseen}\n")));
            ends(daemon);
        }
    });
}

#[test]
fn what_the_check_refuses_does_not_start_and_is_not_loaded() {
    apart("rules::what_the_check_refuses_does_not_start_and_is_not_loaded", || {
        let switch = "switch \"lan\" {\n\tinterface br0\n\trdomain 3\n}\n";
        let wrong = format!("{switch}{}", web("interface { switch lan rdomain 4 }"));
        let said = "an interface in rdomain 4 can't be on switch \"lan\" in rdomain 3";
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), &wrong).expect("it is ours");
        for option in ["-n", "-d"] {
            let reply = vmd(&[option, "-f", text(file.path())]);
            let placed = reply.stderr.starts_with(text(file.path())) && reply.stderr.contains(&format!(": {said}\n"));
            assert!(reply.status == Some(1) && placed, "{option}: {reply:?}");
        }
        gone();
        let daemon = Daemon::start_quietly("");
        let reply = daemon.vmctl(&["load", text(file.path())]);
        assert!(reply.status == Some(1) && reply.stderr.contains(said), "{reply:?}");
        assert_eq!(daemon.status().len(), 0);
        ends(daemon);
    });
}

#[test]
fn relative_names_and_macros_keep_their_meaning_in_the_background_and_at_a_reload() {
    apart("rules::relative_names_and_macros_keep_their_meaning_in_the_background_and_at_a_reload", || {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("it is ours");
        let vm = |name: &str, kernel: &str| format!("vm \"{name}\" {{\n\tdisable\n\tboot {kernel}\n}}\n");
        write("kernel", "");
        write("vm.conf", &format!("include \"more.conf\"\n{}", vm("a", "$kernel")));
        write("more.conf", &vm("b", "\"kernel\""));
        write("extra.conf", &vm("x", "\"./kernel\""));
        let mut command = Command::new(artefacts::vmd());
        command.args(["-D", "kernel=kernel", "-f", "vm.conf"]).current_dir(dir.path());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().expect("vmd can be run").success());
        let names = || {
            let table = vmctl(&["status"]).success().stdout;
            let names = table.lines().skip(1).filter_map(|line| line.split(' ').next_back());
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(), "b a");
        write("more.conf", &(vm("b", "\"kernel\"") + &vm("c", "$kernel")));
        assert_eq!(vmctl(&["reload"]).success().stderr, "");
        assert_eq!(names(), "b c a");
        assert_eq!(vmctl(&["load", "extra.conf"]).success().stderr, "");
        assert_eq!(names(), "b c a x");
        let pid = fs::read_to_string("/run/vmd.pid").expect("its pid file");
        let pid = Pid::from_raw(pid.trim().parse().expect("a pid")).expect("a pid");
        kill_process(pid, Signal::TERM).expect("it is ours");
        gone();
    });
}

#[test]
fn the_default_file_may_be_missing_and_is_read_where_it_is_not() {
    apart("rules::the_default_file_may_be_missing_and_is_read_where_it_is_not", || {
        mount("-t tmpfs tmpfs /etc");
        assert_eq!(vmd(&["-n"]).success().stderr, "configuration OK\n");
        fs::write("/etc/vm.conf", "rubbish\n").expect("it is ours");
        let reply = vmd(&["-n"]);
        assert_eq!(reply.status, Some(1));
        assert!(
            reply.stderr.starts_with("/etc/vm.conf:1:1: syntax error: unknown statement \"rubbish\"\n"),
            "{reply:?}"
        );
    });
}

#[test]
fn a_file_is_read_whoever_owns_it_and_one_that_cannot_be_read_is_named() {
    apart("rules::a_file_is_read_whoever_owns_it_and_one_that_cannot_be_read_is_named", || {
        let [file, other] = ["/mnt/vm.conf", "/mnt/other.conf"].map(Path::new);
        fs::write(file, "include \"/mnt/other.conf\"\n").expect("it is ours");
        fs::write(other, "local inet6\n").expect("it is ours");
        for path in [file, other] {
            chown(path, Some(65534), Some(65534)).expect("as root");
            fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("as root");
        }
        assert_eq!(vmd(&["-n", "-f", text(file)]).success().stderr, "configuration OK\n");
        chown(file, Some(0), Some(0)).expect("as root");
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("as root");
        let program = Path::new("/mnt/vmd");
        fs::copy(artefacts::vmd(), program).expect("it is ours");
        let reply = as_nobody(program, &["-n", "-f", text(file)]);
        let said = "vmd: failed to open \"/mnt/vm.conf\": Permission denied; -f names the configuration\n";
        assert_eq!((reply.status, reply.stderr.as_str()), (Some(1), said));
        // A directory on the way is named: to the file itself, to one that it includes, to one that it names.
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).expect("as root");
        fs::create_dir("/mnt/closed").expect("it is ours");
        fs::write("/mnt/closed/x", "").expect("it is ours");
        fs::set_permissions("/mnt/closed", fs::Permissions::from_mode(0o700)).expect("as root");
        symlink("/mnt/closed/x", "/mnt/link").expect("it is ours");
        let directory = "Permission denied: directory \"/mnt/closed\" gives you no search permission (x)";
        let reply = as_nobody(program, &["-n", "-f", "/mnt/closed/x"]);
        let said = format!("vmd: failed to open \"/mnt/closed/x\": {directory}; -f names the configuration\n");
        assert_eq!((reply.status, reply.stderr), (Some(1), said));
        for (line, said) in [
            ("include \"/mnt/closed/x\"\n", directory),
            ("vm \"a\" {\n\tboot \"/mnt/closed/x\"\n}\n", directory),
            (
                "vm \"a\" {\n\tboot \"/mnt/link\"\n}\n",
                "Permission denied: \"/mnt/link\" is a link to where you may not go",
            ),
        ] {
            fs::write(file, line).expect("it is ours");
            let reply = as_nobody(program, &["-n", "-f", text(file)]);
            assert!(reply.status == Some(1) && reply.stderr.contains(said), "{line}: {}", reply.stderr);
        }
    });
}

#[test]
fn a_macro_of_the_command_line_without_an_equals_sign_is_told_and_passed_over() {
    apart("rules::a_macro_of_the_command_line_without_an_equals_sign_is_told_and_passed_over", || {
        let reply = vmd(&["-n", "-D", "nonsense", "-D", "x=1", "-f", "/dev/null"]).success();
        let said = "vmd: could not parse macro definition nonsense; write -D name=value\n\
            warning: macro 'x' not used\nconfiguration OK\n";
        assert_eq!(reply.stderr, said);
    });
}

#[test]
fn send_and_receive_are_refused_and_the_descriptor_that_came_along_is_closed() {
    apart("rules::send_and_receive_are_refused_and_the_descriptor_that_came_along_is_closed", || {
        let daemon = Daemon::start_quietly(&web("memory 128M"));
        let quiet = Quiet::of(&daemon);
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        let mut send = Command::new(artefacts::vmctl());
        let reply = send.args(["send", "web"]).stdout(writer).stdin(Stdio::null()).output().expect("vmctl");
        drop(send); // and with it the end that it was given
        assert_eq!(reply.status.code(), Some(1));
        let said = "vmctl: send \"web\": send is not supported by this release\n";
        assert_eq!(String::from_utf8_lossy(&reply.stderr), said);
        rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK).expect("it is ours");
        let mut reader = fs::File::from(reader);
        deadline::until("nobody to hold what was sent along", DAEMON, || match reader.read(&mut [0]) {
            Ok(0) => Some(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            other => panic!("{other:?}"),
        });
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        let mut receive = Command::new(artefacts::vmctl());
        let reply = run_with(receive.args(["receive", "new"]).stdin(reader));
        drop(receive);
        assert_eq!(reply, (Some(1), "vmctl: receive \"new\": receive is not supported by this release\n".to_owned()));
        let mut writer = fs::File::from(writer);
        deadline::until("nobody to read what was sent along", DAEMON, || {
            writer.write(&[0]).is_err_and(|error| error.kind() == ErrorKind::BrokenPipe).then_some(())
        });
        assert_eq!(daemon.status().len(), 1);
        quiet.again();
        ends(daemon);
    });
}

fn run_with(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().expect("vmctl can be run");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_control_socket_is_roots_and_of_group_0_and_nobody_elses() {
    apart("rules::the_control_socket_is_roots_and_of_group_0_and_nobody_elses", || {
        let daemon = Daemon::start_quietly("");
        let socket = fs::metadata("/run/vmd.sock").expect("it serves");
        assert_eq!((socket.mode() & 0o7777, socket.uid(), socket.gid()), (0o660, 0, 0));
        ends(daemon);
    });
}

#[test]
fn faults_of_disks_are_refused_by_name() {
    apart("rules::faults_of_disks_are_refused_by_name", || {
        let daemon = Daemon::start_quietly(&web("memory 128M"));
        let stopped = |what: &str| format!("vmctl: {what} \"web\": vm \"web\" is not running");
        refused(&daemon, &["disk-fail", "web", "0", "read", "1"], &stopped("disk-fail"));
        refused(&daemon, &["flush-stop", "web", "0", "1"], &stopped("flush-stop"));
        ends(daemon);
    });
}

#[test]
fn a_check_starts_nothing_and_needs_no_root() {
    apart("rules::a_check_starts_nothing_and_needs_no_root", || {
        let program = Path::new("/mnt/vmd");
        fs::copy(artefacts::vmd(), program).expect("it is ours");
        let reply = as_nobody(program, &["-n", "-f", "/dev/null"]);
        assert_eq!((reply.status, reply.stderr.as_str()), (Some(0), "configuration OK\n"));
        let reply = run(Command::new(program).args(["-n", "-f", "/dev/null"]).env_clear());
        assert_eq!((reply.status, reply.stdout.as_str()), (Some(0), ""));
        gone();
    });
}

/// A qcow2 image of version 2 with a disk of 1 MiB (QEMU, docs/interop/qcow2.rst): clusters of 64 KiB, the header, an L1 table,
/// a refcount table, and room for its block.
pub fn qcow2(path: &Path, base: &str) {
    let mut image = vec![0; 4 << 16];
    let name_len = u32::try_from(base.len()).expect("short");
    let fields: [(usize, &[u8]); 9] = [
        (0, b"QFI\xfb\0\0\0\x02"),
        (8, &(if base.is_empty() { 0_u64 } else { 512 }).to_be_bytes()),
        (16, &name_len.to_be_bytes()),
        (20, &16_u32.to_be_bytes()),
        (24, &(1_u64 << 20).to_be_bytes()),
        (36, &1_u32.to_be_bytes()),
        (40, &(1_u64 << 16).to_be_bytes()),
        (48, &(2_u64 << 16).to_be_bytes()),
        (56, &1_u32.to_be_bytes()),
    ];
    for (at, bytes) in fields.into_iter().chain([(512, base.as_bytes())]) {
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }
    fs::write(path, image).expect("it is ours");
}
