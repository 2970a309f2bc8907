//! A guest that programs every chip, waits, and then says what it finds in each. Its code is written by hand: 32-bit, flat,
//! no paging, as the PVH entry has it.

use boot::registers::Registers;
use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestMemory;

/// Where it lies, and how long it is with all that it works on.
pub const LOAD: u32 = 0x100_0000;
pub const LEN: usize = 0x6000;
/// What follows its code, from there: interrupt table, its descriptor, handlers, counters of interrupts, virtqueue.
const IDT: u32 = LOAD + 0x2000;
const IDTR: u32 = LOAD + 0x2800;
const ON_ALARM: u32 = LOAD + 0x2900;
const ON_MESSAGE: u32 = LOAD + 0x2A00;
pub const ALARMS: u32 = LOAD + 0x2B00;
const MESSAGES: u32 = LOAD + 0x2B04;
const DESCRIPTORS: u32 = LOAD + 0x3000;
const AVAILABLE: u32 = LOAD + 0x3800;
const USED: u32 = LOAD + 0x4000;
const BUFFER: u32 = LOAD + 0x5000;

/// The port where it tells how far it is; nobody answers there.
pub const MARKS: u16 = 0xF4;
/// It has programmed all chips, and waits for the clock's alarm.
pub const READY: u8 = 1;
/// It has looked at all chips, and is about to ask the entropy device for bytes.
pub const LOOKED: u8 = 2;
/// What it writes to the console before it is ready.
pub const EARLY: &[u8] = b"early";

/// Vector of the alarm, the first of the second 8259, and of the entropy device's queue.
const ALARM_VECTOR: u8 = 0x28;
const MESSAGE_VECTOR: u8 = 0x51;
/// Bytes that it asks the entropy device for.
const ASKED: u8 = 16;

/// The entropy device: slot 1, BAR 0 at the beginning of the window; offsets as in hw's layout.
const BAR: u32 = 0xC000_0000;
const NOTIFY: u32 = BAR + 0x3000;
const MSIX_TABLE: u32 = BAR + 0x8000;
const LOCAL_APIC: u32 = boot::layout::LAPIC;

/// Something that the guest looks at: the code that leaves it in EAX, and what has to be there.
pub struct Look {
    pub what: &'static str,
    code: Vec<u8>,
    pub sees: Vec<u8>,
}

/// Width of an access.
#[derive(Clone, Copy)]
enum Width {
    Byte,
    Word,
    Long,
}

use Width::{Byte, Long, Word};

impl Width {
    /// An instruction by its byte form's opcode; those of the others follow from it.
    fn instruction(self, byte_form: u8) -> Vec<u8> {
        match self {
            Byte => vec![byte_form],
            Word => vec![0x66, byte_form | 1],
            Long => vec![byte_form | 1],
        }
    }
}

fn with(opcode: &[u8], immediate: u32) -> Vec<u8> {
    [opcode, &immediate.to_le_bytes()].concat()
}

/// `mov edx, port; mov eax, value; out dx, eax` or a part of it.
fn out(port: u16, width: Width, value: u32) -> Vec<u8> {
    [with(&[0xBA], port.into()), with(&[0xB8], value), width.instruction(0xEE)].concat()
}

/// `mov edx, port; in eax, dx` or a part of it.
fn input(port: u16, width: Width) -> Vec<u8> {
    [with(&[0xBA], port.into()), width.instruction(0xEC)].concat()
}

/// `mov eax, value; mov [at], eax` or a part of it.
fn store(at: u32, width: Width, value: u32) -> Vec<u8> {
    let [opcode @ .., last] = &*width.instruction(0xA2) else { unreachable!() };
    [with(&[0xB8], value), opcode.to_vec(), with(&[*last], at)].concat()
}

/// `mov eax, [at]` or a part of it.
fn load(at: u32, width: Width) -> Vec<u8> {
    let [opcode @ .., last] = &*width.instruction(0xA0) else { unreachable!() };
    [opcode.to_vec(), with(&[*last], at)].concat()
}

/// Writes so many bytes of EAX to the console: `out dx, al; shr eax, 8`.
fn print(count: usize) -> Vec<u8> {
    [with(&[0xBA], 0x3F8), [0xEE, 0xC1, 0xE8, 8].repeat(count)].concat()
}

/// Sleeps until this counter is not 0: `cli; cmp byte [counter], 0; jne +4; sti; hlt; jmp -14`.
fn wait(counter: u32) -> Vec<u8> {
    [with(&[0xFA, 0x80, 0x3D], counter), vec![0, 0x75, 4, 0xFB, 0xF4, 0xEB, 0xF2]].concat()
}

/// Chooses a register of the clock. What is read or written next at 0x71 is that register.
fn clock(index: u8) -> Vec<u8> {
    out(0x70, Byte, index.into())
}

fn set_clock(index: u8, value: u8) -> Vec<u8> {
    [clock(index), out(0x71, Byte, value.into())].concat()
}

/// The address of a register of the entropy device's configuration space.
fn config_address(register: u32) -> u32 {
    0x8000_0800 | register
}

/// Registers of the chips that interrupts need, in KVM: the 8259s, whose line 8 alone is open, and the local APIC.
fn interrupts() -> Vec<u8> {
    let controllers = [(0x20, [0x20, 4, 1, 0xFB]), (0xA0, [ALARM_VECTOR, 2, 1, 0xFE])];
    let words = controllers.into_iter().flat_map(|(port, words)| {
        let rest = words.into_iter().flat_map(move |word| out(port + 1, Byte, word.into()));
        out(port, Byte, 0x11).into_iter().chain(rest)
    });
    let load_table = with(&[0x0F, 0x01, 0x1D], IDTR); // lidt [IDTR]
    words.chain(load_table).chain(store(LOCAL_APIC + 0xF0, Long, 0x1FF)).collect()
}

/// Programs the entropy device up to DRIVER_OK: a queue with one buffer, its vector, and MSI-X.
fn entropy() -> Vec<u8> {
    let config = |register, value| [out(0xCF8, Long, config_address(register)), out(0xCFC, Long, value)].concat();
    let msix = [out(0xCF8, Long, config_address(0x40)), out(0xCFE, Word, 0x8000)].concat();
    let common = |at, width, value| store(BAR + at, width, value);
    [
        config(0x10, BAR),
        config(0x04, 6),
        msix,
        store(MSIX_TABLE, Long, LOCAL_APIC),
        store(MSIX_TABLE + 8, Long, MESSAGE_VECTOR.into()),
        store(MSIX_TABLE + 12, Long, 0),
        common(0x14, Byte, 3),
        common(0x08, Long, 1),
        common(0x0C, Long, 1), // VERSION_1
        common(0x14, Byte, 0xB),
        common(0x18, Word, 8),
        common(0x1A, Word, 0),
        common(0x20, Long, DESCRIPTORS),
        common(0x28, Long, AVAILABLE),
        common(0x30, Long, USED),
        common(0x1C, Word, 1),
        common(0x14, Byte, 0xF),
    ]
    .concat()
}

/// Programs all chips. What comes last is what later accesses of the same chip would change.
fn program() -> Vec<u8> {
    let serial = [(3, 0x83), (0, 7), (1, 0), (3, 0x1B), (2, 1), (1, 1), (4, 0xB), (7, 0xA5)];
    let serial = serial.into_iter().flat_map(|(register, value)| out(0x3F8 + register, Byte, value));
    let early = EARLY.iter().flat_map(|byte| out(0x3F8, Byte, u32::from(*byte)));
    [
        interrupts(),
        serial.chain(early).collect(),
        out(0x602, Word, 0x100),     // the power button's event
        out(0x604, Word, 0x3 << 10), // a sleep type, and no sleep
        out(0x92, Byte, 2),
        out(0xCF9, Byte, 2),
        entropy(),
        out(0xCF8, Long, config_address(0x10)),
        out(0x64, Byte, 0xD1), // the next byte of data goes to the output port
        // With its clock stopped: an alarm at each second, in another century; and a byte of memory, its index left set.
        set_clock(0x0B, 0x82),
        [1, 3, 5].into_iter().flat_map(|alarm| set_clock(alarm, 0xFF)).collect(),
        set_clock(0x32, 0x21),
        set_clock(0x40, 0x5A),
        [clock(0x0C), input(0x71, Byte)].concat(),
        set_clock(0x0B, 0x22),
        clock(0x40),
    ]
    .concat()
}

/// All that the guest looks at after the alarm, in order.
pub fn looks() -> Vec<Look> {
    let look = |what, code: &[Vec<u8>], sees: &[u8]| Look { what, code: code.concat(), sees: sees.to_vec() };
    let port = |what, port, width, sees: &[u8]| look(what, &[input(port, width)], sees);
    let config = |what, register: u32, width, sees: &[u8]| {
        let data = 0xCFC + (register & 2) as u16;
        look(what, &[out(0xCF8, Long, config_address(register & !3)), input(data, width)], sees)
    };
    let memory = |what, at, width, sees: &[u8]| look(what, &[load(at, width)], sees);
    vec![
        port("the clock's memory, by the index that was set", 0x71, Byte, &[0x5A]),
        look("the clock's flags: alarm, update, period", &[clock(0x0C), input(0x71, Byte)], &[0xF0]),
        look("the guest's century", &[clock(0x32), input(0x71, Byte)], &[0x21]),
        memory("one interrupt of the clock", ALARMS, Byte, &[1]),
        port("the receiver's interrupt waits, FIFO on", 0x3FA, Byte, &[0xC4]),
        port("input that came before", 0x3F8, Byte, b"x"),
        port("line control", 0x3FB, Byte, &[0x1B]),
        port("modem control", 0x3FC, Byte, &[0xB]),
        port("the scratch register", 0x3FF, Byte, &[0xA5]),
        // Kept in BL while the divisor makes way for the transmitter: `mov bl, al` and `mov al, bl`.
        look(
            "the divisor",
            &[out(0x3FB, Byte, 0x9B), input(0x3F8, Byte), vec![0x88, 0xC3], out(0x3FB, Byte, 0x1B), vec![0x88, 0xD8]],
            &[7],
        ),
        port("the power button was pressed", 0x601, Byte, &[1]),
        port("its event is enabled", 0x602, Word, &[0, 1]),
        port("the sleep type", 0x604, Word, &[1, 0xC]),
        look("line 9 of the 8259 is up", &[out(0xA0, Byte, 0xA), input(0xA0, Byte), vec![0x24, 2]], &[2]), // and al, 2
        port("port 0x92", 0x92, Byte, &[2]),
        port("BAR 0, by the address that was set", 0xCFC, Long, &BAR.to_le_bytes()),
        config("the command register", 0x04, Word, &[6, 0]),
        config("message control", 0x42, Word, &[1, 0x80]),
        port("reset control", 0xCF9, Byte, &[2]),
        memory("the device status", BAR + 0x14, Byte, &[0xF]),
        memory("the queue's size", BAR + 0x18, Word, &[8, 0]),
        memory("the vector's message", MSIX_TABLE + 8, Long, &[MESSAGE_VECTOR, 0, 0, 0]),
        memory("no interrupt of the device yet", MESSAGES, Byte, &[0]),
    ]
}

/// What the guest finds in its memory once the entropy device has served it.
pub fn served() -> Vec<Look> {
    let look = |what, at, sees| Look { what, code: load(at, Byte), sees: vec![sees] };
    vec![
        look("one interrupt of the device", MESSAGES, 1),
        look("one used element", USED + 2, 1),
        look("its length", USED + 8, ASKED),
    ]
}

fn code() -> Vec<u8> {
    let tell = |looks: Vec<Look>| looks.into_iter().flat_map(|look| [look.code, print(look.sees.len())].concat());
    let mark = |mark: u8| out(MARKS, Byte, mark.into());
    let mut code = [program(), mark(READY), wait(ALARMS)].concat();
    code.extend(tell(looks()));
    code.extend([mark(LOOKED), store(AVAILABLE + 2, Word, 1), store(NOTIFY, Word, 0), wait(MESSAGES)].concat());
    code.extend(tell(served()));
    // The output port, which the byte goes to by the command given long ago: the reset line goes low.
    code.extend([out(0x60, Byte, 0xFE), vec![0xF4, 0xEB, 0xFD]].concat());
    code
}

/// An interrupt gate to a handler (Intel SDM volume 3, 6.11).
fn gate(handler: u32) -> u64 {
    let (low, high) = (u64::from(handler & 0xFFFF), u64::from(handler >> 16));
    let code = u64::from(Registers::pvh(LOAD).code.selector);
    low | code << 16 | 0x8E << 40 | high << 48
}

/// Puts the guest into memory, with the descriptors that its segments have.
pub fn put(memory: &GuestMemory, registers: &Registers) {
    let mut image = vec![0; LEN];
    let mut put = |at: u32, bytes: &[u8]| {
        let at = (at - LOAD) as usize;
        image[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let code = code();
    assert!(code.len() < (IDT - LOAD) as usize);
    put(LOAD, &code);
    put(IDT + 8 * u32::from(ALARM_VECTOR), &gate(ON_ALARM).to_le_bytes());
    put(IDT + 8 * u32::from(MESSAGE_VECTOR), &gate(ON_MESSAGE).to_le_bytes());
    put(IDTR, &with(&[0xFF, 0x07], IDT));
    // `inc byte [counter]`, the end of the interrupt, and back: `pop eax; pop ecx; popf; jmp eax`, since a KVM that runs
    // guests by emulation alone has no IRET in protected mode. The guest holds nothing in these while it waits.
    let back = [0x58, 0x59, 0x9D, 0xFF, 0xE0];
    let handler = |counter, end: &[u8]| [&*with(&[0xFE, 0x05], counter), end, &back].concat();
    put(ON_ALARM, &handler(ALARMS, &[0xB0, 0x20, 0xE6, 0xA0, 0xE6, 0x20]));
    put(ON_MESSAGE, &handler(MESSAGES, &store(LOCAL_APIC + 0xB0, Long, 0)));
    // One buffer, for the device to write; the ring names it already, though not yet as available.
    put(DESCRIPTORS, &[u64::from(BUFFER).to_le_bytes(), [ASKED, 0, 0, 0, 2, 0, 0, 0]].concat());
    memory.write_slice(&image, GuestAddress(LOAD.into())).unwrap();
    let descriptors = registers.gdt().map(u64::to_le_bytes).concat();
    memory.write_slice(&descriptors, GuestAddress(registers.gdt_base)).unwrap();
}
