//! A terminal with a guest or a program behind it: what is typed, and what is waited for.
//!
//! Everything that arrives is kept, so that a wait that fails can show what came instead.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// How much of what came is shown when a wait fails, in bytes.
const SHOWN: usize = 3000;

/// One side of a terminal, with all that it has said.
#[derive(Debug)]
pub struct Console {
    terminal: File,
    said: Vec<u8>,
    /// Up to here, waits have been satisfied.
    seen: usize,
    /// A program that runs on the other side; it ends with this.
    program: Option<Child>,
}

impl Console {
    /// Opens the pty of a VM, as a terminal program would.
    pub fn open(tty: &Path) -> Self {
        let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
        let terminal = open(tty, flags);
        Self { terminal, said: Vec::new(), seen: 0, program: None }
    }

    /// Reads from what is already open, a pipe for instance.
    pub fn over(terminal: File) -> Self {
        rustix::io::ioctl_fionbio(&terminal, true).expect("it can be read without blocking");
        Self { terminal, said: Vec::new(), seen: 0, program: None }
    }

    /// Runs a program on a new terminal of its own, as a user at a keyboard would.
    pub fn of_program(command: &mut Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pty can be had");
        grantpt(&master).expect("the pty is ours");
        unlockpt(&master).expect("the pty is ours");
        let name = ptsname(&master, Vec::new()).expect("the pty has a name");
        let slave = open(Path::new(name.to_str().expect("/dev/pts/N")), OFlags::NOCTTY);
        // setsid makes it the controlling terminal, without which there is no ^C, no ^Z and no window size.
        let mut with_terminal = Command::new("setsid");
        with_terminal.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => with_terminal.env(name, value),
                None => with_terminal.env_remove(name),
            };
        }
        let end = |slave: &File| slave.try_clone().expect("a descriptor can be doubled");
        with_terminal.stdin(end(&slave)).stdout(end(&slave)).stderr(slave);
        let program = with_terminal.spawn().expect("setsid can be run");
        let mut console = Self::over(File::from(master));
        console.program = Some(program);
        console
    }

    /// Types text.
    pub fn send(&mut self, text: &str) {
        let mut rest = text.as_bytes();
        let end = Instant::now() + crate::deadline::GUEST;
        while !rest.is_empty() {
            match self.terminal.write(rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    assert!(Instant::now() < end, "the terminal takes no input: {rest:?}\n{}", self.shown());
                    self.wait_ready(PollFlags::OUT, end);
                }
                Err(error) => panic!("typing {text:?}: {error}\n{}", self.shown()),
            }
        }
    }

    /// Waits for `text` in what arrives after what was waited for before, and returns what came until its end.
    pub fn expect(&mut self, text: &str, limit: Duration) -> String {
        let end = Instant::now() + limit;
        loop {
            let fresh = self.said.get(self.seen..).unwrap_or_default();
            if let Some(at) = find(fresh, text.as_bytes()) {
                let upto = at + text.len();
                let answer = String::from_utf8_lossy(fresh.get(..upto).unwrap_or_default()).into_owned();
                self.seen += upto;
                return answer;
            }
            let open = self.read_some(end);
            let more = find(self.said.get(self.seen..).unwrap_or_default(), text.as_bytes()).is_some();
            assert!(more || open, "the terminal was closed before {text:?} came\n{}", self.shown());
            assert!(more || Instant::now() < end, "waited {} s for {text:?}\n{}", limit.as_secs(), self.shown());
        }
    }

    /// All that came so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.said).into_owned()
    }

    /// Waits until the program ends, and returns its exit status.
    pub fn finish(&mut self, limit: Duration) -> Option<i32> {
        let mut program = self.program.take().expect("only a console of a program has an end");
        let end = Instant::now() + limit;
        loop {
            self.read_some(Instant::now() + Duration::from_millis(50));
            if let Some(status) = program.try_wait().expect("it was started here") {
                return status.code();
            }
            if Instant::now() >= end {
                let _ = program.kill();
                let _ = program.wait();
                panic!("waited {} s for the program to end\n{}", limit.as_secs(), self.shown());
            }
        }
    }

    /// Reads what there is, or waits for it. False once the other side is closed.
    fn read_some(&mut self, end: Instant) -> bool {
        self.wait_ready(PollFlags::IN, end);
        let mut bytes = [0; 4096];
        loop {
            match self.terminal.read(&mut bytes) {
                Ok(0) => return false,
                Ok(count) => self.said.extend_from_slice(bytes.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                // A pty whose last other side was closed answers so.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => return false,
                Err(error) => panic!("reading the terminal: {error}\n{}", self.shown()),
            }
        }
    }

    fn wait_ready(&self, flags: PollFlags, end: Instant) {
        let left = end.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::new(&self.terminal, flags)];
        // Interrupted or timed out: the caller looks at the clock.
        let _ = poll(&mut fds, Some(&timeout));
    }

    fn shown(&self) -> String {
        let from = self.said.len().saturating_sub(SHOWN);
        let tail = String::from_utf8_lossy(self.said.get(from..).unwrap_or_default());
        format!("--- the terminal said ---\n{tail}\n---")
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some(mut program) = self.program.take() {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

fn open(terminal: &Path, flags: OFlags) -> File {
    let flags = i32::try_from(flags.bits()).expect("open flags are below bit 31");
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(terminal);
    file.unwrap_or_else(|error| panic!("{}: {error}", terminal.display()))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Console {
        // Who starts this in the background may have it ignore interrupts, and a shell can't take that back.
        Console::of_program(Command::new("env").args(["--default-signal=INT", "sh", "-c", script]))
    }

    #[test]
    fn a_wait_returns_what_came_until_then_and_no_more() {
        let mut console = shell("printf 'one two three'");
        assert_eq!(console.expect("two", SOON), "one two");
        assert_eq!(console.expect("three", SOON), " three");
    }

    #[test]
    fn what_is_typed_reaches_the_program() {
        let mut console = shell("read -r line; echo \"got <$line>\"");
        console.send("hello\n");
        console.expect("got <hello>", SOON);
        assert_eq!(console.finish(SOON), Some(0));
    }

    #[test]
    fn the_program_has_a_terminal_that_interrupts_it() {
        let mut console = shell("trap 'echo interrupted; exit 7' INT; echo ready; while :; do sleep 0.1; done");
        console.expect("ready", SOON);
        console.send("\u{3}");
        console.expect("interrupted", SOON);
        assert_eq!(console.finish(SOON), Some(7));
    }

    #[test]
    #[should_panic(expected = "waited 1 s for \"never\"")]
    fn a_wait_that_fails_says_what_was_waited_for() {
        shell("echo other; sleep 30").expect("never", Duration::from_secs(1));
    }

    #[test]
    #[should_panic(expected = "closed before \"never\"")]
    fn a_terminal_that_closes_ends_the_wait() {
        shell("echo other").expect("never", SOON);
    }
}
