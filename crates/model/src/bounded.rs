//! Text and lists that can't be longer than their type says, from the first byte decoded.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// UTF-8 text of at most `MAX` bytes.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Text<const MAX: usize>(Box<str>);

/// Why a text or a list was not taken: its length, in bytes or elements, and the most there can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{length} is longer than {max}")]
pub struct TooLong {
    /// What was given.
    pub length: usize,
    /// What the type takes.
    pub max: usize,
}

impl<const MAX: usize> Text<MAX> {
    /// The text, if it fits.
    pub fn new(text: &str) -> Result<Self, TooLong> {
        if text.len() > MAX { Err(TooLong { length: text.len(), max: MAX }) } else { Ok(Self(text.into())) }
    }

    /// The text, cut at the last whole character that fits: for words to a person, never for names.
    pub fn cut(text: &str) -> Self {
        let mut end = text.len().min(MAX);
        while !text.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        Self(text.get(..end).unwrap_or_default().into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> Deref for Text<MAX> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> fmt::Display for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<const MAX: usize> fmt::Debug for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Text<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        Self::new(text).map_err(D::Error::custom)
    }
}

/// At most `MAX` elements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> List<T, MAX> {
    /// Adds one; gives it back when the list is full.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.0.len() >= MAX {
            return Err(item);
        }
        self.0.push(item);
        Ok(())
    }
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MAX: usize> TryFrom<Vec<T>> for List<T, MAX> {
    type Error = TooLong;
    fn try_from(items: Vec<T>) -> Result<Self, TooLong> {
        if items.len() > MAX { Err(TooLong { length: items.len(), max: MAX }) } else { Ok(Self(items)) }
    }
}

impl<T, const MAX: usize> Deref for List<T, MAX> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T, const MAX: usize> DerefMut for List<T, MAX> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T, const MAX: usize> IntoIterator for List<T, MAX> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor::<T, MAX>(PhantomData))
    }
}

struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
    type Value = List<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut list = List::default();
        while let Some(element) = elements.next_element()? {
            list.push(element).map_err(|_| A::Error::custom("too many elements"))?;
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_longer_than_its_type_is_refused_and_cut_keeps_whole_characters() {
        assert_eq!(Text::<3>::new("abcd"), Err(TooLong { length: 4, max: 3 }));
        assert_eq!(Text::<3>::cut("aéé").as_str(), "aé");
        assert_eq!(Text::<0>::cut("é").as_str(), "");
        let wire = postcard::to_stdvec("abcd").unwrap();
        assert!(postcard::from_bytes::<Text<3>>(&wire).is_err());
        assert_eq!(postcard::from_bytes::<Text<4>>(&wire).unwrap().as_str(), "abcd");
    }

    #[test]
    fn text_is_shown_as_it_is_and_in_quotes() {
        let text = Text::<9>::new("a\"b").unwrap();
        assert_eq!((format!("{text:>4}"), format!("{text:?}")), (" a\"b".to_owned(), "\"a\\\"b\"".to_owned()));
    }

    #[test]
    fn a_list_is_filled_up_to_its_length_and_not_beyond() {
        let list = |items: Vec<u8>| List::<u8, 3>::try_from(items);
        assert_eq!(list(vec![1, 2, 3, 4]), Err(TooLong { length: 4, max: 3 }));
        let mut three = list(vec![1, 2, 3]).unwrap();
        three[0] = 9;
        assert_eq!(three.clone().into_iter().collect::<Vec<_>>(), [9, 2, 3]);
        assert_eq!((three.push(4), list(vec![1, 2]).unwrap().push(3)), (Err(4), Ok(())));
        assert_eq!(list(vec![]), Ok(List::default()));
    }

    #[test]
    fn what_is_not_a_list_is_told_from_one() {
        let error = serde::de::value::StrDeserializer::<serde::de::value::Error>::new("x");
        let error = List::<u8, 3>::deserialize(error).unwrap_err();
        assert_eq!(error.to_string(), "invalid type: string \"x\", expected at most 3 elements");
    }

    #[test]
    fn a_list_that_claims_a_huge_length_allocates_nothing_for_it() {
        let wire = [0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3];
        assert!(postcard::from_bytes::<List<u8, 16>>(&wire).is_err());
        let wire = postcard::to_stdvec(&vec![1u8, 2, 3]).unwrap();
        assert!(postcard::from_bytes::<List<u8, 2>>(&wire).is_err());
        assert_eq!(&*postcard::from_bytes::<List<u8, 3>>(&wire).unwrap(), [1, 2, 3]);
    }
}
