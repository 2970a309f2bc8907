//! One line of a file as characters, for messages: columns and cuttings of it, without reading the line anew for
//! each. A line may have as many errors as words.

/// Characters from one mark to the next: so many are read for a column at most.
const STRIDE: usize = 256;

/// The most bytes of a character; what is no character is shorter.
const WIDEST: usize = 4;

/// A line without its end. What is not UTF-8 counts as one character each time.
pub(crate) struct Line<'a> {
    bytes: &'a [u8],
    /// Where every [`STRIDE`]th character begins.
    marks: Vec<usize>,
    /// Characters.
    length: usize,
}

impl<'a> Line<'a> {
    /// Reads the line once.
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut marks = Vec::new();
        let mut length = 0_usize;
        let mut begin = 0_usize;
        for letter in letters(bytes) {
            if length.is_multiple_of(STRIDE) {
                marks.push(begin);
            }
            length = length.saturating_add(1);
            begin = begin.saturating_add(letter.bytes);
        }
        Self { bytes, marks, length }
    }

    /// Its characters.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Where its marks lie in memory: those of another reading lie elsewhere.
    #[cfg(test)]
    pub fn marks(&self) -> *const usize {
        self.marks.as_ptr()
    }

    /// Characters before a byte.
    pub fn column(&self, at: usize) -> usize {
        let at = at.min(self.bytes.len());
        let mark = self.marks.partition_point(|begin| *begin <= at).saturating_sub(1);
        let begin = self.marks.get(mark).copied().unwrap_or(0);
        let rest = letters(self.bytes.get(begin..at).unwrap_or_default()).count();
        mark.saturating_mul(STRIDE).saturating_add(rest)
    }

    /// Characters from one byte to another, of which more than `most` are not counted.
    pub fn width(&self, from: usize, to: usize, most: usize) -> usize {
        let to = to.min(self.bytes.len()).min(from.saturating_add(most.saturating_mul(WIDEST)));
        letters(self.bytes.get(from..to).unwrap_or_default()).take(most).count()
    }

    /// At most so many characters, behind the first ones.
    pub fn cut(&self, first: usize, most: usize) -> impl Iterator<Item = char> + '_ {
        let begin = self.marks.get(first / STRIDE).copied().unwrap_or(self.bytes.len());
        let skipped = first % STRIDE;
        let room = skipped.saturating_add(most).saturating_mul(WIDEST);
        let end = self.bytes.len().min(begin.saturating_add(room));
        letters(self.bytes.get(begin..end).unwrap_or_default()).skip(skipped).take(most).map(|letter| letter.value)
    }
}

struct Letter {
    value: char,
    bytes: usize,
}

fn letters(bytes: &[u8]) -> impl Iterator<Item = Letter> + '_ {
    bytes.utf8_chunks().flat_map(|chunk| {
        let invalid = chunk.invalid().len();
        let bad = (invalid > 0).then_some(Letter { value: char::REPLACEMENT_CHARACTER, bytes: invalid });
        chunk.valid().chars().map(|value| Letter { value, bytes: value.len_utf8() }).chain(bad)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The whole line, read anew.
    fn naive(bytes: &[u8]) -> Vec<char> {
        String::from_utf8_lossy(bytes).chars().collect()
    }

    fn agrees(bytes: &[u8]) {
        let line = Line::new(bytes);
        let letters = naive(bytes);
        assert_eq!(line.length(), letters.len());
        for at in 0..=bytes.len() {
            assert_eq!(line.column(at), naive(&bytes[..at]).len(), "byte {at}");
            for most in [0, 1, 2, 160] {
                let expected: Vec<char> = letters.iter().copied().skip(at).take(most).collect();
                assert_eq!(line.cut(at, most).collect::<Vec<_>>(), expected, "{most} from {at}");
                let to = bytes.len().min(at + 7);
                assert_eq!(line.width(at, to, most), naive(&bytes[at..to]).len().min(most), "{most} of {at} to {to}");
            }
        }
        assert_eq!((line.column(usize::MAX), line.cut(usize::MAX, 1).count()), (letters.len(), 0));
    }

    #[test]
    fn columns_and_cuttings_are_those_of_the_whole_line_around_each_mark() {
        for length in [0, 1, 255, 256, 257, 511, 512, 513, 700] {
            agrees("x".repeat(length).as_bytes());
            agrees("é".repeat(length).as_bytes());
        }
        agrees("🦀".repeat(300).as_bytes());
        agrees(&[&b"\xff"[..], "é🦀\t".as_bytes(), b"\xf0\x9f\xa6", b"x"].concat().repeat(100));
    }

    #[test]
    fn a_mark_stands_at_every_256th_character() {
        let line = "aé".repeat(300);
        assert_eq!(Line::new(line.as_bytes()).marks, [0, 384, 768]);
        assert!(Line::new(b"").marks.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_line_is_as_it_is_when_it_is_read_anew(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            agrees(&bytes);
        }
    }
}
