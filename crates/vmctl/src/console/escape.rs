//! What typed bytes mean: data, or `~` at the beginning of a line and what follows it, as in cu(1). Pure.
//!
//! ```text
//!           CR, LF                '~'              '.' -> leave, '#' -> break,
//!  Middle ----------> LineBegin ------> Tilde ---> '~' -> one '~', other -> '~' and it
//!     ^---------------- other             |
//!     ^-----------------------------------'
//! ```

/// Where in a line the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    LineBegin,
    Tilde,
    Middle,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Send these bytes to the guest.
    Send(Vec<u8>),
    /// A break is wanted.
    Break,
    /// Leave; what follows was not meant for the guest.
    Leave,
}

/// Reads what is typed.
#[derive(Debug)]
pub struct Escapes {
    state: State,
}

impl Escapes {
    /// At the beginning of a line.
    pub fn new() -> Self {
        Self { state: State::LineBegin }
    }

    /// What these bytes mean, in order.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<Meaning> {
        let mut meanings = Vec::new();
        let mut data = Vec::new();
        for byte in bytes {
            let meaning = match (self.state, byte) {
                (State::LineBegin, b'~') => {
                    self.state = State::Tilde;
                    continue;
                }
                (State::Tilde, b'.') => Meaning::Leave,
                (State::Tilde, b'#') => Meaning::Break,
                (state, byte) => {
                    if state == State::Tilde && *byte != b'~' {
                        data.push(b'~');
                    }
                    data.push(*byte);
                    self.state = if matches!(byte, b'\r' | b'\n') { State::LineBegin } else { State::Middle };
                    continue;
                }
            };
            self.state = State::LineBegin;
            if !data.is_empty() {
                meanings.push(Meaning::Send(std::mem::take(&mut data)));
            }
            let left = meaning == Meaning::Leave;
            meanings.push(meaning);
            if left {
                return meanings;
            }
        }
        if !data.is_empty() {
            meanings.push(Meaning::Send(data));
        }
        meanings
    }

    /// The bytes held back when no more will come.
    pub fn rest(&mut self) -> Option<Vec<u8>> {
        let held = self.state == State::Tilde;
        self.state = State::Middle;
        held.then(|| b"~".to_vec())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Vec<Meaning> {
        Escapes::new().read(text.as_bytes())
    }

    fn sent(text: &str) -> Meaning {
        Meaning::Send(text.as_bytes().to_vec())
    }

    #[test]
    fn tilde_dot_leaves_at_the_beginning_of_a_line_only() {
        assert_eq!(read("~."), [Meaning::Leave]);
        assert_eq!(read("ls\r~.more"), [sent("ls\r"), Meaning::Leave]);
        assert_eq!(read("ls\n~."), [sent("ls\n"), Meaning::Leave]);
        assert_eq!(read("ls ~."), [sent("ls ~.")]);
    }

    #[test]
    fn two_tildes_are_one_and_the_line_has_begun() {
        assert_eq!(read("~~."), [sent("~.")]);
        assert_eq!(read("\r~~~."), [sent("\r~~.")]);
    }

    #[test]
    fn tilde_hash_is_a_break_and_the_line_begins_again() {
        assert_eq!(read("~#~."), [Meaning::Break, Meaning::Leave]);
        assert_eq!(read("a\r~#b"), [sent("a\r"), Meaning::Break, sent("b")]);
        assert_eq!(read("a~#"), [sent("a~#")]);
    }

    #[test]
    fn tilde_before_anything_else_is_data() {
        assert_eq!(read("~/bin\r"), [sent("~/bin\r")]);
        assert_eq!(read("~\r~."), [sent("~\r"), Meaning::Leave]);
    }

    #[test]
    fn escapes_are_found_across_reads_and_a_held_tilde_is_given_at_the_end() {
        let mut escapes = Escapes::new();
        assert_eq!(escapes.read(b"~"), []);
        assert_eq!(escapes.read(b"."), [Meaning::Leave]);
        assert_eq!(escapes.read(b"~"), []);
        assert_eq!((escapes.rest(), escapes.rest()), (Some(b"~".to_vec()), None));
    }

    proptest! {
        #[test]
        fn bytes_without_tildes_pass_unchanged_however_they_are_cut(
            chunks in proptest::collection::vec("[^~]{0,9}", 0..9),
        ) {
            let mut escapes = Escapes::new();
            let mut passed = Vec::new();
            for meaning in chunks.iter().flat_map(|chunk| escapes.read(chunk.as_bytes())) {
                match meaning {
                    Meaning::Send(bytes) => passed.extend(bytes),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert_eq!(passed, chunks.concat().into_bytes());
        }
    }
}
