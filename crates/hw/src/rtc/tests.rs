//! Rules of openbsd/devices.md, 7.4, and class P4 of 11.6.

use super::*;

const INDEX_PORT: At = At { place: 0, offset: 0 };
const VALUE_PORT: At = At { place: 0, offset: VALUE };
/// 2024-02-29 23:59:58 UTC, a Thursday.
const LEAP: u64 = 1_709_251_198;

struct Clock {
    rtc: Rtc,
    now: Now,
    fx: Effects,
}

impl Clock {
    fn new() -> Self {
        let now = Now { monotonic_ns: 1_000_000_000, realtime_ns: LEAP * SECOND_NS };
        let ram = [0..0xC000_0000, 0x1_0000_0000..0x2_0000_0000];
        Self { rtc: Rtc::new(&ram, 4, now), now, fx: vec![] }
    }

    fn wait_ns(&mut self, ns: u64) {
        self.now.monotonic_ns += ns;
        self.now.realtime_ns += ns;
    }

    fn read(&mut self, index: u8) -> u8 {
        let mut data = [0];
        self.rtc.write(INDEX_PORT, &[index], &self.now, &mut self.fx);
        self.rtc.read(VALUE_PORT, &mut data, &self.now, &mut self.fx);
        data[0]
    }

    fn write(&mut self, index: u8, value: u8) {
        self.rtc.write(INDEX_PORT, &[index], &self.now, &mut self.fx);
        self.rtc.write(VALUE_PORT, &[value], &self.now, &mut self.fx);
    }

    fn time(&mut self) -> [u8; 8] {
        TIME.map(|index| self.read(index))
    }

    fn deadline(&self) -> Option<u64> {
        let mut deadlines = self.fx.iter().rev().filter_map(|effect| match effect {
            Effect::Deadline { timer: Timer::Rtc, at } => Some(*at),
            _ => None,
        });
        deadlines.next().flatten()
    }

    fn levels(&mut self) -> Vec<bool> {
        let levels = self.fx.drain(..).filter_map(|effect| match effect {
            Effect::Irq { gsi: IRQ, level } => Some(level),
            _ => None,
        });
        levels.collect()
    }

    /// Lets the owner's timer fire when it is due.
    fn fire(&mut self) {
        let at = self.deadline().expect("a deadline");
        self.wait_ns(at - self.now.monotonic_ns);
        self.fx.clear();
        self.rtc.timer(&self.now, &mut self.fx);
    }
}

#[test]
fn the_time_is_the_hosts_in_bcd() {
    let mut clock = Clock::new();
    assert_eq!(clock.time(), [0x58, 0x59, 0x23, 5, 0x29, 0x02, 0x24, 0x20]);
    clock.wait_ns(2 * SECOND_NS);
    assert_eq!(clock.time(), [0x00, 0x00, 0x00, 6, 0x01, 0x03, 0x24, 0x20]);
}

#[test]
fn binary_and_twelve_hours_are_understood() {
    let mut clock = Clock::new();
    clock.write(B, B_BINARY);
    assert_eq!(clock.time(), [58, 59, 11 | AFTERNOON, 5, 29, 2, 24, 20]);
    clock.write(HOURS, 12);
    assert_eq!(clock.read(HOURS), 12);
    clock.write(B, B_24_HOURS);
    assert_eq!(clock.read(HOURS), 0);
}

#[test]
fn what_the_guest_sets_goes_on_running() {
    let mut clock = Clock::new();
    clock.write(B, B_24_HOURS | B_SET);
    for (index, value) in
        [(SECONDS, 0), (MINUTES, 0), (HOURS, 0x12), (DAY, 0x24), (MONTH, 0x12), (YEAR, 0x99), (CENTURY, 0x19)]
    {
        clock.write(index, value);
    }
    clock.wait_ns(5 * SECOND_NS);
    assert_eq!(clock.read(SECONDS), 0, "SET stops the clock");
    clock.write(B, B_24_HOURS);
    clock.wait_ns(7 * SECOND_NS);
    assert_eq!(clock.time(), [0x07, 0x00, 0x12, 6, 0x24, 0x12, 0x99, 0x19]);
}

#[test]
fn memory_sizes_for_firmware() {
    let mut clock = Clock::new();
    assert_eq!((clock.read(0x34), clock.read(0x35)), (0x00, 0xBF));
    assert_eq!([0x5B, 0x5C, 0x5D].map(|index| clock.read(index)), [0, 0, 1]);
    assert_eq!(clock.read(0x5F), 3);
    let small = Rtc::new(std::slice::from_ref(&(0..0x40_0000)), 1, clock.now);
    assert_eq!((small.get(0x34), small.get(0x35)), (0, 0), "less than 16 MiB");
}

#[test]
fn all_other_bytes_are_memory_and_d_is_valid() {
    let mut clock = Clock::new();
    for index in (0x0E..0x80).filter(|index| *index != CENTURY) {
        clock.write(index, index ^ 0x55);
        assert_eq!(clock.read(index), index ^ 0x55);
    }
    clock.write(D, 0);
    assert_eq!(clock.read(D), 0x80);
}

#[test]
fn update_ended_interrupts_each_second_until_acknowledged() {
    let mut clock = Clock::new();
    clock.write(B, B_24_HOURS | UPDATE);
    clock.fire();
    assert_eq!(clock.levels(), vec![true]);
    clock.wait_ns(10 * SECOND_NS);
    assert_eq!(clock.deadline(), None, "nothing until it is looked at");
    assert_eq!(clock.read(C) & (C_REQUEST | UPDATE), C_REQUEST | UPDATE);
    assert_eq!(clock.levels(), vec![false]);
}

#[test]
fn the_alarm_matches_exactly_and_by_wildcard() {
    let mut clock = Clock::new();
    for (index, value) in [(SECONDS_ALARM, 0x10), (MINUTES_ALARM, 0x00), (HOURS_ALARM, 0xFF)] {
        clock.write(index, value);
    }
    clock.write(B, B_24_HOURS | ALARM);
    assert_eq!(clock.deadline(), Some(clock.now.monotonic_ns + 12 * SECOND_NS));
    clock.fire();
    assert_eq!(clock.levels(), vec![true]);
    assert_eq!(clock.read(C) & (C_REQUEST | ALARM), C_REQUEST | ALARM);
    assert_eq!(clock.rtc.next_alarm(clock.rtc.seen_second), Some(clock.rtc.seen_second + 3600));
}

#[test]
fn the_alarm_of_tomorrow_and_the_one_that_never_comes() {
    let mut clock = Clock::new();
    for (index, value) in [(SECONDS_ALARM, 0x57), (MINUTES_ALARM, 0x59), (HOURS_ALARM, 0x23)] {
        clock.write(index, value);
    }
    let second = clock.rtc.seen_second;
    assert_eq!(clock.rtc.next_alarm(second), Some(second - 1 + DAY_S));
    clock.write(MINUTES_ALARM, 0x75);
    assert_eq!(clock.rtc.next_alarm(second), None);
}

#[test]
fn a_new_rate_moves_the_deadline() {
    let mut clock = Clock::new();
    clock.write(B, B_24_HOURS | PERIODIC);
    let first = clock.deadline().unwrap() - clock.now.monotonic_ns;
    assert!(first <= SECOND_NS / 1024);
    clock.write(A, 0x2F); // 2 Hz
    clock.read(C);
    clock.fx.clear();
    clock.write(A, 0x2E);
    clock.write(A, 0x2F);
    let second = clock.deadline().unwrap() - clock.now.monotonic_ns;
    assert!((MIN_PERIOD_NS..=SECOND_NS / 2).contains(&second));
}

#[test]
fn p4_every_rate_has_a_floor_and_none_divides_by_zero() {
    for rate in 0..16 {
        let mut clock = Clock::new();
        clock.write(A, 0x20 | rate);
        clock.write(B, B_24_HOURS | PERIODIC);
        for _ in 0..100 {
            clock.read(C);
            match clock.deadline() {
                None => assert_eq!(rate, 0),
                Some(_) => {
                    let before = clock.now.monotonic_ns;
                    clock.fire();
                    assert!(clock.now.monotonic_ns - before >= MIN_PERIOD_NS, "rate {rate}");
                }
            }
            if rate == 0 {
                break;
            }
        }
    }
}

#[test]
fn p4_bytes_that_are_no_bcd_are_taken_somehow() {
    for set in [0, B_SET] {
        for value in [0xFF, 0x9A, 0x00, 0x7F] {
            let mut clock = Clock::new();
            clock.write(B, set);
            for index in 0..0x80 {
                clock.write(index, value);
                clock.read(index);
            }
            clock.write(B, B_24_HOURS | ALARM | UPDATE | PERIODIC);
            clock.wait_ns(3 * SECOND_NS);
            clock.time();
        }
    }
}

#[test]
fn update_in_progress_is_seen_shortly_before_the_second() {
    let mut clock = Clock::new();
    assert_eq!(clock.read(A) & A_UPDATE, 0);
    clock.wait_ns(SECOND_NS - 100_000);
    assert_eq!(clock.read(A) & A_UPDATE, A_UPDATE);
    clock.wait_ns(100_000);
    assert_eq!(clock.read(A) & A_UPDATE, 0);
}

#[test]
fn update_in_progress_rises_244_microseconds_before_the_second() {
    let mut clock = Clock::new();
    for (wait, seen) in [(0, 0), (SECOND_NS - 244_001, 0), (1, 0x80), (243_999, 0x80), (1, 0)] {
        clock.wait_ns(wait);
        assert_eq!(clock.read(0x0A), 0x26 + seen, "after {wait} ns");
    }
}

#[test]
fn registers_keep_what_the_data_sheet_lets_them() {
    let mut clock = Clock::new();
    assert_eq!([0x0A, 0x0B, 0x0C, 0x0D].map(|index| clock.read(index)), [0x26, 0x02, 0, 0x80]);
    clock.write(0x0A, 0xFF);
    assert_eq!(clock.read(0x0A), 0x7F);
    for (written, kept) in [(0x7F, 0x7F), (0x92, 0x82), (0x12, 0x12), (0xFF, 0xEF)] {
        clock.write(0x0B, written);
        assert_eq!(clock.read(0x0B), kept, "SET clears the update interrupt's enable");
    }
}

#[test]
fn an_enabled_interrupt_comes_with_the_flags_of_all_that_has_happened() {
    for (enable, flags) in [(0x40, 0xC0), (0x10, 0xF0), (0x20, 0xF0)] {
        let mut clock = Clock::new();
        for alarm in [0x01, 0x03, 0x05] {
            clock.write(alarm, 0xC0);
        }
        clock.write(0x0B, 0x02 | enable);
        clock.fire();
        assert_eq!(clock.levels(), vec![true]);
        assert_eq!(clock.read(0x0C), flags, "enabled {enable:#x}");
        assert_eq!(clock.read(0x0C), 0, "a read clears");
    }
}

#[test]
fn without_an_enabled_interrupt_nothing_is_due() {
    for b in [0x02, 0x82, 0xA2] {
        let mut clock = Clock::new();
        clock.write(0x0B, b);
        clock.wait_ns(10 * SECOND_NS);
        clock.read(0x00);
        assert_eq!(clock.fx, vec![], "register B {b:#x}");
    }
}

#[test]
fn a_clock_that_is_set_shows_the_time_at_which_it_was_stopped() {
    let mut clock = Clock::new();
    let stopped = [0x58, 0x59, 0x23, 5, 0x29, 0x02, 0x24, 0x20];
    clock.write(0x0B, 0x82);
    clock.wait_ns(3 * SECOND_NS);
    assert_eq!(clock.time(), stopped);
    clock.write(0x0B, 0x82);
    assert_eq!(clock.time(), stopped);
    clock.write(0x0B, 0x02);
    clock.wait_ns(SECOND_NS);
    assert_eq!(clock.time()[..3], [0x59, 0x59, 0x23], "it goes on from there");
}

#[test]
fn one_register_is_set_while_the_clock_runs() {
    let mut clock = Clock::new();
    clock.write(0x02, 0x30);
    clock.wait_ns(SECOND_NS);
    assert_eq!(clock.time(), [0x59, 0x30, 0x23, 5, 0x29, 0x02, 0x24, 0x20]);
}

#[test]
fn twelve_hours_have_an_afternoon() {
    let mut clock = Clock::new();
    for (shown, hour) in [(0x12, 0x00), (0x01, 0x01), (0x11, 0x11), (0x92, 0x12), (0x81, 0x13), (0x91, 0x23)] {
        clock.write(0x0B, 0x00);
        clock.write(0x04, shown);
        assert_eq!(clock.read(0x04), shown);
        clock.write(0x0B, 0x02);
        assert_eq!(clock.read(0x04), hour, "{shown:#x}");
    }
}

#[test]
fn an_alarm_between_two_looks_at_the_clock_is_not_missed() {
    let flag = |second: u8, seconds: i64| {
        let mut clock = Clock::new();
        for (index, value) in [(0x01, second), (0x03, 0x59), (0x05, 0x23)] {
            clock.write(index, value);
        }
        clock.now.realtime_ns = clock.now.realtime_ns.checked_add_signed(seconds * SECOND_NS as i64).unwrap();
        clock.read(0x0C) & 0x20
    };
    assert_eq!([0x57, 0x58, 0x59].map(|second| flag(second, 5)), [0, 0, 0x20], "it was at second 58");
    assert_eq!([0x47, 0x48, 0x49].map(|second| flag(second, -10)), [0, 0x20, 0], "set back to second 48");
}

proptest::proptest! {
    #[test]
    fn the_next_alarm_is_the_first_second_that_matches(
        hour in 0_u8..28, minute in 0_u8..64, second in 0_u8..64, any in 0_u8..8, since in 0_i64..2 * DAY_S,
    ) {
        let mut clock = Clock::new();
        clock.rtc.put(B, B_24_HOURS | B_BINARY);
        let fields = [(HOURS_ALARM, hour, 24), (MINUTES_ALARM, minute, 60), (SECONDS_ALARM, second, 60)];
        for (bit, (index, value, _)) in fields.into_iter().enumerate() {
            clock.rtc.put(index, if any & 1 << bit != 0 { ANY } else { value });
        }
        let matches = |at: &i64| {
            let now = [at / 3600 % 24, at / 60 % 60, at % 60];
            fields.iter().zip(now).enumerate().all(|(bit, ((_, value, _), now))| any & 1 << bit != 0 || i64::from(*value) == now)
        };
        let expected = (since + 1..=since + DAY_S).find(matches);
        proptest::prop_assert_eq!(clock.rtc.next_alarm(since), expected);
    }
}

#[test]
fn only_a_state_that_the_clock_can_have_is_restored() {
    let with = |index: u8, value: u8| {
        let mut rtc = Clock::new().rtc;
        rtc.put(index, value);
        rtc
    };
    let cases = [
        (Rtc { index: 0x80, ..with(0, 0) }, "the index"),
        (with(A, A_RESET | A_UPDATE), "register A"),
        (with(B, B_SET | UPDATE), "register B"),
        (with(C, C_REQUEST), "register C"),
        (with(D, 0), "register D"),
    ];
    let mut clock = Clock::new();
    for (state, field) in cases {
        assert_eq!(clock.rtc.restore(&state.save(), &clock.now, &mut clock.fx), Err(Flaw::Field(field)));
    }
    assert_eq!(clock.fx, vec![]);
    for possible in [with(B, B_SET | PERIODIC), with(C, 0x70)] {
        assert_eq!(clock.rtc.restore(&possible.save(), &clock.now, &mut clock.fx), Ok(()));
    }
}
