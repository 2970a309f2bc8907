//! All chips behind one door: ports and addresses to chips, one lock around each, effects performed under that lock.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::access;
use crate::chip::{Bar, Chip};
use crate::effect::{DeviceEffect, Edge, Effect, Effects, Now, Slot, Timer, World};
use crate::i8042::I8042;
use crate::pci::address::{self, SLOTS};
use crate::pci::bars::{Bars, firmware_base};
use crate::pci::config_address::{ConfigAddress, DATA_PORTS};
use crate::pci::host_bridge::HostBridge;
use crate::pci::lines::Lines;
use crate::pm::Pm;
use crate::reset_port::{PORT_92, RESET_CONTROL, ResetPort};
use crate::rtc::Rtc;
use crate::saved::{self, SavedChip, SavedChipset};
use crate::setup::{RestoreError, Setup, SetupError};
use crate::table::{Answer, Table};
use crate::uart::Uart;
use crate::virtio::{Function, layout};
use crate::vmmci::{self, Vmmci};

/// The I/O APIC's first byte, where no BAR can be any more: local APICs and firmware follow.
const APICS: u64 = 0xFEC0_0000;
/// Where BARs with ports may be: behind the ports of all chips.
const PORTS: Range<u64> = vmmci::FIRST_PORT as u64..0x1_0000;

type Shared<T> = Arc<Mutex<T>>;

/// All chips of a machine that are not in the kernel.
#[derive(Debug)]
pub struct Chipset {
    chips: Vec<Shared<dyn Chip>>,
    table: Table,
    bars: Mutex<Bars>,
    /// Of functions with ports.
    port_bars: Mutex<Bars>,
    /// First byte of the configuration space.
    ecam: u64,
    lines: Mutex<Lines>,
    /// The guest has reset the machine or switched it off: no second time.
    ended: AtomicBool,
    /// How far the guest's CLOCK_MONOTONIC is ahead of the host's, in nanoseconds, modulo 2^64: 0 in the process that
    /// started the guest.
    ahead_ns: u64,
    // Chips of the table that others than the guest speak to.
    uart: Shared<Uart>,
    pm: Shared<Pm>,
    config_address: Shared<ConfigAddress>,
    vmmci: Option<Shared<Vmmci>>,
    /// Slots 1 and up.
    functions: Vec<Shared<Function>>,
}

impl Chipset {
    /// A machine after reset.
    pub fn new(setup: Setup) -> Result<Self, SetupError> {
        Self::with_chips(setup, Vec::new())
    }

    /// The same, with chips more than it has of its own.
    fn with_chips(setup: Setup, more: Vec<Shared<dyn Chip>>) -> Result<Self, SetupError> {
        let count = setup.devices.len().saturating_add(usize::from(setup.vmmci.is_some()));
        if count >= usize::from(SLOTS) {
            return Err(SetupError::TooManyDevices { count });
        }
        let ram: Arc<[Range<u64>]> = setup.ram.into();
        let low_ram = ram.iter().filter(|piece| piece.start < APICS).map(|piece| piece.end).max();
        let ecam = setup.ecam..setup.ecam.saturating_add(address::ECAM_LEN);
        let bars = Bars::new(low_ram.unwrap_or(setup.mmio.start)..APICS, ecam);
        let functions = (1..SLOTS).zip(setup.devices).map(|(slot, device)| {
            let function = Function::new(Slot(slot), device, firmware_base(&setup.mmio, Slot(slot)), Arc::clone(&ram));
            function.map(shared).map_err(|error| SetupError::Layout { slot, error })
        });
        let functions = functions.collect::<Result<Vec<_>, _>>()?;
        let vmmci = setup.vmmci.map(|line| shared(Vmmci::new(Slot(u8::try_from(count).unwrap_or(SLOTS)), line)));
        let (uart, pm) = (shared(Uart::default()), shared(Pm::new(setup.now)));
        let config_address = shared(ConfigAddress::default());
        // The one table of chips. Port 0x80, where firmware writes POST codes and Linux to wait a moment, has none.
        let mut chips: Vec<Shared<dyn Chip>> = vec![
            uart.clone(),
            shared(Rtc::new(&ram, setup.vcpus, setup.now)),
            pm.clone(),
            shared(I8042::default()),
            shared(ResetPort::new(&PORT_92)),
            shared(ResetPort::new(&RESET_CONTROL)),
            config_address.clone(),
            shared(HostBridge::default()),
        ];
        chips.extend(functions.iter().cloned().map(|function| function as Shared<dyn Chip>));
        chips.extend(vmmci.iter().cloned().map(|vmmci| vmmci as Shared<dyn Chip>));
        chips.extend(more);
        Ok(Self {
            table: Table::new(chips.iter().map(|chip| lock(chip).places())),
            chips,
            bars: Mutex::new(bars),
            port_bars: Mutex::new(Bars::new(PORTS, 0..0)),
            ecam: setup.ecam,
            lines: Mutex::default(),
            ended: AtomicBool::new(false),
            ahead_ns: 0,
            uart,
            pm,
            config_address,
            vmmci,
            functions,
        })
    }

    /// A machine that goes on where another, built from the same set-up, was saved. Its clocks go on from that moment; the
    /// time of day is the host's as ever. What the world has to know is performed before this returns.
    pub fn restore(setup: Setup, saved: &SavedChipset, edge: &dyn Edge) -> Result<Self, RestoreError> {
        let mut chipset = Self::new(setup)?;
        if saved.version != saved::VERSION {
            return Err(RestoreError::Version { found: saved.version });
        }
        let (found, count) = (saved.chips.len(), chipset.chips.len());
        if found != count {
            return Err(RestoreError::Chips { found, count });
        }
        chipset.ended = AtomicBool::new(saved.ended);
        chipset.ahead_ns = saved.monotonic_ns.wrapping_sub(edge.now().monotonic_ns);
        let mut fx = Effects::new();
        for (chip, saved) in chipset.chips.iter().zip(&saved.chips) {
            let mut chip = lock(chip);
            let name = chip.name();
            if saved.name != name {
                return Err(RestoreError::Order { chip: name });
            }
            let taken = chip.restore(&saved.state, &Seen { edge, ahead_ns: chipset.ahead_ns }, &mut fx);
            taken.map_err(|flaw| RestoreError::Chip { chip: name, flaw })?;
        }
        for (slot, function) in (1..SLOTS).zip(&chipset.functions) {
            chipset.move_bar(Slot(slot), lock(function).bar0(), edge);
        }
        if let (Some(vmmci), Ok(slot)) = (&chipset.vmmci, u8::try_from(chipset.functions.len().saturating_add(1))) {
            chipset.move_bar(Slot(slot), lock(vmmci).bar0(), edge);
        }
        fx.into_iter().for_each(|effect| chipset.perform(effect, edge));
        Ok(chipset)
    }

    /// The state of all chips. Nothing may access them meanwhile, or it is of several moments.
    pub fn save(&self, world: &dyn World) -> SavedChipset {
        let chips = self.chips.iter().map(|chip| {
            let chip = lock(chip);
            SavedChip { name: chip.name(), state: chip.save() }
        });
        SavedChipset {
            version: saved::VERSION,
            monotonic_ns: world.now().monotonic_ns.wrapping_add(self.ahead_ns),
            ended: self.ended.load(Ordering::Acquire),
            chips: chips.collect(),
        }
    }

    /// The guest reads a port.
    pub fn pio_read(&self, port: u16, data: &mut [u8], edge: &dyn Edge) {
        self.read(self.at_port(port, data.len()), data, edge);
    }

    /// The guest writes a port.
    pub fn pio_write(&self, port: u16, data: &[u8], edge: &dyn Edge) {
        self.write(self.at_port(port, data.len()), data, edge);
    }

    /// The guest reads memory that is not RAM.
    pub fn mmio_read(&self, gpa: u64, data: &mut [u8], edge: &dyn Edge) {
        self.read(self.at_address(gpa, data.len()), data, edge);
    }

    /// The guest writes memory that is not RAM.
    pub fn mmio_write(&self, gpa: u64, data: &[u8], edge: &dyn Edge) {
        self.write(self.at_address(gpa, data.len()), data, edge);
    }

    /// The deadline of a timer has passed.
    pub fn timer(&self, timer: Timer, edge: &dyn Edge) {
        if let Some(chip) = self.table.timer(timer).and_then(|chip| self.chips.get(chip)) {
            self.with(chip, edge, |chip, world, fx| chip.timer(world, fx));
        }
    }

    /// Input for the serial port; returns how many bytes it took. `SerialRoom` tells when it takes more.
    pub fn serial_input(&self, bytes: &[u8], edge: &dyn Edge) -> usize {
        self.with(&self.uart, edge, |uart, _, fx| uart.input(bytes, fx))
    }

    /// Moves the serial port's output into `buffer`; returns how much.
    pub fn serial_output(&self, buffer: &mut [u8]) -> usize {
        lock(&self.uart).take_output(buffer)
    }

    /// Asks the guest to stop: by vmmci where its driver listens, else by the power button.
    pub fn ask_to_stop(&self, edge: &dyn Edge) {
        let ask = |vmmci| self.with(vmmci, edge, |vmmci: &mut Vmmci, world, fx| vmmci.ask_to_stop(world.now(), fx));
        if !self.vmmci.as_deref().is_some_and(ask) {
            self.power_button(edge);
        }
    }

    /// Presses the power button.
    pub fn power_button(&self, edge: &dyn Edge) {
        self.with(&self.pm, edge, |pm, world, fx| pm.power_button(world.now(), fx));
    }

    /// The back end of a device has stopped, as `DeviceEffect::Reset` asked.
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

    fn at_port(&self, port: u16, len: usize) -> Option<Answer> {
        if !DATA_PORTS.contains(&port) {
            return if PORTS.contains(&port.into()) { self.at_port_bar(port, len) } else { self.table.port(port) };
        }
        let address = lock(&self.config_address).value();
        self.table.config(address::mechanism_1(address, port & 3, len)?)
    }

    fn at_port_bar(&self, port: u16, len: usize) -> Option<Answer> {
        let (slot, offset) = lock(&self.port_bars).find(port.into(), len)?;
        self.table.bar0(slot, u16::try_from(offset).ok()?)
    }

    fn at_address(&self, gpa: u64, len: usize) -> Option<Answer> {
        let bars = lock(&self.bars);
        if bars.may_be_at(gpa) {
            let (slot, offset) = bars.find(gpa, len)?;
            return self.table.bar0(slot, u16::try_from(offset).ok()?);
        }
        drop(bars);
        self.table.config(address::ecam(gpa.checked_sub(self.ecam)?, len)?)
    }

    fn read(&self, answer: Option<Answer>, data: &mut [u8], edge: &dyn Edge) {
        match answer.and_then(|Answer { chip, at, .. }| Some((self.chips.get(chip)?, at))) {
            Some((chip, at)) => self.with(chip, edge, |chip, world, fx| chip.read(at, data, world, fx)),
            None => access::ones(data),
        }
    }

    fn write(&self, answer: Option<Answer>, data: &[u8], edge: &dyn Edge) {
        let Some(Answer { chip, at, config }) = answer else { return };
        let Some(chip) = self.chips.get(chip) else { return };
        self.with(chip, edge, |chip, world, fx| {
            let before = config.and_then(|_| chip.bar0());
            chip.write(at, data, world, fx);
            if let Some((slot, after)) = config.map(|slot| (slot, chip.bar0())).filter(|(_, after)| *after != before) {
                self.move_bar(slot, after, edge);
            }
        });
    }

    /// A function's BAR 0 asks for these addresses now. All that changes by it is performed with the bars held, since one
    /// function's move can uncover another's BAR.
    fn move_bar(&self, slot: Slot, bar: Option<Bar>, edge: &dyn Edge) {
        let (memory, ports) = match bar {
            Some(Bar::Memory(range)) => (Some(range), None),
            Some(Bar::Ports(range)) => (None, Some(range)),
            None => (None, None),
        };
        lock(&self.port_bars).change(slot, ports);
        let mut bars = lock(&self.bars);
        let (gone, come): (Vec<_>, Vec<_>) =
            bars.change(slot, memory).into_iter().partition(|(_, base)| base.is_none());
        for (slot, base) in gone.into_iter().chain(come) {
            let base = base.map(|base| base.saturating_add(u64::from(layout::NOTIFY)));
            edge.perform(Effect::Device(slot, DeviceEffect::NotifyBase(base)));
        }
    }

    fn with_function(&self, slot: Slot, edge: &dyn Edge, act: impl FnOnce(&mut Function, &mut Effects)) {
        let index = slot.0.checked_sub(1).map(usize::from);
        if let Some(function) = index.and_then(|index| self.functions.get(index)) {
            self.with(function, edge, |function, _, fx| act(function, fx));
        }
    }

    /// Lets a chip act, and performs what it decides before anyone else can make it act.
    fn with<T: ?Sized, R>(
        &self,
        chip: &Mutex<T>,
        edge: &dyn Edge,
        act: impl FnOnce(&mut T, &dyn World, &mut Effects) -> R,
    ) -> R {
        let mut chip = lock(chip);
        let mut fx = Effects::new();
        let result = act(&mut chip, &Seen { edge, ahead_ns: self.ahead_ns }, &mut fx);
        fx.into_iter().for_each(|effect| self.perform(effect, edge));
        result
    }

    fn perform(&self, effect: Effect, edge: &dyn Edge) {
        match effect {
            Effect::Reset | Effect::PowerOff | Effect::Overdue => {
                if !self.ended.swap(true, Ordering::AcqRel) {
                    edge.perform(effect);
                }
            }
            // Chips may share a line. Its changes are performed with the lock of the lines held, so that of two chips the
            // last word is the last one performed.
            Effect::Irq { gsi, level: asks } => {
                let mut lines = lock(&self.lines);
                if let Some(level) = lines.change(gsi, asks) {
                    edge.perform(Effect::Irq { gsi, level });
                }
            }
            Effect::Deadline { timer, at } => {
                edge.perform(Effect::Deadline { timer, at: at.map(|at| self.on_host(at, edge)) });
            }
            Effect::SerialOutput | Effect::SerialRoom | Effect::Device(..) | Effect::WriteMemory { .. } => {
                edge.perform(effect)
            }
        }
    }

    /// A time of the guest's CLOCK_MONOTONIC as one of the host's. One that has passed is now: it may have been before this
    /// host was started.
    fn on_host(&self, at: u64, world: &dyn World) -> u64 {
        let now = world.now().monotonic_ns;
        now.saturating_add(at.saturating_sub(now.wrapping_add(self.ahead_ns)))
    }
}

/// The world as the chips of a restored machine see it: their clock goes on from where it was saved.
struct Seen<'a> {
    edge: &'a dyn Edge,
    ahead_ns: u64,
}

impl World for Seen<'_> {
    fn now(&self) -> Now {
        let now = self.edge.now();
        Now { monotonic_ns: now.monotonic_ns.wrapping_add(self.ahead_ns), ..now }
    }

    fn call_pending(&self, slot: Slot, queue: u16) -> bool {
        self.edge.call_pending(slot, queue)
    }

    fn read_memory(&self, gpa: u64, into: &mut [u8]) -> bool {
        self.edge.read_memory(gpa, into)
    }
}

fn shared<T>(chip: T) -> Shared<T> {
    Arc::new(Mutex::new(chip))
}

/// A chip is whole after any panic of a caller: none of its methods leaves it half changed.
fn lock<T: ?Sized>(chip: &Mutex<T>) -> MutexGuard<'_, T> {
    chip.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
