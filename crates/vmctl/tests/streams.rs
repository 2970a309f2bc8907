//! The program itself with streams that take nothing: /dev/full, and a pipe that nobody reads.

#[allow(dead_code, reason = "other tests use what these do not")]
mod control;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

use control::Control;
use model::{Text, VmName};
use proto::client::{Detail, Order, Reply, Request, VmLine, VmRef, VmState};
use vmctl::Screen;

/// The program, which aborts where a test would only panic.
fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmctl"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn full() -> File {
    File::options().write(true).open("/dev/full").expect("it takes whatever is written, and fails")
}

/// The writing end of a pipe that nobody reads.
fn closed_pipe() -> File {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe").1.into()
}

/// Streams that take nothing, and why.
fn broken() -> [(File, &'static str); 2] {
    [(full(), "No space left on device"), (closed_pipe(), "Broken pipe")]
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_command_that_did_its_work_succeeds_though_its_message_is_lost() {
    let folder = tempfile::tempdir().expect("a directory");
    for (number, (stream, _)) in broken().into_iter().enumerate() {
        let path = folder.path().join(number.to_string());
        let path = path.to_str().expect("UTF-8");
        let made = program(&["create", "-s", "1500K", path]).stderr(stream).status().expect("it runs");
        assert_eq!((made.code(), std::fs::metadata(path).expect("made").len()), (Some(0), 1 << 20));
    }
}

#[test]
fn a_command_that_failed_exits_1_though_nobody_hears_why() {
    for arguments in [&["create", "-s", "1M", ""][..], &["frob"], &["stop"], &[]] {
        for (stream, _) in broken() {
            let ended = program(arguments).stderr(stream).status().expect("it runs");
            assert_eq!(ended.code(), Some(1), "{arguments:?}");
        }
    }
}

const NO_ROOM: &str = "vmctl: standard output: No space left on device\n";

#[test]
fn what_was_asked_for_and_can_not_be_written_is_a_failure() {
    for arguments in [&["doctor"][..], &["doctor", "--json"], &["help"], &["--version"]] {
        let output = program(arguments).stdout(full()).stderr(Stdio::piped()).output().expect("it runs");
        assert_eq!(said(&output), (Some(1), NO_ROOM.to_owned()), "{arguments:?}");
        let (stream, _) = broken().into_iter().next().expect("one");
        let ended = program(arguments).stdout(stream).stderr(closed_pipe()).status().expect("it runs");
        assert_eq!(ended.code(), Some(1), "{arguments:?}, and nobody hears it");
    }
}

#[test]
fn who_closes_the_pipe_has_read_enough_and_the_exit_status_is_the_commands() {
    for arguments in [&["help"][..], &["help", "start"], &["--version"], &["doctor"]] {
        let whole = program(arguments).stderr(Stdio::null()).output().expect("it runs");
        let cut = program(arguments).stdout(closed_pipe()).stderr(Stdio::piped()).output().expect("it runs");
        assert_eq!(said(&cut), (whole.status.code(), String::new()), "{arguments:?}");
    }
    for command in ["status", "status --json", "show -r"] {
        for (vms, success) in [(vec![], false), (vec![running()], true)] {
            let (mut stream, mut err) = (closed_pipe(), Vec::new());
            let answers = vec![Reply::Vms(vms.try_into().expect("few")), Reply::Done];
            assert_eq!((run(command, answers, &mut stream, &mut err).0, err), (success, vec![]), "{command}");
        }
    }
}

fn running() -> VmLine {
    VmLine {
        id: 1,
        name: VmName::new("web").expect("a name"),
        description: None,
        pid: Some(7),
        cpus: 1,
        memory: model::MemorySize::DEFAULT,
        used: None,
        tty: None,
        uid: 0,
        gid: None,
        owner: Text::cut("root"),
        state: VmState::Running,
        macs: model::List::default(),
        balloon: None,
    }
}

/// vmctl's library, whose socket a test can choose, against a peer with these answers.
fn run(command: &str, answers: Vec<Reply>, out: &mut dyn Write, err: &mut dyn Write) -> (bool, Vec<Request>) {
    let control = Control::listen();
    let serving = control.answer(move |asked| match asked {
        Request::Detail { .. } => vec![Reply::Detail(Detail::default())],
        _ => answers.clone(),
    });
    let arguments: Vec<OsString> = command.split_whitespace().map(OsString::from).collect();
    let code = vmctl::run(&arguments, &control.path(), Screen { out, err, lively: false, coloured: false });
    let requests = serving.join().expect("the peer");
    (code == ExitCode::SUCCESS, requests.into_iter().map(|(request, _)| request).collect())
}

#[test]
fn status_that_can_not_be_written_is_a_failure() {
    for command in ["status", "status --json", "show web"] {
        let (mut stream, mut err) = (full(), Vec::new());
        let (success, _) = run(command, vec![Reply::Done], &mut stream, &mut err);
        assert_eq!((success, String::from_utf8(err).expect("text")), (false, NO_ROOM.to_owned()), "{command}");
    }
}

#[test]
fn requests_are_made_and_their_outcome_is_the_exit_status_though_standard_error_takes_nothing() {
    let web = || VmRef::Name(VmName::new("web").expect("a name"));
    let accepted = || vec![Reply::Accepted { id: 1 }];
    let refused = || vec![Reply::Failed(proto::Failure::new(proto::Code::Invalid, "no"))];
    let stop = Request::Stop { vm: web(), force: false, wait: false };
    let wrong = || vec![Reply::Wrong(Text::cut("a.conf:1:1: wrong")), refused().remove(0)];
    for (command, request, answers, success) in [
        ("stop web", stop.clone(), accepted(), true),
        ("stop web", stop, refused(), false),
        ("wait web", Request::Wait { vm: web() }, vec![Reply::Ended { id: 1 }], true),
        ("pause web", Request::Order { vm: web(), order: Order::Pause }, accepted(), true),
        (
            "memory web 256M",
            Request::Memory { vm: web(), size: model::MemorySize::from_bytes(256 << 20).unwrap() },
            accepted(),
            true,
        ),
        ("cdrom web eject", Request::Cdrom { vm: web(), medium: None, force: false }, accepted(), true),
        (
            "cdrom -f web insert /",
            Request::Cdrom { vm: web(), medium: model::UserPath::new("/").ok(), force: true },
            refused(),
            false,
        ),
        ("nmi web", Request::Order { vm: web(), order: Order::Nmi }, accepted(), true),
        ("unpause web", Request::Order { vm: web(), order: Order::Unpause }, accepted(), true),
        ("reload", Request::Reload, wrong(), false),
    ] {
        for (mut stream, _) in broken() {
            let outcome = run(command, answers.clone(), &mut io::sink(), &mut stream);
            assert_eq!(outcome, (success, vec![request.clone()]), "{command}");
        }
    }
    for (mut stream, _) in broken() {
        let started = vec![Reply::Started { id: 1, tty: Text::cut("/dev/pts/9") }];
        assert!(run("-v start web", started, &mut io::sink(), &mut stream).0);
    }
}

#[test]
fn a_name_that_no_file_can_have_is_told_with_its_own_reason() {
    for (word, path, reason) in [
        ("", "", "the name is empty; name the file to create"),
        ("raw:", "", "the name is empty; name the file to create"),
        ("/proc/x", "/proc/x", "no files can be created in its directory; name another"),
        ("/no/such/x", "/no/such/x", "no such directory; create it first, or correct the path"),
    ] {
        let output = program(&["create", "-s", "1M", word]).output().expect("it runs");
        let text = format!("vmctl: create imagefile operation failed: \"{path}\": {reason}\n");
        assert_eq!(said(&output), (Some(1), text), "{word:?}");
        assert!(!Path::new("raw:").exists());
    }
}
