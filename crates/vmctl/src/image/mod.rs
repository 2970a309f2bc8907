//! `create` and `image`: makes images and looks at them, with the caller's own rights and no daemon.

mod chain;
mod convert;
mod inspect;
mod resize;
mod unpack;

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use disk::qcow2::check::CheckError;
use disk::qcow2::{Backing, MAX_CHAIN, ResizeError, WriteError, Writer};
use disk::{CreateError, NewFile};
use model::DiskFormat;
use proto::failure::plain;

use crate::create::{Content, Create, Source};
use crate::progress::Meter;
use chain::ChainError;

pub use inspect::info;
pub use resize::resize;
pub use unpack::Packing;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file could not be made.
    #[error("create imagefile operation failed: \"{}\": {reason}", .path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: CreateError,
    },
    /// It was made, and could not become a qcow2 image.
    #[error("create imagefile operation failed: \"{}\": {reason}", .path.display())]
    Qcow2 {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: WriteError,
    },
    /// A step of a copy, in the original's words.
    #[error("{what}: \"{}\": {}", .path.display(), plain(.error))]
    Step {
        /// What failed.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A source that can't be copied.
    #[error("failed to open source image file: {0}")]
    Source(ChainError),
    /// A base that no image can stand on.
    #[error("failure to read base image header: {error}{}", .hint.as_deref().unwrap_or_default())]
    Base {
        /// Which file of its chain, and why.
        error: ChainError,
        /// Where it may be instead.
        hint: Option<String>,
    },
    /// A base's name that can't be recorded.
    #[error("base image name \"{}\" is {why}", .name.display())]
    BaseName {
        /// The name.
        name: PathBuf,
        /// What it is.
        why: &'static str,
    },
    /// A base with more bytes than the image on top of it.
    #[error("base size does not match requested size: \"{}\" has {bytes} bytes, more than {size}", .path.display())]
    BaseLarger {
        /// The base.
        path: PathBuf,
        /// Its bytes.
        bytes: u64,
        /// The size that was asked for.
        size: u64,
    },
    /// A source with more bytes than its copy is to have.
    #[error("size cannot be smaller than input disk size: {size}, and \"{}\" has {}", .path.display(), has(.bytes))]
    Smaller {
        /// The size that was asked for.
        size: u64,
        /// The source.
        path: PathBuf,
        /// Its bytes, where they are known.
        bytes: Option<u64>,
    },
    /// An image that can't be looked at.
    #[error("image {what}: {error}")]
    Look {
        /// `info`, `check` or `resize`.
        what: &'static str,
        /// Which file, and why.
        error: ChainError,
    },
    /// An image that can't become larger.
    #[error("image resize: \"{}\": {reason}", .path.display())]
    Resize {
        /// The image.
        path: PathBuf,
        /// Why.
        reason: ResizeError,
    },
    /// One whose base would show in what is new.
    #[error("image resize: \"{}\": its base is larger, and would show; copy it with vmctl create -i", .0.display())]
    BaseShows(PathBuf),
    /// A check that has no result.
    #[error("image check: \"{}\": {reason}", .path.display())]
    Check {
        /// The image.
        path: PathBuf,
        /// Why.
        reason: CheckError,
    },
    /// By a signal.
    #[error("interrupted; \"{}\" was removed", .0.display())]
    Interrupted(PathBuf),
}

fn has(bytes: &Option<u64>) -> String {
    bytes.map_or_else(|| "more".to_owned(), |bytes| bytes.to_string())
}

fn step(what: &'static str, path: &Path, error: io::Error) -> ImageError {
    ImageError::Step { what, path: path.to_owned(), error }
}

/// Makes the image; the answer says what it is, a line each.
pub fn make(create: &Create, lively: bool, err: &mut dyn Write) -> Result<Vec<String>, ImageError> {
    let mut said = Vec::new();
    match (&create.content, create.format) {
        (Content::Empty { size }, DiskFormat::Raw) => {
            let failed = |reason| ImageError::Create { path: create.path.clone(), reason };
            disk::create_raw(&create.path, *size).map_err(failed)?;
        }
        (Content::Empty { size }, DiskFormat::Qcow2) => qcow2(&create.path, *size, None)?,
        (Content::Base { base, size }, _) => {
            let bytes = size_on(base, *size, &create.path)?;
            let backing = Backing { name: base.path.as_os_str().as_bytes().to_vec(), format: Some(base.format) };
            qcow2(&create.path, bytes, Some(backing))?;
        }
        (Content::Copy { source, size }, _) => {
            let line = format!("copying {}", source.path.display());
            let mut meter = Meter { lively, err, line: &line, told: Instant::now() };
            let rounded = convert::convert(create, source, *size, &mut |done, of| meter.tell(done, of));
            meter.end();
            let rounded = rounded?.map(|megabytes| format!("destination size rounded to {megabytes} megabytes"));
            said.extend(rounded);
        }
    }
    said.push(format!("{} imagefile created", create.format.word()));
    Ok(said)
}

/// What a check of an image says, and whether the image is right then but for leaks.
pub fn check(
    image: &Source,
    repair: bool,
    json: bool,
    lively: bool,
    err: &mut dyn Write,
) -> Result<(String, bool), ImageError> {
    let line = format!("checking {}", image.path.display());
    let mut meter = Meter { lively, err, line: &line, told: Instant::now() };
    let checked = inspect::check(image, repair, json, &mut |done, of| meter.tell(done, of));
    meter.end();
    checked
}

/// A qcow2 image in which nothing is written yet.
fn qcow2(path: &Path, size: u64, backing: Option<Backing>) -> Result<(), ImageError> {
    let new = NewFile::make(path).map_err(|reason| ImageError::Create { path: path.to_owned(), reason })?;
    let failed = |reason| ImageError::Qcow2 { path: path.to_owned(), reason };
    Writer::begin(new.file(), Some(size), backing).and_then(|writer| writer.finish(size)).map_err(failed)?;
    new.keep();
    Ok(())
}

const COLON: &str = "taken for a protocol because of its colon; write \"./\" before it";

/// The bytes of an image at `path` on top of a base, as many as that has where no size was asked for. The base is looked for
/// where whoever opens the image will: beside it.
fn size_on(base: &Source, size: Option<u64>, path: &Path) -> Result<u64, ImageError> {
    let place = disk::path_of_base(path, base.path.as_os_str().as_bytes()).map_err(|_| {
        let empty = base.path.as_os_str().is_empty();
        let why = if empty { "empty; name the file" } else { COLON };
        ImageError::BaseName { name: base.path.clone(), why }
    })?;
    let opened = chain::open(&place, base.format, base.called, MAX_CHAIN - 1).map_err(|error| {
        let elsewhere = error.path == place && place != base.path && !place.exists() && base.path.exists();
        let hint = "; a name that is not absolute is relative to the directory of the new image".to_owned();
        ImageError::Base { error, hint: elsewhere.then_some(hint) }
    })?;
    let bytes = opened.first().map_or(0, |link| link.size);
    match size {
        None => Ok(bytes),
        Some(size) if size >= bytes => Ok(size),
        Some(size) => Err(ImageError::BaseLarger { path: place, bytes, size }),
    }
}
