//! A console that is a real pty, with pipes and terminals as a user's side.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::{Pid, kill_process};
use rustix::termios::{LocalModes, tcgetattr};
use sys::pty::Pty;

use super::*;

/// The guest's end: what a test says and hears as the guest.
struct Guest {
    pty: Pty,
}

impl Guest {
    fn new() -> Self {
        Self { pty: Pty::open().expect("a pty") }
    }

    fn says(&self, text: &str) {
        rustix::io::write(&self.pty.master, text.as_bytes()).expect("the guest speaks");
    }

    fn hears(&self, count: usize) -> String {
        let mut heard = vec![0; count];
        File::from(self.pty.master.try_clone().expect("a copy")).read_exact(&mut heard).expect("the guest hears");
        String::from_utf8(heard).expect("text")
    }

    fn console(&self) -> OwnedFd {
        super::super::open(&self.pty.name).expect("the console opens")
    }
}

/// A pipe's reading and writing end.
fn pipe() -> (File, File) {
    let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    (reading.into(), writing.into())
}

/// Relays with this input until it ends; what was shown and how it ended.
fn session(guest: &Guest, input: &[u8], meanwhile: impl FnOnce(&Guest)) -> (String, End) {
    let (their_input, mut typed) = pipe();
    let (mut shown, our_output) = pipe();
    let console = guest.console();
    let relaying = thread::spawn(move || {
        let signals = Signals::block(&[Signal::WindowChanged]).expect("signals");
        relay(console, their_input.as_fd(), our_output.as_fd(), &signals).expect("it relays")
    });
    typed.write_all(input).expect("typed");
    meanwhile(guest);
    let end = relaying.join().expect("no panic");
    let mut text = String::new();
    shown.read_to_string(&mut text).expect("text");
    (text, end)
}

#[test]
fn bytes_go_both_ways_and_tilde_dot_leaves() {
    let (their_input, mut typed) = pipe();
    let (mut shown, our_output) = pipe();
    let guest = Guest::new();
    let console = guest.console();
    let relaying = thread::spawn(move || {
        let signals = Signals::block(&[Signal::WindowChanged]).expect("signals");
        relay(console, their_input.as_fd(), our_output.as_fd(), &signals).expect("it relays")
    });
    guest.says("login: ");
    let mut prompt = [0; 7];
    shown.read_exact(&mut prompt).expect("the prompt");
    assert_eq!(&prompt, b"login: ");
    typed.write_all(b"root\r\x03").expect("typed");
    assert_eq!(guest.hears(6), "root\r\x03");
    typed.write_all(b"\r~.").expect("typed");
    assert_eq!(relaying.join().expect("no panic"), End::Left);
}

#[test]
fn what_was_typed_before_leaving_still_goes() {
    let guest = Guest::new();
    let (_, end) = session(&guest, b"poweroff\r~.", |_| {});
    assert_eq!((end, guest.hears(9).as_str()), (End::Left, "poweroff\r"));
}

#[test]
fn end_of_piped_input_ends_nothing_until_the_console_closes() {
    let mut guest = Some(Guest::new());
    let (their_input, typed) = pipe();
    let (mut shown, our_output) = pipe();
    let console = guest.as_ref().map(Guest::console).expect("a guest");
    let relaying = thread::spawn(move || {
        let signals = Signals::block(&[Signal::WindowChanged]).expect("signals");
        relay(console, their_input.as_fd(), our_output.as_fd(), &signals).expect("it relays")
    });
    drop(typed);
    guest.as_ref().expect("a guest").says("still here");
    let mut text = [0; 10];
    shown.read_exact(&mut text).expect("shown after the end of the input");
    assert_eq!(&text, b"still here");
    drop(guest.take());
    assert_eq!(relaying.join().expect("no panic"), End::Closed);
}

#[test]
fn guest_that_never_reads_does_not_hold_up_leaving() {
    let guest = Guest::new();
    let much = "x".repeat(MAX_UNREAD / 2);
    let (_, end) = session(&guest, format!("{much}\r~.").as_bytes(), |_| {});
    assert_eq!(end, End::Left);
}

#[test]
fn output_that_nobody_reads_any_more_ends_the_session() {
    let guest = Guest::new();
    let (their_input, _typed) = pipe();
    let (shown, our_output) = pipe();
    drop(shown);
    guest.says("hello");
    let signals = Signals::block(&[Signal::WindowChanged]).expect("signals");
    let end = relay(guest.console(), their_input.as_fd(), our_output.as_fd(), &signals).expect("it relays");
    assert_eq!(end, End::Left);
}

#[test]
fn second_console_is_refused_while_the_first_is_open() {
    let guest = Guest::new();
    let first = guest.console();
    let second = super::super::open(&guest.pty.name).expect_err("busy");
    assert!(second.to_string().ends_with("another vmctl console is open on it"), "{second}");
    drop(first);
    guest.console();
}

/// Not a test by itself: the process that the tests below run, attached to the console that they name.
#[test]
#[ignore = "run by the tests of terminals, as a process of its own"]
fn attached_process() {
    let device = std::env::var_os("CONSOLE").expect("the console's name");
    let ended = super::super::attach(Path::new(&device));
    eprintln!("ended: {ended:?}");
}

/// A `vmctl console` on a terminal.
struct Attached {
    terminal: Pty,
    child: Child,
    errors: BufReader<std::process::ChildStderr>,
}

impl Attached {
    fn to(console: &Path) -> Self {
        let terminal = Pty::open().expect("a pty");
        let mut cooked = tcgetattr(&terminal.slave).expect("settings");
        cooked.local_modes |= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        rustix::termios::tcsetattr(&terminal.slave, rustix::termios::OptionalActions::Now, &cooked).expect("cooked");
        sys::pty::set_window_size(&terminal.master, 50, 132).expect("a size");
        let slave = || Stdio::from(terminal.slave.try_clone().expect("a copy"));
        let name = "console::relay::tests::attached_process";
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", name, "--ignored", "--test-threads=1", "--nocapture"]).env("CONSOLE", console);
        command.stdin(slave()).stdout(Stdio::null()).stderr(Stdio::piped());
        // The test harness has a thread beside the test's, which would take the signals: it inherits them blocked.
        let spawning = thread::spawn(move || {
            let signals = [Signal::Terminate, Signal::Hangup, Signal::Interrupt, Signal::WindowChanged];
            let _blocked = Signals::block(&signals).expect("signals");
            command.spawn().expect("the process runs")
        });
        let mut child = spawning.join().expect("no panic");
        let errors = BufReader::new(child.stderr.take().expect("its errors"));
        let mut attached = Self { terminal, child, errors };
        assert!(attached.line().starts_with("connected to /dev/pts/"));
        attached
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.errors.read_line(&mut line).expect("a line");
        line
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.terminal.slave)
            .expect("settings")
            .local_modes
            .intersects(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// Waits for the end; its last words.
    fn ended(mut self) -> (Self, String) {
        let mut words = String::new();
        self.errors.read_to_string(&mut words).expect("its last words");
        self.child.wait().expect("it ends");
        (self, words)
    }
}

/// A session whose first byte has passed, so that it is certainly relaying and raw.
fn attached(guest: &Guest) -> Attached {
    let name: PathBuf = guest.pty.name.clone();
    let attached = Attached::to(&name);
    rustix::io::write(&attached.terminal.master, b"x").expect("typed");
    // Raw or not yet: an `x` typed before it is raw is only passed when the line ends.
    rustix::io::write(&attached.terminal.master, b"\r").expect("typed");
    assert!(guest.hears(1) == "x");
    attached
}

#[test]
fn terminal_is_raw_with_its_size_given_on_and_as_before_after_leaving() {
    let guest = Guest::new();
    let session = attached(&guest);
    assert!(session.is_raw());
    assert_eq!(sys::pty::window_size(&guest.pty.master).expect("a size"), (50, 132));
    rustix::io::write(&session.terminal.master, b"\r~.").expect("typed");
    let (session, words) = session.ended();
    assert!(words.contains("ended: Ok("), "{words}");
    assert!(!session.is_raw());
}

#[test]
fn a_wish_for_a_break_is_answered_with_why_there_is_none_and_the_guest_hears_nothing() {
    let guest = Guest::new();
    let mut session = attached(&guest);
    rustix::io::write(&session.terminal.master, b"\r~#y").expect("typed");
    assert_eq!(session.line(), "\r\n");
    assert_eq!(session.line(), format!("{}\r\n", NO_BREAK.trim()));
    // One byte is left of what showed that it relays.
    let heard = guest.hears(3);
    assert_eq!(heard.get(1..), Some("\ry"), "{heard:?}");
    rustix::io::write(&session.terminal.master, b"\r~.").expect("typed");
    let (_, words) = session.ended();
    assert!(words.contains("ended: Ok("), "{words}");
}

#[test]
fn terminal_is_as_before_when_the_vm_ends() {
    let guest = Guest::new();
    let session = attached(&guest);
    drop(guest);
    let (session, words) = session.ended();
    assert!(words.contains("ended: Ok("), "{words}");
    assert!(!session.is_raw());
}

#[test]
fn terminal_is_as_before_when_a_signal_ends_the_session() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::HUP, rustix::process::Signal::INT] {
        let guest = Guest::new();
        let session = attached(&guest);
        kill_process(Pid::from_child(&session.child), signal).expect("killed");
        let (session, words) = session.ended();
        assert!(words.contains("ended: Err(Signal)"), "{words}");
        assert!(!session.is_raw(), "{signal:?}");
    }
}

#[test]
fn changed_window_size_is_given_on() {
    let guest = Guest::new();
    let session = attached(&guest);
    sys::pty::set_window_size(&session.terminal.master, 24, 80).expect("a size");
    kill_process(Pid::from_child(&session.child), rustix::process::Signal::WINCH).expect("told");
    rustix::io::write(&session.terminal.master, b"y").expect("typed");
    let heard = guest.hears(2);
    assert!(heard.ends_with('y'), "{heard:?}");
    assert_eq!(sys::pty::window_size(&guest.pty.master).expect("a size"), (24, 80));
    rustix::io::write(&session.terminal.master, b"\r~.").expect("typed");
    session.ended();
}
