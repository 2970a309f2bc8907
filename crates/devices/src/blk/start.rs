//! From vmm's description to a disk that is served.

use std::fs::File;
use std::iter;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use disk::qcow2::{Layer, Limits, Map};
use disk::{Image, ImageError, file_len};
use model::DiskFormat;
use proto::device::{self, Told};
use proto::failure::{Code, Failure};
use sandbox::promise;

use super::chain::Chain;
use super::config::Blocks;
use super::engine::Engine;
use super::request::Disk;
use super::serve::{Blk, MAX_IN_FLIGHT};
use crate::kept::Kept;
use crate::start::{Fatal, Start, Vmm};

/// Memory of an image's tables and of what is copied at once. 2 MiB of tables describe 16 GiB of the disk in 64 KiB clusters,
/// and a copy takes a cluster or two. What the VM may have of memory counts all of it.
const MEMORY: Limits = Limits { tables: 2 << 20, copying: 1 << 20, write_through: false };

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
    let files: Vec<File> = files.into_iter().map(File::from).collect();
    let blk = match open(files, &told, lives, kept) {
        Ok(blk) => blk,
        Err(failure) => return Err(vmm.failed(failure)),
    };
    sandbox::narrow(&promise::VIOBLK)?; // the ring stays as it is
    vmm.serve(front_end, blk)
}

/// Takes the image, then its bases, as far as they can be served; `told` has their formats.
fn open(files: Vec<File>, told: &device::Blk, lives: OwnedFd, kept: File) -> Result<Blk, Failure> {
    let words = Kept::map(&kept).map_err(|error| Failure::io("kept memory", &error))?;
    let blk = match told.format {
        DiskFormat::Raw => raw(files, told, lives)?,
        DiskFormat::Qcow2 => images(files, told, lives)?,
    };
    Ok(blk.called(told.called.as_str()).limited(told.limits).keeping(words).recording(kept))
}

/// A file or block device as it is.
fn raw(files: Vec<File>, told: &device::Blk, lives: OwnedFd) -> Result<Blk, Failure> {
    let Some(file) = files.into_iter().next() else { return Err(Failure::new(Code::Invalid, "no image")) };
    let image = Image::of(&file).map_err(|error| Failure::new(Code::Invalid, error.to_string()))?;
    let disk = Disk { sectors: image.sectors, read_only: told.read_only };
    let blocks = blocks(&file);
    let spare = file.try_clone().map_err(|error| Failure::io("disk", &error))?;
    let engine = Engine::new(file.into(), MAX_IN_FLIGHT, Some(lives));
    Ok(Blk::new(spare.into(), engine, disk, blocks, told.serial.as_bytes()))
}

/// An image and its bases.
fn images(files: Vec<File>, told: &device::Blk, lives: OwnedFd) -> Result<Blk, Failure> {
    let formats = iter::once(told.format).chain(told.bases.iter().copied());
    let layers: Result<Vec<(Layer, u64)>, Failure> =
        (0..).zip(files.iter().zip(formats)).map(|(number, of)| layer(number, of, told)).collect();
    let layers = layers?;
    let Some((image, image_len)) = files.first().zip(layers.first().map(|(_, len)| *len)) else {
        return Err(Failure::new(Code::Invalid, "no image"));
    };
    // The same on a file and on a block device, so that an image may be moved from one to the other.
    let blocks = Blocks { logical: FILE_BLOCK, ..blocks(image) };
    let map = Map::open(layers.into_iter().map(|(layer, _)| layer).collect(), MEMORY)
        .map_err(|error| Failure::new(Code::Invalid, error.to_string()))?;
    let engine = Engine::of(files.into_iter().map(OwnedFd::from).collect(), MAX_IN_FLIGHT, Some(lives));
    let chain = Chain::new(map, engine, MAX_IN_FLIGHT, image_len, MAX_IN_FLIGHT);
    Ok(Blk::of_images(chain, told.read_only, blocks, told.serial.as_bytes()))
}

/// Reads what is needed of one of the files; the image is number 0. Its length comes along.
fn layer(number: usize, (file, format): (&File, DiskFormat), told: &device::Blk) -> Result<(Layer, u64), Failure> {
    let refused = |why: String| {
        let whose = if number == 0 { String::new() } else { format!("base {number}: ") };
        Failure::new(Code::Invalid, format!("disk \"{}\": {whose}{why}", told.called.as_str()))
    };
    let len = file_len(file).map_err(|error: ImageError| refused(error.to_string()))?;
    let layer = match number {
        0 if !told.read_only => Layer::open_to_write(file, len),
        _ => Layer::open(file, len, format),
    };
    Ok((layer.map_err(|error| refused(error.to_string()))?, len))
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
