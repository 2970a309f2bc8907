//! Rules of openbsd/vmctl.md that `command`'s own tests and `conversation` do not have.

#[allow(dead_code, reason = "other tests use what these do not")]
mod control;

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use control::{Control, Outcome, vmctl};
use model::{List, Text, VmName};
use proto::client::{DiskOperation, Reply, Request, VmLine, VmRef, VmState};
use proto::{Code, Failure};

/// What is said of a wrong command line.
#[track_caller]
fn wrong(line: &str) -> String {
    let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    vmctl::parse(&arguments).expect_err(line).to_string()
}

#[track_caller]
fn parsed(line: &str) -> String {
    let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    format!("{:?}", vmctl::parse(&arguments).unwrap_or_else(|misuse| panic!("{line}: {misuse}")).command)
}

fn web() -> VmRef {
    VmRef::Name(VmName::new("web").expect("a name"))
}

/// The requests that a command makes of a peer with these answers, and how it ended.
fn asked(command: &str, answers: Vec<Reply>) -> (Vec<(Request, usize)>, Outcome) {
    let control = Control::listen();
    let serving = control.answer(move |_| answers.clone());
    let outcome = vmctl(&control.path(), command);
    (serving.join().expect("the peer"), outcome)
}

/// What a command prints that asks no daemon.
#[track_caller]
fn prints(line: &str) -> String {
    let Outcome { success, out, err } = vmctl(Path::new("/nonexistent/vmd.sock"), line);
    assert_eq!((success, err.as_str()), (true, ""), "{line}");
    out
}

#[test]
fn help_lists_every_command_with_what_it_does() {
    let all = prints("help");
    for (name, _, about) in vmctl::commands() {
        assert!(all.contains(&format!("\n  {name:<12}{about}\n")), "{name}: {all}");
    }
    assert!(all.starts_with("usage:\tvmctl [-v] command [arg ...]\n\tvmctl help [command]\n"), "{all}");
    for line in ["-h", "--help", "-v --help", "h", "hel"] {
        assert_eq!(prints(line), all, "{line}");
    }
}

#[test]
fn help_of_a_command_is_its_usage_however_it_is_asked_for() {
    for (name, syntax, about) in vmctl::commands() {
        let expected = match syntax {
            "" => format!("usage:\tvmctl [-v] {name}\n{name}: {about}; vmctl(8) says more\n"),
            syntax => format!("usage:\tvmctl [-v] {name} {syntax}\n{name}: {about}; vmctl(8) says more\n"),
        };
        let forms = ["help NAME", "NAME --help", "NAME -h", "--help NAME", "-h NAME", "NAME web --help"];
        for line in forms.map(|form| form.replace("NAME", name)) {
            assert_eq!(prints(&line), expected, "{line}");
        }
    }
    assert_eq!(prints("help sto"), prints("help stop"));
    let unknown = "vmctl: unknown argument: strat (did you mean \"start\"?)\nusage:";
    assert!(wrong("help strat").starts_with(unknown), "{}", wrong("help strat"));
    assert_eq!(wrong("help start stop"), "usage:\tvmctl [-v] help [command]");
    assert!(wrong("load -- --help x").starts_with("usage:"), "what stands behind -- is no option");
}

#[test]
fn an_option_with_another_dash_is_told_as_one() {
    let start = wrong("start \u{2013}c web");
    let said =
        "vmctl: \"\u{2013}c\" begins with a typographic dash (U+2013); write - instead\nusage:\tvmctl [-v] start";
    assert!(start.starts_with(said), "{start}");
    assert!(wrong("status \u{2014}\u{2014}json").starts_with("vmctl: \"\u{2014}\u{2014}json\" begins with"));
    let console = wrong("console we\u{2013}b");
    assert_eq!(
        console,
        "vmctl: invalid id: we\u{2013}b: name has the character '\u{2013}', a typographic dash (U+2013); write - instead"
    );
}

#[test]
fn a_file_that_can_not_be_had_is_told_with_what_is_behind_it() {
    let told = |line: &str| {
        let Outcome { success, err, .. } = vmctl(Path::new("/nonexistent/vmd.sock"), line);
        assert!(!success, "{line}");
        err
    };
    let home = "; a shell takes \"~\" for a home only where a word begins with it, and without quotes\n";
    for line in ["start -d ~/no.img web", "start -d raw:~/no.img web", "start -b ~/no.img web"] {
        assert!(told(line).ends_with(home), "{}", told(line));
    }
    let dash = told("start -d /no\u{2013}such web");
    assert!(dash.ends_with("; it has a typographic dash (U+2013); write - instead\n"), "{dash}");
    let long = told(&format!("start -d /{} web", "x".repeat(300)));
    assert!(long.ends_with(": File name too long: a name in it may have at most 255 bytes\n"), "{long}");
}

#[test]
fn the_release_is_told_and_there_is_no_other_word_for_it() {
    assert_eq!(prints("--version"), concat!("vmctl ", env!("CARGO_PKG_VERSION"), "\n"));
    assert!(wrong("-V").starts_with("vmctl: unknown option -- V\nusage:"));
}

#[test]
fn commands_of_2026_have_their_shortest_forms() {
    assert_eq!(parsed("d web 0 read 1"), parsed("disk-fail web 0 read 1"));
    assert_eq!(parsed("f web 0 1"), parsed("flush-stop web 0 1"));
}

#[test]
fn disk_fail_and_flush_stop_say_which_word_is_wrong() {
    assert_eq!(wrong("disk-fail web 0 read"), "usage:\tvmctl [-v] disk-fail id disk read|write|flush count");
    assert_eq!(wrong("flush-stop web 0 1 2"), "usage:\tvmctl [-v] flush-stop id disk count");
    for (line, said) in [
        ("disk-fail web 16 read 1", "disk index is too large: 16; give 0 to 15"),
        ("flush-stop web x 1", "disk index is invalid: x; give 0 to 15"),
        ("disk-fail web 0 trim 1", "invalid disk operation: trim; expected read, write or flush"),
        ("disk-fail web 0 READ 1", "invalid disk operation: READ; expected read, write or flush"),
        ("disk-fail web 0 write 0", "operation count is too small: 0; give 1 to 4294967295"),
        ("disk-fail web 0 write 4294967296", "operation count is too large: 4294967296; give 1 to 4294967295"),
        ("flush-stop web 0 0", "flush count is too small: 0; give 1 to 4294967295"),
    ] {
        assert_eq!(wrong(line), format!("vmctl: {said}"), "{line}");
    }
}

#[test]
fn disk_fail_says_when_it_is_armed_and_when_it_has_happened() {
    for (word, operation) in
        [("read", DiskOperation::Read), ("write", DiskOperation::Write), ("flush", DiskOperation::Flush)]
    {
        let answers = vec![Reply::Accepted { id: 3 }, Reply::Done];
        let (requests, outcome) = asked(&format!("disk-fail web 1 {word} 7"), answers);
        assert_eq!(requests, [(Request::DiskFail { vm: web(), disk: 1, operation, count: 7 }, 0)]);
        let said = format!("vmctl: armed vm 3 disk 1 at {word} 7\nvmctl: failed vm 3 disk 1 at {word} 7\n");
        assert_eq!((outcome.success, outcome.err, outcome.out), (true, said, String::new()));
    }
}

#[test]
fn flush_stop_says_when_it_is_armed_and_when_it_has_happened() {
    let (requests, outcome) = asked("flush-stop 3 0 9", vec![Reply::Accepted { id: 3 }, Reply::Done]);
    assert_eq!(requests, [(Request::FlushStop { vm: VmRef::Id(3), disk: 0, count: 9 }, 0)]);
    let said = "vmctl: armed vm 3 disk 0 at flush 9\nvmctl: paused vm 3 at disk 0 flush 9\n";
    assert_eq!((outcome.success, outcome.err.as_str()), (true, said));
}

#[test]
fn a_fault_that_is_refused_or_lost_fails_with_the_reason() {
    let refused = || Reply::Failed(Failure::new(Code::Invalid, "vm \"web\" is not running"));
    let (_, outcome) = asked("disk-fail web 0 read 1", vec![refused()]);
    assert_eq!(
        (outcome.success, outcome.err.as_str()),
        (false, "vmctl: disk-fail \"web\": vm \"web\" is not running\n")
    );
    let (_, outcome) = asked("flush-stop web 0 1", vec![Reply::Accepted { id: 3 }, refused()]);
    let said = "vmctl: armed vm 3 disk 0 at flush 1\nvmctl: flush-stop \"web\": vm \"web\" is not running\n";
    assert_eq!((outcome.success, outcome.err.as_str()), (false, said));
}

#[test]
fn only_status_writes_to_standard_output() {
    let started = || vec![Reply::Started { id: 1, tty: Text::cut("/dev/pts/9") }];
    for (command, answers) in [
        ("start web", started()),
        ("stop web", vec![Reply::Accepted { id: 1 }]),
        ("stop -w web", vec![Reply::Ended { id: 1 }]),
        ("wait web", vec![Reply::Ended { id: 1 }]),
        ("pause web", vec![Reply::Accepted { id: 1 }]),
        ("unpause web", vec![Reply::Accepted { id: 1 }]),
        ("reload", vec![Reply::Done]),
        ("load /x", vec![Reply::Done]),
        ("log brief", vec![Reply::Done]),
        ("reset", vec![Reply::Done]),
        ("console web", vec![Reply::Done]),
        ("start nosuch", vec![Reply::Failed(Failure::new(Code::NotFound, "no"))]),
    ] {
        let (_, outcome) = asked(command, answers);
        assert_eq!(outcome.out, "", "{command}");
    }
    let nowhere = Path::new("/nonexistent/vmd.sock");
    for command in ["stop", "frob", "status a b", "status"] {
        assert_eq!(vmctl(nowhere, command).out, "", "{command}");
    }
    let (_, outcome) = asked("status", vec![Reply::Done]);
    assert!(!outcome.out.is_empty() && outcome.err.is_empty());
}

#[test]
fn load_hands_its_word_on_as_it_is() {
    let (requests, _) = asked("load ../a/./b.conf", vec![Reply::Done]);
    assert_eq!(requests, [(Request::Load { path: Text::new("../a/./b.conf").expect("a path") }, 0)]);
}

#[test]
fn create_of_several_sizes_makes_the_last_for_its_user_alone() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("raw:x");
    let word = format!("raw:{}", path.display());
    let outcome = vmctl(Path::new("/nonexistent/vmd.sock"), &format!("create -s 9M -s 2M {word}"));
    assert_eq!((outcome.success, outcome.err.as_str()), (true, "vmctl: raw imagefile created\n"));
    let made = std::fs::metadata(&path).expect("made, under the name behind the prefix");
    assert_eq!((made.len(), made.permissions().mode() & 0o777), (2 << 20, 0o600));
}

#[test]
fn memory_over_128g_is_too_large_also_when_it_would_round_down_to_it() {
    assert!(parsed("start -b /k -m 128G web").contains("memory: Some(MemorySize(137438953472))"));
    for size in ["129G", "137438953473"] {
        assert_eq!(
            wrong(&format!("start -m {size} web")),
            format!("vmctl: memory size too large (limit is 128G): {size}")
        );
    }
}

#[test]
fn a_number_of_the_command_line_is_an_id_and_never_a_name() {
    assert!(parsed("stop 12").contains("Id(12)") && parsed("start 12").contains("Id(12)"));
    assert_eq!(wrong("receive 12"), "vmctl: invalid vm name\nvmctl: invalid id: 12");
}

#[test]
fn start_with_c_says_nothing_and_opens_the_console() {
    let (_, outcome) = asked("start -c web", vec![Reply::Started { id: 1, tty: Text::cut("/nonexistent/tty") }]);
    let said = "vmctl: failed to open the console: /nonexistent/tty: No such file or directory\n";
    assert_eq!((outcome.success, outcome.err.as_str()), (false, said));
}

#[test]
fn a_console_that_cannot_be_opened_or_is_open_already_is_told() {
    let device = tempfile::NamedTempFile::new().expect("a file");
    rustix::fs::flock(&device, rustix::fs::FlockOperation::LockExclusive).expect("it is ours");
    let path = device.path().to_str().expect("UTF-8");
    for (tty, why) in [("/nonexistent/tty", "No such file or directory"), (path, "another vmctl console is open on it")]
    {
        let line = VmLine {
            balloon: None,
            id: 7,
            name: VmName::new("web").expect("a name"),
            description: None,
            pid: Some(9),
            cpus: 1,
            memory: model::MemorySize::from_bytes(1 << 30).unwrap(),
            used: None,
            tty: Some(Text::cut(tty)),
            uid: 0,
            gid: None,
            owner: Text::cut("root"),
            state: VmState::Running,
            macs: List::default(),
        };
        let answers = vec![Reply::Vms(vec![line].try_into().expect("one")), Reply::Done];
        let (requests, outcome) = asked("console 7", answers);
        assert_eq!(requests, [(Request::List, 0)]);
        let said = format!("vmctl: failed to open the console: {tty}: {why}\n");
        assert_eq!((outcome.success, outcome.err, outcome.out), (false, said, String::new()));
    }
}
