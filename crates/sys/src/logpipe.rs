//! The reader's side of a log pipe: what other processes wrote becomes bounded lines of harmless text.
//!
//! The parent makes one pipe for each process it starts, and one for each VM. The writers may be hostile: a line is cut at
//! `MAX_LINE`, and nothing but printable text leaves here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::log::letter;
pub use crate::log::{Level, MAX_LINE};

/// A log pipe's reading end. Its writers never wait: both ends are non-blocking.
#[derive(Debug)]
pub struct LogPipe {
    fd: OwnedFd,
    splitter: Splitter,
}

/// Bytes taken from a pipe at once, the most one turn of the loop spends on one writer.
const PART: usize = 4096;

impl LogPipe {
    /// A pipe and the end that becomes standard error of its writers.
    pub fn new() -> io::Result<(Self, OwnedFd)> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok((Self { fd: read, splitter: Splitter::new() }, write))
    }

    /// Hands over the lines that have come. True when all writers are gone; then also a line without its newline.
    pub fn read(&mut self, each: &mut dyn FnMut(Line)) -> io::Result<bool> {
        let mut part = [0u8; PART];
        match rustix::io::read(&self.fd, &mut part) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
            Ok(0) => {
                self.splitter.finish(each);
                Ok(true)
            }
            Ok(got) => {
                self.splitter.push(part.get(..got).unwrap_or_default(), each);
                Ok(false)
            }
        }
    }
}

impl AsFd for LogPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A line as it may be logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// As its writer said; error for what is no line of ours, as a panic's message.
    pub level: Level,
    /// `name: text` of a line of ours, else all of it; without control characters.
    pub text: String,
}

impl Line {
    /// Of whom it is, and what it says. What does not name itself as it should is named by its reader, by `prefix`: a child
    /// can't speak as another.
    pub fn origin<'a>(&'a self, prefix: &'a str) -> (&'a str, &'a str) {
        let named = self.text.split_once(": ").filter(|(origin, _)| {
            let rest = origin.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        named.unwrap_or((prefix, &self.text))
    }
}

/// Splits a stream into lines. Pure.
#[derive(Debug, Default)]
pub struct Splitter {
    held: Vec<u8>,
    /// The line was cut: what comes until its newline is dropped.
    skipping: bool,
}

impl Splitter {
    /// At the start of a line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes as they came, and hands over each line that they complete.
    pub fn push(&mut self, bytes: &[u8], each: &mut dyn FnMut(Line)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(end) => {
                    self.hold(end, each);
                    self.finish(each);
                }
                None => self.hold(piece, each),
            }
        }
    }

    /// The stream's end, or a line's: hands over what is held.
    pub fn finish(&mut self, each: &mut dyn FnMut(Line)) {
        if !self.held.is_empty() {
            each(line(&self.held));
            self.held.clear();
        }
        self.skipping = false;
    }

    fn hold(&mut self, bytes: &[u8], each: &mut dyn FnMut(Line)) {
        if self.skipping {
            return;
        }
        let room = MAX_LINE - self.held.len();
        self.held.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        if bytes.len() > room {
            self.held.extend_from_slice(b"...");
            self.finish(each);
            self.skipping = true;
        }
    }
}

fn line(bytes: &[u8]) -> Line {
    let text = printable(bytes);
    let told = Level::iter().find_map(|level| Some((level, text.strip_prefix(letter(level))?.strip_prefix(' ')?)));
    match told {
        Some((level, text)) => Line { level, text: text.to_owned() },
        None => Line { level: Level::Error, text },
    }
}

/// Text without control characters, also where it is no UTF-8.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for character in String::from_utf8_lossy(bytes).chars() {
        if character.is_control() {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(parts: &[&[u8]]) -> Vec<String> {
        let mut splitter = Splitter::new();
        let mut lines = Vec::new();
        for part in parts {
            splitter.push(part, &mut |line| lines.push(line.text));
        }
        splitter.finish(&mut |line| lines.push(line.text));
        lines
    }

    #[test]
    fn what_could_command_a_terminal_is_escaped() {
        assert_eq!(printable("a\x1b[31m\n\té \u{9b}".as_bytes()), "a\\u{1b}[31m\\n\\té \\u{9b}");
    }

    #[test]
    fn lines_come_whole_however_they_were_cut() {
        let stream = b"I a: one\nI b: two\n\nI c: three";
        for at in 0..stream.len() {
            let (head, tail) = stream.split_at(at);
            assert_eq!(lines(&[head, tail]), ["a: one", "b: two", "c: three"], "cut at {at}");
        }
    }

    #[test]
    fn a_line_without_end_is_cut_once_and_the_next_is_whole() {
        let long = vec![b'x'; 10 * MAX_LINE];
        let got = lines(&[&long, &long, b"\nI vm: next\n"]);
        assert_eq!(got.len(), 2);
        assert_eq!(got.first().map(String::len), Some(MAX_LINE + 3));
        assert_eq!(got.get(1).map(String::as_str), Some("vm: next"));
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_not_cut() {
        let line = "y".repeat(MAX_LINE);
        assert_eq!(lines(&[line.as_bytes(), b"\n"]), [line]);
    }

    #[test]
    fn level_is_read_and_what_is_no_line_of_ours_is_an_error() {
        let mut got = Vec::new();
        let mut splitter = Splitter::new();
        splitter.push(b"D vm: x\nthread panicked\nWarn: y\nT t: z\n", &mut |line| got.push((line.level, line.text)));
        let want = [
            (Level::Debug, "vm: x"),
            (Level::Error, "thread panicked"),
            (Level::Error, "Warn: y"),
            (Level::Trace, "t: z"),
        ];
        assert_eq!(got, want.map(|(level, text)| (level, text.to_owned())));
    }

    #[test]
    fn a_writer_speaks_as_itself_and_as_what_is_below_it() {
        let of = |text: &str| Line { level: Level::Info, text: text.to_owned() };
        for (text, origin, rest) in [
            ("vm/web: up", "vm/web", "up"),
            ("vm/web/vioblk0: a: b", "vm/web/vioblk0", "a: b"),
            ("vm/web2: up", "vm/web", "vm/web2: up"),
            ("vmd: up", "vm/web", "vmd: up"),
            ("panicked", "vm/web", "panicked"),
        ] {
            assert_eq!(of(text).origin("vm/web"), (origin, rest));
        }
    }

    #[test]
    fn nothing_unprintable_leaves() {
        assert_eq!(lines(&[b"I vm: \x1b[31m\xff\x07 \xc2\x9b\n"]), ["vm: \\u{1b}[31m\u{fffd}\\u{7} \\u{9b}"]);
    }

    #[test]
    fn pipe_carries_lines_and_tells_its_end() {
        let (mut pipe, write) = LogPipe::new().expect("pipe");
        let mut got = Vec::new();
        assert!(!pipe.read(&mut |line| got.push(line.text)).expect("empty"));
        rustix::io::write(&write, b"I a: one\nI a: tw").expect("write");
        assert!(!pipe.read(&mut |line| got.push(line.text)).expect("read"));
        drop(write);
        assert!(pipe.read(&mut |line| got.push(line.text)).expect("end"));
        assert_eq!(got, ["a: one", "a: tw"]);
    }

    #[test]
    fn full_pipe_does_not_hold_its_writer() {
        let (_pipe, write) = LogPipe::new().expect("pipe");
        let full = (0..1000).find_map(|_| rustix::io::write(&write, &[b'x'; 1024]).err());
        assert_eq!(full, Some(rustix::io::Errno::AGAIN));
    }
}
