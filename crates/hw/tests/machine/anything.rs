//! Any sequence of accesses of any width to any register: no panic, no endless effect, immutables stay.

use hw::{DeviceEffect, Effect, Slot, World};
use proptest::prelude::*;

use crate::acts::{Act, act, perform, value, width};
use crate::driver::{BAR, Machine, NET};

/// Vendor and device, class, header type, subsystem, capability pointer and pin of a function.
fn immutables(machine: &Machine) -> Vec<u64> {
    let registers = [(0, 4), (8, 4), (0xE, 1), (0x2C, 4), (0x34, 1), (0x3D, 1), (0x40, 2), (0x44, 4), (0x48, 4)];
    let of_slot = |slot| registers.map(|(offset, width)| machine.read(machine.config(Slot(slot), offset), width));
    (0..5).flat_map(of_slot).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nothing_panics_and_immutables_stay(started in any::<bool>(), acts in prop::collection::vec(act(), 0..200)) {
        let machine = Machine::new();
        let before = immutables(&machine);
        if started {
            machine.start(NET);
            machine.start_vmmci(7);
            machine.enable_msix(NET);
            machine.edge.take();
        }
        let mut ends = 0;
        for act in acts {
            let input = if let Act::Input(bytes) = &act { bytes.len() as u64 } else { u64::MAX };
            prop_assert!(perform(&machine, &act) <= input, "no more input is taken than there is");
            let effects = machine.edge.take();
            prop_assert!(effects.len() <= 16, "{} effects of one access", effects.len());
            ends += effects.iter().filter(|effect| matches!(effect, Effect::Reset | Effect::PowerOff | Effect::Overdue)).count();
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
            if let Effect::Device(_, DeviceEffect::Activate(activation)) = effect {
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
