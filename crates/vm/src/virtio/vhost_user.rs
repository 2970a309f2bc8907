//! A back end in another process, asked by vhost-user over a connected socket (QEMU's docs/interop/vhost-user.rst).
//!
//! The peer may be hostile: every number it gives is bounded, every answer has a deadline.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hw::virtio::{Device, Kind};
use hw::{Activation, QueueSetup};
use proto::device::Front;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Error as VhostUserError, Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::base::{self, Answer};
use super::port::{Port, Queue};
use super::{BackEnd, Failure, answer};
use crate::memory::GuestMemory;

/// How long a back end may take for all that it is asked in a row. Only a stop of its queues has no limit: it waits for requests
/// under way, which the host's disk may hold up for any time, and no guest is lost by that.
pub const MAX_ANSWERS: Duration = Duration::from_secs(10);
/// Queues of a device at most.
const MAX_QUEUES: u64 = 64;
const PROTOCOL_FEATURES: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::CONFIG)
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::RESET_DEVICE);

/// A connected back end.
pub struct VhostUser {
    front_end: Frontend,
    front: Front,
    /// It hears of resets.
    resets: bool,
    /// The same socket, to see it hang up.
    watched: OwnedFd,
    limit: Duration,
    memory: GuestMemory,
    memory_told: bool,
    /// Queues that are served, or were asked where they stand and did not say so yet.
    active: Vec<u16>,
    /// What they were set up with.
    activation: Option<Activation>,
    /// Where each stood when it stopped.
    bases: Vec<(u16, u16)>,
    /// What has come of where the next one stands.
    answer: Answer,
}

/// Asks a back end what it offers, on a socket that waits; `limit` is [`MAX_ANSWERS`] but in tests.
pub fn connect(
    limit: Duration,
    front: Front,
    stream: OwnedFd,
    memory: GuestMemory,
) -> Result<(Device, VhostUser), Failure> {
    let stream = UnixStream::from(stream);
    let watched: OwnedFd = stream.try_clone().map_err(gone)?.into();
    let mut front_end = Frontend::from_stream(stream, MAX_QUEUES);
    let device = answer::within(limit, watched.as_fd(), || negotiate(&mut front_end, front)).map_err(gone)?;
    let back_end = VhostUser {
        front_end,
        front,
        resets: device.as_ref().is_ok_and(|(_, resets)| *resets),
        watched,
        limit,
        memory,
        memory_told: false,
        active: Vec::new(),
        activation: None,
        bases: Vec::new(),
        answer: Answer::default(),
    };
    Ok((device.map_err(judge)?.0, back_end))
}

/// The device, and whether its process hears of resets.
fn negotiate(front_end: &mut Frontend, front: Front) -> vhost::Result<(Device, bool)> {
    front_end.set_owner()?;
    let features = front_end.get_features()?;
    if features & (1 << VIRTIO_F_VERSION_1) == 0 {
        return Err(vhost::Error::VhostUserProtocol(VhostUserError::FeatureMismatch));
    }
    let offered = front_end.get_protocol_features()?;
    front_end.set_protocol_features(offered & PROTOCOL_FEATURES)?;
    front_end.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    if front_end.get_queue_num()? < front.queues.into() {
        return Err(vhost::Error::VhostUserProtocol(VhostUserError::InvalidMessage));
    }
    let config = read_config(front_end, front)?;
    let queues = vec![front.queue_size; usize::from(front.queues)];
    let resets = offered.contains(VhostUserProtocolFeatures::RESET_DEVICE);
    Ok((Device { kind: Kind(front.virtio_id), features, queues, config, irq_line: None }, resets))
}

fn read_config(front_end: &mut Frontend, front: Front) -> vhost::Result<Vec<u8>> {
    match front.config_len {
        0 => Ok(Vec::new()),
        len => {
            let empty = vec![0; usize::from(len)];
            Ok(front_end.get_config(0, len.into(), VhostUserConfigFlags::empty(), &empty)?.1)
        }
    }
}

impl BackEnd for VhostUser {
    fn role(&self) -> &'static str {
        self.front.role()
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.watched.as_fd())
    }

    fn config(&mut self) -> Result<Vec<u8>, Failure> {
        self.ask(|back_end| read_config(&mut back_end.front_end, back_end.front).map_err(judge))
    }

    fn activate(&mut self, activation: &Activation, port: &Port) -> Result<(), Failure> {
        self.activation = Some(activation.clone());
        self.bases.clear(); // a driver starts its rings from nothing
        self.ask(|back_end| back_end.start(activation, port))
    }

    fn stop(&mut self) -> Result<bool, Failure> {
        self.bases.clear();
        for index in &self.active {
            base::ask(self.watched.as_fd(), *index)?;
        }
        self.stopped()
    }

    fn stopped(&mut self) -> Result<bool, Failure> {
        while let Some(index) = self.active.first().copied() {
            let Some(base) = self.answer.take(self.watched.as_fd(), index)? else { return Ok(false) };
            self.bases.push((index, base));
            self.active.remove(0);
        }
        Ok(true)
    }

    fn reset(&mut self) -> Result<(), Failure> {
        let served = self.activation.take().is_some();
        if served && self.resets {
            self.ask(|back_end| back_end.front_end.reset_device().map_err(judge))
        } else {
            Ok(())
        }
    }

    fn unpause(&mut self, port: &Port) -> Result<(), Failure> {
        let Some(activation) = self.activation.clone() else { return Ok(()) };
        self.ask(|back_end| back_end.start(&activation, port))
    }
}

impl VhostUser {
    /// Asks, and does not wait for ever.
    fn ask<T>(&mut self, ask: impl FnOnce(&mut Self) -> Result<T, Failure>) -> Result<T, Failure> {
        let (limit, socket) = (self.limit, self.watched.try_clone().map_err(gone)?);
        answer::within(limit, socket.as_fd(), || ask(self)).map_err(gone)?
    }

    fn start(&mut self, activation: &Activation, port: &Port) -> Result<(), Failure> {
        self.tell_memory().map_err(judge)?;
        let features = activation.features | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        self.front_end.set_features(features).map_err(judge)?;
        for setup in &activation.queues {
            let index = setup.index;
            let queue = port.queue(index).ok_or_else(|| Failure::Refused(format!("no queue {index}")))?;
            self.active.push(index);
            self.start_queue(setup, queue, port).map_err(judge)?;
        }
        for index in &self.active {
            self.front_end.set_vring_enable(usize::from(*index), true).map_err(judge)?;
        }
        Ok(())
    }

    /// Once: memory does not change while the VM runs.
    fn tell_memory(&mut self) -> vhost::Result<()> {
        if self.memory_told {
            return Ok(());
        }
        let regions = self.memory.iter().map(VhostUserMemoryRegionInfo::from_guest_region);
        self.front_end.set_mem_table(&regions.collect::<Result<Vec<_>, _>>()?)?;
        self.memory_told = true;
        Ok(())
    }

    fn start_queue(&mut self, setup: &QueueSetup, queue: &Queue, port: &Port) -> vhost::Result<()> {
        let index = usize::from(setup.index);
        let config = VringConfigData {
            queue_max_size: self.front.queue_size,
            queue_size: setup.size,
            flags: 0,
            desc_table_addr: self.user_address(setup.desc)?,
            used_ring_addr: self.user_address(setup.used)?,
            avail_ring_addr: self.user_address(setup.avail)?,
            log_addr: None,
        };
        self.front_end.set_vring_num(index, setup.size)?;
        let base = self.bases.iter().find(|(of, _)| *of == setup.index).map_or(0, |(_, base)| *base);
        self.front_end.set_vring_base(index, base)?;
        self.front_end.set_vring_addr(index, &config)?;
        self.front_end.set_vring_err(index, &port.broken)?;
        self.front_end.set_vring_call(index, &queue.call)?;
        self.front_end.set_vring_kick(index, &queue.kick)
    }

    /// Rings are told by addresses in this process, which the table of memory translates.
    fn user_address(&self, gpa: u64) -> vhost::Result<u64> {
        let address = self.memory.get_host_address(GuestAddress(gpa));
        address.map(|at| at.expose_provenance() as u64).map_err(|_| vhost::Error::InvalidGuestMemory)
    }
}

fn gone(error: std::io::Error) -> Failure {
    Failure::Gone(error.to_string())
}

/// Only an answer that says no leaves the socket usable.
fn judge(error: vhost::Error) -> Failure {
    let refused = matches!(error, vhost::Error::VhostUserProtocol(VhostUserError::BackendInternalError));
    if refused { Failure::Refused(error.to_string()) } else { Failure::Gone(error.to_string()) }
}

#[cfg(test)]
mod tests;
