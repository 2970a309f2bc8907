//! control, as the parent speaks with it: who connects, what they ask, what they are answered.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use proto::client::Reply;
use proto::{ConnId, control};
use sys::event::Interest;

use super::restarts::Lasting;
use super::{Control, StartError};
use crate::parent::edge::{Edge, Got, Token, rearm, receive};
use crate::parent::registry::access::Who;
use crate::parent::registry::{Asked, Event};

/// Connections of one user, root apart. Control has places for 256 in all.
const MAX_CONNECTIONS: usize = 64;

impl Edge {
    pub(in crate::parent) fn start_control(&mut self) -> Result<(), StartError> {
        let (peer, log): (Control, _) = self.starter.start("control", Some(self.listener.as_fd()), None)?;
        let watched = self.events.add(&peer.channel, Token::Control, Interest::Read);
        let peer = self.kept(peer, watched)?;
        self.control = Some(peer);
        self.watch_log("control".to_owned(), log);
        Ok(())
    }

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

    pub(in crate::parent) fn control_ready(&mut self) {
        loop {
            let Some(peer) = &mut self.control else { return };
            match receive(&mut peer.channel, "control", &mut self.reserve) {
                Got::Message(message, fds) => {
                    self.control_says(message, fds);
                    self.reserve.fill();
                }
                Got::Nothing => break,
                Got::Lost => return self.control_lost(),
            }
        }
        let peer = self.control.as_ref();
        rearm(&mut self.events, peer.map(|peer| &peer.channel));
    }

    fn control_says(&mut self, message: control::ToParent, mut fds: Vec<OwnedFd>) {
        match message {
            control::ToParent::Connected { conn } => {
                let peer = fds.pop().ok_or(io::ErrorKind::NotFound.into()).and_then(sys::creds::Peer::of);
                match peer {
                    Ok(peer) => {
                        self.connected(conn, Who { uid: peer.uid, gid: peer.gid, groups: peer.groups });
                    }
                    Err(error) => {
                        log::warn!("credentials of a client: {error}");
                        self.tell_control(control::ToControl::Disconnect { conn });
                    }
                }
            }
            control::ToParent::Ask { conn, id, request } => {
                let Some(who) = self.clients.get(&conn).cloned() else {
                    return self.tell_control(control::ToControl::Disconnect { conn });
                };
                match self.keep(fds) {
                    Ok(kernel) => self.kernels.extend(kernel.map(|kernel| ((conn, id), kernel))),
                    Err(failure) => {
                        let reply = Reply::Failed(failure);
                        return self.tell_control(control::ToControl::Answer { conn, id, reply });
                    }
                }
                let random = u64::from_le_bytes(self.host.random());
                self.event(Event::Ask { asked: Asked { conn, id }, who, request, random });
                self.kernels.remove(&(conn, id));
            }
            control::ToParent::Gone { conn } => {
                self.clients.remove(&conn);
                self.event(Event::Gone(conn));
            }
        }
    }

    /// A user with too many connections gets no more: control's places are for all users.
    fn connected(&mut self, conn: ConnId, who: Who) {
        let held = self.clients.values().filter(|other| other.uid == who.uid).count();
        if held >= MAX_CONNECTIONS && !who.is_root() {
            log::warn!("uid {} has {held} connections; one more is refused", who.uid);
            return self.tell_control(control::ToControl::Disconnect { conn });
        }
        self.clients.insert(conn, who);
    }

    pub(in crate::parent) fn answer(&mut self, asked: Asked, mut reply: Reply) -> Vec<Event> {
        if let Reply::Vms(lines) = &mut reply {
            for line in lines.iter_mut() {
                line.used = line.pid.and_then(|pid| sys::procfs::resident(pid).ok());
            }
        }
        self.tell_control(control::ToControl::Answer { conn: asked.conn, id: asked.id, reply });
        vec![]
    }

    pub(in crate::parent) fn tell_control(&mut self, message: control::ToControl) {
        let Some(peer) = &mut self.control else { return };
        let sent = peer.channel.send(&message, vec![]);
        rearm(&mut self.events, Some(&peer.channel));
        if let Err(error) = sent {
            log::error!("control: {error}");
        }
    }
}
