//! The processes that live as long as the daemon: control, priv, vmm, and agentx where it is wanted. Started here, and
//! started again.

mod control;
mod logs;
mod lost;
pub mod reserve;
pub mod restarts;
pub mod turn;
mod vmm;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use proto::Channel;
use proto::channel::{self, CHANNEL, EXTRA, Message};
use sys::child::Child;
use sys::event::Interest;
use sys::exe::Executable;
use sys::logpipe::LogPipe;
use sys::spawn::{Spawn, SpawnError};

/// What every start of a role needs.
#[derive(Debug)]
pub struct Starter {
    /// vmd itself, the build that runs.
    pub exe: Executable,
    /// Given to all as standard input and output.
    pub null: OwnedFd,
    /// Debug lines too.
    pub debug: bool,
}

/// Why a role did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No socket pair, pipe or descriptor.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No process.
    #[error("{0}")]
    Spawn(#[from] SpawnError),
}

/// A child with its conversation.
#[derive(Debug)]
pub struct Peer<Tx, Rx> {
    /// Its role.
    pub name: &'static str,
    /// The process.
    pub child: Child,
    /// The conversation.
    pub channel: Channel<Tx, Rx>,
    /// It asks and is answered. What else is said to a peer has other causes, and may be what it waits for.
    asks: bool,
    /// What the loop watches the channel for.
    watched: Interest,
}

/// control, as the parent sees it.
pub type Control = Peer<proto::control::ToControl, proto::control::ToParent>;
/// priv, as the parent sees it.
pub type Privileged = Peer<proto::privileged::ToPriv, proto::privileged::ToParent>;
/// agentx, as the parent sees it.
pub type AgentX = Peer<proto::agentx::ToAgentX, proto::agentx::ToParent>;
/// vmm, as the parent sees it.
pub type Vmm = Peer<proto::vmm::ToVmm, proto::vmm::ToParent>;
/// The opener of one start.
pub type Opener = Peer<proto::opener::ToOpener, proto::opener::ToParent>;
/// The probe of one file.
pub type Probe = Peer<proto::probe::ToProbe, proto::probe::ToParent>;

impl<Tx: Message, Rx: Message> Peer<Tx, Rx> {
    /// One that asks.
    pub fn asking(self) -> Self {
        Self { asks: true, ..self }
    }

    /// False when it did not take it; its loss is then told by its channel.
    pub fn tell(&mut self, message: &Tx, fds: Vec<OwnedFd>) -> bool {
        let sent = self.channel.send(message, fds).map_err(|error| sys::guest_log!(Error, "{}: {error}", self.name));
        sent.is_ok()
    }
}

impl Starter {
    /// Starts a role; `extras` are its descriptors from 4 on. What it logs comes out of the pipe.
    pub fn start<Tx: Message, Rx: Message>(
        &self,
        role: &'static str,
        extras: &[BorrowedFd<'_>],
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<(Peer<Tx, Rx>, LogPipe), StartError> {
        let (ours, theirs) = channel::pair::<Tx, Rx>()?;
        let (log, log_end) = LogPipe::new()?;
        let title = format!("vmd: {role}");
        let verbose: &[&str] = if self.debug { &["-v"] } else { &[] };
        let argv = [&[title.as_str(), "-x", role], verbose].concat();
        let mut spawn = Spawn::new(&self.exe, &argv)
            .fd(0, self.null.as_fd())
            .fd(1, self.null.as_fd())
            .fd(2, log_end)
            .fd(u16::from(CHANNEL), theirs.into_socket())
            .cgroup(cgroup);
        for (number, extra) in (u16::from(EXTRA)..).zip(extras) {
            spawn = spawn.fd(number, extra);
        }
        let (child, channel) = (spawn.spawn()?, ours.patient());
        let peer = Peer { name: role, child, channel, asks: false, watched: Interest::Read };
        Ok((peer, log))
    }
}
