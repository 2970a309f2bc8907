//! The machine of one VM, from its description to the moment before its first instruction.
//!
//! All that can fail because of the host comes first, then the second half of the sandbox, and only then is a byte of the
//! user's kernel read. Nothing outlives a failure: all of it is descriptors and memory of this process.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use boot::Entry;
use boot::layout::{self, Ram};
use hw::{Chipset, Setup, Slot, World};
use proto::vm::Description;

use crate::console::{Console, Serial};
use crate::description::{self, Plan};
use crate::error::Error;
use crate::kvm::{self, Host, Vcpu, Vm};
use crate::memory;
use crate::outside::Outside;
use crate::virtio::{self, Registers};
use crate::{entry_state, lifecycle};

/// What all threads of the process share.
pub struct Machine {
    /// Every register that KVM does not emulate.
    pub chipset: Chipset,
    /// Performs what the chipset decides.
    pub outside: Outside,
    /// Whose turn it is to take writes that KVM held back.
    pub held_back: Mutex<()>,
}

/// A machine that only has to be started.
pub struct Assembled {
    /// Shared by all threads.
    pub machine: Arc<Machine>,
    /// In order; the first is ready to enter the kernel.
    pub vcpus: Vec<Vcpu>,
    /// The serial port's other end.
    pub console: Console,
    /// Starts and stops the back ends of devices.
    pub worker: virtio::Worker,
}

/// What is KVM's of a machine, and where its serial port goes.
struct Parts {
    ram: Vec<Ram>,
    vm: Arc<Vm>,
    vcpus: Vec<Vcpu>,
    console: Console,
}

/// Makes the machine. `narrow` is called once nothing of KVM has to be made any more.
pub fn assemble(plan: Plan, narrow: impl FnOnce() -> Result<(), sandbox::Error>) -> Result<Assembled, Error> {
    let Plan { description, kvm, console, memory, entry, devices } = plan;
    let parts = parts(&description, kvm, console, memory)?;
    narrow()?;
    enter(&parts, entry)?;
    furnish(parts, devices, description.vmmci, |setup, _| {
        Chipset::new(setup).map_err(|error| Error::Chipset(error.into()))
    })
}

fn parts(description: &Description, kvm: OwnedFd, console: OwnedFd, memory: OwnedFd) -> Result<Parts, Error> {
    kvm::share_one_heap();
    kvm::prepare_kicks().map_err(Error::system("signal handler"))?;
    let ram = layout::ram(description.memory.bytes()).map_err(Error::Size)?;
    let console = Console::new(console).map_err(Error::system("console"))?;
    let host = Host::new(kvm)?;
    check_sizes(&host, &ram, description.cpus)?;
    let memory = memory::map(&ram, memory)?;
    kvm::advise(&memory).map_err(Error::Memory)?;
    let vm = Arc::new(host.make_vm(&memory)?);
    let vcpus: Vec<Vcpu> =
        (0..description.cpus).map(|id| host.make_vcpu(&vm, id, description.cpus)).collect::<Result<_, _>>()?;
    Ok(Parts { ram, vm, vcpus, console })
}

/// Fills the guest's memory, and readies the first vCPU.
fn enter(parts: &Parts, entry: Entry<File>) -> Result<(), Error> {
    let count = u16::try_from(parts.vcpus.len()).unwrap_or(u16::MAX);
    let registers = boot::reset::fill(parts.vm.memory(), &parts.ram, count, entry)?;
    match parts.vcpus.first() {
        Some(first) => entry_state::set_first(first.fd(), &registers),
        None => Err(Error::Size(boot::Error::VcpuCount(0))),
    }
}

/// Connects the devices and adds the chips, which are made when all that they tell is heard.
fn furnish(
    parts: Parts,
    devices: Vec<description::Device>,
    vmmci: bool,
    chipset: impl FnOnce(Setup, &Outside) -> Result<Chipset, Error>,
) -> Result<Assembled, Error> {
    let Parts { ram, vm, vcpus, console } = parts;
    let virtio::Devices { functions, front_ends, worker } = virtio::connect(devices, &vm)?;
    let outside = Outside::new(vm, front_ends, vmmci)?;
    let vmmci = vmmci.then(|| intx_irq(functions.len().saturating_add(1)));
    let range = |start: u64, len: u64| start..start.saturating_add(len);
    let setup = Setup {
        ram: ram.iter().map(|piece| range(piece.gpa, piece.len)).collect(),
        vcpus: u16::try_from(vcpus.len()).unwrap_or(u16::MAX),
        mmio: range(layout::PCI_MMIO32, layout::PCI_MMIO32_LEN),
        ecam: layout::ECAM,
        devices: functions,
        vmmci,
        now: outside.now(),
    };
    let chipset = chipset(setup, &outside)?;
    Ok(Assembled { machine: Arc::new(Machine { chipset, outside, held_back: Mutex::new(()) }), vcpus, console, worker })
}

/// The interrupt line of a slot of PCI's.
fn intx_irq(slot: usize) -> u8 {
    layout::intx_irq(u8::try_from(slot).unwrap_or(u8::MAX))
}

fn check_sizes(host: &Host, ram: &[Ram], vcpus: u8) -> Result<(), Error> {
    let (end, bits) = (layout::ram_end(ram), host.address_bits());
    if 1u64.checked_shl(bits.into()).is_some_and(|beyond| end > beyond) {
        return Err(Error::AddressWidth { end, bits });
    }
    let count = u16::from(vcpus);
    if !(1..=layout::MAX_VCPUS).contains(&count) {
        return Err(Error::Size(boot::Error::VcpuCount(count)));
    }
    match host.max_vcpus() {
        most if most < usize::from(vcpus) => Err(Error::HostVcpus { count: vcpus, most }),
        _ => Ok(()),
    }
}

impl Registers for Machine {
    fn reset_done(&self, slot: Slot) {
        self.chipset.reset_done(slot, &self.outside);
    }

    fn needs_reset(&self, slot: Slot) {
        self.chipset.needs_reset(slot, &self.outside);
    }

    fn config_changed(&self, slot: Slot, config: &[u8]) {
        self.chipset.set_device_config(slot, config, &self.outside);
    }

    fn queue_interrupt(&self, slot: Slot, queue: u16) {
        self.chipset.queue_interrupt(slot, queue, &self.outside);
    }

    fn devices_are(&self, what: lifecycle::Event) {
        self.outside.devices_are(what);
    }

    fn device_gone(&self) -> bool {
        let first = self.outside.ended().is_none();
        self.outside.end(lifecycle::Event::DeviceGone);
        first
    }
}

impl Serial for Machine {
    fn output(&self, into: &mut [u8]) -> usize {
        self.chipset.serial_output(into)
    }
    fn input(&self, bytes: &[u8]) -> usize {
        self.chipset.serial_input(bytes, &self.outside)
    }
}

#[cfg(test)]
mod tests;
