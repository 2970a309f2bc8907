//! Reset control register of PC chipsets (Intel 82371SB PIIX3 data sheet, 2.3.2) at 0xCF9: a rising bit 2 resets.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::access;
use crate::chip::{At, Chip, Place};
use crate::effect::{Effect, Effects, World};
use crate::saved::{Flaw, Saved, check};

/// Between the bytes of the PCI address register, which is only accessed as a whole.
const PORT: u16 = 0xCF9;
const RESET_CPU: u8 = 1 << 2;
/// Says how, and stays.
const RESET_HARD: u8 = 1 << 1;
/// Of the saved state.
const VERSION: u16 = 1;

/// The register.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ResetControl(u8);

impl Chip for ResetControl {
    fn name(&self) -> Cow<'static, str> {
        "reset-control".into()
    }

    fn places(&self) -> Vec<Place> {
        vec![Place::Ports(PORT, PORT)]
    }

    fn read(&mut self, _: At, data: &mut [u8], _: &dyn World, _: &mut Effects) {
        access::low_byte(self.0, data);
    }

    fn write(&mut self, _: At, data: &[u8], _: &dyn World, fx: &mut Effects) {
        let Some(value) = data.first().copied() else { return };
        let rises = value & !self.0 & RESET_CPU != 0;
        self.0 = value & (RESET_HARD | RESET_CPU);
        if rises {
            fx.push(Effect::Reset);
        }
    }

    fn save(&self) -> Saved {
        Saved::of(VERSION, self)
    }

    fn restore(&mut self, saved: &Saved, _: &dyn World, _: &mut Effects) -> Result<(), Flaw> {
        let restored: Self = saved.open(VERSION)?;
        check(restored.0 & !(RESET_HARD | RESET_CPU) == 0, "the register")?;
        *self = restored;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::Now;

    #[test]
    fn each_state_of_its_two_bits_is_restored() {
        for (bits, taken) in [(0, true), (2, true), (4, true), (6, true), (1, false), (8, false), (0x86, false)] {
            let restored = ResetControl::default().restore(&ResetControl(bits).save(), &Now::START, &mut vec![]);
            assert_eq!(restored.is_ok(), taken, "{bits:#x}");
        }
    }

    #[test]
    fn only_a_rising_bit_2_resets() {
        let (mut chip, at) = (ResetControl::default(), At { place: 0, offset: 0 });
        let mut resets = |value| {
            let (mut fx, mut reads) = (vec![], [0]);
            chip.write(at, &[value], &Now::START, &mut fx);
            chip.read(at, &mut reads, &Now::START, &mut fx);
            (fx == vec![Effect::Reset], reads[0])
        };
        assert_eq!(
            [2, 2, 6, 6, 0xF9, 0xFC].map(&mut resets).as_slice(),
            [(false, 2), (false, 2), (true, 6), (false, 6), (false, 0), (true, 4)]
        );
    }
}
