//! vmmci, OpenBSD's control device (openbsd/devices.md, 6.2): the guest is asked to reboot or to read its clock anew, and says
//! that it goes down. PCI 0b5d:0777, with the register block of a legacy virtio device (virtio 1.2, 4.1.4.10) behind I/O ports.
//!
//! ```text
//! asked to stop ──► Reboot pending, 3 s ──acknowledged──► 120 s ──► the guest has reset itself, or is ended
//! the guest writes SHUTDOWN, unasked ──► 3 s ──► it has reset itself, or it has halted and is switched off
//! ```
//!
//! Nothing that a guest writes puts its end off a second time: each time limit is set once. It is counted second by second as
//! the timer rings, so that a guest that stood still is not ended for what it could not do.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::access;
use crate::chip::{At, Bar, Chip, Place};
use crate::effect::{Effect, Effects, Now, Slot, Timer, World};
use crate::pci::config_space::{COMMAND_INTX_DISABLE, COMMAND_IO, ConfigSpace, Identity, offset as config_offset};
use crate::pci::host_bridge::PCI_VENDOR_OPENBSD;
use crate::saved::{Flaw, Saved, check};

/// Its PCI device id.
pub const PCI_PRODUCT_OPENBSD_CONTROL: u16 = 0x0777;
/// Its subsystem id, by which virtio drivers of OpenBSD know it.
const SUBSYSTEM: u16 = 0xFFFF;
/// Simple communication controller, other (PCI code and ID assignment 1.11, 1.8).
const CLASS: (u8, u8) = (0x07, 0x80);
/// log2 of its ports.
const BAR_BITS: u32 = 12;
/// Its ports.
const BAR_LEN: u64 = 1 << BAR_BITS;
/// Where firmware puts them: behind the ports of all chips, where OpenBSD's are (openbsd/devices.md, 1.3).
pub const FIRST_PORT: u16 = 0x1000;

/// Feature bits: the time can be read; commands are acknowledged; the guest takes the command to read its clock anew.
const FEATURE_TIMESYNC: u32 = 1;
const FEATURE_ACK: u32 = 1 << 1;
const FEATURE_SYNCRTC: u32 = 1 << 2;
const FEATURES: u32 = FEATURE_TIMESYNC + FEATURE_ACK + FEATURE_SYNCRTC;

/// Offsets of the registers that do something.
const GUEST_FEATURES: u16 = 4;
const STATUS: u16 = 18;
const ISR: u16 = 19;
const COMMAND: u16 = 20;
const TIME: u16 = 24;

/// Status: the driver is ready (virtio 1.2, 2.1).
const DRIVER_OK: u8 = 4;
/// ISR: the configuration has changed (virtio 1.2, 4.1.4.5).
const ISR_CONFIG: u8 = 2;

/// Values of the command register.
const NONE: u32 = 0;
const SHUTDOWN: u32 = 1;
const REBOOT: u32 = 2;
const SYNCRTC: u32 = 3;

const SECOND_NS: u64 = 1_000_000_000;
/// A guest must acknowledge a command within this; one that goes down by itself has reset by then, if it is to.
pub const SHORT_NS: u64 = 3 * SECOND_NS;
/// From the acknowledgement to the end.
pub const LONG_NS: u64 = 120 * SECOND_NS;
/// How often the host's clock is looked at, and time limits are counted.
const TICK_NS: u64 = SECOND_NS;
/// A larger step forward of the host's clock between two looks is told: the host slept, its clock was set, or the guest stood
/// still.
const STEP_NS: u64 = 5 * SECOND_NS;

/// Of the saved state.
const VERSION: u16 = 2;
/// The first of its places, as [`Chip::places`] has them.
const CONFIG: usize = 0;

/// What the guest is to do, until it has said that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Pending {
    Nothing,
    Reboot,
    SyncRtc,
}

/// When the guest ends, if it does not by itself: after so much time in which it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Limit {
    left_ns: u64,
    /// What was before this is counted.
    since: u64,
    acknowledged: bool,
}

impl Limit {
    /// How much is counted at once, however late the timer rings.
    fn step(self) -> u64 {
        self.left_ns.min(TICK_NS)
    }

    /// When it is counted next.
    fn due(self) -> u64 {
        self.since.saturating_add(self.step())
    }
}

/// The last look at the host's clock, and when the next is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Look {
    next: u64,
    realtime_ns: u64,
}

/// What the guest has changed, and what it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    guest_features: u32,
    status: u8,
    isr: u8,
    pending: Pending,
    limit: Option<Limit>,
    look: Option<Look>,
    /// The host's time as the guest last latched it.
    latched_ns: u64,
}

/// The device.
#[derive(Debug)]
pub struct Vmmci {
    slot: Slot,
    irq_line: u8,
    space: ConfigSpace,
    state: State,
    level: bool,
    deadline: Option<u64>,
}

impl Vmmci {
    /// The device after reset, its ports not decoded; its interrupt line is shared with other functions alone.
    pub fn new(slot: Slot, irq_line: u8) -> Self {
        let mut space = ConfigSpace::new(Identity {
            vendor: PCI_VENDOR_OPENBSD,
            device: PCI_PRODUCT_OPENBSD_CONTROL,
            subsystem_vendor: PCI_VENDOR_OPENBSD,
            subsystem: SUBSYSTEM,
            class: CLASS.0,
            subclass: CLASS.1,
            revision: 0,
        });
        space.allow_commands(COMMAND_IO);
        space.add_port_bar0(BAR_BITS, FIRST_PORT);
        space.set_interrupt(irq_line);
        let state = State {
            guest_features: 0,
            status: 0,
            isr: 0,
            pending: Pending::Nothing,
            limit: None,
            look: None,
            latched_ns: 0,
        };
        Self { slot, irq_line, space, state, level: false, deadline: None }
    }

    /// Asks the guest to go down, once. False: no driver listens.
    pub fn ask_to_stop(&mut self, now: Now, fx: &mut Effects) -> bool {
        if self.state.status & DRIVER_OK == 0 {
            return false;
        }
        if self.state.pending != Pending::Reboot {
            // A driver that does not acknowledge gives no sign before its guest is down.
            let patience = if self.accepted(FEATURE_ACK) { SHORT_NS } else { LONG_NS };
            self.state.limit = Some(Limit { left_ns: patience, since: now.monotonic_ns, acknowledged: false });
            self.command(Pending::Reboot, fx);
        }
        true
    }

    fn command(&mut self, command: Pending, fx: &mut Effects) {
        self.state.pending = command;
        self.state.isr |= ISR_CONFIG;
        self.settle(fx);
    }

    fn accepted(&self, feature: u32) -> bool {
        self.state.guest_features & feature != 0
    }

    fn read_ports(&mut self, at: u16, data: &mut [u8], now: Now, fx: &mut Effects) {
        let len = data.len();
        let covers = |register: u16| register.checked_sub(at).is_some_and(|distance| usize::from(distance) < len);
        if covers(TIME) {
            self.state.latched_ns = now.realtime_ns;
        }
        access::copy(&self.registers(now), usize::from(at), data, 0xFF);
        if covers(ISR) {
            self.state.isr = 0;
            self.settle(fx);
        }
    }

    /// Bytes 8 to 17 are those of queues, of which it has none. A driver may read the high half of the seconds before the low
    /// one, so it is not of the latched time. Microseconds of 0 mean that the time is not known.
    fn registers(&self, now: Now) -> [u8; 40] {
        let State { guest_features, status, isr, pending, latched_ns, .. } = self.state;
        let command = match pending {
            Pending::Nothing => NONE,
            Pending::Reboot => REBOOT,
            Pending::SyncRtc => SYNCRTC,
        };
        let [low, ..] = words(latched_ns / SECOND_NS);
        let [_, high] = words(now.realtime_ns / SECOND_NS);
        let [micros, _] = words((latched_ns % SECOND_NS / 1000).max(1));
        let state = u32::from_le_bytes([0, 0, status, isr]);
        let words = [FEATURES, guest_features, 0, 0, state, command, low, high, micros, 0];
        let mut bytes = [0; 40];
        for (to, from) in bytes.iter_mut().zip(words.into_iter().flat_map(u32::to_le_bytes)) {
            *to = from;
        }
        bytes
    }

    /// A register is written whole, by an access of its own.
    fn write_ports(&mut self, at: u16, data: &[u8], now: Now, fx: &mut Effects) {
        let value = u32::try_from(access::value(data)).ok();
        match (at, data.len(), value) {
            (GUEST_FEATURES, 4, Some(features)) => self.state.guest_features = features & FEATURES,
            (STATUS, 1, _) => self.set_status(data.first().copied().unwrap_or(0)),
            (COMMAND, 4, Some(command)) => self.said(command, now),
            _ => {}
        }
        self.watch_clock(now);
        self.settle(fx);
    }

    /// 0 resets the device. What the guest was told stays told: it has no more time by it.
    fn set_status(&mut self, status: u8) {
        self.state.status = status;
        if status == 0 {
            (self.state.guest_features, self.state.isr) = (0, 0);
        }
    }

    /// What the guest writes into the command register: that it does what it was asked, or that it goes down by itself.
    fn said(&mut self, command: u32, now: Now) {
        let State { pending, limit, .. } = &mut self.state;
        let after = |left_ns, acknowledged| Limit { left_ns, since: now.monotonic_ns, acknowledged };
        match (command, *pending) {
            (REBOOT, Pending::Reboot) if limit.is_some_and(|limit| !limit.acknowledged) => {
                *limit = Some(after(LONG_NS, true));
            }
            (SYNCRTC, Pending::SyncRtc) => *pending = Pending::Nothing,
            // Every kind of going down, a reboot too: within the time it resets.
            (SHUTDOWN, Pending::Nothing | Pending::SyncRtc) => {
                limit.get_or_insert(after(SHORT_NS, false));
            }
            _ => {}
        }
    }

    /// Only for a driver that wants to hear of steps.
    fn watch_clock(&mut self, now: Now) {
        let wanted = self.state.status & DRIVER_OK != 0 && self.accepted(FEATURE_SYNCRTC);
        let look = Look { next: now.monotonic_ns.saturating_add(TICK_NS), realtime_ns: now.realtime_ns };
        self.state.look = wanted.then(|| self.state.look.unwrap_or(look));
        if !wanted && self.state.pending == Pending::SyncRtc {
            self.state.pending = Pending::Nothing;
        }
    }

    fn look_at_clock(&mut self, now: Now, fx: &mut Effects) {
        let Some(look) = self.state.look.filter(|look| look.next <= now.monotonic_ns) else { return };
        let step = now.realtime_ns.saturating_sub(look.realtime_ns);
        self.state.look = None;
        self.watch_clock(now);
        if step > STEP_NS && self.state.pending == Pending::Nothing {
            self.command(Pending::SyncRtc, fx);
        }
    }

    fn perhaps_end(&mut self, now: Now, fx: &mut Effects) {
        let Some(limit) = self.state.limit.as_mut().filter(|limit| limit.due() <= now.monotonic_ns) else { return };
        (limit.left_ns, limit.since) = (limit.left_ns.saturating_sub(limit.step()), now.monotonic_ns);
        if limit.left_ns == 0 {
            self.state.limit = None;
            fx.push(match self.state.pending {
                Pending::Reboot => Effect::Overdue,
                Pending::Nothing | Pending::SyncRtc => Effect::PowerOff,
            });
        }
    }

    fn settle(&mut self, fx: &mut Effects) {
        let waits = self.state.isr != 0;
        self.space.show_interrupt(waits);
        let level = waits && self.space.command() & COMMAND_INTX_DISABLE == 0;
        if std::mem::replace(&mut self.level, level) != level {
            fx.push(Effect::Irq { gsi: u32::from(self.irq_line), level });
        }
        let limit = self.state.limit.map(Limit::due);
        let at = self.state.look.map(|look| look.next).into_iter().chain(limit).min();
        if std::mem::replace(&mut self.deadline, at) != at {
            fx.push(Effect::Deadline { timer: Timer::Vmmci, at });
        }
    }
}

/// Low and high half.
fn words(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

impl Chip for Vmmci {
    fn name(&self) -> String {
        "vmmci".into()
    }

    fn places(&self) -> Vec<Place> {
        vec![Place::Config(self.slot), Place::Bar0(self.slot), Place::Timer(Timer::Vmmci)]
    }

    fn read(&mut self, at: At, data: &mut [u8], world: &dyn World, fx: &mut Effects) {
        match at.place {
            CONFIG => self.space.read(at.offset, data),
            _ => self.read_ports(at.offset, data, world.now(), fx),
        }
    }

    fn write(&mut self, at: At, data: &[u8], world: &dyn World, fx: &mut Effects) {
        if at.place == CONFIG {
            self.space.write(at.offset, data);
            self.settle(fx);
        } else {
            self.write_ports(at.offset, data, world.now(), fx);
        }
    }

    fn timer(&mut self, world: &dyn World, fx: &mut Effects) {
        let now = world.now();
        self.deadline = None; // it is used up: the same time may have to be set again
        self.look_at_clock(now, fx);
        self.perhaps_end(now, fx);
        self.settle(fx);
    }

    fn bar0(&self) -> Option<Bar> {
        let base = u64::from(self.space.u32_at(config_offset::BAR0) & 0xFFFF_FFFC);
        let ports: Range<u64> = base..base.saturating_add(BAR_LEN);
        (self.space.command() & COMMAND_IO != 0).then_some(Bar::Ports(ports))
    }

    fn save(&self) -> Saved {
        Saved::of(VERSION, &(self.space.bytes(), &self.state))
    }

    fn restore(&mut self, saved: &Saved, _: &dyn World, fx: &mut Effects) -> Result<(), Flaw> {
        let (space, state): (Vec<u8>, State) = saved.open(VERSION)?;
        self.space.restore(&space)?;
        check(state.guest_features & !FEATURES == 0, "the guest's features")?;
        check(state.isr & !ISR_CONFIG == 0, "the ISR status")?;
        let watched = state.status & DRIVER_OK != 0 && state.guest_features & FEATURE_SYNCRTC != 0;
        check(watched == state.look.is_some(), "the look at the clock")?;
        check(watched || state.pending != Pending::SyncRtc, "the command")?;
        self.state = state;
        self.settle(fx);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
