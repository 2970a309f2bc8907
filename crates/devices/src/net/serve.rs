//! A card that is served: its two halves, and what was negotiated. The only file that holds the tap.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustix::event::PollFlags;
use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MRG_RXBUF,
};
use zerocopy::IntoBytes;

use super::config::Config;
use super::dhcp::{Lease, Server};
use super::frame::Offloads;
use super::receive::Receive;
use super::tap::Tap;
use super::transmit::Transmit;
use super::{Card, FEATURES, Link, OFFLOADING};
use crate::queue::{RingFault, accepted};
use crate::serve_vhost::{Active, Device, Progress};

/// The queue that receives (virtio 1.2, 5.1.2); the other transmits.
const RECEIVE: usize = 0;

/// What of a card's process must outlive it; the rings' part is `Vring::save`, and frames may be lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// What the driver accepted.
    pub features: u64,
}

/// A card that is served.
pub struct Net {
    link: Link,
    config: Config,
    state: State,
    receive: Receive,
    transmit: Transmit,
}

impl Net {
    /// A card on a tap.
    pub fn new(tap: Tap, card: Card) -> Net {
        Net {
            link: Link { tap, card, dhcp: None },
            config: Config { mac: card.mac },
            state: State::default(),
            receive: Receive::new(),
            transmit: Transmit::new(card),
        }
    }

    /// The same card, whose guest is told its address by DHCP.
    pub fn leasing(self, lease: Lease) -> Net {
        Net { link: Link { dhcp: Some(Server::new(lease)), ..self.link }, ..self }
    }

    /// What a successor needs to go on.
    pub fn save(&self) -> State {
        self.state
    }

    fn stop_receiving(&mut self) {
        self.receive.stop();
        if let Some(dhcp) = &mut self.link.dhcp {
            dhcp.clear();
        }
    }

    /// Goes on from a predecessor's state, before the first queue starts.
    pub fn restore(&mut self, state: State) {
        self.accept(state.features);
    }
}

impl Device for Net {
    fn queues(&self) -> usize {
        2
    }

    fn features(&self) -> u64 {
        if self.link.tap.has_offloads() { OFFLOADING } else { FEATURES }
    }

    fn config(&self) -> &[u8] {
        self.config.as_bytes()
    }

    fn accept(&mut self, features: u64) {
        let offloads = |checksum, tso4, tso6| {
            let checksum = accepted(features, checksum);
            // 5.1.3.1: segmentation needs the checksum.
            Offloads {
                checksum,
                tso4: checksum && accepted(features, tso4),
                tso6: checksum && accepted(features, tso6),
            }
        };
        self.state.features = features;
        self.transmit.offloads = offloads(VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6);
        self.receive.offloads = offloads(VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6);
        self.receive.mergeable = accepted(features, VIRTIO_NET_F_MRG_RXBUF);
        if let Err(why) = self.link.tap.set_offloads(self.receive.offloads) {
            // At each reset of the device, if the tap is gone.
            sys::guest_log!(Warn, "tap's offloads: {why}");
        }
    }

    fn kicked(&mut self, queue: usize, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        match queue {
            RECEIVE => self.receive.kicked(&mut self.link, on),
            _ => self.transmit.serve(&mut self.link, on),
        }
    }

    fn source(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.receive.wants_tap().then(|| (self.link.tap.as_fd(), PollFlags::IN))
    }

    fn ready(&mut self, on: Option<&mut Active<'_>>) -> Result<Progress, RingFault> {
        let Some(on) = on else {
            self.stop_receiving(); // the device is broken, and waits for a reset
            return Ok(Progress::Idle);
        };
        self.receive.serve(&mut self.link, on)
    }

    fn deadline(&self) -> Option<Instant> {
        let answer = self.link.dhcp.as_ref().and_then(Server::due).filter(|_| !self.receive.full);
        self.receive.quiet.into_iter().chain(answer).min()
    }

    fn stop(&mut self, queue: usize, _on: Option<&mut Active<'_>>) {
        if queue == RECEIVE {
            self.stop_receiving();
        }
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests;
