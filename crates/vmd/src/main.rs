//! vmd: keeps the virtual machines of a Linux host. Every process of the daemon is this binary; `role` says which.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::wildcard_enum_match_arm))] // a new message is shown where it is missing

mod agentx;
mod control;
mod ending;
mod opener;
mod parent;
mod privileged;
mod probe;
mod role;
mod vmm;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.split_first() {
        Some((first, rest)) if first == "-x" => role::run(rest),
        _ => parent::main(&arguments),
    }
}
