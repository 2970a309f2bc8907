//! From vmm's description to a drive that is served.

use std::os::fd::OwnedFd;

use proto::device::Told;
use proto::failure::Failure;
use sandbox::promise;

use super::medium;
use super::serve::{MAX_IN_FLIGHT, Scsi};
use crate::blk::Engine;
use crate::kept::Kept;
use crate::start::{Fatal, Start, Vmm};

/// The vioscsi role. `vmm` is the socket to vmm.
pub fn run(vmm: OwnedFd) -> Result<(), Fatal> {
    sandbox::enter(&promise::VIOSCSI)?;
    let mut vmm = Vmm::new(vmm);
    let Start { told: Told::Cdrom(told), front_end, lives, kept: Some(kept), mut files, .. } = vmm.start()? else {
        return Err(Fatal::Kind);
    };
    let engine = |image| Engine::new(image, MAX_IN_FLIGHT, Some(lives));
    let medium = match files.pop().map(|image| medium::open(image, told.called.as_str(), engine)).transpose() {
        Ok(medium) => medium,
        Err(failure) => return Err(vmm.failed(failure)),
    };
    let words = match Kept::map(&kept) {
        Ok(words) => words,
        Err(error) => return Err(vmm.failed(Failure::io("kept memory", &error))),
    };
    sandbox::narrow(&promise::VIOSCSI)?; // the ring stays as it is
    vmm.serve(front_end, Scsi::new(told.serial.as_bytes(), medium, told.open).keeping(words, kept))
}
