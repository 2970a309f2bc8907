//! What is wished of priv: bridges and taps, and the end of what is left of them. From the wish to its answer. Pure: no
//! descriptor, no log.
//!
//! ```text
//!   Switch ──► wished ──SwitchMade──────► the registry is told
//!   Tap ─────► wished ──TapMade─────────► held, the registry is told
//!                │ GivenUp
//!                ▼
//!        forgotten; Unwanted where it leads outside ──TapMade──► closed, and nothing lets its name through
//! ```

use std::collections::BTreeMap;

use model::{IfName, MacAddr, SwitchName};
use proto::privileged::{Alias, TapSpec, ToParent, ToPriv, Undone};
use proto::{Code, Failure, RequestId};

use crate::parent::registry::{Run, Switch};

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// priv was started, for the first time or again.
    Started,
    /// priv is gone.
    Lost,
    /// A bridge is wished.
    Switch(Switch),
    /// A switch is in vm.conf no more: its bridge is to go once nobody uses it.
    NoSwitch(IfName),
    /// All that was made is to be looked at, as when vm.conf was read again.
    Look,
    /// A tap is wished, for a card of a start.
    Tap(Run, u8, TapSpec),
    /// It could not be asked for.
    NotAsked(RequestId, Failure),
    /// A start was given up: what is still made for it is nobody's.
    GivenUp(Run),
    /// A tap to the outside that was held is closed.
    TapClosed(IfName),
    /// How much priv is to log; one that is started later knows.
    Verbose(bool),
    /// priv says this. A tap's descriptor is with the edge, and is closed unless it is to be held.
    Said(ToParent),
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Tell priv.
    Tell(ToPriv),
    /// Ask priv for a tap, with a descriptor of /dev/net/tun; without one, `NotAsked`.
    AskForTap(RequestId, TapSpec),
    /// Ask priv to look at all that was made, with what the host does with frames within bridges.
    AskToLook,
    /// Say what another program did to an interface, and who that may be.
    SayPutBack(IfName, Undone, bool),
    /// Keep the host from believing routers there.
    IgnoreRouters(IfName),
    /// Hold the tap that came for a card, and tell the registry whether there was room.
    Hold {
        /// For which start.
        run: Run,
        /// Index of the card.
        nic: u8,
        /// Its name.
        name: IfName,
        /// The address of the host's side.
        mac: MacAddr,
        /// Its guest reaches the outside.
        outside: bool,
    },
    /// Close the tap that came.
    Close,
    /// A bridge is there, or not.
    Switch(SwitchName, Result<(), Failure>),
    /// A tap could not be made.
    NoTap(Run, u8, Failure),
    /// Warn.
    Warn(String),
}

/// What a request to priv was for.
#[derive(Clone, Debug)]
enum Wish {
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

/// All that is wished and not answered.
#[derive(Debug, Default)]
pub struct Wishes {
    runs: bool,
    swept: bool,
    of: BTreeMap<RequestId, Wish>,
    last: u32,
    /// Bridges that were made; each takes the kernel a while to remove.
    pub bridges: u32,
}

impl Wishes {
    /// One step.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Started => self.started(),
            Event::Lost => self.lost(),
            Event::Switch(switch) => self.switch(switch),
            Event::NoSwitch(bridge) => self.tell(ToPriv::RemoveSwitch { bridge }),
            Event::Look if self.runs => vec![Action::AskToLook],
            Event::Look => vec![], // the next one looks at its start
            Event::Tap(run, nic, tap) => self.tap(run, nic, tap),
            Event::NotAsked(request, failure) => {
                self.of.remove(&request).map(|wish| self.failed(wish, failure)).unwrap_or_default()
            }
            Event::GivenUp(run) => self.given_up(run),
            // A priv that is gone had no more to say in it; the next does it with its first tap, or at the end.
            Event::TapClosed(name) => self.tell(ToPriv::TapGone { name }),
            Event::Verbose(debug) => self.tell(ToPriv::Verbose { debug }),
            Event::Said(message) => self.said(message),
        }
    }

    /// The first thing that a priv is told is to remove what a killed daemon left, until one has done it: then there are
    /// bridges and taps of ours.
    fn started(&mut self) -> Vec<Action> {
        self.runs = true;
        if self.swept {
            return vec![];
        }
        let request = self.wish(Wish::Sweep);
        self.tell(ToPriv::Sweep { request })
    }

    /// What was asked of a dead priv has failed; taps and bridges are still there.
    fn lost(&mut self) -> Vec<Action> {
        self.runs = false;
        let failure = Failure::new(Code::Io, "the priv process ended before it answered; see the log");
        std::mem::take(&mut self.of).into_values().filter_map(|wish| told(wish, failure.clone())).collect()
    }

    fn switch(&mut self, switch: Switch) -> Vec<Action> {
        let Switch { id, spec, maker } = switch;
        let wish = Wish::Switch(spec.name.clone(), spec.interface.clone());
        if !self.runs {
            return self.failed(wish, gone());
        }
        let request = self.wish(wish);
        let alias = Alias::cut(&format!("switch{id}-{}", spec.name));
        let external = spec.external || maker.is_some();
        let (bridge, up, rdomain) = (spec.interface, spec.up, spec.rdomain);
        self.tell(ToPriv::MakeSwitch { request, bridge, alias, external, up, rdomain })
    }

    fn tap(&mut self, run: Run, nic: u8, tap: TapSpec) -> Vec<Action> {
        let wish = Wish::Tap { run, nic, outside: tap.local.is_some_and(|local| local.nat) };
        if !self.runs {
            return self.failed(wish, gone());
        }
        vec![Action::AskForTap(self.wish(wish), tap)]
    }

    fn given_up(&mut self, run: Run) -> Vec<Action> {
        self.of.retain(|_, wish| {
            let Wish::Tap { run: of, outside, .. } = *wish else { return true };
            if of == run && outside {
                *wish = Wish::Unwanted;
            }
            of != run || outside
        });
        vec![]
    }

    fn said(&mut self, message: ToParent) -> Vec<Action> {
        if let ToParent::PutBack { name, undone, gave_up } = message {
            return vec![Action::SayPutBack(name, undone, gave_up)];
        }
        // Without a wish it answers what was given up.
        let Some(wish) = request_of(&message).and_then(|request| self.of.remove(&request)) else { return vec![] };
        match (wish, message) {
            (Wish::Switch(name, bridge), ToParent::SwitchMade { created, .. }) => {
                let made = Action::Switch(name, Ok(()));
                if !created {
                    return vec![made];
                }
                self.bridges = self.bridges.saturating_add(1);
                vec![Action::IgnoreRouters(bridge), made]
            }
            (Wish::Tap { run, nic, outside }, ToParent::TapMade { name, mac, .. }) => {
                vec![Action::IgnoreRouters(name.clone()), Action::Hold { run, nic, name, mac, outside }]
            }
            // The name is free for any other interface then: what lets it through must not stay.
            (Wish::Unwanted, ToParent::TapMade { name, .. }) => {
                [vec![Action::Close], self.tell(ToPriv::TapGone { name })].concat()
            }
            (Wish::Sweep, ToParent::Removed { .. }) => {
                self.swept = true;
                vec![]
            }
            (wish, ToParent::Failed { failure, .. }) => self.failed(wish, failure),
            (
                wish,
                ToParent::SwitchMade { .. }
                | ToParent::TapMade { .. }
                | ToParent::Removed { .. }
                | ToParent::PutBack { .. },
            ) => self.failed(wish, Failure::new(Code::Io, "priv gave an answer to another question")),
        }
    }

    fn failed(&mut self, wish: Wish, failure: Failure) -> Vec<Action> {
        if matches!(wish, Wish::Sweep) {
            self.swept = true; // as far as it goes
            return vec![Action::Warn(format!("leftovers of an earlier daemon: {failure}"))];
        }
        told(wish, failure).into_iter().collect()
    }

    fn tell(&self, message: ToPriv) -> Vec<Action> {
        if self.runs { vec![Action::Tell(message)] } else { vec![] }
    }

    fn wish(&mut self, wish: Wish) -> RequestId {
        self.last = self.last.wrapping_add(1);
        self.of.insert(RequestId(self.last), wish);
        RequestId(self.last)
    }
}

fn gone() -> Failure {
    Failure::new(Code::Io, "the priv process does not run")
}

/// What the registry learns when a wish fails.
fn told(wish: Wish, failure: Failure) -> Option<Action> {
    match wish {
        Wish::Switch(name, _) => Some(Action::Switch(name, Err(failure))),
        Wish::Tap { run, nic, .. } => Some(Action::NoTap(run, nic, failure)),
        Wish::Sweep | Wish::Unwanted => None,
    }
}

fn request_of(message: &ToParent) -> Option<RequestId> {
    match message {
        ToParent::SwitchMade { request, .. }
        | ToParent::TapMade { request, .. }
        | ToParent::Removed { request }
        | ToParent::Failed { request, .. } => Some(*request),
        ToParent::PutBack { .. } => None,
    }
}

#[cfg(test)]
mod tests;
