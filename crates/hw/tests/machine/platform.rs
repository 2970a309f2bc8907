//! Ports of the platform: openbsd/devices.md, 7.5, classes P6, P7 and P10.

use std::sync::atomic::{AtomicUsize, Ordering};

use hw::{Chipset, Edge, Effect, Now, Setup, Slot, Timer, World};

use crate::driver::{ECAM, Machine, WINDOW};

#[test]
fn p10_what_nobody_answers_reads_ones_and_takes_writes() {
    let machine = Machine::new();
    for port in [0x00, 0x2F8, 0x3E8, 0x402, 0x510, 0x80, 0xE9, 0xCFB, 0xD00, 0xFFFF] {
        machine.pio_write(port, 1, 0);
        assert_eq!(machine.pio_read(port, 1), 0xFF, "{port:x}");
        assert_eq!(machine.pio_read(port, 4), 0xFFFF_FFFF, "{port:x}");
    }
    for gpa in [0x2000_0000, 0xC000_0000, 0xDFFF_FFFF, 0xE010_0000, 0xFED0_0000, u64::MAX] {
        machine.write(gpa, 8, 0);
        assert_eq!(machine.read(gpa, 8), u64::MAX, "{gpa:x}");
    }
    assert!(machine.edge.take().is_empty());
}

#[test]
fn serial_port_clock_and_timer_are_at_their_ports() {
    let machine = Machine::new();
    machine.pio_write(0x3FF, 1, 0x5A);
    assert_eq!(machine.pio_read(0x3FF, 1), 0x5A);
    assert_eq!(machine.pio_read(0x3FF, 4), 0xFFFF_FF5A);
    machine.pio_write(0x70, 1, 0x0D);
    assert_eq!(machine.pio_read(0x71, 1), 0x80);
    machine.edge.now_ns.set(1_000_000_000);
    assert_eq!(machine.pio_read(0x608, 4), 3_579_545);
    assert_eq!(machine.pio_read(0x64, 1), 0);
}

#[test]
fn the_console_passes_both_ways() {
    let machine = Machine::new();
    machine.pio_write(0x3F8, 1, u64::from(b'A'));
    assert_eq!(machine.edge.take(), vec![Effect::SerialOutput]);
    let mut buffer = [0; 8];
    assert_eq!(machine.chipset.serial_output(&mut buffer), 1);
    assert_eq!(buffer[0], b'A');
    machine.pio_write(0x3FA, 1, 1);
    assert_eq!(machine.chipset.serial_input(b"hi", &machine.edge), 2);
    assert_eq!((machine.pio_read(0x3F8, 1), machine.pio_read(0x3F8, 1)), (u64::from(b'h'), u64::from(b'i')));
}

#[test]
fn the_power_button_and_timers_reach_their_models() {
    let machine = Machine::new();
    machine.pio_write(0x602, 2, 0x100);
    machine.chipset.power_button(&machine.edge);
    assert_eq!(machine.edge.take(), vec![Effect::Irq { gsi: 9, level: true }]);
    machine.pio_write(0x70, 1, 0x0B);
    machine.pio_write(0x71, 1, 0x12);
    machine.edge.take();
    machine.edge.now_ns.set(1_000_000_000);
    machine.chipset.timer(Timer::Rtc, &machine.edge);
    assert!(machine.edge.take().contains(&Effect::Irq { gsi: 8, level: true }));
    machine.chipset.timer(Timer::Pm, &machine.edge);
}

#[derive(Default)]
struct Counter(AtomicUsize);

impl Edge for Counter {
    fn perform(&self, effect: Effect) {
        if matches!(effect, Effect::Reset | Effect::PowerOff) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl World for Counter {
    fn now(&self) -> Now {
        Now { monotonic_ns: 0, realtime_ns: 0 }
    }
    fn call_pending(&self, _: Slot, _: u16) -> bool {
        false
    }
    fn read_memory(&self, _: u64, _: &mut [u8]) -> bool {
        false
    }
}

#[test]
fn p6_p7_several_vcpus_end_the_machine_once() {
    let edge = Counter::default();
    let setup =
        Setup { ram: vec![], vcpus: 4, mmio: WINDOW, ecam: ECAM, devices: vec![], vmmci: None, now: edge.now() };
    let chipset = Chipset::new(setup).unwrap();
    let ends: [(u16, &[u8]); 4] = [(0x64, &[0xFE]), (0xCF9, &[6]), (0x92, &[1]), (0x604, &[0, 0x34])];
    std::thread::scope(|scope| {
        for (port, data) in ends {
            let (chipset, edge) = (&chipset, &edge);
            scope.spawn(move || (0..100).for_each(|_| chipset.pio_write(port, data, edge)));
        }
    });
    assert_eq!(edge.0.load(Ordering::SeqCst), 1);
}

#[test]
fn more_devices_than_slots_are_refused() {
    use hw::virtio::Kind;
    let devices = |count| vec![crate::driver::device(Kind::BLOCK, 1, &[0; 60], None); count];
    let setup = |count, vmmci| Setup {
        ram: vec![],
        vcpus: 1,
        mmio: WINDOW,
        ecam: ECAM,
        devices: devices(count),
        vmmci,
        now: Now { monotonic_ns: 0, realtime_ns: 0 },
    };
    let fits = |count, vmmci| Chipset::new(setup(count, vmmci)).is_ok();
    assert_eq!((fits(31, None), fits(32, None)), (true, false));
    assert_eq!((fits(30, Some(10)), fits(31, Some(10))), (true, false));
}
