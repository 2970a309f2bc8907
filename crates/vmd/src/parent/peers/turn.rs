//! How the parent reads every channel: a bounded number of messages of one peer, then the others have their turn. The loop
//! is told again of what is left. Of a peer that does not take its answers no more questions are taken.

use std::os::fd::OwnedFd;

use proto::Received;
use proto::channel::Message;
use sys::event::{Interest, Loop};

use super::Peer;
use super::reserve::Reserve;

/// Messages of one peer that are heard in one turn.
pub const TURN: usize = 16;

/// Who hears peers. It keeps descriptors in reserve, so that no message is lost for want of them.
pub trait Hearer {
    /// Its reserve.
    fn reserve(&mut self) -> &mut Reserve;
}

/// What a turn ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There may be more to hear, now or later.
    Over,
    /// The peer is gone, or says nonsense, which is as bad.
    Lost,
}

enum Heard<Rx> {
    Message(Rx, Vec<OwnedFd>),
    Nothing,
    Lost,
}

impl<Tx: Message, Rx: Message> Peer<Tx, Rx> {
    /// Sends what waits for the peer that `find` gives, then hears it for one turn: `says` gets each message.
    pub fn drain<H: Hearer>(
        hearer: &mut H,
        find: impl Fn(&mut H) -> Option<&mut Self>,
        says: impl Fn(&mut H, Rx, Vec<OwnedFd>),
    ) -> Turn {
        for _ in 0..TURN {
            hearer.reserve().give_way();
            let heard = find(hearer).map_or(Heard::Nothing, Self::hear);
            // The descriptors of a message have the room that gave way until it has been dealt with.
            if !matches!(&heard, Heard::Message(_, fds) if !fds.is_empty()) {
                hearer.reserve().fill();
            }
            match heard {
                Heard::Message(message, fds) => says(hearer, message, fds),
                Heard::Nothing => return Turn::Over,
                Heard::Lost => return Turn::Lost,
            }
            hearer.reserve().fill();
        }
        Turn::Over
    }

    fn hear(&mut self) -> Heard<Rx> {
        let flushed = self.channel.flush();
        if flushed.is_ok() && !self.is_heard() {
            return Heard::Nothing;
        }
        match flushed.and_then(|()| self.channel.recv()) {
            Ok(Received::Message(message, fds)) => Heard::Message(message, fds),
            Ok(Received::Empty) => Heard::Nothing,
            Ok(Received::Closed) => Heard::Lost,
            Err(error) => {
                sys::guest_log!(Error, "{}: {error}", self.name);
                Heard::Lost
            }
        }
    }

    fn is_heard(&self) -> bool {
        !(self.asks && self.channel.wants_write())
    }

    /// Has the loop tell what there is to do with this peer: to be called before it waits.
    pub fn watch<T: Copy>(&mut self, events: &mut Loop<T>) {
        let interest = Interest::of(self.is_heard(), self.channel.wants_write());
        if interest != self.watched {
            match events.change(&self.channel, interest) {
                Ok(()) => self.watched = interest,
                Err(error) => log::error!("event loop: {error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    use proto::channel;
    use proto::control::{ToControl, ToParent};
    use proto::{Channel, ConnId};
    use sys::exe::Executable;
    use sys::spawn::Spawn;

    type Control = Peer<ToControl, ToParent>;

    /// A parent with one peer, and what it heard.
    struct House {
        peer: Option<Control>,
        reserve: Reserve,
        heard: std::cell::RefCell<Vec<u64>>,
    }

    impl Hearer for House {
        fn reserve(&mut self) -> &mut Reserve {
            &mut self.reserve
        }
    }

    impl House {
        fn new(asks: bool) -> (Self, Channel<ToParent, ToControl>) {
            let exe = Executable::from_fd(File::open("/bin/true").unwrap().into());
            let child = Spawn::new(&exe, &["true"]).spawn().unwrap();
            let (ours, theirs) = channel::pair().unwrap();
            let peer = Peer { name: "control", child, channel: ours.patient(), asks, watched: Interest::Read };
            let reserve = Reserve::new(File::open("/dev/null").unwrap().into()).unwrap();
            (Self { peer: Some(peer), reserve, heard: Vec::new().into() }, theirs.patient())
        }

        /// What one turn heard.
        fn turn(&mut self) -> (Vec<u64>, Turn) {
            let turn = Peer::drain(
                self,
                |house| house.peer.as_mut(),
                |house, message, _| {
                    let ToParent::Gone { conn } = message else { panic!("{message:?}") };
                    house.heard.borrow_mut().push(conn.0);
                },
            );
            (self.heard.take(), turn)
        }
    }

    fn gone(conn: u64) -> ToParent {
        ToParent::Gone { conn: ConnId(conn) }
    }

    #[test]
    fn a_flood_is_heard_turn_by_turn_in_order_and_to_its_end() {
        let (mut house, mut control) = House::new(true);
        (0..40).for_each(|number| control.send(&gone(number), vec![]).unwrap());
        // Not closed alone: a child that another test starts may have a copy until it executes its program.
        rustix::net::shutdown(&control, rustix::net::Shutdown::Both).unwrap();
        assert_eq!(house.turn(), ((0..16).collect(), Turn::Over));
        assert_eq!(house.turn(), ((16..32).collect(), Turn::Over));
        assert_eq!(house.turn(), ((32..40).collect(), Turn::Lost), "its last words come before its end");
    }

    #[test]
    fn who_has_nothing_to_say_or_is_not_there_ends_its_turn() {
        let (mut house, mut control) = House::new(true);
        assert_eq!(house.turn(), (vec![], Turn::Over));
        control.send(&gone(1), vec![]).unwrap();
        assert_eq!(house.turn(), (vec![1], Turn::Over));
        house.peer = None;
        assert_eq!(house.turn(), (vec![], Turn::Over));
    }

    #[test]
    fn nonsense_is_as_bad_as_the_end() {
        let (mut house, control) = House::new(true);
        rustix::net::send(&control, &[200], rustix::net::SendFlags::empty()).unwrap();
        assert_eq!(house.turn(), (vec![], Turn::Lost));
    }

    /// Fills the socket and the queue behind it, and asks something: what a turn hears then, and when all was read.
    fn behind(asks: bool) -> [Vec<u64>; 2] {
        let (mut house, mut control) = House::new(asks);
        let mut events = Loop::new().unwrap();
        let peer = house.peer.as_mut().unwrap();
        events.add(&peer.channel, (), Interest::Read).unwrap();
        while !peer.channel.wants_write() {
            peer.channel.send(&ToControl::Verbose { debug: true }, vec![]).unwrap();
        }
        (0..300).for_each(|_| peer.channel.send(&ToControl::Verbose { debug: true }, vec![]).unwrap());
        control.send(&gone(1), vec![]).unwrap();
        peer.watch(&mut events);
        assert_eq!(peer.watched, if asks { Interest::Write } else { Interest::ReadWrite });
        let first = house.turn().0;
        while house.peer.as_ref().unwrap().channel.wants_write() {
            while let Received::Message(..) = control.recv().unwrap() {}
            house.peer.as_mut().unwrap().channel.flush().unwrap();
        }
        let then = house.turn().0;
        let peer = house.peer.as_mut().unwrap();
        peer.watch(&mut events);
        assert_eq!(peer.watched, Interest::Read);
        [first, then]
    }

    #[test]
    fn who_asks_and_is_behind_with_the_answers_is_heard_when_it_has_taken_them() {
        assert_eq!(behind(true), [vec![], vec![1]]);
    }

    #[test]
    fn who_answers_is_heard_also_while_it_is_behind() {
        assert_eq!(behind(false), [vec![1], vec![]]);
    }
}
