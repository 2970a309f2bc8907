//! What a process that was taken over writes to its log pipe: cut anywhere it becomes the same bounded lines of printable
//! text, each under a name that is the writer's; and what a process of ours logs comes out as it was said.
#![no_main]
#![allow(dead_code)] // not all of a line's is used here

#[path = "../../crates/sys/src/log/line.rs"]
mod line;
#[path = "../../crates/sys/src/words.rs"]
mod words;

use libfuzzer_sys::fuzz_target;
use line::Form;
use sys::logpipe::{Level, Line, LogPipe, MAX_LINE, Splitter};
use vmd_fuzz::Script;

const PREFIX: &str = "vm/web";
/// Of one byte of a line at most, as it may be printed: `\u{9f}` for a control character.
const LONGEST: usize = 6;

fuzz_target!(|input: &[u8]| {
    let mut script = Script(input);
    let choice = script.byte();
    let stream = stream(&mut script);
    let whole = lines(&[&stream]);
    let at = |word: u16| usize::from(word) % (stream.len() + 1);
    let (one, other) = (at(script.word()), at(script.word()));
    let (first, rest) = stream.split_at(one.min(other));
    let (second, third) = rest.split_at(one.max(other) - one.min(other));
    assert_eq!(whole, lines(&[first, second, third]), "the cut shows");
    assert!(whole.len() <= stream.split(|byte| *byte == b'\n').count());
    for line in &whole {
        assert!(line.text.len() <= (MAX_LINE + 3) * LONGEST && !line.text.chars().any(char::is_control));
        let (origin, text) = line.origin(PREFIX);
        let below = origin.strip_prefix(PREFIX).expect("its own name");
        assert!(below.is_empty() || below.starts_with('/'), "speaks as {origin}");
        written(line.level, origin, text);
    }
    if choice & 1 != 0 && stream.len() <= 0x8000 {
        assert_eq!(whole, piped(&stream));
    }
    if choice & 2 != 0 {
        let text = String::from_utf8_lossy(&stream);
        let level = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace][usize::from(choice >> 2) % 5];
        let said = written(level, PREFIX, &text);
        let [line] = lines(&[&said]).try_into().expect("one line");
        assert_eq!(line.level, level);
        assert_eq!(line.origin(PREFIX).0, PREFIX);
    }
});

/// As long as that takes: pieces of input, or one byte many times.
fn stream(script: &mut Script<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..script.byte() % 8 {
        match script.byte() % 4 {
            0 => {
                let count = usize::from(script.byte());
                stream.extend(script.bytes(count));
            }
            1 => {
                let (count, byte) = (usize::from(script.word()) % 0x600, script.byte());
                stream.extend(std::iter::repeat_n(byte, count));
            }
            2 => stream.extend([b"I vm/web: ", &b"W vm/web/"[..], b"E priv: ", b"\n"][usize::from(script.byte() % 4)]),
            _ => stream.extend("\u{9b}\u{202e}ü漢".bytes().take(usize::from(script.byte() % 11))),
        }
    }
    stream
}

fn lines(parts: &[&[u8]]) -> Vec<Line> {
    let (mut splitter, mut lines) = (Splitter::new(), Vec::new());
    parts.iter().for_each(|part| splitter.push(part, &mut |line| lines.push(line)));
    splitter.finish(&mut |line| lines.push(line));
    lines
}

/// The same by a pipe.
fn piped(stream: &[u8]) -> Vec<Line> {
    let (mut pipe, end) = LogPipe::new().expect("a pipe");
    assert_eq!(rustix::io::write(&end, stream), Ok(stream.len()), "room for 64 KiB");
    drop(end);
    let mut lines = Vec::new();
    while !pipe.read(&mut |line| lines.push(line)).expect("a pipe can be read") {}
    lines
}

/// The line as a process writes it: bounded, and one.
fn written(level: Level, name: &str, text: &str) -> Vec<u8> {
    let line = line::Line::new(Form::Piped, level.into(), format_args!("{name}"), format_args!("{text}"));
    let (end, rest) = line.bytes().split_last().expect("a line is never empty");
    assert!(*end == b'\n' && rest.len() < MAX_LINE);
    let text = std::str::from_utf8(rest).expect("whole characters");
    assert!(!text.chars().any(char::is_control));
    line.bytes().to_vec()
}
