//! The entropy device on a ring that a hostile guest works on all the time, also while the device fills a buffer: no call
//! gives more than its bound, and no chain is answered but once.
#![no_main]

use std::cell::RefCell;
use std::sync::Arc;

use devices::entropy::{Entropy, FEATURES, MAX_BYTES};
use devices::queue::RingAddresses;
use libfuzzer_sys::fuzz_target;
use sys::guest_io::GuestMemory;
use vm_memory::GuestAddress;
use vmd_fuzz::Script;
use vmd_fuzz::guest::{self, Ring};

/// Steps of one run.
const MAX_STEPS: usize = 64;

thread_local! {
    static MEMORY: Arc<GuestMemory> = Arc::new(guest::memory());
}

fuzz_target!(|input: &[u8]| MEMORY.with(|memory| run(memory, Script(input))));

fn run(memory: &Arc<GuestMemory>, mut script: Script<'_>) {
    guest::clear(memory);
    let choice = script.byte();
    let driver = RefCell::new(Ring::new(0, choice));
    let features = FEATURES & (1 << 32 | u64::from(choice >> 3 & 3) << 28);
    let mut addresses = driver.borrow().at;
    if choice & 0xE0 == 0xE0 {
        let mut any = || GuestAddress(script.number());
        addresses = RingAddresses { descriptors: any(), available: any(), used: any() };
    }
    let size = driver.borrow().setup(0, false, false).size;
    let base = if choice & 0x80 != 0 { script.word() } else { 0 };
    let Ok(mut entropy) = Entropy::new(memory.clone(), addresses, size, base, features) else { return };
    let script = RefCell::new(script);
    for _ in 0..MAX_STEPS {
        if script.borrow().is_empty() {
            return;
        }
        let choice = script.borrow_mut().byte();
        match choice % 8 {
            0..=3 => driver.borrow_mut().act(memory, &mut script.borrow_mut(), true),
            4..=6 => {
                let before = entropy.save().last_avail;
                let mut given = 0;
                let live = choice & 8 != 0;
                // Where the device asks for bytes the guest is not asleep.
                let served = entropy.serve_from(&mut |into| {
                    if live {
                        driver.borrow_mut().act(memory, &mut script.borrow_mut(), true);
                    }
                    let few = usize::from(choice >> 4 == 1).max(into.len() >> (choice >> 6)).max(1);
                    into.iter_mut().take(few).for_each(|byte| *byte = choice);
                    given += few.min(into.len());
                    Ok(few.min(into.len()))
                });
                assert!(given <= MAX_BYTES, "{given} bytes in one call");
                assert!(entropy.save().last_avail.wrapping_sub(before) <= size, "more chains than entries");
                if served.is_err() {
                    return;
                }
            }
            // It is stopped, and goes on where it stood.
            _ => {
                let saved = entropy.save();
                let again = Entropy::new(memory.clone(), saved.addresses, saved.size, saved.last_avail, features);
                entropy = again.expect("a ring that was right is right");
            }
        }
    }
}
