//! A machine restored on another host, or later: what is due by clocks that stand elsewhere now.

use hw::{Effect, Timer};

use crate::acts::{Act, perform};
use crate::driver::Machine;

#[test]
fn a_deadline_of_long_ago_is_due_at_once_on_a_host_that_has_just_started() {
    let machine = Machine::new();
    machine.edge.now_ns.set(1_000_000_000);
    machine.pio_write(0x602, 2, 1); // the carry of the PM timer, some ten minutes later
    perform(&machine, &Act::Clock(0xB, Some(0x42))); // the clock's periodic interrupt
    perform(&machine, &Act::Clock(0xC, None)); // the first is taken, the next due a millisecond later
    machine.edge.now_ns.set(1_000_000_000_000); // nobody rings for a guest that is paused
    machine.edge.take();
    let saved = machine.chipset.save(&machine.edge);
    let started = 5_000_000_000_u64;
    let restored = Machine::restored(&saved, &machine.edge, started.wrapping_sub(1_000_000_000_000)).unwrap();
    let effects = restored.edge.take();
    for timer in [Timer::Rtc, Timer::Pm] {
        let at = deadline(&effects, timer);
        assert!(at.is_some_and(|at| at <= started), "{timer:?}: {at:?}");
    }
}

#[test]
fn an_alarm_that_fell_due_while_the_guest_was_saved_rings_at_once() {
    const SECOND_NS: u64 = 1_000_000_000;
    let machine = Machine::new();
    [(1, 0x30), (3, 0xFF), (5, 0xFF), (0xB, 0x22)].iter().for_each(|(index, value)| {
        perform(&machine, &Act::Clock(*index, Some(*value)));
    });
    let saved = machine.chipset.save(&machine.edge);
    let left = deadline(&machine.edge.take(), Timer::Rtc).unwrap();
    assert!(left > SECOND_NS, "{left}");
    machine.edge.now_ns.set(left + 100 * SECOND_NS);
    let restored = Machine::restored(&saved, &machine.edge, 0).unwrap();
    let at = deadline(&restored.edge.take(), Timer::Rtc).unwrap();
    assert!(at <= machine.edge.now_ns.get() + hw::rtc::MIN_PERIOD_NS, "{at}");
}

fn deadline(effects: &[Effect], timer: Timer) -> Option<u64> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Deadline { timer: of, at } if *of == timer => *at,
        _ => None,
    })
}
