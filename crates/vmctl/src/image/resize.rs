//! `image resize`: makes a disk larger.

use std::io::{Seek, SeekFrom};

use disk::qcow2::{self, MAX_CHAIN, ResizeError};
use model::DiskFormat;

use super::ImageError;
use super::chain::{self, ChainError, Why};
use crate::create::Source;

/// Makes an image so many bytes large. What it has stays, and what is new is zero.
pub fn resize(image: &Source, size: u64) -> Result<(), ImageError> {
    let path = &image.path;
    let not_opened = |why| ImageError::Look { what: "resize", error: ChainError { path: path.clone(), why } };
    let mut file = chain::open_to_write(path).map_err(not_opened)?;
    let len = file.seek(SeekFrom::End(0)).and_then(|len| file.rewind().map(|()| len));
    let len = len.map_err(|error| not_opened(Why::Io(error)))?;
    // The same open file: its lock is ours already.
    let again = file.try_clone().map_err(|error| not_opened(Why::Io(error)))?;
    let links = chain::open_on((again, len), path, image.format, image.called, MAX_CHAIN);
    let links = links.map_err(|error| ImageError::Look { what: "resize", error })?;
    let old = links.first().map_or(0, |link| link.size);
    if links.get(1).is_some_and(|base| base.size > old) {
        return Err(ImageError::BaseShows(path.clone()));
    }
    let failed = |reason| ImageError::Resize { path: path.clone(), reason };
    match image.format {
        DiskFormat::Raw if size < len => Err(failed(ResizeError::Smaller(len))),
        DiskFormat::Raw => {
            file.set_len(size).and_then(|()| file.sync_all()).map_err(|error| failed(ResizeError::Io(error)))
        }
        DiskFormat::Qcow2 => qcow2::grow(&file, size).map_err(failed),
    }
}
