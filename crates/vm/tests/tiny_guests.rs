//! Guests of a few instructions under KVM: how each way to end a machine is told, and that garbage does no harm.
//!
//! They need /dev/kvm, and any that runs 32-bit code without paging will do: `make test` runs them where there is one.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use model::VmName;
use proto::client::Order;
use proto::probe::KernelKind;
use proto::vm::{Description, ToVm, ToVmm};
use proto::{Channel, Code, Received, exit};
use sys::memory::Pool;

const PATIENCE: Duration = Duration::from_secs(120);
const LOAD: u32 = 0x100_0000;

/// A VM in a thread of the test, and vmm's end of its channel.
struct Tiny {
    vmm: Channel<ToVm, ToVmm>,
    process: JoinHandle<u8>,
    console: File,
    /// As the parent keeps it: without a master the console's last bytes would go with the process.
    _master: OwnedFd,
}

/// An ELF kernel whose PVH entry is this code (32-bit, flat, no paging).
fn kernel(code: &[u8]) -> File {
    let mut elf = vec![0; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7FELF\x02\x01\x01");
    put(18, &[62]);
    put(32, &[64]);
    put(54, &[56, 0, 2]);
    let code_len = code.len() as u64;
    for (at, kind, offset, paddr, len) in [(64, 1u32, 0x1000u64, u64::from(LOAD), code_len), (120, 4, 0x800, 0, 20)] {
        put(at, &kind.to_le_bytes());
        for (field, value) in [(8, offset), (24, paddr), (32, len), (40, len)] {
            put(at + field, &value.to_le_bytes());
        }
    }
    put(0x800, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0]);
    put(0x810, &LOAD.to_le_bytes());
    elf.extend(code);
    file(&elf)
}

fn file(bytes: &[u8]) -> File {
    use std::io::Write;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn describe(kernel: File, cpus: u8, memory: u64, vmmci: bool) -> Tiny {
    let (ours, theirs) = sys::seqpacket::pair().unwrap();
    let process = std::thread::spawn(move || vm::serve(theirs, || Ok(())));
    let mut vmm = Channel::new(ours);
    let pty = sys::pty::Pty::open().unwrap();
    let kvm = File::options().read(true).write(true).open("/dev/kvm").expect("/dev/kvm is needed");
    let master = pty.master.try_clone().unwrap();
    let fds: Vec<OwnedFd> = vec![kvm.into(), pty.master, Pool::SmallPages.take(memory).unwrap(), kernel.into()];
    let description = Description {
        name: VmName::new("tiny").unwrap(),
        memory: model::MemorySize::from_bytes(i64::try_from(memory).unwrap()).unwrap(),
        cpus,
        kernel: KernelKind::Pvh,
        cmdline: model::CommandLine::default(),
        initrd: false,
        vmmci,
        devices: 0,
        debug: false,
    };
    vmm.send(&ToVm::Describe(Box::new(description)), fds).unwrap();
    vmm.send(&ToVm::Begin, Vec::new()).unwrap();
    Tiny { vmm, process, console: File::from(pty.slave), _master: master }
}

fn start(code: &[u8]) -> Tiny {
    started(describe(kernel(code), 1, 64 << 20, false))
}

/// With vmmci, in slot 2.
fn start_with_vmmci(code: &[u8]) -> Tiny {
    started(describe(kernel(code), 1, 64 << 20, true))
}

fn started(mut tiny: Tiny) -> Tiny {
    assert_eq!(tiny.hear(), Some(ToVmm::Started));
    tiny
}

impl Tiny {
    /// The next message; `None` when the process has ended its channel.
    fn hear(&mut self) -> Option<ToVmm> {
        match self.vmm.recv_within(PATIENCE).expect("a message in time") {
            Received::Message(message, _) => Some(message),
            Received::Empty | Received::Closed => None,
        }
    }

    fn status(self) -> u8 {
        self.process.join().unwrap()
    }

    fn ends_with(mut self, reboot: bool, status: u8) {
        assert_eq!(self.hear(), Some(ToVmm::Leaving { reboot }));
        assert_eq!(self.hear(), Some(ToVmm::Ended { status }));
        assert_eq!(self.status(), status);
    }

    fn reads(&mut self, text: &str) {
        let mut seen = vec![0; text.len()];
        self.console.read_exact(&mut seen).unwrap();
        assert_eq!(String::from_utf8_lossy(&seen), text);
    }
}

/// `mov dx, port; mov al, value; out dx, al`.
fn out8(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xBA, low, high, 0xB0, value, 0xEE]
}

/// `mov dx, port; mov ax, value; out dx, ax`.
fn out16(port: u16, value: u16) -> Vec<u8> {
    let ([low, high], [value_low, value_high]) = (port.to_le_bytes(), value.to_le_bytes());
    vec![0x66, 0xBA, low, high, 0x66, 0xB8, value_low, value_high, 0x66, 0xEF]
}

/// `mov dx, port; mov eax, value; out dx, eax`.
fn out32(port: u16, value: u32) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    [&[0x66, 0xBA, low, high, 0xB8][..], &value.to_le_bytes(), &[0xEF]].concat()
}

/// `cli; hlt; jmp` back to the hlt: nothing more happens.
const STOP: [u8; 4] = [0xFA, 0xF4, 0xEB, 0xFD];

const POWER_OFF: (u16, u16) = (0x604, 5 << 10 | 1 << 13);

fn then_stop(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), STOP.to_vec()].concat()
}

#[test]
#[ignore = "needs /dev/kvm"]
fn output_of_the_guest_comes_out_of_the_console() {
    let text = "tiny\n";
    let mut parts: Vec<Vec<u8>> = text.bytes().map(|byte| out8(0x3F8, byte)).collect();
    parts.push(out16(POWER_OFF.0, POWER_OFF.1));
    let mut tiny = start(&then_stop(&parts));
    tiny.reads(text);
    tiny.ends_with(false, exit::POWERED_OFF);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn s5_powers_off() {
    start(&then_stop(&[out16(POWER_OFF.0, POWER_OFF.1)])).ends_with(false, exit::POWERED_OFF);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn each_reset_is_a_reboot() {
    for (port, value) in [(0xCF9, 6), (0x64, 0xFE), (0x92, 1)] {
        start(&then_stop(&[out8(port, value)])).ends_with(true, exit::REBOOTED);
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_triple_fault_is_a_reboot() {
    // `ud2`, with an interrupt table of length 0.
    start(&[0x0F, 0x0B]).ends_with(true, exit::REBOOTED);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_vm_ends_when_vmm_is_gone_though_its_guest_never_exits() {
    let tiny = start(&[0xEB, 0xFE]); // jumps to itself
    let Tiny { vmm, process, .. } = tiny;
    drop(vmm);
    assert_eq!(process.join().unwrap(), exit::POWERED_OFF);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_message_out_of_place_ends_the_vm() {
    let mut tiny = start(&STOP);
    tiny.vmm.send(&ToVm::Begin, Vec::new()).unwrap();
    assert_eq!(tiny.status(), exit::FAILED);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_power_button_reaches_the_guest() {
    // Enables PWRBTN (bit 8 of PM1 enable), says so, polls PM1 status for it, and powers off.
    let poll = vec![0x66, 0xBA, 0x00, 0x06, 0x66, 0xED, 0xF6, 0xC4, 0x01, 0x74, 0xF5]; // in ax, dx; test ah, 1; jz
    let parts = [out16(0x602, 0x100), out8(0x3F8, b'!'), poll, out16(POWER_OFF.0, POWER_OFF.1)];
    let mut tiny = start(&then_stop(&parts));
    tiny.reads("!");
    tiny.vmm.send(&ToVm::AskToStop, Vec::new()).unwrap();
    tiny.ends_with(false, exit::POWERED_OFF);
}

/// vmmci's ports, where firmware puts them (openbsd/devices.md, 6.2).
const VMMCI: u16 = 0x1000;
const VMMCI_COMMAND: u16 = VMMCI + 20;

/// A driver of vmmci that has accepted all features and is ready, and says so.
fn vmmci_driver() -> Vec<u8> {
    let decode = [out32(0xCF8, 0x8000_1004), out16(0xCFC, 1)].concat();
    [decode, out32(VMMCI + 4, 7), out8(VMMCI + 18, 7), out8(0x3F8, b'!')].concat()
}

/// Polls vmmci until it has this command, says that it does it, and writes `a` to the console.
fn acknowledge(command: u8) -> Vec<u8> {
    let [low, high] = VMMCI_COMMAND.to_le_bytes();
    let poll = vec![0x66, 0xBA, low, high, 0xED, 0x83, 0xF8, command, 0x75, 0xF6]; // in eax, dx; cmp eax; jne
    [poll, out32(VMMCI_COMMAND, command.into()), out8(0x3F8, b'a')].concat()
}

#[test]
#[ignore = "needs /dev/kvm"]
fn vmmci_asks_its_driver_to_reboot() {
    // `ud2` after the acknowledgement, and the late word of a guest that goes down.
    let parts = [vmmci_driver(), acknowledge(2), out32(VMMCI_COMMAND, 1), vec![0x0F, 0x0B]];
    let mut tiny = start_with_vmmci(&parts.concat());
    tiny.reads("!");
    tiny.vmm.send(&ToVm::AskToStop, Vec::new()).unwrap();
    tiny.reads("a");
    tiny.ends_with(true, exit::REBOOTED);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_guest_that_is_deaf_to_vmmci_is_ended_after_three_seconds() {
    let mut tiny = start_with_vmmci(&then_stop(&[vmmci_driver()]));
    tiny.reads("!");
    let asked = Instant::now();
    tiny.vmm.send(&ToVm::AskToStop, Vec::new()).unwrap();
    tiny.ends_with(false, exit::POWERED_OFF);
    assert!(asked.elapsed() >= Duration::from_secs(3), "{:?}", asked.elapsed());
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_guest_that_tells_vmmci_that_it_goes_down_has_three_seconds_to_reset_and_is_off_then() {
    let down = [vmmci_driver(), out32(VMMCI_COMMAND, 1)];
    let began = Instant::now();
    start_with_vmmci(&then_stop(&down)).ends_with(false, exit::POWERED_OFF);
    assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
    start_with_vmmci(&[down.concat(), vec![0x0F, 0x0B]].concat()).ends_with(true, exit::REBOOTED);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_power_button_reaches_a_guest_without_a_driver_for_vmmci() {
    let poll = vec![0x66, 0xBA, 0x00, 0x06, 0x66, 0xED, 0xF6, 0xC4, 0x01, 0x74, 0xF5]; // in ax, dx; test ah, 1; jz
    let mut tiny = start_with_vmmci(&then_stop(&[out8(0x3F8, b'!'), poll, out16(POWER_OFF.0, POWER_OFF.1)]));
    tiny.reads("!");
    tiny.vmm.send(&ToVm::AskToStop, Vec::new()).unwrap();
    tiny.ends_with(false, exit::POWERED_OFF);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_guest_that_was_paused_is_told_to_read_its_clock_anew() {
    let mut tiny = start_with_vmmci(&then_stop(&[vmmci_driver(), acknowledge(3), out16(POWER_OFF.0, POWER_OFF.1)]));
    tiny.reads("!");
    tiny.vmm.send(&ToVm::Order(Order::Pause), Vec::new()).unwrap();
    assert_eq!(tiny.hear(), Some(ToVmm::Pausing));
    assert_eq!(tiny.hear(), Some(ToVmm::Done(Order::Pause, Ok(true))));
    std::thread::sleep(Duration::from_secs(6)); // the time that it misses: more than five seconds count
    tiny.vmm.send(&ToVm::Order(Order::Unpause), Vec::new()).unwrap();
    assert_eq!(tiny.hear(), Some(ToVmm::Done(Order::Unpause, Ok(false))));
    tiny.reads("a");
    tiny.ends_with(false, exit::POWERED_OFF);
}

/// A guest that takes NMIs with a handler which writes `N`, if its local vector of LINT1 says so, and echoes its console.
fn guest_with_nmi(lint1: u32) -> Vec<u8> {
    let at = |offset: u32| (LOAD + offset).to_le_bytes();
    let set = |address: u32, value: u32| [&[0xC7, 0x05][..], &address.to_le_bytes(), &value.to_le_bytes()].concat();
    let echo = vec![
        0x66, 0xBA, 0xFD, 0x03, 0xEC, 0xA8, 0x01, 0x74, 0xF7, // mov dx, 0x3FD; in al, dx; test al, 1; jz
        0x66, 0xBA, 0xF8, 0x03, 0xEC, 0xEE, 0xEB, 0xEF, // mov dx, 0x3F8; in al, dx; out dx, al; jmp to the start
    ];
    let main = [
        [&[0xBC][..], &at(0x8000)].concat(),            // mov esp
        [&[0x0F, 0x01, 0x15][..], &at(0x200)].concat(), // lgdt
        [&[0x0F, 0x01, 0x1D][..], &at(0x208)].concat(), // lidt
        set(0xFEE0_00F0, 0x1FF),                        // the local APIC on
        set(0xFEE0_0360, lint1),
        out8(0x3F8, b'!'),
        echo,
    ];
    let handler = [vec![0x50, 0x52], out8(0x3F8, b'N'), vec![0x5A, 0x58, 0xCF]].concat(); // push, ..., pop; iret
    let gdtr = [&[23, 0][..], &at(0x280)].concat();
    let idtr = [&[23, 0][..], &at(0x2A0)].concat();
    // Code at the selector of the gate, and at that which the guest was entered with and the handler returns to.
    let gdt: [u64; 3] = [0, 0x00CF_9A00_0000_FFFF, 0x00CF_9A00_0000_FFFF];
    let [low0, low1, high0, high1] = at(0x100);
    let gate = [low0, low1, 8, 0, 0, 0x8E, high0, high1];
    let mut code = vec![0; 0x2C0];
    let mut put = |at: usize, bytes: &[u8]| code[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &main.concat());
    put(0x100, &handler);
    put(0x200, &gdtr);
    put(0x208, &idtr);
    put(0x280, &gdt.map(u64::to_le_bytes).concat());
    put(0x2A0 + 2 * 8, &gate);
    code
}

fn has_nmi(tiny: &mut Tiny) {
    tiny.vmm.send(&ToVm::Order(Order::Nmi), Vec::new()).unwrap();
    assert_eq!(tiny.hear(), Some(ToVmm::Done(Order::Nmi, Ok(false))));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn an_nmi_interrupts_a_guest_that_takes_it_each_time() {
    let mut tiny = start(&guest_with_nmi(0x400));
    tiny.reads("!");
    for _ in 0..3 {
        has_nmi(&mut tiny);
        tiny.reads("N");
        std::io::Write::write_all(&mut tiny.console, b"x").unwrap();
        tiny.reads("x"); // the handler is left: until then NMIs are held
    }
    drop(tiny.vmm);
    assert_eq!(tiny.process.join().unwrap(), exit::POWERED_OFF);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_guest_that_masks_nmis_hears_none_and_one_that_is_paused_gets_none() {
    let mut tiny = start(&guest_with_nmi(0x1_0400));
    tiny.reads("!");
    has_nmi(&mut tiny);
    tiny.vmm.send(&ToVm::Order(Order::Pause), Vec::new()).unwrap();
    assert_eq!(tiny.hear(), Some(ToVmm::Pausing));
    assert_eq!(tiny.hear(), Some(ToVmm::Done(Order::Pause, Ok(true))), "each vCPU has looked around");
    tiny.vmm.send(&ToVm::Order(Order::Nmi), Vec::new()).unwrap();
    let refused = tiny.hear();
    assert!(
        matches!(&refused, Some(ToVmm::Done(Order::Nmi, Err(failure))) if failure.code == Code::Invalid),
        "{refused:?}"
    );
    tiny.vmm.send(&ToVm::Order(Order::Unpause), Vec::new()).unwrap();
    assert_eq!(tiny.hear(), Some(ToVmm::Done(Order::Unpause, Ok(false))));
    std::io::Write::write_all(&mut tiny.console, b"x").unwrap();
    tiny.reads("x");
    drop(tiny.vmm);
    assert_eq!(tiny.process.join().unwrap(), exit::POWERED_OFF);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn input_of_the_console_reaches_the_guest() {
    // Polls the line status for a byte, reads it, and writes it back.
    let poll = vec![0x66, 0xBA, 0xFD, 0x03, 0xEC, 0xA8, 0x01, 0x74, 0xF7];
    let echo = vec![0x66, 0xBA, 0xF8, 0x03, 0xEC, 0xEE];
    let mut tiny = start(&then_stop(&[poll, echo, out16(POWER_OFF.0, POWER_OFF.1)]));
    std::io::Write::write_all(&mut tiny.console, b"x").unwrap();
    tiny.reads("x");
    tiny.ends_with(false, exit::POWERED_OFF);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_8259s_take_what_pci_functions_share_for_levels() {
    // The ELCR of either (0x4D0, 0x4D1), as letters on the console: 5; 9, 10 and 11.
    let elcr = |port: u8| vec![0x66, 0xBA, port, 0x04, 0xEC, 0x04, b'0', 0x66, 0xBA, 0xF8, 0x03, 0xEE]; // in; add; out
    let mut tiny = start(&then_stop(&[elcr(0xD0), elcr(0xD1), out16(POWER_OFF.0, POWER_OFF.1)]));
    tiny.reads("P>"); // b'0' + 0x20, b'0' + 0x0E
    tiny.ends_with(false, exit::POWERED_OFF);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_guest_that_only_writes_is_held_up_by_no_reader() {
    // 128 KiB of output to a console that nobody reads, more than all buffers on the way hold, then S5.
    let start_loop = vec![0xB9, 0, 0, 2, 0, 0x66, 0xBA, 0xF8, 0x03, 0xB0, b'x']; // mov ecx, 1 << 17; ...
    let body = vec![0xEE, 0xE2, 0xFD]; // out dx, al; loop
    start(&then_stop(&[start_loop, body, out16(POWER_OFF.0, POWER_OFF.1)])).ends_with(false, exit::POWERED_OFF);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn what_is_no_kernel_is_refused_with_a_reason() {
    for bytes in [&b""[..], b"#!/bin/sh\n", &[0; 8192]] {
        let mut tiny = describe(file(bytes), 1, 64 << 20, false);
        let Some(ToVmm::Failed(failure)) = tiny.hear() else { panic!("taken") };
        assert_eq!(failure.code, Code::NotExecutable);
        assert!(failure.text.contains("neither a Linux bzImage nor an ELF kernel"), "{failure}");
        assert_eq!(tiny.status(), exit::FAILED);
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn sizes_that_cannot_be_are_refused() {
    for (cpus, memory) in [(0, 64 << 20), (65, 64 << 20), (1, 1 << 20)] {
        let mut tiny = describe(kernel(&STOP), cpus, memory, false);
        let Some(ToVmm::Failed(failure)) = tiny.hear() else { panic!("taken") };
        assert_eq!(failure.code, Code::Invalid, "{failure}");
    }
}
