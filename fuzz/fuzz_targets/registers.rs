//! A guest that accesses any port and address, and a world that does anything meanwhile, a restore from changed state too: no
//! panic, few effects, and what a back end is started with was checked.
#![no_main]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use hw::virtio::{Device, Kind};
use hw::{Chipset, DeviceEffect, Edge, Effect, Now, Setup, Slot, Timer, World};
use libfuzzer_sys::fuzz_target;
use vmd_fuzz::Script;

const WINDOW: std::ops::Range<u64> = 0xC000_0000..0xE000_0000;
const ECAM: u64 = 0xE000_0000;
const APICS: u64 = 0xFEC0_0000;
const RAM: u64 = 0x1000_0000;
/// Most effects of one access: a message and a change of delivery for each queue, and a few.
const MAX_EFFECTS: usize = 16;

/// The byte of a script that has the machine restored.
const RESTORE: u8 = 0xEE;

#[derive(Default)]
struct Recorder {
    effects: RefCell<Vec<Effect>>,
    ns: Cell<u64>,
}

impl Edge for Recorder {
    fn perform(&self, effect: Effect) {
        self.effects.borrow_mut().push(effect);
    }
}

impl World for Recorder {
    fn now(&self) -> Now {
        let ns = self.ns.get();
        Now { monotonic_ns: ns, realtime_ns: ns.wrapping_add(1_700_000_000_000_000_000) }
    }
    fn call_pending(&self, _: Slot, queue: u16) -> bool {
        queue == 0
    }
    fn read_memory(&self, _: u64, _: &mut [u8]) -> bool {
        false
    }
}

fuzz_target!(|input: &[u8]| {
    let world = Recorder::default();
    let mut chipset = Chipset::new(setup(world.now())).expect("three devices");
    // Where a guest has put the BARs, so that few bytes reach a register.
    for slot in 1..4u64 {
        let bar = WINDOW.start + (slot << 16);
        chipset.mmio_write(ECAM + (slot << 15) + 0x10, &bar.to_le_bytes()[..4], &world);
        chipset.mmio_write(ECAM + (slot << 15) + 4, &[6, 0], &world);
    }
    let (mut script, mut ends, mut lines, mut active) = (Script(input), 0, BTreeMap::new(), [false; 4]);
    let negotiated = script.byte();
    (1..4).filter(|slot| negotiated & 1 << slot != 0).for_each(|slot| negotiate(&chipset, slot, &world));
    while !script.is_empty() {
        if script.0.first() == Some(&RESTORE) {
            if let Some(restored) = restore(&chipset, &mut script, &world) {
                chipset = restored;
                (lines, active) = (BTreeMap::new(), [false; 4]);
                let resets = |effect: &Effect| {
                    if let Effect::Device(slot, DeviceEffect::Reset) = effect { Some(slot.0) } else { None }
                };
                world.effects.borrow().iter().filter_map(resets).for_each(|slot| active[usize::from(slot)] = true);
            }
        }
        act(&chipset, &mut script, &world);
        let effects = world.effects.take();
        assert!(effects.len() <= MAX_EFFECTS, "{effects:?}");
        for effect in effects {
            check(&effect, &mut lines, &mut active, &mut ends);
        }
    }
    assert!(ends <= 1, "a machine ends once");
});

fn setup(now: Now) -> Setup {
    let device = |kind, queues, irq| Device {
        kind,
        features: u64::MAX,
        queues: vec![256; queues],
        config: vec![1; 12],
        irq_line: Some(irq),
    };
    let devices = vec![device(Kind::ENTROPY, 1, 10), device(Kind::NETWORK, 2, 11), device(Kind::BLOCK, 1, 11)];
    Setup { ram: std::iter::once(0..RAM).collect(), vcpus: 1, mmio: WINDOW, ecam: ECAM, devices, vmmci: Some(10), now }
}

/// A machine that goes on from the state of this one, in which the script has changed some bytes; `None` if it is refused.
fn restore(chipset: &Chipset, script: &mut Script<'_>, world: &Recorder) -> Option<Chipset> {
    let mut saved = chipset.save(world);
    let untouched = saved.clone();
    script.byte();
    for _ in 0..script.byte() % 4 {
        let chip = usize::from(script.byte()) % saved.chips.len();
        let (at, value, bytes) = (usize::from(script.word()), script.byte(), &mut saved.chips[chip].state.bytes);
        if !bytes.is_empty() {
            let at = at % bytes.len();
            bytes[at] = value;
        }
    }
    let restored = Chipset::restore(setup(world.now()), &saved, world);
    if let Err(error) = &restored {
        assert_ne!(saved, untouched, "{error}");
    }
    restored.ok()
}

/// A driver's way to the last step before DRIVER_OK, which takes more luck than a fuzzer has.
fn negotiate(chipset: &Chipset, slot: u64, world: &Recorder) {
    let bar = WINDOW.start + (slot << 16);
    let write = |at: u64, width: usize, value: u64| chipset.mmio_write(bar + at, &value.to_le_bytes()[..width], world);
    write(0x14, 1, 3); // status: ACKNOWLEDGE, DRIVER
    write(0x08, 8, 1 | 1 << 32); // the upper word of features: VERSION_1
    write(0x14, 1, 0xB); // and FEATURES_OK
    for (register, address) in [(0x20, 0x10_0000), (0x28, 0x10_2000), (0x30, 0x10_3000)] {
        write(register, 8, address);
    }
    write(0x1C, 2, 1); // queue_enable
}

fn act(chipset: &Chipset, script: &mut Script<'_>, world: &Recorder) {
    let (what, slot) = (script.byte(), Slot(script.byte() % 5));
    let width = [1, 2, 4, 8][usize::from(what >> 6)];
    let mut data = [0; 8];
    match what % 16 {
        0 => chipset.mmio_read(address(script, slot), &mut data[..width], world),
        1..=4 => {
            let (at, value) = (address(script, slot), script.number());
            chipset.mmio_write(at, &value.to_le_bytes()[..width], world);
        }
        5 => chipset.pio_read(port(script), &mut data[..width.min(4)], world),
        6..=8 => {
            let (port, value) = (port(script), script.number());
            chipset.pio_write(port, &value.to_le_bytes()[..width.min(4)], world);
        }
        9 => world.ns.set(world.ns.get().saturating_add(script.number() << 10)),
        10 => chipset.timer([Timer::Rtc, Timer::Pm, Timer::Vmmci][usize::from(slot.0 % 3)], world),
        11 => assert!(chipset.serial_input(&[1; 20], world) <= 16),
        12 if slot.0 == 0 => chipset.ask_to_stop(world),
        12 => chipset.power_button(world),
        13 => chipset.reset_done(slot, world),
        14 => chipset.needs_reset(slot, world),
        _ => chipset.queue_interrupt(slot, script.word() % 4, world),
    }
}

fn address(script: &mut Script<'_>, slot: Slot) -> u64 {
    let (area, offset) = (script.byte() % 8, u64::from(script.word()));
    let slot = u64::from(slot.0);
    match area {
        0 => ECAM + (slot << 15) + offset % 0x1000,
        1 | 2 => WINDOW.start + (slot << 16) + offset % 0x40,
        3 => WINDOW.start + (slot << 16) + offset,
        4 => WINDOW.start + (slot << 16) + 0x8000 + offset % 0x60,
        5 => ECAM + (slot << 15) + 0x40 + offset % 0x80,
        _ => script.number(),
    }
}

fn port(script: &mut Script<'_>) -> u16 {
    let offset = script.word();
    match script.byte() % 8 {
        0 => 0x3F8 + offset % 8,
        1 | 2 => 0x70 + offset % 2,
        3 => 0x600 + offset % 12,
        4 | 5 => 0xCF8 + offset % 8,
        6 if offset % 5 == 0 => 0x1000 + offset % 44,
        6 => [0x60, 0x64, 0x80, 0x92][usize::from(offset % 4)],
        _ => offset,
    }
}

fn check(effect: &Effect, lines: &mut BTreeMap<u32, bool>, active: &mut [bool; 4], ends: &mut u32) {
    match effect {
        Effect::Reset | Effect::PowerOff | Effect::Overdue => *ends += 1,
        // A line that two share is told of once.
        Effect::Irq { gsi, level } if [10, 11].contains(gsi) => {
            assert_ne!(lines.insert(*gsi, *level).unwrap_or(false), *level, "line {gsi} is {level} already");
        }
        Effect::Device(slot, DeviceEffect::Activate(activation)) => {
            assert!(!std::mem::replace(&mut active[usize::from(slot.0)], true), "started twice");
            assert!(activation.features & 1 << 32 != 0);
            for queue in &activation.queues {
                let inside = |at: u64, len: u64| at.checked_add(len).is_some_and(|end| at > 0 && end <= RAM);
                let size = u64::from(queue.size);
                assert!(queue.size.is_power_of_two() && queue.size <= 256);
                assert!(inside(queue.desc, size * 16));
                assert!(inside(queue.avail, size * 2 + 6) && inside(queue.used, size * 8 + 6));
            }
        }
        Effect::Device(slot, DeviceEffect::Reset) => {
            assert!(std::mem::replace(&mut active[usize::from(slot.0)], false), "stopped without a start");
        }
        Effect::Device(_, DeviceEffect::NotifyBase(Some(base))) => {
            assert!((RAM..APICS).contains(base) && !(ECAM..ECAM + (1 << 20)).contains(base), "{base:x}");
        }
        _ => {}
    }
}
