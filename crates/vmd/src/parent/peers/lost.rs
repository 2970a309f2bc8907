//! What the parent does when a process that it needs is gone (openbsd/daemon.md, 1.5 with its **Here**).

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use sys::event::Interest;

use super::restarts::Lasting;
use super::{Peer, StartError};
use crate::parent::Fatal;
use crate::parent::edge::{Edge, Token};
use crate::parent::registry::Event;
use crate::parent::registry::rate::FAST;

impl Edge {
    /// Clients of a dead control are disconnected; VMs run on.
    pub(in crate::parent) fn control_lost(&mut self) {
        if let Some(peer) = self.control.take() {
            self.events.remove(&peer.channel);
            self.bury(peer.child);
        }
        for (conn, _) in std::mem::take(&mut self.clients) {
            self.event(Event::Gone(conn));
        }
        log::error!("control ended; its clients are disconnected");
        self.again(Lasting::Control);
    }

    /// Without vmm there is no VM, and nothing to start one with.
    pub(in crate::parent) fn vmm_lost(&mut self) {
        if let Some(peer) = self.vmm.take() {
            self.events.remove(&peer.channel);
            self.bury(peer.child);
        }
        self.event(Event::VmmGone);
        self.quit = Some(Err(Fatal::VmmLost));
    }

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

    pub(in crate::parent) fn start_control(&mut self) -> Result<(), StartError> {
        let (peer, log): (super::Control, _) = self.starter.start("control", Some(self.listener.as_fd()), None)?;
        let watched = self.events.add(&peer.channel, Token::Control, Interest::Read);
        let peer = self.kept(peer, watched)?;
        self.control = Some(peer);
        self.watch_log("control".to_owned(), log);
        Ok(())
    }

    pub(in crate::parent) fn start_vmm(&mut self) -> Result<(), StartError> {
        let exe = self.starter.exe.as_fd();
        let (peer, log): (super::Vmm, _) = self.starter.start("vmm", Some(exe), self.host.vmm_cgroup())?;
        let watched = self.events.add(&peer.channel, Token::Vmm, Interest::Read);
        let peer = self.kept(peer, watched)?;
        self.vmm = Some(peer);
        self.watch_log("vmm".to_owned(), log);
        Ok(())
    }

    /// A process whose channel can't be watched is ended at once.
    pub(in crate::parent) fn kept<Tx, Rx>(
        &mut self,
        peer: Peer<Tx, Rx>,
        watched: io::Result<()>,
    ) -> Result<Peer<Tx, Rx>, StartError> {
        if let Err(error) = watched {
            self.bury(peer.child);
            return Err(error.into());
        }
        Ok(peer)
    }
}
