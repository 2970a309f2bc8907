//! The table of chips itself.

use super::*;
use crate::chip::Place;
use crate::effect::Now;
use crate::virtio::{Device, Kind};

fn setup() -> Setup {
    let device = Device { kind: Kind::Block, features: 0, queues: vec![256], config: vec![], irq_line: None };
    let devices = vec![device; 31];
    let now = Now::START;
    Setup { ram: vec![], vcpus: 1, mmio: 0xC000_0000..0xE000_0000, ecam: 0xE000_0000, devices, now }
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
            assert!(first <= last && !DATA_PORTS.contains(first) && !DATA_PORTS.contains(last));
        }
    }
    let functions = places.iter().filter(|place| matches!(place, Place::Config(_))).count();
    assert_eq!((functions, places.len()), (32, 32 + 31 + 8 + 2), "32 functions, 31 BARs, 8 ranges of ports, 2 timers");
}
