//! A process of a VM that lives, and the conversation with it. Knows nothing of what it is for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use proto::channel::ChannelError;
use proto::device::{ToDevice, ToVmm as FromDevice};
use proto::vm::{ToVm, ToVmm as FromVm};
use proto::{Channel, Received};
use sys::child::Child;

use super::running::{Event, Process};

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
