//! From vmm's description to a balloon that is served.

use std::os::fd::OwnedFd;

use proto::device::Told;
use proto::failure::Failure;
use sandbox::promise;

use super::Balloon;
use crate::kept::Kept;
use crate::start::{Fatal, Start, Vmm};

/// The vioballoon role. `vmm` is the socket to vmm.
pub fn run(vmm: OwnedFd) -> Result<(), Fatal> {
    sandbox::enter(&promise::VIOBALLOON)?;
    let mut vmm = Vmm::new(vmm);
    let Start { told: Told::Balloon(told), front_end, kept: Some(kept), .. } = vmm.start()? else {
        return Err(Fatal::Kind);
    };
    match Kept::map(&kept) {
        Ok(kept) => vmm.serve(front_end, Balloon::new(told.memory).keeping(kept)),
        Err(error) => Err(vmm.failed(Failure::io("kept memory", &error))),
    }
}
