//! What a start and a check tell who runs them, on standard error. That nobody can read it, or that what was read before is a
//! closed pipe, is no reason not to go on.

use std::fmt::Display;
use std::io::{self, Write};

/// A line that names what a file or the command line says: nothing in it commands a terminal, or begins another line.
pub fn say(line: impl Display) {
    all(&one_line(&line.to_string()));
}

/// Lines that are fit for a terminal already.
pub fn all(lines: &impl Display) {
    let _ = writeln!(io::stderr().lock(), "{lines}");
}

/// As a line of the log has it.
fn one_line(text: &str) -> String {
    let shown = |letter: char| match letter.is_control() {
        true => letter.escape_default().collect(),
        false => letter.to_string(),
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_command_a_terminal_is_escaped() {
        assert_eq!(one_line("a\x1b[31m\n\té \u{9b}"), "a\\u{1b}[31m\\n\\té \\u{9b}");
    }
}
