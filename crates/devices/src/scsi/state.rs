//! What of the drive's process must outlive it: for a pause, a migration, a restart. The medium comes as a descriptor, the
//! rings' part is `Vring::save`, and nothing is under way once the queues have stopped.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::answers::Event;
use super::drive::Drive;

/// The format's number; another is refused.
const VERSION: u32 = 1;

/// Bits of `flags`; the event's number lies above them.
const OPEN: u32 = 1;
const LOCKED: u32 = 2;
const RESET: u32 = 4;
const CHANGED: u32 = 8;
const EVENT_SHIFT: u32 = 8;

/// The state of the drive and of its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// What the driver accepted.
    pub features: u64,
    flags: u32,
}

/// As it is stored: little-endian on every machine that runs this (x86-64).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Stored {
    version: u32,
    flags: u32,
    features: u64,
}

impl State {
    /// Of a drive.
    pub(super) fn of(features: u64, drive: &Drive) -> State {
        let bit = |is: bool, bit: u32| if is { bit } else { 0 };
        let event = drive.event.map_or(0, |event| u32::from(event as u8));
        let flags = bit(drive.open, OPEN)
            | bit(drive.locked, LOCKED)
            | bit(drive.reset, RESET)
            | bit(drive.changed, CHANGED)
            | event << EVENT_SHIFT;
        State { features, flags }
    }

    /// Makes a drive that has its medium what the saved one was.
    pub(super) fn apply(&self, drive: &mut Drive) {
        let is = |bit: u32| self.flags & bit != 0;
        (drive.open, drive.locked) = (is(OPEN), is(LOCKED));
        (drive.reset, drive.changed) = (is(RESET), is(CHANGED));
        drive.event = u8::try_from(self.flags >> EVENT_SHIFT).ok().and_then(Event::of);
    }

    /// The same where what was about to be told to the driver may not have reached it: it is told then, perhaps twice.
    pub(super) fn with_untold(self, before: &State) -> State {
        let event = if self.flags >> EVENT_SHIFT == 0 { before.flags >> EVENT_SHIFT << EVENT_SHIFT } else { 0 };
        State { flags: self.flags | before.flags & (RESET | CHANGED) | event, ..self }
    }

    /// The drive's part as a word, which is never 0.
    pub(super) fn word(&self) -> u64 {
        let [word, _]: [u64; 2] = zerocopy::transmute!(self.save());
        word
    }

    /// The state of a word; none where it is no such.
    pub(super) fn of_word(word: u64) -> Option<State> {
        let bytes: [u8; 16] = zerocopy::transmute!([word, 0]);
        State::restore(&bytes)
    }

    /// The state as bytes.
    pub fn save(&self) -> [u8; 16] {
        let stored = Stored { version: VERSION, flags: self.flags, features: self.features };
        zerocopy::transmute!(stored)
    }

    /// The state that `save` gave; none where the bytes are not such.
    pub fn restore(bytes: &[u8]) -> Option<State> {
        let stored = Stored::read_from_bytes(bytes).ok()?;
        let event = stored.flags >> EVENT_SHIFT;
        let is_event = event == 0 || u8::try_from(event).ok().and_then(Event::of).is_some();
        let known = stored.flags & 0xFF & !(OPEN | LOCKED | RESET | CHANGED) == 0 && is_event;
        let state = State { features: stored.features, flags: stored.flags };
        (stored.version == VERSION && known).then_some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_as_it_was() {
        for flags in 0..16u8 {
            for event in [None, Some(Event::EjectRequest), Some(Event::NewMedium), Some(Event::Removed)] {
                let is = |bit: u8| flags & bit != 0;
                let mut drive = Drive::new(b"cdrom0-web", Some(9), is(1));
                (drive.locked, drive.reset, drive.changed, drive.event) = (is(2), is(4), is(8), event);
                let bytes = State::of(1 << 32, &drive).save();
                let state = State::restore(&bytes).unwrap();
                assert_eq!(State::of_word(state.word()), Some(State { features: 0, ..state.clone() }));
                let mut other = Drive::new(b"cdrom0-web", Some(9), false);
                state.apply(&mut other);
                assert_eq!((other, state.features), (drive, 1 << 32));
            }
        }
    }

    #[test]
    fn what_is_not_told_yet_is_kept_until_it_is() {
        let drive = |changed, event| {
            let mut drive = Drive::new(b"", Some(9), true);
            (drive.changed, drive.event) = (changed, event);
            drive
        };
        let before = State::of(0, &drive(true, Some(Event::NewMedium)));
        let mut kept = Drive::new(b"", Some(9), false);
        State::of(0, &drive(false, None)).with_untold(&before).apply(&mut kept);
        assert_eq!(kept, drive(true, Some(Event::NewMedium)));
        State::of(0, &drive(false, Some(Event::Removed))).with_untold(&before).apply(&mut kept);
        assert_eq!(kept, drive(true, Some(Event::Removed)));
        assert_eq!(State::of_word(0), None, "nothing was kept");
    }

    #[test]
    fn other_bytes_are_refused() {
        let good = State::of(0, &Drive::new(b"", None, false)).save();
        assert_eq!(State::restore(&good[..15]), None);
        for (at, value) in [(0, 2), (4, 0x10), (5, 4), (6, 1), (7, 1)] {
            let mut bytes = good;
            bytes[at] = value;
            assert_eq!(State::restore(&bytes), None, "{at}");
        }
    }
}
