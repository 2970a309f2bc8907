//! From vmm's description to a disk that is served.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use disk::Image;
use proto::device::{self, Told};
use proto::failure::{Code, Failure};
use sandbox::promise;

use super::Engine;
use super::request::Disk;
use super::serve::{Blk, MAX_IN_FLIGHT};
use crate::start::{Fatal, Start, Vmm};

/// The logical block of an image in a file: what the guest's sectors are.
const FILE_BLOCK: u32 = 512;

/// The vioblk role. `vmm` is the socket to vmm.
pub fn run(vmm: OwnedFd) -> Result<(), Fatal> {
    sandbox::enter(&promise::VIOBLK)?;
    let mut vmm = Vmm::new(vmm);
    let Start { told: Told::Blk(told), front_end, resource: Some(image), .. } = vmm.start()? else {
        return Err(Fatal::Kind);
    };
    let blk = match open(image, &told) {
        Ok(blk) => blk,
        Err(failure) => return Err(vmm.failed(failure)),
    };
    sandbox::narrow(&promise::VIOBLK)?; // the ring stays as it is
    vmm.serve(front_end, blk)
}

/// Takes the image, as far as it can be served.
fn open(image: OwnedFd, told: &device::Blk) -> Result<Blk, Failure> {
    let file = File::from(image);
    let image = Image::of(&file, told.format).map_err(|error| {
        let code = if error.is_unsupported() { Code::Unsupported } else { Code::Invalid };
        Failure::new(code, error.to_string())
    })?;
    let disk = Disk { sectors: image.sectors, read_only: told.read_only };
    let block = block_size(&file);
    let spare = file.try_clone().map_err(|error| Failure::io("disk", &error))?;
    let engine = Engine::new(file.into(), MAX_IN_FLIGHT);
    Ok(Blk::new(spare.into(), engine, disk, block, told.serial.as_bytes()).called(told.called.as_str()))
}

/// The logical block that the guest is told of.
fn block_size(file: &File) -> u32 {
    // A file is no block device, and answers so.
    rustix::fs::ioctl_blksszget(file.as_fd()).unwrap_or(FILE_BLOCK)
}
