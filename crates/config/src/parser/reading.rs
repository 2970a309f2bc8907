//! What all blocks read with: a token, a word, a string, a number, the end of a line; and what is said where another
//! stands.

use model::NameError;

use super::{Parser, Read, Stop, Text};
use crate::fault::{Fault, Slip};
use crate::input::Span;
use crate::keyword::{Block, Keyword};
use crate::lexer::{Kind, Token};

impl Parser<'_> {
    pub(super) fn advance(&mut self) {
        self.take();
    }

    /// This token; the next one is read.
    pub(super) fn take(&mut self) -> Token {
        self.fresh = matches!(self.token.kind, Kind::Newline | Kind::Sign(b'{'));
        self.last = self.token.span;
        let next = self.lexer.next();
        std::mem::replace(&mut self.token, next)
    }

    pub(super) fn error(&mut self, fault: Fault, span: Span) {
        self.lexer.report.error(fault, span);
    }

    pub(super) fn line(&self, span: Span) -> usize {
        self.lexer.input.line(span)
    }

    /// Takes this keyword if it is the next token.
    pub(super) fn taken(&mut self, keyword: Keyword) -> bool {
        let found = self.token.kind == Kind::Word(keyword);
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn keyword(&mut self, keyword: Keyword) -> Read<()> {
        if self.taken(keyword) { Ok(()) } else { self.unexpected(format!("\"{}\"", keyword.text())) }
    }

    pub(super) fn sign(&mut self, sign: u8, expected: &str) -> Read<()> {
        if self.token.kind != Kind::Sign(sign) {
            return self.unexpected(expected.to_owned());
        }
        self.advance();
        Ok(())
    }

    /// The next token if it is an unquoted word that is not reserved.
    pub(super) fn plain_word(&self) -> Option<&[u8]> {
        match &self.token.kind {
            Kind::Text { bytes, quoted: false } => Some(bytes),
            _ => None,
        }
    }

    /// `STRING`: exactly one.
    pub(super) fn text(&mut self, expected: &str) -> Read<Text> {
        match &self.token.kind {
            Kind::Text { .. } | Kind::Bad => {
                let token = self.take();
                let (bytes, bad) = match token.kind {
                    Kind::Text { bytes, .. } => (bytes, false),
                    _ => (Vec::new(), true),
                };
                Ok(Text { bytes, span: token.span, bad })
            }
            _ => self.unexpected(expected.to_owned()),
        }
    }

    /// `string`: one or more, joined.
    pub(super) fn texts(&mut self, expected: &str) -> Read<Text> {
        if matches!(self.token.kind, Kind::Word(_) | Kind::Number(_)) {
            return self.unexpected(format!("{expected} in quotes"));
        }
        let mut joined = self.text(expected)?;
        while matches!(self.token.kind, Kind::Text { .. } | Kind::Bad) {
            let next = self.text(expected)?;
            joined.bytes.extend(next.bytes);
            joined.span = joined.span.to(next.span);
            joined.bad |= next.bad;
        }
        Ok(joined)
    }

    pub(super) fn number(&mut self, expected: &str) -> Read<(i64, Span)> {
        match self.token.kind {
            Kind::Number(number) => Ok((number, self.take().span)),
            _ => self.unexpected_but(expected.to_owned(), is_number),
        }
    }

    pub(super) fn end_of_line(&mut self) -> Read<()> {
        match self.token.kind {
            Kind::Newline | Kind::End => Ok(()),
            _ => self.unexpected("the end of the line".to_owned()),
        }
    }

    /// A syntax error at this token, unless the lexer has said what is wrong with it.
    pub(super) fn unexpected<T>(&mut self, expected: String) -> Read<T> {
        // The words that would be right stand in quotes there: every second part.
        let named: Vec<String> = expected.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        self.unexpected_but(expected, |word| named.iter().any(|right| right == word))
    }

    /// The same, where some words and numbers would be right if they stood without quotes.
    fn unexpected_but<T>(&mut self, expected: String, right: impl Fn(&str) -> bool) -> Read<T> {
        if self.token.kind != Kind::Bad {
            let found = self.found(&self.token);
            let span = match self.token.kind {
                // An end is shown behind what came before it.
                Kind::Newline | Kind::End => Span { start: self.last.end, ..self.last },
                _ => self.token.span,
            };
            let slip = self.slip(&self.token, right);
            self.error(Fault::Unexpected { found, expected, slip }, span);
        }
        Err(Stop::SkipLine)
    }

    /// A syntax error: this token begins nothing that may stand here.
    pub(super) fn misplaced<T>(&mut self, block: Block) -> Read<T> {
        let token = self.token.clone();
        self.misplaced_token(&token, block)
    }

    pub(super) fn misplaced_token<T>(&mut self, token: &Token, block: Block) -> Read<T> {
        let word = match &token.kind {
            Kind::Bad => return Err(Stop::SkipLine),
            Kind::Text { bytes, quoted: false } => Some(String::from_utf8_lossy(bytes).into_owned()),
            Kind::Word(keyword) => Some(keyword.text().to_owned()),
            _ => None,
        };
        let fault = match word {
            Some(word) if self.fresh || token.span != self.token.span => Fault::UnknownWord { word, block },
            _ => {
                let slip = self.slip(token, |word| block.has(word.as_bytes()));
                Fault::Unexpected { found: self.found(token), expected: block.one().to_owned(), slip }
            }
        };
        self.error(fault, token.span);
        Err(Stop::SkipLine)
    }

    /// What is behind a token that is not expected. A `$` is a token only where it comes from a macro's value.
    fn slip(&self, token: &Token, right: impl Fn(&str) -> bool) -> Option<Slip> {
        match &token.kind {
            Kind::Sign(b'$') => Some(Slip::DollarInValue),
            Kind::Sign(b'~') => Some(Slip::Tilde),
            Kind::Sign(_) if self.lexer.input.is_mark(token.span) => Some(Slip::ByteOrderMark),
            Kind::Sign(sign) => self.character(*sign, token.span).and_then(model::lookalike).map(Slip::Lookalike),
            Kind::Text { bytes, quoted: true } => {
                let word = std::str::from_utf8(bytes).ok().filter(|word| right(word))?;
                Some(Slip::Quoted(word.to_owned()))
            }
            _ => None,
        }
    }

    /// The character that this byte begins, if it is not one by itself and stands there: one from a macro's value does not.
    fn character(&self, first: u8, span: Span) -> Option<char> {
        let c = self.lexer.input.char_at(span).filter(|c| !c.is_ascii())?;
        (c.encode_utf8(&mut [0; 4]).as_bytes().first() == Some(&first)).then_some(c)
    }

    /// How messages call a token.
    fn found(&self, token: &Token) -> String {
        match &token.kind {
            Kind::Newline | Kind::Bad => "end of line".to_owned(),
            Kind::End => "end of file".to_owned(),
            Kind::Number(number) => format!("number {number}"),
            Kind::Text { bytes, .. } => format!("\"{}\"", String::from_utf8_lossy(bytes)),
            Kind::Word(keyword) => format!("\"{}\"", keyword.text()),
            Kind::Sign(sign) if sign.is_ascii_graphic() => format!("\"{}\"", char::from(*sign)),
            Kind::Sign(sign) => match self.character(*sign, token.span).filter(|c| c.is_alphanumeric()) {
                Some(c) => format!("\"{c}\""),
                None => format!("byte 0x{sign:02x}"),
            },
        }
    }

    /// Whether text that is to go from process to process is UTF-8; what could not be read is not, and was reported.
    pub(super) fn is_utf8(&mut self, text: &Text, what: &str) -> bool {
        if text.bad {
            return false;
        }
        let right = std::str::from_utf8(&text.bytes).is_ok();
        if !right {
            self.error(Fault::NotUtf8 { what: what.to_owned(), text: text.shown() }, text.span);
        }
        right
    }

    /// What a text was read as by the type that knows its rule; `fault` says of the text why it does not hold.
    pub(super) fn checked<T>(
        &mut self,
        text: &Text,
        read: Result<T, NameError>,
        fault: impl FnOnce(NameError, String) -> Fault,
    ) -> Option<T> {
        match read {
            _ if text.bad => None,
            Ok(value) => Some(value),
            Err(why) => {
                self.error(fault(why, text.shown()), text.span);
                None
            }
        }
    }
}

/// Whether this would be a number if it stood without quotes.
fn is_number(word: &str) -> bool {
    let digits = word.strip_prefix('-').unwrap_or(word);
    digits.bytes().all(|byte| byte.is_ascii_digit()) && word.parse::<i64>().is_ok()
}
