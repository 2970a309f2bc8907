//! Configuration space and BARs: openbsd/devices.md, 1.2, classes V16 and V17.

use hw::{DeviceEffect, Effect, Slot};

use crate::driver::{BAR, BLK, Machine, NET, NOTIFY};

fn mechanism_1(machine: &Machine, address: u64, width: usize) -> u64 {
    machine.pio_write(0xCF8, 4, address);
    machine.pio_read(0xCFC, width)
}

#[test]
fn both_mechanisms_show_the_same_functions() {
    let machine = Machine::new();
    let ids = [0x0666_0B5D, 0x1044_1AF4, 0x1041_1AF4, 0x1042_1AF4, 0x0777_0B5D];
    for (slot, id) in ids.into_iter().enumerate() {
        assert_eq!(mechanism_1(&machine, 0x8000_0000 | (slot as u64) << 11, 4), id);
        assert_eq!(machine.read(machine.config(Slot(slot as u8), 0), 4), id);
    }
    assert_eq!(mechanism_1(&machine, 0x8000_2800, 4), 0xFFFF_FFFF, "slot 5 is empty");
    assert_eq!(machine.read(machine.config(Slot(5), 0), 4), 0xFFFF_FFFF);
    assert_eq!(mechanism_1(&machine, 0x8000_1802, 2), 0x1AF4, "low bits of the address are none");
}

#[test]
fn capabilities_say_where_the_registers_are() {
    let machine = Machine::new();
    let list = |slot| {
        let (mut at, mut found) = (machine.read(machine.config(slot, 0x34), 1), Vec::new());
        while at != 0 {
            let field = |offset, width| machine.read(machine.config(slot, at + offset), width);
            if field(0, 1) == 17 {
                assert_eq!((field(4, 4), field(8, 4)), (0x8000, 0xC000), "MSI-X table and pending bits");
                found.push((17, 0, field(2, 2)));
            } else {
                assert_eq!((field(0, 1), field(4, 1)), (9, 0), "virtio, BAR 0");
                found.push((field(3, 1), field(8, 4), field(12, 4)));
            }
            at = field(1, 1);
        }
        found
    };
    let common = (1, 0, 0x3C);
    let config = (4, 0x2000, 6);
    assert_eq!(list(NET), [(17, 0, 2), common, (2, 0x3000, 8), (3, 0x1000, 1), config, (5, 0, 0)]);
    assert_eq!(list(Slot(1)), [(17, 0, 1), common, (2, 0x3000, 4), (3, 0x1000, 1), (5, 0, 0)], "no configuration");
    let notify = machine.capability(NET, 9, 2);
    assert_eq!(machine.read(machine.config(NET, notify + 16), 4), 4, "bytes between two notify registers");
}

#[test]
fn the_window_to_the_registers_is_read_by_its_four_bytes_alone() {
    let machine = Machine::new();
    machine.start(NET);
    machine.chipset.queue_interrupt(NET, 0, &machine.edge);
    let at = machine.capability(NET, 9, 5);
    machine.write(machine.config(NET, at + 8), 4, 0x1000); // the ISR, which a read clears
    machine.write(machine.config(NET, at + 12), 4, 1);
    machine.read(machine.config(NET, at + 15), 1);
    machine.read(machine.config(NET, at + 20), 1);
    machine.read(machine.config(NET, at + 12), 4);
    assert_eq!(machine.read(machine.config(NET, at + 16), 1), 1, "nothing before has read it");
    assert_eq!(machine.read(machine.config(NET, at + 16), 1), 0);
    for (offset, width) in [(14, 4), (19, 1)] {
        machine.chipset.queue_interrupt(NET, 0, &machine.edge);
        machine.read(machine.config(NET, at + offset), width);
        assert_eq!(machine.read(BAR + 0x1000, 1), 0, "read by {width} bytes at {offset}");
    }
}

#[test]
fn v16_config_accesses_that_name_nothing_read_ones() {
    let machine = Machine::new();
    for address in [0x0000_1800, 0x8001_1800, 0x8000_1900, 0x8000_1F00, 0x80FF_FF00] {
        assert_eq!(mechanism_1(&machine, address, 4), 0xFFFF_FFFF, "{address:x}");
    }
    machine.pio_write(0xCF8, 4, 0x8000_1800);
    machine.pio_write(0xCF8, 1, 0);
    machine.pio_write(0xCF8, 2, 0);
    assert_eq!(machine.pio_read(0xCF8, 4), 0x8000_1800, "narrow writes are no address");
    assert_eq!(machine.pio_read(0xCF8, 2), 0xFFFF);
    assert_eq!(machine.pio_read(0xCFE, 4), 0xFFFF_FFFF, "across the dword");
    assert_eq!(machine.pio_read(0xCFE, 2), 0x1042);
}

#[test]
fn v16_a_bar_is_sized_with_its_decoder_on_or_off() {
    let machine = Machine::new();
    for command in [0, 2] {
        machine.write(machine.config(NET, 0x04), 2, command);
        machine.write(machine.config(NET, 0x10), 4, 0xFFFF_FFFF);
        assert_eq!(machine.read(machine.config(NET, 0x10), 4), 0xFFFF_0000);
        assert!(machine.edge.take().is_empty(), "outside the window nothing is decoded");
    }
    for offset in (0x14..0x28).step_by(4).chain([0x30]) {
        machine.write(machine.config(NET, offset), 4, 0xFFFF_FFFF);
        assert_eq!(machine.read(machine.config(NET, offset), 4), 0);
    }
}

#[test]
fn a_function_leaves_reset_with_its_bar_in_the_window_and_its_line_told() {
    let machine = Machine::new();
    for (slot, base) in [(Slot(1), BAR), (NET, BAR + 0x1_0000), (BLK, BAR + 0x2_0000)] {
        assert_eq!(machine.read(machine.config(slot, 0x10), 4), base);
        assert_eq!(machine.read(base, 4), 0xFFFF_FFFF, "its decoder is off");
        machine.write(machine.config(slot, 0x04), 2, 2);
        let notify = DeviceEffect::NotifyBase(Some(base + NOTIFY));
        assert_eq!(machine.edge.take(), vec![Effect::Device(slot, notify)]);
        assert_eq!(machine.read(base + 0x14, 1), 0, "device status");
    }
    assert_eq!(machine.read(machine.config(NET, 0x3C), 2), 0x010B, "INTA, by line 11");
}

#[test]
fn a_bar_answers_only_while_memory_is_enabled_and_where_its_register_says() {
    let machine = Machine::new();
    machine.write(machine.config(NET, 0x10), 4, BAR);
    assert_eq!(machine.read(BAR, 4), 0xFFFF_FFFF);
    machine.write(machine.config(NET, 0x04), 2, 2);
    assert_eq!(machine.edge.take(), vec![Effect::Device(NET, DeviceEffect::NotifyBase(Some(BAR + NOTIFY)))]);
    assert_eq!(machine.read(BAR + 0x12, 2), 2);
    machine.write(machine.config(NET, 0x10), 4, BAR + 0x5_4321);
    assert_eq!(machine.edge.take(), vec![Effect::Device(NET, DeviceEffect::NotifyBase(Some(BAR + 0x5_0000 + NOTIFY)))]);
    assert_eq!(machine.read(BAR, 4), 0xFFFF_FFFF);
    machine.write(machine.config(NET, 0x04), 2, 0);
    assert_eq!(machine.edge.take(), vec![Effect::Device(NET, DeviceEffect::NotifyBase(None))]);
    assert_eq!(machine.read(BAR + 0x5_0012, 2), 0xFFFF);
}

#[test]
fn v16_two_bars_on_one_address_give_consistent_notify_addresses() {
    let machine = Machine::new();
    machine.map(BLK, BAR);
    machine.edge.take();
    machine.map(NET, BAR);
    let base = Some(BAR + NOTIFY);
    let moved =
        vec![Effect::Device(BLK, DeviceEffect::NotifyBase(None)), Effect::Device(NET, DeviceEffect::NotifyBase(base))];
    assert_eq!(machine.edge.take(), moved, "given up before it is taken");
    assert_eq!(machine.read(BAR + 0x12, 2), 2, "the lower slot answers");
    machine.write(machine.config(NET, 0x10), 4, 0xFEE0_0000);
    let moved =
        vec![Effect::Device(NET, DeviceEffect::NotifyBase(None)), Effect::Device(BLK, DeviceEffect::NotifyBase(base))];
    assert_eq!(machine.edge.take(), moved);
}

/// Linux with `pci=noacpi` takes the window of ACPI for another device's, and puts them behind RAM or the ECAM.
#[test]
fn a_bar_answers_wherever_nothing_else_does() {
    let machine = Machine::new();
    for base in [0x1000_0000, 0xBFFF_8000, 0xE010_0000, 0xFEBF_0000] {
        machine.map(NET, base);
        assert_eq!(machine.read(base + 0x14, 1), 0, "device status at {base:x}");
        assert_eq!(machine.read(base + 0x1_0000, 4), 0xFFFF_FFFF, "behind it");
    }
}

#[test]
fn v15_a_bar_over_ram_or_apic_takes_nothing_away() {
    let machine = Machine::new();
    for base in [0, 0x0FFF_0000, 0xE000_0000, 0xE00F_0000, 0xFEC0_0000, 0xFEE0_0000, 0xFFFF_0000] {
        machine.map(NET, base);
        assert!(machine.edge.take().is_empty(), "{base:x}");
    }
    assert_eq!(machine.read(machine.config(NET, 0), 4), 0x1041_1AF4, "the ECAM is still there");
}

#[test]
fn identity_capabilities_and_pin_are_immutable() {
    let machine = Machine::new();
    let writable = |offset: u64, cap: u64, msix: u64| {
        matches!(offset, 0x04..0x06 | 0x0C | 0x10..0x14 | 0x3C)
            || (msix + 2..msix + 4).contains(&offset)
            || (cap + 4..cap + 20).contains(&offset)
    };
    for slot in [Slot(0), Slot(1), NET, BLK] {
        let ends = |id, kind| if slot == Slot(0) { 0x1000 } else { machine.capability(slot, id, kind) };
        let (cap, msix) = (ends(9, 5), ends(17, 0));
        let before = machine.config_page(slot);
        for value in [0, 0xFF, 0xA5] {
            for offset in (0..0x1000).filter(|offset| !(cap + 16..cap + 20).contains(offset)) {
                machine.write(machine.config(slot, offset), 1, value);
            }
        }
        let after = machine.config_page(slot);
        for offset in (0..0x1000).filter(|offset| slot == Slot(0) || !writable(*offset, cap, msix)) {
            assert_eq!(before[offset as usize], after[offset as usize], "slot {} offset {offset:x}", slot.0);
        }
    }
}

fn aim(machine: &Machine, bar: u64, offset: u64, len: u64) -> u64 {
    let cap = machine.capability(NET, 9, 5);
    machine.write(machine.config(NET, cap + 4), 1, bar);
    machine.write(machine.config(NET, cap + 8), 4, offset);
    machine.write(machine.config(NET, cap + 12), 4, len);
    machine.config(NET, cap + 16)
}

#[test]
fn the_pci_cfg_capability_reaches_the_bar_without_decoding() {
    let machine = Machine::new();
    let data = aim(&machine, 0, 0x12, 2);
    assert_eq!(machine.read(data, 2), 2, "num_queues");
    let data = aim(&machine, 0, 0x14, 1);
    machine.write(data, 1, 1);
    assert_eq!(machine.read(data, 1), 1, "device_status");
}

#[test]
fn v17_pci_cfg_accesses_that_fit_nothing_are_ignored_and_read_ones() {
    let machine = Machine::new();
    for (bar, offset, len) in [
        (1, 0x14, 1),
        (6, 0x14, 1),
        (255, 0x14, 1),
        (0, 0x14, 0),
        (0, 0x14, 3),
        (0, 0x10, 8),
        (0, 0x1_0014, 1),
        (0, 0xFFFF_FFFC, 4),
        (0, 0x15, 2),
    ] {
        let data = aim(&machine, bar, offset, len);
        machine.write(data, 4, 1);
        assert_eq!(machine.read(data, 4), 0xFFFF_FFFF, "{bar} {offset:x} {len}");
    }
    let data = aim(&machine, 0, 0x14, 1);
    assert_eq!(machine.read(data, 1), 0, "nothing was written");
    let data = aim(&machine, 0, 0x20, 4);
    machine.write(data, 2, 0xFFFF);
    assert_eq!(machine.read(data, 4), 0, "too little data for the length");
}
