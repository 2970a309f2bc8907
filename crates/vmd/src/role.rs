//! Which process this is: `vmd -x ROLE [-v]`, as its starter said, with its channel as descriptor 3.

use std::ffi::{CString, OsString};
use std::fmt::Display;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use proto::channel::{CHANNEL, EXTRA, USERS};
use sys::inherited;

/// Runs the role that the arguments after `-x` name.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let role = arguments.first().and_then(|role| role.to_str()).unwrap_or_default();
    if role == "background" {
        return with(CHANNEL, |ready| crate::parent::background(arguments.get(1..).unwrap_or_default(), ready));
    }
    if role == "doctor" {
        return doctor();
    }
    name_in_lists(role);
    let debug = arguments.iter().skip(1).any(|flag| flag == "-v");
    sys::log::init(role, sys::log::level_of(u8::from(debug)));
    match role {
        "opener" => with_channel(crate::opener::run),
        "probe" => with_channel(crate::probe::run),
        "control" => with_both(crate::control::run),
        "priv" => with_channel(|channel| crate::privileged::run(channel, inherited::take(EXTRA).ok())),
        "agentx" => with_channel(crate::agentx::run),
        "vmm" => with_both(|channel, exe| crate::vmm::run(channel, exe, inherited::take(USERS).ok())),
        // The one role whose exit status says more than success or not (`proto::exit`).
        "vm" => with(CHANNEL, |channel| ExitCode::from(vm::run(channel, u8::from(debug)))),
        "vioblk" => with_channel(devices::blk::run),
        "vionet" => with_channel(devices::net::run),
        "vioballoon" => with_channel(devices::balloon::run),
        "vioscsi" => with_channel(devices::scsi::run),
        other => failed(&format!("unknown role \"{other}\": -x is for vmd's own use")),
    }
}

/// Whether /dev/kvm runs the probe guest: `ok` on standard output, or what does not work, after a line that says which vmd
/// this is (`proto::doctor`). It has the rights of the user who runs it, reads nothing, and is not part of the daemon.
fn doctor() -> ExitCode {
    let mut out = std::io::stdout();
    let mut tell = |line: &str| writeln!(out, "{line}");
    let told = tell(&proto::doctor::banner(env!("CARGO_PKG_VERSION"))); // first, whatever becomes of the guest
    let ran = crate::parent::open_kvm().map_err(|error| format!("/dev/kvm: {error}")).and_then(vm::probe_guest::run);
    let (word, code) = match &ran {
        Ok(()) => (proto::doctor::RAN, ExitCode::SUCCESS),
        Err(why) => (why.as_str(), ExitCode::FAILURE),
    };
    match told.and_then(|()| tell(word)) {
        Ok(()) => code,
        Err(error) => failed(&format!("standard output: {error}")),
    }
}

/// What top(1) calls it: a program that is executed by descriptor would be called by that number.
fn name_in_lists(role: &str) {
    let name = CString::new(format!("vmd-{role}")).unwrap_or_default();
    if let Err(error) = rustix::thread::set_name(&name) {
        log::debug!("name of the process: {error}");
    }
}

fn with_channel<E: Display>(run: impl FnOnce(OwnedFd) -> Result<(), E>) -> ExitCode {
    with(CHANNEL, |channel| ended(run(channel)))
}

fn with_both<E: Display>(run: impl FnOnce(OwnedFd, OwnedFd) -> Result<(), E>) -> ExitCode {
    with(CHANNEL, |channel| with(EXTRA, |extra| ended(run(channel, extra))))
}

fn with(descriptor: u8, run: impl FnOnce(OwnedFd) -> ExitCode) -> ExitCode {
    match inherited::take(descriptor) {
        Ok(fd) => run(fd),
        Err(error) => failed(&format!("descriptor {descriptor}: {error}; only vmd starts its roles")),
    }
}

fn ended<E: Display>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error.to_string()),
    }
}

fn failed(why: &str) -> ExitCode {
    log::error!("{why}");
    ExitCode::FAILURE
}
