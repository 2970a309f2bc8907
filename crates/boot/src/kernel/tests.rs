//! Kernels as users hand them in: real ones, cut ones, and ones made to hurt (spec K1 to K3).

use std::io::Cursor;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::layout::MIB;

const RAM: u64 = 64 * MIB;
const KERNEL: u64 = 16 * MIB;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM as usize)]).unwrap()
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if file.len() < offset + bytes.len() {
        file.resize(offset + bytes.len(), 0);
    }
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn program_header(kind: u32, offset: u64, paddr: u64, filesz: u64, memsz: u64) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(kind.to_le_bytes());
    header.extend(7u32.to_le_bytes());
    for field in [offset, 0xFFFF_FFFF_8000_0000 | paddr, paddr, filesz, memsz, 4096] {
        header.extend(field.to_le_bytes());
    }
    header
}

fn note(name: &[u8], kind: u32, descriptor: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    note.extend((name.len() as u32).to_le_bytes());
    note.extend((descriptor.len() as u32).to_le_bytes());
    note.extend(kind.to_le_bytes());
    for part in [name, descriptor] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

fn xen_note(entry: u64) -> Vec<u8> {
    note(b"Xen\0", 18, &entry.to_le_bytes())
}

/// Headers at 0, notes at 0x800, 0x1000 bytes of code at 0x1000.
fn elf_with(headers: &[Vec<u8>], notes: &[u8]) -> Vec<u8> {
    let mut file = b"\x7FELF\x02\x01\x01".to_vec();
    put(&mut file, 18, &62u16.to_le_bytes());
    put(&mut file, 24, &KERNEL.to_le_bytes());
    put(&mut file, 32, &64u64.to_le_bytes());
    put(&mut file, 54, &56u16.to_le_bytes());
    put(&mut file, 56, &(headers.len() as u16).to_le_bytes());
    put(&mut file, 64, &headers.concat());
    put(&mut file, 0x800, notes);
    put(&mut file, 0x1000, &[0x90; 0x1000]);
    file
}

fn load_header() -> Vec<u8> {
    program_header(1, 0x1000, KERNEL, 0x1000, 0x3000)
}

fn elf_with_notes(notes: &[u8]) -> Vec<u8> {
    elf_with(&[load_header(), program_header(4, 0x800, 0, notes.len() as u64, notes.len() as u64)], notes)
}

fn elf() -> Vec<u8> {
    elf_with_notes(&xen_note(KERNEL + 0x10))
}

/// An ELF kernel with one PT_LOAD header of the test's making.
fn elf_with_segment(header: Vec<u8>) -> Vec<u8> {
    let notes = xen_note(KERNEL + 0x10);
    elf_with(&[load_header(), header, program_header(4, 0x800, 0, notes.len() as u64, 0)], &notes)
}

fn bzimage() -> Vec<u8> {
    let mut file = vec![0; 0x400];
    put(&mut file, 0x1F1, &[1]);
    put(&mut file, 0x1F4, &0x100u32.to_le_bytes());
    put(&mut file, 0x1FE, &[0x55, 0xAA]);
    put(&mut file, 0x200, &[0xEB, 0x66]);
    put(&mut file, 0x202, b"HdrS");
    put(&mut file, 0x206, &0x020Fu16.to_le_bytes());
    put(&mut file, 0x211, &[1]);
    put(&mut file, 0x22C, &0x7FFF_FFFFu32.to_le_bytes());
    put(&mut file, 0x230, &0x20_0000u32.to_le_bytes());
    put(&mut file, 0x234, &[1]);
    put(&mut file, 0x236, &1u16.to_le_bytes());
    put(&mut file, 0x238, &2047u32.to_le_bytes());
    put(&mut file, 0x258, &KERNEL.to_le_bytes());
    put(&mut file, 0x260, &0x20_0000u32.to_le_bytes());
    file.extend([0xCC; 0x1000]);
    file
}

fn bzimage_with(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = bzimage();
    put(&mut file, offset, bytes);
    file
}

fn probe(file: &[u8]) -> Result<Kernel, Error> {
    Kernel::probe(&mut Cursor::new(file))
}

fn load(file: &[u8]) -> Result<Loaded, Error> {
    probe(file)?.load(&memory(), &mut Cursor::new(file), RAM)
}

fn field(error: Result<Loaded, Error>) -> &'static str {
    match error {
        Err(Error::Header { field, .. }) => field,
        other => panic!("no damaged header: {other:?}"),
    }
}

#[test]
fn an_elf_kernel_is_entered_by_pvh() {
    let loaded = load(&elf()).unwrap();
    assert_eq!(loaded, Loaded { registers: Registers::pvh(KERNEL as u32 + 0x10), end: KERNEL + 0x3000 });
}

#[test]
fn a_bzimage_is_loaded_where_it_prefers() {
    let (memory, file) = (memory(), bzimage());
    let loaded = probe(&file).unwrap().load(&memory, &mut Cursor::new(&file), RAM).unwrap();
    assert_eq!(loaded, Loaded { registers: Registers::linux_64(KERNEL + 0x200), end: KERNEL + 0x20_0000 });
    assert_eq!(memory.read_obj::<u8>(GuestAddress(KERNEL)).unwrap(), 0xCC);
}

#[test]
fn a_bzimage_needs_its_init_size_from_where_it_prefers_to_run() {
    let file = bzimage_with(0x260, &(48u32 << 20).to_le_bytes());
    assert_eq!(load(&file).unwrap().end, RAM);
    let file = bzimage_with(0x260, &(52u32 << 20).to_le_bytes());
    let said = load(&file).unwrap_err().to_string();
    assert!(said.ends_with("(68 MiB), the guest has 64 MiB there; give it more memory"), "{said}");
}

#[test]
fn a_bzimage_that_may_move_runs_at_the_next_multiple_of_its_alignment() {
    let mut file = bzimage_with(0x230, &(16u32 << 20).to_le_bytes());
    put(&mut file, 0x258, &(KERNEL + MIB).to_le_bytes());
    let loaded = load(&file).unwrap();
    assert_eq!(loaded.registers, Registers::linux_64(KERNEL + MIB + 0x200));
    assert_eq!(loaded.end, 2 * KERNEL + 0x20_0000);
    file[0x234] = 0;
    assert_eq!(load(&file).unwrap().end, KERNEL + MIB + 0x20_0000);
}

#[test]
fn a_bzimage_longer_than_it_says_has_room_for_the_file() {
    let file = bzimage_with(0x260, &0u32.to_le_bytes());
    assert_eq!(load(&file).unwrap().end, KERNEL + 0x1000);
}

#[test]
fn a_bzimage_that_fits_nowhere_is_refused() {
    for init_size in [64u32 << 20, u32::MAX] {
        let file = bzimage_with(0x260, &init_size.to_le_bytes());
        assert!(matches!(load(&file), Err(Error::KernelOutsideRam { available: RAM, .. })));
    }
}

#[test]
fn a_bzimage_that_may_not_move_is_not_moved() {
    let mut file = bzimage_with(0x260, &(60u32 << 20).to_le_bytes());
    file[0x234] = 0;
    assert!(matches!(load(&file), Err(Error::KernelOutsideRam { start: KERNEL, .. })));
}

#[test]
fn files_that_are_no_kernels_are_refused() {
    let with = |offset: usize, bytes: &[u8]| {
        let mut file = vec![0; 4096];
        put(&mut file, offset, bytes);
        file
    };
    for (file, what) in [
        (vec![], "empty"),
        (b"\x1F\x8B\x08".to_vec(), "compressed with gzip"),
        (with(0, b"\x28\xB5\x2F\xFD"), "compressed with zstd"),
        (with(0, b"MZ"), "a program for EFI or Windows"),
        (with(0x38, b"ARM\x64"), "a kernel for ARM"),
        (with(0x1FE, &[0x55, 0xAA]), "a boot sector, as a disk begins with"),
        (b"QFI\xFB\0\0\0\x03".to_vec(), "a disk image (qcow2)"),
        (with(0, b"070701"), "an initial RAM disk (cpio)"),
        (with(0, b""), "of an unknown kind"),
    ] {
        let said = probe(&file).unwrap_err().to_string();
        assert_eq!(
            said,
            format!("is {what}, and neither a Linux bzImage nor an ELF kernel; name one such as /vmlinuz")
        );
    }
}

#[test]
fn a_bzimage_has_both_its_magic_and_the_boot_sectors() {
    for (offset, bytes) in [(0x202, &b"HdrT"[..]), (0x1FE, &[0x55, 0xAB])] {
        assert!(matches!(probe(&bzimage_with(offset, bytes)), Err(Error::NotAKernel(_))));
    }
}

#[test]
fn the_least_that_a_bzimage_may_ask_for_is_taken() {
    for (offset, bytes) in [
        (0x206, &0x020Cu16.to_le_bytes()[..]),
        (0x230, &4096u32.to_le_bytes()),
        (0x230, &(16u32 << 20).to_le_bytes()),
        (0x258, &MIB.to_le_bytes()),
    ] {
        assert!(load(&bzimage_with(offset, bytes)).is_ok(), "{bytes:x?} at {offset:#x}");
    }
    assert_eq!(field(load(&bzimage_with(0x230, &(32u32 << 20).to_le_bytes()))), "kernel_alignment");
}

#[test]
fn a_bzimage_without_a_64_bit_entrys_code_is_cut_short() {
    let mut file = bzimage_with(0x1F4, &0u32.to_le_bytes());
    file.truncate(0x400 + 0x201);
    assert!(probe(&file).is_ok());
    file.pop();
    assert_eq!(probe(&file), Err(Error::CutShort { what: "setup sectors", needed: 0x400, len: 0x600 }));
}

#[test]
fn no_setup_sectors_are_four() {
    let error = probe(&bzimage_with(0x1F1, &[0])).unwrap_err();
    assert_eq!(error, Error::CutShort { what: "protected-mode code", needed: 0xA00 + 0x1000, len: 0x1400 });
}

#[test]
fn every_truncation_is_refused() {
    let file = bzimage();
    // The last paragraph need not be whole: `syssize` does not tell.
    for len in 0..=file.len() - 16 {
        let short = probe(&file[..len]).and_then(|kernel| kernel.load(&memory(), &mut Cursor::new(&file[..len]), RAM));
        assert!(short.is_err(), "{len} bytes of a bzImage were taken");
    }
    let file = elf();
    for len in 0..file.len() {
        assert!(probe(&file[..len]).is_err(), "{len} bytes of an ELF kernel were taken");
    }
}

#[test]
fn setup_sects_beyond_the_file_are_refused() {
    assert!(matches!(load(&bzimage_with(0x1F1, &[255])), Err(Error::CutShort { what: "setup sectors", .. })));
}

#[test]
fn a_last_paragraph_that_is_not_whole_is_taken() {
    let file = bzimage();
    for missing in [1, 8, 15] {
        assert!(load(&file[..file.len() - missing]).is_ok(), "{missing} bytes short");
    }
}

#[test]
fn syssize_beyond_the_file_is_refused() {
    for paragraphs in [0x101u32, u32::MAX] {
        let file = bzimage_with(0x1F4, &paragraphs.to_le_bytes());
        assert!(matches!(load(&file), Err(Error::CutShort { what: "protected-mode code", .. })));
    }
}

#[test]
fn a_bzimage_without_a_64_bit_entry_is_refused() {
    let old = bzimage_with(0x206, &0x020Bu16.to_le_bytes());
    assert_eq!(load(&old), Err(Error::No64BitEntry { major: 2, minor: 11 }));
    assert!(matches!(load(&bzimage_with(0x236, &[0, 0])), Err(Error::No64BitEntry { .. })));
}

#[test]
fn senseless_bzimage_fields_are_refused() {
    assert_eq!(field(load(&bzimage_with(0x211, &[0]))), "loadflags");
    for alignment in [0u32, 1, 3 << 20, 1 << 31] {
        assert_eq!(field(load(&bzimage_with(0x230, &alignment.to_le_bytes()))), "kernel_alignment");
    }
    for address in [0u64, 0x7000, 0xE_0000, KERNEL + 1] {
        assert_eq!(field(load(&bzimage_with(0x258, &address.to_le_bytes()))), "pref_address");
    }
    let wrapping = bzimage_with(0x258, &(u64::MAX - 0xFFF).to_le_bytes());
    assert!(matches!(load(&wrapping), Err(Error::KernelOutsideRam { end: u64::MAX, .. })));
}

#[test]
fn a_command_line_size_of_4_gib_is_cut_to_what_linux_takes() {
    let kernel = probe(&bzimage_with(0x238, &u32::MAX.to_le_bytes())).unwrap();
    assert_eq!(kernel.max_command_line(), 2047);
    assert_eq!(probe(&bzimage_with(0x238, &255u32.to_le_bytes())).unwrap().max_command_line(), 255);
}

#[test]
fn the_initrd_stays_below_what_the_kernel_accepts() {
    let kernel = probe(&bzimage_with(0x22C, &0x37F_FFFFu32.to_le_bytes())).unwrap();
    assert_eq!(kernel.initrd_ceiling(RAM), 0x380_0000);
    assert_eq!(probe(&elf()).unwrap().initrd_ceiling(RAM), RAM);
}

#[test]
fn elf_files_of_other_processors_are_refused() {
    for (offset, bytes) in [(4, &[1][..]), (5, &[2]), (18, &[183, 0])] {
        let mut file = elf();
        put(&mut file, offset, bytes);
        assert_eq!(load(&file), Err(Error::OtherProcessor));
    }
}

#[test]
fn an_elf_kernel_without_the_note_is_refused() {
    for notes in [vec![], note(b"Linux\0", 18, &[0; 4]), note(b"Xen\0", 17, &[0; 4]), note(b"Xeno", 18, &[0; 4])] {
        assert_eq!(load(&elf_with_notes(&notes)), Err(Error::NoPvhEntry));
    }
}

#[test]
fn wild_counts_and_offsets_of_program_headers_are_refused() {
    for count in [0u16, 65, 65535] {
        let mut file = elf();
        put(&mut file, 56, &count.to_le_bytes());
        assert_eq!(field(load(&file)), "e_phnum");
    }
    for len in [0u16, 55, 57, 65535] {
        let mut file = elf();
        put(&mut file, 54, &len.to_le_bytes());
        assert_eq!(field(load(&file)), "e_phentsize");
    }
    let mut file = elf();
    put(&mut file, 32, &0u64.to_le_bytes());
    assert_eq!(field(load(&file)), "e_phoff");
    for offset in [u64::MAX, u64::MAX - 100, 1 << 40] {
        put(&mut file, 32, &offset.to_le_bytes());
        assert!(matches!(load(&file), Err(Error::CutShort { what: "program headers", .. })));
    }
}

#[test]
fn a_segment_larger_in_the_file_than_in_memory_is_refused() {
    assert_eq!(field(load(&elf_with_segment(program_header(1, 0x1000, KERNEL, 0x1000, 0xFFF)))), "p_filesz");
}

#[test]
fn a_segment_over_the_loaders_own_pages_is_refused() {
    for start in [0, 0x7000, 0xF_FFFF] {
        let file = elf_with_segment(program_header(1, 0x1000, start, 1, 1));
        assert_eq!(load(&file), Err(Error::KernelTooLow { start }));
    }
}

#[test]
fn a_segment_outside_ram_is_refused() {
    for (start, len) in [(RAM - 1, 2), (0xC000_0000, 1), (1 << 32, 1), (1 << 60, 1), (KERNEL, RAM), (KERNEL, 1 << 62)] {
        let file = elf_with_segment(program_header(1, 0x1000, start, 1, len));
        assert!(matches!(load(&file), Err(Error::KernelOutsideRam { .. })), "{start:#x} {len:#x}");
    }
}

#[test]
fn a_segment_from_the_first_byte_to_the_last_is_taken() {
    for (start, len) in [(MIB, 1), (RAM - 1, 1), (MIB, RAM - MIB)] {
        let loaded = load(&elf_with_segment(program_header(1, 0x1000, start, 1, len))).unwrap();
        assert_eq!(loaded.end, (KERNEL + 0x3000).max(start + len));
    }
}

#[test]
fn a_segment_that_wraps_is_refused() {
    for (start, len) in [(u64::MAX, 2), (KERNEL, u64::MAX), (u64::MAX - 0xFFF, 0x1001)] {
        assert_eq!(field(load(&elf_with_segment(program_header(1, 0x1000, start, 1, len)))), "p_memsz");
    }
}

#[test]
fn a_segment_outside_the_file_is_refused() {
    for offset in [0x1001, 0x2000, u64::MAX, u64::MAX - 0xFFF] {
        let file = elf_with_segment(program_header(1, offset, KERNEL, 0x1000, 0x1000));
        assert!(matches!(load(&file), Err(Error::CutShort { what: "segments", .. })), "{offset:#x}");
    }
}

#[test]
fn a_segment_of_no_size_is_ignored() {
    assert!(load(&elf_with_segment(program_header(1, u64::MAX, u64::MAX, 0, 0))).is_ok());
}

#[test]
fn an_entry_outside_the_loaded_bytes_is_refused() {
    for entry in [0, KERNEL - 1, KERNEL + 0x1000, 0xFFFF_FFFF] {
        assert_eq!(field(load(&elf_with_notes(&xen_note(entry)))), "PHYS32_ENTRY");
    }
}

#[test]
fn an_entry_has_4_or_8_bytes_and_fits_32_bits() {
    let entry = (KERNEL as u32 + 0x20).to_le_bytes();
    assert_eq!(
        load(&elf_with_notes(&note(b"Xen\0", 18, &entry))).unwrap().registers,
        Registers::pvh(KERNEL as u32 + 0x20)
    );
    assert_eq!(field(load(&elf_with_notes(&xen_note(1 << 32 | KERNEL)))), "PHYS32_ENTRY");
    for descriptor in [&[][..], &[0; 3], &[0; 5], &[0; 16]] {
        assert_eq!(field(load(&elf_with_notes(&note(b"Xen\0", 18, descriptor)))), "n_descsz");
    }
}

#[test]
fn of_two_notes_the_first_counts() {
    let notes = [note(b"GNU\0", 3, &[1; 20]), xen_note(KERNEL + 0x30), xen_note(KERNEL + 0x40)].concat();
    assert_eq!(load(&elf_with_notes(&notes)).unwrap().registers, Registers::pvh(KERNEL as u32 + 0x30));
}

#[test]
fn of_two_note_segments_the_first_that_has_an_entry_counts() {
    let (gnu, first, second) = (note(b"GNU\0", 3, &[1; 4]), xen_note(KERNEL + 0x30), xen_note(KERNEL + 0x40));
    let mut at = 0x800;
    let mut headers = vec![load_header()];
    for notes in [&gnu, &first, &second] {
        headers.push(program_header(4, at, 0, notes.len() as u64, 0));
        at += notes.len() as u64;
    }
    let file = elf_with(&headers, &[gnu, first, second].concat());
    assert_eq!(load(&file).unwrap().registers, Registers::pvh(KERNEL as u32 + 0x30));
}

#[test]
fn note_sizes_that_wrap_or_leave_the_segment_are_refused() {
    for (offset, name) in [(0, "n_namesz"), (4, "n_descsz")] {
        for size in [21u32, 0x7FFF_FFFF, 0xFFFF_FFFC, u32::MAX] {
            let mut notes = xen_note(KERNEL + 0x10);
            put(&mut notes, offset, &size.to_le_bytes());
            assert_eq!(field(load(&elf_with_notes(&notes))), name);
        }
    }
}

#[test]
fn a_note_segment_beyond_the_limit_is_refused() {
    for len in [(64 << 10) + 1, u64::MAX] {
        let notes = xen_note(KERNEL);
        assert_eq!(field(load(&elf_with(&[load_header(), program_header(4, 0x800, 0, len, len)], &notes))), "p_filesz");
    }
}

#[test]
fn a_kernel_that_shrinks_between_probe_and_load_fails_cleanly() {
    let kernel = probe(&elf()).unwrap();
    let short = elf()[..0x1800].to_vec();
    assert!(matches!(kernel.load(&memory(), &mut Cursor::new(short), RAM), Err(Error::Read(_))));
}

proptest! {
    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = probe(&bytes);
    }

    #[test]
    fn a_damaged_elf_kernel_is_refused_or_lies_in_ram(
        damage in proptest::collection::vec((0usize..0x880, any::<u8>()), 1..12)
    ) {
        let mut file = elf();
        for (offset, byte) in damage {
            file[offset] = byte;
        }
        if let Ok(loaded) = load(&file) {
            prop_assert!(loaded.end <= RAM && loaded.end > MIB);
        }
    }

    #[test]
    fn a_damaged_bzimage_is_refused_or_lies_in_ram(
        damage in proptest::collection::vec((0x1F1usize..0x270, any::<u8>()), 1..6)
    ) {
        let mut file = bzimage();
        for (offset, byte) in damage {
            file[offset] = byte;
        }
        if let Ok(loaded) = load(&file) {
            prop_assert!(loaded.end <= RAM && loaded.end > MIB);
        }
    }

    #[test]
    fn any_notes_are_answered(notes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = load(&elf_with_notes(&notes));
    }
}
