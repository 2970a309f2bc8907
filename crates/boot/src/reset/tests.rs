//! The memory of a guest at reset, and that nothing of the host is in it (spec K6).

use std::io::Cursor;

use vm_memory::{GuestMemoryMmap, GuestMemoryRegion};

use super::*;
use crate::layout::{MIB, START_INFO, ZERO_PAGE};

const RAM: u64 = 64 * MIB;
const KERNEL: u64 = 16 * MIB;

fn memory(bytes: u64) -> (GuestMemoryMmap, Vec<Ram>) {
    let ram = layout::ram(bytes).unwrap();
    let ranges: Vec<_> = ram.iter().map(|piece| (GuestAddress(piece.gpa), piece.len as usize)).collect();
    (GuestMemoryMmap::from_ranges(&ranges).unwrap(), ram)
}

fn put(file: &mut [u8], offset: usize, bytes: &[u8]) {
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn bzimage() -> Cursor<Vec<u8>> {
    // Bytes that are not zero wherever the header does not reach: they must not arrive in the zero page.
    let mut file = vec![0xEE; 0x1000];
    put(&mut file, 0x1F1, &[0; 0x77]);
    put(&mut file, 0x1F1, &[1]);
    put(&mut file, 0x1FE, &[0x55, 0xAA, 0xEB, 0x66]);
    put(&mut file, 0x202, b"HdrS\x0F\x02");
    put(&mut file, 0x211, &[0x81]);
    put(&mut file, 0x22C, &0x7FFF_FFFFu32.to_le_bytes());
    put(&mut file, 0x230, &0x20_0000u32.to_le_bytes());
    put(&mut file, 0x234, &[1, 21, 1, 0]);
    put(&mut file, 0x238, &2047u32.to_le_bytes());
    put(&mut file, 0x258, &KERNEL.to_le_bytes());
    put(&mut file, 0x260, &0x20_0000u32.to_le_bytes());
    Cursor::new(file)
}

fn elf() -> Cursor<Vec<u8>> {
    let mut file = vec![0; 0x2000];
    put(&mut file, 0, b"\x7FELF\x02\x01\x01");
    put(&mut file, 18, &[62]);
    put(&mut file, 32, &[64]);
    put(&mut file, 54, &[56, 0, 2]);
    for (at, kind, offset, paddr, len) in [(64, 1u32, 0x1000u64, KERNEL, 0x1000u64), (120, 4, 0x800, 0, 20)] {
        put(&mut file, at, &kind.to_le_bytes());
        for (field, value) in [(8, offset), (24, paddr), (32, len), (40, len)] {
            put(&mut file, at + field, &value.to_le_bytes());
        }
    }
    put(&mut file, 0x800, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0, 0, 0, 0, 1]);
    Cursor::new(file)
}

fn entry(kernel: Cursor<Vec<u8>>, initrd: Option<Cursor<Vec<u8>>>, command_line: &[u8]) -> Entry<Cursor<Vec<u8>>> {
    Entry::Kernel { kernel, initrd, command_line: command_line.to_vec() }
}

fn page(memory: &GuestMemoryMmap, gpa: u64) -> Vec<u8> {
    let mut page = vec![0; 4096];
    memory.read_slice(&mut page, GuestAddress(gpa)).unwrap();
    page
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

#[test]
fn a_bzimage_finds_its_zero_page() {
    let (memory, ram) = memory(RAM);
    let initrd = Cursor::new(vec![7; 5000]);
    let registers = fill(&memory, &ram, 1, entry(bzimage(), Some(initrd), b"console=ttyS0")).unwrap();
    assert_eq!((registers.rip, registers.rsi), (KERNEL + 0x200, ZERO_PAGE));
    let zero_page = page(&memory, ZERO_PAGE);
    assert_eq!(&zero_page[0x202..0x206], b"HdrS");
    assert_eq!((zero_page[0x210], zero_page[0x211]), (0xFF, 1));
    assert_eq!(u64_at(&zero_page, 0x70), 0xE_0000);
    assert_eq!((u32_at(&zero_page, 0x218), u32_at(&zero_page, 0x21C)), (RAM as u32 - 8192, 5000));
    assert_eq!(u32_at(&zero_page, 0x228), 0x2_0000);
    assert_eq!(zero_page[0x1E8], 5);
    assert_eq!((u64_at(&zero_page, 0x2D0), u64_at(&zero_page, 0x2D8), u32_at(&zero_page, 0x2E0)), (0, 0x9_0000, 1));
    assert_eq!(
        (u64_at(&zero_page, 0x2E4), u64_at(&zero_page, 0x2EC), u32_at(&zero_page, 0x2F4)),
        (0x9_0000, 0x1_0000, 4)
    );
    assert_eq!(&page(&memory, 0x2_0000)[..14], b"console=ttyS0\0");
    assert_eq!(page(&memory, RAM - 8192)[0], 7);
}

#[test]
fn what_is_behind_the_header_of_a_bzimage_stays_out_of_the_zero_page() {
    let (memory, ram) = memory(RAM);
    fill(&memory, &ram, 1, entry(bzimage(), None, b"")).unwrap();
    let zero_page = page(&memory, ZERO_PAGE);
    assert!(zero_page[0x268..0x2D0].iter().all(|byte| *byte == 0));
    assert!(zero_page[0x2D0 + 5 * 20..].iter().all(|byte| *byte == 0));
    assert!(zero_page[..0x70].iter().chain(&zero_page[0x78..0x1E8]).all(|byte| *byte == 0));
}

#[test]
fn the_page_tables_map_4_gib_onto_themselves() {
    let (memory, ram) = memory(RAM);
    let registers = fill(&memory, &ram, 1, entry(bzimage(), None, b"")).unwrap();
    for gpa in [0, ZERO_PAGE, KERNEL, 0xBFFF_FFFF, 0xFFFF_FFFF_u64] {
        let entry = |table: u64, index: u64| u64_at(&page(&memory, table & !0xFFF), index as usize * 8);
        let directory = entry(entry(registers.cr3, 0), gpa >> 30);
        assert_eq!(entry(directory, gpa >> 21 & 511), gpa & !0x1F_FFFF | 0x83);
    }
}

#[test]
fn the_gdt_of_the_registers_is_in_memory() {
    for kernel in [bzimage(), elf()] {
        let (memory, ram) = memory(RAM);
        let registers = fill(&memory, &ram, 1, entry(kernel, None, b"")).unwrap();
        let gdt: [u64; 5] = std::array::from_fn(|index| u64_at(&page(&memory, 0), 0x500 + index * 8));
        assert_eq!((registers.gdt_base, gdt), (0x500, registers.gdt()));
    }
}

#[test]
fn an_elf_kernel_finds_its_start_info() {
    let (memory, ram) = memory(RAM);
    let initrd = Cursor::new(vec![7; 5000]);
    let registers = fill(&memory, &ram, 4, entry(elf(), Some(initrd), b"quiet")).unwrap();
    assert_eq!((registers.rip, registers.rbx), (KERNEL, START_INFO));
    let start_info = page(&memory, START_INFO);
    assert_eq!((u32_at(&start_info, 0), u32_at(&start_info, 4)), (0x336E_C578, 1));
    assert_eq!((u32_at(&start_info, 8), u32_at(&start_info, 12)), (0, 1));
    assert_eq!((u64_at(&start_info, 24), u64_at(&start_info, 32)), (0x2_0000, 0xE_0000));
    let module = u64_at(&start_info, 16) - START_INFO;
    assert_eq!(u64_at(&start_info, module as usize), RAM - 8192);
    assert_eq!(u64_at(&start_info, module as usize + 8), 5000);
    assert_eq!(u32_at(&start_info, 48), 5);
    let map = (u64_at(&start_info, 40) - START_INFO) as usize;
    assert_eq!((u64_at(&start_info, map + 24), u32_at(&start_info, map + 40)), (0x9_0000, 4));
    assert_eq!((u64_at(&start_info, map + 72), u64_at(&start_info, map + 80)), (MIB, RAM - MIB));
}

#[test]
fn a_guest_without_initrd_has_no_module() {
    let (memory, ram) = memory(RAM);
    fill(&memory, &ram, 1, entry(elf(), None, b"")).unwrap();
    let start_info = page(&memory, START_INFO);
    assert_eq!((u32_at(&start_info, 12), u64_at(&start_info, 16)), (0, 0));
}

#[test]
fn what_nobody_wrote_is_zero() {
    let (memory, ram) = memory(RAM);
    fill(&memory, &ram, 64, entry(elf(), None, b"quiet")).unwrap();
    let written = [
        (0x500, 40),
        (0x6000, 0x200),
        (0x2_0000, 5),
        (0x9_0000, 0x1_0000),
        (0xE_0000, 36),
        (0xF_FFF0, 9),
        (KERNEL, 0x1000),
    ];
    for region in memory.iter() {
        for gpa in (0..region.len()).step_by(4096) {
            let bytes = page(&memory, gpa);
            for (at, byte) in (gpa..).zip(bytes) {
                assert!(byte == 0 || written.iter().any(|(start, len)| (*start..start + len).contains(&at)), "{at:#x}");
            }
        }
    }
}

#[test]
fn the_reset_vector_resets_the_machine() {
    for kernel in [bzimage(), elf()] {
        let (memory, ram) = memory(RAM);
        fill(&memory, &ram, 1, entry(kernel, None, b"")).unwrap();
        // mov $0xCF9, %dx; mov $6, %al; out %al, %dx; hlt; jmp to the hlt
        assert_eq!(
            page(&memory, 0xF_F000)[0xFF0..],
            [0xBA, 0xF9, 0x0C, 0xB0, 6, 0xEE, 0xF4, 0xEB, 0xFD, 0, 0, 0, 0, 0, 0, 0]
        );
    }
}

#[test]
fn a_command_line_that_the_kernel_would_cut_is_refused() {
    let (memory, ram) = memory(RAM);
    let run = |line: &[u8]| fill(&memory, &ram, 1, entry(bzimage(), None, line));
    assert!(run(&[b'x'; 2047]).is_ok());
    assert_eq!(run(&[b'x'; 2048]), Err(Failed::CommandLine(Error::CommandLineTooLong { len: 2048, max: 2047 })));
    assert_eq!(run(b"a\0b"), Err(Failed::CommandLine(Error::CommandLineNul)));
}

#[test]
fn an_initrd_larger_than_the_ram_is_refused() {
    let (memory, ram) = memory(RAM);
    let initrd = Cursor::new(vec![1; RAM as usize]);
    let failed = fill(&memory, &ram, 1, entry(elf(), Some(initrd), b""));
    assert!(matches!(failed, Err(Failed::Initrd(Error::InitrdTooLarge { len: RAM, .. }))));
}

#[test]
fn memory_above_4_gib_is_told_to_the_guest() {
    let ram = layout::ram(6 << 30).unwrap();
    // Only the first piece is needed here; the second is never written at reset.
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM as usize)]).unwrap();
    fill(&memory, &ram, 1, entry(bzimage(), None, b"")).unwrap();
    let zero_page = page(&memory, ZERO_PAGE);
    assert_eq!(zero_page[0x1E8], 6);
    assert_eq!((u64_at(&zero_page, 0x2D0 + 100), u64_at(&zero_page, 0x2D8 + 100)), (1 << 32, 3 << 30));
}
