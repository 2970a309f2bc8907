//! The registers of one virtqueue, and whether its rings may be used (virtio 1.2, 2.7 and 4.1.4.3;
//! openbsd/devices.md, 1.6).

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::effect::QueueSetup;

/// No vector (virtio 1.2, 4.1.5.1.2).
pub const VIRTIO_MSI_NO_VECTOR: u16 = 0xFFFF;

/// One virtqueue as the driver sets it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Largest size, and the size after a reset.
    pub max_size: u16,
    /// queue_size as written; checked when the queue is enabled.
    pub size: u16,
    /// queue_msix_vector.
    pub vector: u16,
    /// queue_enable: cleared by a reset alone.
    pub enabled: bool,
    /// queue_desc.
    pub desc: u64,
    /// queue_driver.
    pub avail: u64,
    /// queue_device.
    pub used: u64,
}

impl Queue {
    /// A queue after reset.
    pub fn new(max_size: u16) -> Self {
        let vector = VIRTIO_MSI_NO_VECTOR;
        Self { max_size, size: max_size, vector, enabled: false, desc: 0, avail: 0, used: 0 }
    }

    /// Puts the queue back to its state after reset.
    pub fn reset(&mut self) {
        *self = Self::new(self.max_size);
    }

    /// The queue as a back end gets it, if it is enabled.
    pub fn setup(&self, index: u16) -> Option<QueueSetup> {
        let Self { size, desc, avail, used, enabled, .. } = *self;
        enabled.then_some(QueueSetup { index, size, desc, avail, used })
    }

    /// Whether the size is one and each ring is aligned and lies inside one piece of RAM. The rings' event fields, two bytes
    /// each, are counted whether negotiated or not.
    pub fn is_valid(&self, ram: &[Range<u64>]) -> bool {
        let size = u64::from(self.size);
        let sized = self.size.is_power_of_two() && self.size <= self.max_size;
        let rings: [(u64, u32, u64); 3] = [
            (self.desc, 4, size.saturating_mul(16)),
            (self.avail, 1, size.saturating_mul(2).saturating_add(6)),
            (self.used, 2, size.saturating_mul(8).saturating_add(6)),
        ];
        sized
            && rings.iter().all(|(at, zeros, len)| *at != 0 && at.trailing_zeros() >= *zeros && inside(*at, *len, ram))
    }
}

fn inside(at: u64, len: u64, ram: &[Range<u64>]) -> bool {
    at.checked_add(len).is_some_and(|end| ram.iter().any(|piece| piece.start <= at && end <= piece.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM: [Range<u64>; 2] = [0..0x1000_0000, 0x1_0000_0000..0x2_0000_0000];

    fn queue() -> Queue {
        Queue { desc: 0x1000, avail: 0x2000, used: 0x3000, ..Queue::new(256) }
    }

    #[test]
    fn v1_rings_outside_ram_are_not_valid() {
        assert!(queue().is_valid(&RAM));
        for at in [0x1000_0000, 0xFFF_F010, 0xC000_0000, 0xFEE0_0000, 0xFFFF_FFF0, 0x1_FFFF_F010, !0xF] {
            assert!(!Queue { desc: at, ..queue() }.is_valid(&RAM), "{at:x}");
        }
        assert!(Queue { desc: 0x1_FFFF_F000, ..queue() }.is_valid(&RAM), "the last page of RAM");
        assert!(!Queue { avail: 0x1000_0000 - 516, ..queue() }.is_valid(&RAM), "the event field counts");
        assert!(Queue { avail: 0x1000_0000 - 518, ..queue() }.is_valid(&RAM));
        assert!(!Queue { used: u64::MAX - 3, ..queue() }.is_valid(&RAM));
    }

    #[test]
    fn v10_sizes_and_alignments_that_are_none_are_not_valid() {
        for size in [0, 3, 255, 512, 1025, 32768, 0xFFFF] {
            assert!(!Queue { size, ..queue() }.is_valid(&RAM), "{size}");
        }
        assert!(!Queue { desc: 0x1008, ..queue() }.is_valid(&RAM));
        assert!(!Queue { avail: 0x2001, ..queue() }.is_valid(&RAM));
        assert!(!Queue { used: 0x3002, ..queue() }.is_valid(&RAM));
        for queue in [Queue { desc: 0, ..queue() }, Queue { avail: 0, ..queue() }, Queue { used: 0, ..queue() }] {
            assert!(!queue.is_valid(&RAM));
        }
    }
}
