//! How much memory the processes of a VM may have together: `memory.max` of its cgroup. Pure.
//!
//! Who needs more is ended, and all of the VM with it: so what an honest VM can need at its worst is allowed, and a process that
//! was taken over can take that much of the host and no more. Most VMs use little of it beyond their guest's memory: one of
//! 256 MiB with a disk had 1.0 MiB of heaps and stacks and 0.8 MiB of the kernel's when its guest had booted, and 6.6 MiB of
//! the kernel's after that had written for a while (Linux 6.1, nested paging, debug build). `make bench` shows what the limit
//! costs a disk.

use super::host::MIB;

/// What a VM needs whatever it is: the heap and stacks of the vm process, its threads beside the vCPUs', KVM's own structures,
/// pipes and sockets with all that can be in them; and the text of the program, so that it need not be read again and again.
const VM: u64 = 64 * MIB;
/// A vCPU: its thread's stacks, KVM's state of it with the pages it shares with the vm process, its local APIC.
const CPU: u64 = MIB;
/// A device's process: its heap and stacks, its ring with the threads that the kernel may start for it, and its queues.
const DEVICE: u64 = 8 * MIB;
/// A disk that is a qcow2 image: tables that are kept and clusters that are copied, 2 MiB and 1 MiB, with what lists them, and the
/// tables of a disk of 8 TiB in 64 KiB clusters that are always kept.
const IMAGE: u64 = 4 * MIB;
/// One page table of 8 bytes for each page of 4 KiB that is mapped: of the vm process and of each device, which map all of
/// guest memory, and KVM's for the guest.
const TABLES: u64 = 512;
/// And where KVM keeps shadow page tables, for a host without nested paging or a guest that has guests: as many as 2 % of the
/// guest's pages (KVM_PERMILLE_MMU_PAGES), each with a second page for what it shadows, and their reverse maps: 6.6 %.
const SHADOW: u64 = 15;
/// The page cache of a VM that has disks, at least: what its disks write goes there first, and is written back a while later. As
/// the kernel has it a fifth of this may wait to be written (vm.dirty_ratio) before who writes has to wait. With 64 MiB a guest
/// of 256 MiB took half as long again to write 192 MiB as without a limit, with 256 MiB as long.
const CACHE: u64 = 256 * MIB;

/// What a VM is made of, as far as memory is concerned.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts {
    /// Bytes of the guest's memory.
    pub guest: u64,
    /// vCPUs.
    pub cpus: u32,
    /// Processes of devices.
    pub devices: u32,
    /// Disks among them.
    pub disks: u32,
    /// Disks among those that are qcow2 images.
    pub images: u32,
    /// Bytes of disks that lie in the host's memory: on a tmpfs, or where that can't be told. What is written there counts for
    /// the VM, and stays.
    pub in_memory: u64,
}

/// What a VM is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// The guest's memory and what its processes need beside it: all that can be swapped out, and more.
    pub own: u64,
    /// The page cache of its disks.
    pub cache: u64,
}

impl Parts {
    /// What it is allowed.
    pub fn allowance(&self) -> Allowance {
        let Self { guest, cpus, devices, disks, images, in_memory } = *self;
        let mapped = u64::from(devices).saturating_add(2).saturating_mul(guest / TABLES);
        let images = u64::from(images) * IMAGE;
        let each = [u64::from(cpus) * CPU, u64::from(devices) * DEVICE, images];
        let parts = [guest, VM, mapped, guest / SHADOW, in_memory].into_iter().chain(each);
        let own = parts.fold(0, u64::saturating_add);
        // A guest may have as great a part of its own memory to be written, and writes that at once.
        let cache = if disks == 0 { 0 } else { guest.max(CACHE) };
        Allowance { own, cache }
    }
}

impl Allowance {
    /// `memory.max`.
    pub fn all(self) -> u64 {
        self.own.saturating_add(self.cache)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Parts = Parts { guest: 256 * MIB, cpus: 1, devices: 0, disks: 0, images: 0, in_memory: 0 };

    #[test]
    fn a_small_vm_has_its_memory_and_what_each_vm_needs() {
        let Allowance { own, cache } = SMALL.allowance();
        assert_eq!((own, cache), (256 * MIB + 64 * MIB + MIB + MIB + 256 * MIB / 15, 0));
    }

    #[test]
    fn each_vcpu_and_device_adds_to_it() {
        let more = |parts: Parts| parts.allowance().own - SMALL.allowance().own;
        assert_eq!(more(Parts { cpus: 4, ..SMALL }), 3 * MIB);
        // It maps guest memory too.
        assert_eq!(more(Parts { devices: 3, ..SMALL }), 3 * (8 * MIB + MIB / 2));
        assert_eq!(more(Parts { images: 2, ..SMALL }), 8 * MIB);
        assert_eq!(more(Parts { in_memory: 7 * MIB, ..SMALL }), 7 * MIB);
    }

    #[test]
    fn page_tables_grow_with_the_guest() {
        let beyond = |guest| Parts { guest, ..SMALL }.allowance().own - guest;
        let (small, large) = (beyond(1 << 30), beyond(128 << 30));
        assert!(large - small > (127 << 30) / 16 && large - small < (127 << 30) / 12, "{small} {large}");
    }

    #[test]
    fn a_vm_with_disks_has_a_page_cache_for_what_its_guest_writes_at_once() {
        let cache = |guest, disks| Parts { guest, devices: disks, disks, ..SMALL }.allowance().cache;
        assert_eq!(
            [cache(4 << 30, 0), cache(MIB, 1), cache(4 << 30, 1), cache(4 << 30, 3)],
            [0, CACHE, 4 << 30, 4 << 30]
        );
    }

    #[test]
    fn all_is_both_and_whatever_is_asked_has_an_answer() {
        let most = Parts {
            guest: u64::MAX,
            cpus: u32::MAX,
            devices: u32::MAX,
            disks: 1,
            images: u32::MAX,
            in_memory: u64::MAX,
        }
        .allowance();
        assert_eq!(most.all(), u64::MAX);
        let Allowance { own, cache } = Parts { disks: 1, devices: 1, ..SMALL }.allowance();
        assert_eq!(Allowance { own, cache }.all(), own + cache);
    }
}
