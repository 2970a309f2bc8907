//! What was wrong where, and how it is shown: place and message, the line itself, a caret and a hint.

use std::fmt;

use model::VmName;

use crate::fault::Fault;
use crate::input::{Input, Span};
use crate::line::Line;

/// Characters of a source line that are shown; of a longer one, those around the caret.
const MAX_SHOWN: usize = 160;

/// Characters of a message: it may name a path, of 1023 bytes at most.
const MAX_MESSAGE: usize = 1200;

/// Characters shown before the caret when a line is cut.
const SHOWN_BEFORE: usize = 60;

/// How grave it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It has no effect, or not the expected one.
    Warning,
}

/// One error or warning. Its `Display` is the whole text, without a newline at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How grave it is.
    pub severity: Severity,
    /// What it is.
    pub fault: Fault,
    /// Where; `None` for a macro of the command line.
    pub place: Option<Location>,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The file as it was named.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The line, cut where it is very long; control characters but tabs are replaced.
    text: String,
    /// What stands before the caret: blanks, and tabs where the line has them.
    indent: String,
    /// Carets.
    width: usize,
}

/// All errors of a configuration, in the order of its files. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.errors))]
pub struct Errors {
    /// The errors.
    pub errors: Vec<Diagnostic>,
    /// What was noticed besides.
    pub warnings: Vec<Diagnostic>,
}

fn lines(errors: &[Diagnostic]) -> String {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    texts.join("\n")
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{}:{}:{}: ", place.file, place.line, place.column)?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        let fault: String = self.fault.to_string().chars().map(visible).take(MAX_MESSAGE).collect();
        f.write_str(&fault)?;
        let Some(place) = &self.place else { return Ok(()) };
        write!(f, "\n{:>5} | {}", place.line, place.text)?;
        write!(f, "\n      | {}{}", place.indent, "^".repeat(place.width))?;
        match self.fault.hint() {
            Some(hint) => write!(f, " {}", hint.chars().map(visible).collect::<String>()),
            None => Ok(()),
        }
    }
}

struct Note {
    step: u64,
    severity: Severity,
    fault: Fault,
    span: Option<Span>,
    /// It costs this VM alone.
    vm: Option<VmName>,
}

/// Collects while the files are read.
#[derive(Default)]
pub(crate) struct Report {
    step: u64,
    notes: Vec<Note>,
    errors: usize,
    /// What concerns one VM alone is no error of the file.
    pub patient: bool,
    /// The VM whose block is being read.
    pub vm: Option<VmName>,
}

/// A moment of reading, for a fault that is found later than the place it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Step(u64);

impl Report {
    /// A token has been read.
    pub fn step(&mut self) {
        self.step = self.step.saturating_add(1);
    }

    /// Errors so far.
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// Now.
    pub fn now(&self) -> Step {
        Step(self.step)
    }

    pub fn error(&mut self, fault: Fault, span: Span) {
        self.note(self.now(), Severity::Error, fault, Some(span));
    }

    pub fn error_at(&mut self, step: Step, fault: Fault, span: Span) {
        self.note(step, Severity::Error, fault, Some(span));
    }

    pub fn warn(&mut self, fault: Fault, span: Option<Span>) {
        self.note(self.now(), Severity::Warning, fault, span);
    }

    pub fn warn_at(&mut self, step: Step, fault: Fault, span: Option<Span>) {
        self.note(step, Severity::Warning, fault, span);
    }

    fn note(&mut self, step: Step, severity: Severity, fault: Fault, span: Option<Span>) {
        let alone = self.patient && severity == Severity::Error && fault.is_of_one_vm();
        let vm = self.vm.clone().filter(|_| alone);
        if severity == Severity::Error && vm.is_none() {
            self.errors = self.errors.saturating_add(1);
        }
        self.notes.push(Note { step: step.0, severity, fault, span, vm });
    }

    /// Errors and warnings, each in the order of reading, and what costs one VM alone.
    pub fn finish(mut self, input: &Input) -> (Vec<Diagnostic>, Vec<Diagnostic>, Vec<(VmName, Diagnostic)>) {
        self.notes.sort_by_key(|note| (note.step, note.span.map(|span| (span.file, span.start))));
        let mut lines = Lines { input, last: None };
        let (mut errors, mut warnings, mut troubles) = (Vec::new(), Vec::new(), Vec::new());
        for Note { severity, fault, span, vm, .. } in self.notes {
            let note = Diagnostic { severity, fault, place: span.map(|span| lines.locate(span)) };
            match (vm, severity) {
                (Some(vm), _) => troubles.push((vm, note)),
                (None, Severity::Error) => errors.push(note),
                (None, Severity::Warning) => warnings.push(note),
            }
        }
        (errors, warnings, troubles)
    }
}

/// The lines that are shown. Errors come in the order of reading, so it is mostly the last one again.
struct Lines<'a> {
    input: &'a Input,
    last: Option<((usize, usize), Line<'a>)>,
}

impl Lines<'_> {
    fn locate(&mut self, span: Span) -> Location {
        let number = self.input.line(span);
        let (begin, bytes) = self.input.text(span);
        let key = (span.file, number);
        let (_, line) = match self.last.take() {
            Some(last) if last.0 == key => self.last.insert(last),
            _ => self.last.insert((key, Line::new(bytes))),
        };
        let from = span.start.saturating_sub(begin).min(bytes.len());
        let caret = line.column(from);
        let first = if line.length() > MAX_SHOWN { caret.saturating_sub(SHOWN_BEFORE) } else { 0 };
        let shown: Vec<char> = line.cut(first, MAX_SHOWN).map(visible).collect();
        let before = caret.saturating_sub(first);
        let indent = shown.iter().take(before).map(|letter| if *letter == '\t' { '\t' } else { ' ' }).collect();
        let room = shown.len().saturating_sub(before).max(1);
        Location {
            file: self.input.name(span).to_owned(),
            line: number,
            column: caret.saturating_add(1),
            text: shown.into_iter().collect(),
            indent,
            width: line.width(from, span.end.saturating_sub(begin), room).max(1),
        }
    }
}

/// A file is shown on terminals: what could command one is replaced.
fn visible(letter: char) -> char {
    if letter.is_control() && letter != '\t' { '\u{fffd}' } else { letter }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_many_errors_is_read_once() {
        let text = [b"one error, ".repeat(1000), b"\nand another line".to_vec()].concat();
        let input = Input::new("f", &text);
        let mut lines = Lines { input: &input, last: None };
        let mut read = |start: usize| {
            let place = lines.locate(Span { file: 0, start, end: start });
            ((place.line, place.column), lines.last.as_ref().map(|(_, line)| line.marks()))
        };
        let (first, second, other) = (read(4), read(10_000), read(11_003));
        assert_eq!((first.0, second.0, other.0), ((1, 5), (1, 10_001), (2, 3)));
        assert!(first.1.is_some() && first.1 == second.1 && second.1 != other.1);
    }
}
