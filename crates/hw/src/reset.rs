//! The three ways in which a PC is reset by a port: keyboard controller (0x60, 0x64), port 92, reset control (0xCF9).
//!
//! There is no keyboard and no A20 gate; only what drivers need to get through to a reset (openbsd/devices.md, 7.5).

use crate::access;
use crate::effect::{Effect, Effects};

/// i8042: nothing to read, ready for a command.
const I8042_STATUS: u8 = 0;
/// i8042 command: write the output port.
const I8042_WRITE_OUTPUT: u8 = 0xD1;
/// i8042 command: pulse the reset line.
const I8042_PULSE_RESET: u8 = 0xFE;
/// i8042 output port, bit 0: the reset line, active low.
const I8042_RESET_LINE: u8 = 1 << 0;
/// Port 92: bit 0 resets, bit 1 is A20.
const PORT92_RESET: u8 = 1 << 0;
const PORT92_A20: u8 = 1 << 1;
/// Reset control register: a rising bit 2 resets; bit 1 says how, and stays.
const RESET_CPU: u8 = 1 << 2;
const RESET_HARD: u8 = 1 << 1;

/// Which of the registers an access means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// Port 0x60.
    I8042Data,
    /// Port 0x64.
    I8042Command,
    /// Port 0x92.
    Port92,
    /// Port 0xCF9.
    ResetControl,
}

/// The registers.
#[derive(Debug, Clone, Default)]
pub struct ResetPorts {
    output_port_next: bool,
    port92: u8,
    reset_control: u8,
}

impl ResetPorts {
    /// Reads a register.
    pub fn read(&self, register: Register, data: &mut [u8]) {
        let value = match register {
            Register::I8042Data => 0,
            Register::I8042Command => I8042_STATUS,
            Register::Port92 => self.port92,
            Register::ResetControl => self.reset_control,
        };
        access::low_byte(value, data);
    }

    /// Writes a register; of a wider access the first byte counts.
    pub fn write(&mut self, register: Register, data: &[u8], fx: &mut Effects) {
        let Some(value) = data.first().copied() else { return };
        let resets = match register {
            Register::I8042Data => std::mem::take(&mut self.output_port_next) && value & I8042_RESET_LINE == 0,
            Register::I8042Command => {
                self.output_port_next = value == I8042_WRITE_OUTPUT;
                value == I8042_PULSE_RESET
            }
            Register::Port92 => {
                self.port92 = value & PORT92_A20;
                value & PORT92_RESET != 0
            }
            Register::ResetControl => {
                let rises = value & !self.reset_control & RESET_CPU != 0;
                self.reset_control = value & (RESET_HARD | RESET_CPU);
                rises
            }
        };
        if resets {
            fx.push(Effect::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resets(writes: &[(Register, u8)]) -> usize {
        let (mut ports, mut fx) = (ResetPorts::default(), vec![]);
        for (register, value) in writes {
            ports.write(*register, &[*value], &mut fx);
        }
        fx.len()
    }

    #[test]
    fn each_port_resets_by_its_own_rule() {
        use Register::{I8042Command, I8042Data, Port92, ResetControl};
        assert_eq!(resets(&[(I8042Command, 0xFE)]), 1);
        assert_eq!(resets(&[(I8042Command, 0xD1), (I8042Data, 0xFE)]), 1);
        assert_eq!(resets(&[(I8042Data, 0xFE)]), 0);
        assert_eq!(resets(&[(I8042Command, 0xD1), (I8042Data, 0x03)]), 0);
        assert_eq!(resets(&[(I8042Command, 0xD1), (I8042Command, 0xAA), (I8042Data, 0)]), 0);
        assert_eq!(resets(&[(Port92, 2)]), 0);
        assert_eq!(resets(&[(Port92, 3)]), 1);
        assert_eq!(resets(&[(ResetControl, 2), (ResetControl, 6)]), 1);
        assert_eq!(resets(&[(ResetControl, 2), (ResetControl, 2)]), 0);
    }
}
