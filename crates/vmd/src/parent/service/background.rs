//! `vmd` without `-d`: starts itself again as a process of its own session, and ends when that one is ready.

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::OwnedFd;

use proto::channel::CHANNEL;
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use sys::exe::Executable;
use sys::spawn::Spawn;

use crate::parent::Fatal;
use crate::parent::peers::StartError;
use crate::parent::start::host::open_device;

/// Where the system's logger listens; journald too.
const LOG_SOCKET: &str = "/dev/log";

/// What the daemon writes to the one who started it when it serves; anything else says why it does not.
pub(in crate::parent) const READY: &[u8] = b"\n";
/// Bytes of that at most; the log has all of it.
const MAX_SAID: u64 = 4096;

/// Starts the daemon with the same arguments, and waits until it serves or says why not.
pub(in crate::parent) fn start(arguments: &[OsString]) -> Result<(), Fatal> {
    let exe = Executable::own()?;
    let null = open_device("/dev/null", OFlags::empty())?;
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
    let mut said = Vec::new();
    std::fs::File::from(ready).take(MAX_SAID).read_to_end(&mut said)?;
    match said.as_slice() {
        READY => Ok(()),
        [] => Err(Fatal::Background(child.wait()?)),
        why => {
            child.wait()?;
            Err(Fatal::Said(String::from_utf8_lossy(why).into_owned()))
        }
    }
}

/// Each line that is written is a datagram, as syslog wants it.
fn log_socket() -> std::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(LOG_SOCKET)?)?;
    Ok(socket)
}
