//! agentx as the parent's edge deals with it: its start and end, what it is told, and the connection that it is handed.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use model::List;
use proto::agentx::{MAX_ROWS, ToAgentX, ToParent};
use proto::{Code, Failure, RequestId};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::Signal;

use super::snmp::{self, Do, Master};
use crate::parent::edge::{Dead, Edge, Token};
use crate::parent::peers::restarts::Lasting;
use crate::parent::peers::turn::Turn;
use crate::parent::peers::{Peer, StartError};

impl Edge {
    /// vm.conf says this of the SNMP master now.
    pub(in crate::parent) fn serve_snmp(&mut self, master: Option<Master>) {
        let steps = snmp::steps(self.snmp.as_ref(), master.as_ref());
        self.snmp = master;
        for step in steps {
            match step {
                Do::End => self.end_agentx(),
                Do::Start => self.start_again(Lasting::AgentX),
                // One that is started later is told then.
                Do::Tell => self.tell_agentx_context(),
            }
        }
    }

    pub(in crate::parent) fn start_agentx(&mut self) -> Result<(), StartError> {
        let started = self.starter.start("agentx", &[], None)?;
        self.agentx = Some(self.kept(Token::AgentX, started)?.asking());
        self.tell_agentx_context();
        Ok(())
    }

    /// It takes its leave of the master, and ends.
    fn end_agentx(&mut self) {
        self.restarts.forget(Lasting::AgentX);
        let Some(peer) = self.agentx.take() else { return };
        self.events.remove(&peer.channel);
        match peer.child.kill(Signal::TERM) {
            Ok(()) => self.graves.put(Dead::Child(peer.child), peer.name, None, Instant::now()),
            Err(_) => self.bury(peer.child, peer.name, None),
        }
    }

    pub(in crate::parent) fn agentx_ready(&mut self) {
        if Peer::drain(self, |edge| edge.agentx.as_mut(), Self::agentx_says) == Turn::Over {
            return;
        }
        let peer = self.agentx.take();
        self.give_up(None, peer);
        log::error!("agentx ended");
        self.again(Lasting::AgentX);
    }

    fn agentx_says(&mut self, message: ToParent, _: Vec<OwnedFd>) {
        match message {
            ToParent::Connect => self.connect_agentx(),
            ToParent::List { request } => self.list_to_agentx(request),
        }
    }

    fn tell_agentx_context(&mut self) {
        let context = self.snmp.as_ref().and_then(|master| master.context.clone());
        self.tell_agentx(&ToAgentX::Serve { context }, vec![]);
    }

    fn connect_agentx(&mut self) {
        let Some(master) = &self.snmp else { return };
        match connect_to(&master.path) {
            Ok(socket) => self.tell_agentx(&ToAgentX::Connected, vec![socket]),
            Err(failure) => self.tell_agentx(&ToAgentX::NotConnected { failure }, vec![]),
        }
    }

    fn list_to_agentx(&mut self, request: RequestId) {
        let mut rows = self.registry.rows();
        for (row, pid) in &mut rows {
            row.used = pid.and_then(|pid| sys::procfs::resident(pid).ok());
        }
        for some in rows.chunks(MAX_ROWS) {
            let rows: Vec<_> = some.iter().map(|(row, _)| row.clone()).collect();
            let rows = List::try_from(rows).unwrap_or_default(); // a chunk is no longer than that
            self.tell_agentx(&ToAgentX::Vms { request, rows }, vec![]);
        }
        self.tell_agentx(&ToAgentX::VmsEnd { request }, vec![]);
    }

    /// One that does not take it is lost, which its channel tells.
    pub(in crate::parent) fn tell_agentx(&mut self, message: &ToAgentX, fds: Vec<OwnedFd>) {
        let Some(peer) = &mut self.agentx else { return };
        if let Err(error) = peer.channel.send(message, fds) {
            log::debug!("agentx: {error}");
        }
    }
}

/// A stream to the master. It does not wait: a master whose queue is full is tried again like one that is away.
fn connect_to(path: &str) -> Result<OwnedFd, Failure> {
    let failed = |error: Errno| {
        let what = format!("the SNMP master's socket \"{path}\"");
        let hint = match error {
            Errno::NOENT | Errno::CONNREFUSED => " (does the master run, with \"master agentx\" in snmpd.conf?)",
            Errno::AGAIN => " (the master does not accept)",
            _ => "",
        };
        let failure = Failure::io(what, &io::Error::from(error));
        Failure::new(failure.code, format!("{failure}{hint}"))
    };
    let long = |_| Failure::new(Code::Invalid, format!("path \"{path}\": too long for a socket"));
    let address = SocketAddrUnix::new(path).map_err(long)?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed)?;
    connect(&socket, &address).map_err(failed)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_master_that_is_away_or_does_not_accept_is_told_with_its_path_and_never_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master");
        let path = path.to_str().unwrap();
        let fails =
            |path: &str| connect_to(path).err().map(|failure| (failure.code, failure.text.to_string())).unwrap();
        let (code, text) = fails(path);
        assert_eq!(code, Code::NotFound);
        assert!(text.contains(path) && text.contains("master agentx"), "{text}");
        assert_eq!(fails(&"x".repeat(200)).0, Code::Invalid);

        let listener = UnixListener::bind(path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let mut held = Vec::new();
        let full = loop {
            match connect_to(path) {
                Ok(socket) => held.push(socket),
                Err(failure) => break failure,
            }
            assert!(held.len() < 100, "the queue has an end");
        };
        assert!(full.text.contains("does not accept"), "{full}");
        drop(listener);
        assert!(fails(path).1.contains("master agentx"), "a socket that nobody listens on");
    }
}
