//! Guests that need no time: a few bytes of code in an ELF file with the PVH entry, for tests of the daemon around them.

use std::path::{Path, PathBuf};

/// Where the code lies in guest memory: what PVH enters, in 32-bit protected mode.
const ENTRY: u32 = 0x10_0000;

/// Where it lies in the file, after headers and note.
const CODE_OFFSET: usize = 0x200;

/// Where the note lies.
const NOTE_OFFSET: usize = 0x100;

/// What the guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// Halts with interrupts off, for ever: it takes a signal, or `vmctl stop -f`, to end it.
    Nothing,
    /// Waits for a byte on its console, then resets the machine by the keyboard controller.
    ResetWhenTyped,
    /// Sleeps until its power button is pressed, then powers off.
    PowersOff,
}

impl Does {
    fn code(self) -> &'static [u8] {
        match self {
            // cli; hlt; jmp to hlt
            Does::Nothing => &[0xfa, 0xf4, 0xeb, 0xfd],
            // mov dx, 0x3fd; in al, dx; test al, 1; jz to in; mov al, 0xfe; out 0x64, al; cli; hlt
            Does::ResetWhenTyped => {
                &[0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb, 0xb0, 0xfe, 0xe6, 0x64, 0xfa, 0xf4]
            }
            Does::PowersOff => &POWERS_OFF,
        }
    }
}

/// The code of [`Does::PowersOff`], an interrupt's way to it included.
#[rustfmt::skip]
const POWERS_OFF: [u8; 132] = [
    0xfa, 0xbc, 0x00, 0x00, 0x09, 0x00, // cli; mov esp, 0x90000
    0x0f, 0x01, 0x15, 0x78, 0x00, 0x10, 0x00, 0x0f, 0x01, 0x1d, 0x7e, 0x00, 0x10, 0x00, // lgdt and lidt, see below
    0xc7, 0x05, 0xf0, 0x00, 0xe0, 0xfe, 0xff, 0x01, 0x00, 0x00, // the local APIC on: its spurious interrupt's register
    0xc7, 0x05, 0x00, 0x00, 0xc0, 0xfe, 0x22, 0x00, 0x00, 0x00, // the I/O APIC's entry of the SCI, 9:
    0xc7, 0x05, 0x10, 0x00, 0xc0, 0xfe, 0x20, 0x80, 0x00, 0x00, // vector 0x20, by level
    0xc7, 0x05, 0x00, 0x00, 0xc0, 0xfe, 0x23, 0x00, 0x00, 0x00, // and its upper half:
    0xc7, 0x05, 0x10, 0x00, 0xc0, 0xfe, 0x00, 0x00, 0x00, 0x00, // to the first processor
    0x66, 0xba, 0x02, 0x06, 0x66, 0xb8, 0x00, 0x01, 0x66, 0xef, // PM1 enable: the button (ACPI 6.5, 4.8.3.1)
    0xfb, 0xf4, 0xeb, 0xfc, // sti; hlt; jmp to sti
    0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x01, 0x34, 0x66, 0xef, 0xfa, 0xf4, // vector 0x20: PM1 control gets S5; cli; hlt
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x9a, 0xcf, 0x00, // the GDT: flat code
    0x54, 0x00, 0x08, 0x00, 0x00, 0x8e, 0x10, 0x00, // the IDT's entry 0x20, the only one there
    0x0f, 0x00, 0x60, 0x00, 0x10, 0x00, // where the GDT is
    0x07, 0x01, 0x70, 0xff, 0x0f, 0x00, // where the IDT would begin
];

/// The file's bytes (System V ABI, chapters 4 and 5; Xen, public/elfnote.h, PHYS32_ENTRY).
pub fn kernel(does: Does) -> Vec<u8> {
    let code = does.code();
    let mut file = vec![0; CODE_OFFSET];
    let mut put = |at: usize, bytes: &[u8]| {
        file.splice(at..at + bytes.len(), bytes.iter().copied());
    };
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2u16.to_le_bytes()); // e_type: ET_EXEC
    put(18, &62u16.to_le_bytes()); // e_machine: EM_X86_64
    put(20, &1u32.to_le_bytes()); // e_version
    put(24, &u64::from(ENTRY).to_le_bytes());
    put(32, &64u64.to_le_bytes()); // e_phoff
    put(52, &64u16.to_le_bytes()); // e_ehsize
    put(54, &56u16.to_le_bytes()); // e_phentsize
    put(56, &2u16.to_le_bytes()); // e_phnum
    put(64, &program_header(1, 5, CODE_OFFSET, code.len()));
    put(120, &program_header(4, 4, NOTE_OFFSET, 20));
    put(NOTE_OFFSET, &4u32.to_le_bytes()); // n_namesz
    put(NOTE_OFFSET + 4, &4u32.to_le_bytes()); // n_descsz
    put(NOTE_OFFSET + 8, &18u32.to_le_bytes()); // n_type: XEN_ELFNOTE_PHYS32_ENTRY
    put(NOTE_OFFSET + 12, b"Xen\0");
    put(NOTE_OFFSET + 16, &ENTRY.to_le_bytes());
    file.extend(code);
    file
}

fn program_header(kind: u32, flags: u32, offset: usize, len: usize) -> Vec<u8> {
    let wide = |number: usize| u64::try_from(number).expect("sizes are 64 bits").to_le_bytes();
    let address = u64::from(ENTRY).to_le_bytes();
    let words = [wide(offset), address, address, wide(len), wide(len), wide(4)];
    let mut header = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
    header.extend(words.concat());
    header
}

/// Writes the kernel to a file in a directory.
pub fn kernel_file(dir: &Path, does: Does) -> PathBuf {
    let path = dir.join(format!("{does:?}.elf"));
    std::fs::write(&path, kernel(does)).expect("a test's directory can be written to");
    path
}

/// A `vm` block that boots this kernel, not started with the daemon, with further lines.
pub fn vm(name: &str, kernel: &Path, options: &[&str]) -> String {
    let boot = format!("boot \"{}\"", kernel.display());
    let lines = ["disable", "memory 64M", &boot].into_iter().chain(options.iter().copied());
    let body: String = lines.map(|line| format!("\t{line}\n")).collect();
    format!("vm \"{name}\" {{\n{body}}}\n")
}
