//! A process that dies after any store, and the next one: each request that the driver offered is handed out until it was used,
//! and none is used twice.

use proptest::prelude::*;
use vm_memory::GuestAddress;

use super::*;
use crate::queue::driver::{Driver, SETUP, SIZE, USED};
use crate::queue::{Chain, RecordError, RingFault, Vring};

fn place() -> Place {
    Place { memory: Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap()), at: GuestAddress(64) }
}

/// A driver, the device that it has now, and what both know.
struct World {
    driver: Driver,
    place: Place,
    /// Heads that the driver may offer.
    free: Vec<u16>,
    /// Offered and not used.
    owed: Vec<u16>,
    /// Taken by the process that lives, not handed back.
    taken: Vec<u16>,
    /// Used elements that the driver has seen.
    seen: u16,
}

impl World {
    fn new() -> Self {
        let mut driver = Driver::new(SETUP);
        (0..SIZE).for_each(|head| driver.describe(0x1000, head, (0x8000, 8), 0, 0));
        let place = place();
        driver.ring = Vring::recorded(&driver.memory, SETUP, place.clone()).unwrap();
        Self { driver, place, free: (0..SIZE).collect(), owed: vec![], taken: vec![], seen: 0 }
    }

    fn offer(&mut self) {
        if let Some(head) = self.free.pop() {
            self.driver.offer(head);
            self.owed.push(head);
        }
    }

    /// The device takes a chain; an error is its death.
    fn take(&mut self) -> Result<(), RingFault> {
        let mut chain = Chain::default();
        if self.driver.ring.pop(&self.driver.memory, &mut chain)? {
            let head = chain.head;
            assert!(self.owed.contains(&head) && !self.taken.contains(&head), "{head} is under way");
            self.taken.push(head);
        }
        Ok(())
    }

    /// It hands some back at once, whichever first.
    fn give(&mut self, count: usize, from_the_end: bool) -> Result<(), RingFault> {
        let count = count.min(self.taken.len());
        let at = if from_the_end { self.taken.len() - count } else { 0 };
        let used: Vec<(u16, u32)> = self.taken.drain(at..at + count).map(|head| (head, 0)).collect();
        self.driver.ring.push_used(&self.driver.memory, &used)
    }

    /// The driver sees what was used.
    fn see(&mut self) {
        while self.seen != self.driver.used() {
            let [head, _] = self.driver.element(u64::from(self.seen % SIZE));
            let head = u16::try_from(head).unwrap();
            let at = self.owed.iter().position(|owed| *owed == head);
            self.owed.remove(at.unwrap_or_else(|| panic!("{head} was used twice")));
            self.free.push(head);
            self.seen = self.seen.wrapping_add(1);
        }
    }

    fn another_process(&mut self) {
        self.see();
        self.taken.clear();
        let setup = crate::queue::RingSetup { last_avail: 77, ..SETUP }; // wherever the front end thinks that it stands
        self.driver.ring = Vring::recorded(&self.driver.memory, setup, self.place.clone()).unwrap();
    }

    fn dies_after(&mut self, stores: u32) {
        self.driver.ring.record.as_mut().unwrap().left = stores;
    }
}

#[derive(Debug, Clone)]
enum Step {
    Offer,
    Take,
    Give(usize, bool),
    See,
    DieAfter(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Offer),
        4 => Just(Step::Take),
        3 => (1_usize..4, any::<bool>()).prop_map(|(count, end)| Step::Give(count, end)),
        2 => Just(Step::See),
        2 => (0_u32..14).prop_map(Step::DieAfter),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_request_is_lost_and_none_is_used_twice_whenever_processes_die(steps in prop::collection::vec(step(), 0..80)) {
        let mut world = World::new();
        for step in steps {
            let lives = match step {
                Step::Offer => { world.offer(); Ok(()) }
                Step::Take => world.take(),
                Step::Give(count, end) => world.give(count, end),
                Step::See => { world.see(); Ok(()) }
                Step::DieAfter(stores) => { world.dies_after(stores); Ok(()) }
            };
            if lives.is_err() {
                world.another_process();
            }
        }
        // The last one gets all that is owed, once, and hands it back.
        world.another_process();
        let mut owed = world.owed.clone();
        (0..SIZE).for_each(|_| world.take().unwrap());
        let mut taken = world.taken.clone();
        owed.sort_unstable();
        taken.sort_unstable();
        prop_assert_eq!(taken, owed);
        world.give(usize::from(SIZE), false).unwrap();
        world.see();
        prop_assert_eq!(world.free.len(), usize::from(SIZE));
    }
}

#[test]
fn a_process_that_dies_after_each_store_of_a_request_leaves_it_to_the_next() {
    // Counter and mark; link, head, the used index; mark and index.
    for stores in 0..8 {
        let mut world = World::new();
        world.offer();
        world.dies_after(stores);
        let died = world.take().and_then(|()| world.give(1, false)).is_err();
        assert_eq!(died, stores < 7, "{stores}");
        world.another_process();
        assert_eq!(world.owed.is_empty(), stores > 4, "{stores}: the used index is out after the fifth");
        world.take().unwrap();
        assert_eq!(world.taken, world.owed, "{stores}");
    }
}

#[test]
fn requests_come_again_in_the_order_in_which_they_were_taken() {
    let mut world = World::new();
    (0..4).for_each(|_| world.offer());
    (0..4).for_each(|_| world.take().unwrap());
    let order = world.taken.clone();
    world.another_process();
    (0..4).for_each(|_| world.take().unwrap());
    assert_eq!(world.taken, order);
    assert!(world.driver.is_empty());
    world.another_process();
    assert!(!world.driver.is_empty(), "there is something to take");
}

#[test]
fn the_record_has_the_places_of_the_specification() {
    let mut world = World::new();
    world.offer();
    world.take().unwrap();
    let at = |offset: u64| world.place.memory.read_obj::<u16>(GuestAddress(64 + offset)).unwrap();
    assert_eq!([8, 10, 12, 14].map(at), [1, SIZE, 0, 0]);
    assert_eq!(at(16 + 3 * 16), 1, "descriptor 3 is in flight");
    world.give(1, false).unwrap();
    let at = |offset: u64| world.place.memory.read_obj::<u16>(GuestAddress(64 + offset)).unwrap();
    assert_eq!(([8, 10, 12, 14].map(at), at(16 + 3 * 16)), ([1, SIZE, 3, 1], 0));
    assert_eq!((len(4), len(128), len(1024)), (128, 2112, 16448));
}

#[test]
fn a_record_of_another_size_or_version_is_begun_anew() {
    for (offset, value) in [(8, 2_u16), (8, 0), (10, 8)] {
        let mut world = World::new();
        world.offer();
        world.take().unwrap();
        world.place.memory.write_obj(value, GuestAddress(64 + offset)).unwrap();
        world.another_process();
        assert_eq!(world.driver.ring.save().last_avail, 0, "as far as the used ring is");
        world.take().unwrap();
        assert_eq!(world.taken, world.owed);
    }
}

#[test]
fn no_number_of_a_record_is_believed() {
    let mut world = World::new();
    world.offer();
    world.take().unwrap();
    world.give(1, false).unwrap();
    for byte in 0..128_u64 {
        for value in [0xFF_u8, 1, 0x80] {
            let place = Place { at: GuestAddress(64), ..place() };
            let mut bytes = [0; 128];
            world.place.memory.read_slice(&mut bytes, GuestAddress(64)).unwrap();
            bytes[byte as usize] = value;
            place.memory.write_slice(&bytes, GuestAddress(64)).unwrap();
            let mut ring = Vring::recorded(&world.driver.memory, SETUP, place).unwrap();
            let mut taken = 0;
            while matches!(ring.pop(&world.driver.memory, &mut Chain::default()), Ok(true)) {
                taken += 1;
                assert!(taken <= 2 * SIZE, "without end");
            }
        }
    }
    assert_eq!(world.driver.at(USED + 2), 1);
}

#[test]
fn a_record_that_is_not_there_is_refused() {
    let world = World::new();
    for at in [0x1000, 0x1000 - 64, 0x1000 - 127, u64::MAX - 8] {
        let refused = Vring::recorded(&world.driver.memory, SETUP, Place { at: GuestAddress(at), ..place() }).err();
        assert_eq!(refused, Some(RecordError::Record(RingFault::Host)), "{at:#x}");
    }
}

#[test]
fn a_head_that_names_no_descriptor_is_not_recorded() {
    let mut world = World::new();
    world.driver.offer(SIZE);
    let fault = world.driver.ring.pop(&world.driver.memory, &mut Chain::default());
    assert_eq!(fault, Err(RingFault::Index(SIZE)));
}
