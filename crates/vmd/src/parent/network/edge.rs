//! priv, as the parent speaks with it: carries out what `wishes.rs` decides.

use std::os::fd::{AsFd, OwnedFd};

use proto::Failure;
use proto::privileged::{ToParent, ToPriv};

use super::wishes::{self, Action};
use super::{filtered, others};
use crate::parent::edge::{Edge, Token};
use crate::parent::peers::restarts::Lasting;
use crate::parent::peers::turn::Turn;
use crate::parent::peers::{Peer, StartError};
use crate::parent::registry::Event;

impl Edge {
    pub(in crate::parent) fn start_privileged(&mut self) -> Result<(), StartError> {
        let extras: Vec<_> = self.host.tables.iter().map(AsFd::as_fd).collect();
        let started = self.starter.start("priv", &extras, None)?;
        self.privileged = Some(self.kept(Token::Privileged, started)?);
        self.wish(wishes::Event::Started);
        Ok(())
    }

    pub(in crate::parent) fn privileged_ready(&mut self) {
        if Peer::drain(self, |edge| edge.privileged.as_mut(), Self::privileged_says) == Turn::Over {
            return;
        }
        let peer = self.privileged.take();
        self.give_up(None, peer);
        log::error!("priv ended");
        for event in self.wish(wishes::Event::Lost) {
            self.event(event);
        }
        self.again(Lasting::Privileged);
    }

    fn privileged_says(&mut self, message: ToParent, fds: Vec<OwnedFd>) {
        for event in self.wished(wishes::Event::Said(message), fds) {
            self.event(event);
        }
    }

    /// Tells the machine, does what it wants, and gives what the registry is to know.
    pub(in crate::parent) fn wish(&mut self, event: wishes::Event) -> Vec<Event> {
        self.wished(event, vec![])
    }

    fn wished(&mut self, event: wishes::Event, mut fds: Vec<OwnedFd>) -> Vec<Event> {
        let mut happened = Vec::new();
        for action in self.wishes.handle(event) {
            log::debug!("action: {action:?}");
            match action {
                Action::Tell(message) => self.tell_priv(&message, vec![]),
                Action::AskForTap(request, tap) => match self.host.open_tun() {
                    Ok(tun) => {
                        let filtered = tap.bridge.is_some() && filtered::frames_are_filtered();
                        self.tell_priv(&ToPriv::MakeTap { request, tap, filtered }, vec![tun]);
                    }
                    Err(error) => {
                        let failure = Failure::io("/dev/net/tun (is the module tun loaded?)", &error);
                        happened.extend(self.wish(wishes::Event::NotAsked(request, failure)));
                    }
                },
                Action::AskToLook => {
                    let filtered = filtered::frames_are_filtered();
                    self.tell_priv(&ToPriv::Look { filtered }, vec![]);
                }
                Action::SayPutBack(name, undone, gave_up) => {
                    let text = others::put_back(&name, undone, gave_up, &others::that_run());
                    sys::guest_log!(Warn, "{text}");
                }
                Action::IgnoreRouters(interface) => self.host.ignore_routers_on(&interface),
                Action::Hold { run, nic, name, mac, outside } => {
                    let kept = self.keep(std::mem::take(&mut fds)).map(|tap| {
                        if let (Some(tap), Some(holdings)) = (tap, self.holdings.get_mut(&run.vm)) {
                            holdings.taps.insert(nic, tap);
                            holdings.tap_macs.insert(nic, mac);
                            holdings.outside.extend(outside.then(|| name.clone()));
                        }
                        name
                    });
                    happened.push(Event::TapMade(run, nic, kept));
                }
                Action::Close => fds.clear(),
                Action::Switch(name, made) => happened.push(Event::SwitchMade(name, made)),
                Action::NoTap(run, nic, failure) => happened.push(Event::TapMade(run, nic, Err(failure))),
                Action::Warn(text) => sys::guest_log!(Warn, "{text}"),
            }
        }
        happened
    }

    /// That it is lost its channel says, and who asked is told then.
    fn tell_priv(&mut self, message: &ToPriv, fds: Vec<OwnedFd>) {
        self.privileged.as_mut().map(|peer| peer.tell(message, fds));
    }
}
