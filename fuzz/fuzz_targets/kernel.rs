//! A user's kernel and RAM disk: any bytes, or a sound image with some of them changed, in little memory.
#![no_main]

use std::cell::RefCell;
use std::io::Cursor;

use boot::{Entry, layout, reset};
use libfuzzer_sys::fuzz_target;
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmd_fuzz::Script;

thread_local! {
    /// As small as a guest's may be; what a run leaves in it does the next no harm.
    static MEMORY: RefCell<GuestMemoryMmap> = RefCell::new(
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 20)]).expect("64 MiB of memory")
    );
}

fuzz_target!(|input: &[u8]| {
    let mut script = Script(input);
    let choice = script.byte();
    let command_line = script.bytes(usize::from(choice >> 4));
    let image = match choice % 4 {
        0 => script.0.to_vec(),
        1 => changed(elf(), &mut script),
        _ => changed(bzimage(), &mut script),
    };
    let ram = layout::ram(layout::MIN_MEMORY).expect("the least memory");
    let initrd = Cursor::new(vec![7u8; usize::from(choice) << 8]);
    let initrd = Some(initrd).filter(|_| choice & 4 != 0);
    let entry = Entry::Kernel { kernel: Cursor::new(image), initrd, command_line: command_line.to_vec() };
    MEMORY.with_borrow(|memory| {
        let _ = reset::fill(memory, &ram, 1, entry);
    });
});

/// Places and the bytes that go there, while there are any; then perhaps a shorter file.
fn changed(mut image: Vec<u8>, script: &mut Script<'_>) -> Vec<u8> {
    while !script.is_empty() {
        let (place, value) = (usize::from(script.word()) % image.len(), script.number().to_le_bytes());
        let width = usize::from(script.byte() % 9);
        for (to, from) in image[place..].iter_mut().zip(&value[..width]) {
            *to = *from;
        }
        if script.byte() == 0xFF {
            image.truncate(usize::from(script.word()).max(1));
        }
    }
    image
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Two program headers: code at 16 MiB, and a note that names its start as the entry.
fn elf() -> Vec<u8> {
    let mut image = vec![0; 0x1200];
    put(&mut image, 0, b"\x7FELF\x02\x01\x01");
    put(&mut image, 18, &[62]);
    put(&mut image, 32, &[64]);
    put(&mut image, 54, &[56, 0, 2]);
    for (at, kind, offset, start, len) in [(64, 1u32, 0x1000u64, 0x100_0000u64, 0x200u64), (120, 4, 0x800, 0, 20)] {
        put(&mut image, at, &kind.to_le_bytes());
        for (field, value) in [(8, offset), (24, start), (32, len), (40, len)] {
            put(&mut image, at + field, &value.to_le_bytes());
        }
    }
    put(&mut image, 0x800, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0]);
    put(&mut image, 0x810, &0x100_0000u32.to_le_bytes());
    image
}

/// One setup sector beside the first, then 4 KiB of code.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 0x400 + 0x1000];
    put(&mut image, 0x1F1, &[1]); // setup_sects
    put(&mut image, 0x1F4, &0x100u32.to_le_bytes()); // syssize
    put(&mut image, 0x1FE, &[0x55, 0xAA]);
    put(&mut image, 0x201, &[0x6A]); // to the end of the header
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &[0x0F, 0x02]); // version
    put(&mut image, 0x211, &[1]); // loadflags
    put(&mut image, 0x22C, &0x7FFF_FFFFu32.to_le_bytes()); // initrd_addr_max
    put(&mut image, 0x230, &0x20_0000u32.to_le_bytes()); // kernel_alignment
    put(&mut image, 0x234, &[1, 21, 1, 0]); // relocatable_kernel, min_alignment, xloadflags
    put(&mut image, 0x238, &2047u32.to_le_bytes()); // cmdline_size
    put(&mut image, 0x258, &0x100_0000u64.to_le_bytes()); // pref_address
    put(&mut image, 0x260, &0x10_0000u32.to_le_bytes()); // init_size
    image
}
