//! agentx: reports the VMs to an SNMP master, as the VM-MIB (RFC 7666) over AgentX (RFC 2741). Started where vm.conf says
//! `agentx`, and ended where it says so no more.
//!
//! Its one peer in the daemon is the parent ([`proto::agentx`]): it tells which VMs there are, and connects to the master's
//! socket, which agentx could not reach. agentx runs as `_vmd` with no capability, in an empty root with no network, and can
//! open, make and connect nothing. It holds the parent's channel, its signals, and the connection to the master while there
//! is one.
//!
//! The master is no part of the daemon: what it writes is checked (`pdu.rs`), never believed, and costs a bounded amount of
//! memory and time (`agent.rs`). It ends with the parent, or on SIGTERM and SIGINT, and says good-bye to the master.

pub mod agent;
mod answers;
mod codec;
mod edge;
pub mod mib;
pub mod pdu;
#[cfg(test)]
#[path = "tests/wire.rs"]
mod wire;

use std::os::fd::OwnedFd;

use crate::ending::Fatal;

/// vmHvSoftware.
pub const SOFTWARE: &str = concat!("vmd for Linux ", env!("CARGO_PKG_VERSION"));

/// Serves until the parent at the other end of `channel` is gone.
pub fn run(channel: OwnedFd) -> Result<(), Fatal> {
    let release = kernel_release(); // a call that the promise does not have
    sandbox::enter(&sandbox::promise::AGENTX)?;
    edge::Edge::new(channel, agent::Agent::new(SOFTWARE, &release)).serve()
}

/// vmHvVersion.
fn kernel_release() -> String {
    match rustix::system::uname().release().to_str() {
        Ok(release) if !release.is_empty() => release.to_owned(),
        Ok(_) | Err(_) => "unknown".to_owned(),
    }
}
