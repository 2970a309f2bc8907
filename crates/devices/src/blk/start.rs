//! From vmm's description to a disk that is served.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use disk::Image;
use proto::device::{self, Told};
use proto::failure::{Code, Failure};
use sandbox::promise;

use super::config::Blocks;
use super::engine::Engine;
use super::request::Disk;
use super::serve::{Blk, MAX_IN_FLIGHT};
use crate::kept::Kept;
use crate::start::{Fatal, Start, Vmm};

/// The logical block of an image in a file: what the guest's sectors are.
const FILE_BLOCK: u32 = 512;

/// What the host's page cache writes as a whole. File systems with smaller blocks are no gain for a guest.
const PAGE: u32 = 4096;

/// The largest best size that is believed.
const MAX_OPTIMAL: u32 = 64 << 20;

/// The vioblk role. `vmm` is the socket to vmm.
pub fn run(vmm: OwnedFd) -> Result<(), Fatal> {
    sandbox::enter(&promise::VIOBLK)?;
    let mut vmm = Vmm::new(vmm);
    let Start { told: Told::Blk(told), front_end, lives, kept: Some(kept), files, .. } = vmm.start()? else {
        return Err(Fatal::Kind);
    };
    // The image, then its bases, as `told` has their formats.
    let Some(image) = files.into_iter().next() else { return Err(Fatal::Kind) };
    let blk = match open(image, &told, lives, kept) {
        Ok(blk) => blk,
        Err(failure) => return Err(vmm.failed(failure)),
    };
    sandbox::narrow(&promise::VIOBLK)?; // the ring stays as it is
    vmm.serve(front_end, blk)
}

/// Takes the image, as far as it can be served.
fn open(image: OwnedFd, told: &device::Blk, lives: OwnedFd, kept: File) -> Result<Blk, Failure> {
    let file = File::from(image);
    let image = Image::of(&file, told.format).map_err(|error| {
        let code = if error.is_unsupported() { Code::Unsupported } else { Code::Invalid };
        Failure::new(code, error.to_string())
    })?;
    let disk = Disk { sectors: image.sectors, read_only: told.read_only };
    let blocks = blocks(&file);
    let spare = file.try_clone().map_err(|error| Failure::io("disk", &error))?;
    let engine = Engine::new(file.into(), MAX_IN_FLIGHT, Some(lives));
    let words = Kept::map(&kept).map_err(|error| Failure::io("kept memory", &error))?;
    Ok(Blk::new(spare.into(), engine, disk, blocks, told.serial.as_bytes())
        .called(told.called.as_str())
        .keeping(words)
        .recording(kept))
}

/// What the guest is told of the medium.
fn blocks(file: &File) -> Blocks {
    let device = (rustix::fs::ioctl_blksszget(file.as_fd()), rustix::fs::ioctl_blkpbszget(file.as_fd()));
    match device {
        (Ok(logical), Ok(physical)) => Blocks { logical, physical, optimal: 0 },
        // A file is no block device, and answers so.
        _ => of_file(file.metadata().map_or(0, |metadata| metadata.blksize())),
    }
}

/// For a file whose file system likes transfers of so many bytes (stat(2), st_blksize).
fn of_file(preferred: u64) -> Blocks {
    let preferred = u32::try_from(preferred).ok().filter(|size| size.is_power_of_two() && *size <= MAX_OPTIMAL);
    let optimal = preferred.filter(|size| *size > PAGE).unwrap_or(0);
    Blocks { logical: FILE_BLOCK, physical: PAGE, optimal }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_in_pages_and_by_what_its_file_system_likes() {
        for (preferred, optimal) in
            [(0, 0), (512, 0), (4096, 0), (4097, 0), (0x10_0000, 0x10_0000), (1 << 27, 0), (u64::MAX, 0)]
        {
            assert_eq!(of_file(preferred), Blocks { logical: 512, physical: 4096, optimal }, "{preferred}");
        }
    }
}
