//! What an open image is: its kind and size.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;

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
    /// It can't be asked.
    #[error("the image's size: {}", crate::plain(.0))]
    Io(#[from] io::Error),
}

/// The bytes of a regular file or block device; anything else is no image, whatever its format.
pub fn file_len(mut file: &File) -> Result<u64, ImageError> {
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(ImageError::Kind);
    }
    // The end is the size of files and block devices alike.
    Ok(file.seek(SeekFrom::End(0))?)
}

/// A raw image that can be a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// As the guest sees it, in units of 512 bytes; a rest is left out.
    pub sectors: u64,
}

impl Image {
    /// Judges the image on an open descriptor.
    pub fn of(file: &File) -> Result<Image, ImageError> {
        Image::of_raw(file_len(file)?)
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
            assert_eq!(Image::of(&file).unwrap(), Image { sectors });
        }
    }

    #[test]
    fn less_than_a_sector_is_no_disk() {
        let file = tempfile::tempfile().unwrap();
        for bytes in [0, 1, 511] {
            file.set_len(bytes).unwrap();
            assert!(matches!(Image::of(&file), Err(ImageError::Short(short)) if short == bytes));
        }
    }

    #[test]
    fn what_is_no_file_is_no_disk() {
        for path in ["/dev/null", "/"] {
            let file = File::open(path).unwrap();
            assert!(matches!(Image::of(&file), Err(ImageError::Kind)), "{path}");
        }
    }
}
