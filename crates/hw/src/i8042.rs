//! Keyboard controller (Intel 8042) at 0x60 and 0x64, without a keyboard: what a driver needs to get through to a reset.
//!
//! There is nothing to read, and no A20 gate (openbsd/devices.md, 7.5).

use serde::{Deserialize, Serialize};

use crate::access;
use crate::chip::{At, Chip, Place};
use crate::effect::{Effect, Effects, World};
use crate::saved::{Flaw, Saved};

const DATA_PORT: u16 = 0x60;
const COMMAND_PORT: u16 = 0x64;
/// Places, as [`Chip::places`] has them.
const DATA: usize = 0;
/// Status: nothing to read, ready for a command. The data port reads the same.
const STATUS: u8 = 0;
/// Command: write the output port.
const WRITE_OUTPUT: u8 = 0xD1;
/// Command: pulse the reset line.
const PULSE_RESET: u8 = 0xFE;
/// Output port, bit 0: the reset line, active low.
const RESET_LINE: u8 = 1;
/// Of the saved state.
const VERSION: u16 = 1;

/// The controller.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct I8042 {
    /// The next byte of data goes to the output port.
    output_port_next: bool,
}

impl Chip for I8042 {
    fn name(&self) -> String {
        "i8042".into()
    }

    fn places(&self) -> Vec<Place> {
        vec![Place::Ports(DATA_PORT, DATA_PORT), Place::Ports(COMMAND_PORT, COMMAND_PORT)]
    }

    fn read(&mut self, _: At, data: &mut [u8], _: &dyn World, _: &mut Effects) {
        access::low_byte(STATUS, data);
    }

    fn write(&mut self, at: At, data: &[u8], _: &dyn World, fx: &mut Effects) {
        let Some(value) = data.first().copied() else { return };
        let expected = std::mem::take(&mut self.output_port_next);
        let resets = if at.place == DATA {
            expected && value & RESET_LINE == 0
        } else {
            self.output_port_next = value == WRITE_OUTPUT;
            value == PULSE_RESET
        };
        if resets {
            fx.push(Effect::Reset);
        }
    }

    fn save(&self) -> Saved {
        Saved::of(VERSION, self)
    }

    fn restore(&mut self, saved: &Saved, _: &dyn World, _: &mut Effects) -> Result<(), Flaw> {
        *self = saved.open(VERSION)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::Now;

    const COMMAND: usize = 1;

    fn resets(writes: &[(usize, u8)]) -> usize {
        let (mut chip, mut fx) = (I8042::default(), vec![]);
        for (place, value) in writes {
            chip.write(At { place: *place, offset: 0 }, &[*value], &Now::START, &mut fx);
        }
        fx.len()
    }

    #[test]
    fn there_is_nothing_to_read() {
        for place in [DATA, COMMAND] {
            let mut data = [0xAA; 2];
            I8042::default().read(At { place, offset: 0 }, &mut data, &Now::START, &mut vec![]);
            assert_eq!(data, [0, 0xFF]);
        }
    }

    #[test]
    fn a_pulse_or_a_low_reset_line_resets() {
        assert_eq!(resets(&[(COMMAND, 0xFE)]), 1);
        assert_eq!(resets(&[(COMMAND, 0xD1), (DATA, 0xFE)]), 1);
        assert_eq!(resets(&[(DATA, 0xFE)]), 0);
        assert_eq!(resets(&[(COMMAND, 0xD1), (DATA, 0x03)]), 0);
        assert_eq!(resets(&[(COMMAND, 0xD1), (COMMAND, 0xAA), (DATA, 0)]), 0);
        assert_eq!(resets(&[(COMMAND, 0xD1), (DATA, 0x03), (DATA, 0)]), 0);
    }
}
