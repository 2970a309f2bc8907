//! vmm: starts, watches and ends the processes of all VMs.
//!
//! Its peers: the parent ([`proto::vmm`]), which gives it everything open; a `vm` process for each VM ([`proto::vm`]); a
//! process for each device ([`proto::device`]), of which it knows no kind. It joins each device and its VM by a socket pair
//! for vhost-user, and is not on their way after that.
//!
//! It holds the parent's channel, /dev/kvm, its own executable, and of each process a pidfd and a channel; of a VM's start what its
//! devices serve and keep, its log and its cgroup, for processes that take the place of those that die, and the rest only until it was passed
//! on. It may execute vmd and open nothing. `running.rs` decides, `edge.rs` carries out.
//!
//! What it knows of a VM (`running::Vm`) is plain data, and what it holds of one (`held::Launch`) are descriptors with names: the
//! two are the record that a successor would go on with, as `tests/successor.rs` does.
//!
//! What a VM or a device does wrong costs that VM alone. vmm ends when the parent does, and all VMs with it.

mod edge;
mod held;
mod members;
mod moment;
mod running;
mod talk;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;

use crate::ending::Fatal;

/// Serves the parent at the other end of `channel` until it is gone; `exe` is vmd, to execute, and `users` where VMs have
/// users of their own.
pub fn run(channel: OwnedFd, exe: OwnedFd, users: Option<OwnedFd>) -> Result<(), Fatal> {
    sandbox::enter_in(&sandbox::promise::VMM, users)?;
    Ok(edge::Edge::new(channel, exe)?.serve()?)
}
