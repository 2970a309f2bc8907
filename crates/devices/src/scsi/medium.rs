//! A medium: an image that can be read.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::OwnedFd;

use proto::failure::{Code, Failure};

use super::BLOCK;
use crate::blk::Engine;

/// A medium: its image.
pub struct Medium {
    /// Reads it.
    pub engine: Engine,
    /// Whole blocks.
    pub blocks: u64,
    /// What its users call it.
    pub called: String,
}

/// Takes an image, as far as it is one.
pub fn open(image: OwnedFd, called: &str, engine: impl FnOnce(OwnedFd) -> Engine) -> Result<Medium, Failure> {
    let mut file = File::from(image);
    // The end is the size of files and block devices alike.
    let bytes = file.seek(SeekFrom::End(0)).map_err(|error| Failure::io(format!("cdrom \"{called}\""), &error))?;
    let blocks = bytes / BLOCK;
    if blocks == 0 {
        let text = format!("cdrom \"{called}\": has {bytes} bytes, but a CD-ROM image has at least {BLOCK}");
        return Err(Failure::new(Code::CdromInvalid, text));
    }
    Ok(Medium { engine: engine(file.into()), blocks, called: called.to_owned() })
}
