//! Which BAR answers a guest-physical address: one BAR per slot, inside the PCI window, never over another or over RAM.
//!
//! A BAR outside the window decodes nothing, so that one moved onto RAM, APICs or firmware takes nothing away
//! (openbsd/devices.md, 11.1, V15). Where two overlap, the lower slot answers (V16).

use std::ops::Range;

use super::address::SLOTS;
use crate::effect::Slot;

/// The BARs of the bus: where each would be, and where each is.
#[derive(Debug, Clone)]
pub struct Bars {
    window: Range<u64>,
    wanted: [Option<Range<u64>>; SLOTS as usize],
    decoded: [Option<Range<u64>>; SLOTS as usize],
}

impl Bars {
    /// No BARs yet; `window` is the address space given to PCI functions.
    pub fn new(window: Range<u64>) -> Self {
        Self { window, wanted: std::array::from_fn(|_| None), decoded: std::array::from_fn(|_| None) }
    }

    /// A function's BAR register or memory decoder changed: `wanted` is its range, `None` with the decoder off. Returns
    /// every slot whose decoding changed, with its new base.
    pub fn change(&mut self, slot: Slot, wanted: Option<Range<u64>>) -> Vec<(Slot, Option<u64>)> {
        if let Some(entry) = self.wanted.get_mut(usize::from(slot.0)) {
            *entry = wanted;
        }
        let before = std::mem::replace(&mut self.decoded, std::array::from_fn(|_| None));
        let mut taken: Vec<&Range<u64>> = Vec::new();
        for (range, decoded) in self.wanted.iter().zip(&mut self.decoded) {
            let Some(range) = range else { continue };
            let inside = self.window.start <= range.start && range.end <= self.window.end;
            let free = taken.iter().all(|other| range.end <= other.start || other.end <= range.start);
            if inside && free {
                *decoded = Some(range.clone());
                taken.push(range);
            }
        }
        let changed = (0..SLOTS).zip(before.iter().zip(&self.decoded)).filter(|(_, (old, new))| old != new);
        changed.map(|(slot, (_, new))| (Slot(slot), new.as_ref().map(|range| range.start))).collect()
    }

    /// The function that answers an access of `len` bytes at `gpa`, and the offset in its BAR.
    pub fn find(&self, gpa: u64, len: usize) -> Option<(Slot, u64)> {
        let end = gpa.checked_add(u64::try_from(len).ok()?)?;
        (0..SLOTS).zip(&self.decoded).find_map(|(slot, range)| {
            let range = range.as_ref()?;
            let offset = gpa.checked_sub(range.start)?;
            (end <= range.end).then_some((Slot(slot), offset))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Range<u64> = 0xC000_0000..0xE000_0000;

    fn bar(base: u64) -> Option<Range<u64>> {
        Some(base..base + 0x1_0000)
    }

    #[test]
    fn a_bar_outside_the_window_decodes_nothing() {
        let mut bars = Bars::new(WINDOW);
        for base in [0, 0xBFFF_0000, 0xE000_0000, 0xFEE0_0000, 0xFFFF_0000] {
            assert_eq!(bars.change(Slot(1), bar(base)), vec![]);
            assert_eq!(bars.find(base, 4), None);
        }
        assert_eq!(bars.change(Slot(1), bar(0xDFFF_0000)), vec![(Slot(1), Some(0xDFFF_0000))]);
        assert_eq!(bars.find(0xDFFF_FFFC, 4), Some((Slot(1), 0xFFFC)));
        assert_eq!(bars.find(0xDFFF_FFFD, 4), None);
    }

    #[test]
    fn of_two_bars_on_one_address_the_lower_slot_answers() {
        let mut bars = Bars::new(WINDOW);
        bars.change(Slot(2), bar(0xC000_0000));
        let changed = bars.change(Slot(1), bar(0xC000_0000));
        assert_eq!(changed, vec![(Slot(1), Some(0xC000_0000)), (Slot(2), None)]);
        assert_eq!(bars.find(0xC000_0004, 4), Some((Slot(1), 4)));
        let changed = bars.change(Slot(1), None);
        assert_eq!(changed, vec![(Slot(1), None), (Slot(2), Some(0xC000_0000))]);
    }
}
