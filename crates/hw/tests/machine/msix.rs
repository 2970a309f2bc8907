//! Interrupts of a virtio function: MSI-X (class V15), INTx and the ISR.

use hw::virtio::Kind;
use hw::{Delivery, DeviceEffect, Effect, MsiMessage, Slot};

use crate::driver::{BAR, BLK, Machine, NET, PENDING, TABLE, VERSION_1, common, device};

fn message(data: u32) -> MsiMessage {
    MsiMessage { address: 0xFEE0_0000, data }
}

fn delivery(queue: u16, delivery: Delivery) -> Effect {
    Effect::Device(NET, DeviceEffect::Delivery(queue, delivery))
}

/// A started network card with MSI-X on: queue 0 has vector 1, the configuration vector 0; both masked.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.start(NET);
    machine.enable_msix(NET);
    machine.write(BAR + common::CONFIG_VECTOR, 2, 0);
    machine.write(BAR + common::QUEUE_SELECT, 2, 0);
    machine.write(BAR + common::QUEUE_VECTOR, 2, 1);
    machine.edge.take();
    machine
}

#[test]
fn a_queues_delivery_follows_its_vector() {
    let machine = machine();
    machine.open_vector(1, 0x41);
    assert_eq!(machine.edge.take(), vec![delivery(0, Delivery::Msi(message(0x41)))]);
    machine.write(BAR + TABLE + 16 + 12, 4, 1);
    assert_eq!(machine.edge.take(), vec![delivery(0, Delivery::Held)]);
    machine.open_vector(1, 0x42);
    assert_eq!(machine.edge.take(), vec![delivery(0, Delivery::Msi(message(0x42)))]);
    let msix = machine.capability(NET, 17, 0);
    machine.write(machine.config(NET, msix + 2), 2, 0xC000);
    assert_eq!(machine.edge.take(), vec![delivery(0, Delivery::Held)], "the function's mask");
    machine.write(machine.config(NET, msix + 2), 2, 0);
    let off = vec![delivery(0, Delivery::Intx), delivery(1, Delivery::Intx)];
    assert_eq!(machine.edge.take(), off);
}

#[test]
fn v15_a_vector_that_does_not_exist_reads_back_as_none() {
    let machine = machine();
    for vector in [3, 4, 0x7FF, 0xFFFF] {
        machine.write(BAR + common::QUEUE_VECTOR, 2, vector);
        assert_eq!(machine.read(BAR + common::QUEUE_VECTOR, 2), 0xFFFF);
        machine.write(BAR + common::CONFIG_VECTOR, 2, vector);
        assert_eq!(machine.read(BAR + common::CONFIG_VECTOR, 2), 0xFFFF);
    }
    machine.write(BAR + common::QUEUE_VECTOR, 2, 2);
    assert_eq!(machine.read(BAR + common::QUEUE_VECTOR, 2), 2);
}

#[test]
fn v15_table_and_pending_bits_at_their_ends() {
    let machine = machine();
    for offset in [TABLE + 3 * 16, TABLE + 0x3FF8, PENDING + 1, PENDING + 0x3FF8] {
        machine.write(BAR + offset, 8, u64::MAX);
        assert_eq!(machine.read(BAR + offset, 8), 0, "{offset:x}");
    }
    machine.write(BAR + PENDING, 8, u64::MAX);
    assert_eq!(machine.read(BAR + PENDING, 8), 0, "read-only");
    assert_eq!(machine.read(BAR + 0xFFFC, 8), u64::MAX, "past the BAR");
    assert!(machine.edge.take().is_empty());
}

#[test]
fn a_held_call_shows_in_the_pending_bits_of_its_vector() {
    let machine = machine();
    assert_eq!(machine.read(BAR + PENDING, 8), 0);
    machine.edge.held.set(Some((NET, 0)));
    assert_eq!(machine.read(BAR + PENDING, 8), 2);
    machine.open_vector(1, 0x41);
    assert_eq!(machine.read(BAR + PENDING, 8), 0, "delivered");
}

#[test]
fn v15_a_masked_configuration_interrupt_is_delivered_once_when_unmasked() {
    let machine = machine();
    machine.chipset.needs_reset(NET, &machine.edge);
    assert!(machine.edge.take().is_empty());
    assert_eq!(machine.read(BAR + PENDING, 8), 1);
    machine.open_vector(0, 0x30);
    assert_eq!(machine.edge.take(), vec![Effect::Device(NET, DeviceEffect::Signal(message(0x30)))]);
    assert_eq!(machine.read(BAR + PENDING, 8), 0);
    machine.open_vector(0, 0x30);
    assert!(machine.edge.take().is_empty());
}

#[test]
fn intx_is_a_level_that_reading_the_isr_lowers() {
    let machine = Machine::new();
    machine.start(NET);
    machine.edge.take();
    machine.chipset.queue_interrupt(NET, 0, &machine.edge);
    machine.chipset.queue_interrupt(NET, 1, &machine.edge);
    assert_eq!(machine.edge.take(), vec![Effect::Irq { gsi: 11, level: true }]);
    assert_eq!(machine.read(machine.config(NET, 6), 2) & 8, 8, "interrupt status");
    assert_eq!(machine.read(BAR + 0x1000, 1), 1);
    assert_eq!(machine.edge.take(), vec![Effect::Irq { gsi: 11, level: false }]);
    assert_eq!(machine.read(BAR + 0x1000, 1), 0);
}

#[test]
fn intx_disable_and_msix_keep_the_line_low() {
    let machine = Machine::new();
    machine.start(NET);
    machine.write(machine.config(NET, 4), 2, 0x406);
    machine.edge.take();
    machine.chipset.queue_interrupt(NET, 0, &machine.edge);
    assert!(machine.edge.take().is_empty());
    machine.write(machine.config(NET, 4), 2, 0x006);
    assert_eq!(machine.edge.take(), vec![Effect::Irq { gsi: 11, level: true }]);
    machine.enable_msix(NET);
    assert!(machine.edge.take().contains(&Effect::Irq { gsi: 11, level: false }));
}

#[test]
fn a_function_without_a_line_still_has_an_isr() {
    let machine = Machine::new();
    machine.start(BLK);
    machine.edge.take();
    machine.chipset.queue_interrupt(BLK, 0, &machine.edge);
    machine.chipset.needs_reset(BLK, &machine.edge);
    assert!(machine.edge.take().is_empty());
    assert_eq!(machine.read(BAR + 0x1000, 1), 3);
    assert_eq!(machine.read(machine.config(BLK, 0x3D), 1), 0);
}

#[test]
fn functions_that_share_a_line_hold_it_up_together() {
    let of_slot = |_| device(Kind::ENTROPY, 1, &[], Some(10));
    let machine = Machine::with((0..2).map(of_slot).collect());
    let (one, other) = (Slot(1), Slot(2));
    machine.start(one);
    machine.map(one, BAR + 0x1_0000);
    machine.start(other);
    machine.edge.take();
    machine.chipset.queue_interrupt(one, 0, &machine.edge);
    assert_eq!(machine.edge.take(), vec![Effect::Irq { gsi: 10, level: true }]);
    machine.chipset.queue_interrupt(other, 0, &machine.edge);
    assert_eq!(machine.edge.take(), vec![], "it is up");
    assert_eq!(machine.read(BAR + 0x1_1000, 1), 1);
    assert_eq!(machine.edge.take(), vec![], "the other one still asks");
    assert_eq!(machine.read(BAR + 0x1000, 1), 1);
    assert_eq!(machine.edge.take(), vec![Effect::Irq { gsi: 10, level: false }]);
}

#[test]
fn a_reset_of_the_device_lowers_its_line() {
    let machine = Machine::new();
    machine.start(NET);
    machine.chipset.queue_interrupt(NET, 0, &machine.edge);
    machine.edge.take();
    machine.set_status(0);
    machine.chipset.reset_done(NET, &machine.edge);
    assert!(machine.edge.take().contains(&Effect::Irq { gsi: 11, level: false }));
    machine.chipset.queue_interrupt(NET, 0, &machine.edge);
    assert_eq!(machine.edge.take(), vec![], "a call of before the reset");
}

#[test]
fn a_wide_write_starts_the_device_and_sets_its_vector() {
    let machine = Machine::new();
    machine.map(NET, BAR);
    machine.set_status(3);
    machine.accept(VERSION_1);
    machine.set_status(0xB);
    machine.set_up_queue(0);
    machine.edge.take();
    // Status, generation, queue_select, queue_size and queue_msix_vector at once.
    machine.write(BAR + common::STATUS, 8, 0x0F | 1 << 48);
    assert_eq!(machine.read(BAR + common::QUEUE_VECTOR, 2), 1);
    let activated =
        machine.edge.take().iter().any(|effect| matches!(effect, Effect::Device(NET, DeviceEffect::Activate(_))));
    assert!(activated, "DRIVER_OK counts though the same write sets a vector");
}

#[test]
fn an_interrupt_goes_by_the_vector_of_its_own() {
    let machine = Machine::new();
    machine.start(NET);
    machine.enable_msix(NET);
    machine.open_vector(0, 0x41);
    machine.open_vector(1, 0x42);
    machine.write(BAR + common::QUEUE_VECTOR, 2, 0);
    machine.write(BAR + common::CONFIG_VECTOR, 2, 1);
    machine.edge.take();
    machine.chipset.queue_interrupt(NET, 0, &machine.edge);
    assert_eq!(machine.edge.take(), vec![Effect::Device(NET, DeviceEffect::Signal(message(0x41)))]);
    machine.chipset.set_device_config(NET, &[9], &machine.edge);
    assert_eq!(machine.edge.take(), vec![Effect::Device(NET, DeviceEffect::Signal(message(0x42)))]);
    assert_eq!(machine.read(BAR + 0x1000, 1), 0, "the ISR is of INTx alone");
}
