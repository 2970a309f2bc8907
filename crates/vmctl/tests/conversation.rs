//! Each command against a control peer on a real socket: what it asks, what it prints, how it exits.

mod control;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use control::{Control, Outcome, greet, vmctl};
use model::{DiskFormat, List, MacAddr, Text, VmName};
use proto::client::{
    Detail, DiskArg, Order, PastFailure, Reply, Request, Start, ToClient, ToControl, VmLine, VmRef, VmState,
};
use proto::{Code, Failure, Received, RequestId};
use testkit::schema;
use vmctl::Screen;

fn name(text: &str) -> VmName {
    VmName::new(text).expect("a name")
}

fn by_name(text: &str) -> VmRef {
    VmRef::Name(name(text))
}

fn line(id: u32, text: &str, pid: Option<u32>) -> VmLine {
    VmLine {
        balloon: None,
        id,
        name: name(text),
        description: None,
        pid,
        cpus: 1,
        memory: model::MemorySize::DEFAULT,
        used: pid.map(|_| 100 << 20),
        tty: pid.map(|_| Text::cut("/dev/pts/77")),
        uid: 0,
        gid: None,
        owner: Text::cut("root"),
        state: if pid.is_some() { VmState::Running } else { VmState::Stopped },
        macs: List::default(),
    }
}

/// Runs a command whose one request gets these answers; checks the request.
fn asks(command: &str, request: Request, answers: Vec<Reply>) -> Outcome {
    let control = Control::listen();
    let serving = control.answer(move |asked| match asked {
        Request::Detail { .. } => vec![Reply::Detail(Detail::default())],
        _ => answers.clone(),
    });
    let outcome = vmctl(&control.path(), command);
    let mut requests = serving.join().expect("the peer");
    requests.retain(|(asked, _)| !matches!(asked, Request::Detail { .. }));
    assert_eq!(requests.len(), 1, "{command}");
    assert_eq!(requests[0].0, request, "{command}");
    outcome
}

fn vms(lines: Vec<VmLine>) -> Reply {
    Reply::Vms(lines.try_into().expect("few"))
}

fn failed(code: Code, text: &str) -> Vec<Reply> {
    vec![Reply::Failed(Failure::new(code, text))]
}

#[track_caller]
fn ended(outcome: &Outcome, success: bool, err: &str) {
    assert_eq!((outcome.success, outcome.err.as_str()), (success, err));
}

#[test]
fn status_prints_the_table_in_the_daemons_order() {
    let answers = vec![vms(vec![line(2, "running", Some(99))]), vms(vec![line(1, "idle", None)]), Reply::Done];
    let table = "   ID   PID VCPUS  MAXMEM  CURMEM     TTY        OWNER    STATE NAME\n";
    let running = "    2    99     1    512M    100M  pts/77         root  running running\n";
    let idle = "    1     -     1    512M       -       -         root  stopped idle\n";
    for (command, expected) in [
        ("status", format!("{table}{running}{idle}")),
        ("show -r", format!("{table}{running}")),
        ("status idle", format!("{table}{idle}")),
        ("status 2", format!("{table}{running}")),
        ("status 0", format!("{table}{running}{idle}")),
        ("status nosuch", table.to_owned()),
    ] {
        let outcome = asks(command, Request::List, answers.clone());
        assert_eq!((outcome.out, outcome.success), (expected, true), "{command}");
    }
}

#[test]
fn status_as_json_has_the_same_vms_and_matches_its_schema() {
    let schema = include_str!("../../../docs/schema/status.json");
    let busy = VmLine {
        gid: Some(7),
        owner: Text::cut("a-long-user:a-long-group"),
        macs: vec![MacAddr([0xfe, 0xe1, 0xbb, 0, 0, 1])].try_into().expect("one"),
        ..line(2, "busy", Some(99))
    };
    let stale = VmLine { used: Some(5), tty: Some(Text::cut("/dev/pts/1")), ..line(1, "idle", None) };
    let states = [VmState::Waiting, VmState::Starting, VmState::Paused, VmState::Stopping];
    let others = states.map(|state| VmLine { state, ..line(3, "other", None) });
    let answers = vec![vms(vec![busy]), vms(vec![stale]), vms(others.to_vec()), Reply::Done];
    let told = |command: &str| {
        let outcome = asks(command, Request::List, answers.clone());
        assert!(outcome.success && outcome.err.is_empty(), "{command}: {}", outcome.err);
        schema::holds(schema, &outcome.out);
        let told: serde_json::Value = serde_json::from_str(&outcome.out).expect("JSON");
        told["vms"].as_array().expect("a list").clone()
    };
    let all = told("status --json");
    assert_eq!(all.len(), 6);
    assert_eq!((&all[0]["pid"], &all[0]["resident_bytes"]), (&99.into(), &(100u64 << 20).into()));
    assert_eq!((&all[0]["tty"], &all[0]["state"]), (&"/dev/pts/77".into(), &"running".into()));
    assert_eq!(all[0]["owner"], serde_json::json!({"uid": 0, "gid": 7, "name": "a-long-user:a-long-group"}));
    assert_eq!(all[0]["lladdrs"], serde_json::json!(["fe:e1:bb:00:00:01"]));
    let nothing = &serde_json::Value::Null;
    assert_eq!((&all[1]["pid"], &all[1]["resident_bytes"], &all[1]["tty"]), (nothing, nothing, nothing));
    for (command, names) in [("show -r --json", "busy"), ("status --json idle", "idle"), ("status --json none", "")] {
        let told: Vec<String> =
            told(command).iter().map(|vm| vm["name"].as_str().expect("a name").to_owned()).collect();
        assert_eq!(told.join(" "), names, "{command}");
    }
    let none = asks("status --json", Request::List, vec![Reply::Done]);
    schema::holds(schema, &none.out);
    assert!(!none.success, "as for the table");
}

#[test]
fn status_of_one_vm_tells_its_last_failure_though_it_is_off_the_list() {
    let reason = "disk \"/srv/a\x1b[31m\": no such file";
    let next = Some(Text::cut("cpus 2 after the next start"));
    let detail = move |age| Detail {
        failure: Some(PastFailure { age, reason: Text::cut(reason) }),
        next: next.clone(),
        cdrom: None,
    };
    let told = |command: &str, age| {
        let control = Control::listen();
        let detail = detail.clone();
        let serving = control.answer(move |asked| match asked {
            Request::Detail { vm } => {
                assert_eq!(*vm, by_name("web"));
                vec![Reply::Detail(detail(age))]
            }
            _ => vec![vms(vec![line(1, "other", None)]), Reply::Done],
        });
        let outcome = vmctl(&control.path(), command);
        serving.join().expect("the peer");
        assert!(outcome.success && outcome.err.is_empty(), "{}", outcome.err);
        outcome.out
    };
    for (age, ago) in [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 days")] {
        let out = told("status web", age);
        assert_eq!(out.lines().nth(1), Some("cpus 2 after the next start"));
        let below = out.lines().nth(2).expect("two lines below the header").to_owned();
        assert_eq!(below, format!("last failure, {ago} ago: disk \"/srv/a\u{fffd}[31m\": no such file"));
    }
    let out = told("status --json web", 7);
    schema::holds(include_str!("../../../docs/schema/status.json"), &out);
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(json["next_start"], "cpus 2 after the next start");
    assert_eq!(json["last_failure"], serde_json::json!({ "age_seconds": 7, "reason": reason }));
}

#[test]
fn status_exits_1_when_there_is_no_vm_at_all() {
    assert!(!asks("status", Request::List, vec![Reply::Done]).success);
    let idle = vec![vms(vec![line(1, "idle", None)]), Reply::Done];
    assert!(!asks("status -r", Request::List, idle).success);
}

#[test]
fn stop_says_in_one_line_what_it_asked_and_how_it_went() {
    let stop = |vm, force, wait| Request::Stop { vm, force, wait };
    let accepted = vec![Reply::Accepted { id: 7 }];
    let gone = vec![Reply::Ended { id: 7 }];
    let outcome = asks("stop web", stop(by_name("web"), false, false), accepted.clone());
    ended(&outcome, true, "stopping vm web: requested to shutdown vm 7\n");
    let outcome = asks("stop -f 7", stop(VmRef::Id(7), true, false), accepted);
    ended(&outcome, true, "stopping vm: requested to shutdown vm 7\n");
    let outcome = asks("stop -fw web", stop(by_name("web"), true, true), gone);
    ended(&outcome, true, "stopping vm web: terminated vm 7\n");
}

#[test]
fn stop_that_fails_exits_1_with_the_reason() {
    let stop = || Request::Stop { vm: by_name("web"), force: false, wait: false };
    for (code, text) in [
        (Code::NotFound, "vm not found"),
        (Code::StopInvalid, "cannot stop vm that is not running"),
        (Code::Already, "failed: why"),
        (Code::Invalid, "failed: why"),
        (Code::NotPermitted, "failed: why"),
    ] {
        ended(&asks("stop web", stop(), failed(code, "why")), false, &format!("stopping vm web: {text}\n"));
    }
}

#[test]
fn stop_all_asks_for_each_running_vm_and_failures_do_not_change_the_exit() {
    let control = Control::listen();
    let serving = control.answer(|request| match request {
        Request::List => vec![
            vms(vec![line(3, "c", Some(30))]),
            vms(vec![line(1, "a", Some(10))]),
            vms(vec![line(2, "b", None)]),
            Reply::Done,
        ],
        Request::Stop { vm, .. } if *vm == by_name("c") => failed(Code::NotPermitted, "no"),
        _ => vec![Reply::Ended { id: 1 }],
    });
    let outcome = vmctl(&control.path(), "stop -aw");
    ended(&outcome, true, "stopping vm c: failed: no\nstopping vm a: terminated vm 1\n");
    let stopped: Vec<Request> =
        serving.join().expect("the peer").into_iter().skip(1).map(|(request, _)| request).collect();
    let stop = |vm| Request::Stop { vm: by_name(vm), force: false, wait: true };
    assert_eq!(stopped, [stop("c"), stop("a")]);
}

#[test]
fn stop_all_without_running_vms_says_nothing() {
    ended(&asks("stop -a", Request::List, vec![Reply::Done]), true, "");
}

#[test]
fn wait_says_when_the_vm_ended() {
    let wait = |vm| Request::Wait { vm };
    let outcome = asks("wait web", wait(by_name("web")), vec![Reply::Ended { id: 4 }]);
    ended(&outcome, true, "waiting for vm web: terminated vm 4\n");
    let outcome = asks("wait 4", wait(VmRef::Id(4)), failed(Code::NotFound, "gone"));
    ended(&outcome, false, "waiting for vm: vm not found\n");
}

/// A terminal that tells when the first seconds were written.
struct Terminal {
    seen: Vec<u8>,
    ticked: mpsc::Sender<()>,
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.seen.extend(bytes);
        if self.seen.ends_with(b" s") {
            let _ = self.ticked.send(()); // who listens has gone after the first
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is told where no terminal shows progress, of a command that is greeted and answered this late.
fn late(command: &str, greeted: Duration, answered: Duration, answer: Reply) -> Outcome {
    let control = Control::listen();
    let serving = control.serve(move |mut client| {
        std::thread::sleep(greeted);
        greet(&mut client);
        let Ok(Received::Message(ToControl::Ask { id, .. }, _)) = client.recv_within(Duration::from_secs(20)) else {
            panic!("no request");
        };
        std::thread::sleep(answered);
        client.send(&ToClient::Answer { id, reply: answer }, Vec::new()).expect("sent");
    });
    let outcome = vmctl(&control.path(), command);
    serving.join().expect("the peer");
    outcome
}

#[test]
fn who_waits_longer_than_two_seconds_is_told_what_for_and_once() {
    let (none, long) = (Duration::ZERO, Duration::from_millis(4500));
    let outcome = late("reload", none, long, Reply::Done);
    ended(&outcome, true, "vmctl: reload: waiting for vmd\n");
    let outcome = late("start web", none, long, Reply::Started { id: 7, tty: Text::cut("/dev/pts/9") });
    let started = "vmctl: started vm 7 successfully, tty /dev/pts/9\n";
    ended(&outcome, true, &format!("vmctl: start \"web\": waiting for vmd\n{started}"));
    let outcome = late("stop web", none, long, Reply::Accepted { id: 7 });
    ended(&outcome, true, "stopping vm web: requested to shutdown vm 7\n");
    ended(&late("reload", none, none, Reply::Done), true, "");
    let outcome = late("reload", long, none, Reply::Done);
    let said = "vmctl: waiting for vmd to take the connection to ";
    assert!(outcome.success && outcome.err.starts_with(said) && outcome.err.lines().count() == 1, "{}", outcome.err);
}

#[test]
fn a_daemon_that_does_not_greet_is_given_up_with_a_word() {
    let control = Control::listen();
    let serving = control.serve(|client| {
        std::thread::sleep(Duration::from_secs(12));
        drop(client);
    });
    let outcome = vmctl(&control.path(), "reload");
    let given_up = "vmctl: vmd has not answered for 10 s: it hangs, or waits for a disk or a mount; see its log\n";
    assert!(!outcome.success && outcome.err.ends_with(given_up), "{}", outcome.err);
    serving.join().expect("the peer");
}

/// What a lively terminal gets of a command that is answered only after it has shown that it waits.
fn lively(command: &str, answer: Reply) -> String {
    let (ticked, ticks) = mpsc::channel();
    let control = Control::listen();
    let serving = control.answer(move |_| {
        ticks.recv_timeout(Duration::from_secs(60)).expect("seconds on the terminal");
        vec![answer.clone()]
    });
    let arguments: Vec<OsString> = command.split_whitespace().map(OsString::from).collect();
    let mut terminal = Terminal { seen: Vec::new(), ticked };
    let screen = Screen { out: &mut Vec::new(), err: &mut terminal, lively: true, coloured: false };
    vmctl::run(&arguments, &control.path(), screen);
    serving.join().expect("the peer");
    String::from_utf8(terminal.seen).expect("text")
}

#[test]
fn a_terminal_shows_how_long_a_command_waits_and_then_its_usual_line() {
    let seen = lively("stop -w web", Reply::Ended { id: 7 });
    assert!(seen.starts_with("stopping vm web: \r\x1b[Kstopping vm web: 1 s"), "{seen:?}");
    assert!(seen.ends_with(" s\r\x1b[Kstopping vm web: terminated vm 7\n"), "{seen:?}");
    let seen = lively("start web", Reply::Started { id: 7, tty: Text::cut("/dev/pts/9") });
    assert!(seen.starts_with("\r\x1b[Kstart \"web\": 1 s"), "{seen:?}");
    assert!(seen.ends_with("\r\x1b[Kvmctl: started vm 7 successfully, tty /dev/pts/9\n"), "{seen:?}");
}

#[test]
fn a_terminal_shows_failures_in_colour_and_nothing_else_does() {
    let seen = lively("start web", failed(Code::NotPermitted, "no\x1b[32m").remove(0));
    assert!(seen.ends_with("\x1b[31mvmctl:\x1b[m start \"web\": no\u{fffd}[32m\n"), "{seen:?}");
}

#[test]
fn pause_and_unpause_tell_the_id_or_the_reason() {
    let pause = || Request::Order { vm: by_name("web"), order: Order::Pause };
    ended(&asks("pause web", pause(), vec![Reply::Accepted { id: 4 }]), true, "vmctl: paused vm 4 successfully\n");
    let refused = asks("pause web", pause(), failed(Code::Unsupported, "pause is not in this release"));
    ended(&refused, false, "vmctl: pause \"web\": pause is not in this release\n");
    let outcome =
        asks("unpause 4", Request::Order { vm: VmRef::Id(4), order: Order::Unpause }, vec![Reply::Accepted { id: 4 }]);
    ended(&outcome, true, "vmctl: unpaused vm 4 successfully\n");
}

#[test]
fn requests_of_the_administrator_are_silent_when_done() {
    let path = Text::new("/etc/more.conf").expect("a path");
    for (command, request) in [
        ("reload", Request::Reload),
        ("load /etc/more.conf", Request::Load { path }),
        ("log v", Request::Log { verbose: true }),
        ("log brief", Request::Log { verbose: false }),
        ("reset", Request::Reset { vms: true, switches: true }),
        ("reset vms", Request::Reset { vms: true, switches: false }),
    ] {
        ended(&asks(command, request, vec![Reply::Done]), true, "");
    }
}

#[test]
fn refusal_is_shown_with_what_was_asked_and_nothing_that_commands_a_terminal() {
    let refused = failed(Code::NotPermitted, "uid 7 is not root\x1b[31m");
    ended(&asks("reload", Request::Reload, refused), false, "vmctl: reload: uid 7 is not root\u{fffd}[31m\n");
}

#[test]
fn each_error_of_a_configuration_is_shown_before_the_refusal() {
    let wrong = |text| Reply::Wrong(model::Text::cut(text));
    let failure = Reply::Failed(Failure::new(Code::Invalid, "2 errors; nothing was changed"));
    let answers = vec![wrong("/c:1:1: one\n    1 | x\n      | ^"), wrong("/c:2:1: two"), failure];
    let text = "/c:1:1: one\n    1 | x\n      | ^\n/c:2:1: two\nvmctl: reload: 2 errors; nothing was changed\n";
    ended(&asks("reload", Request::Reload, answers), false, text);
}

#[test]
fn what_a_reload_changes_later_is_said() {
    let answers =
        vec![Reply::Note(model::Text::cut("vm \"web\" runs: memory 1024M after the next start")), Reply::Done];
    let text = "vmctl: vm \"web\" runs: memory 1024M after the next start\n";
    ended(&asks("reload", Request::Reload, answers), true, text);
}

fn start_of(vm: VmRef) -> Start {
    Start {
        vm,
        instance_of: None,
        memory: None,
        cpus: None,
        kernel: None,
        disks: List::default(),
        cdrom: None,
        nics: List::default(),
        boot_device: None,
    }
}

#[test]
fn start_tells_id_and_terminal_or_the_reason() {
    let start = || Request::Start(Box::new(start_of(by_name("web"))));
    let started = vec![Reply::Started { id: 5, tty: Text::cut("/dev/pts/9") }];
    let outcome = asks("start web", start(), started);
    ended(&outcome, true, "vmctl: started vm 5 successfully, tty /dev/pts/9\n");
    let refused = failed(Code::NotPermitted, "disk \"/srv/web.img\": permission denied to user \"ann\"");
    let outcome = asks("start web", start(), refused);
    ended(&outcome, false, "vmctl: start \"web\": disk \"/srv/web.img\": permission denied to user \"ann\"\n");
}

#[test]
fn start_with_w_waits_for_a_vm_that_is_being_stopped() {
    let (start, wait) = (Request::Start(Box::new(start_of(by_name("web")))), Request::Wait { vm: by_name("web") });
    let stopping = failed(Code::InProgress, "vm \"web\" is being stopped; start -w waits for that, then starts it");
    let said = "vmctl: start \"web\": vm \"web\" is being stopped; start -w waits for that, then starts it\n";
    ended(&asks("start web", start.clone(), stopping.clone()), false, said);
    // Its end is told, or it has ended between the two requests.
    for told in [vec![Reply::Ended { id: 5 }], failed(Code::Invalid, "vm \"web\" is not running")] {
        let mut answers =
            [stopping.clone(), told, vec![Reply::Started { id: 5, tty: Text::cut("/dev/pts/9") }]].into_iter();
        let control = Control::listen();
        let serving = control.answer(move |_| answers.next().expect("three requests"));
        let outcome = vmctl(&control.path(), "start -w web");
        ended(&outcome, true, "vmctl: started vm 5 successfully, tty /dev/pts/9\n");
        let asked: Vec<Request> = serving.join().expect("the peer").into_iter().map(|(request, _)| request).collect();
        assert_eq!(asked, [start.clone(), wait.clone(), start.clone()]);
    }
    let mut answers = [stopping, failed(Code::Busy, "at most 64 waits are allowed on one connection")].into_iter();
    let control = Control::listen();
    let serving = control.answer(move |_| answers.next().expect("two requests"));
    let said = "vmctl: waiting for \"web\" to stop: at most 64 waits are allowed on one connection\n";
    ended(&vmctl(&control.path(), "start -w web"), false, said);
    serving.join().expect("the peer");
}

#[test]
fn start_sends_resolved_paths_and_the_kernel_it_opened() {
    let folder = tempfile::tempdir().expect("a directory");
    let folder = folder.path().canonicalize().expect("a path");
    std::fs::write(folder.join("kernel"), "kernel").expect("a file");
    std::fs::write(folder.join("disk"), "disk").expect("a file");
    std::os::unix::fs::symlink("disk", folder.join("link")).expect("a link");
    let control = Control::listen();
    let serving = control.answer(|_| vec![Reply::Started { id: 1, tty: Text::cut("/dev/pts/1") }]);
    let at = |file: &str| folder.join(file).display().to_string();
    let command = format!("start -b {} -d qcow2:{} -m 64M -p 2 web", at("kernel"), at("link"));
    assert!(vmctl(&control.path(), &command).success);
    let requests = serving.join().expect("the peer");
    let path = |file| Text::new(&at(file)).expect("a path");
    let disk = DiskArg { path: path("disk"), format: Some(DiskFormat::Qcow2) };
    let expected = Start {
        memory: Some(model::MemorySize::LEAST_BOOTABLE),
        cpus: Some(2),
        kernel: Some(path("kernel")),
        disks: vec![disk].try_into().expect("one disk"),
        ..start_of(by_name("web"))
    };
    assert_eq!(requests, [(Request::Start(Box::new(expected)), 1)]);
}

#[test]
fn start_names_the_file_that_is_wrong_before_it_connects() {
    let nowhere = Path::new("/nonexistent/vmd.sock");
    for (command, message) in [
        ("start -b /nonexistent/k web", "invalid boot image path: /nonexistent/k: No such file or directory"),
        ("start -d /nonexistent/d -L web", "invalid disk path: /nonexistent/d: No such file or directory"),
        ("start -r /nonexistent/i -t a web", "invalid iso image path: /nonexistent/i: No such file or directory"),
        ("start -b / web", "kernel must be a regular file: /"),
        ("start -b /dev/null web", "kernel must be a regular file: /dev/null"),
    ] {
        ended(&vmctl(nowhere, command), false, &format!("vmctl: {message}\n"));
    }
}

#[test]
fn send_asks_with_its_output_and_never_writes_to_a_terminal() {
    let control = Control::listen();
    let serving = control.answer(|_| failed(Code::Unsupported, "not in this release"));
    let outcome = vmctl(&control.path(), "send web");
    if std::io::stdout().is_terminal() {
        return ended(&outcome, false, "vmctl: send: standard output is a terminal; redirect it to a file\n");
    }
    ended(&outcome, false, "vmctl: send \"web\": not in this release\n");
    assert_eq!(serving.join().expect("the peer"), [(Request::Send { vm: by_name("web") }, 1)]);
}

#[test]
fn receive_asks_with_its_input_and_never_reads_a_terminal() {
    let control = Control::listen();
    let serving = control.answer(|_| vec![Reply::Started { id: 3, tty: Text::cut("/dev/pts/3") }]);
    let outcome = vmctl(&control.path(), "receive web");
    if std::io::stdin().is_terminal() {
        return ended(&outcome, false, "vmctl: receive: standard input is a terminal; redirect it from a file\n");
    }
    ended(&outcome, true, "vmctl: started vm 3 successfully, tty /dev/pts/3\n");
    assert_eq!(serving.join().expect("the peer"), [(Request::Receive { name: name("web") }, 1)]);
}

#[test]
fn console_of_a_vm_that_does_not_run_is_not_found() {
    let answers = || vec![vms(vec![line(1, "idle", None)]), Reply::Done];
    let outcome = asks("console idle", Request::List, answers());
    ended(&outcome, false, "vmctl: console not found: \"idle\" does not run\n");
    let outcome = asks("console other", Request::List, answers());
    ended(&outcome, false, "vmctl: console not found: there is no \"other\"\n");
}

#[test]
fn daemon_that_is_not_there_is_told_with_what_to_do() {
    let outcome = vmctl(Path::new("/nonexistent/vmd.sock"), "status");
    ended(&outcome, false, "vmctl: connect: /nonexistent/vmd.sock: No such file or directory; is vmd running?\n");
}

#[test]
fn daemon_of_another_version_is_refused_with_both_versions() {
    let control = Control::listen();
    let serving = control.serve(|mut client| {
        let _ = client.recv_within(std::time::Duration::from_secs(20));
        client.send(&ToClient::WrongVersion { daemon: 9, client: 1 }, Vec::new()).expect("sent");
    });
    let outcome = vmctl(&control.path(), "status");
    serving.join().expect("the peer");
    let text = "the daemon speaks version 9 of the protocol, this vmctl version 1: use the vmctl that came with it";
    ended(&outcome, false, &format!("vmctl: {text}\n"));
}

#[test]
fn connection_that_ends_is_told_at_each_step() {
    let control = Control::listen();
    let serving = control.serve(drop);
    let outcome = vmctl(&control.path(), "status");
    serving.join().expect("the peer");
    assert!(!outcome.success && outcome.err.starts_with("vmctl: "), "{}", outcome.err);

    let serving = control.serve(|mut client| {
        greet(&mut client);
        let _ = client.recv_within(std::time::Duration::from_secs(20));
    });
    let outcome = vmctl(&control.path(), "wait web");
    serving.join().expect("the peer");
    let text = "waiting for vm web: \nvmctl: pipe closed: the daemon ended the connection; see its log\n";
    ended(&outcome, false, text);
}

#[test]
fn answers_to_other_requests_are_passed_over_and_wrong_ones_refused() {
    let control = Control::listen();
    let serving = control.serve(|mut client| {
        greet(&mut client);
        let Ok(Received::Message(ToControl::Ask { id, .. }, _)) =
            client.recv_within(std::time::Duration::from_secs(20))
        else {
            panic!("no request");
        };
        for (id, reply) in [(RequestId(id.0 + 1), Reply::Done), (id, Reply::Ended { id: 1 })] {
            client.send(&ToClient::Answer { id, reply }, Vec::new()).expect("sent");
        }
    });
    let outcome = vmctl(&control.path(), "reload");
    serving.join().expect("the peer");
    ended(&outcome, false, "vmctl: unexpected response received from vmd\n");
}

#[test]
fn wrong_command_line_is_told_without_a_daemon() {
    let outcome = vmctl(Path::new("/nonexistent/vmd.sock"), "stop");
    ended(&outcome, false, "usage:\tvmctl [-v] stop [-fw] [id | -a]\n");
}

#[test]
fn create_makes_a_sparse_raw_image_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a directory");
    let nowhere = Path::new("/nonexistent/vmd.sock");
    let at = |file: &str| folder.path().join(file).display().to_string();
    let outcome = vmctl(nowhere, &format!("create -s 3500K {}", at("disk.img")));
    ended(&outcome, true, "vmctl: disk size rounded to 3.0M\nvmctl: raw imagefile created\n");
    assert_eq!(std::fs::metadata(folder.path().join("disk.img")).expect("made").len(), 3 << 20);
    let again = vmctl(nowhere, &format!("create -s 1M {}", at("disk.img")));
    let text = format!(
        "vmctl: create imagefile operation failed: \"{}\": the file exists; name another, or remove it first\n",
        at("disk.img")
    );
    ended(&again, false, &text);
}

#[test]
fn status_of_one_vm_says_what_is_in_its_cdrom_drive() {
    let schema = include_str!("../../../docs/schema/status.json");
    for (path, told, json) in [
        ("/srv/a\n\x1b.iso", "cdrom: /srv/a\u{fffd}\u{fffd}.iso", "/srv/a\\n"),
        ("", "cdrom: empty", "\"medium\": null"),
    ] {
        for command in ["status web", "status --json web"] {
            let control = Control::listen();
            let detail = Detail { cdrom: model::UserPath::new(path).ok(), ..Detail::default() };
            let serving = control.answer(move |asked| match asked {
                Request::Detail { .. } => vec![Reply::Detail(detail.clone())],
                _ => vec![vms(vec![line(1, "web", None)]), Reply::Done],
            });
            let outcome = vmctl(&control.path(), command);
            serving.join().expect("the peer");
            if command.contains("json") {
                schema::holds(schema, &outcome.out);
                assert!(outcome.out.contains(json), "{}", outcome.out);
            } else {
                assert_eq!(outcome.out.lines().nth(2), Some(told), "{}", outcome.out);
            }
        }
    }
}
