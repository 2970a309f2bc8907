//! vmctl: arguments in, one conversation with control, a table or a console out.
//!
//! | room | holds |
//! |---|---|
//! | `getopt`, `words` | options as getopt(3) takes them; ids, sizes and counts as users write them |
//! | `command`, `start`, `create` | a command line to a [`Command`], or why not: pure |
//! | `conversation` | the socket: handshake, a request, its answers |
//! | `perform` | does a command: asks, prints, decides the exit status |
//! | `progress` | what a terminal shows: while a command waits, and of texts from elsewhere |
//! | `image/` | `create` and `image`, which need no daemon: new images, copies, what an image is |
//! | `status` | what `status` prints: a table, or JSON |
//! | `doctor/` | what keeps VMs from running on this host |
//! | `console/` | a VM's console on this terminal |
#![forbid(unsafe_code)]

mod command;
mod console;
#[deny(clippy::wildcard_enum_match_arm)] // a new reply is shown where it is missing
mod conversation;
mod create;
mod doctor;
mod getopt;
mod image;
#[deny(clippy::wildcard_enum_match_arm)] // a new reply is shown where it is missing
mod perform;
mod progress;
mod start;
mod status;
mod words;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

pub use command::{Command, Misuse, commands, parse};

/// Where a command prints.
pub struct Screen<'a> {
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
    /// Whether standard error is a terminal that shows progress and colours.
    pub lively: bool,
    /// Whether standard output is one that shows colours.
    pub coloured: bool,
}

/// Does what the arguments (without the program's name) say. Success is 0, every kind of failure 1.
pub fn run(arguments: &[OsString], socket: &Path, screen: Screen<'_>) -> ExitCode {
    let Screen { out, err, lively, coloured } = screen;
    let invocation = match parse(arguments) {
        Ok(invocation) => invocation,
        Err(misuse) => {
            let _ = writeln!(err, "{}", progress::shown(&misuse.to_string()));
            return ExitCode::FAILURE;
        }
    };
    let mut run = perform::Run { socket, verbose: invocation.verbose, lively, coloured, out, err };
    match run.perform(invocation.command) {
        Ok(code) => code,
        Err(failure) => {
            let name = progress::coloured(lively, "vmctl:");
            let _ = writeln!(run.err, "{name} {}", progress::shown(&failure.to_string()));
            ExitCode::FAILURE
        }
    }
}
