//! Rules of openbsd/devices.md, 7.1, and class P1 and P2 of 11.6.

use super::*;
use crate::effect::Now;

fn at(offset: u16) -> At {
    At { place: 0, offset }
}

#[derive(Default)]
struct Port {
    uart: Uart,
    fx: Effects,
}

impl Port {
    fn read(&mut self, offset: u16) -> u8 {
        let mut data = [0];
        self.uart.read(at(offset), &mut data, &Now::START, &mut self.fx);
        data[0]
    }

    fn write(&mut self, offset: u16, value: u8) {
        self.uart.write(at(offset), &[value], &Now::START, &mut self.fx);
    }

    fn input(&mut self, bytes: &[u8]) -> usize {
        self.uart.input(bytes, &mut self.fx)
    }

    fn output(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; MAX_OUTPUT];
        let len = self.uart.take_output(&mut buffer);
        buffer.truncate(len);
        buffer
    }

    fn levels(&mut self) -> Vec<bool> {
        let levels = self.fx.drain(..).filter_map(|effect| match effect {
            Effect::Irq { gsi: IRQ, level } => Some(level),
            _ => None,
        });
        levels.collect()
    }
}

#[test]
fn output_is_announced_once_and_taken_in_order() {
    let mut port = Port::default();
    b"hello".iter().for_each(|byte| port.write(0, *byte));
    assert_eq!(port.fx, vec![Effect::SerialOutput]);
    assert_eq!(port.output(), b"hello");
    port.write(0, b'!');
    assert_eq!(port.fx, vec![Effect::SerialOutput; 2]);
}

#[test]
fn p2_output_that_nobody_takes_is_bounded_and_the_last_is_kept() {
    assert_eq!(MAX_OUTPUT, 65536);
    let mut port = Port::default();
    for n in 0..MAX_OUTPUT + 10 {
        port.write(0, if n < 10 { b'a' } else { b'b' });
    }
    assert_eq!(port.output(), vec![b'b'; MAX_OUTPUT]);
}

#[test]
fn the_fifo_shows_in_iir_only_when_enabled() {
    let mut port = Port::default();
    assert_eq!(port.read(2), 0x01);
    port.write(2, 0x01);
    assert_eq!(port.read(2), 0xC1);
    port.write(2, 0x00);
    assert_eq!(port.read(2), 0x01);
}

#[test]
fn without_fifo_one_byte_with_it_sixteen() {
    let mut port = Port::default();
    assert_eq!(port.input(&[b'x'; 20]), 1);
    port.write(2, 0x01);
    assert!(port.fx.contains(&Effect::SerialRoom), "clearing makes room");
    assert_eq!(port.input(&[b'x'; 20]), 16);
    assert_eq!(port.input(b"x"), 0);
}

#[test]
fn room_is_told_once_the_receiver_is_empty() {
    let mut port = Port::default();
    assert_eq!(port.input(b"ab"), 1);
    assert_eq!(port.read(5) & 1, 1);
    assert_eq!(port.read(0), b'a');
    assert_eq!(port.fx, vec![Effect::SerialRoom]);
    assert_eq!((port.read(5) & 1, port.read(0)), (0, 0));
    assert_eq!(port.fx.len(), 1);
}

#[test]
fn received_bytes_interrupt_by_trigger_level_and_timeout() {
    let mut port = Port::default();
    port.write(2, 0x41); // trigger at 4
    port.write(1, IER_RECEIVE);
    port.input(b"a");
    assert_eq!(port.levels(), vec![true]);
    assert_eq!(port.read(2), 0xC0 | IIR_TIMEOUT);
    port.input(b"bcd");
    assert_eq!(port.read(2), 0xC0 | IIR_RECEIVE);
    for _ in 0..4 {
        port.read(0);
    }
    assert_eq!(port.read(2), 0xC1);
    assert_eq!(port.levels(), vec![false]);
}

#[test]
fn the_transmit_interrupt_comes_at_once_and_goes_by_reading_iir() {
    let mut port = Port::default();
    port.write(1, IER_TRANSMIT);
    assert_eq!(port.levels(), vec![true]);
    assert_eq!(port.read(2), IIR_TRANSMIT);
    assert_eq!(port.levels(), vec![false]);
    port.write(0, b'x');
    assert_eq!(port.levels(), vec![true]);
    port.write(0, b'y');
    assert_eq!(port.levels(), vec![false, true], "an edge for each byte that was not looked at");
}

#[test]
fn received_bytes_come_before_the_transmitter() {
    let mut port = Port::default();
    port.write(1, IER_TRANSMIT | IER_RECEIVE);
    port.input(b"a");
    assert_eq!(port.read(2), IIR_RECEIVE);
    port.read(0);
    assert_eq!(port.read(2), IIR_TRANSMIT);
}

#[test]
fn loopback_returns_bytes_and_modem_lines() {
    let mut port = Port::default();
    port.write(4, MCR_LOOP | MCR_OUT2 | MCR_RTS);
    assert_eq!(port.read(6) & 0xF0, MSR_CARRIER | MSR_CTS, "Linux's probe of a 8250");
    port.write(0, b'z');
    assert_eq!((port.read(5) & LSR_READY, port.read(0)), (LSR_READY, b'z'));
    assert_eq!(port.output(), b"");
    assert_eq!(port.input(b"a"), 0, "the line is cut");
    port.write(4, 0);
    assert_eq!(port.read(6) & 0xF0, 0xB0);
    assert!(port.fx.contains(&Effect::SerialRoom));
}

#[test]
fn scratch_and_divisor_are_stored_and_a_divisor_of_zero_transmits() {
    let mut port = Port::default();
    port.write(7, 0x5A);
    assert_eq!(port.read(7), 0x5A);
    port.write(3, LCR_DIVISOR | 3);
    port.write(0, 0);
    port.write(1, 0);
    assert_eq!((port.read(0), port.read(1)), (0, 0));
    port.write(3, 3);
    port.write(0, b'x');
    assert_eq!(port.output(), b"x");
}

#[test]
fn registers_read_as_the_data_sheet_has_them() {
    let mut port = Port::default();
    let all = |port: &mut Port| [0, 1, 2, 3, 4, 5, 6, 7].map(|offset| port.read(offset));
    assert_eq!(all(&mut port), [0, 0, 0x01, 0x03, 0, 0x60, 0xB0, 0]);
    for (offset, written, kept) in [(1, 0xFF, 0x0F), (3, 0x7F, 0x7F), (7, 0xA5, 0xA5), (4, 0xFF, 0x1F)] {
        port.write(offset, written);
        assert_eq!(port.read(offset), kept, "register {offset}");
    }
    port.write(1, 0);
    port.write(3, 0x80);
    assert_eq!((port.read(0), port.read(1)), (12, 0), "9600 baud");
    port.write(0, 0x34);
    port.write(1, 0x12);
    assert_eq!((port.read(0), port.read(1)), (0x34, 0x12));
    port.write(3, 0x03);
    assert_eq!((port.read(0), port.read(1)), (0, 0), "the divisor is behind them");
    port.write(1, 0x05);
    assert_eq!(port.read(1), 0x05);
    port.write(3, 0x80);
    assert_eq!((port.read(0), port.read(1)), (0x34, 0x12));
}

#[test]
fn causes_come_in_the_order_of_the_data_sheet() {
    let mut port = Port::default();
    port.write(1, 0x0F);
    port.write(4, 0x10); // loopback: the modem lines fall
    port.write(0, b'a');
    port.write(0, b'b'); // overruns
    assert_eq!(port.read(2), 0x06);
    assert_eq!((port.read(5), port.read(5)), (0x63, 0x61), "reading clears the error");
    assert_eq!(port.read(2), 0x04);
    assert_eq!(port.read(0), b'a');
    assert_eq!(port.read(2), 0x02, "reading shows and clears it");
    assert_eq!(port.read(2), 0x00);
    assert_eq!(port.read(6), 0x0B);
    assert_eq!((port.read(6), port.read(2)), (0, 0x01));
}

#[test]
fn nothing_interrupts_that_is_not_enabled_or_has_not_happened() {
    let mut port = Port::default();
    for enabled in [0x00, 0x01, 0x04, 0x08, 0x0D] {
        port.write(1, enabled);
        assert_eq!(port.read(2), 0x01, "enabled {enabled:#x}");
    }
    port.write(1, 0);
    port.write(4, 0x10);
    port.write(0, b'a');
    port.write(0, b'b');
    for (enabled, cause) in [(0x00, 0x01), (0x01, 0x04), (0x04, 0x06), (0x08, 0x00)] {
        port.write(1, enabled);
        assert_eq!(port.read(2), cause, "enabled {enabled:#x}");
    }
}

#[test]
fn each_modem_output_is_an_input_in_loopback_and_its_changes_are_told() {
    for (output, input, rises, falls) in
        [(0x01, 0x20, 0x02, 0x02), (0x02, 0x10, 0x01, 0x01), (0x04, 0x40, 0x00, 0x04), (0x08, 0x80, 0x08, 0x08)]
    {
        let mut port = Port::default();
        port.write(4, 0x10);
        port.read(6);
        port.write(4, 0x10 | output);
        assert_eq!((port.read(6), port.read(6)), (input | rises, input), "output {output:#x}");
        port.write(4, 0x10);
        assert_eq!((port.read(6), port.read(6)), (falls, 0), "output {output:#x}");
    }
    let mut port = Port::default();
    port.write(4, 0x10);
    port.read(6);
    port.write(4, 0x11);
    port.write(4, 0x13);
    assert_eq!(port.read(6), 0x33, "changes add up until they are read");
    port.write(4, 0x1F);
    assert_eq!(port.read(6), 0xF8, "what stays is no change");
    port.write(4, 0x10);
    assert_eq!(port.read(6), 0x0F);
}

#[test]
fn each_trigger_level_is_told_from_a_timeout() {
    for (control, level) in [(0x01, 1), (0x41, 4), (0x81, 8), (0xC1, 14)] {
        let mut port = Port::default();
        port.write(1, 0x01);
        port.write(2, control);
        for count in 1..=16 {
            port.input(b"x");
            assert_eq!(port.read(2), if count < level { 0xCC } else { 0xC4 }, "{count} at {level}");
        }
    }
    let mut port = Port::default();
    port.write(1, 0x01);
    port.write(2, 0x40); // without the FIFO its level means nothing
    port.input(b"x");
    assert_eq!(port.read(2), 0x04);
}

#[test]
fn the_receiver_is_cleared_when_it_is_asked_for_and_when_the_fifo_is_switched() {
    let mut port = Port::default();
    for (control, kept) in
        [(0x01, false), (0x01, true), (0xC1, true), (0x03, false), (0x00, false), (0x40, true), (0x02, false)]
    {
        port.input(b"x");
        port.write(2, control);
        assert_eq!(port.read(5) & 1 == 1, kept, "{control:#x}");
        port.read(0);
    }
}

#[test]
fn room_is_not_told_where_all_was_taken() {
    let mut port = Port::default();
    assert_eq!((port.input(b"a"), port.read(0)), (1, b'a'));
    assert_eq!(port.fx, vec![]);
}

#[test]
fn p1_every_register_value_and_width_is_answered() {
    let mut port = Port::default();
    for width in [1, 2, 4] {
        for offset in 0..8 {
            for value in 0..=255 {
                port.uart.write(at(offset), &vec![value; width], &Now::START, &mut port.fx);
                let mut data = vec![0; width];
                port.uart.read(at(offset), &mut data, &Now::START, &mut port.fx);
                assert!(data.iter().skip(1).all(|byte| *byte == 0xFF), "wider than a byte reads ones");
            }
        }
        port.fx.clear();
    }
}

#[test]
fn only_a_state_that_the_chip_can_have_is_restored() {
    let ok = Uart::default;
    let cases = [
        (Uart { receiver: vec![b'a'; 2].into(), ..ok() }, "the receiver"),
        (Uart { receiver: vec![b'a'; 17].into(), fcr: FCR_ENABLE, ..ok() }, "the receiver"),
        (Uart { output: vec![0; MAX_OUTPUT + 1].into(), ..ok() }, "the output"),
        (Uart { ier: 0x10, ..ok() }, "the interrupt enable register"),
        (Uart { fcr: 0x02, ..ok() }, "the FIFO control register"),
        (Uart { mcr: 0x20, ..ok() }, "the modem control register"),
        (Uart { line_errors: LSR_READY, ..ok() }, "the line status"),
        (Uart { modem_deltas: 0x10, ..ok() }, "the modem status"),
    ];
    for (state, field) in cases {
        assert_eq!(ok().restore(&state.save(), &Now::START, &mut vec![]), Err(Flaw::Field(field)));
    }
}

#[test]
fn a_restored_port_tells_of_its_output_and_its_line() {
    let full = Uart {
        receiver: vec![b'a'; 16].into(),
        output: vec![b'x'; MAX_OUTPUT].into(),
        ier: 0x0F,
        fcr: FCR_KEPT | FCR_ENABLE,
        mcr: MCR_ALL,
        line_errors: LSR_OVERRUN,
        modem_deltas: MSR_DELTAS,
        ..Uart::default()
    };
    let mut port = Port::default();
    assert_eq!(port.uart.restore(&full.save(), &Now::START, &mut port.fx), Ok(()));
    assert_eq!(port.fx, vec![Effect::SerialOutput, Effect::Irq { gsi: IRQ, level: true }]);
    assert_eq!((port.read(0), port.output().len()), (b'a', MAX_OUTPUT));
    let mut fx = vec![];
    assert_eq!(Uart::default().restore(&Uart::default().save(), &Now::START, &mut fx), Ok(()));
    assert_eq!(fx, vec![]);
}
