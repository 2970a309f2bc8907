//! From vmm's description to a disk that is served.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use disk::Image;
use proto::device::ToDevice;
use proto::failure::{Code, Failure};
use proto::vmm::DiskDescription;
use sandbox::promise;

use super::Engine;
use super::request::Disk;
use super::serve::{Blk, MAX_IN_FLIGHT};
use crate::serve_vhost;
use crate::start::{Fatal, Vmm, log_level};

/// The logical block of an image in a file: what the guest's sectors are.
const FILE_BLOCK: u32 = 512;

/// The vioblk role. `vmm` is the socket to vmm.
pub fn run(vmm: OwnedFd) -> Result<(), Fatal> {
    sandbox::enter(&promise::VIOBLK)?;
    let mut vmm = Vmm::new(vmm);
    let (ToDevice::Blk { vm, disk, description, serial, debug }, fds) = vmm.description()? else {
        return Err(Fatal::Kind);
    };
    let Ok([front_end, image]) = <[OwnedFd; 2]>::try_from(fds) else { return Err(Fatal::Kind) };
    sys::log::set_name(&format!("vm/{}/vioblk{disk}", vm.as_str()));
    log_level(debug);
    let blk = match open(image, &description, serial.as_str().as_bytes()) {
        Ok(blk) => blk,
        Err(failure) => return Err(vmm.failed(failure)),
    };
    sandbox::narrow(&promise::VIOBLK)?; // the ring stays as it is
    vmm.ready()?;
    let ended = serve_vhost::serve(UnixStream::from(front_end), blk, Some(&mut vmm))?;
    log::debug!("ended: {ended:?}");
    Ok(())
}

/// Takes the image, as far as it can be served.
fn open(image: OwnedFd, description: &DiskDescription, serial: &[u8]) -> Result<Blk, Failure> {
    let file = File::from(image);
    let image = Image::of(&file, description.format).map_err(|error| {
        let code = if error.is_unsupported() { Code::Unsupported } else { Code::Invalid };
        Failure::new(code, error.to_string())
    })?;
    let disk = Disk { sectors: image.sectors, read_only: description.read_only };
    let block = block_size(&file);
    let spare = file.try_clone().map_err(|error| Failure::io("disk", &error))?;
    Ok(Blk::new(spare.into(), Engine::new(file.into(), MAX_IN_FLIGHT), disk, block, serial))
}

/// The logical block that the guest is told of.
fn block_size(file: &File) -> u32 {
    // A file is no block device, and answers so.
    rustix::fs::ioctl_blksszget(file.as_fd()).unwrap_or(FILE_BLOCK)
}
