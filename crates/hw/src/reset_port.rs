//! Ports whose one register resets the machine: system control port A of the PS/2 (IBM PS/2 hardware interface reference) at
//! 0x92, and the reset control register of PC chipsets (Intel 82371SB PIIX3 data sheet, 2.3.2) at 0xCF9.
//!
//! There is no A20 gate; its bit is storage (openbsd/devices.md, 7.5).

use crate::access;
use crate::chip::{At, Chip, Place};
use crate::effect::{Effect, Effects, World};
use crate::saved::{Flaw, Saved, check};

/// Of the saved state.
const VERSION: u16 = 1;

/// Which register it is.
#[derive(Debug)]
pub struct Register {
    name: &'static str,
    port: u16,
    /// The bit that resets as it rises.
    reset: u8,
    /// The bits that are kept; the others read 0.
    kept: u8,
}

/// Bit 0 resets whenever it is written, since it reads 0; bit 1 is A20.
pub const PORT_92: Register = Register { name: "port92", port: 0x92, reset: 1, kept: 1 << 1 };
/// Bit 2 resets, bit 1 says how. It lies between the bytes of the PCI address register, which is only accessed as a whole.
pub const RESET_CONTROL: Register = Register { name: "reset-control", port: 0xCF9, reset: 1 << 2, kept: 0b110 };

/// The port, and what is kept of its register.
#[derive(Debug)]
pub struct ResetPort(&'static Register, u8);

impl ResetPort {
    /// After reset.
    pub fn new(register: &'static Register) -> Self {
        Self(register, 0)
    }
}

impl Chip for ResetPort {
    fn name(&self) -> String {
        self.0.name.into()
    }

    fn places(&self) -> Vec<Place> {
        vec![Place::Ports(self.0.port, self.0.port)]
    }

    fn read(&mut self, _: At, data: &mut [u8], _: &dyn World, _: &mut Effects) {
        access::low_byte(self.1, data);
    }

    fn write(&mut self, _: At, data: &[u8], _: &dyn World, fx: &mut Effects) {
        let Some(value) = data.first().copied() else { return };
        let rises = value & !self.1 & self.0.reset != 0;
        self.1 = value & self.0.kept;
        if rises {
            fx.push(Effect::Reset);
        }
    }

    fn save(&self) -> Saved {
        Saved::of(VERSION, &self.1)
    }

    fn restore(&mut self, saved: &Saved, _: &dyn World, _: &mut Effects) -> Result<(), Flaw> {
        self.1 = saved.open(VERSION)?;
        check(self.1 & !self.0.kept == 0, "the register")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::Now;

    const AT: At = At { place: 0, offset: 0 };

    #[test]
    fn bit_0_resets_and_a20_is_kept() {
        let (mut chip, mut fx) = (ResetPort::new(&PORT_92), vec![]);
        let mut value = [0; 2];
        chip.write(AT, &[0xFE, 0xFF], &Now::START, &mut fx);
        chip.read(AT, &mut value, &Now::START, &mut fx);
        assert_eq!((value, fx.len()), ([2, 0xFF], 0));
        chip.write(AT, &[3], &Now::START, &mut fx);
        chip.write(AT, &[3], &Now::START, &mut fx);
        assert_eq!(fx, vec![Effect::Reset, Effect::Reset], "each time");
    }

    #[test]
    fn each_state_of_its_two_bits_is_restored() {
        for (bits, taken) in [(0, true), (2, true), (4, true), (6, true), (1, false), (8, false), (0x86, false)] {
            let saved = ResetPort(&RESET_CONTROL, bits).save();
            let restored = ResetPort::new(&RESET_CONTROL).restore(&saved, &Now::START, &mut vec![]);
            assert_eq!(restored.is_ok(), taken, "{bits:#x}");
        }
    }

    #[test]
    fn only_a_rising_bit_2_resets() {
        let mut chip = ResetPort::new(&RESET_CONTROL);
        let mut resets = |value| {
            let (mut fx, mut reads) = (vec![], [0]);
            chip.write(AT, &[value], &Now::START, &mut fx);
            chip.read(AT, &mut reads, &Now::START, &mut fx);
            (fx == vec![Effect::Reset], reads[0])
        };
        assert_eq!(
            [2, 2, 6, 6, 0xF9, 0xFC].map(&mut resets).as_slice(),
            [(false, 2), (false, 2), (true, 6), (false, 6), (false, 0), (true, 4)]
        );
    }
}
