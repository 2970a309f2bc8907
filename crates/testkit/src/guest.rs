//! A guest that runs `scripts/guest-init`: commands go to it over its console, output and status come back.

use crate::console::Console;
use crate::deadline::GUEST;

/// What `guest-init` prints once it reads commands.
const READY: &str = "GUEST-SHELL";

/// What `guest-init` prints when the power button was pressed.
pub const POWER_BUTTON: &str = "GUEST-POWER-BUTTON";

/// A guest whose command loop is up.
#[derive(Debug)]
pub struct Guest {
    console: Console,
    /// Counts commands, so that the end of one is never taken for the end of another.
    commands: u32,
    boot: String,
}

/// What a command in the guest printed, and its exit status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Exit status.
    pub status: i32,
    /// Standard output and standard error, blanks at both ends removed.
    pub output: String,
}

impl Guest {
    /// Waits for the guest behind this console to come up.
    pub fn wait_up(mut console: Console) -> Self {
        let boot = console.expect(READY, GUEST);
        Self { console, commands: 0, boot }
    }

    /// Waits for the same guest to come up again on the same console.
    pub fn wait_up_again(self) -> Self {
        Self::wait_up(self.console)
    }

    /// Runs a shell command, one line, and waits for its end.
    pub fn run(&mut self, command: &str) -> Answer {
        self.commands += 1;
        let mark = format!("@{}@", self.commands);
        self.console.send(&format!("( {command} ) 2>&1; echo {mark}$?{mark}\n"));
        let output = self.console.expect(&mark, GUEST);
        let status = self.console.expect(&mark, GUEST);
        Answer {
            status: status.trim_end_matches(&mark).trim().parse().unwrap_or(-1),
            output: output.trim_end_matches(&mark).replace("\r\n", "\n").trim().to_owned(),
        }
    }

    /// Runs a shell command that must succeed, and returns what it printed.
    pub fn check(&mut self, command: &str) -> String {
        let answer = self.run(command);
        assert_eq!(answer.status, 0, "in the guest, {command:?} printed: {}", answer.output);
        answer.output
    }

    /// Types a command and does not wait: for those that end the guest.
    pub fn begin(&mut self, command: &str) {
        self.console.send(&format!("{command}\n"));
    }

    /// What the guest printed from its start until its command loop was up.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// The console itself.
    pub fn console(&mut self) -> &mut Console {
        &mut self.console
    }
}
