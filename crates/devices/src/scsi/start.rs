//! From vmm's description to a drive that is served.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::OwnedFd;

use proto::device::Told;
use proto::failure::{Code, Failure};
use sandbox::promise;

use super::BLOCK;
use super::serve::{MAX_IN_FLIGHT, Medium, Scsi};
use crate::blk::Engine;
use crate::start::{Fatal, Start, Vmm};

/// The vioscsi role. `vmm` is the socket to vmm.
pub fn run(vmm: OwnedFd) -> Result<(), Fatal> {
    sandbox::enter(&promise::VIOSCSI)?;
    let mut vmm = Vmm::new(vmm);
    let Start { told: Told::Cdrom(told), front_end, resource, .. } = vmm.start()? else {
        return Err(Fatal::Kind);
    };
    let engine = |image| Engine::new(image, MAX_IN_FLIGHT);
    let medium = match resource.map(|image| open(image, told.called.as_str(), engine)).transpose() {
        Ok(medium) => medium,
        Err(failure) => return Err(vmm.failed(failure)),
    };
    sandbox::narrow(&promise::VIOSCSI)?; // the ring stays as it is
    vmm.serve(front_end, Scsi::new(told.serial.as_bytes(), medium, told.open))
}

/// Takes an image, as far as it is one.
pub(super) fn open(image: OwnedFd, called: &str, engine: impl FnOnce(OwnedFd) -> Engine) -> Result<Medium, Failure> {
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
