//! One virtio device as a PCI function: configuration space, BAR 0, MSI-X and the transport joined.
//!
//! Every access ends by comparing where each queue's interrupts go with where they went before, so that the owner hears
//! of a change once, whichever of the many registers caused it.

use std::ops::Range;
use std::sync::Arc;

use super::ids::Kind;
use super::layout::{self, Capabilities, Region};
use super::transport::{Outcome, Transport};
use crate::access;
use crate::chip::{At, Bar, Chip, Place};
use crate::effect::{Delivery, DeviceEffect, Effect, Effects, Slot, World};
use crate::pci::config_space::{COMMAND_INTX_DISABLE, COMMAND_MEMORY, ConfigSpace, LayoutError, offset};
use crate::pci::msix::Msix;
use crate::saved::{Flaw, Saved, check};

/// ISR status bits (virtio 1.2, 4.1.4.5).
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// A virtio device to be put into a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// What it is.
    pub kind: Kind,
    /// The features its back end offers; those that the transport cannot do are taken away.
    pub features: u64,
    /// The largest size of each queue, each a power of two.
    pub queues: Vec<u16>,
    /// Its configuration space.
    pub config: Vec<u8>,
    /// The IOAPIC pin (and PIC line, below 16) of its INTx, shared with other functions alone; `None` for a function with
    /// MSI-X alone.
    pub irq_line: Option<u8>,
}

/// The function in its slot.
#[derive(Debug, Clone)]
pub struct Function {
    slot: Slot,
    space: ConfigSpace,
    capabilities: Capabilities,
    msix: Msix,
    transport: Transport,
    config: Vec<u8>,
    isr: u8,
    irq_line: Option<u8>,
    irq_level: bool,
    deliveries: Vec<Delivery>,
    ram: Arc<[Range<u64>]>,
}

impl Function {
    /// A device after reset, its BAR 0 at `base` but not decoded. Queues beyond [`layout::MAX_QUEUES`] and configuration beyond
    /// [`layout::MAX_CONFIG_LEN`] are left out.
    pub fn new(slot: Slot, mut device: Device, base: u32, ram: Arc<[Range<u64>]>) -> Result<Self, LayoutError> {
        device.queues.truncate(usize::from(layout::MAX_QUEUES));
        device.config.truncate(layout::MAX_CONFIG_LEN);
        let queues = u16::try_from(device.queues.len()).unwrap_or(layout::MAX_QUEUES);
        let config_len = u16::try_from(device.config.len()).unwrap_or(0);
        let vectors = queues.saturating_add(1);

        let mut space = ConfigSpace::new(device.kind.identity());
        space.allow_commands(COMMAND_MEMORY);
        space.add_bar0(layout::BAR_BITS, base);
        if let Some(line) = device.irq_line {
            space.set_interrupt(line);
        }
        let capabilities = layout::add_capabilities(&mut space, queues, config_len)?;
        Ok(Self {
            slot,
            space,
            capabilities,
            msix: Msix::new(vectors),
            transport: Transport::new(device.features, &device.queues, vectors),
            config: device.config,
            isr: 0,
            irq_line: device.irq_line,
            irq_level: false,
            deliveries: vec![Delivery::Intx; device.queues.len()],
            ram,
        })
    }
}

/// Of the saved state.
const VERSION: u16 = 1;

/// The first of its places, as [`Chip::places`] has them; the other is BAR 0.
const CONFIG: usize = 0;

impl Chip for Function {
    fn name(&self) -> String {
        format!("virtio-{}", self.slot.0)
    }

    fn places(&self) -> Vec<Place> {
        vec![Place::Config(self.slot), Place::Bar0(self.slot)]
    }

    fn read(&mut self, at: At, data: &mut [u8], world: &dyn World, fx: &mut Effects) {
        if at.place == CONFIG {
            self.read_config(at.offset, data, world, fx);
        } else {
            self.read_bar(at.offset, data, world, fx);
        }
    }

    fn write(&mut self, at: At, data: &[u8], _: &dyn World, fx: &mut Effects) {
        if at.place == CONFIG {
            self.write_config(at.offset, data, fx);
        } else {
            self.write_bar(at.offset, data, fx);
        }
    }

    fn bar0(&self) -> Option<Bar> {
        let base = u64::from(self.space.u32_at(offset::BAR0) & 0xFFFF_FFF0);
        let decodes = self.space.command() & COMMAND_MEMORY != 0;
        decodes.then(|| Bar::Memory(base..base.saturating_add(layout::BAR_LEN)))
    }

    fn save(&self) -> Saved {
        let Self { space, msix, transport, config, isr, .. } = self;
        Saved::of(VERSION, &(space.bytes(), msix, transport, config, isr))
    }

    fn restore(&mut self, saved: &Saved, _: &dyn World, fx: &mut Effects) -> Result<(), Flaw> {
        let (space, msix, transport, config, isr): (Vec<u8>, Msix, Transport, Vec<u8>, u8) = saved.open(VERSION)?;
        self.space.restore(&space)?;
        self.msix.restore(msix, self.msix_control())?;
        let outcome = self.transport.restore(transport, &self.ram)?;
        check(config.len() == self.config.len(), "the device configuration's length")?;
        self.config = config;
        check(isr & !(ISR_QUEUE | ISR_CONFIG) == 0, "the ISR status")?;
        self.isr = isr;
        self.settle(fx);
        self.carry_out(outcome, fx);
        Ok(())
    }
}

impl Function {
    /// Reads configuration space.
    fn read_config(&mut self, at: u16, data: &mut [u8], world: &dyn World, fx: &mut Effects) {
        self.space.read(at, data);
        if !self.touches_pci_cfg_data(at, data.len()) {
            return;
        }
        let mut window = [0xFF; 4];
        if let Some((bar_offset, len)) = self.pci_cfg_target() {
            self.read_bar(bar_offset, window.split_at_mut(len).0, world, fx);
        }
        for (position, byte) in (usize::from(at)..=usize::MAX).zip(data) {
            let lane = position.checked_sub(self.pci_cfg_data());
            if let Some(value) = lane.and_then(|lane| window.get(lane)) {
                *byte = *value;
            }
        }
    }

    /// Writes configuration space.
    fn write_config(&mut self, at: u16, data: &[u8], fx: &mut Effects) {
        self.space.write(at, data);
        self.msix.set_control(self.msix_control());
        if usize::from(at) == self.pci_cfg_data() {
            let target = self.pci_cfg_target();
            if let Some((bar_offset, written)) = target.and_then(|(at, len)| Some((at, data.get(..len)?))) {
                self.write_bar(bar_offset, written, fx);
            }
        }
        self.settle(fx);
    }

    /// Reads BAR 0.
    fn read_bar(&mut self, at: u16, data: &mut [u8], world: &dyn World, fx: &mut Effects) {
        match layout::region(at) {
            Region::Common(at) => self.transport.read(at, data),
            Region::Isr(0) => {
                access::copy(&[self.isr], 0, data, 0);
                self.isr = 0; // read clears, and lowers the line (virtio 1.2, 4.1.4.5.1)
                self.settle(fx);
            }
            Region::Device(at) => access::copy(&self.config, usize::from(at), data, 0),
            Region::MsixTable(at) => self.msix.read_table(at, data),
            Region::MsixPending(at) => self.msix.read_pending(at, data, |vector| self.holds(vector, world)),
            Region::Isr(_) | Region::Notify(_) | Region::None => data.fill(0),
        }
    }

    /// Writes BAR 0.
    fn write_bar(&mut self, at: u16, data: &[u8], fx: &mut Effects) {
        match layout::region(at) {
            Region::Common(at) => self.write_common(at, data, fx),
            Region::Notify(queue) => {
                if self.transport.takes_notify(queue) {
                    fx.push(Effect::Device(self.slot, DeviceEffect::Notify(queue)));
                }
            }
            Region::MsixTable(at) => {
                self.msix.write_table(at, data);
                self.settle(fx);
            }
            // No register of these can be written; the devices' configuration fields are all read-only
            // (openbsd/devices.md, 1.6).
            Region::Isr(_) | Region::Device(_) | Region::MsixPending(_) | Region::None => {}
        }
    }

    /// A call of a queue whose delivery is [`Delivery::Intx`].
    pub fn queue_interrupt(&mut self, queue: u16, fx: &mut Effects) {
        if !self.transport.runs() {
            return;
        }
        match self.transport.queue_vectors().nth(usize::from(queue)) {
            Some(vector) if self.msix.enabled() => self.msix.set_pending(vector), // switched on a moment ago
            Some(_) => self.isr |= ISR_QUEUE,
            None => {}
        }
        self.settle(fx);
    }

    /// The back end cannot go on: the driver must reset the device.
    pub fn needs_reset(&mut self, fx: &mut Effects) {
        if self.transport.needs_reset() {
            self.config_interrupt(fx);
        }
    }

    /// The back end has stopped.
    pub fn reset_done(&mut self, fx: &mut Effects) {
        if self.transport.reset_done() {
            self.isr = 0;
            self.settle(fx);
        }
    }

    /// The back end's configuration space is now this; its length stays what it was.
    pub fn set_config(&mut self, config: &[u8], fx: &mut Effects) {
        let changed = self.config.iter().zip(config).any(|(old, new)| old != new);
        if !changed {
            return;
        }
        for (to, from) in self.config.iter_mut().zip(config) {
            *to = *from;
        }
        self.transport.bump_generation();
        if self.transport.runs() {
            self.config_interrupt(fx);
        }
    }

    fn write_common(&mut self, at: u16, data: &[u8], fx: &mut Effects) {
        let outcome = self.transport.write(at, data, &self.ram);
        if outcome != Outcome::Done {
            self.carry_out(outcome, fx);
            self.settle(fx);
        }
    }

    fn carry_out(&mut self, outcome: Outcome, fx: &mut Effects) {
        let slot = self.slot;
        match outcome {
            Outcome::Done | Outcome::Vectors => {}
            Outcome::Activate(activation) => fx.push(Effect::Device(slot, DeviceEffect::Activate(activation))),
            Outcome::StopBackEnd => fx.push(Effect::Device(slot, DeviceEffect::Reset)),
            Outcome::Reset => self.isr = 0,
        }
    }

    fn msix_control(&self) -> u16 {
        self.space.u16_at(self.capabilities.msix.saturating_add(2))
    }

    fn config_interrupt(&mut self, fx: &mut Effects) {
        if self.msix.enabled() {
            self.msix.set_pending(self.transport.config_vector());
        } else {
            self.isr |= ISR_CONFIG;
        }
        self.settle(fx);
    }

    /// Gives the effects of whatever has changed: pending messages, the queues' deliveries, the INTx line.
    fn settle(&mut self, fx: &mut Effects) {
        let signal = |message| Effect::Device(self.slot, DeviceEffect::Signal(message));
        fx.extend(self.msix.take_deliverable().into_iter().map(signal));
        for (queue, (last, vector)) in
            (0..=u16::MAX).zip(self.deliveries.iter_mut().zip(self.transport.queue_vectors()))
        {
            let delivery = match self.msix.message(vector) {
                _ if !self.msix.enabled() => Delivery::Intx,
                Some(message) => Delivery::Msi(message),
                None => Delivery::Held,
            };
            if std::mem::replace(last, delivery) != delivery {
                fx.push(Effect::Device(self.slot, DeviceEffect::Delivery(queue, delivery)));
            }
        }
        self.settle_line(fx);
    }

    fn settle_line(&mut self, fx: &mut Effects) {
        let waits = self.isr != 0 && !self.msix.enabled();
        self.space.show_interrupt(waits && self.irq_line.is_some());
        let level = waits && self.space.command() & COMMAND_INTX_DISABLE == 0;
        if let Some(line) = self.irq_line.filter(|_| level != self.irq_level) {
            self.irq_level = level;
            fx.push(Effect::Irq { gsi: u32::from(line), level });
        }
    }

    /// Whether the owner holds an interrupt of a queue that has this vector.
    fn holds(&self, vector: u16, world: &dyn World) -> bool {
        let queues = (0..=u16::MAX).zip(self.deliveries.iter().zip(self.transport.queue_vectors()));
        let mut of_vector = queues.filter(|(_, (delivery, of))| *of == vector && **delivery == Delivery::Held);
        of_vector.any(|(queue, _)| world.call_pending(self.slot, queue))
    }

    fn pci_cfg_data(&self) -> usize {
        self.capabilities.pci_cfg.saturating_add(16)
    }

    fn touches_pci_cfg_data(&self, at: u16, len: usize) -> bool {
        let (start, end) = (usize::from(at), usize::from(at).saturating_add(len));
        start < self.pci_cfg_data().saturating_add(4) && self.pci_cfg_data() < end
    }

    /// Where the PCI configuration access capability points, if that lies in BAR 0 (virtio 1.2, 4.1.4.9.1).
    fn pci_cfg_target(&self) -> Option<(u16, usize)> {
        let [bar, ..] = self.space.u32_at(self.capabilities.pci_cfg.saturating_add(4)).to_le_bytes();
        let at = u16::try_from(self.space.u32_at(self.capabilities.pci_cfg.saturating_add(8))).ok()?;
        let len = match self.space.u32_at(self.capabilities.pci_cfg.saturating_add(12)) {
            1 => 1_usize,
            2 => 2,
            4 => 4,
            _ => return None,
        };
        (bar == 0 && usize::from(at) & len.saturating_sub(1) == 0).then_some((at, len))
    }
}
