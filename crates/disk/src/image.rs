//! What an open image holds: its kind and size.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;

use model::DiskFormat;

/// The unit of a disk's size.
pub const SECTOR: u64 = 512;

/// Why an image can't be a disk.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Neither a file nor a block device.
    #[error("the image is neither a regular file nor a block device")]
    Kind,
    /// Less than one sector.
    #[error("the image has {0} bytes; a disk needs at least 512")]
    Short(u64),
    /// A format that is not read here.
    #[error("format \"{}\" is not supported by this release; convert the image to raw", .0.word())]
    Unsupported(DiskFormat),
    /// It can't be asked.
    #[error("the image's size: {}", crate::plain(.0))]
    Io(#[from] io::Error),
}

impl ImageError {
    /// Whether the image may be in order, but not for this release.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, ImageError::Unsupported(_))
    }
}

/// An image that can be a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// As the guest sees it, in units of 512 bytes; a rest is left out.
    pub sectors: u64,
}

impl Image {
    /// Judges the image on an open descriptor.
    pub fn of(mut file: &File, format: DiskFormat) -> Result<Image, ImageError> {
        match format {
            DiskFormat::Raw => {}
            DiskFormat::Qcow2 => return Err(ImageError::Unsupported(format)),
        }
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(ImageError::Kind);
        }
        // The end is the size of files and block devices alike.
        Image::of_raw(file.seek(SeekFrom::End(0))?)
    }

    /// A raw image of so many bytes.
    pub fn of_raw(bytes: u64) -> Result<Image, ImageError> {
        match bytes.checked_div(SECTOR) {
            None | Some(0) => Err(ImageError::Short(bytes)),
            Some(sectors) => Ok(Image { sectors }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_rounded_down_to_sectors() {
        let file = tempfile::tempfile().unwrap();
        for (bytes, sectors) in [(512, 1), (1023, 1), (1 << 42, 1 << 33), ((1 << 42) + 511, 1 << 33)] {
            file.set_len(bytes).unwrap();
            assert_eq!(Image::of(&file, DiskFormat::Raw).unwrap(), Image { sectors });
        }
    }

    #[test]
    fn less_than_a_sector_is_no_disk() {
        let file = tempfile::tempfile().unwrap();
        for bytes in [0, 1, 511] {
            file.set_len(bytes).unwrap();
            assert!(matches!(Image::of(&file, DiskFormat::Raw), Err(ImageError::Short(short)) if short == bytes));
        }
    }

    #[test]
    fn what_is_no_file_is_no_disk() {
        for path in ["/dev/null", "/"] {
            let file = File::open(path).unwrap();
            assert!(matches!(Image::of(&file, DiskFormat::Raw), Err(ImageError::Kind)), "{path}");
        }
    }

    #[test]
    fn qcow2_is_known_and_not_served() {
        let file = tempfile::tempfile().unwrap();
        assert!(Image::of(&file, DiskFormat::Qcow2).unwrap_err().is_unsupported());
    }
}
