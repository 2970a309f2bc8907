//! control, as the parent speaks with it: who connects, what they ask, what they are answered.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use proto::client::{Reply, SOCKET_PATH};
use proto::{ConnId, control};

use super::restarts::Lasting;
use super::turn::Turn;
use super::{Peer, StartError};
use crate::parent::edge::{Edge, Token};
use crate::parent::registry::access::Who;
use crate::parent::registry::{Asked, Event};

impl Edge {
    pub(in crate::parent) fn start_control(&mut self) -> Result<(), StartError> {
        let started = self.starter.start("control", &[self.socket.as_fd()], None)?;
        self.control = Some(self.kept(Token::Control, started)?.asking());
        Ok(())
    }

    /// Something left the directory of the control socket or came there, or it is time to look: a socket that was made anew is
    /// for control, which takes those first who wait at the old one.
    pub(in crate::parent) fn keep_socket(&mut self) {
        self.reserve.give_all();
        let kept = self.socket.keep(&mut self.events, Token::Names, Instant::now());
        self.reserve.fill();
        if let Some(trouble) = kept.trouble {
            sys::guest_log!(Error, "{trouble}");
        }
        if let Some(socket) = kept.anew {
            sys::guest_log!(Warn, "control socket {SOCKET_PATH}: it was removed, and is made anew");
            self.control.as_mut().map(|peer| peer.tell(&control::ToControl::Listen, vec![socket]));
        }
    }

    /// Clients of a dead control are disconnected; VMs run on.
    pub(in crate::parent) fn control_ready(&mut self) {
        if Peer::drain(self, |edge| edge.control.as_mut(), Self::control_says) == Turn::Over {
            return;
        }
        let peer = self.control.take();
        self.give_up(None, peer);
        for (conn, _) in std::mem::take(&mut self.clients) {
            self.event(Event::Gone(conn));
        }
        log::error!("control ended; its clients are disconnected");
        self.again(Lasting::Control);
    }

    fn control_says(&mut self, message: control::ToParent, mut fds: Vec<OwnedFd>) {
        match message {
            control::ToParent::Connected { conn } => {
                let peer = fds.pop().ok_or(io::ErrorKind::NotFound.into()).and_then(sys::creds::Peer::of);
                match peer {
                    Ok(peer) => self.connected(conn, Who { uid: peer.uid, gid: peer.gid, groups: peer.groups }),
                    Err(error) => {
                        sys::guest_log!(Warn, "credentials of a client: {error}");
                        self.tell_control(&control::ToControl::Disconnect { conn });
                    }
                }
            }
            control::ToParent::Ask { conn, id, request } => {
                let Some(who) = self.clients.get(&conn).cloned() else {
                    return self.tell_control(&control::ToControl::Disconnect { conn });
                };
                let kernel = match self.keep(fds) {
                    Ok(kernel) => kernel,
                    Err(failure) => return self.answer(Asked { conn, id }, Reply::Failed(failure)),
                };
                self.happened(Event::Ask { asked: Asked { conn, id }, who, request }, kernel);
            }
            control::ToParent::Gone { conn } => {
                self.clients.remove(&conn);
                self.event(Event::Gone(conn));
            }
        }
    }

    fn connected(&mut self, conn: ConnId, who: Who) {
        if let Err(why) = who.may_connect(self.clients.values()) {
            sys::log::by_user(log::Level::Warn, who.uid, format_args!("{why}"));
            return self.tell_control(&control::ToControl::Disconnect { conn });
        }
        self.clients.insert(conn, who);
    }

    pub(in crate::parent) fn answer(&mut self, asked: Asked, mut reply: Reply) {
        if let Reply::Vms(lines) = &mut reply {
            for line in lines.iter_mut() {
                line.used = line.pid.and_then(|pid| sys::procfs::resident(pid).ok());
            }
        }
        self.tell_control(&control::ToControl::Answer { conn: asked.conn, id: asked.id, reply });
    }

    pub(in crate::parent) fn tell_control(&mut self, message: &control::ToControl) {
        self.control.as_mut().map(|peer| peer.tell(message, vec![]));
    }
}
