//! The process of one VM: memory, vCPUs, KVM, the wiring of everything below.
//!
//! Started by vmm, it has one channel, and all else comes on it: /dev/kvm, the console, the kernel, a socket for each device's
//! process. It makes the VM, closes /dev/kvm, gives up the right to make another, loads the kernel and runs. It never sees a
//! path, a disk or a tap, and never executes anything. How the guest ended is its last word (`proto::exit`).
//!
//! ```text
//! vmm ──description──► description ─► machine ─► running (event loop) ◄─eventfd─ outside ◄─effects─ hw::Chipset
//!     ◄──Leaving──── lifecycle ◄─────────────────────┘                                                   ▲
//!                                                        vcpus (threads) ──────────────exits─────────────┘
//! ```
#![deny(unsafe_code)]
#![allow(unexpected_cfgs)] // `fuzzing`, as scripts/fuzz and cargo-fuzz set it
#![cfg_attr(not(test), deny(clippy::wildcard_enum_match_arm))] // a new message is shown where it is missing

mod console;
mod cpuid;
mod description;
mod entry_state;
mod error;
mod kvm;
mod lifecycle;
mod machine;
mod memory;
mod outside;
pub mod probe_guest;
mod running;
mod vcpus;
mod virtio;

use std::os::fd::OwnedFd;

use log::{debug, error};
use proto::vm::{ToVm, ToVmm};
use proto::{Channel, exit};
use sandbox::promise;

pub use error::Error;
#[cfg(fuzzing)]
pub use virtio::fuzzing;

/// The whole life of the process; `socket` is its channel to vmm. Gives the exit status.
#[must_use]
pub fn run(socket: OwnedFd, verbose: u8) -> u8 {
    sys::log::init("vm", sys::log::level_of(verbose));
    match sandbox::enter(&promise::VM) {
        Ok(_) => serve(socket, || sandbox::narrow(&promise::VM)),
        Err(error) => {
            error!("sandbox: {error}");
            exit::FAILED
        }
    }
}

/// What [`run`] does inside its sandbox, which `narrow` makes smaller once the VM is made.
#[must_use]
pub fn serve(socket: OwnedFd, narrow: impl FnOnce() -> Result<(), sandbox::Error>) -> u8 {
    let mut channel = Channel::new(socket);
    match start_and_run(&mut channel, narrow) {
        Ok(status) => {
            // vmm may be what is gone.
            let _ = channel.send(&ToVmm::Ended { status }, Vec::new());
            status
        }
        Err(error) => {
            error!("{error}");
            // vmm may be what failed.
            let _ = channel.send(&ToVmm::Failed(error.failure()), Vec::new());
            exit::FAILED
        }
    }
}

fn start_and_run(
    channel: &mut Channel<ToVmm, ToVm>,
    narrow: impl FnOnce() -> Result<(), sandbox::Error>,
) -> Result<u8, Error> {
    let plan = description::receive(channel)?;
    sys::log::set_name(&format!("vm/{}", plan.description.name));
    set_debug(plan.description.debug);
    let assembled = machine::assemble(plan, narrow)?;
    let status = running::run(channel, assembled)?;
    debug!("ended with status {status}"); // vmm says in words what it means
    Ok(status)
}

fn set_debug(debug: bool) {
    sys::log::set_level(sys::log::level_of(debug.into()));
}
