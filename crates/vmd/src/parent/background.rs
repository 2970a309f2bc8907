//! `vmd` without `-d`: starts itself again as a process of its own session, and ends when that one is ready.

use std::ffi::OsString;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use sys::exe::Executable;
use sys::spawn::Spawn;

use super::Fatal;
use super::peers::StartError;
use crate::role::CHANNEL;

/// Where the system's logger listens; journald too.
const LOG_SOCKET: &str = "/dev/log";

/// Starts the daemon with the same arguments. What it says before it is ready goes to the system's log alone.
pub(super) fn start(arguments: &[OsString]) -> Result<(), Fatal> {
    let exe = Executable::own()?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let log = log_socket().or_else(|_| null.try_clone())?;
    let (ready, ready_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let words: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    if words.len() != arguments.len() {
        return Err(Fatal::Io(std::io::Error::new(std::io::ErrorKind::InvalidInput, "an argument is not UTF-8")));
    }
    let argv = [&["vmd", "-x", "background"], words.as_slice()].concat();
    let spawn = Spawn::new(&exe, &argv).fd(0, null.try_clone()?).fd(1, null).fd(2, log);
    let spawned = spawn.fd(u16::from(CHANNEL), ready_end).spawn();
    let mut child = spawned.map_err(|error| Fatal::Start("daemon", StartError::Spawn(error)))?;
    match rustix::io::read(&ready, &mut [0u8; 1]) {
        Ok(1) => Ok(()),
        Ok(_) | Err(_) => Err(Fatal::Background(child.wait()?)),
    }
}

/// Each line that is written is a datagram, as syslog wants it.
fn log_socket() -> std::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(LOG_SOCKET)?)?;
    Ok(socket)
}
