//! Makes the image that `create` asked for, with the caller's own rights and no daemon.

mod convert;
mod unpack;

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

use disk::CreateError;
use model::DiskFormat;
use proto::failure::plain;

use crate::create::{Content, Create};
use crate::progress::Meter;

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
    /// A format that this release cannot write.
    #[error("create: \"{}\": qcow2 images are not in this release; make a raw one, or use qemu-img(1)", .0.display())]
    Qcow2(PathBuf),
    /// A format that this release cannot read.
    #[error("create: \"{}\": qcow2 images are not in this release; use qemu-img(1) convert", .0.display())]
    FromQcow2(PathBuf),
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
    #[error("\"{}\" {why}", .path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// What it is.
        why: &'static str,
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
    /// By a signal.
    #[error("interrupted; \"{}\" was removed", .0.display())]
    Interrupted(PathBuf),
}

fn has(bytes: &Option<u64>) -> String {
    bytes.map_or_else(|| "more".to_owned(), |bytes| bytes.to_string())
}

/// Makes the image; the answer says what it is, a line each.
pub fn make(create: &Create, lively: bool, err: &mut dyn Write) -> Result<Vec<String>, ImageError> {
    let path = &create.path;
    if create.format == DiskFormat::Qcow2 {
        return Err(ImageError::Qcow2(path.clone()));
    }
    let mut said = Vec::new();
    match &create.content {
        Content::Base(_) => return Err(ImageError::Qcow2(path.clone())),
        Content::Empty { size } => {
            disk::create_raw(path, *size).map_err(|reason| ImageError::Create { path: path.clone(), reason })?;
        }
        Content::Copy { source, size } => {
            let line = format!("copying {}", source.path.display());
            let mut meter = Meter { lively, err, line: &line, told: Instant::now() };
            let rounded = convert::convert(source, *size, path, &mut |done, of| meter.tell(done, of));
            meter.end();
            let rounded = rounded?.map(|megabytes| format!("destination size rounded to {megabytes} megabytes"));
            said.extend(rounded);
        }
    }
    said.push(format!("{} imagefile created", create.format.word()));
    Ok(said)
}
