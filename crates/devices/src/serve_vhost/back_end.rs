//! A device behind vhost-user: its queues and memory, and whose turn it is. `requests.rs` is what a front end may ask.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::event::PollFlags;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::memory::Memory;
use super::port::{Port, RingFeatures, State, ring};
use super::records::Records;
use super::{Device, MAX_QUEUES, Progress};
use crate::queue::{RecordError, RingFault, accepted};

/// A device and all that the front end has set of it.
pub struct BackEnd<D: Device> {
    pub(super) device: D,
    pub(super) memory: Option<Memory>,
    /// Where the queues record what is under way, if the front end wants that.
    pub(super) records: Option<Records>,
    pub(super) ports: Vec<Port>,
    /// As the front end set them; 0 until then, since it must take VERSION_1.
    pub(super) features: u64,
    /// The front end has set protocol features.
    pub(super) speaks: bool,
    /// The device's own descriptor has more to give, whether or not it is ready.
    source_pending: bool,
}

impl<D: Device> BackEnd<D> {
    /// A device whose queues are all stopped.
    pub fn new(device: D) -> Self {
        let ports = (0..device.queues().min(MAX_QUEUES)).map(|_| Port::new()).collect();
        BackEnd { device, memory: None, records: None, ports, features: 0, speaks: false, source_pending: false }
    }

    /// A queue's kick descriptor has become ready, or failed.
    pub(super) fn kicked(&mut self, queue: usize, flags: PollFlags) {
        if let Some(port) = self.ports.get_mut(queue) {
            port.kicked(flags);
        }
    }

    /// Serves the device's own descriptor and each queue that waits, once.
    pub(super) fn turn(&mut self, source_ready: bool, now: Instant) {
        let late = self.device.deadline().is_some_and(|at| at <= now);
        if source_ready || late || std::mem::take(&mut self.source_pending) {
            let queue = self.device.source_queue();
            let mut active = self.ports.get_mut(queue).and_then(|port| port.active(self.memory.as_ref()));
            match self.device.ready(active.as_mut()) {
                Ok(progress) => self.source_pending = progress == Progress::More,
                Err(fault) => self.broken(queue, fault),
            }
        }
        for queue in 0..self.ports.len() {
            self.serve(queue);
        }
    }

    fn serve(&mut self, queue: usize) {
        let Some(port) = self.ports.get_mut(queue).filter(|port| port.pending) else { return };
        let Some(mut active) = port.active(self.memory.as_ref()) else { return };
        let result = self.device.kicked(queue, &mut active);
        port.pending = matches!(result, Ok(Progress::More));
        if let Err(fault) = result {
            self.broken(queue, fault);
        }
    }

    /// The guest broke a ring: the whole device stops until it is reset (virtio 1.2, 2.1.1: DEVICE_NEEDS_RESET).
    fn broken(&mut self, queue: usize, fault: RingFault) {
        sys::guest_log!(Warn, "queue {queue}: {fault}: the device stops until the guest resets it");
        self.source_pending = false;
        for port in &mut self.ports {
            port.break_off();
        }
        if let Some(port) = self.ports.get(queue) {
            port.signal_error();
        }
    }

    /// Whether a turn is due at once.
    pub(super) fn has_more(&self) -> bool {
        self.source_pending || self.ports.iter().any(|port| port.pending && port.is_active())
    }

    pub(super) fn kick(&self, queue: usize) -> Option<BorrowedFd<'_>> {
        self.ports.get(queue).and_then(Port::kick_fd)
    }

    /// All queues stop, and the device finishes what it owes its host side.
    pub(super) fn finish(&mut self) {
        self.stop_all();
        self.device.finish();
    }

    /// The driver begins anew.
    pub(super) fn reset(&mut self) {
        self.stop_all();
        self.records.iter().for_each(Records::forget);
        self.device.reset();
    }

    pub(super) fn stop_all(&mut self) {
        for queue in 0..self.ports.len() {
            self.stop(queue);
        }
    }

    /// Stops a queue when nothing of it is under way any more. Returns where it stood.
    pub(super) fn stop(&mut self, queue: usize) -> Option<u16> {
        self.settle(queue);
        if self.ports.get(queue).is_some_and(|port| matches!(port.state, State::Broken(_))) {
            // What is under way of a broken ring is not answered: its driver begins anew.
            self.records.iter().for_each(Records::forget);
        }
        self.ports.get_mut(queue).map(Port::stop)
    }

    /// Waits until nothing of a queue is under way.
    pub(super) fn settle(&mut self, queue: usize) {
        if let Some(port) = self.ports.get_mut(queue) {
            self.device.stop(queue, port.active(self.memory.as_ref()).as_mut());
        }
    }

    /// Starts a queue if all it needs is there.
    pub(super) fn start(&mut self, queue: usize) -> Result<(), RecordError> {
        let features = self.ring_features();
        let record = self.records.as_ref().map(|records| (records, queue));
        self.ports.get_mut(queue).map_or(Ok(()), |port| port.start(self.memory.as_ref(), features, record))
    }

    /// Other memory under running queues: each goes on where it stood, or is broken if its ring is not in it.
    pub(super) fn replace_memory(&mut self, memory: Memory) {
        let lost = self.move_rings(memory);
        if let Some(queue) = lost.last() {
            self.broken(*queue, RingFault::Outside);
        }
    }

    /// Less memory under running queues: one whose ring is gone waits until that comes back. (QEMU takes a region away and adds it
    /// as two when its guest has a part of it protected.)
    pub(super) fn shrink_memory(&mut self, memory: Memory) {
        for queue in self.move_rings(memory) {
            if let Some(port) = self.ports.get_mut(queue) {
                port.suspend();
            }
        }
    }

    /// More memory: what is mapped stays where it is, so a running queue does not notice, and one that waited for it starts.
    pub(super) fn grow_memory(&mut self, memory: Memory) {
        self.memory = Some(memory);
        for queue in 0..self.ports.len() {
            if let Err(why) = self.start(queue) {
                sys::guest_log!(Debug, "queue {queue} does not start with more memory: {why}");
            }
        }
    }

    /// The rings of running queues as they lie in other memory; gives those queues whose ring is not in it.
    fn move_rings(&mut self, memory: Memory) -> Vec<usize> {
        for queue in 0..self.ports.len() {
            self.settle(queue);
        }
        let features = self.ring_features();
        let mut lost = Vec::new();
        for (queue, port) in self.ports.iter_mut().enumerate() {
            let State::Running(before) = &port.state else { continue };
            port.base = before.save().last_avail;
            let record = self.records.as_ref().map(|records| (records, queue));
            let setup = port.setup(&memory, features).map_err(RecordError::Ring);
            match setup.and_then(|setup| ring(&memory, setup, record)) {
                Ok(ring) => {
                    port.state = State::Running(Box::new(ring));
                    port.pending = true;
                }
                Err(_) => lost.push(queue),
            }
        }
        self.memory = Some(memory);
        lost
    }

    /// Between protocol features and features: the former are negotiated by then, as far as front ends are concerned.
    pub(super) fn is_early(&self) -> bool {
        self.speaks && self.features == 0
    }

    pub(super) fn is_running(&self) -> bool {
        self.ports.iter().any(|port| matches!(port.state, State::Running(_)))
    }

    pub(super) fn ring_features(&self) -> RingFeatures {
        RingFeatures {
            event_idx: accepted(self.features, VIRTIO_RING_F_EVENT_IDX),
            indirect: accepted(self.features, VIRTIO_RING_F_INDIRECT_DESC),
        }
    }
}
