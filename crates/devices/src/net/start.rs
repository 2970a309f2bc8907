//! From vmm's description to a card that is served.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use proto::device::ToDevice;
use proto::failure::Failure;
use sandbox::promise;

use super::{Card, Lease, Net, Tap, host_name};
use crate::serve_vhost;
use crate::start::{Fatal, Vmm, log_level};

/// The vionet role. `vmm` is the socket to vmm.
pub fn run(vmm: OwnedFd) -> Result<(), Fatal> {
    sandbox::enter(&promise::VIONET)?;
    let mut vmm = Vmm::new(vmm);
    let (ToDevice::Net { vm, nic, description, debug }, fds) = vmm.description()? else {
        return Err(Fatal::Kind);
    };
    let Ok([front_end, tap]) = <[OwnedFd; 2]>::try_from(fds) else { return Err(Fatal::Kind) };
    sys::log::set_name(&format!("vm/{}/vionet{nic}", vm.as_str()));
    log_level(debug);
    let tap = match Tap::new(tap) {
        Ok(tap) => tap,
        Err(error) => return Err(vmm.failed(Failure::io("tap", &error))),
    };
    let card = Card { mac: description.mac.0, locked: description.locked };
    let net = match description.local {
        None => Net::new(tap, card),
        Some(local) => Net::new(tap, card).leasing(Lease {
            mac: card.mac,
            host_mac: local.host_mac.0,
            host: local.host,
            address: local.guest,
            name_servers: local.name_servers.to_vec(),
            name: host_name(vm.as_str()),
            net_boot: local.net_boot,
        }),
    };
    vmm.ready()?;
    let ended = serve_vhost::serve(UnixStream::from(front_end), net, Some(&mut vmm))?;
    log::debug!("ended: {ended:?}");
    Ok(())
}
