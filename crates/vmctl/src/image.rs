//! Makes the image that `create` asked for, with the caller's own rights and no daemon.

use std::path::PathBuf;

use disk::CreateError;
use model::DiskFormat;

use crate::create::{Content, Create};

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
    /// Conversion, which this release cannot do.
    #[error("create: \"{}\": converting with -i is not in this release; use qemu-img(1) convert", .0.display())]
    Convert(PathBuf),
}

/// Makes the image; the answer says what it is.
pub fn make(create: &Create) -> Result<&'static str, ImageError> {
    let path = &create.path;
    match &create.content {
        Content::Copy(_) => Err(ImageError::Convert(path.clone())),
        _ if create.format == DiskFormat::Qcow2 => Err(ImageError::Qcow2(path.clone())),
        Content::Base(_) => Err(ImageError::Qcow2(path.clone())),
        Content::Empty { size } => {
            disk::create_raw(path, *size).map_err(|reason| ImageError::Create { path: path.clone(), reason })?;
            Ok("raw imagefile created")
        }
    }
}
