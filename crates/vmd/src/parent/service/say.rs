//! What a start and a check tell who runs them. That nobody can read a message, or that what was read before is a closed pipe,
//! is no reason not to go on.

use std::fmt::Display;
use std::io::{self, Write};

use sys::logpipe::printable;

use crate::parent::Fatal;

/// What was asked for, on standard output: that it can't be written is an error. Who closes a pipe has read enough.
pub fn print(bytes: &[u8]) -> Result<(), Fatal> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A line that names what a file or the command line says: nothing in it commands a terminal, or begins another line. As a
/// line of the log has it.
pub fn say(line: impl Display) {
    all(&printable(line.to_string().as_bytes()));
}

/// Lines that are fit for a terminal already.
pub fn all(lines: &impl Display) {
    let _ = writeln!(io::stderr().lock(), "{lines}");
}
