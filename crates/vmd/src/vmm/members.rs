//! The processes of VMs: started, spoken to, waited for. Knows nothing of what they are for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use proto::channel::{CHANNEL, ChannelError};
use proto::device::{ToDevice, ToVmm as FromDevice};
use proto::vm::{ToVm, ToVmm as FromVm};
use proto::{Channel, Code, Failure, Received};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use sys::child::Child;
use sys::exe::Executable;
use sys::seqpacket;
use sys::spawn::{Spawn, SpawnError};

use super::held::Held;
use super::running::{Event, Member, Process, Slot, Title};

/// A process that was started and not reaped yet.
#[derive(Debug)]
pub struct Living {
    /// It, by its pidfd.
    pub child: Child,
    /// The conversation with it, until either side ends it.
    pub talk: Option<Talk>,
}

/// A conversation with a process.
#[derive(Debug)]
pub enum Talk {
    /// With a vm process.
    Vm(Channel<ToVm, FromVm>),
    /// With a device's.
    Device(Channel<ToDevice, FromDevice>),
}

/// What reading a conversation gave.
pub enum Heard {
    /// Something was said.
    Event(Event),
    /// Nothing more now.
    Nothing,
    /// The other side ended it.
    End,
}

/// Why a message could not be sent.
pub enum Unsent {
    /// The other side is gone; its exit tells.
    Gone,
    /// It cannot go on.
    Broken(String),
}

/// Starts a process with its channel; a device with its vhost-user sockets, which are held for its and its VM's message.
pub fn start(exe: &Executable, held: &mut Held, process: Process, title: &Title) -> Result<Living, Failure> {
    let Process { run, member } = process;
    if let Member::Device(device) = member {
        let flags = SocketFlags::CLOEXEC;
        let (front, back) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|errno| Failure::io("vhost-user socket", &errno.into()))?;
        held.hold(run, vec![Slot::Front(device), Slot::Back(device)], vec![front, back]);
    }
    let (ours, theirs) = seqpacket::pair().map_err(|error| Failure::io("channel", &error))?;
    let child = execute(exe, held, process, title, theirs).map_err(|error| failure_of(&error))?;
    let talk = match member {
        Member::Vm => Talk::Vm(Channel::new(ours)),
        Member::Device(_) => Talk::Device(Channel::new(ours)),
    };
    Ok(Living { child, talk: Some(talk) })
}

fn execute(
    exe: &Executable,
    held: &Held,
    process: Process,
    title: &Title,
    channel: OwnedFd,
) -> Result<Child, SpawnError> {
    let mut argv = vec![title.title.as_str(), "-x", title.role];
    argv.extend(title.debug.then_some("-v"));
    let log = held.lend(process.run, Slot::Log).unwrap_or(rustix::stdio::stderr());
    Spawn::new(exe, &argv)
        .fd(0, rustix::stdio::stdin()) // /dev/null, as our starter gave it
        .fd(1, rustix::stdio::stdout())
        .fd(2, log)
        .fd(CHANNEL.into(), channel)
        .cgroup(held.lend(process.run, Slot::Cgroup))
        // A safety net, on which no decision hangs: vmm's end closes the channels, at which all of them end by themselves, but one
        // that hangs. Who hands VMs over to a successor lifts it.
        .die_with_parent()
        .spawn()
}

/// What the caller of a start hears: EIO as OpenBSD's (openbsd/daemon.md, 2.11), but where the host lacks something,
/// that.
fn failure_of(error: &SpawnError) -> Failure {
    let code = match error.errno {
        Errno::MFILE | Errno::NFILE => Code::NoDescriptors,
        Errno::NOMEM => Code::NoMemory,
        _ => Code::Io,
    };
    Failure::new(code, error.to_string())
}

impl Talk {
    /// Reads one message.
    pub fn hear(&mut self, process: Process) -> Heard {
        let heard = match self {
            Talk::Vm(channel) => event_of(channel.recv(), |message| Event::Vm(process.run, message)),
            Talk::Device(channel) => event_of(channel.recv(), |message| Event::Device(process, message)),
        };
        heard.unwrap_or_else(|why| Heard::Event(Event::Broken(process, why)))
    }

    /// Sends to a vm process; does nothing for any other.
    pub fn tell_vm(&mut self, message: &ToVm, fds: Vec<OwnedFd>) -> Result<(), Unsent> {
        match self {
            Talk::Vm(channel) => channel.send(message, fds).map_err(|error| unsent(&error)),
            Talk::Device(_) => Ok(()),
        }
    }

    /// Sends to a device's process; does nothing for any other.
    pub fn tell_device(&mut self, message: &ToDevice, fds: Vec<OwnedFd>) -> Result<(), Unsent> {
        match self {
            Talk::Device(channel) => channel.send(message, fds).map_err(|error| unsent(&error)),
            Talk::Vm(_) => Ok(()),
        }
    }

    /// Sends what waits.
    pub fn flush(&mut self) -> Result<(), Unsent> {
        match self {
            Talk::Vm(channel) => channel.flush(),
            Talk::Device(channel) => channel.flush(),
        }
        .map_err(|error| unsent(&error))
    }

    /// Whether something waits to be sent.
    pub fn wants_write(&self) -> bool {
        match self {
            Talk::Vm(channel) => channel.wants_write(),
            Talk::Device(channel) => channel.wants_write(),
        }
    }
}

impl AsFd for Talk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Talk::Vm(channel) => channel.as_fd(),
            Talk::Device(channel) => channel.as_fd(),
        }
    }
}

fn event_of<Rx>(got: Result<Received<Rx>, ChannelError>, event: impl FnOnce(Rx) -> Event) -> Result<Heard, String> {
    match got {
        Ok(Received::Message(message, _)) => Ok(Heard::Event(event(message))),
        Ok(Received::Empty) => Ok(Heard::Nothing),
        Ok(Received::Closed) => Ok(Heard::End),
        Err(error) => Err(error.to_string()),
    }
}

fn unsent(error: &ChannelError) -> Unsent {
    let gone = matches!(error, ChannelError::Socket(error) if is_gone(error));
    if gone { Unsent::Gone } else { Unsent::Broken(error.to_string()) }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected)
}
