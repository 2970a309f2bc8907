//! Bytes to tokens (openbsd/vm.conf.md, 2 and 3): blanks, comments, quoting, continuation, numbers, words and
//! the expansion of macros.

use std::collections::BTreeMap;

use crate::diagnostic::{Report, Step};
use crate::fault::Fault;
use crate::input::{Byte, Input, Span};
use crate::keyword::Keyword;
use crate::macros::Macros;
use crate::suggest::Suggestions;

/// Bytes of a quoted string (openbsd/vm.conf.md, 2.4).
const MAX_QUOTED: usize = 8094;

/// Bytes of an unquoted word (openbsd/vm.conf.md, 2.5).
const MAX_WORD: usize = 8095;

/// The least part of a file that the grammar knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Newline,
    Number(i64),
    /// A string: a quoted one, or a word that is no keyword.
    Text {
        bytes: Vec<u8>,
        quoted: bool,
    },
    Word(Keyword),
    /// Any other single byte.
    Sign(u8),
    /// What could not be read. The reason has been reported; it stands for any string.
    Bad,
    /// No file is left.
    End,
}

#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub kind: Kind,
    pub span: Span,
}

struct Macro {
    value: Vec<u8>,
    /// Where it was defined, and when; `None` on the command line.
    span: Option<Span>,
    step: Step,
    used: bool,
}

/// Reads tokens, and notes what is wrong with text that is not a token.
pub(crate) struct Lexer {
    pub input: Input,
    pub report: Report,
    /// For names that are nearly right.
    pub suggestions: Suggestions,
    macros: BTreeMap<Vec<u8>, Macro>,
}

impl Lexer {
    pub fn new(input: Input, macros: &Macros) -> Self {
        let macros = macros.iter().map(|(name, value)| {
            (name.clone(), Macro { value: value.clone(), span: None, step: Step::default(), used: false })
        });
        Self { input, report: Report::default(), suggestions: Suggestions::default(), macros: macros.collect() }
    }

    /// Takes a definition from a file; one from the command line stands against it.
    pub fn define(&mut self, name: Vec<u8>, value: Vec<u8>, span: Span) {
        let fixed = self.macros.get(&name).is_some_and(|known| known.span.is_none());
        if !fixed {
            let used = self.macros.get(&name).is_some_and(|known| known.used);
            self.macros.insert(name, Macro { value, span: Some(span), step: self.report.now(), used });
        }
    }

    /// Warns of each macro that nothing referred to.
    pub fn warn_of_unused_macros(&mut self) {
        for (name, definition) in self.macros.iter().filter(|(_, definition)| !definition.used) {
            let name = String::from_utf8_lossy(name).into_owned();
            self.report.warn_at(definition.step, Fault::MacroNotUsed { name }, definition.span);
        }
    }

    /// The next token. At the end of a file that is a newline, then come those of the file around it.
    pub fn next(&mut self) -> Token {
        self.report.step();
        loop {
            let Some(byte) = self.byte() else {
                let span = self.input.end();
                let kind = if self.input.pop() { Kind::Newline } else { Kind::End };
                return Token { kind, span };
            };
            let single = |kind| Token { kind, span: byte.span };
            match byte.value {
                b' ' | b'\t' => {}
                b'\r' if self.newline_follows() => {}
                b'\n' => return single(Kind::Newline),
                b'#' => self.skip_comment(),
                b'$' if !byte.expanded => {
                    if let Some(token) = self.expand(byte) {
                        return token;
                    }
                }
                b'"' | b'\'' => return self.quoted(byte),
                b'-' | b'0'..=b'9' => return self.number(byte),
                b'A'..=b'Z' | b'a'..=b'z' | b':' | b'_' | b'/' => return self.word(vec![byte.value], byte.span),
                0 => {
                    self.report.warn(Fault::NulEndsFile, Some(byte.span));
                    self.input.abandon();
                }
                other => return single(Kind::Sign(other)),
            }
        }
    }

    /// The next byte outside quotes: a backslash and the end of its line vanish, any other backslash alone does.
    fn byte(&mut self) -> Option<Byte> {
        loop {
            let byte = self.input.next()?;
            if byte.value != b'\\' || byte.literal {
                return Some(byte);
            }
            let hidden = self.input.next()?;
            match hidden.value {
                b'\n' => {}
                b'\r' if self.newline_follows() => {
                    self.input.next();
                }
                value => return Some(Byte { literal: value == b'\\', ..hidden }),
            }
        }
    }

    fn newline_follows(&mut self) -> bool {
        let next = self.input.next();
        if let Some(byte) = next {
            self.input.put_back(byte);
        }
        next.is_some_and(|byte| byte.value == b'\n')
    }

    /// Up to the newline, which is still a token. A backslash before it carries the comment on.
    fn skip_comment(&mut self) {
        while let Some(byte) = self.byte() {
            if byte.value == b'\n' {
                return self.input.put_back(byte);
            }
        }
    }

    /// Puts a macro's value in place of its reference, to be read as if it stood there.
    fn expand(&mut self, dollar: Byte) -> Option<Token> {
        let mut name = Vec::new();
        let mut span = dollar.span;
        self.take_while(in_name, |byte| {
            name.push(byte.value);
            span = span.to(byte.span);
        });
        let Some(known) = self.macros.get_mut(&name) else {
            let near = self.near(&name);
            let braces = if name.is_empty() { self.braces(&mut span) } else { None };
            let name = String::from_utf8_lossy(&name).into_owned();
            self.report.error(Fault::MacroNotDefined { name, near, braces }, span);
            // What is glued to the reference belongs to the word that it would have become.
            self.take_while(in_word, |_| {});
            return Some(Token { kind: Kind::Bad, span });
        };
        known.used = true;
        for value in known.value.iter().rev() {
            self.input.put_back(Byte { value: *value, span, expanded: true, literal: false });
        }
        None
    }

    /// The name in `${NAME}`, which is a reference elsewhere. It is passed over, so that it is one mistake; anything
    /// else that begins with a brace is left to be read.
    fn braces(&mut self, span: &mut Span) -> Option<String> {
        let mut read = Vec::new();
        while let Some(byte) = self.byte() {
            read.push(byte);
            let goes_on = if read.len() == 1 { byte.value == b'{' } else { in_name(byte.value) };
            if !goes_on {
                break;
            }
        }
        match read.as_slice() {
            [_, name @ .., Byte { value: b'}', span: end, .. }] if !name.is_empty() => {
                *span = span.to(*end);
                return Some(name.iter().map(|byte| char::from(byte.value)).collect());
            }
            _ => {}
        }
        read.into_iter().rev().for_each(|byte| self.input.put_back(byte));
        None
    }

    fn near(&mut self, name: &[u8]) -> Option<String> {
        let name = std::str::from_utf8(name).ok()?;
        let known = self.macros.keys().filter_map(|known| std::str::from_utf8(known).ok());
        self.suggestions.closest(name, self.macros.len(), known).map(str::to_owned)
    }

    /// Hands over the bytes that fit, outside quotes, and leaves the first that does not.
    fn take_while(&mut self, fits: impl Fn(u8) -> bool, mut take: impl FnMut(Byte)) {
        while let Some(byte) = self.byte() {
            if !fits(byte.value) {
                return self.input.put_back(byte);
            }
            take(byte);
        }
    }

    fn quoted(&mut self, quote: Byte) -> Token {
        let mut bytes = Vec::new();
        let mut span = quote.span;
        let mut bad = false;
        loop {
            let Some(byte) = self.input.next() else {
                self.report.error(Fault::UnfinishedQuote, quote.span);
                return Token { kind: Kind::Bad, span };
            };
            span = span.to(byte.span);
            match byte.value {
                b'\n' => {}
                b'\r' if self.newline_follows() => {}
                value if value == quote.value => break,
                b'\\' => bytes.extend(self.escaped(byte, quote.value)),
                0 => {
                    self.report.error(Fault::NulInQuotes, byte.span);
                    bad = true;
                }
                value => bytes.push(value),
            }
        }
        if bytes.len() > MAX_QUOTED {
            self.report.error(Fault::StringTooLong { limit: MAX_QUOTED }, quote.span);
            bad = true;
        }
        let kind = if bad { Kind::Bad } else { Kind::Text { bytes, quoted: true } };
        Token { kind, span }
    }

    /// What a backslash inside quotes stands for: the quote, a blank, nothing at the end of a line; else itself,
    /// and the next byte is read as any other.
    fn escaped(&mut self, backslash: Byte, quote: u8) -> Option<u8> {
        let next = self.input.next()?;
        match next.value {
            b'\n' => None,
            b'\r' if self.newline_follows() => {
                self.input.next();
                None
            }
            value if value == quote || value == b' ' || value == b'\t' => Some(value),
            _ => {
                self.input.put_back(next);
                Some(backslash.value)
            }
        }
    }

    /// A number if nothing but digits comes before its end, else the word that begins with these digits.
    fn number(&mut self, first: Byte) -> Token {
        let mut digits = Vec::new();
        let mut span = first.span;
        self.take_while(
            |value| value.is_ascii_digit(),
            |byte| {
                span = span.to(byte.span);
                digits.push(byte);
            },
        );
        let next = self.byte();
        if let Some(byte) = next {
            self.input.put_back(byte);
        }
        let ends =
            next.is_none_or(|byte| matches!(byte.value, b'\t'..=b'\r' | b' ' | b')' | b',' | b'/' | b'}' | b'='));
        let negative = first.value == b'-';
        if negative && (digits.is_empty() || !ends) {
            for byte in digits.into_iter().rev() {
                self.input.put_back(byte);
            }
            return Token { kind: Kind::Sign(b'-'), span: first.span };
        }
        let text: Vec<u8> = [first].iter().chain(&digits).map(|byte| byte.value).collect();
        if !ends {
            return self.word(text, span);
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        match text.parse() {
            Ok(number) => Token { kind: Kind::Number(number), span },
            Err(_) => {
                self.report.error(Fault::NumberRange { text, negative }, span);
                Token { kind: Kind::Bad, span }
            }
        }
    }

    fn word(&mut self, mut bytes: Vec<u8>, mut span: Span) -> Token {
        self.take_while(in_word, |byte| {
            bytes.push(byte.value);
            span = span.to(byte.span);
        });
        let kind = match Keyword::of(&bytes) {
            _ if bytes.len() > MAX_WORD => {
                self.report.error(Fault::StringTooLong { limit: MAX_WORD }, Span { end: span.start, ..span });
                Kind::Bad
            }
            Some(keyword) => Kind::Word(keyword),
            None => Kind::Text { bytes, quoted: false },
        };
        Token { kind, span }
    }
}

/// Whether a byte may stand in the name of a macro where it is referred to (openbsd/vm.conf.md, 3).
fn in_name(value: u8) -> bool {
    value.is_ascii_alphanumeric() || value == b'_'
}

/// Whether a byte may stand in a word after its first (openbsd/vm.conf.md, 2.5).
fn in_word(value: u8) -> bool {
    value.is_ascii_alphanumeric() || (value.is_ascii_punctuation() && !b"(){}!=#,".contains(&value))
}
