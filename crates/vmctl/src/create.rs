//! `create`: its arguments (openbsd/vmctl.md, 4). `image` makes what they say.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use model::DiskFormat;

use crate::getopt;
use crate::image::Packing;
use crate::words::{self, Wrong};

/// An image to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// Where.
    pub path: PathBuf,
    /// Its format, from prefix or extension.
    pub format: DiskFormat,
    /// What is in it.
    pub content: Content,
    /// That the size was rounded.
    pub warning: Option<String>,
}

/// What a new image holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Zeros.
    Empty {
        /// Bytes, whole MiB.
        size: u64,
    },
    /// What differs from a base, of which there is nothing yet.
    Base {
        /// Its name as it is recorded, and what it is. It is never unpacked.
        base: Source,
        /// Bytes of the new image, if not as many as the base has.
        size: Option<u64>,
    },
    /// Another image's contents.
    Copy {
        /// Where from.
        source: Source,
        /// Bytes of the new image, if not as many as the source has.
        size: Option<u64>,
    },
}

/// A disk to be read, as a user names one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where.
    pub path: PathBuf,
    /// Its format, from prefix or extension.
    pub format: DiskFormat,
    /// Whether either said so.
    pub called: bool,
    /// How it is packed. A prefix says what the file is itself, so that one with a prefix is not.
    pub packing: Option<Packing>,
}

impl Source {
    /// One that is read as it is.
    pub fn as_it_is(word: &OsStr) -> Self {
        let (named, path) = model::split_prefix(word.as_bytes());
        let path = Path::new(OsStr::from_bytes(path)).to_owned();
        let said = named.or_else(|| DiskFormat::of_extension(&path));
        Self { format: said.unwrap_or(DiskFormat::Raw), called: said.is_some(), packing: None, path }
    }

    fn new(word: &OsStr) -> Self {
        let (named, path) = model::split_prefix(word.as_bytes());
        let path = Path::new(OsStr::from_bytes(path)).to_owned();
        let packed = Packing::of_path(&path).filter(|_| named.is_none());
        let (packing, inner) = packed.map_or((None, path.as_path()), |(packing, inner)| (Some(packing), inner));
        let said = named.or_else(|| DiskFormat::of_extension(inner));
        Self { format: said.unwrap_or(DiskFormat::Raw), called: said.is_some(), packing, path }
    }
}

/// `[-b base | -i disk] [-s size] disk`
pub(crate) fn parse(arguments: &[OsString]) -> Result<Create, Wrong> {
    let parsed = getopt::parse("b:i:s:", arguments)?;
    let (mut base, mut input, mut size, mut warning) = (None, None, None, None);
    for (letter, value) in parsed.options {
        match letter {
            'b' => base = Some(value),
            'i' => input = Some(value),
            _ => {
                let (bytes, rounded) = words::disk(&value)?;
                (size, warning) = (Some(bytes), rounded);
            }
        }
    }
    let [word] = <[OsString; 1]>::try_from(parsed.operands).map_err(|_| Wrong::Usage)?;
    let (format, path) = model::split_prefix(word.as_bytes());
    let path = Path::new(OsStr::from_bytes(path)).to_owned();
    let format = format.unwrap_or_else(|| DiskFormat::of_path(&path));
    let content = match (base, input, size) {
        (Some(_), Some(_), _) => return Err(Wrong::Said("conflicting -b and -i arguments".to_owned())),
        (Some(_), None, _) if format != DiskFormat::Qcow2 => {
            return Err(Wrong::Said("base images require qcow2 disk format".to_owned()));
        }
        (Some(base), None, size) => Content::Base { base: Source::as_it_is(&base), size },
        (None, Some(input), size) => Content::Copy { source: Source::new(&input), size },
        (None, None, Some(size)) => Content::Empty { size },
        (None, None, None) => {
            let path = path.display();
            return Err(Wrong::SaidAndUsage(format!("could not create {path}: missing size argument")));
        }
    };
    Ok(Create { path, format, content, warning })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_unpacked_by_its_extension_unless_a_prefix_says_what_it_is() {
        use DiskFormat::{Qcow2, Raw};
        for (word, path, format, called, packing) in [
            ("a", "a", Raw, false, None),
            ("a.raw", "a.raw", Raw, true, None),
            ("qcow2:a", "a", Qcow2, true, None),
            ("d/a.qcow2.gz", "d/a.qcow2.gz", Qcow2, true, Some(Packing::Gzip)),
            ("a.img.XZ", "a.img.XZ", Raw, false, Some(Packing::Xz)),
            ("raw:a.qcow2.zst", "a.qcow2.zst", Raw, true, None),
        ] {
            let source = Source { path: path.into(), format, called, packing };
            assert_eq!(Source::new(OsStr::new(word)), source, "{word}");
        }
    }
}
