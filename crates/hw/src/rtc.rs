//! MC146818 real-time clock with 128 bytes of CMOS memory (Motorola MC146818 data sheet) at 0x70 and 0x71, IRQ 8.
//!
//! The time is the host's plus an offset that the guest's writes make (openbsd/devices.md, 7.4). Nothing runs by
//! itself: flags are worked out from the time of each access, and the owner's timer calls [`Chip::timer`] when an
//! interrupt is due. No new deadline is set while an interrupt waits to be acknowledged, so a guest that does not look
//! costs nothing.

mod civil;

use std::ops::Range;

use civil::{Civil, DAY_S};
use serde::{Deserialize, Serialize};

use crate::access;
use crate::chip::{At, Chip, Place};
use crate::effect::{Effect, Effects, Now, Timer, World};
use crate::saved::{Flaw, Saved, check};

/// The index port and the value port.
const PORTS: (u16, u16) = (0x70, 0x71);
/// Offset of the value port.
const VALUE: u16 = 1;
const INDEX_BITS: u8 = 0x7F;
/// Bytes of the memory.
const LEN: usize = 128;

/// The interrupt line.
pub const IRQ: u32 = 8;
/// Shortest time to a deadline. Faster periodic rates (8192 Hz is 122 microseconds) run at this one, as KVM's timers do
/// (`min_timer_period_us`).
pub const MIN_PERIOD_NS: u64 = 200_000;
/// Longest: the host's clock may be set, and an alarm is due by it.
const MAX_PERIOD_NS: u64 = 60_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// The update-in-progress bit rises so long before an update.
const UPDATE_WARNING_NS: u64 = 244_000;

/// Indices of the registers that show the time; those of all registers follow.
const TIME: [u8; 8] = [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY];
const SECONDS: u8 = 0x00;
const SECONDS_ALARM: u8 = 0x01;
const MINUTES: u8 = 0x02;
const MINUTES_ALARM: u8 = 0x03;
const HOURS: u8 = 0x04;
const HOURS_ALARM: u8 = 0x05;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const A: u8 = 0x0A;
const B: u8 = 0x0B;
const C: u8 = 0x0C;
const D: u8 = 0x0D;
/// Where ACPI's FADT says the century is.
const CENTURY: u8 = 0x32;

const A_UPDATE: u8 = 1 << 7;
const A_RESET: u8 = 0x26; // 32768 Hz divider, rate 6: 1024 Hz
const B_SET: u8 = 1 << 7;
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;
/// Flags of register C and enables of register B have the same places.
const PERIODIC: u8 = 1 << 6;
const ALARM: u8 = 1 << 5;
const UPDATE: u8 = 1 << 4;
const C_REQUEST: u8 = 1 << 7;
const D_VALID: u8 = 1 << 7;
/// From this value on an alarm register matches anything.
const ANY: u8 = 0xC0;
const AFTERNOON: u8 = 1 << 7;

const MIB: u64 = 1 << 20;
/// Unit of the memory sizes that firmware looks for.
const SIZE_UNIT: u64 = 64 << 10;
const FOUR_GIB: u64 = 1 << 32;

/// Of the saved state.
const VERSION: u16 = 1;

/// The clock and its memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rtc {
    /// [`LEN`] bytes.
    memory: Vec<u8>,
    index: u8,
    /// The guest's time less the host's, in seconds.
    offset_s: i64,
    /// The guest's second and the periodic tick up to which flags have been worked out.
    seen_second: i64,
    seen_tick: u64,
    #[serde(skip)]
    level: bool,
    deadline: Option<u64>,
}

impl Rtc {
    /// A clock that shows the host's time, its memory holding the sizes that firmware asks for
    /// (openbsd/devices.md, 7.4).
    pub fn new(ram: &[Range<u64>], vcpus: u16, now: Now) -> Self {
        let mut rtc = Self {
            memory: vec![0; LEN],
            index: 0,
            offset_s: 0,
            seen_second: host_second(now),
            seen_tick: 0,
            level: false,
            deadline: None,
        };
        rtc.put(A, A_RESET);
        rtc.put(B, B_24_HOURS);
        rtc.put(D, D_VALID);
        rtc.put_sizes(ram, vcpus);
        rtc.seen_tick = rtc.tick(now);
        rtc
    }
}

impl Chip for Rtc {
    fn name(&self) -> String {
        "rtc".into()
    }

    fn places(&self) -> Vec<Place> {
        vec![Place::Ports(PORTS.0, PORTS.1), Place::Timer(Timer::Rtc)]
    }

    /// The index can't be read.
    fn read(&mut self, at: At, data: &mut [u8], world: &dyn World, fx: &mut Effects) {
        if at.offset != VALUE {
            return access::ones(data);
        }
        let now = world.now();
        self.advance(now);
        let value = match self.index {
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY => self.time_register(self.index, now),
            A => self.get(A) | self.update_in_progress(now),
            C => self.take_flags(),
            index => self.get(index),
        };
        access::low_byte(value, data);
        self.settle(now, fx);
    }

    /// Of a wider access the first byte counts.
    fn write(&mut self, at: At, data: &[u8], world: &dyn World, fx: &mut Effects) {
        let Some(value) = data.first().copied() else { return };
        if at.offset != VALUE {
            self.index = value & INDEX_BITS; // bit 7 masks the NMI
            return;
        }
        let now = world.now();
        self.advance(now);
        match self.index {
            SECONDS | MINUTES | HOURS | DAY | MONTH | YEAR | CENTURY => self.set_time(self.index, value, now),
            A => {
                self.put(A, value & !A_UPDATE);
                self.seen_tick = self.tick(now);
            }
            B => self.set_b(value, now),
            WEEKDAY | C | D => {}
            index => self.put(index, value),
        }
        self.settle(now, fx);
    }

    fn timer(&mut self, world: &dyn World, fx: &mut Effects) {
        let now = world.now();
        self.deadline = None; // it is used up: the same time may have to be set again
        self.advance(now);
        self.settle(now, fx);
    }

    fn save(&self) -> Saved {
        Saved::of(VERSION, self)
    }

    fn restore(&mut self, saved: &Saved, world: &dyn World, fx: &mut Effects) -> Result<(), Flaw> {
        let restored: Self = saved.open(VERSION)?;
        restored.check()?;
        *self = restored;
        self.level = self.raised();
        if self.level {
            fx.push(Effect::Irq { gsi: IRQ, level: true });
        }
        // The time of day has gone on meanwhile: what is due by it may be due earlier than the deadline that was set.
        let next = if self.level { None } else { self.next_deadline(world.now()) };
        self.deadline = next.map(|next| self.deadline.map_or(next, |saved| saved.min(next)));
        if self.deadline.is_some() {
            fx.push(Effect::Deadline { timer: Timer::Rtc, at: self.deadline });
        }
        Ok(())
    }
}

impl Rtc {
    fn check(&self) -> Result<(), Flaw> {
        check(self.memory.len() == LEN, "the memory's length")?;
        check(self.index & !INDEX_BITS == 0, "the index")?;
        check(self.get(A) & A_UPDATE == 0, "register A")?;
        check(!self.is_set() || self.get(B) & UPDATE == 0, "register B")?;
        check(self.get(C) & !(PERIODIC | ALARM | UPDATE) == 0, "register C")?;
        check(self.get(D) == D_VALID, "register D")
    }

    fn get(&self, index: u8) -> u8 {
        self.memory.get(usize::from(index)).copied().unwrap_or(0xFF)
    }

    fn put(&mut self, index: u8, value: u8) {
        if let Some(byte) = self.memory.get_mut(usize::from(index)) {
            *byte = value;
        }
    }

    /// RAM from 16 MiB to the hole and above 4 GiB in units of 64 KiB, and the processors beyond the first.
    fn put_sizes(&mut self, ram: &[Range<u64>], vcpus: u16) {
        let within = |from: u64, to: u64| {
            let parts = ram.iter().map(|piece| piece.end.min(to).saturating_sub(piece.start.max(from)));
            parts.fold(0_u64, u64::saturating_add) / SIZE_UNIT
        };
        let [low, high, ..] = within(16 * MIB, FOUR_GIB).min(0xFFFF).to_le_bytes();
        self.put(0x34, low);
        self.put(0x35, high);
        let [low, middle, high, ..] = within(FOUR_GIB, u64::MAX).min(0xFF_FFFF).to_le_bytes();
        self.put(0x5B, low);
        self.put(0x5C, middle);
        self.put(0x5D, high);
        self.put(0x5F, u8::try_from(vcpus.saturating_sub(1)).unwrap_or(u8::MAX));
    }

    fn is_set(&self) -> bool {
        self.get(B) & B_SET != 0
    }

    /// The guest's second; meaningless while the clock is being set.
    fn second(&self, now: Now) -> i64 {
        host_second(now).saturating_add(self.offset_s)
    }

    fn time_register(&self, index: u8, now: Now) -> u8 {
        if self.is_set() {
            return self.get(index);
        }
        let civil = civil::from_seconds(self.second(now));
        match index {
            SECONDS => self.encode(civil.second),
            MINUTES => self.encode(civil.minute),
            HOURS => self.encode_hour(civil.hour),
            WEEKDAY => self.encode(civil.weekday.saturating_add(1)),
            DAY => self.encode(civil.day),
            MONTH => self.encode(civil.month),
            YEAR => self.encode(civil.year.rem_euclid(100)),
            _ => self.encode(civil.year.div_euclid(100).rem_euclid(100)),
        }
    }

    fn set_time(&mut self, index: u8, value: u8, now: Now) {
        if !self.is_set() {
            self.hold_time(now);
        }
        self.put(index, value);
        if !self.is_set() {
            self.run_from_registers(now);
        }
    }

    fn set_b(&mut self, value: u8, now: Now) {
        let (was, is) = (self.is_set(), value & B_SET != 0);
        if is {
            self.hold_time(now);
        }
        // Setting SET clears the update-ended interrupt's enable (data sheet, register B).
        self.put(B, if is { value & !UPDATE } else { value });
        if was && !is {
            self.run_from_registers(now);
        }
    }

    fn hold_time(&mut self, now: Now) {
        for index in TIME {
            let value = self.time_register(index, now);
            self.put(index, value);
        }
    }

    fn run_from_registers(&mut self, now: Now) {
        let decode = |index| self.decode(self.get(index));
        let civil = Civil {
            year: decode(CENTURY).saturating_mul(100).saturating_add(decode(YEAR)),
            month: decode(MONTH).clamp(1, 12),
            day: decode(DAY),
            weekday: 0,
            hour: self.decode_hour(self.get(HOURS)),
            minute: decode(MINUTES),
            second: decode(SECONDS),
        };
        let second = civil::to_seconds(civil);
        self.offset_s = second.saturating_sub(host_second(now));
        self.seen_second = second;
    }

    fn encode(&self, value: i64) -> u8 {
        let value = u8::try_from(value).unwrap_or(0);
        let bcd = ((value / 10) << 4) | (value % 10);
        if self.get(B) & B_BINARY != 0 { value } else { bcd }
    }

    fn encode_hour(&self, hour: i64) -> u8 {
        if self.get(B) & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let of_half = if hour % 12 == 0 { 12 } else { hour % 12 };
        self.encode(of_half) | if hour >= 12 { AFTERNOON } else { 0 }
    }

    /// Any byte gives a value, though a meaningless one if it is not BCD.
    fn decode(&self, value: u8) -> i64 {
        let bcd = i64::from(value >> 4).saturating_mul(10).saturating_add(i64::from(value & 0xF));
        if self.get(B) & B_BINARY != 0 { i64::from(value) } else { bcd }
    }

    fn decode_hour(&self, value: u8) -> i64 {
        if self.get(B) & B_24_HOURS != 0 {
            return self.decode(value);
        }
        let half = if value & AFTERNOON != 0 { 12 } else { 0 };
        (self.decode(value & !AFTERNOON) % 12).saturating_add(half)
    }

    fn update_in_progress(&self, now: Now) -> u8 {
        let near = now.realtime_ns % SECOND_NS >= SECOND_NS - UPDATE_WARNING_NS;
        if near && !self.is_set() { A_UPDATE } else { 0 }
    }

    /// The periodic interrupt's period; `None` for rate 0. Rates 1 and 2 are those of 8 and 9 (data sheet, table 5).
    fn period_ns(&self) -> Option<u64> {
        let rate: u32 = match self.get(A) & 0xF {
            0 => return None,
            1 => 8,
            2 => 9,
            rate => u32::from(rate),
        };
        let ticks = 1_u64.checked_shl(rate.saturating_sub(1))?;
        Some(SECOND_NS.saturating_mul(ticks) / 32_768)
    }

    fn tick(&self, now: Now) -> u64 {
        self.period_ns().and_then(|period| now.monotonic_ns.checked_div(period)).unwrap_or(0)
    }

    /// Works out the flags up to now.
    fn advance(&mut self, now: Now) {
        let mut flags = 0;
        let tick = self.tick(now);
        if std::mem::replace(&mut self.seen_tick, tick) != tick {
            flags |= PERIODIC;
        }
        let second = self.second(now);
        if !self.is_set() && second != self.seen_second {
            flags |= UPDATE;
            // A clock set back by the host begins anew a second ago.
            let since = self.seen_second.min(second.saturating_sub(1));
            if self.next_alarm(since).is_some_and(|alarm| alarm <= second) {
                flags |= ALARM;
            }
            self.seen_second = second;
        }
        self.put(C, self.get(C) | flags);
    }

    /// The first second after `since` at which the alarm is due.
    fn next_alarm(&self, since: i64) -> Option<i64> {
        let matches = |index, range: Range<i64>, hour: bool| {
            let raw = self.get(index);
            let value = if hour { self.decode_hour(raw) } else { self.decode(raw) };
            if raw >= ANY { Some(range) } else { range.contains(&value).then_some(value..value.saturating_add(1)) }
        };
        let hours = matches(HOURS_ALARM, 0..24, true)?;
        let minutes = matches(MINUTES_ALARM, 0..60, false)?;
        let seconds = matches(SECONDS_ALARM, 0..60, false)?;
        let start = since.saturating_add(1);
        let midnight = start.saturating_sub(start.rem_euclid(DAY_S));
        let of_day = start.rem_euclid(DAY_S);
        let at = |h: i64, m: i64, s: i64| h.saturating_mul(3600).saturating_add(m.saturating_mul(60)).saturating_add(s);
        // Each field is one value or all, so the first match is in this second, or the first of a later minute, hour or day.
        let in_minute = |(h, m): (i64, i64)| {
            let first = seconds.start.max(of_day.saturating_sub(at(h, m, 0)));
            seconds.contains(&first).then(|| at(h, m, first))
        };
        let today = hours.clone().flat_map(|h| minutes.clone().map(move |m| (h, m))).find_map(in_minute);
        let first = at(hours.start, minutes.start, seconds.start);
        Some(midnight.saturating_add(today.unwrap_or_else(|| first.saturating_add(DAY_S))))
    }

    fn raised(&self) -> bool {
        self.get(C) & self.get(B) & (PERIODIC | ALARM | UPDATE) != 0
    }

    /// Register C, which a read clears.
    fn take_flags(&mut self) -> u8 {
        let request = if self.raised() { C_REQUEST } else { 0 };
        let flags = self.get(C) | request;
        self.put(C, 0);
        flags
    }

    fn settle(&mut self, now: Now, fx: &mut Effects) {
        let level = self.raised();
        if level != self.level {
            self.level = level;
            fx.push(Effect::Irq { gsi: IRQ, level });
        }
        let at = if level { None } else { self.next_deadline(now) };
        if at != self.deadline {
            self.deadline = at;
            fx.push(Effect::Deadline { timer: Timer::Rtc, at });
        }
    }

    /// When the first of the enabled interrupts is due.
    fn next_deadline(&self, now: Now) -> Option<u64> {
        let enabled = |flag| self.get(B) & flag != 0;
        let next_tick = || self.seen_tick.checked_add(1)?.checked_mul(self.period_ns()?);
        let periodic = enabled(PERIODIC).then(next_tick).flatten();
        let runs = !self.is_set();
        let update = (enabled(UPDATE) && runs).then(|| self.seen_second.saturating_add(1));
        let alarm = if enabled(ALARM) && runs { self.next_alarm(self.seen_second) } else { None };
        let second = update.into_iter().chain(alarm).min().map(|second| self.monotonic_at(second, now));
        let earliest = now.monotonic_ns.saturating_add(MIN_PERIOD_NS);
        let latest = now.monotonic_ns.saturating_add(MAX_PERIOD_NS);
        periodic.into_iter().chain(second).min().map(|at| at.clamp(earliest, latest))
    }

    /// CLOCK_MONOTONIC at the beginning of a guest's second.
    fn monotonic_at(&self, second: i64, now: Now) -> u64 {
        let host = u64::try_from(second.saturating_sub(self.offset_s)).unwrap_or(0);
        let wait = host.saturating_mul(SECOND_NS).saturating_sub(now.realtime_ns);
        now.monotonic_ns.saturating_add(wait)
    }
}

fn host_second(now: Now) -> i64 {
    i64::try_from(now.realtime_ns / SECOND_NS).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
