//! What the fuzzer wrote, read as a script: numbers one after the other, zeros beyond its end.
#![forbid(unsafe_code)]

pub mod front_end;
pub mod guest;
pub mod qcow2;

/// The rest of a script.
pub struct Script<'a>(pub &'a [u8]);

impl<'a> Script<'a> {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next bytes, as many as there are.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// Two bytes.
    pub fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A number that is often interesting: small, page-aligned, or at an end; else any.
    pub fn number(&mut self) -> u64 {
        let value = u64::from(self.word());
        match self.byte() % 8 {
            0 | 1 => value,
            2 => value << 4,
            3 => value << 12,
            4 => value << 16,
            5 => value.wrapping_neg(),
            6 => (value << 12).wrapping_sub(1),
            _ => {
                let mut any = [0; 8];
                any.iter_mut().zip(self.bytes(8)).for_each(|(to, from)| *to = *from);
                u64::from_le_bytes(any)
            }
        }
    }
}
