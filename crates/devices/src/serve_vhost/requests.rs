//! What a front end may ask of a back end. What can't be done is refused as `ReqHandlerError`, which vhost answers and
//! the conversation survives; what has no answer, or was never offered, ends the conversation.

use std::fs::File;
use std::io;

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVirtioFeatures, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;

use super::Device;
use super::back_end::BackEnd;
use super::memory::{MAX_SLOTS, Memory};
use super::port::{Port, State, UserAddresses, non_blocking};
use super::records::Records;
use crate::queue::{MAX_QUEUE_SIZE, Vring, accepted};

/// Answered as a failure.
fn refused(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::ReqHandlerError(io::Error::other(why))
}

/// Ends the conversation.
fn never_offered<T>() -> Result<T> {
    Err(Error::InvalidOperation("not offered"))
}

impl<D: Device> BackEnd<D> {
    fn port(&mut self, index: u32) -> Result<&mut Port> {
        let ports = usize::try_from(index).ok().and_then(|index| self.ports.get_mut(index));
        ports.ok_or_else(|| refused("no such queue"))
    }

    /// A queue that may be set up now.
    fn stopped(&mut self, index: u32) -> Result<&mut Port> {
        let port = self.port(index)?;
        match port.state {
            State::Stopped => Ok(port),
            State::Running(_) | State::Broken(_) => Err(refused("queue is not stopped")),
        }
    }

    fn start_queue(&mut self, index: u32) -> Result<()> {
        let index = usize::try_from(index).map_err(refused)?;
        self.start(index).map_err(refused)
    }
}

impl<D: Device> VhostUserBackendReqHandlerMut for BackEnd<D> {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.stop_all();
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        self.reset();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.device.features() | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.get_features()? != 0 {
            return Err(refused("feature was not offered"));
        }
        if !accepted(features, VIRTIO_F_VERSION_1) {
            return Err(refused("VIRTIO_F_VERSION_1 is needed"));
        }
        if self.is_running() && features != self.features {
            return Err(refused("features change while a queue runs"));
        }
        self.features = features;
        self.device.accept(features);
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        table: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        let memory = Memory::map(table, files).map_err(refused)?;
        self.replace_memory(memory);
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num).ok().filter(|size| size.is_power_of_two() && *size <= MAX_QUEUE_SIZE);
        let size = size.ok_or_else(|| refused("queue size is no power of two up to 1024"))?;
        self.stopped(index)?.size = size;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let addresses = Some(UserAddresses { descriptors, available, used });
        let features = self.ring_features();
        self.stopped(index)?.addresses = addresses;
        let place = usize::try_from(index).ok();
        if let (Some(port), Some(memory)) = (place.and_then(|place| self.ports.get_mut(place)), &self.memory) {
            // Told now, where the front end knows which addresses were wrong.
            let valid = port.setup(memory, features).and_then(|setup| Vring::new(&memory.guest, setup));
            if let Err(why) = valid {
                port.addresses = None;
                return Err(refused(why));
            }
        }
        self.start_queue(index)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.stopped(index)?.base = u16::try_from(base).map_err(refused)?;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        // There is no way to answer that it can't be had.
        let base = usize::try_from(index).ok().and_then(|queue| self.stop(queue)).ok_or(Error::InvalidParam)?;
        Ok(VhostUserVringState::new(index, u32::from(base)))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let kick = non_blocking(fd).map_err(Error::ReqHandlerError)?;
        // Without protocol features there is no SET_VRING_ENABLE, and a queue starts enabled.
        let enabled = self.features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0;
        let port = self.port(u32::from(index))?;
        port.kick = kick;
        port.enabled |= enabled;
        self.start_queue(u32::from(index))
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.port(u32::from(index))?.call = non_blocking(fd).map_err(Error::ReqHandlerError)?;
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.port(u32::from(index))?.error = non_blocking(fd).map_err(Error::ReqHandlerError)?;
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        let records = match self.device.records() {
            Some(_) => VhostUserProtocolFeatures::INFLIGHT_SHMFD,
            None => VhostUserProtocolFeatures::empty(),
        };
        Ok(VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | records)
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        if features & !self.get_protocol_features()?.bits() != 0 {
            return Err(refused("protocol feature was not offered"));
        }
        self.speaks = true;
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        u64::try_from(self.ports.len()).map_err(|_| Error::BackendInternalError)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        if !enable {
            self.settle(usize::try_from(index).map_err(refused)?);
        }
        let port = self.port(index)?;
        port.enabled = enable;
        port.pending |= enable; // what was kicked while it was disabled
        self.start_queue(index)
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        // What lies past the end reads zero; vhost bounds `size` by a message's 4 KiB.
        let start = usize::try_from(offset).map_err(refused)?;
        let size = usize::try_from(size).map_err(refused)?;
        let known = self.device.config().get(start..).unwrap_or(&[]);
        Ok(known.iter().copied().chain(std::iter::repeat(0)).take(size).collect())
    }

    fn set_config(&mut self, _offset: u32, _bytes: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        Err(refused("configuration space is read-only"))
    }

    fn set_gpu_socket(&mut self, _socket: GpuBackend) -> Result<()> {
        never_offered()
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        never_offered()
    }

    fn get_inflight_fd(&mut self, inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let Some(file) = self.device.records() else { return never_offered() };
        let copy = || file.try_clone().map_err(Error::ReqHandlerError);
        // There is no way to answer that they can't be had.
        if self.records.is_some() && self.is_running() {
            return Err(Error::InvalidOperation("records are in use"));
        }
        let made = Records::make(copy()?, inflight.num_queues, inflight.queue_size);
        Ok((made.map_err(|_| Error::InvalidParam)?, copy()?))
    }

    fn set_inflight_fd(&mut self, inflight: &VhostUserInflight, file: File) -> Result<()> {
        if self.device.records().is_none() {
            return never_offered();
        }
        if self.is_running() {
            return Err(refused("a queue runs"));
        }
        self.records = Some(Records::take(inflight, file).map_err(refused)?);
        Ok(())
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        u64::try_from(MAX_SLOTS).map_err(|_| Error::BackendInternalError)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<u64>> {
        let none = Memory::none();
        let more = self.memory.as_ref().unwrap_or(&none).with(region, file).map_err(refused)?;
        self.grow_memory(more);
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let memory = self.memory.as_ref().ok_or_else(|| refused("there is no memory"))?;
        let less = memory.without(region).map_err(refused)?;
        self.shrink_memory(less);
        Ok(())
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        never_offered()
    }

    fn check_device_state(&mut self) -> Result<()> {
        never_offered()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        never_offered()
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        never_offered()
    }
}
