//! Anything that a guest or the world outside does to a chipset, at random.

use hw::{Slot, Timer};
use proptest::prelude::*;

use crate::driver::{BAR, ECAM, Machine, PORTS};

/// Something a guest or the world outside does.
#[derive(Debug, Clone)]
pub enum Act {
    Read(u64, usize),
    Write(u64, usize, u64),
    In(u16, usize),
    Out(u16, usize, u64),
    /// A register of the clock, whose index is written first: a read, or a write.
    Clock(u8, Option<u8>),
    Wait(u64),
    Input(Vec<u8>),
    Button,
    Stop,
    Timer(Timer),
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
        3 => (0_u16..44).prop_map(|offset| PORTS + offset),
        1 => prop::sample::select(vec![0x60_u16, 0x64, 0x80, 0x92]),
        1 => any::<u16>(),
    ]
}

pub fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => 0_u64..0x100,
        2 => prop::sample::select(vec![0, u64::MAX, BAR, BAR + 0x1_0000, 0x8000_1000, 0x8000_1810, 0x10_0000, 0xFEE0_0000]),
        1 => any::<u64>(),
    ]
}

pub fn width() -> impl Strategy<Value = usize> {
    prop_oneof![6 => prop::sample::select(vec![1_usize, 2, 4, 8]), 1 => 0_usize..=8]
}

/// Interrupts that are enabled, rates, BCD digits, what matches anything; and any.
fn clock_value() -> impl Strategy<Value = u8> {
    prop_oneof![
        2 => (0_u8..8).prop_map(|enabled| enabled << 4 | 2),
        1 => (0_u8..16).prop_map(|rate| 0x20 | rate),
        1 => 0_u8..0x60,
        1 => any::<u8>(),
    ]
}

pub fn act() -> impl Strategy<Value = Act> {
    let io_width = || prop::sample::select(vec![1_usize, 2, 4]);
    prop_oneof![
        4 => (address(), width()).prop_map(|(at, width)| Act::Read(at, width)),
        8 => (address(), width(), value()).prop_map(|(at, width, value)| Act::Write(at, width, value)),
        4 => (port(), io_width()).prop_map(|(port, width)| Act::In(port, width)),
        8 => (port(), io_width(), value()).prop_map(|(port, width, value)| Act::Out(port, width, value)),
        4 => (0_u8..0xE, prop::option::of(clock_value())).prop_map(|(index, value)| Act::Clock(index, value)),
        2 => prop_oneof![0_u64..3_000_000_000, any::<u64>()].prop_map(Act::Wait),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Act::Input),
        1 => prop_oneof![Just(Act::Out(0x64, 1, 0xD1)), value().prop_map(|value| Act::Out(0x60, 1, value))],
        1 => Just(Act::Button),
        1 => Just(Act::Stop),
        1 => prop::sample::select(vec![Timer::Rtc, Timer::Pm, Timer::Vmmci]).prop_map(Act::Timer),
        1 => (0_u8..5).prop_map(Act::ResetDone),
        1 => (0_u8..5).prop_map(Act::NeedsReset),
        1 => (0_u8..5, 0_u16..4).prop_map(|(slot, queue)| Act::Interrupt(slot, queue)),
        1 => (0_u8..5, prop::collection::vec(any::<u8>(), 0..80)).prop_map(|(slot, bytes)| Act::Config(slot, bytes)),
        1 => (0_u8..5, 0_u16..4).prop_map(|(slot, queue)| Act::Held(slot, queue)),
    ]
}

/// Does it; what the guest or the world outside sees at once, as a number.
pub fn perform(machine: &Machine, act: &Act) -> u64 {
    let (chipset, edge) = (&machine.chipset, &machine.edge);
    match act {
        Act::Read(at, width) => return machine.read(*at, *width),
        Act::Write(at, width, value) => machine.write(*at, *width, *value),
        Act::In(port, width) => return machine.pio_read(*port, *width),
        Act::Out(port, width, value) => machine.pio_write(*port, *width, *value),
        Act::Clock(index, value) => {
            machine.pio_write(0x70, 1, u64::from(*index));
            match value {
                Some(value) => machine.pio_write(0x71, 1, u64::from(*value)),
                None => return machine.pio_read(0x71, 1),
            }
        }
        // No clock of a host goes beyond the last time, nor back.
        Act::Wait(ns) => edge.now_ns.set(edge.now_ns.get().checked_add(*ns).unwrap_or(edge.now_ns.get())),
        Act::Input(bytes) => return chipset.serial_input(bytes, edge) as u64,
        Act::Button => chipset.power_button(edge),
        Act::Stop => chipset.ask_to_stop(edge),
        Act::Timer(timer) => chipset.timer(*timer, edge),
        Act::ResetDone(slot) => chipset.reset_done(Slot(*slot), edge),
        Act::NeedsReset(slot) => chipset.needs_reset(Slot(*slot), edge),
        Act::Interrupt(slot, queue) => chipset.queue_interrupt(Slot(*slot), *queue, edge),
        Act::Config(slot, bytes) => chipset.set_device_config(Slot(*slot), bytes, edge),
        Act::Held(slot, queue) => edge.held.set(Some((Slot(*slot), *queue))),
    }
    0
}
