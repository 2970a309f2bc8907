//! A back end in another process, asked by vhost-user over a connected socket (QEMU's docs/interop/vhost-user.rst).
//!
//! The peer may be hostile: every number it gives is bounded, every answer has a deadline.
//!
//! When its process is gone another takes its place. What it had under way stands in the records that it made, where it offers
//! some; the queues of others go on behind the last request that they handed back, which may do something again.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hw::virtio::{Device, Kind};
use hw::{Activation, QueueSetup};
use proto::device::Front;
use rustix::net::{Shutdown, shutdown};
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Error as VhostUserError, Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};

use super::base::{self, Answer};
use super::port::{Port, Queue};
use super::{BackEnd, Failure, answer};
use crate::memory::GuestMemory;

/// How long a back end may take for all that it is asked in a row. Only a stop of its queues has no limit: it waits for requests
/// under way, which the host's disk may hold up for any time, and no guest is lost by that.
pub const MAX_ANSWERS: Duration = Duration::from_secs(10);
/// Queues of a device at most.
const MAX_QUEUES: u64 = 64;
/// Where the used ring has its index (virtio 1.2, 2.7.8).
const USED_INDEX: u64 = 2;
const PROTOCOL_FEATURES: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::CONFIG)
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::RESET_DEVICE)
    .union(VhostUserProtocolFeatures::INFLIGHT_SHMFD);

/// A connected back end.
pub struct VhostUser {
    front_end: Frontend,
    front: Front,
    /// The device's features that it offers.
    features: u64,
    /// The protocol's.
    offered: VhostUserProtocolFeatures,
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
    /// Where the driver's queues are recorded, from their activation to the next.
    records: Option<(VhostUserInflight, File)>,
    /// Its process is gone, and none has taken its place.
    lost: bool,
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
    let (device, offered) = device.map_err(judge)?;
    let back_end = VhostUser {
        front_end,
        front,
        features: device.features,
        offered,
        watched,
        limit,
        memory,
        memory_told: false,
        active: Vec::new(),
        activation: None,
        bases: Vec::new(),
        answer: Answer::default(),
        records: None,
        lost: false,
    };
    Ok((device, back_end))
}

/// The device, and what else its process offers.
fn negotiate(front_end: &mut Frontend, front: Front) -> vhost::Result<(Device, VhostUserProtocolFeatures)> {
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
    Ok((Device { kind: Kind(front.virtio_id), features, queues, config, irq_line: None }, offered))
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
        self.records = None;
        if self.lost {
            return Ok(());
        }
        self.ask(|back_end| back_end.start(activation, port))
    }

    fn stop(&mut self) -> Result<bool, Failure> {
        if self.lost {
            return Ok(false); // the host may still be at what it had begun
        }
        self.bases.clear();
        for index in &self.active {
            base::ask(self.watched.as_fd(), *index)?;
        }
        self.stopped()
    }

    fn stopped(&mut self) -> Result<bool, Failure> {
        if self.lost {
            return Ok(false);
        }
        while let Some(index) = self.active.first().copied() {
            let Some(base) = self.answer.take(self.watched.as_fd(), index)? else { return Ok(false) };
            self.bases.push((index, base));
            self.active.remove(0);
        }
        Ok(true)
    }

    fn reset(&mut self) -> Result<(), Failure> {
        let served = self.activation.take().is_some();
        let resets = self.offered.contains(VhostUserProtocolFeatures::RESET_DEVICE);
        if served && resets && !self.lost {
            self.ask(|back_end| back_end.front_end.reset_device().map_err(judge))
        } else {
            Ok(())
        }
    }

    fn unpause(&mut self, port: &Port) -> Result<(), Failure> {
        let Some(activation) = self.activation.clone().filter(|_| !self.lost) else { return Ok(()) };
        self.ask(|back_end| back_end.start(&activation, port))
    }

    fn lose(&mut self) {
        self.lost = true;
        // One that is gone already needs none.
        let _ = shutdown(&self.watched, Shutdown::Both);
    }

    fn is_lost(&self) -> bool {
        self.lost
    }

    fn replace(&mut self, socket: OwnedFd) -> Result<Vec<u8>, Failure> {
        let (device, next) = connect(self.limit, self.front, socket, self.memory.clone())?;
        let features = self.features;
        if features & !device.features != 0 {
            return Err(Failure::Gone(format!(
                "it offers {:#x}, and the one before it {features:#x}",
                device.features
            )));
        }
        let (bases, records) = (self.handed_back(), self.records.take());
        *self = Self { features, records, activation: self.activation.take(), bases, ..next };
        if self.activation.is_none() && self.offered.contains(VhostUserProtocolFeatures::RESET_DEVICE) {
            // A reset while there was no process: what the one before had kept of its driver is of the past.
            self.ask(|back_end| back_end.front_end.reset_device().map_err(judge))?;
        }
        Ok(device.config)
    }
}

impl VhostUser {
    /// Asks, and does not wait for ever.
    fn ask<T>(&mut self, ask: impl FnOnce(&mut Self) -> Result<T, Failure>) -> Result<T, Failure> {
        let (limit, socket) = (self.limit, self.watched.try_clone().map_err(gone)?);
        answer::within(limit, socket.as_fd(), || ask(self)).map_err(gone)?
    }

    fn start(&mut self, activation: &Activation, port: &Port) -> Result<(), Failure> {
        self.active.clear();
        self.tell_memory().map_err(judge)?;
        self.tell_records().map_err(judge)?;
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

    /// Has what is under way recorded, if it can: for a driver's queues in new records, and for the next process in the same.
    fn tell_records(&mut self) -> vhost::Result<()> {
        if !self.offered.contains(VhostUserProtocolFeatures::INFLIGHT_SHMFD) {
            return Ok(());
        }
        let records = match self.records.take() {
            Some(records) => records,
            None => {
                let Front { queues: num_queues, queue_size, .. } = self.front;
                let wanted = VhostUserInflight { num_queues, queue_size, ..VhostUserInflight::default() };
                self.front_end.get_inflight_fd(&wanted)?
            }
        };
        let (told, file) = self.records.insert(records);
        self.front_end.set_inflight_fd(told, file.as_raw_fd())
    }

    /// Where each queue of a process that is gone stands, by what it had handed back.
    fn handed_back(&self) -> Vec<(u16, u16)> {
        let index = |used: u64| {
            let at = GuestAddress(used).checked_add(USED_INDEX)?;
            self.memory.load::<u16>(at, Ordering::Acquire).ok().map(u16::from_le)
        };
        let queues = self.activation.iter().flat_map(|activation| &activation.queues);
        queues.map(|setup| (setup.index, index(setup.used).unwrap_or(0))).collect()
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
mod foreign;
#[cfg(test)]
mod tests;
