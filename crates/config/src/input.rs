//! The bytes of all files of one parse, in the order that they are read, each knowing where it stands.

use std::io::BufRead as _;

/// A stretch of one file, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Span {
    /// Index of the file, in the order of opening.
    pub file: usize,
    /// First byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

impl Span {
    /// From the beginning of this to the end of that; of this alone when they stand in two files.
    pub fn to(self, last: Self) -> Self {
        let end = if last.file == self.file { last.end.max(self.end) } else { self.end };
        Self { end, ..self }
    }
}

/// One byte of the stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Byte {
    pub value: u8,
    /// Where it stands; for the bytes of a macro's value, where the macro is used.
    pub span: Span,
    /// It came from a macro's value: a `$` in there is no reference.
    pub expanded: bool,
    /// It was written behind a backslash as a backslash: it continues and hides nothing.
    pub literal: bool,
}

/// What some editors write in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

struct File {
    name: String,
    text: Vec<u8>,
    /// Where each line begins: messages must not cost a reading of the file each.
    lines: Vec<usize>,
}

/// The files being read, the innermost last, and bytes that were read too far.
pub(crate) struct Input {
    files: Vec<File>,
    open: Vec<Span>,
    pending: Vec<Byte>,
    /// Bytes of all files, those too that were refused for it.
    size: usize,
}

impl Input {
    pub fn new(name: &str, text: &[u8]) -> Self {
        let mut input = Self { files: Vec::new(), open: Vec::new(), pending: Vec::new(), size: text.len() };
        input.push(name, text.to_vec());
        input
    }

    /// Reads this file next; what is left of the ones open comes after it.
    pub fn push(&mut self, name: &str, text: Vec<u8>) {
        self.open.push(Span { file: self.files.len(), start: 0, end: text.len() });
        let lines = beginnings(&text);
        self.files.push(File { name: name.to_owned(), text, lines });
    }

    /// Ends the innermost file, and says whether there was one to end.
    pub fn pop(&mut self) -> bool {
        self.open.pop().is_some()
    }

    /// Ends all files.
    pub fn abandon(&mut self) {
        self.open.clear();
        self.pending.clear();
    }

    /// How many files lie around the one being read, it included.
    pub fn depth(&self) -> usize {
        self.open.len()
    }

    /// Files read in this parse so far.
    pub fn count(&self) -> usize {
        self.files.len()
    }

    /// Bytes of all files of this parse so far.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Counts the bytes of one more file.
    pub fn add_size(&mut self, bytes: usize) {
        self.size = self.size.saturating_add(bytes);
    }

    /// Whether a file of this name is being read: including it once more would never end.
    pub fn is_open(&self, name: &str) -> bool {
        self.open.iter().any(|open| self.files.get(open.file).is_some_and(|file| file.name == name))
    }

    /// The next byte of the innermost file; `None` at its end.
    pub fn next(&mut self) -> Option<Byte> {
        if let Some(byte) = self.pending.pop() {
            return Some(byte);
        }
        let cursor = self.open.last_mut()?;
        let value = *self.files.get(cursor.file)?.text.get(cursor.start)?;
        let end = cursor.start.saturating_add(1);
        let span = Span { end, ..*cursor };
        cursor.start = end;
        Some(Byte { value, span, expanded: false, literal: false })
    }

    /// Gives a byte back: it is the next one again.
    pub fn put_back(&mut self, byte: Byte) {
        self.pending.push(byte);
    }

    /// Where the innermost file ends once all of it is read; where the first one does when none is open.
    pub fn end(&self) -> Span {
        self.open.last().copied().unwrap_or_else(|| {
            let end = self.files.first().map_or(0, |file| file.text.len());
            Span { file: 0, start: end, end }
        })
    }

    /// The line that a span begins in, from 1.
    pub fn line(&self, span: Span) -> usize {
        self.files.get(span.file).map_or(0, |file| file.lines.partition_point(|begin| *begin <= span.start))
    }

    /// What the file of a span is called.
    pub fn name(&self, span: Span) -> &str {
        self.files.get(span.file).map_or("", |file| &file.name)
    }

    /// Where the line that a span begins in begins itself, and the line without its end.
    pub fn text(&self, span: Span) -> (usize, &[u8]) {
        let number = self.line(span);
        let Some(file) = self.files.get(span.file) else { return (0, &[]) };
        let begin = number.checked_sub(1).and_then(|before| file.lines.get(before)).copied().unwrap_or(0);
        let end = file.lines.get(number).map_or(file.text.len(), |next| next.saturating_sub(1));
        let text = file.text.get(begin..end).unwrap_or_default();
        (begin, text.strip_suffix(b"\r").unwrap_or(text))
    }

    /// The character that begins here, if it is one of UTF-8.
    pub fn char_at(&self, span: Span) -> Option<char> {
        let rest = self.files.get(span.file)?.text.get(span.start..)?;
        let first = rest.get(..rest.len().min(4))?.utf8_chunks().next()?;
        first.valid().chars().next()
    }

    /// Whether this is the beginning of a file, and a byte order mark.
    pub fn is_mark(&self, span: Span) -> bool {
        span.start == 0 && self.files.get(span.file).is_some_and(|file| file.text.starts_with(BYTE_ORDER_MARK))
    }
}

/// Where each line of a text begins.
fn beginnings(text: &[u8]) -> Vec<usize> {
    let mut lines = vec![0];
    let mut rest = text;
    let mut begin = 0_usize;
    while let Ok(length @ 1..) = rest.skip_until(b'\n') {
        begin = begin.saturating_add(length);
        lines.push(begin);
    }
    // What ends with the file has no line behind it.
    if !text.is_empty() && !text.ends_with(b"\n") {
        lines.pop();
    }
    lines
}
