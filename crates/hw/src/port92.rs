//! System control port A of the PS/2 (IBM PS/2 hardware interface reference) at 0x92: bit 0 resets, bit 1 is A20.
//!
//! There is no A20 gate; the bit is storage (openbsd/devices.md, 7.5).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::access;
use crate::chip::{At, Chip, Place};
use crate::effect::{Effect, Effects, World};
use crate::saved::{Flaw, Saved, check};

const PORT: u16 = 0x92;
const RESET: u8 = 1;
const A20: u8 = 1 << 1;
/// Of the saved state.
const VERSION: u16 = 1;

/// The port.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Port92(u8);

impl Chip for Port92 {
    fn name(&self) -> Cow<'static, str> {
        "port92".into()
    }

    fn places(&self) -> Vec<Place> {
        vec![Place::Ports(PORT, PORT)]
    }

    fn read(&mut self, _: At, data: &mut [u8], _: &dyn World, _: &mut Effects) {
        access::low_byte(self.0, data);
    }

    fn write(&mut self, _: At, data: &[u8], _: &dyn World, fx: &mut Effects) {
        let Some(value) = data.first().copied() else { return };
        self.0 = value & A20;
        if value & RESET != 0 {
            fx.push(Effect::Reset);
        }
    }

    fn save(&self) -> Saved {
        Saved::of(VERSION, self)
    }

    fn restore(&mut self, saved: &Saved, _: &dyn World, _: &mut Effects) -> Result<(), Flaw> {
        let restored: Self = saved.open(VERSION)?;
        check(restored.0 & !A20 == 0, "the port")?;
        *self = restored;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::Now;

    #[test]
    fn bit_0_resets_and_a20_is_kept() {
        let (mut chip, mut fx, at) = (Port92::default(), vec![], At { place: 0, offset: 0 });
        let mut value = [0; 2];
        chip.write(at, &[0xFE, 0xFF], &Now::START, &mut fx);
        chip.read(at, &mut value, &Now::START, &mut fx);
        assert_eq!((value, fx.len()), ([2, 0xFF], 0));
        chip.write(at, &[3], &Now::START, &mut fx);
        assert_eq!(fx, vec![Effect::Reset]);
    }
}
