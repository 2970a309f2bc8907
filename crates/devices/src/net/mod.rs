//! vionet: the network device (virtio 1.2, 5.1) of one card, in a process of its own, on the tap it was handed.
//!
//! Offered: VERSION_1, MAC, MRG_RXBUF, INDIRECT_DESC, EVENT_IDX; on a tap also CSUM, GUEST_CSUM, HOST_TSO4/6 and
//! GUEST_TSO4/6, carried by the virtio-net header that the kernel knows too. Not offered: a control queue, MQ, STATUS,
//! MTU. Queue 0 receives, queue 1 transmits. On a `local interface` the guest's DHCP requests are answered here (`dhcp/`). Its peers: vmm, on descriptor 3, and the VM, a vhost-user front end. Its
//! promise: reads and writes on the tap, nothing else.

mod config;
mod dhcp;
mod frame;
mod receive;
mod sender;
mod serve;
mod start;
mod tap;
mod transmit;

use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
};
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

pub use dhcp::{Lease, Server as DhcpServer, host_name};
pub use frame::{Drop, Header, Offloads, check_header, may_receive, may_send};
pub use serve::{Net, State};
pub use start::run;
pub use tap::Tap;

/// What every card offers.
const FEATURES: u64 = (1 << VIRTIO_F_VERSION_1)
    + (1 << VIRTIO_NET_F_MAC)
    + (1 << VIRTIO_NET_F_MRG_RXBUF)
    + (1 << VIRTIO_RING_F_INDIRECT_DESC)
    + (1 << VIRTIO_RING_F_EVENT_IDX);

/// What a card offers whose host side computes checksums and cuts segments.
const OFFLOADING: u64 = FEATURES
    + 2_u64.pow(VIRTIO_NET_F_CSUM) // bit 0, of which a shift would not show its direction
    + (1 << VIRTIO_NET_F_GUEST_CSUM)
    + (1 << VIRTIO_NET_F_HOST_TSO4)
    + (1 << VIRTIO_NET_F_HOST_TSO6)
    + (1 << VIRTIO_NET_F_GUEST_TSO4)
    + (1 << VIRTIO_NET_F_GUEST_TSO6);

impl Card {
    /// Whether what the guest sends is looked at.
    fn judges(&self) -> bool {
        self.locked || self.guarded
    }
}

/// What both halves of a card need.
struct Link {
    tap: Tap,
    card: Card,
    /// A `local interface` has one.
    dhcp: Option<DhcpServer>,
}

/// The card, as far as frames are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Card {
    /// The guest's address.
    pub mac: [u8; 6],
    /// Frames from another address, or to another, are dropped.
    pub locked: bool,
    /// Frames that only DHCP servers and routers send are dropped.
    pub guarded: bool,
}
