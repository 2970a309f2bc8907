//! Common configuration: openbsd/devices.md, 1.6 and classes V2, V10 to V14, V20.

use hw::{DeviceEffect, Effect, QueueSetup};

use crate::driver::{BAR, BLK, Machine, NET, NOTIFY, VERSION_1, common};

fn mapped() -> Machine {
    let machine = Machine::new();
    machine.map(NET, BAR);
    machine.edge.take();
    machine
}

fn started() -> Machine {
    let machine = Machine::new();
    machine.start(NET);
    machine.edge.take();
    machine
}

fn offered(machine: &Machine) -> u64 {
    (0..2).fold(0, |features, select| {
        machine.write(BAR + common::DEVICE_FEATURE_SELECT, 4, select);
        features | machine.read(BAR + common::DEVICE_FEATURE, 4) << (32 * select)
    })
}

#[test]
fn a_driver_starts_the_device() {
    let machine = Machine::new();
    machine.start(NET);
    let effects = machine.edge.take();
    let Some(Effect::Device(NET, DeviceEffect::Activate(activation))) = effects.last() else { panic!("{effects:?}") };
    assert_eq!(activation.features, VERSION_1);
    let queue = QueueSetup { index: 0, size: 256, desc: 0x10_0000, avail: 0x10_2000, used: 0x10_3000 };
    assert_eq!(activation.queues, vec![queue], "queue 1 was not enabled");
    assert_eq!(machine.status(), 0xF);
}

#[test]
fn only_features_that_the_transport_can_do_are_offered() {
    let offered = offered(&mapped());
    for bit in [26, 30, 33, 34, 36, 37, 38, 39, 40] {
        assert_eq!(offered & 1 << bit, 0, "bit {bit}");
    }
    for bit in [0, 5, 23, 28, 29, 32, 35, 41, 63] {
        assert_ne!(offered & 1 << bit, 0, "bit {bit}");
    }
    let machine = mapped();
    machine.write(BAR + common::DEVICE_FEATURE_SELECT, 4, 2);
    assert_eq!(machine.read(BAR + common::DEVICE_FEATURE, 4), 0);
}

#[test]
fn v12_features_ok_needs_version_1_and_offered_bits() {
    for bad in [0, 1, VERSION_1 | 1 << 34, VERSION_1 | 1 << 30] {
        let machine = mapped();
        machine.set_status(3);
        machine.accept(bad);
        machine.set_status(0xB);
        assert_eq!(machine.status(), 3, "{bad:x}");
        machine.set_status(0xF);
        assert_eq!(machine.status(), 3, "no DRIVER_OK without FEATURES_OK");
        machine.accept(VERSION_1);
        machine.set_status(0xB);
        assert_eq!(machine.status(), 0xB, "the driver may try again");
        assert!(machine.edge.take().is_empty());
    }
}

#[test]
fn v12_features_are_fixed_by_features_ok() {
    let machine = mapped();
    machine.set_status(3);
    machine.accept(VERSION_1 | 1);
    machine.accept(VERSION_1);
    machine.set_status(0xB);
    machine.accept(VERSION_1 | 2);
    machine.set_up_queue(0);
    machine.set_status(0xF);
    let effects = machine.edge.take();
    let Some(Effect::Device(_, DeviceEffect::Activate(activation))) = effects.last() else { panic!("{effects:?}") };
    assert_eq!(activation.features, VERSION_1, "a word is replaced, not added to");
}

#[test]
fn status_bits_come_in_order_and_stay() {
    let machine = mapped();
    machine.accept(VERSION_1);
    machine.set_status(8);
    assert_eq!(machine.status(), 0, "FEATURES_OK before DRIVER");
    machine.set_status(1);
    machine.set_status(2);
    assert_eq!(machine.status(), 3, "bits are only added");
    machine.set_status(0x40);
    assert_eq!(machine.status(), 3, "DEVICE_NEEDS_RESET is the device's");
    machine.set_status(0x80);
    machine.set_status(0xF);
    assert_eq!(machine.status(), 0x8B, "a driver that has given up does not start");
}

#[test]
fn v2_a_queue_that_does_not_exist_reads_zero_and_takes_nothing() {
    let machine = started();
    for queue in [2, 3, 0xFFFF] {
        machine.write(BAR + common::QUEUE_SELECT, 2, queue);
        for offset in common::QUEUE_SIZE..0x3C {
            machine.write(BAR + offset, 1, 0xFF);
            assert_eq!(machine.read(BAR + offset, 1), 0, "queue {queue} offset {offset:x}");
        }
    }
    machine.edge.take();
    for queue in [1, 2, 3, 511, 1023] {
        machine.write(BAR + NOTIFY + queue * 4, 2, queue);
    }
    assert!(machine.edge.take().is_empty(), "queue 1 is not enabled, the others do not exist");
    machine.write(BAR + NOTIFY, 2, 0xFFFF);
    assert_eq!(machine.edge.take(), vec![Effect::Device(NET, DeviceEffect::Notify(0))], "the address says which");
}

#[test]
fn v10_a_queue_that_is_not_valid_stays_disabled() {
    let good = [(common::QUEUE_DESC, 0x10_0000), (common::QUEUE_DRIVER, 0x10_2000), (common::QUEUE_DEVICE, 0x10_3000)];
    let bad = [
        (common::QUEUE_SIZE, 0),
        (common::QUEUE_SIZE, 3),
        (common::QUEUE_SIZE, 1025),
        (common::QUEUE_SIZE, 32768),
        (common::QUEUE_DESC, 0),
        (common::QUEUE_DESC, 0x10_0008),
        (common::QUEUE_DESC, 0x0FFF_FFF0),
        (common::QUEUE_DRIVER, 0x10_2001),
        (common::QUEUE_DRIVER, 0xC000_0000),
        (common::QUEUE_DEVICE, 0x10_3002),
        (common::QUEUE_DEVICE, !3),
    ];
    for (register, value) in bad {
        let machine = mapped();
        for (at, address) in good {
            machine.write(BAR + at, 8, address);
        }
        machine.write(BAR + register, if register == common::QUEUE_SIZE { 2 } else { 8 }, value);
        machine.write(BAR + common::QUEUE_ENABLE, 2, 1);
        assert_eq!(machine.read(BAR + common::QUEUE_ENABLE, 2), 0, "{register:x} {value:x}");
    }
}

#[test]
fn v10_an_enabled_queue_does_not_change() {
    let machine = mapped();
    machine.set_up_queue(0);
    machine.write(BAR + common::QUEUE_SIZE, 2, 16);
    machine.write(BAR + common::QUEUE_DESC, 8, 0x20_0000);
    machine.write(BAR + common::QUEUE_ENABLE, 2, 0);
    machine.write(BAR + common::QUEUE_ENABLE, 2, 1);
    assert_eq!(machine.read(BAR + common::QUEUE_SIZE, 2), 256);
    assert_eq!(machine.read(BAR + common::QUEUE_DESC, 8), 0x10_0000);
    assert_eq!(machine.read(BAR + common::QUEUE_ENABLE, 2), 1);
}

#[test]
fn queues_are_fixed_by_driver_ok() {
    let machine = started();
    machine.set_up_queue(1);
    assert_eq!(machine.read(BAR + common::QUEUE_ENABLE, 2), 0);
    assert_eq!(machine.read(BAR + common::QUEUE_DESC, 8), 0);
}

#[test]
fn v11_notifications_count_only_while_the_device_runs() {
    let machine = mapped();
    let notify = |machine: &Machine| {
        machine.edge.take();
        machine.write(BAR + NOTIFY, 2, 0);
        machine.edge.take().contains(&Effect::Device(NET, DeviceEffect::Notify(0)))
    };
    assert!(!notify(&machine));
    machine.set_status(3);
    machine.accept(VERSION_1);
    machine.set_status(0xB);
    machine.set_up_queue(0);
    assert!(!notify(&machine), "before DRIVER_OK");
    machine.set_status(0xF);
    assert!(notify(&machine));
    machine.chipset.needs_reset(NET, &machine.edge);
    assert!(!notify(&machine), "after NEEDS_RESET");
    machine.set_status(0);
    assert!(!notify(&machine), "while the reset is under way");
    machine.chipset.reset_done(NET, &machine.edge);
    assert!(!notify(&machine));
}

#[test]
fn needs_reset_goes_by_a_reset_alone() {
    let machine = started();
    machine.chipset.needs_reset(NET, &machine.edge);
    assert_eq!(machine.status(), 0x4F);
    assert_eq!(machine.read(BAR + 0x1000, 1), 2, "told by a configuration interrupt");
    machine.set_status(0xF);
    assert_eq!(machine.status(), 0x4F);
    machine.set_status(0);
    machine.chipset.reset_done(NET, &machine.edge);
    assert_eq!(machine.status(), 0);
}

#[test]
fn v20_a_reset_is_done_when_the_back_end_has_stopped() {
    let machine = started();
    machine.set_status(0);
    assert_eq!(machine.edge.take(), vec![Effect::Device(NET, DeviceEffect::Reset)]);
    assert_ne!(machine.status(), 0, "requests may still be under way");
    for _ in 0..3 {
        machine.set_status(0);
        machine.set_status(3);
        machine.set_up_queue(0);
    }
    assert!(machine.edge.take().is_empty(), "a storm asks once");
    machine.chipset.reset_done(NET, &machine.edge);
    assert_eq!(machine.status(), 0);
    machine.write(BAR + common::QUEUE_SELECT, 2, 0);
    assert_eq!(machine.read(BAR + common::QUEUE_ENABLE, 2), 0);
    machine.start(NET);
    assert!(matches!(machine.edge.take().last(), Some(Effect::Device(_, DeviceEffect::Activate(_)))));
}

#[test]
fn v20_answers_of_a_back_end_at_the_wrong_time_change_nothing() {
    let machine = mapped();
    machine.chipset.reset_done(NET, &machine.edge);
    machine.chipset.needs_reset(NET, &machine.edge);
    machine.chipset.queue_interrupt(NET, 0, &machine.edge);
    assert_eq!((machine.status(), machine.read(BAR + 0x1000, 1)), (0, 0));
    machine.start(NET);
    machine.chipset.reset_done(NET, &machine.edge);
    assert_eq!(machine.status(), 0xF);
    machine.chipset.queue_interrupt(NET, 2, &machine.edge);
    assert_eq!(machine.read(BAR + 0x1000, 1), 0, "queue 2 does not exist");
}

#[test]
fn a_reset_before_driver_ok_is_done_at_once() {
    let machine = mapped();
    machine.set_status(3);
    machine.set_up_queue(0);
    machine.write(BAR + common::CONFIG_VECTOR, 2, 1);
    machine.set_status(0);
    assert_eq!(machine.status(), 0);
    assert_eq!(machine.read(BAR + common::QUEUE_ENABLE, 2), 0);
    assert_eq!(machine.read(BAR + common::CONFIG_VECTOR, 2), 0xFFFF);
    assert!(machine.edge.take().is_empty());
}

#[test]
fn v13_device_configuration_at_its_end_and_at_any_width() {
    let machine = Machine::new();
    machine.map(BLK, BAR);
    assert_eq!(machine.read(BAR + 0x2000, 8), 0x0807_0605_0403_0201);
    assert_eq!(machine.read(BAR + 0x2003, 2), 0x0504, "unaligned");
    assert_eq!(machine.read(BAR + 0x2007, 4), 8, "across the end");
    for offset in [8, 0xFF, 0xFFF] {
        assert_eq!(machine.read(BAR + 0x2000 + offset, 1), 0);
    }
    machine.write(BAR + 0x2000, 8, u64::MAX);
    assert_eq!(machine.read(BAR + 0x2000, 8), 0x0807_0605_0403_0201, "read-only");
}

#[test]
fn v13_registers_are_served_at_any_width() {
    let machine = mapped();
    machine.write(BAR + common::DEVICE_FEATURE_SELECT, 4, 1);
    let whole = machine.read(BAR + common::DEVICE_FEATURE, 4);
    let bytes = (0..4).map(|lane| machine.read(BAR + common::DEVICE_FEATURE + lane, 1) << (8 * lane));
    assert_eq!(bytes.sum::<u64>(), whole);
    for lane in 0..8 {
        machine.write(BAR + common::QUEUE_DESC + lane, 1, 0x10 + lane);
    }
    assert_eq!(machine.read(BAR + common::QUEUE_DESC, 8), 0x1716_1514_1312_1110);
    machine.write(BAR + common::NUM_QUEUES, 2, 77);
    machine.write(BAR + common::GENERATION, 1, 77);
    assert_eq!(machine.read(BAR + common::NUM_QUEUES, 2), 2);
    assert_eq!(machine.read(BAR + common::GENERATION, 1), 0);
}

#[test]
fn v14_the_generation_changes_with_the_configuration() {
    let machine = started();
    let before = machine.read(BAR + common::GENERATION, 1);
    machine.chipset.set_device_config(NET, &[2, 0, 0, 0, 0, 1], &machine.edge);
    assert_eq!(machine.read(BAR + common::GENERATION, 1), before, "the same bytes");
    machine.chipset.set_device_config(NET, &[2, 0, 0, 0, 0, 2, 9, 9], &machine.edge);
    assert_ne!(machine.read(BAR + common::GENERATION, 1), before);
    assert_eq!(machine.read(BAR + 0x2000, 8), 0x0200_0000_0002, "its length stays");
    assert_eq!(machine.read(BAR + 0x1000, 1), 2);
}
