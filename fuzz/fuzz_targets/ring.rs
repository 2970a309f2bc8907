//! Any ring and any descriptors: chains are bounded, or the ring is broken; nothing outside memory is touched.
#![no_main]

use std::sync::Arc;

use devices::queue::{Chain, MAX_QUEUE_SIZE, RingAddresses, RingSetup, Vring, fill_front, is_inside};
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmd_fuzz::Script;

/// Two pieces with a hole between them.
const LOW: u64 = 0x1_0000;
const HIGH: u64 = 0x2_0000;

fuzz_target!(|input: &[u8]| {
    let mut script = Script(input);
    let pieces = [(GuestAddress(0), LOW as usize), (GuestAddress(HIGH), 0x4000)];
    let memory = Arc::new(GuestMemoryMmap::<()>::from_ranges(&pieces).expect("a little memory"));
    let choice = script.byte();
    let size = 1u16 << (choice % 8);
    let mut place = |usual: u64, any: bool| GuestAddress(if any { script.number() } else { usual });
    let descriptors = place(0x1000, choice & 8 != 0);
    let available = place(0x2000, choice & 16 != 0);
    let used = place(0x3000, choice & 32 != 0);
    let addresses = RingAddresses { descriptors, available, used };
    let last_avail = if choice & 64 != 0 { script.word() } else { 0 };
    let kind = script.byte();
    let setup = RingSetup { addresses, size, last_avail, event_idx: kind & 1 != 0, indirect: kind & 2 != 0 };

    // The driver's part: the available ring, then descriptors, then indirect tables from 0x4000 on.
    let available_len = 4 + 2 * usize::from(size) + 2;
    for (at, len) in [(available, available_len), (descriptors, 16 * usize::from(size)), (GuestAddress(0x4000), 0x2000)]
    {
        let _ = memory.write_slice(script.bytes(len), at);
    }
    let Ok(mut ring) = Vring::new(&memory, setup) else { return };
    let mut chain = Chain::default();
    for _ in 0..2 * u32::from(MAX_QUEUE_SIZE) {
        match ring.pop(&memory, &mut chain) {
            Ok(true) => {}
            Ok(false) | Err(_) => return,
        }
        assert!(chain.readable.len() + chain.writable.len() <= usize::from(size), "more links than entries");
        let before = chain.readable_bytes();
        let mut header = [0; 16];
        if chain.take_front(&memory, &mut header).is_ok() {
            assert_eq!(chain.readable_bytes(), before - 16);
        }
        let room = chain.writable_bytes();
        if let Ok(last) = chain.take_last_byte() {
            assert_eq!(chain.writable_bytes(), room - 1);
            let _ = memory.write_obj(0u8, last);
        }
        let written = fill_front(&memory, &chain.writable, &[1; 100]).unwrap_or(0);
        assert!(written as u64 <= room);
        let _ = chain.writable.iter().all(|extent| is_inside(&memory, *extent));
        if ring.push_used(&memory, &[(chain.head, written as u32)]).is_err() || ring.needs_interrupt(&memory).is_err() {
            return;
        }
        if kind & 4 != 0 && (ring.disable_kicks(&memory).is_err() || ring.enable_kicks(&memory).is_err()) {
            return;
        }
    }
});
