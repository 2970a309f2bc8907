//! Words of users: ids, sizes and counts, with the messages of the original (openbsd/vmctl.md, 2).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use config::size::{self, MIB, SizeError};
use model::{MAX_NAME, MAX_PATH, MemoryError, MemorySize, NameError, UserPath, VmName};
use proto::client::VmRef;

use crate::getopt::OptionError;

/// Why a word is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// A name of more than 63 bytes.
    #[error("name too long: at most {MAX_NAME} bytes\nvmctl: invalid id: {0}")]
    IdTooLong(String),
    /// Neither a number nor a name.
    #[error("invalid id: {0}: {1}")]
    Id(String, NameError),
    /// A new VM's name with a character that it may not have.
    #[error("invalid VM name: \"{0}\": {1}; use letters, digits, \".\", \"-\" and \"_\", the first a letter or digit")]
    VmName(String, NameError),
    /// No size.
    #[error("invalid {what} size: {word}: {reason}; give a number with B, K, M, G or T")]
    Size {
        /// `memory` or `disk`.
        what: &'static str,
        /// As given.
        word: String,
        /// Why.
        reason: SizeError,
    },
    /// A size below 1 MiB.
    #[error("{what} size must be at least 1MB: {word}; a number alone is bytes, so write it with M or G")]
    Small {
        /// `memory` or `disk`.
        what: &'static str,
        /// As given.
        word: String,
    },
    /// More memory than a VM can have.
    #[error("memory size too large (limit is 128G): {0}")]
    Large(String),
    /// A count out of its range, or none.
    #[error("{what} is {reason}: {word}; give {least} to {most}")]
    Count {
        /// What is counted.
        what: &'static str,
        /// `too small`, `too large` or `invalid`.
        reason: &'static str,
        /// As given.
        word: String,
        /// The least.
        least: i64,
        /// The most.
        most: i64,
    },
    /// A path that no message can carry.
    #[error("path too long (at most {MAX_PATH} bytes) or not UTF-8: {0}")]
    Path(String),
}

/// What is wrong with a command's arguments.
#[derive(Debug)]
pub(crate) enum Wrong {
    /// Their number or kind: the usage says it.
    Usage,
    /// An option; then the usage.
    Option(OptionError),
    /// A value: its message says it.
    Said(String),
    /// A message without the program's name, then the usage.
    SaidAndUsage(String),
}

impl From<OptionError> for Wrong {
    fn from(error: OptionError) -> Self {
        Self::Option(error)
    }
}

impl From<WordError> for Wrong {
    fn from(error: WordError) -> Self {
        Self::Said(error.to_string())
    }
}

/// Characters of a word that are shown: more than any that is right has.
const MAX_SHOWN: usize = 1100;

/// A word as it is shown.
pub fn shown(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.into_owned(),
    }
}

/// An id as the original reads one: a number if the whole word converts, else a name.
pub fn vm_ref(word: &OsStr) -> Result<VmRef, WordError> {
    match number(word) {
        Some(number) => Ok(VmRef::Id(number)),
        None => name(word).map(VmRef::Name),
    }
}

/// A word that is a VM's name whatever it looks like.
pub fn name(word: &OsStr) -> Result<VmName, WordError> {
    VmName::new(word.to_string_lossy().as_bytes()).map_err(|error| match error {
        NameError::TooLong(_) => WordError::IdTooLong(shown(word)),
        error => WordError::Id(shown(word), error),
    })
}

/// The number 0 to 2^32 - 1 that a word is, blanks and a sign before it allowed.
pub fn number(word: &OsStr) -> Option<u32> {
    let text = word.to_str()?.trim_start();
    let digits = text.strip_prefix('+').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

/// A size in whole MiB, and whether it was rounded down to that.
fn mebibytes(what: &'static str, word: &OsStr) -> Result<(u64, bool), WordError> {
    let failed = |reason| WordError::Size { what, word: shown(word), reason };
    let bytes = size::scan(word.as_bytes()).map_err(failed)?;
    let bytes = u64::try_from(bytes).ok().filter(|bytes| *bytes >= MIB);
    let bytes = bytes.ok_or_else(|| WordError::Small { what, word: shown(word) })?;
    let whole = bytes & !(MIB - 1);
    Ok((whole, whole != bytes))
}

/// The argument of `-m`, and a warning when it was rounded.
pub fn memory(word: &OsStr) -> Result<(MemorySize, Option<String>), WordError> {
    let (bytes, rounded) = mebibytes("memory", word)?;
    let signed = i64::try_from(bytes).unwrap_or(i64::MAX);
    match MemorySize::from_bytes(signed) {
        Ok(size) if size < MemorySize::MAX || !rounded => {
            Ok((size, rounded.then(|| format!("memory size rounded to {}", size::format(bytes)))))
        }
        Ok(_) | Err(MemoryError::TooLarge) => Err(WordError::Large(shown(word))),
        Err(MemoryError::TooSmall) => Err(WordError::Small { what: "memory", word: shown(word) }),
    }
}

/// The argument of `-s`: bytes, and a warning when it was rounded.
pub fn disk(word: &OsStr) -> Result<(u64, Option<String>), WordError> {
    let (bytes, rounded) = mebibytes("disk", word)?;
    Ok((bytes, rounded.then(|| format!("disk size rounded to {}", size::format(bytes)))))
}

/// A decimal number as strtonum(3) takes it, with its three reasons.
pub fn count(what: &'static str, word: &OsStr, least: i64, most: i64) -> Result<i64, WordError> {
    let failed = |reason| WordError::Count { what, reason, word: shown(word), least, most };
    let text = word.to_str().unwrap_or_default().trim_start();
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(failed("invalid"));
    }
    match text.parse::<i64>() {
        Ok(number) if number < least => Err(failed("too small")),
        Ok(number) if number <= most => Ok(number),
        Err(_) if text.starts_with('-') => Err(failed("too small")),
        _ => Err(failed("too large")),
    }
}

/// A path that goes to the daemon.
pub fn path(word: &OsStr) -> Result<UserPath, WordError> {
    let text = word.to_str().and_then(|text| UserPath::new(text).ok());
    text.ok_or_else(|| WordError::Path(shown(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(word: &str) -> Result<VmRef, String> {
        vm_ref(OsStr::new(word)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_word_that_converts_whole_is_a_number() {
        for (word, number) in [("0", 0), ("7", 7), (" 7", 7), ("+7", 7), ("4294967295", u32::MAX)] {
            assert_eq!(id(word), Ok(VmRef::Id(number)), "{word:?}");
        }
    }

    #[test]
    fn any_other_word_is_a_name() {
        for word in ["web", "7a", "4294967296", &"x".repeat(63)] {
            assert_eq!(id(word), Ok(VmRef::Name(VmName::new(word).expect("a name"))), "{word:?}");
        }
    }

    #[test]
    fn words_that_are_neither_are_invalid_ids() {
        for (word, reason) in [
            ("", "is empty"),
            ("-7", "begins with '-'"),
            ("-", "begins with '-'"),
            (".x", "begins with '.'"),
            ("a b", "has the character ' '"),
            ("+", "has the character '+'"),
            ("é", "has the character 'é'"),
        ] {
            assert_eq!(id(word), Err(format!("invalid id: {word}: name {reason}")));
        }
        let long = "x".repeat(64);
        assert_eq!(id(&long), Err(format!("name too long: at most 63 bytes\nvmctl: invalid id: {long}")));
    }

    #[test]
    fn memory_sizes_follow_the_specification() {
        let memory = |word: &str| {
            let read = memory(OsStr::new(word)).map_err(|error| error.to_string());
            read.map(|(size, rounded)| (size.bytes(), rounded))
        };
        assert_eq!(memory("512M"), Ok((512 * MIB, None)));
        assert_eq!(memory("1.5m"), Ok((MIB, Some("memory size rounded to 1.0M".into()))));
        assert_eq!(
            memory("x"),
            Err("invalid memory size: x: Invalid argument; give a number with B, K, M, G or T".into())
        );
        assert_eq!(
            memory("9E"),
            Err("invalid memory size: 9E: Result too large; give a number with B, K, M, G or T".into())
        );
        let small = |word: &str| Err(WordError::Small { what: "memory", word: word.to_owned() }.to_string());
        assert_eq!(memory("512"), small("512"));
        assert_eq!(memory("-1G"), small("-1G"));
        assert_eq!(memory("128G"), Ok((128 * 1024 * MIB, None)));
        assert_eq!(memory("129G"), Err("memory size too large (limit is 128G): 129G".into()));
    }

    #[test]
    fn disk_sizes_have_no_upper_limit() {
        let disk = |word: &str| disk(OsStr::new(word)).map_err(|error| error.to_string());
        assert_eq!(disk("4P"), Ok((4 << 50, None)));
        assert_eq!(disk("1048577"), Ok((MIB, Some("disk size rounded to 1.0M".into()))));
        assert_eq!(
            disk("1B"),
            Err("disk size must be at least 1MB: 1B; a number alone is bytes, so write it with M or G".into())
        );
    }

    #[test]
    fn counts_are_refused_with_the_reasons_of_strtonum() {
        let count = |word: &str| count("count", OsStr::new(word), 1, 64).map_err(|error| error.to_string());
        assert_eq!(count("64"), Ok(64));
        for (word, reason) in [
            ("0", "too small"),
            ("-9", "too small"),
            ("65", "too large"),
            ("x", "invalid"),
            ("", "invalid"),
            ("1x", "invalid"),
        ] {
            assert_eq!(count(word), Err(format!("count is {reason}: {word}; give 1 to 64")));
        }
        assert_eq!(count(&"9".repeat(30)), Err(format!("count is too large: {}; give 1 to 64", "9".repeat(30))));
        assert_eq!(
            count(&format!("-{}", "9".repeat(30))),
            Err(format!("count is too small: -{}; give 1 to 64", "9".repeat(30)))
        );
    }

    #[test]
    fn a_word_without_end_is_cut_where_it_is_shown() {
        let word = "x".repeat(100_000);
        let text = vm_ref(OsStr::new(&word)).expect_err("too long").to_string();
        assert!(text.len() < 1200 && text.ends_with("x..."), "{} bytes", text.len());
    }
}
