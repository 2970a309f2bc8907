//! The bytes of all files of one parse, in the order that they are read, each knowing where it stands.

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
}

/// A place as a user counts it.
pub(crate) struct Place {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The whole line, without its end.
    pub text: String,
    /// Characters of the span that stand in this line, at least 1.
    pub width: usize,
}

impl Input {
    pub fn new(name: &str, text: &[u8]) -> Self {
        let mut input = Self { files: Vec::new(), open: Vec::new(), pending: Vec::new() };
        input.push(name, text.to_vec());
        input
    }

    /// Reads this file next; what is left of the ones open comes after it.
    pub fn push(&mut self, name: &str, text: Vec<u8>) {
        self.open.push(Span { file: self.files.len(), start: 0, end: text.len() });
        let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let lines = std::iter::once(0).chain(ends.map(|(end, _)| end.saturating_add(1))).collect();
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

    /// Line and column of a span, and the line itself.
    pub fn place(&self, span: Span) -> Place {
        let line = self.line(span);
        let file = self.files.get(span.file);
        let begin = file.and_then(|file| file.lines.get(line.saturating_sub(1))).copied().unwrap_or(0);
        let rest = file.and_then(|file| file.text.get(begin..)).unwrap_or_default();
        let text = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let from = span.start.saturating_sub(begin).min(text.len());
        let last = span.end.saturating_sub(begin).clamp(from, text.len());
        let characters = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).chars().count();
        Place {
            file: file.map(|file| file.name.clone()).unwrap_or_default(),
            line,
            column: characters(text.get(..from)).saturating_add(1),
            text: String::from_utf8_lossy(text).into_owned(),
            width: characters(text.get(from..last)).max(1),
        }
    }
}
