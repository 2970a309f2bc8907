//! Saved state that an enemy wrote, beyond what chance changes: a bit of each byte, numbers and lengths beyond all bounds, BARs
//! that lie where none may. What comes of it is a refusal, or a machine that behaves.

use hw::{DeviceEffect, Effect, SavedChipset, Slot, Timer};

use crate::acts::{Act, perform};
use crate::driver::{BAR, ECAM, Machine, NET, PORTS};

/// Much of it is not as after a reset: a card that runs, queued output, a clock with an alarm, a latched command.
fn busy() -> Machine {
    let machine = Machine::new();
    machine.start(NET);
    machine.start_vmmci(7);
    machine.enable_msix(NET);
    machine.open_vector(0, 0x41);
    for (port, value) in [(0x3F9, 1), (0x3FA, 1), (0x3FF, 0xA5), (0x64, 0xD1), (0x92, 2)] {
        machine.pio_write(port, 1, value);
    }
    b"output".iter().for_each(|byte| machine.pio_write(0x3F8, 1, u64::from(*byte)));
    machine.pio_write(0x602, 2, 0x101);
    [(1, 0xFF), (3, 0xFF), (5, 0xFF), (0xB, 0x22)].iter().for_each(|(index, value)| {
        perform(&machine, &Act::Clock(*index, Some(*value)));
    });
    machine.chipset.serial_input(b"input", &machine.edge);
    machine.chipset.power_button(&machine.edge);
    machine.chipset.ask_to_stop(&machine.edge);
    machine
}

/// A bit of everything that a guest and the world do. The effects of each are few.
fn behaves(machine: &Machine) {
    let ports = [0x60, 0x64, 0x70, 0x71, 0x92, 0x600, 0x602, 0x604, 0x608, 0xCF8, 0xCF9, 0xCFC]
        .into_iter()
        .chain(0x3F8..0x400)
        .chain((PORTS..PORTS + 40).step_by(4))
        .chain([PORTS + 18]);
    let registers = (0..0x14_u64).map(|register| register * 4);
    let addresses: Vec<u64> = registers.flat_map(|at| [BAR + at, BAR + 0x8000 + at, ECAM + (2 << 15) + at]).collect();
    let clock = [0, 2, 4, 7, 8, 9, 0xA, 0xB, 0xC, 0x32].map(|index| Act::Clock(index, None));
    let mut acts: Vec<Act> =
        ports.flat_map(|port| [Act::In(port, 4), Act::Out(port, 1, 0x21), Act::In(port, 1)]).collect();
    acts.extend(addresses.iter().flat_map(|at| [Act::Read(*at, 4), Act::Write(*at, 4, 0x8000_0001)]));
    acts.extend(clock);
    for slot in 0..5 {
        acts.extend([
            Act::Interrupt(slot, 0),
            Act::NeedsReset(slot),
            Act::ResetDone(slot),
            Act::Config(slot, vec![7; 9]),
        ]);
    }
    let timers = [Timer::Rtc, Timer::Pm, Timer::Vmmci].map(Act::Timer);
    acts.extend(timers.clone().into_iter().chain([Act::Wait(u64::MAX / 2)]).chain(timers));
    assert!(machine.edge.take().len() <= 16);
    for act in &acts {
        perform(machine, act);
        assert!(machine.edge.take().len() <= 16, "{act:?}");
    }
    let again = machine.chipset.save(&machine.edge);
    assert!(Machine::restored(&again, &machine.edge, 0).is_ok(), "what it saves is a state");
}

/// Whether these bytes were taken for a machine.
fn taken(bytes: &[u8], from: &Machine) -> bool {
    let Ok(saved) = postcard::from_bytes::<SavedChipset>(bytes) else { return false };
    let Ok(machine) = Machine::restored(&saved, &from.edge, 0) else { return false };
    behaves(&machine);
    true
}

#[test]
fn a_flipped_bit_of_any_byte_is_refused_or_gives_a_machine_that_behaves() {
    let from = busy();
    let bytes = postcard::to_stdvec(&from.chipset.save(&from.edge)).unwrap();
    assert!(taken(&bytes, &from));
    let (mut refused, mut ran) = (0, 0);
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        if taken(&bytes, &from) { ran += 1 } else { refused += 1 }
    }
    assert!(refused > 100 && ran > 100, "{refused} refused, {ran} ran");
}

/// The largest number that the format has, in place of each byte: lengths, times, sizes, addresses. And all cut short there.
#[test]
fn a_number_beyond_all_bounds_is_refused_or_gives_a_machine_that_behaves() {
    const LARGEST: [u8; 10] = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1];
    let from = busy();
    let saved = from.chipset.save(&from.edge);
    let bytes = postcard::to_stdvec(&saved).unwrap();
    for at in 0..bytes.len() {
        let with = [&bytes[..at], &LARGEST, &bytes[at + 1..]].concat();
        taken(&with, &from);
        assert!(!taken(&bytes[..at], &from), "cut at {at}");
    }
    let mut ran = 0;
    for (chip, at) in
        (0..saved.chips.len()).flat_map(|chip| (0..saved.chips[chip].state.bytes.len()).map(move |at| (chip, at)))
    {
        for len in [3, 5, 10] {
            let mut saved = saved.clone();
            let number = LARGEST[..len - 1].iter().copied().chain([if len == 10 { 1 } else { 3 }]);
            saved.chips[chip].state.bytes.splice(at..=at, number);
            if let Ok(machine) = Machine::restored(&saved, &from.edge, 0) {
                behaves(&machine);
                ran += 1;
            }
        }
    }
    assert!(ran > 20, "{ran}");
}

#[test]
fn bars_that_lie_over_each_other_or_elsewhere_decode_as_if_a_guest_had_moved_them() {
    let machine = Machine::new();
    (1..4).for_each(|slot| machine.map(Slot(slot), BAR + u64::from(slot) * 0x1_0000));
    let saved = machine.chipset.save(&machine.edge);
    machine.edge.take();
    for base in [BAR, 0, 0xFEE0_0000, 0xE000_0000, 0xFFFF_0000] {
        let mut saved = saved.clone();
        for chip in saved.chips.iter_mut().filter(|chip| chip.name.starts_with("virtio-")) {
            let at = chip.state.bytes.windows(4).position(|bytes| bytes[0] == 0 && bytes[1] == 0 && bytes[3] == 0xC0);
            chip.state.bytes[at.unwrap()..][..4].copy_from_slice(&u32::try_from(base).unwrap().to_le_bytes());
        }
        let restored = Machine::restored(&saved, &machine.edge, 0).unwrap();
        (1..4).for_each(|slot| machine.map(Slot(slot), base));
        let notify = |effects: Vec<Effect>| {
            let mut bases = std::collections::BTreeMap::new();
            for effect in effects {
                if let Effect::Device(slot, DeviceEffect::NotifyBase(base)) = effect {
                    bases.insert(slot, base);
                }
            }
            bases.retain(|_, base| base.is_some());
            bases
        };
        assert_eq!(notify(restored.edge.take()), notify(machine.edge.take()), "{base:#x}");
        assert_eq!(restored.read(base, 4), machine.read(base, 4));
        (1..4).for_each(|slot| machine.map(Slot(slot), BAR + u64::from(slot) * 0x1_0000));
        machine.edge.take();
    }
}
