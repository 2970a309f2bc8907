//! What the parent wants of priv: bridges and taps, and the end of what is left of them.

use std::os::fd::OwnedFd;

use model::{IfName, SwitchName};
use proto::privileged::{Alias, TapSpec, ToParent, ToPriv};
use proto::{Code, Failure, RequestId};

use crate::parent::edge::{Edge, Token};
use crate::parent::peers::restarts::Lasting;
use crate::parent::peers::turn::Turn;
use crate::parent::peers::{Peer, StartError};
use crate::parent::registry::{Event, Run, Switch};

/// What a request to priv was for.
#[derive(Clone, Debug)]
pub(in crate::parent) enum Wish {
    Sweep,
    Switch(SwitchName, IfName),
    /// `outside`: its guest reaches the outside.
    Tap {
        run: Run,
        nic: u8,
        outside: bool,
    },
    /// A tap to the outside, of a start that was given up.
    Unwanted,
}

impl Edge {
    /// The first thing that a priv is told is to remove what a killed daemon left, until one has done it: then there are
    /// bridges and taps of ours.
    pub(in crate::parent) fn start_privileged(&mut self) -> Result<(), StartError> {
        let started = self.starter.start("priv", None, None)?;
        self.privileged = Some(self.kept(("priv", Token::Privileged), started)?);
        if self.unswept {
            let request = self.wish(Wish::Sweep);
            if let Err(failure) = self.tell_priv(ToPriv::Sweep { request }, vec![]) {
                log::warn!("{failure}");
            }
        }
        Ok(())
    }

    /// What was asked of a dead priv has failed; taps and bridges are still there.
    pub(in crate::parent) fn privileged_lost(&mut self) {
        let peer = self.privileged.take();
        self.give_up(peer);
        log::error!("priv ended");
        let failure = Failure::new(Code::Io, "the priv process ended before it answered; see the log");
        for (_, wish) in std::mem::take(&mut self.wishes) {
            match wish {
                Wish::Sweep | Wish::Unwanted => {}
                Wish::Switch(name, _) => self.event(Event::SwitchMade(name, Err(failure.clone()))),
                Wish::Tap { run, nic, .. } => self.event(Event::TapMade(run, nic, Err(failure.clone()))),
            }
        }
        self.again(Lasting::Privileged);
    }

    pub(in crate::parent) fn privileged_ready(&mut self) {
        if Peer::drain(self, "priv", |edge| edge.privileged.as_mut(), Self::privileged_says) == Turn::Lost {
            self.privileged_lost();
        }
    }

    fn privileged_says(&mut self, message: ToParent, fds: Vec<OwnedFd>) {
        let (request, answer) = match message {
            ToParent::SwitchMade { request, created } => {
                if let (true, Some(Wish::Switch(_, bridge))) = (created, self.wishes.get(&request)) {
                    self.host.ignore_routers_on(bridge);
                    self.bridges = self.bridges.saturating_add(1);
                }
                (request, Ok(None))
            }
            ToParent::TapMade { request, name, mac } => (request, Ok(Some((name, mac)))),
            ToParent::Failed { request, failure } => (request, Err(failure)),
            ToParent::Removed { request } => (request, Ok(None)),
        };
        match (self.wishes.remove(&request), answer) {
            (Some(Wish::Switch(name, _)), answer) => self.event(Event::SwitchMade(name, answer.map(|_| ()))),
            (Some(Wish::Tap { run, nic, outside }), Ok(Some((name, mac)))) => {
                self.host.ignore_routers_on(&name);
                let kept = self.keep(fds).map(|tap| {
                    if let (Some(tap), Some(holdings)) = (tap, self.holdings.get_mut(&run.vm)) {
                        holdings.taps.insert(nic, tap);
                        holdings.tap_macs.insert(nic, mac);
                        holdings.outside.extend(outside.then(|| name.clone()));
                    }
                    name
                });
                self.event(Event::TapMade(run, nic, kept));
            }
            (Some(Wish::Tap { run, nic, .. }), Err(failure)) => self.event(Event::TapMade(run, nic, Err(failure))),
            (Some(Wish::Sweep), answer) => {
                self.unswept = false;
                if let Err(failure) = answer {
                    log::warn!("leftovers of an earlier daemon: {failure}");
                }
            }
            (Some(Wish::Tap { .. }), Ok(None)) => log::error!("priv: a tap without its name"),
            // What comes for a start that was given up is closed here, and so undone.
            (Some(Wish::Unwanted), Ok(Some((name, _)))) => {
                drop(fds);
                self.tap_gone(name);
            }
            (None | Some(Wish::Unwanted), _) => log::debug!("priv: an answer came to a request that was given up"),
        }
    }

    pub(in crate::parent) fn make_switch(&mut self, switch: Switch) -> Option<Event> {
        let Switch { id, spec } = switch;
        let request = self.wish(Wish::Switch(spec.name.clone(), spec.interface.clone()));
        let alias = Alias::cut(&format!("switch{id}-{}", spec.name));
        let message = ToPriv::MakeSwitch { request, bridge: spec.interface, alias, up: spec.up, rdomain: spec.rdomain };
        let failure = self.tell_priv(message, vec![]).err()?;
        self.wishes.remove(&request);
        Some(Event::SwitchMade(spec.name, Err(failure)))
    }

    pub(in crate::parent) fn make_tap(&mut self, run: Run, nic: u8, tap: TapSpec) -> Option<Event> {
        self.holdings.entry(run.vm).or_default();
        let outside = tap.local.is_some_and(|local| local.nat);
        let request = self.wish(Wish::Tap { run, nic, outside });
        let sent = self
            .host
            .open_tun()
            .map_err(|error| Failure::io("/dev/net/tun (is the module tun loaded?)", &error))
            .and_then(|tun| self.tell_priv(ToPriv::MakeTap { request, tap }, vec![tun]));
        let failure = sent.err()?;
        self.wishes.remove(&request);
        Some(Event::TapMade(run, nic, Err(failure)))
    }

    /// A start was given up: what is still made for it is nobody's.
    pub(in crate::parent) fn give_up_taps(&mut self, run: Run) {
        for wish in self.wishes.values_mut() {
            if matches!(wish, Wish::Tap { run: of, outside: true, .. } if *of == run) {
                *wish = Wish::Unwanted;
            }
        }
        self.wishes.retain(|_, wish| !matches!(wish, Wish::Tap { run: of, .. } if *of == run));
    }

    /// The name is free for any other interface: what lets it through must not stay. A priv that is gone had no more to say
    /// in it; the next one does it with its first tap, or at the end.
    pub(in crate::parent) fn tap_gone(&mut self, name: IfName) {
        if let Err(failure) = self.tell_priv(ToPriv::TapGone { name }, vec![]) {
            log::debug!("{failure}");
        }
    }

    fn wish(&mut self, wish: Wish) -> RequestId {
        self.next_wish = self.next_wish.wrapping_add(1);
        self.wishes.insert(RequestId(self.next_wish), wish);
        RequestId(self.next_wish)
    }

    pub(in crate::parent) fn tell_priv(&mut self, message: ToPriv, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let gone = || Failure::new(Code::Io, "the priv process does not run");
        let peer = self.privileged.as_mut().ok_or_else(gone)?;
        if let Err(error) = peer.channel.send(&message, fds) {
            log::error!("priv: {error}"); // that it is lost its channel says, and who asked is told then
        }
        Ok(())
    }
}
