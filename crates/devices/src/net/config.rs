//! The configuration space of a network card (virtio 1.2, 5.1.4). Never changes while the device runs.

use zerocopy::{Immutable, IntoBytes};

/// `struct virtio_net_config` up to `mac`; what follows belongs to features that are not offered, and reads zero.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub struct Config {
    /// The guest's address.
    pub mac: [u8; 6],
}

#[cfg(test)]
mod tests {
    use virtio_bindings::bindings::virtio_net::virtio_net_config;

    use super::*;

    #[test]
    fn bytes_lie_where_the_specification_has_them() {
        assert_eq!(Config { mac: [1, 2, 3, 4, 5, 6] }.as_bytes(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(std::mem::offset_of!(virtio_net_config, mac), std::mem::offset_of!(Config, mac));
        assert_eq!(std::mem::offset_of!(virtio_net_config, status), size_of::<Config>());
    }
}
