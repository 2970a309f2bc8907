//! The entropy device (virtio 1.2, 5.4). Holds no host resource, so it runs in the vm process: no vhost-user, no process
//! of its own; the vm gives it memory and a ring, and calls [`Entropy::serve`] off the vCPUs' path when it is kicked.
//!
//! Offered: VERSION_1, INDIRECT_DESC, EVENT_IDX. One queue of [`QUEUE_SIZE`]; no configuration space. The source is
//! getrandom(2), which does not wait once the host has booted.

use std::sync::Arc;

use sys::guest_io::GuestMemory;
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use crate::queue::{Chain, RingAddresses, RingFault, RingSetup, SetupError, Vring, accepted, fill_front};
use crate::serve_vhost::Progress;

/// Entries that the queue has at most (openbsd/devices.md, 1.5).
pub const QUEUE_SIZE: u16 = 64;

/// Offered feature bits.
pub const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// Bytes given in one call at most; the rest comes with the next (openbsd/devices.md, 6.1).
pub const MAX_BYTES: usize = 64 << 10;

/// Bytes fetched from the host at once.
const STEP: usize = 256;

/// Where bytes come from: fills the front of a buffer and says how much of it, never nothing.
pub type Source<'a> = dyn FnMut(&mut [u8]) -> Result<usize, RingFault> + 'a;

/// The device with its ring set up; a reset drops it.
pub struct Entropy {
    memory: Arc<GuestMemory>,
    ring: Vring,
    chain: Chain,
}

/// What a call has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Whether to call again without a kick.
    pub progress: Progress,
    /// Whether the driver is to be interrupted.
    pub interrupt: bool,
}

impl Entropy {
    /// The device on a ring that the driver enabled. `last_avail` is 0 but for a restored guest.
    pub fn new(
        memory: Arc<GuestMemory>,
        addresses: RingAddresses,
        size: u16,
        last_avail: u16,
        features: u64,
    ) -> Result<Entropy, SetupError> {
        let event_idx = accepted(features, VIRTIO_RING_F_EVENT_IDX);
        let indirect = accepted(features, VIRTIO_RING_F_INDIRECT_DESC);
        let ring = Vring::new(&memory, RingSetup { addresses, size, last_avail, event_idx, indirect })?;
        Ok(Entropy { memory, ring, chain: Chain::default() })
    }

    /// What a successor needs to go on.
    pub fn save(&self) -> RingSetup {
        self.ring.save()
    }

    /// Fills the buffers that wait, as far as one call goes. After a fault the device must be reset.
    pub fn serve(&mut self) -> Result<Served, RingFault> {
        self.serve_from(&mut random)
    }

    /// The same with bytes from elsewhere.
    pub fn serve_from(&mut self, source: &mut Source<'_>) -> Result<Served, RingFault> {
        let progress = self.fill(source)?;
        Ok(Served { progress, interrupt: self.ring.needs_interrupt(&self.memory)? })
    }

    fn fill(&mut self, source: &mut Source<'_>) -> Result<Progress, RingFault> {
        let mut budget = MAX_BYTES;
        self.ring.disable_kicks(&self.memory)?;
        for _ in 0..self.ring.size() {
            if budget == 0 {
                break;
            }
            if !self.ring.pop_or_wait(&self.memory, &mut self.chain)? {
                return Ok(Progress::Idle);
            }
            let given = self.give(budget, source)?;
            budget = budget.saturating_sub(given);
            let given = u32::try_from(given).map_err(|_| RingFault::Host)?;
            self.ring.push_used(&self.memory, &[(self.chain.head, given)])?;
        }
        Ok(Progress::More)
    }

    /// Fills one chain, or its front where it is longer than the budget. How many bytes.
    fn give(&self, budget: usize, source: &mut Source<'_>) -> Result<usize, RingFault> {
        if self.chain.readable_bytes() > 0 {
            return Err(RingFault::Direction); // 5.4.6.1: the device only writes
        }
        let mut left = budget;
        for extent in &self.chain.writable {
            let mut extent = *extent;
            while extent.len > 0 && left > 0 {
                let mut bytes = [0u8; STEP];
                let want = STEP.min(left).min(usize::try_from(extent.len).unwrap_or(STEP));
                let got = source(bytes.get_mut(..want).unwrap_or(&mut []))?;
                let done = fill_front(&self.memory, &[extent], bytes.get(..got).unwrap_or(&[]))?;
                extent = extent.after(done).ok_or(RingFault::Outside)?;
                left = left.saturating_sub(done);
            }
        }
        Ok(budget.saturating_sub(left))
    }
}

/// Bytes from the host. None at all would be an endless loop above.
fn random(bytes: &mut [u8]) -> Result<usize, RingFault> {
    let flags = rustix::rand::GetRandomFlags::empty();
    match rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut *bytes, flags)) {
        Ok(0) | Err(_) => Err(RingFault::Host),
        Ok(got) => Ok(got),
    }
}
