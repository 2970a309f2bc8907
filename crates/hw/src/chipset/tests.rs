//! The table of chips itself, and a chip that copies guest memory.

use std::cell::RefCell;

use super::*;
use crate::chip::{At, Place};
use crate::effect::Now;
use crate::saved::{Flaw, Saved};
use crate::virtio::{Device, Kind};

fn setup() -> Setup {
    let device = Device { kind: Kind::BLOCK, features: 0, queues: vec![256], config: vec![], irq_line: None };
    let devices = vec![device; 30];
    let now = Now::START;
    Setup { ram: vec![], vcpus: 1, mmio: 0xC000_0000..0xE000_0000, ecam: 0xE000_0000, devices, vmmci: Some(10), now }
}

#[test]
fn no_two_chips_answer_in_one_place() {
    let chipset = Chipset::new(setup()).unwrap();
    let places: Vec<Place> = chipset.chips.iter().flat_map(|chip| lock(chip).places()).collect();
    for (index, place) in places.iter().enumerate() {
        for other in &places[..index] {
            let apart = match (place, other) {
                (Place::Ports(first, last), Place::Ports(other_first, other_last)) => {
                    last < other_first || other_last < first
                }
                (place, other) => place != other,
            };
            assert!(apart, "{place:?} and {other:?}");
        }
        if let Place::Ports(first, last) = place {
            assert!(first <= last && u64::from(*last) < PORTS.start);
            assert!(!DATA_PORTS.contains(first) && !DATA_PORTS.contains(last));
        }
    }
    let functions = places.iter().filter(|place| matches!(place, Place::Config(_))).count();
    assert_eq!((functions, places.len()), (32, 32 + 31 + 8 + 3), "32 functions, 31 BARs, 8 ranges of ports, 3 timers");
}

/// Copies the 8 bytes at the address written to its port to the next 8, and keeps how often it could.
#[derive(Debug, Default)]
struct Copier(u8);

const COPIER: u16 = 0x514;

impl Chip for Copier {
    fn name(&self) -> String {
        "copier".into()
    }

    fn places(&self) -> Vec<Place> {
        vec![Place::Ports(COPIER, COPIER)]
    }

    fn read(&mut self, _: At, data: &mut [u8], _: &dyn World, _: &mut Effects) {
        data.fill(self.0);
    }

    fn write(&mut self, _: At, data: &[u8], world: &dyn World, fx: &mut Effects) {
        let gpa = access::value(data);
        let mut bytes = vec![0; 8];
        if world.read_memory(gpa, &mut bytes) {
            self.0 += 1;
            fx.push(Effect::WriteMemory { gpa: gpa + 8, bytes });
        }
    }

    fn save(&self) -> Saved {
        Saved::of(1, &self.0)
    }

    fn restore(&mut self, saved: &Saved, _: &dyn World, _: &mut Effects) -> Result<(), Flaw> {
        self.0 = saved.open(1)?;
        Ok(())
    }
}

/// A world that is memory alone.
struct Memory(RefCell<Vec<u8>>);

impl World for Memory {
    fn now(&self) -> Now {
        Now::START
    }

    fn call_pending(&self, _: Slot, _: u16) -> bool {
        false
    }

    fn read_memory(&self, gpa: u64, into: &mut [u8]) -> bool {
        let (memory, at) = (self.0.borrow(), gpa as usize);
        memory.get(at..at + into.len()).map(|from| into.copy_from_slice(from)).is_some()
    }
}

impl Edge for Memory {
    fn perform(&self, effect: Effect) {
        let Effect::WriteMemory { gpa, bytes } = effect else { panic!("{effect:?}") };
        self.0.borrow_mut()[gpa as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
}

#[test]
fn a_chip_copies_guest_memory_before_its_access_returns() {
    let chipset = Chipset::with_chips(setup(), vec![shared(Copier::default())]).unwrap();
    let world = Memory(RefCell::new((0..32).collect()));
    chipset.pio_write(COPIER, &[4, 0], &world);
    let memory: Vec<u8> = world.0.borrow().clone();
    assert_eq!(memory[..20], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 4, 5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(memory[20..], (20..32).collect::<Vec<u8>>());
    chipset.pio_write(COPIER, &[25, 0], &world);
    assert_eq!(*world.0.borrow(), memory, "not all of it is RAM");
    let mut copies = [0];
    chipset.pio_read(COPIER, &mut copies, &world);
    assert_eq!(copies, [1]);
}
