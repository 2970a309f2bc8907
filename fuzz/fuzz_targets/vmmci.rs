//! A guest that accesses vmmci's ports and its configuration space, and a host whose clocks go on and step: no panic, few
//! effects, each end once, and no guest puts off its end by anything that it does. What is saved is a state.
#![no_main]

use std::cell::{Cell, RefCell};

use hw::{Chipset, Edge, Effect, Now, Setup, Slot, Timer, World, vmmci};
use libfuzzer_sys::fuzz_target;
use vmd_fuzz::Script;

const ECAM: u64 = 0xE000_0000;
/// The function, where there is no other device.
const CONFIG: u64 = ECAM + (1 << 15);
/// Most effects of one access: a line, a deadline, an end; a timer may change each twice.
const MAX_EFFECTS: usize = 6;

#[derive(Default)]
struct Host {
    effects: RefCell<Vec<Effect>>,
    monotonic_ns: Cell<u64>,
    realtime_ns: Cell<u64>,
}

impl Edge for Host {
    fn perform(&self, effect: Effect) {
        self.effects.borrow_mut().push(effect);
    }
}

impl World for Host {
    fn now(&self) -> Now {
        Now { monotonic_ns: self.monotonic_ns.get(), realtime_ns: self.realtime_ns.get() }
    }
    fn call_pending(&self, _: Slot, _: u16) -> bool {
        false
    }
    fn read_memory(&self, _: u64, _: &mut [u8]) -> bool {
        false
    }
}

fuzz_target!(|input: &[u8]| {
    let host = Host::default();
    let chipset = Chipset::new(setup(host.now())).expect("one function");
    chipset.mmio_write(CONFIG + 4, &[1, 0], &host);
    let (mut script, mut course) = (Script(input), Course::default());
    while !script.is_empty() {
        if act(&chipset, &mut script, &host) {
            course.asked.get_or_insert(host.monotonic_ns.get());
        }
        course.hear(&host);
        ring(&chipset, &host, &mut course);
    }
    let saved = chipset.save(&host);
    let restored = Chipset::restore(setup(host.now()), &saved, &host).expect("what it saves is a state");
    assert_eq!(restored.save(&host), saved);
});

fn setup(now: Now) -> Setup {
    let (mmio, ram) = (0xC000_0000..ECAM, std::iter::once(0..0x1000_0000).collect());
    Setup { ram, vcpus: 1, mmio, ecam: ECAM, devices: Vec::new(), vmmci: Some(10), now }
}

#[derive(Default)]
struct Course {
    deadline: Option<u64>,
    line: bool,
    ended: bool,
    /// When its driver was first asked to stop.
    asked: Option<u64>,
}

impl Course {
    fn hear(&mut self, host: &Host) {
        let effects = host.effects.take();
        assert!(effects.len() <= MAX_EFFECTS, "{effects:?}");
        for effect in effects {
            match effect {
                Effect::Deadline { timer: Timer::Vmmci, at } => self.deadline = at,
                Effect::Irq { gsi: 10, level } => {
                    assert_ne!(std::mem::replace(&mut self.line, level), level);
                }
                Effect::PowerOff | Effect::Overdue => assert!(!std::mem::replace(&mut self.ended, true)),
                Effect::Irq { .. } => {} // the power button's
                other => panic!("{other:?}"),
            }
        }
        let late = self.asked.is_some_and(|at| host.monotonic_ns.get() > at + vmmci::SHORT_NS + vmmci::LONG_NS);
        assert!(self.ended || !late || self.deadline.is_some_and(|at| at <= host.monotonic_ns.get()), "put off");
    }
}

/// The timer of a host that is never late.
fn ring(chipset: &Chipset, host: &Host, course: &mut Course) {
    let now = host.monotonic_ns.get();
    while let Some(at) = course.deadline.filter(|at| *at <= now) {
        course.deadline = None;
        host.monotonic_ns.set(at);
        chipset.timer(Timer::Vmmci, host);
        course.hear(host);
    }
    host.monotonic_ns.set(now);
}

/// Does something; whether that was to ask a driver that listens to stop.
fn act(chipset: &Chipset, script: &mut Script<'_>, host: &Host) -> bool {
    let (what, width) = (script.byte(), [1, 2, 4][usize::from(script.byte() % 3)]);
    let port = vmmci::FIRST_PORT + u16::from(script.byte() % 44);
    let mut data = [0; 4];
    match what % 12 {
        0 | 1 => chipset.pio_read(port, &mut data[..width], host),
        2 | 3 => chipset.pio_write(port, &script.number().to_le_bytes()[..width], host),
        4 | 5 => chipset.pio_write(vmmci::FIRST_PORT + 20, &[script.byte() % 5, 0, 0, 0], host),
        6 => chipset.pio_write(vmmci::FIRST_PORT + 18, &[script.byte()], host),
        7 => chipset.pio_write(vmmci::FIRST_PORT + 4, &[script.byte(), 0, 0, 0], host),
        8 => {
            chipset.pio_read(vmmci::FIRST_PORT + 18, &mut data[..1], host);
            chipset.ask_to_stop(host);
            return data[0] & 4 != 0 && data[0] != 0xFF;
        }
        9 => chipset.mmio_write(CONFIG + u64::from(script.byte() % 0x40), &script.number().to_le_bytes()[..width], host),
        10 => host.realtime_ns.set(script.number() << 10),
        _ => {
            let ns = script.number() % (1 << 31);
            host.monotonic_ns.set(host.monotonic_ns.get() + ns);
            host.realtime_ns.set(host.realtime_ns.get().saturating_add(ns));
        }
    }
    false
}
