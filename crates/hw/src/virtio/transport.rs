//! Common configuration: features, status, queues (virtio 1.2, 2.1, 2.2, 3.1 and 4.1.4.3), and its rules of
//! openbsd/devices.md, 1.6.
//!
//! FEATURES_OK needs VERSION_1 and offered bits only; DRIVER_OK needs FEATURES_OK; features are fixed from FEATURES_OK on,
//! queues from DRIVER_OK on; DEVICE_NEEDS_RESET goes by a reset alone.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use virtio_bindings::{virtio_config, virtio_ring};

use super::layout::COMMON_LEN;
use super::queue::{Queue, VIRTIO_MSI_NO_VECTOR};
use crate::access;
use crate::effect::Activation;
use crate::saved::{Flaw, check};

/// Device status bits (virtio 1.2, 2.1).
pub mod status {
    use virtio_bindings::virtio_config as kernel;

    /// The guest has seen the device.
    pub const ACKNOWLEDGE: u8 = kernel::VIRTIO_CONFIG_S_ACKNOWLEDGE.to_le_bytes()[0];
    /// The guest has a driver.
    pub const DRIVER: u8 = kernel::VIRTIO_CONFIG_S_DRIVER.to_le_bytes()[0];
    /// The driver is ready.
    pub const DRIVER_OK: u8 = kernel::VIRTIO_CONFIG_S_DRIVER_OK.to_le_bytes()[0];
    /// Features are agreed on.
    pub const FEATURES_OK: u8 = kernel::VIRTIO_CONFIG_S_FEATURES_OK.to_le_bytes()[0];
    /// The device cannot go on.
    pub const DEVICE_NEEDS_RESET: u8 = kernel::VIRTIO_CONFIG_S_NEEDS_RESET.to_le_bytes()[0];
    /// The driver has given up.
    pub const FAILED: u8 = kernel::VIRTIO_CONFIG_S_FAILED.to_le_bytes()[0];
    /// The device is seen and has a driver.
    pub const FOUND: u8 = ACKNOWLEDGE + DRIVER;
    /// All of them.
    pub const ALL: u8 = FOUND + DRIVER_OK + FEATURES_OK + DEVICE_NEEDS_RESET + FAILED;
}

const VERSION_1: u64 = 1 << virtio_config::VIRTIO_F_VERSION_1;
/// Bits 24 to 40 are the transport's and the rings' (virtio 1.2, 6 and 2.2). Of these only what the registers here and
/// split rings can do is offered, whatever the back end says: bit 30 in it is vhost-user's own, for one.
const RESERVED_FEATURES: u64 = 0x0000_01FF_FF00_0000;
const KNOWN_RESERVED: u64 = VERSION_1
    + (1 << virtio_ring::VIRTIO_RING_F_INDIRECT_DESC)
    + (1 << virtio_ring::VIRTIO_RING_F_EVENT_IDX)
    + (1 << virtio_config::VIRTIO_F_IN_ORDER);

/// What a write to the common configuration means beyond the registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing.
    Done,
    /// An MSI-X vector register may have changed.
    Vectors,
    /// The driver is ready.
    Activate(Activation),
    /// The driver resets a device that runs: finished by [`Transport::reset_done`].
    StopBackEnd,
    /// The driver has reset a device that did not run.
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Stopped,
    Active,
    Resetting,
}

/// Registers of the common configuration, at their offsets (virtio 1.2, 4.1.4.3): those a driver can write.
#[derive(Debug, Clone, Copy)]
enum Field {
    DeviceFeatureSelect,
    DriverFeatureSelect,
    DriverFeature,
    ConfigVector,
    DeviceStatus,
    QueueSelect,
    QueueSize,
    QueueVector,
    QueueEnable,
    QueueDesc,
    QueueDriver,
    QueueDevice,
}

/// Offset and length of each writable register, in the order in which a wide write takes effect.
const FIELDS: [(usize, usize, Field); 12] = [
    (0x00, 4, Field::DeviceFeatureSelect),
    (0x08, 4, Field::DriverFeatureSelect),
    (0x0C, 4, Field::DriverFeature),
    (0x10, 2, Field::ConfigVector),
    (0x14, 1, Field::DeviceStatus),
    (0x16, 2, Field::QueueSelect),
    (0x18, 2, Field::QueueSize),
    (0x1A, 2, Field::QueueVector),
    (0x1C, 2, Field::QueueEnable),
    (0x20, 8, Field::QueueDesc),
    (0x28, 8, Field::QueueDriver),
    (0x30, 8, Field::QueueDevice),
];

/// The common configuration of one device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Transport {
    offered: u64,
    accepted: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    config_vector: u16,
    vectors: u16,
    status: u8,
    generation: u8,
    queue_select: u16,
    queues: Vec<Queue>,
    phase: Phase,
}

impl Transport {
    /// A device after reset that offers these features, less those the transport cannot do, and queues of these sizes.
    pub fn new(features: u64, queue_sizes: &[u16], vectors: u16) -> Self {
        Self {
            offered: features & (!RESERVED_FEATURES | KNOWN_RESERVED) | VERSION_1,
            accepted: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            config_vector: VIRTIO_MSI_NO_VECTOR,
            vectors,
            status: 0,
            generation: 0,
            queue_select: 0,
            queues: queue_sizes.iter().map(|size| Queue::new(*size)).collect(),
            phase: Phase::Stopped,
        }
    }

    /// config_msix_vector.
    pub fn config_vector(&self) -> u16 {
        self.config_vector
    }

    /// queue_msix_vector of each queue.
    pub fn queue_vectors(&self) -> impl Iterator<Item = u16> + '_ {
        self.queues.iter().map(|queue| queue.vector)
    }

    /// Whether the driver has set DRIVER_OK, and the device can go on.
    pub fn runs(&self) -> bool {
        self.phase == Phase::Active && self.status & status::DEVICE_NEEDS_RESET == 0
    }

    /// Whether a notification of this queue means anything.
    pub fn takes_notify(&self, queue: u16) -> bool {
        self.runs() && self.queues.get(usize::from(queue)).is_some_and(|queue| queue.enabled)
    }

    /// The configuration space changed: a driver that reads it in pieces sees so (4.1.4.3.1).
    pub fn bump_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// The device cannot go on. Returns whether the driver is to be told by a configuration interrupt (2.1.2).
    pub fn needs_reset(&mut self) -> bool {
        let tell = self.runs();
        if self.phase == Phase::Active {
            self.status |= status::DEVICE_NEEDS_RESET;
        }
        tell
    }

    /// The back end has stopped. Returns whether a reset waited for that.
    pub fn reset_done(&mut self) -> bool {
        let waited = self.phase == Phase::Resetting;
        if waited {
            self.reset();
        }
        waited
    }

    /// Takes what was saved of a device like this one. The outcome is what its back end is to do: start, or stop.
    pub fn restore(&mut self, saved: Self, ram: &[Range<u64>]) -> Result<Outcome, Flaw> {
        let sizes = |transport: &Self| transport.queues.iter().map(|queue| queue.max_size).collect::<Vec<_>>();
        check(saved.vectors == self.vectors && sizes(&saved) == sizes(self), "the queues' number and sizes")?;
        let offered = std::mem::replace(self, saved).offered;
        self.offered = offered; // what is agreed on need not be all that the last back end offered
        self.check_status()?;
        let known = |vector| vector == self.vector(vector);
        check(known(self.config_vector) && self.queue_vectors().all(known), "a queue's vector")?;
        check(self.queues.iter().all(|queue| !queue.enabled || queue.is_valid(ram)), "an enabled queue")?;
        Ok(match self.phase {
            Phase::Active if self.runs() => Outcome::Activate(self.activation()),
            Phase::Resetting => Outcome::StopBackEnd,
            Phase::Active | Phase::Stopped => Outcome::Done,
        })
    }

    fn check_status(&self) -> Result<(), Flaw> {
        let has = |bits| self.status & bits == bits;
        let started = self.phase != Phase::Stopped;
        check(self.status & !status::ALL == 0 && has(status::DRIVER_OK) == started, "the device status")?;
        check(!has(status::DRIVER_OK) || has(status::FEATURES_OK), "the device status")?;
        check(!has(status::DEVICE_NEEDS_RESET) || started, "the device status")?;
        if has(status::FEATURES_OK) {
            check(has(status::FOUND), "the device status")?;
            check(self.features_are_good(), "the features agreed on")?;
        }
        Ok(())
    }

    /// Reads at any offset and width; what is no register reads 0.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        access::copy(&self.image(), usize::from(offset), data, 0);
    }

    /// Writes at any offset and width: each register touched takes its new value, in order of offset.
    pub fn write(&mut self, offset: u16, data: &[u8], ram: &[Range<u64>]) -> Outcome {
        let mut outcome = Outcome::Done;
        for (at, len, field) in FIELDS {
            let mut bytes = [0; 8];
            let (register, _) = bytes.split_at_mut(len);
            access::copy(&self.image(), at, register, 0);
            if !access::merge(register, at, usize::from(offset), data) {
                continue;
            }
            let value = access::value(register);
            outcome = match (outcome, self.set(field, value, ram)) {
                // What the status meant is told, whatever registers the same write goes on to.
                (earlier, Outcome::Done) => earlier,
                (Outcome::Done | Outcome::Vectors, later) => later,
                (earlier, _) => earlier,
            };
        }
        outcome
    }

    fn image(&self) -> [u8; COMMON_LEN as usize] {
        let selected = usize::from(self.queue_select);
        let none = Queue { vector: 0, ..Queue::new(0) };
        let queue = self.queues.get(selected).copied().unwrap_or(none);
        let exists = selected < self.queues.len();
        let mut image = [0; COMMON_LEN as usize];
        let parts: [&[u8]; 18] = [
            &self.device_feature_select.to_le_bytes(),
            &word(self.offered, self.device_feature_select).to_le_bytes(),
            &self.driver_feature_select.to_le_bytes(),
            &word(self.accepted, self.driver_feature_select).to_le_bytes(),
            &self.config_vector.to_le_bytes(),
            &u16::try_from(self.queues.len()).unwrap_or(u16::MAX).to_le_bytes(),
            &[self.status, self.generation],
            &self.queue_select.to_le_bytes(),
            &queue.size.to_le_bytes(),
            &queue.vector.to_le_bytes(),
            &u16::from(queue.enabled).to_le_bytes(),
            &(if exists { self.queue_select } else { 0 }).to_le_bytes(), // queue_notify_off
            &queue.desc.to_le_bytes(),
            &queue.avail.to_le_bytes(),
            &queue.used.to_le_bytes(),
            &[0; 2], // queue_notify_data: NOTIF_CONFIG_DATA is not offered
            &[0; 2], // queue_reset: RING_RESET is not offered
            &[],
        ];
        for (to, from) in image.iter_mut().zip(parts.iter().flat_map(|part| part.iter())) {
            *to = *from;
        }
        image
    }

    fn set(&mut self, field: Field, value: u64, ram: &[Range<u64>]) -> Outcome {
        if self.phase == Phase::Resetting {
            return Outcome::Done; // until the back end has stopped
        }
        let [low, high, ..] = value.to_le_bytes();
        let value_u16 = u16::from_le_bytes([low, high]);
        let value_u32 = word(value, 0);
        match field {
            Field::DeviceFeatureSelect => self.device_feature_select = value_u32,
            Field::DriverFeatureSelect => self.driver_feature_select = value_u32,
            Field::DriverFeature => self.set_driver_feature(value_u32),
            Field::ConfigVector => {
                self.config_vector = self.vector(value_u16);
                return Outcome::Vectors;
            }
            Field::DeviceStatus => return self.set_status(low),
            Field::QueueSelect => self.queue_select = value_u16,
            Field::QueueVector => return self.set_queue_vector(value_u16),
            Field::QueueSize => self.change_queue(|queue| queue.size = value_u16),
            Field::QueueEnable => self.change_queue(|queue| queue.enabled = value == 1 && queue.is_valid(ram)),
            Field::QueueDesc => self.change_queue(|queue| queue.desc = value),
            Field::QueueDriver => self.change_queue(|queue| queue.avail = value),
            Field::QueueDevice => self.change_queue(|queue| queue.used = value),
        }
        Outcome::Done
    }

    /// Replaces the selected word, until the features are agreed on.
    fn set_driver_feature(&mut self, value: u32) {
        if self.status & status::FEATURES_OK != 0 {
            return;
        }
        let value = u64::from(value);
        match self.driver_feature_select {
            0 => self.accepted = self.accepted & !0xFFFF_FFFF | value,
            1 => self.accepted = self.accepted & 0xFFFF_FFFF | value << 32,
            _ => {}
        }
    }

    fn set_status(&mut self, value: u8) -> Outcome {
        if value == 0 {
            return self.start_reset();
        }
        // A driver only ever adds bits (2.1.1); each is taken if the ones before it are there.
        const FREE: u8 = status::FOUND + status::FAILED;
        let mut new = self.status | value & FREE;
        if value & status::FEATURES_OK != 0 && new & status::FOUND == status::FOUND && self.features_are_good() {
            new |= status::FEATURES_OK;
        }
        let ready = value & status::DRIVER_OK != 0 && new & status::FEATURES_OK != 0;
        let starts = ready && self.phase == Phase::Stopped && new & status::FAILED == 0;
        self.status = new;
        if !starts {
            return Outcome::Done;
        }
        self.status |= status::DRIVER_OK;
        self.phase = Phase::Active;
        Outcome::Activate(self.activation())
    }

    fn activation(&self) -> Activation {
        let queues = (0..=u16::MAX).zip(&self.queues).filter_map(|(index, queue)| queue.setup(index)).collect();
        Activation { features: self.accepted, queues }
    }

    fn features_are_good(&self) -> bool {
        self.accepted & VERSION_1 != 0 && self.accepted & !self.offered == 0
    }

    fn start_reset(&mut self) -> Outcome {
        if self.phase == Phase::Active {
            self.phase = Phase::Resetting;
            return Outcome::StopBackEnd;
        }
        self.reset();
        Outcome::Reset
    }

    fn reset(&mut self) {
        self.accepted = 0;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.config_vector = VIRTIO_MSI_NO_VECTOR;
        self.status = 0;
        self.queue_select = 0;
        self.queues.iter_mut().for_each(Queue::reset);
        self.phase = Phase::Stopped;
    }

    /// The vector that is stored: one that the table does not have reads back as none (4.1.5.1.2.1).
    fn vector(&self, value: u16) -> u16 {
        if value < self.vectors { value } else { VIRTIO_MSI_NO_VECTOR }
    }

    fn set_queue_vector(&mut self, value: u16) -> Outcome {
        let vector = self.vector(value);
        if let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) {
            queue.vector = vector;
        }
        Outcome::Vectors
    }

    /// Changes the selected queue, if there is one, it is not enabled yet and the device does not run.
    fn change_queue(&mut self, change: impl FnOnce(&mut Queue)) {
        let set_up = self.phase == Phase::Stopped;
        let queue = self.queues.get_mut(usize::from(self.queue_select));
        if let Some(queue) = queue.filter(|queue| set_up && !queue.enabled) {
            change(queue);
        }
    }
}

/// Word 0 or 1 of a feature set; others are 0.
fn word(features: u64, select: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
    match select {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM: [Range<u64>; 2] = [0..0x8_0000, 0x8_0000..0x10_0000];

    fn device() -> Transport {
        Transport::new(VERSION_1 | 1, &[256, 64], 3)
    }

    /// A device that serves one queue of two.
    fn active() -> Transport {
        let mut device = device();
        device.queues[1] =
            Queue { desc: 0x1000, avail: 0x2000, used: 0x3000, enabled: true, vector: 2, ..Queue::new(64) };
        let status = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
        Transport { status, accepted: VERSION_1, phase: Phase::Active, ..device }
    }

    #[test]
    fn a_back_end_is_started_or_stopped_as_the_driver_left_it() {
        let restored = |saved| device().restore(saved, &RAM);
        let queue = crate::effect::QueueSetup { index: 1, size: 64, desc: 0x1000, avail: 0x2000, used: 0x3000 };
        let activation = Activation { features: VERSION_1, queues: vec![queue] };
        assert_eq!(restored(active()), Ok(Outcome::Activate(activation)));
        assert_eq!(restored(Transport { phase: Phase::Resetting, ..active() }), Ok(Outcome::StopBackEnd));
        let broken = Transport { status: active().status | status::DEVICE_NEEDS_RESET, ..active() };
        assert_eq!(restored(broken), Ok(Outcome::Done), "only a reset helps");
        assert_eq!(restored(device()), Ok(Outcome::Done));
    }

    #[test]
    fn only_a_state_that_the_device_can_have_is_restored() {
        let status_of = |status, phase| Transport { status, phase, ..active() };
        let queue = |change: &dyn Fn(&mut Queue)| {
            let mut saved = active();
            change(&mut saved.queues[1]);
            saved
        };
        let cases = [
            (Transport::new(0, &[256], 3), "the queues' number and sizes"),
            (Transport::new(0, &[256, 128], 3), "the queues' number and sizes"),
            (Transport::new(0, &[256, 64], 4), "the queues' number and sizes"),
            (status_of(0x1F, Phase::Active), "the device status"),
            (status_of(0x0B, Phase::Active), "the device status"),
            (status_of(0x0F, Phase::Stopped), "the device status"),
            (status_of(0x07, Phase::Active), "the device status"),
            (status_of(0x43, Phase::Stopped), "the device status"),
            (status_of(0x0E, Phase::Active), "the device status"),
            (Transport { accepted: 1, ..active() }, "the features agreed on"),
            (Transport { accepted: VERSION_1 | 2, ..active() }, "the features agreed on"),
            (Transport { config_vector: 3, ..active() }, "a queue's vector"),
            (queue(&|queue| queue.vector = 3), "a queue's vector"),
            (queue(&|queue| queue.desc = 0x10_0000), "an enabled queue"),
            (queue(&|queue| queue.size = 128), "an enabled queue"),
        ];
        for (saved, field) in cases {
            assert_eq!(device().restore(saved, &RAM), Err(Flaw::Field(field)));
        }
    }
}
