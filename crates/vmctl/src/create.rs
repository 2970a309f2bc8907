//! `create`: its arguments (openbsd/vmctl.md, 4). `image` makes what they say.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use model::DiskFormat;

use crate::getopt;
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
    Base(OsString),
    /// Another image's contents.
    Copy(OsString),
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
        (Some(base), None, _) => Content::Base(base),
        (None, Some(input), _) => Content::Copy(input),
        (None, None, Some(size)) => Content::Empty { size },
        (None, None, None) => {
            let path = path.display();
            return Err(Wrong::SaidAndUsage(format!("could not create {path}: missing size argument")));
        }
    };
    Ok(Create { path, format, content, warning })
}
