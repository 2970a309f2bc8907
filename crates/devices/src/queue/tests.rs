//! A ring in memory, as the driver writes and reads it; one test per rule of a virtqueue.

use super::driver::*;
use super::*;

// The ring

#[test]
fn chains_are_taken_in_order_until_there_is_none() {
    let mut driver = Driver::new(SETUP);
    driver.describe(DESCRIPTORS, 2, (BUFFERS, 16), NEXT, 0);
    driver.describe(DESCRIPTORS, 0, (BUFFERS + 16, 5), NEXT, 1);
    driver.describe(DESCRIPTORS, 1, (BUFFERS + 32, 7), WRITE, 0);
    driver.describe(DESCRIPTORS, 3, (BUFFERS, 9), WRITE, 0);
    assert!(driver.is_empty());
    assert_eq!(driver.ring.size(), SIZE);
    driver.offer(2);
    driver.offer(3);
    assert!(!driver.is_empty());
    let chain = driver.pop().unwrap();
    assert_eq!(chain.head, 2);
    assert_eq!(chain.readable, [extent(BUFFERS, 16), extent(BUFFERS + 16, 5)]);
    assert_eq!(chain.writable, [extent(BUFFERS + 32, 7)]);
    assert_eq!((chain.readable_bytes(), chain.writable_bytes()), (21, 7));
    // what was in the chain before is gone
    let mut again = chain;
    assert_eq!(driver.ring.pop(&driver.memory, &mut again), Ok(true));
    assert_eq!((again.head, again.readable_bytes(), again.writable_bytes()), (3, 0, 9));
    assert_eq!(driver.ring.pop(&driver.memory, &mut again), Ok(false));
    assert!(driver.is_empty());
    assert_eq!(driver.ring.save(), RingSetup { last_avail: 2, ..SETUP });
}

#[test]
fn what_is_put_back_is_taken_again() {
    let mut driver = Driver::new(SETUP);
    for index in 0..3 {
        driver.describe(DESCRIPTORS, index, (BUFFERS, 1), 0, 0);
        driver.offer(index);
    }
    let heads = |driver: &mut Driver| [0; 3].map(|_| driver.pop().unwrap().head);
    assert_eq!(heads(&mut driver), [0, 1, 2]);
    driver.ring.put_back(2);
    assert_eq!(driver.ring.save().last_avail, 1);
    assert_eq!([driver.pop().unwrap().head, driver.pop().unwrap().head], [1, 2]);
    assert!(driver.is_empty());
}

#[test]
fn an_available_index_ahead_of_the_ring_is_a_fault() {
    let mut driver = Driver::new(SETUP);
    driver.put(AVAILABLE + 2, SIZE + 1);
    assert_eq!(driver.pop().unwrap_err(), RingFault::AvailableIndex);
}

#[test]
fn used_elements_lie_where_the_specification_has_them() {
    let mut driver = Driver::new(SETUP);
    driver.ring.push_used(&driver.memory, &[(0xfffe, 0x1234_5678), (3, 0), (1, 2)]).unwrap();
    assert_eq!(driver.at(USED + 2), 3);
    assert_eq!([0, 1, 2, 3].map(|slot| driver.element(slot)), [[0xfffe, 0x1234_5678], [3, 0], [1, 2], [0, 0]]);
    driver.ring.push_used(&driver.memory, &[(7, 8), (9, 10)]).unwrap();
    assert_eq!(driver.at(USED + 2), 5);
    assert_eq!([0, 1, 2, 3].map(|slot| driver.element(slot)), [[9, 10], [3, 0], [1, 2], [7, 8]]);
    assert_eq!(driver.at(USED), 0, "flags are not touched");
}

#[test]
fn a_ring_goes_on_where_it_stood() {
    let mut driver = Driver::new(SETUP);
    driver.put(USED + 2, 0xffff);
    driver.put(AVAILABLE + 2, 6);
    driver.put(AVAILABLE + 4 + 2, 1);
    driver.describe(DESCRIPTORS, 1, (BUFFERS, 1), 0, 0);
    driver.ring = Vring::new(&driver.memory, RingSetup { last_avail: 5, ..SETUP }).unwrap();
    assert_eq!(driver.pop().unwrap().head, 1);
    assert!(driver.is_empty());
    driver.push(1);
    assert_eq!(driver.at(USED + 2), 0, "the used index wraps");
}

// Notifications

#[test]
fn the_first_push_interrupts_and_nothing_pushed_does_not() {
    for setup in [SETUP, EVENT_IDX] {
        let mut driver = Driver::new(setup);
        driver.put(AVAILABLE, 1);
        driver.put(AVAILABLE + 4 + u64::from(SIZE) * 2, 77);
        assert!(!driver.needs_interrupt(), "nothing was pushed");
        driver.push(1);
        assert!(driver.needs_interrupt());
        assert!(!driver.needs_interrupt(), "once");
        driver.push(1);
        assert!(!driver.needs_interrupt(), "from the second on the driver's wish counts");
    }
}

#[test]
fn without_event_indices_one_flag_of_the_driver_says_whether_it_wants_interrupts() {
    let mut driver = Driver::new(SETUP);
    driver.push(1);
    driver.needs_interrupt();
    for (flags, wanted) in [(0, true), (1, false), (2, true), (3, false), (0xfffe, true), (0xffff, false)] {
        driver.put(AVAILABLE, flags);
        driver.push(1);
        assert_eq!(driver.needs_interrupt(), wanted, "{flags:#x}");
    }
}

#[test]
fn with_event_indices_an_interrupt_comes_when_the_index_is_passed() {
    // virtio 1.2, 2.7.10: pushed from 1 on, the driver waits for the element with this index.
    for (event, pushed, wanted) in [
        (0, 2, false),
        (1, 1, true),
        (1, 2, true),
        (2, 1, false),
        (2, 2, true),
        (3, 2, false),
        (3, 3, true),
        (0xffff, 3, false),
    ] {
        let mut driver = Driver::new(EVENT_IDX);
        driver.push(1);
        driver.needs_interrupt();
        driver.put(AVAILABLE, 1); // means nothing here
        driver.put(AVAILABLE + 4 + u64::from(SIZE) * 2, event);
        driver.push(pushed);
        assert_eq!(driver.needs_interrupt(), wanted, "waits for {event}, {pushed} pushed");
    }
}

#[test]
fn kicks_are_asked_for_by_a_flag() {
    let mut driver = Driver::new(SETUP);
    driver.ring.disable_kicks(&driver.memory).unwrap();
    assert_eq!(driver.at(USED), 1);
    assert!(!driver.enable_kicks());
    assert_eq!(driver.at(USED), 0);
    driver.describe(DESCRIPTORS, 0, (BUFFERS, 1), 0, 0);
    driver.offer(0);
    assert!(driver.enable_kicks(), "one is there already");
}

#[test]
fn kicks_are_asked_for_by_an_event_index() {
    let mut driver = Driver::new(EVENT_IDX);
    let event = USED + 4 + u64::from(SIZE) * 8;
    driver.describe(DESCRIPTORS, 0, (BUFFERS, 1), 0, 0);
    driver.offer(0);
    driver.pop().unwrap();
    driver.ring.disable_kicks(&driver.memory).unwrap();
    assert_eq!(driver.at(event), 0);
    assert!(!driver.enable_kicks());
    assert_eq!((driver.at(event), driver.at(USED)), (1, 0));
}

// The set-up

#[test]
fn a_set_up_is_checked() {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), END as usize)]).unwrap();
    let refused = |setup| Vring::new(&memory, setup).map(|_| ()).err();
    for size in [0, 3, 6, 1025, 2048, 0x8000] {
        assert_eq!(refused(RingSetup { size, ..SETUP }), Some(SetupError::Size(size)));
    }
    for size in [1, 2, 4, 64] {
        assert_eq!(refused(RingSetup { size, ..SETUP }), None);
    }
    let at = |descriptors, available, used| RingSetup {
        addresses: RingAddresses {
            descriptors: GuestAddress(descriptors),
            available: GuestAddress(available),
            used: GuestAddress(used),
        },
        ..SETUP
    };
    for (descriptors, available, used, wrong) in [
        (0, AVAILABLE, USED, 0),
        (DESCRIPTORS, 0, USED, 0),
        (DESCRIPTORS, AVAILABLE, 0, 0),
        (DESCRIPTORS + 8, AVAILABLE, USED, DESCRIPTORS + 8),
        (DESCRIPTORS, AVAILABLE + 1, USED, AVAILABLE + 1),
        (DESCRIPTORS, AVAILABLE, USED + 2, USED + 2),
    ] {
        let expected = Some(SetupError::Alignment(GuestAddress(wrong)));
        assert_eq!(refused(at(descriptors, available, used)), expected);
    }
    // 16 bytes a descriptor; 2 an available and 8 a used entry, with 6 around them
    for (room, setup) in [
        (64, (|end| (end, AVAILABLE, USED)) as fn(u64) -> (u64, u64, u64)),
        (14, |end| (DESCRIPTORS, end, USED)),
        (38, |end| (DESCRIPTORS, AVAILABLE, end)),
    ] {
        let of = |start| {
            let (descriptors, available, used) = setup(start);
            refused(at(descriptors, available, used))
        };
        let start = (END - room) / 16 * 16;
        assert_eq!(of(start), None, "{room}");
        assert_eq!(of(start + 16), Some(SetupError::Outside(GuestAddress(start + 16))), "{room}");
    }
    let largest = GuestMemory::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
    let mut setup = at(0x1000, 0x8000, 0x1_0000);
    setup.size = MAX_QUEUE_SIZE;
    assert!(Vring::new(&largest, setup).is_ok());
}

#[test]
fn an_extent_is_inside_if_one_range_of_memory_holds_all_of_it() {
    let (low, high) = ((GuestAddress(0), 0x1000), (GuestAddress(0x10_0000), 0x1000));
    let memory = GuestMemory::from_ranges(&[low, high]).unwrap();
    let inside = |addr, len| is_inside(&memory, extent(addr, len));
    assert!(inside(0, 0x1000) && inside(0xfff, 1) && inside(0x10_0000, 0x1000));
    assert!(!inside(0xfff, 2) && !inside(0x1000, 1) && !inside(0xf_ffff, 2) && !inside(u64::MAX, 1));
    assert!(inside(0x1000, 0) && inside(u64::MAX, 0), "an empty extent is inside everywhere");
}

#[test]
fn a_feature_is_accepted_by_its_bit() {
    for (features, bit, is) in [
        (1, 0, true),
        (3, 0, true),
        (0, 5, false),
        (2, 0, false),
        (2, 1, true),
        (5, 1, false),
        (1 << 63, 63, true),
        (u64::MAX, 64, false),
    ] {
        assert_eq!(accepted(features, bit), is, "{features:#x}, {bit}");
    }
}

// A chain

/// What a chain from descriptor 0 on is, after `make` has written descriptors.
fn walk(setup: RingSetup, make: impl Fn(&Driver)) -> Result<Chain, RingFault> {
    let mut driver = Driver::new(setup);
    make(&driver);
    driver.offer(0);
    driver.pop()
}

#[test]
fn a_chain_has_at_most_as_many_links_as_the_ring_has_entries() {
    let chain = |links: u16, last: u16| {
        walk(SETUP, |driver| {
            for index in 0..links {
                driver.describe(DESCRIPTORS, index, (BUFFERS, 1), NEXT, index + 1);
            }
            driver.describe(DESCRIPTORS, links, (BUFFERS, 1), last, 0);
        })
    };
    assert_eq!(chain(3, 0).map(|chain| chain.readable.len()), Ok(4));
    assert_eq!(chain(3, NEXT).unwrap_err(), RingFault::TooLong);
}

#[test]
fn heads_and_links_name_descriptors() {
    let link = |next| walk(SETUP, |driver| driver.describe(DESCRIPTORS, 0, (BUFFERS, 1), NEXT, next));
    assert!(link(3).is_ok());
    assert_eq!(link(4).unwrap_err(), RingFault::Index(4));
    let mut driver = Driver::new(SETUP);
    driver.offer(0xffff);
    assert_eq!(driver.pop().unwrap_err(), RingFault::Index(0xffff));
}

#[test]
fn what_is_readable_comes_first() {
    let chain = walk(SETUP, |driver| {
        driver.describe(DESCRIPTORS, 0, (BUFFERS, 1), NEXT | WRITE, 1);
        driver.describe(DESCRIPTORS, 1, (BUFFERS, 1), 0, 0);
    });
    assert_eq!(chain.unwrap_err(), RingFault::Direction);
}

#[test]
fn an_indirect_table_is_one_of_whole_descriptors_and_ends_its_chain() {
    let indirect = RingSetup { indirect: true, ..SETUP };
    let table = |setup, len, flags| {
        walk(setup, |driver| {
            driver.describe(DESCRIPTORS, 0, (BUFFERS, 5), NEXT, 1);
            driver.describe(DESCRIPTORS, 1, (BUFFERS + 0x800, len), flags, 2);
            driver.describe(DESCRIPTORS, 2, (BUFFERS, 1), 0, 0);
            driver.describe(BUFFERS + 0x800, 0, (BUFFERS + 0x10, 6), NEXT, 2);
            driver.describe(BUFFERS + 0x800, 2, (BUFFERS + 0x20, 7), WRITE, 0);
        })
    };
    let chain = table(indirect, 48, INDIRECT).unwrap();
    assert_eq!((chain.head, &chain.readable[..]), (0, &[extent(BUFFERS, 5), extent(BUFFERS + 0x10, 6)][..]));
    assert_eq!(chain.writable, [extent(BUFFERS + 0x20, 7)]);
    assert!(table(indirect, 64, INDIRECT).is_ok());
    for (len, flags) in [(0, INDIRECT), (8, INDIRECT), (47, INDIRECT), (80, INDIRECT), (48, INDIRECT | NEXT)] {
        assert_eq!(table(indirect, len, flags).unwrap_err(), RingFault::Indirect, "{len} bytes, flags {flags}");
    }
    assert_eq!(table(indirect, 16, INDIRECT).unwrap_err(), RingFault::Index(2), "a link that leaves the table");
    assert_eq!(table(SETUP, 48, INDIRECT).unwrap_err(), RingFault::Indirect, "not negotiated");
    let nested = walk(indirect, |driver| {
        driver.describe(DESCRIPTORS, 0, (BUFFERS, 16), INDIRECT, 0);
        driver.describe(BUFFERS, 0, (BUFFERS, 16), INDIRECT, 0);
    });
    assert_eq!(nested.unwrap_err(), RingFault::Indirect);
}

#[test]
fn a_front_is_taken_off_or_copied_however_it_is_cut() {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
    memory.write_slice(&[1, 2, 3, 4, 5, 6, 7, 8], GuestAddress(0x100)).unwrap();
    let readable = || vec![extent(0x100, 3), extent(0x9000, 0), extent(0x103, 5), extent(0x9000, 9)];
    let mut chain = Chain { readable: readable(), ..Chain::default() };
    let mut into = [0; 6];
    assert_eq!(chain.copy_front(&memory, &mut into), Ok(()));
    assert_eq!((into, &chain.readable), ([1, 2, 3, 4, 5, 6], &readable()));
    let mut into = [0; 6];
    assert_eq!(chain.take_front(&memory, &mut into), Ok(()));
    assert_eq!(into, [1, 2, 3, 4, 5, 6]);
    assert_eq!(chain.readable, [extent(0x103, 0), extent(0x9000, 0), extent(0x106, 2), extent(0x9000, 9)]);
    assert_eq!(chain.copy_front(&memory, &mut [0; 3]), Err(RingFault::Outside));
    assert_eq!(chain.take_front(&memory, &mut [0; 3]), Err(RingFault::Outside));
    chain.readable = readable();
    assert_eq!(chain.copy_front(&memory, &mut [0; 18]), Err(RingFault::Outside));
    chain.readable.pop();
    assert_eq!(chain.copy_front(&memory, &mut [0; 9]), Err(RingFault::TooShort));
    assert_eq!(chain.take_front(&memory, &mut [0; 9]), Err(RingFault::TooShort));
}

#[test]
fn the_last_writable_byte_is_taken_off() {
    let writable = vec![extent(0x100, 2), extent(0x200, 1), extent(0x300, 0)];
    let mut chain = Chain { writable, ..Chain::default() };
    let taken = [(); 3].map(|()| chain.take_last_byte());
    assert_eq!(taken, [Ok(GuestAddress(0x200)), Ok(GuestAddress(0x101)), Ok(GuestAddress(0x100))]);
    assert_eq!(chain.take_last_byte(), Err(RingFault::TooShort));
    chain.writable = vec![extent(u64::MAX, 3)];
    assert_eq!(chain.take_last_byte(), Err(RingFault::Outside));
}

#[test]
fn extents_are_filled_from_the_front_as_far_as_both_go() {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
    let extents = [extent(0x100, 2), extent(0x9000, 0), extent(0x200, 3)];
    assert_eq!(fill_front(&memory, &extents, &[1, 2, 3, 4]), Ok(4));
    let read = |addr| memory.read_obj::<[u8; 4]>(GuestAddress(addr)).unwrap();
    assert_eq!((read(0x100), read(0x200)), ([1, 2, 0, 0], [3, 4, 0, 0]));
    assert_eq!(fill_front(&memory, &extents, &[9; 7]), Ok(5));
    assert_eq!((read(0x100), read(0x200)), ([9, 9, 0, 0], [9, 9, 9, 0]));
    assert_eq!(fill_front(&memory, &[extent(0x9000, 1)], &[1]), Err(RingFault::Outside));
    assert_eq!(fill_front(&memory, &[extent(0x9000, 1)], &[]), Ok(0), "nothing to write");
}

#[test]
fn the_first_writable_bytes_are_taken_off_however_they_are_cut() {
    let writable = || vec![extent(0x100, 3), extent(0x9000, 0), extent(0x200, 8)];
    let mut chain = Chain { writable: writable(), ..Chain::default() };
    let mut front = vec![extent(1, 1)];
    assert_eq!(chain.take_writable(5, &mut front), Ok(()));
    assert_eq!(front, [extent(0x100, 3), extent(0x200, 2)]);
    assert_eq!(chain.writable, [extent(0x103, 0), extent(0x9000, 0), extent(0x202, 6)]);
    assert_eq!(chain.take_writable(7, &mut front), Err(RingFault::TooShort));
    chain.writable = vec![extent(u64::MAX, 3)];
    assert_eq!(chain.take_writable(3, &mut front), Err(RingFault::Outside));
}

// Every chain of up to four descriptors

/// What virtio 1.2, 2.7.4.2, 2.7.5.3.1 and 2.7.5.3.2 make of descriptors one behind the other: which the device may read, which it
/// may write, by their place; or why they are no chain. An indirect one has the `table`.
fn by_the_book(flags: &[u16], table: &[u16], negotiated: bool) -> Result<(Vec<u64>, Vec<u64>), RingFault> {
    let (mut readable, mut writable): (Vec<u64>, Vec<u64>) = Default::default();
    let mut places = (0..).zip(flags).map(|(place, flags)| (place, *flags)).collect::<VecDeque<_>>();
    let (mut inside, mut links) = (false, 0);
    loop {
        let Some((place, flags)) = places.pop_front() else {
            // Descriptor 3 leads to 0 again in a ring of four; a table's next names what it does not have.
            return Err(if inside { RingFault::Index(table.len() as u16) } else { RingFault::TooLong });
        };
        if flags & INDIRECT != 0 {
            if !negotiated || inside || flags & NEXT != 0 {
                return Err(RingFault::Indirect);
            }
            inside = true;
            places = (10..).zip(table).map(|(place, flags)| (place, *flags)).collect();
            continue;
        }
        links += 1;
        if links > SIZE {
            return Err(RingFault::TooLong);
        }
        match (flags & WRITE != 0, writable.is_empty()) {
            (true, _) => writable.push(place),
            (false, true) => readable.push(place),
            (false, false) => return Err(RingFault::Direction),
        }
        if flags & NEXT == 0 {
            return Ok((readable, writable));
        }
    }
}

/// All sequences of NEXT, WRITE and INDIRECT of so many descriptors.
fn sequences(len: u32) -> impl Iterator<Item = Vec<u16>> {
    (0..8u32.pow(len)).map(move |number| (0..len).map(|place| (number >> (3 * place) & 7) as u16).collect())
}

/// Holds the walk of these descriptors against the book.
fn walks_by_the_book(driver: &mut Driver, flags: &[u16], table: &[u16], negotiated: bool) {
    const TABLE: u64 = BUFFERS + 0x800;
    let place = |number: u64| (BUFFERS + number * 0x10, 1);
    for (index, flags) in (0u16..).zip(flags) {
        let indirect = (TABLE, table.len() as u32 * 16);
        let points = if flags & INDIRECT == 0 { place(index.into()) } else { indirect };
        driver.describe(DESCRIPTORS, index, points, *flags, (index + 1) % SIZE);
    }
    for (index, flags) in (0u16..).zip(table) {
        let points = if flags & INDIRECT == 0 { place(10 + u64::from(index)) } else { (TABLE, 16) };
        driver.describe(TABLE, index, points, *flags, index + 1);
    }
    driver.offer(0);
    let numbers = |extents: &[Extent]| extents.iter().map(|of| (of.addr.0 - BUFFERS) / 0x10).collect::<Vec<_>>();
    let is = driver.pop().map(|chain| (numbers(&chain.readable), numbers(&chain.writable)));
    assert_eq!(is, by_the_book(flags, table, negotiated), "{flags:?}, {table:?}, {negotiated}");
}

/// Enumerated whole: 8⁴ sequences of flags in a ring of four, with indirect descriptors and without. Shorter chains are among them,
/// with all that may lie behind their end.
#[test]
fn each_sequence_of_flags_up_to_four_is_what_the_specification_makes_of_it() {
    for negotiated in [false, true] {
        let mut driver = Driver::new(RingSetup { indirect: negotiated, ..SETUP });
        sequences(4).for_each(|flags| walks_by_the_book(&mut driver, &flags, &[0], negotiated));
    }
}

/// Enumerated whole: tables of one to four, alone and behind a descriptor of each direction.
#[test]
fn each_indirect_table_up_to_four_is_what_the_specification_makes_of_it() {
    let mut driver = Driver::new(RingSetup { indirect: true, ..SETUP });
    for table in (1..=4).flat_map(sequences) {
        for flags in [&[INDIRECT][..], &[NEXT, INDIRECT], &[NEXT | WRITE, INDIRECT]] {
            walks_by_the_book(&mut driver, flags, &table, true);
        }
    }
}
