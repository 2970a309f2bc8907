//! Any sequence of accesses of any width to any register: no panic, no endless effect, immutables stay.

use hw::{Effect, Slot, Timer, World};
use proptest::prelude::*;

use crate::driver::{BAR, ECAM, Machine, NET};

/// Something a guest or the world outside does.
#[derive(Debug, Clone)]
enum Act {
    Read(u64, usize),
    Write(u64, usize, u64),
    In(u16, usize),
    Out(u16, usize, u64),
    Wait(u64),
    Input(Vec<u8>),
    Break,
    Button,
    Timer(bool),
    ResetDone(u8),
    NeedsReset(u8),
    Interrupt(u8, u16),
    Config(u8, Vec<u8>),
    Held(u8, u16),
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0_u64..5, 0_u64..0x110).prop_map(|(slot, offset)| ECAM + (slot << 15) + offset),
        4 => (0_u64..3, 0_u64..0x40).prop_map(|(bar, offset)| BAR + bar * 0x1_0000 + offset),
        2 => (0_u64..3, 0_u64..0x1_0000).prop_map(|(bar, offset)| BAR + bar * 0x1_0000 + offset),
        2 => (0_u64..3, 0_u64..0x60).prop_map(|(bar, offset)| BAR + bar * 0x1_0000 + 0x8000 + offset),
        1 => ECAM..ECAM + 0x11_0000,
        1 => any::<u64>(),
    ]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        3 => 0x3F8_u16..0x400,
        3 => 0x70_u16..0x72,
        3 => 0x600_u16..0x60C,
        3 => 0xCF8_u16..0xD00,
        1 => prop::sample::select(vec![0x60_u16, 0x64, 0x80, 0x92]),
        1 => any::<u16>(),
    ]
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => 0_u64..0x100,
        2 => prop::sample::select(vec![0, u64::MAX, BAR, BAR + 0x1_0000, 0x8000_1000, 0x8000_1810, 0x10_0000, 0xFEE0_0000]),
        1 => any::<u64>(),
    ]
}

fn width() -> impl Strategy<Value = usize> {
    prop_oneof![6 => prop::sample::select(vec![1_usize, 2, 4, 8]), 1 => 0_usize..=8]
}

fn act() -> impl Strategy<Value = Act> {
    let io_width = || prop::sample::select(vec![1_usize, 2, 4]);
    prop_oneof![
        4 => (address(), width()).prop_map(|(at, width)| Act::Read(at, width)),
        8 => (address(), width(), value()).prop_map(|(at, width, value)| Act::Write(at, width, value)),
        4 => (port(), io_width()).prop_map(|(port, width)| Act::In(port, width)),
        8 => (port(), io_width(), value()).prop_map(|(port, width, value)| Act::Out(port, width, value)),
        1 => prop_oneof![0_u64..3_000_000_000, any::<u64>()].prop_map(Act::Wait),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Act::Input),
        1 => Just(Act::Break),
        1 => Just(Act::Button),
        1 => any::<bool>().prop_map(Act::Timer),
        1 => (0_u8..5).prop_map(Act::ResetDone),
        1 => (0_u8..5).prop_map(Act::NeedsReset),
        1 => (0_u8..5, 0_u16..4).prop_map(|(slot, queue)| Act::Interrupt(slot, queue)),
        1 => (0_u8..5, prop::collection::vec(any::<u8>(), 0..80)).prop_map(|(slot, bytes)| Act::Config(slot, bytes)),
        1 => (0_u8..5, 0_u16..4).prop_map(|(slot, queue)| Act::Held(slot, queue)),
    ]
}

fn perform(machine: &Machine, act: Act) {
    let (chipset, edge) = (&machine.chipset, &machine.edge);
    match act {
        Act::Read(at, width) => drop(machine.read(at, width)),
        Act::Write(at, width, value) => machine.write(at, width, value),
        Act::In(port, width) => drop(machine.pio_read(port, width)),
        Act::Out(port, width, value) => machine.pio_write(port, width, value),
        Act::Wait(ns) => edge.now_ns.set(edge.now_ns.get().wrapping_add(ns)),
        Act::Input(bytes) => assert!(chipset.serial_input(&bytes, edge) <= bytes.len()),
        Act::Break => chipset.serial_break(edge),
        Act::Button => chipset.power_button(edge),
        Act::Timer(rtc) => chipset.timer(if rtc { Timer::Rtc } else { Timer::Pm }, edge),
        Act::ResetDone(slot) => chipset.reset_done(Slot(slot), edge),
        Act::NeedsReset(slot) => chipset.needs_reset(Slot(slot), edge),
        Act::Interrupt(slot, queue) => chipset.queue_interrupt(Slot(slot), queue, edge),
        Act::Config(slot, bytes) => chipset.set_device_config(Slot(slot), &bytes, edge),
        Act::Held(slot, queue) => edge.held.set(Some((Slot(slot), queue))),
    }
}

/// Vendor and device, class, header type, subsystem, capability pointer and pin of a function.
fn immutables(machine: &Machine) -> Vec<u64> {
    let registers = [(0, 4), (8, 4), (0xE, 1), (0x2C, 4), (0x34, 1), (0x3D, 1), (0x40, 2), (0x44, 4), (0x48, 4)];
    let of_slot = |slot| registers.map(|(offset, width)| machine.read(machine.config(Slot(slot), offset), width));
    (0..4).flat_map(of_slot).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nothing_panics_and_immutables_stay(started in any::<bool>(), acts in prop::collection::vec(act(), 0..200)) {
        let machine = Machine::new();
        let before = immutables(&machine);
        if started {
            machine.start(NET);
            machine.enable_msix(NET);
        }
        let mut ends = 0;
        for act in acts {
            perform(&machine, act);
            let effects = machine.edge.take();
            prop_assert!(effects.len() <= 16, "{} effects of one access", effects.len());
            ends += effects.iter().filter(|effect| matches!(effect, Effect::Reset | Effect::PowerOff)).count();
            for effect in &effects {
                if let Effect::Deadline { at: Some(at), .. } = effect {
                    prop_assert!(*at >= machine.edge.now().monotonic_ns);
                }
            }
        }
        prop_assert!(ends <= 1);
        prop_assert_eq!(immutables(&machine), before);
        let mut buffer = vec![0; 128 * 1024];
        prop_assert!(machine.chipset.serial_output(&mut buffer) <= hw::uart::MAX_OUTPUT);
    }

    #[test]
    fn only_checked_queues_reach_a_back_end(writes in prop::collection::vec((0_u64..0x40, width(), value()), 0..60)) {
        let machine = Machine::new();
        machine.map(NET, BAR);
        machine.set_status(3);
        machine.accept(1 << 32);
        machine.set_status(0xB);
        for (offset, width, value) in writes {
            machine.write(BAR + offset, width, value);
        }
        machine.set_up_queue(1);
        machine.set_status(0xF);
        for effect in machine.edge.take() {
            if let Effect::Activate { activation, .. } = effect {
                prop_assert!(activation.features & 1 << 32 != 0);
                for queue in activation.queues {
                    let inside = |at: u64, len: u64| {
                        at.checked_add(len).is_some_and(|end| end <= 0x1000_0000 || (at >= 0x1_0000_0000 && end <= 0x1_1000_0000))
                    };
                    let size = u64::from(queue.size);
                    prop_assert!(queue.size.is_power_of_two() && queue.size <= 256 && queue.index < 2);
                    prop_assert!(inside(queue.desc, size * 16) && inside(queue.avail, size * 2 + 6) && inside(queue.used, size * 8 + 6));
                }
            }
        }
    }
}
