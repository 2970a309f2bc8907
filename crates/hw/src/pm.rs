//! ACPI fixed hardware (ACPI 6.5, 4.8.3): PM1a event and control blocks, PM timer, the SCI. No SMI: always in ACPI mode.
//!
//! Ports from 0x600: status 2, enable 2, control 2, nothing 2, timer 4 bytes.

use serde::{Deserialize, Serialize};

use crate::access;
use crate::chip::{At, Chip, Place};
use crate::effect::{Effect, Effects, Now, Timer, World};
use crate::saved::{Flaw, Saved, check};

/// First and last port.
const PORTS: (u16, u16) = (0x600, 0x60B);
/// The SCI, an interrupt line that is a level.
pub const SCI: u32 = 9;
/// SLP_TYP that `\_S5` in the DSDT names: off.
pub const S5_SLP_TYP: u8 = 5;
/// PM timer frequency (4.8.3.3).
const TIMER_HZ: u128 = 3_579_545;
const SECOND_NS: u128 = 1_000_000_000;
/// The timer is 32 bits wide (FADT flag TMR_VAL_EXT); its status bit is set when the highest changes.
const TIMER_TOP: u128 = 1 << 31;

/// Offsets of the registers.
const STATUS: usize = 0;
const ENABLE: usize = 2;
const CONTROL: usize = 4;

/// Bits of the status and enable registers (4.8.3.1).
const TMR: u16 = 1;
const GBL: u16 = 1 << 5;
const PWRBTN: u16 = 1 << 8;
/// The clock's alarm has its own interrupt and never sets the status bit; Linux enables the event and complains when the
/// register does not keep it.
const RTC: u16 = 1 << 10;
const ENABLES: u16 = TMR + GBL + PWRBTN + RTC;
/// Bits of the control register (4.8.3.2.1).
const SCI_EN: u16 = 1;
const SLP_TYP: u16 = 7 << 10;
const SLP_EN: u16 = 1 << 13;

/// Of the saved state.
const VERSION: u16 = 1;

/// The registers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pm {
    status: u16,
    enable: u16,
    control: u16,
    /// Half periods of the timer that have been looked at.
    seen_half: u128,
    #[serde(skip)]
    level: bool,
    deadline: Option<u64>,
}

impl Pm {
    /// After reset.
    pub fn new(now: Now) -> Self {
        Self { status: 0, enable: 0, control: SCI_EN, seen_half: half(now), level: false, deadline: None }
    }

    /// The power button is pressed.
    pub fn power_button(&mut self, now: Now, fx: &mut Effects) {
        self.status |= PWRBTN;
        self.settle(now, fx);
    }

    fn advance(&mut self, now: Now) {
        let half = half(now);
        if std::mem::replace(&mut self.seen_half, half) != half {
            self.status |= TMR;
        }
    }

    fn raised(&self) -> bool {
        self.status & self.enable != 0
    }

    fn settle(&mut self, now: Now, fx: &mut Effects) {
        let level = self.raised();
        if level != self.level {
            self.level = level;
            fx.push(Effect::Irq { gsi: SCI, level });
        }
        let waits = self.enable & TMR != 0 && self.status & TMR == 0;
        let at = if waits { next_carry(now) } else { None };
        if at != self.deadline {
            self.deadline = at;
            fx.push(Effect::Deadline { timer: Timer::Pm, at });
        }
    }
}

impl Chip for Pm {
    fn name(&self) -> String {
        "pm".into()
    }

    fn places(&self) -> Vec<Place> {
        vec![Place::Ports(PORTS.0, PORTS.1), Place::Timer(Timer::Pm)]
    }

    fn read(&mut self, at: At, data: &mut [u8], world: &dyn World, fx: &mut Effects) {
        let now = world.now();
        self.advance(now);
        let [s0, s1] = self.status.to_le_bytes();
        let [e0, e1] = self.enable.to_le_bytes();
        let [c0, c1] = self.control.to_le_bytes();
        let [t0, t1, t2, t3, ..] = ticks(now).to_le_bytes();
        let image = [s0, s1, e0, e1, c0, c1, 0, 0, t0, t1, t2, t3];
        access::copy(&image, usize::from(at.offset), data, 0xFF);
        self.settle(now, fx);
    }

    /// A status bit is cleared by writing 1.
    fn write(&mut self, at: At, data: &[u8], world: &dyn World, fx: &mut Effects) {
        let now = world.now();
        self.advance(now);
        let written = |register, mut bytes: [u8; 2]| {
            access::merge(&mut bytes, register, usize::from(at.offset), data).then(|| u16::from_le_bytes(bytes))
        };
        let status = written(STATUS, [0; 2]);
        let enable = written(ENABLE, self.enable.to_le_bytes());
        let control = written(CONTROL, self.control.to_le_bytes());
        self.status &= !status.unwrap_or(0);
        self.enable = enable.map_or(self.enable, |enable| enable & ENABLES);
        if let Some(control) = control {
            self.control = control & SLP_TYP | SCI_EN; // SLP_EN reads 0
            let off = control & SLP_TYP == u16::from(S5_SLP_TYP) << 10;
            if control & SLP_EN != 0 && off {
                fx.push(Effect::PowerOff);
            }
        }
        self.settle(now, fx);
    }

    fn timer(&mut self, world: &dyn World, fx: &mut Effects) {
        let now = world.now();
        self.deadline = None;
        self.advance(now);
        self.settle(now, fx);
    }

    fn save(&self) -> Saved {
        Saved::of(VERSION, self)
    }

    fn restore(&mut self, saved: &Saved, _: &dyn World, fx: &mut Effects) -> Result<(), Flaw> {
        let restored: Self = saved.open(VERSION)?;
        check(restored.status & !(TMR | PWRBTN) == 0, "the status register")?;
        check(restored.enable & !ENABLES == 0, "the enable register")?;
        check(restored.control & !SLP_TYP == SCI_EN, "the control register")?;
        *self = restored;
        self.level = self.raised();
        if self.level {
            fx.push(Effect::Irq { gsi: SCI, level: true });
        }
        if self.deadline.is_some() {
            fx.push(Effect::Deadline { timer: Timer::Pm, at: self.deadline });
        }
        Ok(())
    }
}

fn ticks(now: Now) -> u128 {
    u128::from(now.monotonic_ns).saturating_mul(TIMER_HZ) / SECOND_NS
}

fn half(now: Now) -> u128 {
    ticks(now) / TIMER_TOP
}

/// CLOCK_MONOTONIC when the timer's highest bit changes next.
fn next_carry(now: Now) -> Option<u64> {
    let ticks = half(now).saturating_add(1).saturating_mul(TIMER_TOP);
    u64::try_from(ticks.saturating_mul(SECOND_NS).div_ceil(TIMER_HZ)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ns: u64) -> Now {
        Now { monotonic_ns: ns, realtime_ns: 0 }
    }

    fn register(offset: u16) -> At {
        At { place: 0, offset }
    }

    fn write(pm: &mut Pm, offset: u16, value: u16) -> Effects {
        let mut fx = vec![];
        pm.write(register(offset), &value.to_le_bytes(), &at(0), &mut fx);
        fx
    }

    #[test]
    fn all_events_that_a_guest_may_enable_stay_enabled() {
        let mut pm = Pm::new(at(0));
        write(&mut pm, 2, 0xFFFF);
        let mut enable = [0; 2];
        pm.read(register(2), &mut enable, &at(0), &mut vec![]);
        assert_eq!(u16::from_le_bytes(enable), 0x0521);
    }

    #[test]
    fn the_power_button_raises_the_sci_until_its_status_is_cleared() {
        let mut pm = Pm::new(at(0));
        let mut fx = vec![];
        pm.power_button(at(0), &mut fx);
        assert_eq!(fx, vec![], "not enabled");
        assert_eq!(write(&mut pm, 2, PWRBTN), vec![Effect::Irq { gsi: SCI, level: true }]);
        assert_eq!(write(&mut pm, 0, PWRBTN), vec![Effect::Irq { gsi: SCI, level: false }]);
    }

    #[test]
    fn p6_only_slp_en_with_the_type_of_s5_switches_off() {
        for slp_typ in 0..8 {
            let mut pm = Pm::new(at(0));
            assert_eq!(write(&mut pm, 4, slp_typ << 10), vec![]);
            let off = write(&mut pm, 4, slp_typ << 10 | SLP_EN);
            assert_eq!(off == vec![Effect::PowerOff], slp_typ == 5, "{slp_typ}");
            let mut control = [0; 2];
            pm.read(register(4), &mut control, &at(0), &mut vec![]);
            assert_eq!(u16::from_le_bytes(control), slp_typ << 10 | SCI_EN);
        }
    }

    #[test]
    fn the_timer_counts_at_its_frequency_and_carries() {
        let mut pm = Pm::new(at(0));
        let mut value = [0; 4];
        pm.read(register(8), &mut value, &at(1_000_000_000), &mut vec![]);
        assert_eq!(u32::from_le_bytes(value), 3_579_545);
        let fx = write(&mut pm, 2, TMR);
        let Some(Effect::Deadline { timer: Timer::Pm, at: Some(carry) }) = fx.first().cloned() else {
            panic!("no deadline: {fx:?}");
        };
        assert!((599_900_000_000..600_000_000_000).contains(&carry));
        let mut fx = vec![];
        pm.timer(&at(carry), &mut fx);
        assert_eq!(fx, vec![Effect::Irq { gsi: SCI, level: true }]);
    }

    #[test]
    fn the_timer_wraps_without_overflow() {
        let mut pm = Pm::new(at(u64::MAX));
        let mut value = [0; 4];
        pm.read(register(8), &mut value, &at(u64::MAX), &mut vec![]);
        pm.write(register(2), &[1], &at(u64::MAX), &mut vec![]);
    }

    #[test]
    fn only_a_state_that_the_registers_can_have_is_restored() {
        let ok = || Pm::new(at(0));
        let cases = [
            (Pm { status: GBL, ..ok() }, "the status register"),
            (Pm { enable: 2, ..ok() }, "the enable register"),
            (Pm { control: 0, ..ok() }, "the control register"),
            (Pm { control: SCI_EN | SLP_EN, ..ok() }, "the control register"),
        ];
        for (state, field) in cases {
            assert_eq!(ok().restore(&state.save(), &at(0), &mut vec![]), Err(Flaw::Field(field)));
        }
        let (mut pm, mut fx) = (ok(), vec![]);
        let state = Pm { status: TMR | PWRBTN, enable: ENABLES, control: SLP_TYP | SCI_EN, deadline: Some(7), ..ok() };
        assert_eq!(pm.restore(&state.save(), &at(0), &mut fx), Ok(()));
        let deadline = Effect::Deadline { timer: Timer::Pm, at: Some(7) };
        assert_eq!(fx, vec![Effect::Irq { gsi: SCI, level: true }, deadline]);
    }
}
