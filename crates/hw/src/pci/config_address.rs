//! Address register of PCI configuration mechanism #1 (PCI 3.0, 3.2.2.3.2) at 0xCF8, which takes 32-bit accesses alone.
//!
//! What its data register at 0xCFC reaches is the bus's matter: [`super::address::mechanism_1`].

use serde::{Deserialize, Serialize};

use crate::access;
use crate::chip::{At, Chip, Place};
use crate::effect::{Effects, World};
use crate::saved::{Flaw, Saved};

const PORT: u16 = 0xCF8;
/// The data register, by byte lane.
pub const DATA_PORTS: std::ops::RangeInclusive<u16> = 0xCFC..=0xCFF;
/// Of the saved state.
const VERSION: u16 = 1;

/// The register.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ConfigAddress(u32);

impl ConfigAddress {
    /// What the guest wrote last.
    pub fn value(&self) -> u32 {
        self.0
    }
}

impl Chip for ConfigAddress {
    fn name(&self) -> String {
        "pci-address".into()
    }

    fn places(&self) -> Vec<Place> {
        vec![Place::Ports(PORT, PORT)]
    }

    fn read(&mut self, _: At, data: &mut [u8], _: &dyn World, _: &mut Effects) {
        match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(bytes) => *bytes = self.0.to_le_bytes(),
            Err(_) => access::ones(data),
        }
    }

    fn write(&mut self, _: At, data: &[u8], _: &dyn World, _: &mut Effects) {
        if let Ok(bytes) = <[u8; 4]>::try_from(data) {
            self.0 = u32::from_le_bytes(bytes);
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
