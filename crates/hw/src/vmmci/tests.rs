//! A driver as OpenBSD's guests have it, and one that does anything else (openbsd/devices.md, 6.2 and 11.6, P8).

use super::*;

const START_NS: u64 = 1_700_000_000 * SECOND_NS;

struct Guest {
    vmmci: Vmmci,
    now: Now,
}

impl Guest {
    fn new() -> Self {
        let now = Now { monotonic_ns: 7 * SECOND_NS, realtime_ns: START_NS };
        Self { vmmci: Vmmci::new(Slot(4), 10), now }
    }

    /// A driver that has accepted these features.
    fn with_driver(features: u32) -> Self {
        let mut guest = Self::new();
        guest.write(GUEST_FEATURES, 4, features);
        guest.write(STATUS, 1, u32::from(DRIVER_OK) | 3);
        guest
    }

    fn read(&mut self, register: u16, width: usize) -> u64 {
        let mut data = [0; 8];
        self.vmmci.read(At { place: 1, offset: register }, &mut data[..width], &self.now, &mut vec![]);
        u64::from_le_bytes(data)
    }

    fn write(&mut self, register: u16, width: usize, value: u32) -> Effects {
        let mut fx = vec![];
        self.vmmci.write(At { place: 1, offset: register }, &value.to_le_bytes()[..width], &self.now, &mut fx);
        fx
    }

    fn asked(&mut self) -> (bool, Effects) {
        let mut fx = vec![];
        (self.vmmci.ask_to_stop(self.now, &mut fx), fx)
    }

    /// Time passes, of the host's clock so much, and the timer rings whenever it is due. What came of it but lines and deadlines.
    fn wait(&mut self, ns: u64) -> Effects {
        let (end, mut fx) = (self.now.monotonic_ns + ns, vec![]);
        while let Some(due) = self.vmmci.deadline.filter(|due| *due <= end) {
            self.pass(due.saturating_sub(self.now.monotonic_ns));
            self.vmmci.timer(&self.now, &mut fx);
        }
        self.pass(end - self.now.monotonic_ns);
        fx.retain(|effect| !matches!(effect, Effect::Irq { .. } | Effect::Deadline { .. }));
        fx
    }

    fn pass(&mut self, ns: u64) {
        self.now.monotonic_ns += ns;
        self.now.realtime_ns += ns;
    }
}

const IRQ_UP: Effect = Effect::Irq { gsi: 10, level: true };

#[test]
fn a_guest_without_a_driver_is_not_asked() {
    assert_eq!(Guest::new().asked(), (false, vec![]));
    let mut guest = Guest::with_driver(FEATURES);
    guest.write(STATUS, 1, 0);
    assert_eq!(guest.asked(), (false, vec![]), "the driver has gone");
    assert_eq!(guest.wait(LONG_NS), vec![]);
}

#[test]
fn a_stop_is_a_reboot_with_an_interrupt_and_three_seconds() {
    let mut guest = Guest::with_driver(FEATURE_ACK);
    let at = guest.now.monotonic_ns + TICK_NS;
    assert_eq!(guest.asked(), (true, vec![IRQ_UP, Effect::Deadline { timer: Timer::Vmmci, at: Some(at) }]));
    assert_eq!(guest.read(COMMAND, 4), 2);
    assert_eq!((guest.read(ISR, 1), guest.read(ISR, 1)), (2, 0), "a read clears");
    assert_eq!(guest.wait(SECOND_NS), vec![]);
    assert_eq!(guest.asked(), (true, vec![]), "asked again: no new time");
    assert_eq!(guest.wait(SHORT_NS - SECOND_NS - 1), vec![]);
    assert_eq!(guest.wait(1), vec![Effect::Overdue]);
    assert_eq!(guest.wait(LONG_NS), vec![], "once");
}

#[test]
fn an_acknowledged_command_has_120_seconds_however_often_it_is_acknowledged() {
    let mut guest = Guest::with_driver(FEATURE_ACK);
    guest.asked();
    guest.wait(2 * SECOND_NS);
    guest.write(COMMAND, 4, REBOOT);
    for _ in 0..11 {
        assert_eq!(guest.wait(10 * SECOND_NS), vec![]);
        guest.write(COMMAND, 4, REBOOT);
    }
    assert_eq!(guest.wait(10 * SECOND_NS - 1), vec![]);
    assert_eq!(guest.wait(1), vec![Effect::Overdue]);
}

#[test]
fn a_driver_that_can_not_acknowledge_has_the_long_time_at_once() {
    let mut guest = Guest::with_driver(0);
    guest.asked();
    assert_eq!(guest.wait(LONG_NS - 1), vec![]);
    assert_eq!(guest.wait(1), vec![Effect::Overdue]);
}

#[test]
fn a_guest_that_stands_still_has_its_time_when_it_runs_again() {
    for (features, written, left) in
        [(FEATURE_ACK, None, SHORT_NS), (FEATURE_ACK, Some(REBOOT), LONG_NS), (FEATURES, Some(SHUTDOWN), SHORT_NS)]
    {
        let mut guest = Guest::with_driver(features);
        if written != Some(SHUTDOWN) {
            guest.asked();
        }
        written.map(|command| guest.write(COMMAND, 4, command));
        guest.pass(SECOND_NS / 2);
        guest.pass(1000 * SECOND_NS); // no timer rings for a guest that is paused
        assert_eq!(guest.wait(left - SECOND_NS - 1), vec![], "{written:?}");
        assert_eq!(guest.wait(1).len(), 1, "{written:?}: of the second in which it was paused the rest is gone");
    }
}

#[test]
fn a_guest_that_goes_down_by_itself_is_switched_off_after_three_seconds() {
    let mut guest = Guest::with_driver(FEATURES);
    guest.write(COMMAND, 4, SHUTDOWN);
    guest.wait(2 * SECOND_NS);
    guest.write(COMMAND, 4, SHUTDOWN); // no new time
    assert_eq!(guest.read(COMMAND, 4), 0, "nothing is asked of it");
    assert_eq!(guest.wait(SECOND_NS - 1), vec![]);
    assert_eq!(guest.wait(1), vec![Effect::PowerOff]);
}

#[test]
fn the_late_word_of_a_guest_that_reboots_as_asked_changes_nothing() {
    let mut guest = Guest::with_driver(FEATURE_ACK);
    guest.asked();
    guest.write(COMMAND, 4, REBOOT);
    guest.wait(100 * SECOND_NS);
    guest.write(COMMAND, 4, SHUTDOWN);
    assert_eq!(guest.wait(20 * SECOND_NS - 1), vec![]);
    assert_eq!(guest.wait(1), vec![Effect::Overdue]);
}

/// P8: each value with each pending command. What a guest writes ends it later only once, and at its own wish sooner.
#[test]
fn p8_each_value_with_each_pending_command() {
    for pending in [Pending::Nothing, Pending::Reboot, Pending::SyncRtc] {
        for value in [NONE, SHUTDOWN, REBOOT, SYNCRTC, 4, u32::MAX] {
            let mut guest = Guest::with_driver(FEATURES);
            match pending {
                Pending::Nothing => {}
                Pending::Reboot => drop(guest.asked()),
                Pending::SyncRtc => {
                    guest.now.realtime_ns += 6 * SECOND_NS;
                    guest.wait(SECOND_NS);
                }
            }
            assert_eq!(guest.vmmci.state.pending, pending);
            let before = guest.vmmci.state.limit;
            guest.write(COMMAND, 4, value);
            let acknowledged = guest.vmmci.state.pending != pending;
            let after = guest.vmmci.state.limit.map(|limit| limit.left_ns);
            let expected = match (pending, value) {
                (Pending::Reboot, REBOOT) => (false, Some(LONG_NS)),
                (Pending::SyncRtc, SYNCRTC) => (true, None),
                (Pending::Nothing | Pending::SyncRtc, SHUTDOWN) => (false, Some(SHORT_NS)),
                _ => (false, before.map(|limit| limit.left_ns)),
            };
            assert_eq!((acknowledged, after), expected, "{value} while {pending:?}");
        }
    }
}

#[test]
fn a_step_forward_of_the_clock_by_more_than_five_seconds_is_told_until_it_is_acknowledged() {
    for (step, told) in [(4 * SECOND_NS, false), (4 * SECOND_NS + 1, true), (86_400 * SECOND_NS, true)] {
        let mut guest = Guest::with_driver(FEATURE_SYNCRTC);
        guest.wait(10 * SECOND_NS);
        guest.now.realtime_ns += step;
        guest.wait(SECOND_NS);
        assert_eq!(guest.read(COMMAND, 4) == u64::from(SYNCRTC), told, "{step}");
        guest.write(COMMAND, 4, SYNCRTC);
        assert_eq!(guest.read(COMMAND, 4), 0);
        guest.wait(10 * SECOND_NS);
        assert_eq!(guest.read(COMMAND, 4), 0, "once");
    }
}

#[test]
fn a_pause_is_a_step_of_the_clock_too_and_a_step_backwards_is_none() {
    let mut guest = Guest::with_driver(FEATURE_SYNCRTC);
    guest.wait(SECOND_NS);
    guest.now.realtime_ns -= 86_400 * SECOND_NS;
    guest.wait(10 * SECOND_NS);
    assert_eq!(guest.read(COMMAND, 4), 0);
    guest.pass(60 * SECOND_NS); // no timer rings for a guest that is paused
    guest.wait(0);
    assert_eq!(guest.read(COMMAND, 4), u64::from(SYNCRTC));
}

#[test]
fn only_a_driver_that_wants_to_hear_of_steps_costs_a_timer() {
    for (features, status, watched) in
        [(FEATURE_SYNCRTC, DRIVER_OK, true), (FEATURE_SYNCRTC, 3, false), (FEATURE_ACK, DRIVER_OK, false)]
    {
        let mut guest = Guest::new();
        guest.write(GUEST_FEATURES, 4, features);
        guest.write(STATUS, 1, status.into());
        assert_eq!(guest.vmmci.deadline.is_some(), watched, "{features} {status}");
    }
    let mut guest = Guest::with_driver(FEATURE_SYNCRTC);
    guest.now.realtime_ns += 60 * SECOND_NS;
    guest.wait(SECOND_NS);
    guest.write(STATUS, 1, 3);
    assert_eq!((guest.vmmci.deadline, guest.read(COMMAND, 4)), (None, 0), "its driver is gone, and what it was told");
}

#[test]
fn a_stop_outweighs_a_step_of_the_clock() {
    let mut guest = Guest::with_driver(FEATURES);
    guest.now.realtime_ns += 60 * SECOND_NS;
    guest.wait(SECOND_NS);
    guest.asked();
    guest.write(COMMAND, 4, SYNCRTC);
    assert_eq!(guest.read(COMMAND, 4), u64::from(REBOOT));
    guest.write(COMMAND, 4, REBOOT);
    guest.now.realtime_ns += 60 * SECOND_NS;
    guest.wait(2 * SECOND_NS);
    assert_eq!(guest.read(COMMAND, 4), u64::from(REBOOT), "the clock has to wait");
}

#[test]
fn the_low_seconds_latch_the_time_and_the_high_ones_do_not_need_it() {
    let mut guest = Guest::new();
    guest.now.realtime_ns = 5_000_000_000 * SECOND_NS + 1_234_567;
    assert_eq!(guest.read(28, 4), 1, "2^32 seconds and more, before the low half is read");
    assert_eq!(guest.read(24, 4), 5_000_000_000 % (1 << 32));
    guest.pass(SECOND_NS + 500_000);
    assert_eq!(guest.read(32, 4), 1234, "of the moment that was latched");
    assert_eq!(guest.read(36, 4), 0);
    guest.now.realtime_ns = 7 * SECOND_NS + 999;
    assert_eq!((guest.read(24, 4), guest.read(32, 4)), (7, 1), "0 would mean that the time is not known");
}

#[test]
fn registers_are_those_of_a_legacy_device_without_queues() {
    let mut guest = Guest::with_driver(u32::MAX);
    assert_eq!((guest.read(0, 4), guest.read(4, 4)), (7, 7));
    for (register, width) in [(8, 4), (12, 2), (14, 2), (16, 2)] {
        guest.write(register, width, 0xFFFF_FFFF);
        assert_eq!(guest.read(register, width), 0);
    }
    assert_eq!(guest.read(18, 1), 7);
    assert_eq!((guest.read(40, 4), guest.read(38, 4)), (0xFFFF_FFFF, 0xFFFF_0000));
    for (register, width) in [(4, 2), (5, 1), (18, 2), (20, 1), (20, 2), (22, 4), (16, 4)] {
        guest.write(register, width, 0);
    }
    assert_eq!((guest.read(4, 4), guest.read(18, 1)), (7, 7), "no part of a register is written");
}

#[test]
fn only_a_state_that_the_device_can_have_is_restored() {
    let refused = |change: &dyn Fn(&mut State)| {
        let mut guest = Guest::with_driver(FEATURES);
        change(&mut guest.vmmci.state);
        Vmmci::new(Slot(4), 10).restore(&guest.vmmci.save(), &guest.now, &mut vec![]).err()
    };
    assert_eq!(refused(&|_| {}), None);
    assert_eq!(refused(&|state| state.guest_features = 8), Some(Flaw::Field("the guest's features")));
    assert_eq!(refused(&|state| state.isr = 1), Some(Flaw::Field("the ISR status")));
    assert_eq!(refused(&|state| state.look = None), Some(Flaw::Field("the look at the clock")));
    let without = |state: &mut State| (state.look, state.status, state.pending) = (None, 0, Pending::SyncRtc);
    assert_eq!(refused(&without), Some(Flaw::Field("the command")));
}

#[test]
fn a_restored_device_goes_on_with_its_line_and_its_limit() {
    let mut guest = Guest::with_driver(FEATURE_ACK);
    guest.asked();
    let (mut second, mut fx) = (Vmmci::new(Slot(4), 10), vec![]);
    second.restore(&guest.vmmci.save(), &guest.now, &mut fx).unwrap();
    assert_eq!(fx, vec![IRQ_UP, Effect::Deadline { timer: Timer::Vmmci, at: guest.vmmci.deadline }]);
    assert_eq!(second.save(), guest.vmmci.save());
}

#[test]
fn the_line_is_up_while_an_interrupt_waits_that_the_guest_has_not_switched_off() {
    let mut guest = Guest::with_driver(FEATURE_ACK);
    guest.asked();
    let command = |value: u16, guest: &mut Guest| {
        let mut fx = vec![];
        guest.vmmci.write(At { place: 0, offset: 4 }, &value.to_le_bytes(), &guest.now, &mut fx);
        fx
    };
    assert_eq!(command(COMMAND_INTX_DISABLE, &mut guest), vec![Effect::Irq { gsi: 10, level: false }]);
    assert_eq!(command(0, &mut guest), vec![IRQ_UP]);
    let mut fx = vec![];
    guest.vmmci.read(At { place: 1, offset: 16 }, &mut [0; 4], &guest.now, &mut fx);
    assert_eq!(fx, vec![Effect::Irq { gsi: 10, level: false }], "a wider access reads the status too");
}
