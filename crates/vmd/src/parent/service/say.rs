//! What a start and a check tell who runs them, on standard error. That nobody can read it, or that what was read before is a
//! closed pipe, is no reason not to go on.

use std::fmt::Display;
use std::io::{self, Write};

use sys::logpipe::printable;

/// A line that names what a file or the command line says: nothing in it commands a terminal, or begins another line. As a
/// line of the log has it.
pub fn say(line: impl Display) {
    all(&printable(line.to_string().as_bytes()));
}

/// Lines that are fit for a terminal already.
pub fn all(lines: &impl Display) {
    let _ = writeln!(io::stderr().lock(), "{lines}");
}
