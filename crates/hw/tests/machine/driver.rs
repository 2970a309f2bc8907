//! A machine with an entropy device, a network card, a disk and vmmci, and a driver's way to it.

use std::cell::{Cell, RefCell};

use hw::virtio::{Device, Kind};
use hw::{Chipset, Edge, Effect, Now, RestoreError, SavedChipset, Setup, Slot, World};

pub const ECAM: u64 = 0xE000_0000;
pub const WINDOW: std::ops::Range<u64> = 0xC000_0000..0xE000_0000;
pub const BAR: u64 = 0xC000_0000;
pub const NET: Slot = Slot(2);
pub const BLK: Slot = Slot(3);
pub const VMMCI: Slot = Slot(4);
/// Where vmmci's registers are.
pub const PORTS: u16 = 0x1000;
pub const VERSION_1: u64 = 1 << 32;
pub const NOTIFY: u64 = 0x3000;
pub const TABLE: u64 = 0x8000;
pub const PENDING: u64 = 0xC000;

/// Registers of the common configuration (virtio 1.2, 4.1.4.3).
pub mod common {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DEVICE_FEATURE: u64 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0C;
    pub const CONFIG_VECTOR: u64 = 0x10;
    pub const NUM_QUEUES: u64 = 0x12;
    pub const STATUS: u64 = 0x14;
    pub const GENERATION: u64 = 0x15;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_VECTOR: u64 = 0x1A;
    pub const QUEUE_ENABLE: u64 = 0x1C;
    pub const QUEUE_DESC: u64 = 0x20;
    pub const QUEUE_DRIVER: u64 = 0x28;
    pub const QUEUE_DEVICE: u64 = 0x30;
}

/// Records what the chipset decides.
#[derive(Default)]
pub struct Recorder {
    effects: RefCell<Vec<Effect>>,
    pub now_ns: Cell<u64>,
    /// How far CLOCK_MONOTONIC is ahead of the time of day: another in each boot of a host.
    pub ahead_ns: u64,
    /// A queue whose call waits.
    pub held: Cell<Option<(Slot, u16)>>,
}

impl Recorder {
    pub fn take(&self) -> Vec<Effect> {
        self.effects.take()
    }
}

impl World for Recorder {
    fn now(&self) -> Now {
        let ns = self.now_ns.get();
        Now { monotonic_ns: ns.wrapping_add(self.ahead_ns), realtime_ns: ns.wrapping_add(1_700_000_000_000_000_000) }
    }
    fn call_pending(&self, slot: Slot, queue: u16) -> bool {
        self.held.get() == Some((slot, queue))
    }
    fn read_memory(&self, _: u64, _: &mut [u8]) -> bool {
        false
    }
}

impl Edge for Recorder {
    fn perform(&self, effect: Effect) {
        self.effects.borrow_mut().push(effect);
    }
}

pub struct Machine {
    pub chipset: Chipset,
    pub edge: Recorder,
}

pub fn device(kind: Kind, queues: usize, config: &[u8], irq_line: Option<u8>) -> Device {
    Device { kind, features: u64::MAX, queues: vec![256; queues], config: config.to_vec(), irq_line }
}

/// A machine with an entropy device, a network card, a disk and vmmci.
pub fn setup(now: Now) -> Setup {
    Setup {
        ram: vec![0..0x1000_0000, 0x1_0000_0000..0x1_1000_0000],
        vcpus: 2,
        mmio: WINDOW,
        ecam: ECAM,
        devices: vec![
            device(Kind::ENTROPY, 1, &[], None),
            device(Kind::NETWORK, 2, &[2, 0, 0, 0, 0, 1], Some(11)),
            device(Kind::BLOCK, 1, &[1, 2, 3, 4, 5, 6, 7, 8], None),
        ],
        vmmci: Some(10),
        now,
    }
}

impl Machine {
    pub fn new() -> Self {
        Self::with(setup(Recorder::default().now()).devices)
    }

    pub fn with(devices: Vec<Device>) -> Self {
        let edge = Recorder::default();
        let setup = Setup { devices, ..setup(edge.now()) };
        Self { chipset: Chipset::new(setup).expect("devices that fit"), edge }
    }

    /// The same machine in another process, on a host whose CLOCK_MONOTONIC is ahead of this one's.
    pub fn restored(saved: &SavedChipset, from: &Recorder, ahead_ns: u64) -> Result<Self, RestoreError> {
        let edge = Recorder {
            now_ns: from.now_ns.clone(),
            ahead_ns: from.ahead_ns.wrapping_add(ahead_ns),
            held: from.held.clone(),
            effects: RefCell::default(),
        };
        Ok(Self { chipset: Chipset::restore(setup(edge.now()), saved, &edge)?, edge })
    }

    pub fn pio_read(&self, port: u16, width: usize) -> u64 {
        let mut data = [0; 8];
        self.chipset.pio_read(port, &mut data[..width], &self.edge);
        u64::from_le_bytes(data)
    }

    pub fn pio_write(&self, port: u16, width: usize, value: u64) {
        self.chipset.pio_write(port, &value.to_le_bytes()[..width], &self.edge);
    }

    pub fn read(&self, gpa: u64, width: usize) -> u64 {
        let mut data = [0; 8];
        self.chipset.mmio_read(gpa, &mut data[..width], &self.edge);
        u64::from_le_bytes(data)
    }

    pub fn write(&self, gpa: u64, width: usize, value: u64) {
        self.chipset.mmio_write(gpa, &value.to_le_bytes()[..width], &self.edge);
    }

    pub fn config(&self, slot: Slot, offset: u64) -> u64 {
        ECAM + (u64::from(slot.0) << 15) + offset
    }

    /// All registers of a function's configuration space.
    pub fn config_page(&self, slot: Slot) -> Vec<u8> {
        (0..0x1000).map(|offset| self.read(self.config(slot, offset), 1) as u8).collect()
    }

    /// Gives a function's BAR this base and switches its decoder on.
    pub fn map(&self, slot: Slot, base: u64) {
        self.write(self.config(slot, 0x10), 4, base);
        self.write(self.config(slot, 0x04), 2, 6);
    }

    /// A capability's offset: of MSI-X (17) or of virtio (9) with this type.
    pub fn capability(&self, slot: Slot, id: u64, cfg_type: u64) -> u64 {
        let mut at = self.read(self.config(slot, 0x34), 1);
        while at != 0 {
            let is = |offset| self.read(self.config(slot, at + offset), 1);
            if is(0) == id && (id != 9 || is(3) == cfg_type) {
                return at;
            }
            at = is(1);
        }
        panic!("no capability {id} {cfg_type}");
    }

    /// A driver of vmmci that has accepted these features.
    pub fn start_vmmci(&self, features: u64) {
        self.write(self.config(VMMCI, 0x04), 2, 1);
        self.pio_write(PORTS + 4, 4, features);
        self.pio_write(PORTS + 18, 1, 7);
    }

    pub fn enable_msix(&self, slot: Slot) {
        let at = self.capability(slot, 17, 0);
        self.write(self.config(slot, at + 2), 2, 0x8000);
    }

    /// Fills and unmasks a vector whose message data is `data`.
    pub fn open_vector(&self, vector: u64, data: u64) {
        self.write(BAR + TABLE + vector * 16, 8, 0xFEE0_0000);
        self.write(BAR + TABLE + vector * 16 + 8, 4, data);
        self.write(BAR + TABLE + vector * 16 + 12, 4, 0);
    }

    pub fn status(&self) -> u64 {
        self.read(BAR + common::STATUS, 1)
    }

    pub fn set_status(&self, status: u64) {
        self.write(BAR + common::STATUS, 1, status);
    }

    pub fn accept(&self, features: u64) {
        for select in 0..2 {
            self.write(BAR + common::DRIVER_FEATURE_SELECT, 4, select);
            self.write(BAR + common::DRIVER_FEATURE, 4, features >> (32 * select));
        }
    }

    pub fn set_up_queue(&self, queue: u64) {
        let at = 0x10_0000 + queue * 0x10000;
        self.write(BAR + common::QUEUE_SELECT, 2, queue);
        self.write(BAR + common::QUEUE_DESC, 8, at);
        self.write(BAR + common::QUEUE_DRIVER, 4, at + 0x2000);
        self.write(BAR + common::QUEUE_DRIVER + 4, 4, 0);
        self.write(BAR + common::QUEUE_DEVICE, 8, at + 0x3000);
        self.write(BAR + common::QUEUE_ENABLE, 2, 1);
    }

    /// All a driver does, up to DRIVER_OK, with one queue.
    pub fn start(&self, slot: Slot) {
        self.map(slot, BAR);
        self.set_status(1);
        self.set_status(3);
        self.accept(VERSION_1);
        self.set_status(0xB);
        self.set_up_queue(0);
        self.set_status(0xF);
    }
}
