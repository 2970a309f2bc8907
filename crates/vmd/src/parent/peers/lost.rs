//! What the parent does when a process that it needs is gone (openbsd/daemon.md, 1.5 with its **Here**).

use std::time::Instant;

use proto::VmId;
use sys::event::Interest;
use sys::log::Source;
use sys::logpipe::LogPipe;

use super::restarts::Lasting;
use super::{Peer, StartError};
use crate::parent::edge::{Edge, Token};
use crate::parent::registry::rate::FAST;

impl Edge {
    pub(in crate::parent) fn again(&mut self, role: Lasting) {
        if self.restarts.ended(role, Instant::now()) {
            return self.start_again(role);
        }
        let pause = FAST.as_secs();
        log::error!("{} ended too often: it is started again in {pause} s, and VMs run on", role.name());
    }

    /// Those that had to wait.
    pub(in crate::parent) fn start_due(&mut self) {
        while let Some(role) = self.restarts.due(Instant::now()) {
            self.start_again(role);
        }
    }

    pub(in crate::parent) fn start_again(&mut self, role: Lasting) {
        self.reserve.give_all();
        let started = match role {
            Lasting::Control => self.start_control(),
            Lasting::Privileged => self.start_privileged(),
            Lasting::AgentX => self.start_agentx(),
        };
        if let Err(error) = started {
            log::error!("start {}: {error}; it is tried again in {} s", role.name(), FAST.as_secs());
            self.restarts.later(role, Instant::now());
        }
        self.reserve.fill();
    }

    /// A process that was just started. One whose channel can't be watched is ended at once.
    pub(in crate::parent) fn kept<Tx, Rx>(
        &mut self,
        token: Token,
        (peer, log): (Peer<Tx, Rx>, LogPipe),
    ) -> Result<Peer<Tx, Rx>, StartError> {
        if let Err(error) = self.events.add(&peer.channel, token, Interest::Read) {
            self.bury(peer.child, peer.name, None);
            return Err(error.into());
        }
        self.watch_log(Source { name: peer.name.to_owned(), maker: None }, log);
        Ok(peer)
    }

    /// One that is gone, or given up; of one that works for a VM alone, which.
    pub(in crate::parent) fn give_up<Tx, Rx>(&mut self, vm: Option<VmId>, peer: Option<Peer<Tx, Rx>>) {
        if let Some(peer) = peer {
            self.events.remove(&peer.channel);
            self.bury(peer.child, peer.name, vm);
        }
    }
}
