//! Which format an image is taken for: the word or prefix that a user gave, else the extension, else raw. Never its
//! contents, which a guest could have written (openbsd/devices.md, 3.5). Pure.

use std::path::Path;

/// The first four bytes of a qcow2 image (QEMU, docs/interop/qcow2.rst, "Header").
pub const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// The formats that images have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The disk's bytes and nothing else.
    Raw,
    /// QEMU's copy on write, version 2 or 3.
    Qcow2,
}

impl Format {
    /// The word for it in vm.conf, on command lines, and as an extension.
    pub fn word(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }

    /// The format of that name, in small or capital letters.
    pub fn from_word(word: &str) -> Option<Format> {
        [Format::Raw, Format::Qcow2].into_iter().find(|format| format.word().eq_ignore_ascii_case(word))
    }

    /// The format that a file's name tells; raw where it tells none.
    pub fn from_extension(path: &Path) -> Format {
        path.extension().and_then(|word| word.to_str()).and_then(Format::from_word).unwrap_or(Format::Raw)
    }
}

/// Takes `raw:` or `qcow2:` off the front of what a user typed.
pub fn split_prefix(typed: &str) -> (Option<Format>, &str) {
    match typed.split_once(':') {
        Some(("raw", path)) => (Some(Format::Raw), path),
        Some(("qcow2", path)) => (Some(Format::Qcow2), path),
        _ => (None, typed),
    }
}

/// Why an image is not taken for raw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the image begins like a qcow2 image and was not called raw; add \"format qcow2\" or \"format raw\"")]
pub struct RawError;

/// Whether an image whose first bytes are `header` may be taken for raw. `said` is true when the user named the format:
/// then he may have what he named. A guest that writes a qcow2 header to its raw disk gains nothing: the disk is
/// refused, and never read as qcow2 (openbsd/devices.md, Q21).
pub fn check_raw(header: &[u8], said: bool) -> Result<(), RawError> {
    if !said && header.starts_with(&QCOW2_MAGIC) { Err(RawError) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_tells_in_any_letters_and_raw_is_the_rest() {
        for (name, format) in [
            ("a.qcow2", Format::Qcow2),
            ("a.QCow2", Format::Qcow2),
            ("a.raw", Format::Raw),
            ("a.img", Format::Raw),
            ("qcow2", Format::Raw),
            (".qcow2", Format::Raw),
            ("a.qcow2.bak", Format::Raw),
        ] {
            assert_eq!(Format::from_extension(Path::new(name)), format, "{name}");
        }
    }

    #[test]
    fn only_a_known_prefix_is_taken_off() {
        assert_eq!(split_prefix("qcow2:/a:b"), (Some(Format::Qcow2), "/a:b"));
        assert_eq!(split_prefix("raw:x"), (Some(Format::Raw), "x"));
        assert_eq!(split_prefix("nbd:x"), (None, "nbd:x"));
        assert_eq!(split_prefix("/a"), (None, "/a"));
    }

    #[test]
    fn what_begins_like_qcow2_is_raw_only_when_the_user_said_so() {
        let mut header = *b"QFI\xfb\0\0\0\x03";
        assert_eq!(check_raw(&header, false), Err(RawError));
        assert_eq!(check_raw(&header, true), Ok(()));
        assert_eq!(check_raw(&header[..4], false), Err(RawError));
        assert_eq!(check_raw(&header[..3], false), Ok(()));
        assert_eq!(check_raw(&[], false), Ok(()));
        header[3] = 0;
        assert_eq!(check_raw(&header, false), Ok(()));
    }
}
