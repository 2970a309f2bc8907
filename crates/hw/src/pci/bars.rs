//! Which BAR answers a guest-physical address: one BAR per slot, between RAM and the APICs, never over another or the ECAM.
//!
//! A BAR anywhere else decodes nothing, so that one moved onto RAM, APICs or firmware takes nothing away
//! (openbsd/devices.md, 11.1, V15). Where two overlap, the lower slot answers (V16). ACPI gives functions a window of these
//! addresses, where firmware puts them. A guest that does not take PCI from ACPI may put them anywhere else: Linux with
//! `pci=noacpi` takes the window for another device's.

use std::ops::Range;

use super::address::SLOTS;
use crate::effect::Slot;
use crate::virtio::layout::BAR_LEN;

/// The BARs of the bus: where each would be, and where each is.
#[derive(Debug, Clone)]
pub struct Bars {
    places: Range<u64>,
    ecam: Range<u64>,
    wanted: [Option<Range<u64>>; SLOTS as usize],
    decoded: [Option<Range<u64>>; SLOTS as usize],
}

impl Bars {
    /// No BARs yet; they may be in all `places` but for the ECAM.
    pub fn new(places: Range<u64>, ecam: Range<u64>) -> Self {
        Self { places, ecam, wanted: std::array::from_fn(|_| None), decoded: std::array::from_fn(|_| None) }
    }

    /// Whether a BAR may answer at this address.
    pub fn may_be_at(&self, gpa: u64) -> bool {
        self.places.contains(&gpa) && !self.ecam.contains(&gpa)
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
            let inside = self.places.start <= range.start && range.end <= self.places.end;
            let mut others = taken.iter().copied().chain([&self.ecam]);
            let free = others.all(|other| range.end <= other.start || other.end <= range.start);
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

/// Where firmware puts the BAR 0 of a function: one behind the other, in its window. 0, which is no place, if that is too small.
pub fn firmware_base(window: &Range<u64>, slot: Slot) -> u32 {
    let before = u64::from(slot.0.saturating_sub(1)).saturating_mul(BAR_LEN);
    let aligned = window.start.checked_next_multiple_of(BAR_LEN).unwrap_or(u64::MAX);
    let base = aligned.saturating_add(before);
    let fits = base.saturating_add(BAR_LEN) <= window.end;
    u32::try_from(base).ok().filter(|_| fits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Range<u64> = 0xC000_0000..0xE000_0000;
    const PLACES: Range<u64> = 0x1000_0000..0xFEC0_0000;
    const ECAM: Range<u64> = 0xE000_0000..0xE010_0000;

    fn bar(base: u64) -> Option<Range<u64>> {
        Some(base..base + 0x1_0000)
    }

    #[test]
    fn a_bar_over_ram_ecam_or_apics_decodes_nothing() {
        let mut bars = Bars::new(PLACES, ECAM);
        for base in
            [0, 0x0FFF_0000, 0x0FFF_8000, 0xDFFF_8000, 0xE000_0000, 0xE00F_8000, 0xFEBF_8000, 0xFEE0_0000, 0xFFFF_0000]
        {
            assert_eq!(bars.change(Slot(1), bar(base)), vec![]);
            assert_eq!(bars.find(base, 4), None);
        }
        for base in [0x1000_0000, 0xBFFF_8000, 0xE010_0000, 0xFEBF_0000] {
            assert_eq!(bars.change(Slot(1), bar(base)), vec![(Slot(1), Some(base))]);
            assert!(bars.may_be_at(base) && bars.find(base, 4) == Some((Slot(1), 0)));
        }
        for elsewhere in [0x0FFF_FFFF, 0xE000_0000, 0xE00F_FFFF, 0xFEC0_0000] {
            assert!(!bars.may_be_at(elsewhere));
        }
        assert_eq!(bars.change(Slot(1), bar(0xDFFF_0000)), vec![(Slot(1), Some(0xDFFF_0000))]);
        assert_eq!(bars.find(0xDFFF_FFFC, 4), Some((Slot(1), 0xFFFC)));
        assert_eq!(bars.find(0xDFFF_FFFD, 4), None);
    }

    #[test]
    fn firmware_puts_bars_one_behind_the_other_and_none_outside_the_window() {
        let bases = |window| [1, 2, 3, 31].map(|slot| firmware_base(&window, Slot(slot)));
        assert_eq!(bases(WINDOW), [0xC000_0000, 0xC001_0000, 0xC002_0000, 0xC01E_0000]);
        assert_eq!(bases(0xC000_8000..0xC003_0000), [0xC001_0000, 0xC002_0000, 0, 0], "aligned");
        assert_eq!(bases(0x1_0000_0000..0x2_0000_0000), [0; 4], "32 bits");
    }

    #[test]
    fn of_two_bars_on_one_address_the_lower_slot_answers() {
        let mut bars = Bars::new(PLACES, ECAM);
        bars.change(Slot(2), bar(0xC000_0000));
        let changed = bars.change(Slot(1), bar(0xC000_0000));
        assert_eq!(changed, vec![(Slot(1), Some(0xC000_0000)), (Slot(2), None)]);
        assert_eq!(bars.find(0xC000_0004, 4), Some((Slot(1), 4)));
        let changed = bars.change(Slot(1), None);
        assert_eq!(changed, vec![(Slot(1), None), (Slot(2), Some(0xC000_0000))]);
    }
}
