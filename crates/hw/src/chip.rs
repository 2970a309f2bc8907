//! What every chip is to the chipset: where it answers, what its registers do, and how they are saved and restored.
//!
//! Adding a chip is a file that implements [`Chip`] and its line in [`crate::Chipset::new`].

use std::fmt::Debug;
use std::ops::Range;

use crate::effect::{Effects, Slot, Timer, World};
use crate::saved::{Flaw, Saved};

/// Where a chip is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// I/O ports, from the first to the last.
    Ports(u16, u16),
    /// The configuration space of the function in this slot of PCI bus 0.
    Config(Slot),
    /// What BAR 0 of the function in this slot decodes, memory or ports, wherever that is: [`Chip::bar0`].
    Bar0(Slot),
    /// The deadlines of this timer.
    Timer(Timer),
}

/// What a BAR decodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bar {
    /// Guest-physical addresses.
    Memory(Range<u64>),
    /// I/O ports.
    Ports(Range<u64>),
}

/// What an access of a chip means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Which of its places, as an index of [`Chip::places`].
    pub place: usize,
    /// Bytes from the beginning of the place.
    pub offset: u16,
}

/// A model of a chip: registers, and nothing of the world but what it asks [`World`] and says in [`Effects`].
pub trait Chip: Debug + Send {
    /// Its name in saved state; no other chip of the machine has it, and it never changes.
    fn name(&self) -> String;

    /// Where it answers; never changes.
    fn places(&self) -> Vec<Place>;

    /// The guest reads; all of `data` is filled.
    fn read(&mut self, at: At, data: &mut [u8], world: &dyn World, fx: &mut Effects);

    /// The guest writes.
    fn write(&mut self, at: At, data: &[u8], world: &dyn World, fx: &mut Effects);

    /// The deadline of its timer has passed.
    fn timer(&mut self, _world: &dyn World, _fx: &mut Effects) {}

    /// What its BAR 0 asks for; `None` with its decoder off.
    fn bar0(&self) -> Option<Bar> {
        None
    }

    /// All that the guest can tell it by. What follows from other parts of it, or from the machine's set-up, is left out.
    fn save(&self) -> Saved;

    /// Takes a state that was saved, if it is one that the chip can have in this machine; after an error the chip is of no
    /// use. The effects tell a world that knows nothing of the chip yet all that it would know: levels that are up,
    /// deadlines, what back ends are to do.
    fn restore(&mut self, saved: &Saved, world: &dyn World, fx: &mut Effects) -> Result<(), Flaw>;
}
