//! All models behind one door: ports and addresses to devices, one lock around each, effects performed under that lock.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use crate::access;
use crate::effect::{Edge, Effect, Effects, Now, Slot, Timer};
use crate::pci::address::{self, ConfigRegister, ECAM_BUS_LEN, SLOTS};
use crate::pci::bars::Bars;
use crate::pci::config_space::{ConfigSpace, LayoutError};
use crate::pci::host_bridge;
use crate::pci::lines::Lines;
use crate::pm::Pm;
use crate::ports::{self, Owner};
use crate::reset::ResetPorts;
use crate::rtc::Rtc;
use crate::uart::Uart;
use crate::virtio::{Device, Function, layout};

/// What a machine is built from.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The pieces of RAM, as guest-physical addresses.
    pub ram: Vec<Range<u64>>,
    /// Number of vCPUs.
    pub vcpus: u16,
    /// Where BARs may be.
    pub mmio: Range<u64>,
    /// First byte of bus 0's ECAM, [`ECAM_BUS_LEN`] long.
    pub ecam: u64,
    /// The devices of slots 1 and up, in order.
    pub devices: Vec<Device>,
    /// The time of the start.
    pub now: Now,
}

/// A machine that cannot be built.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SetupError {
    /// Slot 0 is the host bridge's, and there are 32.
    #[error("{count} devices: the PCI bus has 31 free slots")]
    TooManyDevices {
        /// How many were asked for.
        count: usize,
    },
    /// A function's configuration space is full.
    #[error("device in slot {slot}: {error}")]
    Layout {
        /// The slot.
        slot: u8,
        /// Why.
        error: LayoutError,
    },
}

/// All devices of a machine that are not in the kernel.
#[derive(Debug)]
pub struct Chipset {
    uart: Mutex<Uart>,
    rtc: Mutex<Rtc>,
    pm: Mutex<Pm>,
    reset: Mutex<ResetPorts>,
    config_address: AtomicU32,
    host_bridge: ConfigSpace,
    /// Slots 1 and up.
    functions: Vec<Mutex<Function>>,
    bars: Mutex<Bars>,
    lines: Mutex<Lines>,
    mmio: Range<u64>,
    ecam: Range<u64>,
    /// The guest has reset the machine or switched it off: no second time.
    ended: AtomicBool,
}

impl Chipset {
    /// A machine after reset.
    pub fn new(setup: Setup) -> Result<Self, SetupError> {
        let count = setup.devices.len();
        if count >= usize::from(SLOTS) {
            return Err(SetupError::TooManyDevices { count });
        }
        let ram: Arc<[Range<u64>]> = setup.ram.into();
        let functions = (1..SLOTS).zip(setup.devices).map(|(slot, device)| {
            let function = Function::new(Slot(slot), device, Arc::clone(&ram));
            function.map(Mutex::new).map_err(|error| SetupError::Layout { slot, error })
        });
        Ok(Self {
            uart: Mutex::new(Uart::default()),
            rtc: Mutex::new(Rtc::new(&ram, setup.vcpus, setup.now)),
            pm: Mutex::new(Pm::new(setup.now)),
            reset: Mutex::new(ResetPorts::default()),
            config_address: AtomicU32::new(0),
            host_bridge: host_bridge::config_space(),
            functions: functions.collect::<Result<_, _>>()?,
            bars: Mutex::new(Bars::new(setup.mmio.clone())),
            lines: Mutex::default(),
            mmio: setup.mmio,
            ecam: setup.ecam..setup.ecam.saturating_add(ECAM_BUS_LEN),
            ended: AtomicBool::new(false),
        })
    }

    /// The guest reads a port.
    pub fn pio_read(&self, port: u16, data: &mut [u8], edge: &dyn Edge) {
        match ports::owner(port) {
            Owner::Uart(offset) => self.with(&self.uart, edge, |uart, fx| uart.read(offset, data, fx)),
            Owner::Rtc(offset) => self.with(&self.rtc, edge, |rtc, fx| rtc.read(offset, data, edge.now(), fx)),
            Owner::Pm(offset) => self.with(&self.pm, edge, |pm, fx| pm.read(offset, data, edge.now(), fx)),
            Owner::PciAddress if data.len() == 4 => {
                access::copy(&self.config_address.load(Ordering::Relaxed).to_le_bytes(), 0, data, 0xFF);
            }
            Owner::Reset(register) => lock(&self.reset).read(register, data),
            Owner::PciData(lane) => match self.mechanism_1(lane, data.len()) {
                Some(register) => self.read_config(register, data, edge),
                None => access::ones(data),
            },
            Owner::PciAddress | Owner::PostCode | Owner::Nobody => access::ones(data),
        }
    }

    /// The guest writes a port.
    pub fn pio_write(&self, port: u16, data: &[u8], edge: &dyn Edge) {
        match ports::owner(port) {
            Owner::Uart(offset) => self.with(&self.uart, edge, |uart, fx| uart.write(offset, data, fx)),
            Owner::Rtc(offset) => self.with(&self.rtc, edge, |rtc, fx| rtc.write(offset, data, edge.now(), fx)),
            Owner::Pm(offset) => self.with(&self.pm, edge, |pm, fx| pm.write(offset, data, edge.now(), fx)),
            Owner::PciAddress => {
                if let Ok(bytes) = <[u8; 4]>::try_from(data) {
                    self.config_address.store(u32::from_le_bytes(bytes), Ordering::Relaxed);
                }
            }
            Owner::Reset(register) => self.with(&self.reset, edge, |reset, fx| reset.write(register, data, fx)),
            Owner::PciData(lane) => {
                if let Some(register) = self.mechanism_1(lane, data.len()) {
                    self.write_config(register, data, edge);
                }
            }
            Owner::PostCode | Owner::Nobody => {}
        }
    }

    /// The guest reads memory that is not RAM.
    pub fn mmio_read(&self, gpa: u64, data: &mut [u8], edge: &dyn Edge) {
        if self.mmio.contains(&gpa) {
            if let Some((slot, offset)) = self.find_bar(gpa, data.len()) {
                let held = |queue| edge.call_pending(slot, queue);
                return self.with_function(slot, edge, |function, fx| function.read_bar(offset, data, &held, fx));
            }
        } else if let Some(register) = self.in_ecam(gpa, data.len()) {
            return self.read_config(register, data, edge);
        }
        access::ones(data);
    }

    /// The guest writes memory that is not RAM.
    pub fn mmio_write(&self, gpa: u64, data: &[u8], edge: &dyn Edge) {
        if self.mmio.contains(&gpa) {
            if let Some((slot, offset)) = self.find_bar(gpa, data.len()) {
                self.with_function(slot, edge, |function, fx| function.write_bar(offset, data, fx));
            }
        } else if let Some(register) = self.in_ecam(gpa, data.len()) {
            self.write_config(register, data, edge);
        }
    }

    /// The deadline of a timer has passed.
    pub fn timer(&self, timer: Timer, edge: &dyn Edge) {
        match timer {
            Timer::Rtc => self.with(&self.rtc, edge, |rtc, fx| rtc.timer(edge.now(), fx)),
            Timer::Pm => self.with(&self.pm, edge, |pm, fx| pm.timer(edge.now(), fx)),
        }
    }

    /// Input for the serial port; returns how many bytes it took. `SerialRoom` tells when it takes more.
    pub fn serial_input(&self, bytes: &[u8], edge: &dyn Edge) -> usize {
        self.with(&self.uart, edge, |uart, fx| uart.input(bytes, fx))
    }

    /// A BREAK for the serial port.
    pub fn serial_break(&self, edge: &dyn Edge) {
        self.with(&self.uart, edge, Uart::line_break);
    }

    /// Moves the serial port's output into `buffer`; returns how much.
    pub fn serial_output(&self, buffer: &mut [u8]) -> usize {
        lock(&self.uart).take_output(buffer)
    }

    /// Bytes of serial output that were dropped since the start, because nobody took them in time.
    pub fn serial_dropped(&self) -> u64 {
        lock(&self.uart).dropped()
    }

    /// Presses the power button.
    pub fn power_button(&self, edge: &dyn Edge) {
        self.with(&self.pm, edge, |pm, fx| pm.power_button(edge.now(), fx));
    }

    /// The back end of a device has stopped, as `ResetDevice` asked.
    pub fn reset_done(&self, slot: Slot, edge: &dyn Edge) {
        self.with_function(slot, edge, Function::reset_done);
    }

    /// The back end of a device cannot go on: its driver is told to reset it.
    pub fn needs_reset(&self, slot: Slot, edge: &dyn Edge) {
        self.with_function(slot, edge, Function::needs_reset);
    }

    /// A device's configuration space has changed.
    pub fn set_device_config(&self, slot: Slot, config: &[u8], edge: &dyn Edge) {
        self.with_function(slot, edge, |function, fx| function.set_config(config, fx));
    }

    /// A call of a queue whose delivery is `Intx`.
    pub fn queue_interrupt(&self, slot: Slot, queue: u16, edge: &dyn Edge) {
        self.with_function(slot, edge, |function, fx| function.queue_interrupt(queue, fx));
    }

    /// The features that a device offers to its driver; `None` for an empty slot.
    pub fn offered_features(&self, slot: Slot) -> Option<u64> {
        self.function(slot).map(|function| lock(function).offered())
    }

    /// A function's ECAM page as it reads now; `None` for an empty slot. It changes with writes to that page and, by the
    /// interrupt status bit, with INTx. Reads through pci_cfg_data act on the device and are not in it.
    pub fn config_page(&self, slot: Slot) -> Option<Box<[u8; 4096]>> {
        if slot == Slot(0) {
            return Some(self.host_bridge.page());
        }
        self.function(slot).map(|function| lock(function).config_page())
    }

    fn mechanism_1(&self, lane: u16, len: usize) -> Option<ConfigRegister> {
        address::mechanism_1(self.config_address.load(Ordering::Relaxed), lane, len)
    }

    fn in_ecam(&self, gpa: u64, len: usize) -> Option<ConfigRegister> {
        address::ecam(gpa.checked_sub(self.ecam.start)?, len)
    }

    fn find_bar(&self, gpa: u64, len: usize) -> Option<(Slot, u16)> {
        let (slot, offset) = lock(&self.bars).find(gpa, len)?;
        Some((slot, u16::try_from(offset).ok()?))
    }

    fn function(&self, slot: Slot) -> Option<&Mutex<Function>> {
        self.functions.get(usize::from(slot.0.checked_sub(1)?))
    }

    fn read_config(&self, register: ConfigRegister, data: &mut [u8], edge: &dyn Edge) {
        let ConfigRegister { slot, offset } = register;
        if slot == Slot(0) {
            return self.host_bridge.read(offset, data);
        }
        if self.function(slot).is_none() {
            return access::ones(data);
        }
        let held = |queue| edge.call_pending(slot, queue);
        self.with_function(slot, edge, |function, fx| function.read_config(offset, data, &held, fx));
    }

    fn write_config(&self, register: ConfigRegister, data: &[u8], edge: &dyn Edge) {
        self.with_function(register.slot, edge, |function, fx| {
            let before = function.bar();
            function.write_config(register.offset, data, fx);
            let after = function.bar();
            if before != after {
                self.move_bar(register.slot, after, edge);
            }
        });
    }

    /// Performed with the lock of the bus held, since one function's move can uncover another's BAR.
    fn move_bar(&self, slot: Slot, bar: Option<Range<u64>>, edge: &dyn Edge) {
        let mut bars = lock(&self.bars);
        let (gone, come): (Vec<_>, Vec<_>) = bars.change(slot, bar).into_iter().partition(|(_, base)| base.is_none());
        for (slot, base) in gone.into_iter().chain(come) {
            let base = base.map(|base| base.saturating_add(u64::from(layout::NOTIFY)));
            edge.perform(Effect::NotifyBase { slot, base });
        }
    }

    fn with_function(&self, slot: Slot, edge: &dyn Edge, act: impl FnOnce(&mut Function, &mut Effects)) {
        if let Some(function) = self.function(slot) {
            self.with(function, &Shared { lines: &self.lines, edge }, act);
        }
    }

    /// Lets a model act, and performs what it decides before anyone else can make it act.
    fn with<T, R>(&self, model: &Mutex<T>, edge: &dyn Edge, act: impl FnOnce(&mut T, &mut Effects) -> R) -> R {
        let mut model = lock(model);
        let mut fx = Effects::new();
        let result = act(&mut model, &mut fx);
        for effect in fx {
            let ends = matches!(effect, Effect::Reset | Effect::PowerOff);
            if !ends || !self.ended.swap(true, Ordering::AcqRel) {
                edge.perform(effect);
            }
        }
        result
    }
}

/// The edge as functions see it: an interrupt line is not theirs alone. Its changes are performed with the lock of the
/// lines held, so that of two functions the last word is the last one performed.
struct Shared<'a> {
    lines: &'a Mutex<Lines>,
    edge: &'a dyn Edge,
}

impl Edge for Shared<'_> {
    fn perform(&self, effect: Effect) {
        let Effect::Irq { gsi, level: asks } = effect else { return self.edge.perform(effect) };
        let mut lines = lock(self.lines);
        if let Some(level) = lines.change(gsi, asks) {
            self.edge.perform(Effect::Irq { gsi, level });
        }
    }

    fn now(&self) -> Now {
        self.edge.now()
    }

    fn call_pending(&self, slot: Slot, queue: u16) -> bool {
        self.edge.call_pending(slot, queue)
    }
}

/// A model is whole after any panic of a caller: none of its methods leaves it half changed.
fn lock<T>(model: &Mutex<T>) -> MutexGuard<'_, T> {
    model.lock().unwrap_or_else(PoisonError::into_inner)
}
