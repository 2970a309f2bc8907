//! PCI bus 0: which function and register, or which BAR, an address means; and where BARs go when a guest moves them.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::address::{self, ConfigRegister};
use super::bars::Bars;
use crate::effect::{DeviceEffect, Effect, Slot};
use crate::virtio::layout;

/// What an address on the bus means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// A register of a function's configuration space, through the ECAM.
    Config(ConfigRegister),
    /// An offset in the BAR 0 of the function in this slot.
    Bar0(Slot, u16),
}

/// The bus.
#[derive(Debug)]
pub struct Bus {
    window: Range<u64>,
    ecam: u64,
    bars: Mutex<Bars>,
}

impl Bus {
    /// A bus with no BAR yet: `window` is where they may be, `ecam` the first byte of the configuration space.
    pub fn new(window: Range<u64>, ecam: u64) -> Self {
        Self { bars: Mutex::new(Bars::new(window.clone())), window, ecam }
    }

    /// What an access of `len` bytes at `gpa` means; `None` reads all ones.
    pub fn find(&self, gpa: u64, len: usize) -> Option<Means> {
        if self.window.contains(&gpa) {
            let (slot, offset) = self.bars.lock().unwrap_or_else(PoisonError::into_inner).find(gpa, len)?;
            return Some(Means::Bar0(slot, u16::try_from(offset).ok()?));
        }
        address::ecam(gpa.checked_sub(self.ecam)?, len).map(Means::Config)
    }

    /// A function's BAR 0 asks for these addresses now. All that changes by it is performed with the bus held, since one
    /// function's move can uncover another's BAR.
    pub fn move_bar(&self, slot: Slot, bar: Option<Range<u64>>, perform: impl Fn(Effect)) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let (gone, come): (Vec<_>, Vec<_>) = bars.change(slot, bar).into_iter().partition(|(_, base)| base.is_none());
        for (slot, base) in gone.into_iter().chain(come) {
            let base = base.map(|base| base.saturating_add(u64::from(layout::NOTIFY)));
            perform(Effect::Device(slot, DeviceEffect::NotifyBase(base)));
        }
    }
}
