//! KVM's shortcuts between a guest and the eventfds of a queue. A trait, so that front ends are tested without KVM.

use std::io;

use hw::MsiMessage;
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi, kvm_msi,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch};
use vmm_sys_util::eventfd::EventFd;

use crate::kvm::Vm;

/// The first line that is no pin of a chip: the I/O APIC has 24.
pub const FIRST_GSI: u32 = 24;

/// What KVM does for a queue. None of it blocks.
pub trait Wiring: Send + Sync {
    /// A write of any width and value to `gpa` writes `kick`.
    fn add_kick(&self, gpa: u64, kick: &EventFd) -> io::Result<()>;
    /// Ends that.
    fn remove_kick(&self, gpa: u64, kick: &EventFd) -> io::Result<()>;
    /// A write to `call` raises `gsi`; also one that is in it already.
    fn add_call(&self, gsi: u32, call: &EventFd) -> io::Result<()>;
    /// Ends that.
    fn remove_call(&self, gsi: u32, call: &EventFd) -> io::Result<()>;
    /// Replaces the messages of all lines from [`FIRST_GSI`] on.
    fn set_routes(&self, messages: &[(u32, MsiMessage)]) -> io::Result<()>;
    /// Delivers a message now.
    fn signal(&self, message: MsiMessage) -> io::Result<()>;
}

impl Wiring for Vm {
    fn add_kick(&self, gpa: u64, kick: &EventFd) -> io::Result<()> {
        self.fd().register_ioevent(kick, &IoEventAddress::Mmio(gpa), NoDatamatch).map_err(io::Error::from)
    }

    fn remove_kick(&self, gpa: u64, kick: &EventFd) -> io::Result<()> {
        self.fd().unregister_ioevent(kick, &IoEventAddress::Mmio(gpa), NoDatamatch).map_err(io::Error::from)
    }

    fn add_call(&self, gsi: u32, call: &EventFd) -> io::Result<()> {
        self.fd().register_irqfd(call, gsi).map_err(io::Error::from)
    }

    fn remove_call(&self, gsi: u32, call: &EventFd) -> io::Result<()> {
        self.fd().unregister_irqfd(call, gsi).map_err(io::Error::from)
    }

    fn set_routes(&self, messages: &[(u32, MsiMessage)]) -> io::Result<()> {
        let entries: Vec<_> =
            pins().chain(messages.iter().map(|(gsi, message)| message_entry(*gsi, *message))).collect();
        let table = KvmIrqRouting::from_entries(&entries).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
        self.fd().set_gsi_routing(&table).map_err(io::Error::from)
    }

    fn signal(&self, message: MsiMessage) -> io::Result<()> {
        let (address_lo, address_hi) = halves(message.address);
        let msi = kvm_msi { address_lo, address_hi, data: message.data, ..Default::default() };
        self.fd().signal_msi(msi).map(|_| ()).map_err(io::Error::from)
    }
}

/// The lines of the chips as KVM_CREATE_IRQCHIP routes them (arch/x86/kvm/irq_comm.c, `default_routing`).
fn pins() -> impl Iterator<Item = kvm_irq_routing_entry> {
    let pic = (0..8).map(|pin| pin_entry(pin, KVM_IRQCHIP_PIC_MASTER, pin));
    let slave = (0..8).map(|pin| pin_entry(pin + 8, KVM_IRQCHIP_PIC_SLAVE, pin));
    let apic = (0..FIRST_GSI).map(|pin| pin_entry(pin, KVM_IRQCHIP_IOAPIC, pin));
    pic.chain(slave).chain(apic)
}

fn pin_entry(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let u = kvm_irq_routing_entry__bindgen_ty_1 { irqchip: kvm_irq_routing_irqchip { irqchip, pin } };
    kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, u, ..Default::default() }
}

fn message_entry(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let (address_lo, address_hi) = halves(message.address);
    let msi = kvm_irq_routing_msi { address_lo, address_hi, data: message.data, ..Default::default() };
    let u = kvm_irq_routing_entry__bindgen_ty_1 { msi };
    kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, u, ..Default::default() }
}

fn halves(address: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}
