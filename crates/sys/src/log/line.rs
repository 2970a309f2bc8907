//! One log line in a fixed buffer: escaped and cut, without allocation.

use std::fmt::{self, Write};

use log::Level;

/// Bytes of a line with its newline. Far below PIPE_BUF; a longer text is cut and ends in `...`.
pub const MAX_LINE: usize = 1024;

const CUT: &str = "...";

/// The letter that stands for a level at a line's start.
pub fn letter(level: Level) -> char {
    match level {
        Level::Error => 'E',
        Level::Warn => 'W',
        Level::Info => 'I',
        Level::Debug => 'D',
        Level::Trace => 'T',
    }
}

/// What stands before a line's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The level's letter, for the parent's log pipe.
    Piped,
    /// Nothing, for a person.
    Plain,
    /// `<N>`, for the journal and syslog (RFC 3164, 4.1.1: facility daemon is 3, times 8).
    Syslog,
}

/// syslog(3)'s number for a level.
pub fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// A finished line.
pub struct Line {
    buffer: [u8; MAX_LINE],
    len: usize,
    cut: bool,
}

impl Line {
    /// `name: text` and a newline, after what the form puts first.
    pub fn new(form: Form, level: Level, name: fmt::Arguments<'_>, text: fmt::Arguments<'_>) -> Self {
        let mut line = Self { buffer: [0; MAX_LINE], len: 0, cut: false };
        // An error here comes from a broken `Display` of the caller's; what it had written stays.
        let _ = match form {
            Form::Piped => write!(line, "{} ", letter(level)),
            Form::Plain => Ok(()),
            Form::Syslog => write!(line, "<{}>", 24 + severity(level)),
        };
        let _ = write!(line, "{name}: {text}");
        if line.cut {
            line.append(CUT, MAX_LINE - 1);
        }
        line.append("\n", MAX_LINE);
        line
    }

    /// What to write, in one call.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }

    /// Appends whole or not at all; false when `limit` would be passed.
    fn append(&mut self, text: &str, limit: usize) -> bool {
        let end = self.len + text.len();
        match self.buffer.get_mut(self.len..end) {
            Some(room) if end <= limit => {
                room.copy_from_slice(text.as_bytes());
                self.len = end;
                true
            }
            _ => false,
        }
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.cut {
                break;
            }
            let mut room = [0u8; 4];
            let fits = if character.is_control() {
                character.escape_default().try_for_each(|c| self.append(c.encode_utf8(&mut room), LIMIT).then_some(()))
            } else {
                self.append(character.encode_utf8(&mut room), LIMIT).then_some(())
            };
            self.cut = fits.is_none();
        }
        Ok(())
    }
}

/// What the text may fill: the mark of the cut and the newline must still fit.
const LIMIT: usize = MAX_LINE - CUT.len() - 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> String {
        String::from_utf8(
            Line::new(Form::Piped, Level::Error, format_args!("vm/web"), format_args!("{text}")).bytes().to_vec(),
        )
        .expect("UTF-8")
    }

    #[test]
    fn text_stands_after_level_and_name() {
        assert_eq!(line("guest ended"), "E vm/web: guest ended\n");
    }

    #[test]
    fn control_characters_are_escaped_and_letters_of_all_scripts_are_not() {
        assert_eq!(line("a\x1b[2J\r\n\t\u{9b}ü漢"), "E vm/web: a\\u{1b}[2J\\r\\n\\t\\u{9b}ü漢\n");
    }

    #[test]
    fn long_text_is_cut_between_characters_and_says_so() {
        for pad in 0..4 {
            let text = line(&("x".repeat(pad) + &"漢".repeat(1000)));
            assert!(text.len() <= MAX_LINE && text.len() > MAX_LINE - 8, "{}", text.len());
            assert!(text.ends_with("漢...\n"));
        }
    }

    #[test]
    fn text_that_just_fits_is_not_cut() {
        let most = LIMIT - "E vm/web: ".len();
        assert!(!line(&"x".repeat(most)).contains(CUT));
        assert!(line(&"x".repeat(most + 1)).ends_with("...\n"));
    }
}
