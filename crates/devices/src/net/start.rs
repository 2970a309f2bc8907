//! From vmm's description to a card that is served.

use std::os::fd::OwnedFd;

use proto::device::Told;
use proto::failure::Failure;
use sandbox::promise;

use super::{Card, Lease, Net, Tap, host_name};
use crate::start::{Fatal, Start, Vmm};

/// The vionet role. `vmm` is the socket to vmm.
pub fn run(vmm: OwnedFd) -> Result<(), Fatal> {
    sandbox::enter(&promise::VIONET)?;
    let mut vmm = Vmm::new(vmm);
    let Start { vm, told: Told::Net(told), front_end, mut files, .. } = vmm.start()? else {
        return Err(Fatal::Kind);
    };
    let Some(tap) = files.pop() else { return Err(Fatal::Kind) };
    let tap = match Tap::new(tap) {
        Ok(tap) => tap,
        Err(error) => return Err(vmm.failed(Failure::io("tap", &error))),
    };
    let card = Card { mac: told.mac.0, locked: told.locked, guarded: told.guarded };
    let net = match told.local {
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
    vmm.serve(front_end, net)
}
