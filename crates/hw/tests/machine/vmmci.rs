//! vmmci through the chipset's door: openbsd/devices.md, 1.2, 1.3 and 6.2.

use hw::{Effect, Timer};

use crate::driver::{Machine, PORTS, VMMCI};

const NOBODY: u64 = 0xFFFF_FFFF;

fn bar(machine: &Machine) -> u64 {
    machine.read(machine.config(VMMCI, 0x10), 4)
}

#[test]
fn vmmci_is_the_last_function_with_the_identity_that_its_driver_looks_for() {
    let machine = Machine::new();
    let config = |offset, width| machine.read(machine.config(VMMCI, offset), width);
    assert_eq!((config(0x00, 4), config(0x2C, 4)), (0x0777_0B5D, 0xFFFF_0B5D));
    assert_eq!((config(0x08, 4), config(0x3C, 2)), (0x0780_0000, 0x010A), "class; INTA and its line");
    assert_eq!((config(0x34, 1), config(0x06, 2)), (0, 0), "no capabilities: the block of a legacy device");
    machine.write(machine.config(VMMCI, 0x10), 4, 0xFFFF_FFFF);
    assert_eq!(bar(&machine), 0xFFFF_F001, "4096 ports");
}

#[test]
fn its_ports_answer_where_the_guest_puts_them_while_their_decoder_is_on() {
    let machine = Machine::new();
    assert_eq!((bar(&machine), machine.pio_read(PORTS, 4)), (u64::from(PORTS) | 1, NOBODY));
    let command = |value| machine.write(machine.config(VMMCI, 4), 2, value);
    command(2);
    assert_eq!(machine.pio_read(PORTS, 4), NOBODY, "memory is no matter here");
    command(1);
    assert_eq!(machine.pio_read(PORTS, 4), 7);
    machine.write(machine.config(VMMCI, 0x10), 4, 0xF000);
    assert_eq!((machine.pio_read(PORTS, 4), machine.pio_read(0xF000, 4)), (NOBODY, 7));
    for elsewhere in [0, 0x1_0000, 0xFFFF_0000] {
        machine.write(machine.config(VMMCI, 0x10), 4, elsewhere);
        assert_eq!((machine.pio_read(0x600, 2), machine.pio_read(0xF000, 4)), (0, NOBODY), "{elsewhere:#x}");
    }
}

#[test]
fn a_stop_goes_to_vmmci_where_its_driver_listens_and_to_the_power_button_else() {
    let machine = Machine::new();
    let pressed = || machine.pio_read(0x600, 2) & 0x100 != 0;
    machine.start_vmmci(7);
    machine.chipset.ask_to_stop(&machine.edge);
    assert_eq!((machine.pio_read(PORTS + 20, 4), pressed()), (2, false));
    machine.pio_write(PORTS + 18, 1, 0);
    machine.chipset.ask_to_stop(&machine.edge);
    assert!(pressed());
    let without = Machine::new();
    without.chipset.ask_to_stop(&without.edge);
    assert_ne!(without.pio_read(0x600, 2) & 0x100, 0);
}

#[test]
fn a_machine_that_has_ended_is_not_ended_by_vmmci_too() {
    let ends = |machine: &Machine| {
        let is_end = |effect: &Effect| matches!(effect, Effect::Reset | Effect::PowerOff | Effect::Overdue);
        machine.edge.take().into_iter().filter(is_end).collect::<Vec<_>>()
    };
    for (reset_first, expected) in [(false, Effect::Overdue), (true, Effect::Reset)] {
        let machine = Machine::new();
        machine.start_vmmci(7);
        machine.chipset.ask_to_stop(&machine.edge);
        if reset_first {
            machine.pio_write(0xCF9, 1, 6);
        }
        for second in 1..=3 {
            machine.edge.now_ns.set(second * 1_000_000_000);
            machine.chipset.timer(Timer::Vmmci, &machine.edge);
        }
        machine.pio_write(0x604, 2, 0x3400);
        assert_eq!(ends(&machine), vec![expected]);
    }
}
