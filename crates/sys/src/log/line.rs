//! One log line in a fixed buffer: in plain words, escaped and cut.

use std::fmt::{self, Write};

use log::Level;

use crate::words::plain;

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

/// How much a line counts: as the `log` crate has it, or as a notice, syslog's word for what is no fault but not usual either:
/// what a user did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// One of the crate's levels.
    Of(Level),
    /// Between warning and info.
    Notice,
}

impl From<Level> for Weight {
    fn from(level: Level) -> Self {
        Self::Of(level)
    }
}

impl Weight {
    /// The level that decides whether it is logged.
    pub(super) fn level(self) -> Level {
        match self {
            Self::Of(level) => level,
            Self::Notice => Level::Info,
        }
    }

    /// syslog(3)'s number for it.
    pub(super) fn severity(self) -> u8 {
        match self {
            Self::Of(Level::Error) => 3,
            Self::Of(Level::Warn) => 4,
            Self::Notice => 5,
            Self::Of(Level::Info) => 6,
            Self::Of(Level::Debug | Level::Trace) => 7,
        }
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

/// A finished line.
pub struct Line {
    buffer: [u8; MAX_LINE],
    len: usize,
    cut: bool,
}

impl Line {
    /// `name: text` and a newline, after what the form puts first.
    pub fn new(form: Form, weight: Weight, name: fmt::Arguments<'_>, text: fmt::Arguments<'_>) -> Self {
        let mut line = Self { buffer: [0; MAX_LINE], len: 0, cut: false };
        // An error here comes from a broken `Display` of the caller's; what it had written stays.
        let _ = match form {
            Form::Piped => write!(line, "{} ", letter(weight.level())),
            Form::Plain => Ok(()),
            Form::Syslog => write!(line, "<{}>", 24 + weight.severity()),
        };
        let text = text.as_str().map_or_else(|| text.to_string().into(), std::borrow::Cow::Borrowed);
        let _ = write!(line, "{name}: {}", plain(&text));
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
            Line::new(Form::Piped, Level::Error.into(), format_args!("vm/web"), format_args!("{text}"))
                .bytes()
                .to_vec(),
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
    fn no_line_has_the_number_of_an_error_and_a_notice_is_one_in_syslog() {
        let busy = std::io::Error::from_raw_os_error(16);
        let (name, text) = (format_args!("vmd"), format_args!("cgroup: {busy}, left"));
        let line =
            |weight| String::from_utf8(Line::new(Form::Syslog, weight, name, text).bytes().to_vec()).expect("UTF-8");
        assert_eq!(line(Weight::Notice), "<29>vmd: cgroup: Device or resource busy, left\n");
        assert_eq!(line(Level::Warn.into()), "<28>vmd: cgroup: Device or resource busy, left\n");
    }

    #[test]
    fn text_that_just_fits_is_not_cut() {
        let most = LIMIT - "E vm/web: ".len();
        assert!(!line(&"x".repeat(most)).contains(CUT));
        assert!(line(&"x".repeat(most + 1)).ends_with("...\n"));
    }
}
