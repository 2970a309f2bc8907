//! The front ends of a machine that has no virtio function: nothing in its chipset decides an effect for them.

use hw::{Effect, Slot};

use crate::outside::FrontEnds;

/// Front ends of nothing.
pub struct NoDevices;

impl FrontEnds for NoDevices {
    fn perform(&self, effect: Effect) {
        sys::guest_log!(Warn, "{effect:?} of a machine without devices");
    }

    fn call_pending(&self, _: Slot, _: u16) -> bool {
        false
    }
}
