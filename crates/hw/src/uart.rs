//! 16550A serial port (TI PC16550D data sheet) at 0x3F8, IRQ 4: the guest's console (openbsd/devices.md, 7.1).
//!
//! Not vm-superio's `Serial`: that one has no FIFO control register and shows its FIFO as always on, so a driver that
//! clears or switches it off sees a chip that does not exist; it has no overrun, and it writes its output
//! itself, one byte a call, where a full pty must neither block a vCPU nor lose what could wait.
//!
//! Output waits in a ring until the owner takes it. There is no BREAK: a pty brings none to its master. The line's speed is not modelled; the divisor is storage.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::access;
use crate::chip::{At, Chip, Place};
use crate::effect::{Effect, Effects, World};
use crate::saved::{Flaw, Saved, check};

/// First and last port of COM1.
const PORTS: (u16, u16) = (0x3F8, 0x3FF);

/// The interrupt line of COM1.
pub const IRQ: u32 = 4;
/// Output that waits for the console at most, in bytes. Beyond it the oldest is dropped: who attaches to a
/// console wants what was said last.
pub const MAX_OUTPUT: usize = 64 * 1024;
/// Receive FIFO.
const FIFO_LEN: usize = 16;
/// What a read of an empty receiver is not allowed to be: old data. (Chips give the last byte.)
const NOTHING: u8 = 0;

const IER_RECEIVE: u8 = 1;
const IER_TRANSMIT: u8 = 1 << 1;
const IER_LINE: u8 = 1 << 2;
const IER_MODEM: u8 = 1 << 3;
const IER_ALL: u8 = 0x0F;
const IIR_NONE: u8 = 0x01;
const IIR_MODEM: u8 = 0x00;
const IIR_TRANSMIT: u8 = 0x02;
const IIR_RECEIVE: u8 = 0x04;
const IIR_LINE: u8 = 0x06;
const IIR_TIMEOUT: u8 = 0x0C;
const IIR_FIFO: u8 = 0xC0;
const FCR_ENABLE: u8 = 1;
const FCR_CLEAR_RECEIVER: u8 = 1 << 1;
/// Enable and trigger level.
const FCR_KEPT: u8 = 0xC1;
const LCR_DIVISOR: u8 = 1 << 7;
const MCR_DTR: u8 = 1;
const MCR_RTS: u8 = 1 << 1;
const MCR_OUT1: u8 = 1 << 2;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;
const MCR_ALL: u8 = 0x1F;
const LSR_READY: u8 = 1;
const LSR_OVERRUN: u8 = 1 << 1;
/// The holding register and the shift register.
const LSR_TRANSMITTER_EMPTY: u8 = 0x60;
const MSR_DELTAS: u8 = 0x0F;
const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RING: u8 = 1 << 6;
const MSR_CARRIER: u8 = 1 << 7;

/// Of the saved state.
const VERSION: u16 = 2;

/// The port.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Uart {
    receiver: VecDeque<u8>,
    output: VecDeque<u8>,
    divisor: [u8; 2],
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scratch: u8,
    /// An overrun since the last read of the line status.
    line_errors: u8,
    modem_deltas: u8,
    transmit_pending: bool,
    /// `input` took less than it was given.
    input_waits: bool,
    #[serde(skip)]
    level: bool,
}

impl Default for Uart {
    fn default() -> Self {
        Self {
            receiver: VecDeque::with_capacity(FIFO_LEN),
            output: VecDeque::new(),
            divisor: [12, 0], // 9600 baud
            ier: 0,
            fcr: 0,
            lcr: 3, // 8 bits, no parity
            mcr: 0,
            scratch: 0,
            line_errors: 0,
            modem_deltas: 0,
            transmit_pending: false,
            input_waits: false,
            level: false,
        }
    }
}

impl Chip for Uart {
    fn name(&self) -> String {
        "uart".into()
    }

    fn places(&self) -> Vec<Place> {
        vec![Place::Ports(PORTS.0, PORTS.1)]
    }

    fn read(&mut self, at: At, data: &mut [u8], _: &dyn World, fx: &mut Effects) {
        let divisor = self.lcr & LCR_DIVISOR != 0;
        let [divisor_low, divisor_high] = self.divisor;
        let value = match at.offset {
            0 if divisor => divisor_low,
            1 if divisor => divisor_high,
            0 => self.receive(fx),
            1 => self.ier,
            2 => self.identify(),
            3 => self.lcr,
            4 => self.mcr,
            5 => self.line_status(),
            6 => std::mem::take(&mut self.modem_deltas) | self.modem_lines(),
            7 => self.scratch,
            _ => 0xFF,
        };
        access::low_byte(value, data);
        self.settle(fx);
    }

    /// Of a wider access the first byte counts.
    fn write(&mut self, at: At, data: &[u8], _: &dyn World, fx: &mut Effects) {
        let Some(value) = data.first().copied() else { return };
        let divisor = self.lcr & LCR_DIVISOR != 0;
        match at.offset {
            0 if divisor => self.divisor = [value, self.divisor[1]],
            1 if divisor => self.divisor = [self.divisor[0], value],
            0 => self.transmit(value, fx),
            1 => {
                self.ier = value & IER_ALL;
                self.transmit_pending = true; // shows only while its interrupt is enabled
            }
            2 => self.control_fifo(value, fx),
            3 => self.lcr = value,
            4 => self.control_modem(value & MCR_ALL, fx),
            7 => self.scratch = value,
            _ => {}
        }
        self.settle(fx);
    }

    fn save(&self) -> Saved {
        Saved::of(VERSION, self)
    }

    fn restore(&mut self, saved: &Saved, _: &dyn World, fx: &mut Effects) -> Result<(), Flaw> {
        let restored: Self = saved.open(VERSION)?;
        restored.check()?;
        *self = restored;
        if !self.output.is_empty() {
            fx.push(Effect::SerialOutput);
        }
        self.settle(fx);
        Ok(())
    }
}

impl Uart {
    /// Gives the guest input; returns how many bytes there was room for. After fewer than all, `SerialRoom` tells when to
    /// come back.
    pub fn input(&mut self, bytes: &[u8], fx: &mut Effects) -> usize {
        let looped = self.mcr & MCR_LOOP != 0;
        let room = if looped { 0 } else { self.capacity().saturating_sub(self.receiver.len()) };
        let taken = bytes.len().min(room);
        self.receiver.extend(bytes.iter().take(taken));
        self.input_waits = taken < bytes.len();
        self.settle(fx);
        taken
    }

    /// Moves output into `buffer`; returns how much.
    pub fn take_output(&mut self, buffer: &mut [u8]) -> usize {
        let len = buffer.len().min(self.output.len());
        for (to, from) in buffer.iter_mut().zip(self.output.drain(..len)) {
            *to = from;
        }
        len
    }

    fn check(&self) -> Result<(), Flaw> {
        check(self.receiver.len() <= self.capacity(), "the receiver")?;
        check(self.output.len() <= MAX_OUTPUT, "the output")?;
        check(self.ier & !IER_ALL == 0, "the interrupt enable register")?;
        check(self.fcr & !FCR_KEPT == 0, "the FIFO control register")?;
        check(self.mcr & !MCR_ALL == 0, "the modem control register")?;
        check(self.line_errors & !LSR_OVERRUN == 0, "the line status")?;
        check(self.modem_deltas & !MSR_DELTAS == 0, "the modem status")
    }

    fn fifo(&self) -> bool {
        self.fcr & FCR_ENABLE != 0
    }

    fn capacity(&self) -> usize {
        if self.fifo() { FIFO_LEN } else { 1 }
    }

    /// Received bytes at which the receiver interrupts; fewer are reported as a character timeout at once.
    fn trigger(&self) -> usize {
        match self.fcr >> 6 {
            _ if !self.fifo() => 1,
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }

    fn receive(&mut self, fx: &mut Effects) -> u8 {
        let byte = self.receiver.pop_front().unwrap_or(NOTHING);
        self.offer_room(fx);
        byte
    }

    fn offer_room(&mut self, fx: &mut Effects) {
        let looped = self.mcr & MCR_LOOP != 0;
        if self.input_waits && self.receiver.is_empty() && !looped {
            self.input_waits = false;
            fx.push(Effect::SerialRoom);
        }
    }

    fn transmit(&mut self, byte: u8, fx: &mut Effects) {
        if self.mcr & MCR_LOOP != 0 {
            if self.receiver.len() < self.capacity() {
                self.receiver.push_back(byte);
            } else {
                self.line_errors |= LSR_OVERRUN;
            }
        } else {
            if self.output.is_empty() {
                fx.push(Effect::SerialOutput);
            }
            if self.output.len() >= MAX_OUTPUT {
                self.output.pop_front();
            }
            self.output.push_back(byte);
        }
        // The byte is gone at once: the holding register was full for no time, and its interrupt comes anew.
        if self.cause() == IIR_TRANSMIT {
            self.transmit_pending = false;
            self.settle(fx);
        }
        self.transmit_pending = true;
    }

    fn control_fifo(&mut self, value: u8, fx: &mut Effects) {
        let switched = (self.fcr ^ value) & FCR_ENABLE != 0;
        self.fcr = value & FCR_KEPT;
        if switched || value & FCR_CLEAR_RECEIVER != 0 {
            self.receiver.clear();
            self.offer_room(fx);
        }
    }

    fn control_modem(&mut self, value: u8, fx: &mut Effects) {
        let before = self.modem_lines();
        self.mcr = value;
        let after = self.modem_lines();
        let deltas = (before ^ after) >> 4 & 0x0B; // CTS, DSR and carrier: any change
        let ring_fell = (before & !after & MSR_RING) >> 4;
        self.modem_deltas |= deltas | ring_fell;
        self.offer_room(fx);
    }

    /// Outside, the console is always there; in loopback the modem outputs are its inputs.
    fn modem_lines(&self) -> u8 {
        if self.mcr & MCR_LOOP == 0 {
            return MSR_CARRIER | MSR_DSR | MSR_CTS;
        }
        let line = |output, input| if self.mcr & output != 0 { input } else { 0 };
        line(MCR_DTR, MSR_DSR) | line(MCR_RTS, MSR_CTS) | line(MCR_OUT1, MSR_RING) | line(MCR_OUT2, MSR_CARRIER)
    }

    fn line_status(&mut self) -> u8 {
        let ready = if self.receiver.is_empty() { 0 } else { LSR_READY };
        let errors = std::mem::take(&mut self.line_errors);
        LSR_TRANSMITTER_EMPTY | ready | errors
    }

    fn cause(&self) -> u8 {
        let enabled = |bit| self.ier & bit != 0;
        if enabled(IER_LINE) && self.line_errors != 0 {
            IIR_LINE
        } else if enabled(IER_RECEIVE) && self.receiver.len() >= self.trigger() {
            IIR_RECEIVE
        } else if enabled(IER_RECEIVE) && !self.receiver.is_empty() {
            IIR_TIMEOUT
        } else if enabled(IER_TRANSMIT) && self.transmit_pending {
            IIR_TRANSMIT
        } else if enabled(IER_MODEM) && self.modem_deltas != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    fn identify(&mut self) -> u8 {
        let cause = self.cause();
        if cause == IIR_TRANSMIT {
            self.transmit_pending = false;
        }
        cause | if self.fifo() { IIR_FIFO } else { 0 }
    }

    fn settle(&mut self, fx: &mut Effects) {
        let level = self.cause() != IIR_NONE;
        if level != self.level {
            self.level = level;
            fx.push(Effect::Irq { gsi: IRQ, level });
        }
    }
}

#[cfg(test)]
mod tests;
