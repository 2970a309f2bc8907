//! A vm.conf with any error: each is told at its place, or with the file's name, and vmd does not start.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::Instant;

use testkit::apart::apart;
use testkit::artefacts;
use testkit::daemon::Daemon;
use testkit::schema;

use crate::world::{Quiet, ends, gone, refused, text, vmd};

/// Longest line that a user gets to see, in characters.
const MAX_LINE: usize = 300;

/// What the check says, which refuses this configuration.
#[track_caller]
fn checked(configuration: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("vm.conf");
    fs::write(&file, configuration).expect("it is ours");
    let reply = vmd(&["-n", "-f", text(&file)]);
    assert_eq!((reply.status, reply.stdout.as_str()), (Some(1), ""), "{}", reply.stderr);
    reply.stderr.replace(text(&file), "vm.conf")
}

/// Checked and started with this configuration, vmd ends with status 1; what it says.
#[track_caller]
fn told(configuration: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("vm.conf");
    fs::write(&file, configuration).expect("it is ours");
    let [checked, started] = ["-n", "-d"].map(|option| vmd(&[option, "-f", text(&file)]));
    assert_eq!(checked, started, "the check says what the start says");
    assert_eq!((checked.status, checked.stdout.as_str()), (Some(1), ""), "{}", checked.stderr);
    gone();
    checked.stderr.replace(text(&file), "vm.conf")
}

#[test]
fn a_configuration_that_can_not_be_read_is_named() {
    apart("configuration::a_configuration_that_can_not_be_read_is_named", || {
        for (file, why) in [
            ("/nowhere/vm.conf", "No such file or directory"),
            ("", "No such file or directory"),
            ("/etc", "Is a directory"),
            ("/dev/zero", "more than 64 MiB: too large for a configuration"),
        ] {
            let said = format!("vmd: failed to open \"{file}\": {why}; -f names the configuration\n");
            for option in ["-n", "-d"] {
                let reply = vmd(&[option, "-f", file]);
                assert_eq!((reply.status, reply.stderr), (Some(1), said.clone()));
            }
        }
        let said = told(b"include \"/etc\"\ninclude \"/dev/zero\"\n");
        assert!(said.starts_with("vm.conf:1:9: failed to include file /etc: Is a directory\n"), "{said}");
        assert!(said.contains("vm.conf:2:9: failed to include file /dev/zero: more than 64 MiB"), "{said}");
        let usage = vmd(&["-n", "-z"]);
        let said = "usage: vmd [-dnv] [-D macro=value] [-f file]\n       vmd -n --format | --json [-D macro=value] [-f file]\n";
        assert_eq!((usage.status, &*usage.stderr), (Some(1), said));
    });
}

/// How `vmd ARGUMENT...` ends where nobody can read what it says: on a full device, and in a pipe that was closed.
fn unheard(arguments: &[&str], stream: &str) -> [Option<i32>; 2] {
    let program = artefacts::vmd();
    let run = |script: String| {
        Command::new("sh")
            .args(["-c", &script, "sh"])
            .arg(&program)
            .args(arguments)
            .status()
            .expect("sh can be run")
            .code()
    };
    // The pipe's reader has ended before vmd begins.
    let closed = format!("exec 3>&1; mkfifo p; : <p & exec 4>p; wait; \"$@\" {stream}>&4 3>&-");
    let dir = tempfile::tempdir().expect("a directory");
    [run(format!("\"$@\" {stream}>/dev/full")), run(format!("cd {} && {closed}", text(dir.path())))]
}

#[test]
fn what_nobody_can_read_changes_no_outcome() {
    apart("configuration::what_nobody_can_read_changes_no_outcome", || {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str, configuration: &str| {
            let file = dir.path().join(name);
            fs::write(&file, configuration).expect("it is ours");
            text(&file).to_owned()
        };
        let (right, warned, wrong) = (file("right", ""), file("warned", "a = \"1\"\n"), file("wrong", "vm {\n"));
        for (arguments, status) in [
            (&["-n", "-f", &right][..], 0),
            (&["-n", "-f", &warned], 0),
            (&["-n", "-f", &right, "-D", "none"], 0),
            (&["-n", "-f", &wrong], 1),
            (&["-d", "-f", &wrong], 1),
            (&["-z"], 1),
        ] {
            assert_eq!(unheard(arguments, "2"), [Some(status); 2], "{arguments:?}");
        }
        for tell in ["--json", "--format"] {
            // Who closes the pipe has read enough.
            assert_eq!(unheard(&["-n", tell, "-f", &warned], "1"), [Some(1), Some(0)], "{tell}");
        }
        assert_eq!(unheard(&["-x", "doctor"], "1"), [Some(1); 2]);
    });
}

#[test]
fn what_vmd_tells_commands_no_terminal() {
    apart("configuration::what_vmd_tells_commands_no_terminal", || {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, disk) = (dir.path().join("vm.conf"), dir.path().join("\u{1b}[31m\n.img"));
        fs::write(&disk, [0; 512]).expect("it is ours");
        let shown = dir.path().join("disk");
        std::os::unix::fs::symlink(&disk, &shown).expect("it is ours");
        fs::write(&file, format!("vm a {{\ndisable\ndisk \"{}\" format qcow2\n}}\n", shown.display()))
            .expect("it is ours");
        let reply = vmd(&["-n", "-f", text(&file), "-D", "\u{1b}[31m\n"]);
        assert_eq!(reply.status, Some(0));
        assert!(reply.stderr.contains("\\u{1b}[31m\\n.img"), "{}", reply.stderr);
        assert!(reply.stderr.lines().all(|line| !line.contains(char::is_control)), "{:?}", reply.stderr);
        assert_eq!(reply.stderr.lines().count(), 3, "{}", reply.stderr);
    });
}

#[test]
fn a_thousand_switches_are_all_made_and_a_file_that_is_no_disk_is_told_before() {
    apart("configuration::a_thousand_switches_are_all_made_and_a_file_that_is_no_disk_is_told_before", || {
        let switches: String = (0..1000).map(|n| format!("switch s{n} {{\n\tinterface bridge0\n}}\n")).collect();
        let daemon = Daemon::start_quietly(&switches);
        let more = daemon.path("more.conf");
        fs::write(&more, switches.replace("switch s", "switch more")).expect("it is ours");
        daemon.vmctl(&["load", text(&more)]).success();
        let log = daemon.log();
        assert!(!log.contains("does not read"), "{log}");
        fs::write(&more, "vm dir {\n\tboot \"/etc\"\n}\n").expect("it is ours");
        daemon.vmctl(&["load", text(&more)]).success();
        let told = "vm \"dir\" will not start: kernel \"/etc\": is a directory, kernel must be a regular file";
        assert!(daemon.log().contains(told), "{}", daemon.log());
        ends(daemon);
    });
}

#[test]
fn what_a_file_means_is_told_as_json_and_as_its_canonical_text() {
    let schema = include_str!("../../../docs/schema/config.json");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("vm.conf");
    let check = |configuration: &str, tell: &str| {
        fs::write(&file, configuration).expect("it is ours");
        vmd(&["-n", tell, "-f", text(&file)])
    };
    let told = |configuration: &str, status| {
        let reply = check(configuration, "--json");
        assert_eq!((reply.status, reply.stderr.as_str()), (Some(status), ""), "{}", reply.stdout);
        schema::holds(schema, &reply.stdout);
        reply.stdout
    };
    let right = "kernel = \"/etc/passwd\"\nvm \"web\" {\n\tboot $kernel\n\tmemory 1G\n\towner nobody:nogroup\n}\n";
    let json = told(right, 0);
    assert!(json.contains("\"memory_bytes\": 1073741824") && json.contains("\"boot\": \"/etc/passwd\""), "{json}");
    let json = told("vm \"web\" {\n\tboot \"/etc/passwd\"\n\tmemory 200G\n\tcpus 0\n}\n", 1);
    assert!(json.contains("\"line\": 3") && json.contains("\"line\": 4"), "each error: {json}");
    assert!(json.contains("\"configuration\": null"), "{json}");
    let json = told("vm \"web\" {\n\tboot \"/etc/passwd\"\n\tsev\n}\n", 0);
    assert!(json.contains("\"sev\": \"sev\"") && json.contains("\"ok\": true"), "read: {json}");
    assert!(json.contains("\"message\": \"vm \\\"web\\\" will not start: "), "and not carried out: {json}");
    let two = "switch \"lan\" {\n\tinterface br0\n\trdomain 3\n}\n\
        vm \"web\" {\n\tboot \"/etc/passwd\"\n\tinterface { switch lan rdomain 4 }\n}\n";
    let json = told(two, 1);
    assert!(json.contains("\"ok\": false") && json.contains("has one master"), "not carried out at all: {json}");
    fs::remove_file(&file).expect("it is ours");
    let reply = vmd(&["-n", "--json", "-f", text(&file)]);
    schema::holds(schema, &reply.stdout);
    assert!(reply.status == Some(1) && reply.stdout.contains("No such file or directory"), "{}", reply.stdout);

    let canonical = check(right, "--format").success().stdout;
    assert!(
        canonical.contains("\tmemory 1073741824\n") && canonical.contains("owner \"nobody:nogroup\""),
        "{canonical}"
    );
    assert_eq!(check(&canonical, "--format").success().stdout, canonical, "it means itself");
    assert_eq!(check("vm web {\n", "--format").stdout, "", "nothing of a wrong one");
    let (kernel, link) = (dir.path().join("a\nb"), dir.path().join("link"));
    fs::write(&kernel, "").expect("it is ours");
    std::os::unix::fs::symlink(&kernel, &link).expect("it is ours");
    let reply = check(&format!("vm web {{\n\tboot {}\n}}\n", text(&link)), "--format");
    let why = "a\\nb\": a string in vm.conf can't contain a newline or NUL; rename the file\n";
    assert!(reply.stderr.starts_with("vmd: vm \"web\": boot \"/") && reply.stderr.ends_with(why), "{}", reply.stderr);
    assert_eq!((reply.status, reply.stdout.as_str()), (Some(1), ""), "and nothing of what can't be written");
}

#[test]
fn what_is_too_much_or_too_little_is_told_with_the_bounds() {
    apart("configuration::what_is_too_much_or_too_little_is_told_with_the_bounds", || {
        for (option, message, hint) in [
            ("cpus 65", "invalid number of cpus: 65", "^^ expected 1 to 64"),
            ("cpus 0", "invalid number of cpus: 0", "^ expected 1 to 64"),
            ("memory 0", "failed to parse size: 0: memory size must be at least 1MB", "^ a number alone is bytes"),
            ("memory 512", "failed to parse size: 512", "did you mean \"512M\"?"),
            ("memory 200G", "memory size too large (limit is 128G)", "^^^^"),
            ("interfaces 9", "too many interfaces: 9", "^ at most 8"),
            ("boot \"/nowhere\"", "kernel path not found: \"/nowhere\": No such file", "^ correct the path"),
            ("disk \"/nowhere\"", "disk path not found: \"/nowhere\"", "make a disk with \"vmctl create\""),
        ] {
            let file = format!("vm \"web\" {{\n\t{option}\n}}\n");
            // The start lists a VM whose file is missing, and serves.
            let said = if option.contains("/nowhere") { checked(file.as_bytes()) } else { told(file.as_bytes()) };
            assert!(said.starts_with("vm.conf:2:") && said.contains(message), "{said}");
            assert!(said.contains(&format!("    2 | \t{option}\n")) && said.contains(hint), "{option}: {said}");
        }
        let disks = "\tdisk \"/etc/passwd\"\n".repeat(17);
        let said = told(format!("vm \"web\" {{\n{disks}}}\n").as_bytes());
        assert!(said.starts_with("vm.conf:18:7: failed to parse disks: /etc/passwd: too many disks\n"), "{said}");
    });
}

#[test]
fn what_one_vm_lacks_costs_that_vm_alone_until_it_is_there() {
    apart("configuration::what_one_vm_lacks_costs_that_vm_alone_until_it_is_there", || {
        let dir = tempfile::tempdir().expect("a directory");
        let image = dir.path().join("late.img");
        let configuration = format!(
            "vm \"good\" {{\n\tdisable\n\tboot \"/etc/passwd\"\n}}\n\
             vm \"late\" {{\n\tdisable\n\tboot \"/etc/passwd\"\n\tdisk \"{0}\" format raw\n}}\n\
             vm \"lost\" {{\n\tdisable\n\tboot \"/etc/passwd\"\n\towner nobodyknows\n}}\n",
            image.display()
        );
        let daemon = Daemon::start(&configuration);
        let checked = vmd(&["-n", "-f", text(&daemon.path("vm.conf"))]);
        assert_eq!(checked.status, Some(1), "the check refuses the file");
        let shown = daemon.vmctl(&["status"]);
        assert_eq!(daemon.status().len(), 3, "{}", shown.stdout);
        let late = format!("vm.conf:8:7: disk path not found: \"{}\": No such file or directory\n", image.display());
        for (name, why) in [("late", late.as_str()), ("lost", "vm.conf:13:8: failed to get user: nobodyknows\n")] {
            let line = shown.stderr.lines().find(|line| line.contains(&format!("vm \"{name}\" is not startable: ")));
            let line = format!("{}\n", line.unwrap_or_else(|| panic!("{name}: {}", shown.stderr)));
            assert!(line.ends_with(why), "{line}");
        }
        assert!(!shown.stderr.contains("good"), "{}", shown.stderr);
        // Tried again, it is missing still; then it has come.
        let start = || daemon.vmctl(&["start", "late"]).stderr;
        let said = start();
        assert!(said.contains("late.img") && said.contains("no such file"), "{said}");
        fs::write(&image, [0; 512]).expect("it is ours");
        let said = start();
        assert!(!said.contains("late.img"), "{said}");
        assert!(daemon.vmctl(&["start", "lost"]).stderr.contains("is not startable"), "nobody may have it");
        let reloaded = daemon.vmctl(&["reload"]).success();
        assert!(
            reloaded.stderr.contains("\"lost\" is not startable") && !reloaded.stderr.contains("late"),
            "{}",
            reloaded.stderr
        );
        assert!(daemon.stop().success());
    });
}

#[test]
fn names_that_nothing_can_have_are_told() {
    apart("configuration::names_that_nothing_can_have_are_told", || {
        let letters = "expected letters, digits";
        let names = ["", "a b", "-a", "a/b", "é", "a\u{1b}[31mb", ".."].map(|name| (name, letters));
        for (name, hint) in names.into_iter().chain([("a\u{202e}b", "it has an invisible character (U+202E)")]) {
            let said = told(format!("vm \"{name}\" {{\n\tboot \"/etc/passwd\"\n}}\n").as_bytes());
            assert!(said.starts_with("vm.conf:1:4: invalid VM name"), "{name:?}: {said}");
            assert!(said.contains(hint), "{name:?}: {said}");
            assert!(!said.chars().any(|letter| letter.is_control() && !matches!(letter, '\n' | '\t')), "{said:?}");
        }
        for (bridge, message, hint) in [
            ("averyverylongbridge", "switch interface too long: averyverylongbridge", "at most 15 bytes"),
            ("\"a/b\"", "invalid switch interface: a/b", "expected a bridge's name without blanks"),
            ("\"a b\"", "invalid switch interface: a b", "expected a bridge's name without blanks"),
        ] {
            let said = told(format!("switch \"lan\" {{\n\tinterface {bridge}\n}}\n").as_bytes());
            assert!(said.starts_with("vm.conf:2:12: ") && said.contains(message) && said.contains(hint), "{said}");
        }
        let said = told(b"switch \"lan\" {\n}\n");
        assert!(said.contains("switch \"lan\" is missing interface name"), "{said}");
    });
}

#[test]
fn garbage_is_refused_line_by_line_and_can_not_command_a_terminal() {
    apart("configuration::garbage_is_refused_line_by_line_and_can_not_command_a_terminal", || {
        // A multiplicative sequence: every byte at every place, and the same each time.
        let mut state = 1u32;
        let garbage: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(100_000)
        .collect();
        let program = fs::read(testkit::artefacts::vmctl()).expect("a program");
        let long = [b"vm \"".as_slice(), &b"x".repeat(1 << 20), b"\" {\n}\n"].concat();
        for bytes in
            [&*garbage, &program[..100_000], &long, b"vm \"a\" {\n\tboot \"/etc/pas\0swd\"\n}\n", &[0xff; 4096]]
        {
            let said = told(bytes);
            assert!(said.starts_with("vm.conf:"), "{said:?}");
            let control = said.chars().find(|letter| letter.is_control() && !matches!(letter, '\n' | '\t'));
            assert_eq!(control, None);
            assert!(said.lines().all(|line| line.chars().count() < MAX_LINE), "a line without end");
        }
        let (crlf, disk) = (tempfile::NamedTempFile::new(), tempfile::NamedTempFile::new());
        let (crlf, disk) = (crlf.expect("a file"), disk.expect("a file"));
        fs::write(disk.path(), [0; 512]).expect("it is ours");
        let conf = format!("vm \"web\" {{\r\n\tdisable\r\n\tdisk \"{}\"\r\n}}\r\n", text(disk.path()));
        fs::write(crlf.path(), conf).expect("it is ours");
        assert_eq!(vmd(&["-n", "-f", text(crlf.path())]).success().stderr, "configuration OK\n");
    });
}

#[test]
fn ten_thousand_vms_are_started_with_and_listed() {
    apart("configuration::ten_thousand_vms_are_started_with_and_listed", || {
        let mut configuration = String::new();
        for number in 1..=10_000 {
            let block = "{\n\tdisable\n\tboot \"/etc/passwd\"\n}";
            writeln!(configuration, "vm \"vm{number}\" {block}").expect("a string can be written to");
        }
        let daemon = Daemon::start_quietly(&configuration);
        let began = Instant::now();
        let rows = daemon.status();
        println!("10,000 VMs listed in {:?}", began.elapsed());
        assert_eq!((rows.len(), &*rows[9_999].name, rows[9_999].id), (10_000, "vm10000", 10_000));
        let quiet = Quiet::of(&daemon);
        let said = "kernel \"/etc/passwd\": is of an unknown kind, and neither a Linux bzImage nor an ELF kernel; name one such as /vmlinuz";
        refused(&daemon, &["start", "vm9999"], &format!("vmctl: start \"vm9999\": {said}"));
        refused(&daemon, &["start", "10001"], "vmctl: start vm 10001: vm 10001 not found");
        quiet.again();
        ends(daemon);
    });
}
