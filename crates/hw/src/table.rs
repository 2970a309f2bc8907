//! Which chip answers where, worked out once from what the chips say: a look-up costs a few comparisons and no memory.

use crate::chip::{At, Place};
use crate::effect::{Slot, Timer};
use crate::pci::address::{ConfigRegister, SLOTS};

/// Who answers an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Which chip, in the order in which they were given.
    pub chip: usize,
    /// What the access means to it.
    pub at: At,
    /// The slot of the function whose configuration space it is, if it is one: a write may move its BAR.
    pub config: Option<Slot>,
}

/// A chip's place: the chip, and which of its places.
type Placed = (usize, usize);

/// The table.
#[derive(Debug, Default)]
pub struct Table {
    /// First and last port, ascending; no port is in two of them.
    ports: Vec<(u16, u16, Placed)>,
    config: [Option<Placed>; SLOTS as usize],
    bar0: [Option<Placed>; SLOTS as usize],
    timers: Vec<(Timer, usize)>,
}

impl Table {
    /// The table of chips that answer in these places.
    pub fn new(chips: impl Iterator<Item = Vec<Place>>) -> Self {
        let mut table = Self::default();
        for (chip, places) in chips.enumerate() {
            for (place, of) in places.into_iter().enumerate() {
                table.put(of, (chip, place));
            }
        }
        table.ports.sort_unstable();
        table
    }

    fn put(&mut self, place: Place, placed: Placed) {
        let put_slot = |slots: &mut [Option<Placed>], slot: Slot| {
            if let Some(entry) = slots.get_mut(usize::from(slot.0)) {
                *entry = Some(placed);
            }
        };
        match place {
            Place::Ports(first, last) => self.ports.push((first, last, placed)),
            Place::Config(slot) => put_slot(&mut self.config, slot),
            Place::Bar0(slot) => put_slot(&mut self.bar0, slot),
            Place::Timer(timer) => self.timers.push((timer, placed.0)),
        }
    }

    /// Who answers a port.
    pub fn port(&self, port: u16) -> Option<Answer> {
        let (first, _, placed) = self.ports.iter().find(|(_, last, _)| port <= *last)?;
        Some(answer(*placed, port.checked_sub(*first)?))
    }

    /// Who answers a register of configuration space.
    pub fn config(&self, register: ConfigRegister) -> Option<Answer> {
        let placed = self.config.get(usize::from(register.slot.0)).copied().flatten()?;
        Some(Answer { config: Some(register.slot), ..answer(placed, register.offset) })
    }

    /// Who answers an offset in the BAR 0 of a slot.
    pub fn bar0(&self, slot: Slot, offset: u16) -> Option<Answer> {
        let placed = self.bar0.get(usize::from(slot.0)).copied().flatten()?;
        Some(answer(placed, offset))
    }

    /// The chip whose timer this is.
    pub fn timer(&self, timer: Timer) -> Option<usize> {
        self.timers.iter().find(|(of, _)| *of == timer).map(|(_, chip)| *chip)
    }
}

fn answer((chip, place): Placed, offset: u16) -> Answer {
    Answer { chip, at: At { place, offset }, config: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let chips = [
            vec![Place::Ports(0x70, 0x71), Place::Timer(Timer::Rtc)],
            vec![Place::Ports(0x60, 0x60), Place::Ports(0x64, 0x64)],
            vec![Place::Config(Slot(3)), Place::Bar0(Slot(3))],
        ];
        Table::new(chips.into_iter())
    }

    #[test]
    fn a_port_is_found_with_its_place_and_offset() {
        let table = table();
        let found = |port| table.port(port).map(|answer| (answer.chip, answer.at.place, answer.at.offset));
        assert_eq!((found(0x60), found(0x64)), (Some((1, 0, 0)), Some((1, 1, 0))));
        assert_eq!((found(0x70), found(0x71)), (Some((0, 0, 0)), Some((0, 0, 1))));
        assert!([0, 0x5F, 0x61, 0x63, 0x65, 0x6F, 0x72, 0xFFFF].iter().all(|port| found(*port).is_none()));
    }

    #[test]
    fn slots_and_timers_are_found() {
        let table = table();
        let at = |place, offset, config| Some(Answer { chip: 2, at: At { place, offset }, config });
        assert_eq!(table.config(ConfigRegister { slot: Slot(3), offset: 0x10 }), at(0, 0x10, Some(Slot(3))));
        assert_eq!(table.bar0(Slot(3), 0x8000), at(1, 0x8000, None));
        assert_eq!(table.config(ConfigRegister { slot: Slot(2), offset: 0 }), None);
        assert_eq!((table.bar0(Slot(4), 0), table.bar0(Slot(200), 0)), (None, None));
        assert_eq!((table.timer(Timer::Rtc), table.timer(Timer::Pm)), (Some(0), None));
    }
}
