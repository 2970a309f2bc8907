//! KVM: from the descriptor of /dev/kvm to a VM with its chips, memory and vCPUs, and what one exit of a vCPU says.
//!
//! The only room of this crate with `unsafe`: descriptors whose kind the type can't tell, memory slots, the shared page of a
//! vCPU, and signals to its thread. No raw pointer leaves it.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::memory::GuestMemory;
use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_INTERNAL_ERROR_EMULATION, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_irqchip, kvm_pit_config, kvm_regs, kvm_sregs,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use crate::cpuid::{self, Place};
use crate::error::Error;

/// What must be there; all of it is since Linux 4.12.
const NEEDED: [(Cap, &str); 10] = [
    (Cap::Irqchip, "has no interrupt controllers of its own"),
    (Cap::UserMemory, "takes no memory of the process"),
    (Cap::SetTssAddr, "can't place its task state segment"),
    (Cap::ExtCpuid, "can't set CPUID"),
    (Cap::MpState, "can't tell the state of a vCPU"),
    (Cap::IrqRouting, "can't route interrupts"),
    (Cap::Irqfd, "has no irqfd"),
    (Cap::Ioeventfd, "has no ioeventfd"),
    (Cap::Pit2, "has no interval timer"),
    (Cap::ImmediateExit, "can't be interrupted at once (Linux 4.12 and later can)"),
];

/// Ports whose writes KVM holds back until the next exit of any vCPU, as `(first, length)`: they only choose what a following
/// read means, or nobody answers them, and each spares an exit. 0x70 is the index of the clock, 0x80 the POST code that Linux
/// writes for a delay, 0x2E and 0x4E are where it looks for super I/O chips.
const HELD_BACK: [(u16, u32); 4] = [(0x70, 1), (0x80, 1), (0x2E, 1), (0x4E, 1)];
/// The address of PCI's mechanism 1, which a guest writes hundreds of times while it looks for devices, and hardly later. A
/// byte to 0xCF9 within it, a reset, would be held back too: so it is for a while only ([`Vm::hold_back_less`]).
const HELD_BACK_AT_FIRST: (u16, u32) = (0xCF8, 4);

/// Writes that the ring of those held back can hold, and more: it is a page of entries of 24 bytes.
const MAX_HELD_BACK: usize = 256;

/// /dev/kvm, until the VM and its vCPUs are made.
pub struct Host {
    kvm: Kvm,
    supported: CpuId,
}

impl Host {
    /// Takes the descriptor, whatever it is, and checks that it is a KVM which can do all that is needed.
    pub fn new(fd: OwnedFd) -> Result<Self, Error> {
        // SAFETY: the descriptor is ours and open; were it another kind of file, the ioctls below would fail.
        let kvm = unsafe { Kvm::from_raw_fd(fd.into_raw_fd()) };
        if u32::try_from(kvm.get_api_version()) != Ok(KVM_API_VERSION) {
            return Err(Error::NoKvm("is not KVM; load kvm_intel or kvm_amd, which create it"));
        }
        if let Some((_, lack)) = NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            return Err(Error::NoKvm(lack));
        }
        let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::kvm("supported CPUID"))?;
        Ok(Self { kvm, supported })
    }

    /// Width of physical addresses.
    #[must_use]
    pub fn address_bits(&self) -> u8 {
        cpuid::address_bits(self.supported.as_slice())
    }

    /// A VM with this memory, interrupt controllers and timer, and no vCPU yet.
    pub fn make_vm(&self, memory: &GuestMemory) -> Result<Vm, Error> {
        let fd = loop {
            match self.kvm.create_vm() {
                Err(error) if error.errno() == libc::EINTR => {}
                made => break made.map_err(Error::kvm("create VM"))?,
            }
        };
        let identity_map = boot::layout::KVM_IDENTITY_MAP;
        let tss = usize::try_from(boot::layout::KVM_TSS).map_err(|_| Error::NoKvm("is not for 64 bits"))?;
        fd.set_identity_map_address(identity_map).map_err(Error::kvm("place identity map"))?;
        fd.set_tss_address(tss).map_err(Error::kvm("place task state segment"))?;
        fd.create_irq_chip().map_err(Error::kvm("create interrupt controllers"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        fd.create_pit2(pit).map_err(Error::kvm("create interval timer"))?;
        set_level_interrupts(&fd)?;
        let vm = Vm { fd, memory: memory.clone() };
        vm.set_memory_slots()?;
        if self.holds_back() {
            for (port, len) in HELD_BACK.into_iter().chain([HELD_BACK_AT_FIRST]) {
                let port = IoEventAddress::Pio(port.into());
                vm.fd.register_coalesced_mmio(port, len).map_err(Error::kvm("hold back writes"))?;
            }
        }
        Ok(vm)
    }

    /// A vCPU, which sees what CPUID is to tell it, in the state after a reset.
    pub fn make_vcpu(&self, vm: &Vm, id: u8, count: u8) -> Result<Vcpu, Error> {
        let mut fd = vm.fd.create_vcpu(id.into()).map_err(Error::kvm("create vCPU"))?;
        if self.holds_back() {
            fd.map_coalesced_mmio_ring().map_err(Error::kvm("map writes held back"))?;
        }
        let place = Place { id, count, tsc_deadline: self.kvm.check_extension(Cap::TscDeadlineTimer) };
        let entries = cpuid::of_vcpu(self.supported.as_slice(), place);
        let cpuid = CpuId::from_entries(&entries).map_err(|_| Error::NoKvm("supports too many CPUID leaves"))?;
        fd.set_cpuid2(&cpuid).map_err(Error::kvm("set CPUID"))?;
        crate::entry_state::set_msrs(&fd)?;
        Ok(Vcpu::new(fd, id))
    }

    /// Since Linux 4.20; without it these writes are exits.
    fn holds_back(&self) -> bool {
        self.kvm.check_extension(Cap::CoalescedPio)
    }

    /// How many vCPUs KVM runs in one VM.
    #[must_use]
    pub fn max_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }
}

/// Makes levels of the interrupts that are, in the ELCRs of the two 8259s, as firmware does: a guest without ACPI takes them
/// as it finds them. (The I/O APIC's are in its entries, which a guest writes.)
fn set_level_interrupts(vm: &VmFd) -> Result<(), Error> {
    let levels = boot::layout::INTX_IRQS.into_iter().chain([boot::layout::SCI]);
    let levels = levels.fold(0u16, |levels, irq| levels | 1u16.checked_shl(irq.into()).unwrap_or(0));
    for (chip_id, elcr) in [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE].into_iter().zip(levels.to_le_bytes()) {
        let mut chip = kvm_irqchip { chip_id, ..Default::default() };
        vm.get_irqchip(&mut chip).map_err(Error::kvm("read interrupt controller"))?;
        chip.chip.pic.elcr = elcr;
        vm.set_irqchip(&chip).map_err(Error::kvm("set interrupt controller"))?;
    }
    Ok(())
}

/// A VM and the memory that its slots lie in.
pub struct Vm {
    fd: VmFd,
    memory: GuestMemory,
}

impl Vm {
    /// For interrupts, routes, ioeventfds and irqfds. Memory slots are set here alone.
    #[must_use]
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Makes writes to PCI's mechanism 1 exits again. What is held back still, a vCPU takes when it is next kicked.
    pub fn hold_back_less(&self) -> Result<(), Error> {
        let (port, len) = HELD_BACK_AT_FIRST;
        self.fd.unregister_coalesced_mmio(IoEventAddress::Pio(port.into()), len).map_err(Error::kvm("hold back less"))
    }

    fn set_memory_slots(&self) -> Result<(), Error> {
        for (slot, region) in (0..).zip(self.memory.iter()) {
            let address = self.memory.get_host_address(region.start_addr()).map_err(|_| Error::NoKvm("has no slot"))?;
            let slot = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: address.expose_provenance() as u64,
            };
            // SAFETY: the range is a mapping of `self.memory`, which lives as long as the VM, and all its other users go
            // through vm-memory's volatile accesses.
            unsafe { self.fd.set_user_memory_region(slot) }.map_err(Error::kvm("set memory slot"))?;
        }
        Ok(())
    }
}

/// Leaves guest memory out of core dumps, and asks for huge pages: each spares 511 faults at the guest's first touch, where
/// the host gives any (`sys::memory`).
pub fn advise(memory: &GuestMemory) -> std::io::Result<()> {
    for region in memory.iter() {
        let len = usize::try_from(region.len()).unwrap_or(usize::MAX);
        let advise = |advice| {
            // SAFETY: the range is exactly one live mapping of ours, and neither advice changes its content.
            unsafe { libc::madvise(region.as_ptr().cast(), len, advice) }
        };
        if advise(libc::MADV_DONTDUMP) != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // A kernel without huge pages refuses; small ones do.
        advise(libc::MADV_HUGEPAGE);
    }
    Ok(())
}

/// One vCPU. Its pages are never unmapped, so that a [`Kick`] stays valid: a vCPU ends with the process.
pub struct Vcpu {
    fd: &'static mut VcpuFd,
    id: u8,
    kick: Kick,
}

/// Why a vCPU came back, and what it waits for.
#[derive(Debug)]
pub enum Exit<'a> {
    /// It reads a port: `data` is to be filled by items of `size` bytes.
    In {
        /// The port.
        port: u16,
        /// Bytes of one item: 1, 2 or 4.
        size: usize,
        /// Room for all items.
        data: &'a mut [u8],
    },
    /// It writes a port, by items of `size` bytes.
    Out {
        /// The port.
        port: u16,
        /// Bytes of one item: 1, 2 or 4.
        size: usize,
        /// All items.
        data: &'a [u8],
    },
    /// It reads where no memory is.
    Read {
        /// The address.
        gpa: u64,
        /// To be filled.
        data: &'a mut [u8],
    },
    /// It writes where no memory is.
    Write {
        /// The address.
        gpa: u64,
        /// What.
        data: &'a [u8],
    },
    /// A signal, a kick, or an event for another vCPU's sake: look around and run it again.
    Interrupted,
    /// A triple fault.
    Shutdown,
    /// KVM can't go on.
    Failed(String),
}

/// What is in the shared page, told apart before it is borrowed.
enum Kind {
    Io { input: bool },
    Mmio { write: bool },
}

impl Vcpu {
    fn new(fd: VcpuFd, id: u8) -> Self {
        let fd = Box::leak(Box::new(fd));
        let flag: *mut u8 = &raw mut fd.get_kvm_run().immediate_exit;
        // SAFETY: the page is mapped for ever (`fd` is leaked), a byte is always aligned, and nobody else in this process
        // touches this byte; the kernel reads it once at each entry.
        let kick = Kick { immediate_exit: unsafe { AtomicU8::from_ptr(flag) } };
        Self { fd, id, kick }
    }

    /// Number of the vCPU.
    #[must_use]
    pub fn id(&self) -> u8 {
        self.id
    }

    /// For registers; never to run it.
    #[must_use]
    pub fn fd(&self) -> &VcpuFd {
        self.fd
    }

    /// Tells the guest's watchdog that it was stopped and does not hang (Documentation/virt/kvm/api.rst, KVM_KVMCLOCK_CTRL).
    /// A guest that has no kvmclock is told nothing.
    pub fn was_paused(&self) {
        if let Err(error) = self.fd.kvmclock_ctrl() {
            log::debug!("vCPU {}: the guest can't be told of the pause: {error}", self.id);
        }
    }

    /// Its registers in one line, for the log of a VM that failed.
    #[must_use]
    pub fn describe(&self) -> String {
        match (self.fd.get_regs(), self.fd.get_sregs()) {
            (
                Ok(kvm_regs { rip, rsp, rflags, rax, rbx, rcx, rdx, rsi, rdi, .. }),
                Ok(kvm_sregs { cr0, cr2, cr3, cr4, efer, cs, .. }),
            ) => format!(
                "rip {rip:#x} rsp {rsp:#x} rflags {rflags:#x} rax {rax:#x} rbx {rbx:#x} rcx {rcx:#x} rdx {rdx:#x} \
                 rsi {rsi:#x} rdi {rdi:#x} cr0 {cr0:#x} cr2 {cr2:#x} cr3 {cr3:#x} cr4 {cr4:#x} efer {efer:#x} cs {:#x}",
                cs.selector
            ),
            (Err(error), _) | (_, Err(error)) => format!("registers can't be read: {error}"),
        }
    }

    /// How others interrupt it.
    #[must_use]
    pub fn kick(&self) -> Kick {
        self.kick
    }

    /// Runs the guest until it needs something. Writes that were held back come first, in their order, to `write`; the VM
    /// has one ring of them, so all vCPUs share `turn`.
    pub fn run(&mut self, turn: &Mutex<()>, write: &dyn Fn(u16, &[u8])) -> Exit<'_> {
        let kind = match self.enter() {
            Ok(kind) => kind,
            Err(exit) => {
                self.take_held_back(turn, write);
                return exit;
            }
        };
        self.take_held_back(turn, write);
        match kind {
            Kind::Io { input } => self.io(input),
            Kind::Mmio { write } => self.mmio(write),
        }
    }

    fn take_held_back(&mut self, turn: &Mutex<()>, write: &dyn Fn(u16, &[u8])) {
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        // What this vCPU wrote is among those that the ring holds now; others may go on filling it.
        for _ in 0..MAX_HELD_BACK {
            // An error means that there is no ring: nothing is held back.
            let Ok(Some(entry)) = self.fd.coalesced_mmio_read() else { return };
            let len = usize::try_from(entry.len).unwrap_or(0).min(entry.data.len());
            let port = u16::try_from(entry.phys_addr).unwrap_or(u16::MAX);
            write(port, entry.data.split_at(len).0);
        }
    }

    /// One entry of the guest: what it left for, if that has data in the shared page.
    fn enter(&mut self) -> Result<Kind, Exit<'static>> {
        match self.fd.run() {
            Ok(VcpuExit::IoIn(..)) => Ok(Kind::Io { input: true }),
            Ok(VcpuExit::IoOut(..)) => Ok(Kind::Io { input: false }),
            Ok(VcpuExit::MmioRead(..)) => Ok(Kind::Mmio { write: false }),
            Ok(VcpuExit::MmioWrite(..)) => Ok(Kind::Mmio { write: true }),
            Ok(VcpuExit::Shutdown) => Err(Exit::Shutdown),
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::Hlt) => Err(Exit::Interrupted),
            Ok(VcpuExit::InternalError) => Err(Exit::Failed(self.internal_error())),
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                Err(Exit::Failed(format!("CPU {cpu} of the host can't enter the guest (reason {reason:#x})")))
            }
            Ok(_) => {
                let reason = self.fd.get_kvm_run().exit_reason;
                Err(Exit::Failed(format!("KVM left the guest for what no guest of vmd has (exit reason {reason})")))
            }
            // EAGAIN: a vCPU that waited to be woken by another has been.
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                // Before the caller looks around: a kick after this is seen by the next entry.
                self.kick.immediate_exit.store(0, Ordering::SeqCst);
                Err(Exit::Interrupted)
            }
            Err(error) => Err(Exit::Failed(format!("KVM_RUN: {error}"))),
        }
    }

    fn internal_error(&mut self) -> String {
        // SAFETY: the exit reason was KVM_EXIT_INTERNAL_ERROR, for which the kernel fills this member; it is plain numbers.
        let suberror = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
        match suberror {
            KVM_INTERNAL_ERROR_EMULATION => "this KVM can't emulate the guest's next instruction".into(),
            other => format!("KVM has an internal error ({other})"),
        }
    }

    fn io(&mut self, input: bool) -> Exit<'_> {
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason was KVM_EXIT_IO, for which the kernel fills this member; it is plain numbers.
        let io = unsafe { run.__bindgen_anon_1.io };
        let (size, len) = (usize::from(io.size), usize::from(io.size).saturating_mul(io.count as usize));
        let page = std::ptr::from_mut(run).cast::<u8>();
        let offset = usize::try_from(io.data_offset).unwrap_or(usize::MAX);
        // SAFETY: the kernel puts `len` bytes at `data_offset` of the pages that are mapped at `page` (Documentation/virt/kvm/
        // api.rst, KVM_EXIT_IO), and touches them only in the next KVM_RUN, which needs `&mut self`.
        let data = unsafe { std::slice::from_raw_parts_mut(page.add(offset), len) };
        if input { Exit::In { port: io.port, size, data } } else { Exit::Out { port: io.port, size, data } }
    }

    fn mmio(&mut self, write: bool) -> Exit<'_> {
        // SAFETY: the exit reason was KVM_EXIT_MMIO, for which the kernel fills this member; it is plain numbers.
        let mmio = unsafe { &mut self.fd.get_kvm_run().__bindgen_anon_1.mmio };
        let len = usize::try_from(mmio.len).unwrap_or(0).min(mmio.data.len());
        let (data, _) = mmio.data.split_at_mut(len);
        let gpa = mmio.phys_addr;
        if write { Exit::Write { gpa, data } } else { Exit::Read { gpa, data } }
    }
}

/// The way to bring a vCPU back from its guest, or keep it from entering.
#[derive(Debug, Clone, Copy)]
pub struct Kick {
    immediate_exit: &'static AtomicU8,
}

impl Kick {
    /// Brings the vCPU that `thread` runs back to where it looks around. Also if it is just about to enter its guest: the
    /// flag is seen at entry, the signal after it.
    pub fn kick<T>(&self, thread: &JoinHandle<T>) {
        self.immediate_exit.store(1, Ordering::SeqCst);
        // SAFETY: the thread was not joined, since its handle is here; the signal has a handler that does nothing.
        unsafe { libc::pthread_kill(thread.as_pthread_t(), kick_signal()) };
    }
}

fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn interrupted(_: libc::c_int) {}

/// Gives the kick's signal its handler. Before the first vCPU runs.
pub fn prepare_kicks() -> std::io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid one: no flags, so that KVM_RUN is interrupted, and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int) = interrupted;
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: the handler touches nothing, so it may run at any instruction of any thread.
    match unsafe { libc::sigaction(kick_signal(), &action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// One heap for all threads. vCPUs hardly allocate, and glibc would give each of them one of its own.
pub fn share_one_heap() {
    // SAFETY: called before there are other threads; the call changes a tunable of malloc and nothing else.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
