//! What CPUID tells each vCPU: KVM's supported features, with the topology of this VM in place of the host's.
//!
//! Pure: entries in, entries out. One package, one thread a core; APIC ids are the vCPUs' numbers.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2 as Entry};

const BASIC: u32 = 0;
const FEATURES: u32 = 1;
/// EBX of leaf 0, where a vendor's name begins: AMD's, and Hygon's, who builds on it.
const AMD_VENDORS: [u32; 2] = [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"Hygo")];
const INTEL_CACHES: u32 = 4;
const TOPOLOGY: u32 = 0xB;
const PERFORMANCE_COUNTERS: u32 = 0xA;
const TOPOLOGY_V2: u32 = 0x1F;
const EXTENDED_FEATURES: u32 = 0x8000_0001;
const ADDRESS_SIZES: u32 = 0x8000_0008;
const AMD_CACHES: u32 = 0x8000_001D;
const AMD_TOPOLOGY: u32 = 0x8000_001E;

/// Leaf 1, ECX: the timer of the local APIC takes a TSC value.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, ECX: there is a hypervisor.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: EBX holds the number of logical processors.
const HTT: u32 = 1 << 28;
/// Leaf 8000_0001, ECX: the logical processors are cores (AMD).
const CMP_LEGACY: u32 = 1 << 1;
/// Leaf 8000_0001, ECX: leaf 8000_001E is there (AMD).
const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
/// Level types of the topology leaves (Intel SDM, CPUID leaf 0BH).
const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;
/// Caches up to this level belong to one core.
const LAST_PRIVATE_CACHE: u32 = 2;

/// Which vCPU, of how many, and what the local APIC can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Number and APIC id.
    pub id: u8,
    /// vCPUs of the VM.
    pub count: u8,
    /// KVM's local APIC has the TSC deadline mode, which its list of features does not tell.
    pub tsc_deadline: bool,
}

impl Place {
    /// Bits of an APIC id that tell the cores apart.
    fn bits(self) -> u32 {
        u32::from(self.count).next_power_of_two().trailing_zeros()
    }
}

/// The entries for one vCPU, made of what KVM supports.
#[must_use]
pub fn of_vcpu(supported: &[Entry], place: Place) -> Vec<Entry> {
    let (highest, vendor) =
        supported.iter().find(|entry| entry.function == BASIC).map_or((0, 0), |entry| (entry.eax, entry.ebx));
    let amd = AMD_VENDORS.contains(&vendor);
    let own = |function| function == TOPOLOGY || function == TOPOLOGY_V2;
    let mut entries: Vec<Entry> = supported.iter().filter(|entry| !own(entry.function)).copied().collect();
    for entry in &mut entries {
        adapt(entry, place, amd);
    }
    for leaf in [TOPOLOGY, TOPOLOGY_V2].into_iter().filter(|leaf| *leaf <= highest) {
        entries.extend(levels(leaf, place));
    }
    entries
}

/// Width of the host's physical addresses, which are the guest's too.
#[must_use]
pub fn address_bits(supported: &[Entry]) -> u8 {
    let leaf = supported.iter().find(|entry| entry.function == ADDRESS_SIZES);
    leaf.map_or(36, |entry| entry.eax.to_le_bytes()[0])
}

fn adapt(entry: &mut Entry, place: Place, amd: bool) {
    let (id, count) = (u32::from(place.id), u32::from(place.count));
    let several = place.count > 1;
    match entry.function {
        FEATURES => {
            entry.ebx = entry.ebx & 0xFFFF | count << 16 | id << 24;
            entry.ecx = with(entry.ecx | HYPERVISOR, TSC_DEADLINE, place.tsc_deadline);
            entry.edx = with(entry.edx, HTT, several);
        }
        INTEL_CACHES if entry.eax & 0x1F != 0 => {
            let sharing = sharing(entry.eax >> 5 & 7, count);
            entry.eax = entry.eax & 0x3FFF | sharing << 14 | ((1 << place.bits()) - 1) << 26;
        }
        // Nobody profiles a guest here yet, and a guest that finds none does not set any up.
        PERFORMANCE_COUNTERS => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        EXTENDED_FEATURES if amd => {
            entry.ecx = with(entry.ecx, CMP_LEGACY, several && entry.ecx & TOPOLOGY_EXTENSIONS != 0)
        }
        ADDRESS_SIZES if amd => entry.ecx = entry.ecx & !0xF0FF | (count - 1) | place.bits() << 12,
        AMD_CACHES if entry.eax & 0x1F != 0 => {
            entry.eax = entry.eax & !(0xFFF << 14) | sharing(entry.eax >> 5 & 7, count) << 14;
        }
        AMD_TOPOLOGY => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
        _ => {}
    }
}

/// Logical processors that share a cache of this level, less one.
fn sharing(level: u32, count: u32) -> u32 {
    if level <= LAST_PRIVATE_CACHE { 0 } else { count - 1 }
}

fn with(register: u32, bits: u32, set: bool) -> u32 {
    if set { register | bits } else { register & !bits }
}

/// The sub-leaves of a topology leaf: threads of a core, cores of the package, the end.
fn levels(leaf: u32, place: Place) -> [Entry; 3] {
    let level = |index, shift, count, kind| Entry {
        function: leaf,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: index | kind,
        edx: place.id.into(),
        ..Default::default()
    };
    [level(0, 0, 1, LEVEL_THREAD), level(1, place.bits(), place.count.into(), LEVEL_CORE), level(2, 0, 0, 0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> Entry {
        Entry { function, index, ..Default::default() }
    }

    fn supported() -> Vec<Entry> {
        vec![
            Entry { eax: 0x1F, ebx: AMD_VENDORS[0], ..entry(BASIC, 0) },
            Entry { ebx: 0x0710_0800, ecx: 1, edx: 1, ..entry(FEATURES, 0) },
            Entry { eax: 0x7C00_4121, ..entry(INTEL_CACHES, 0) },
            Entry { eax: 0x7C07_C163, ..entry(INTEL_CACHES, 3) },
            Entry { eax: 0x0730_0402, ..entry(PERFORMANCE_COUNTERS, 0) },
            Entry { eax: 9, ebx: 9, ecx: 9, edx: 9, ..entry(TOPOLOGY, 0) },
            Entry { ecx: TOPOLOGY_EXTENSIONS, ..entry(EXTENDED_FEATURES, 0) },
            Entry { eax: 0x3030, ecx: 0x7007, ..entry(ADDRESS_SIZES, 0) },
            Entry { eax: 7, ebx: 0x103, ecx: 3, ..entry(AMD_TOPOLOGY, 0) },
        ]
    }

    fn find(entries: &[Entry], function: u32, index: u32) -> Entry {
        *entries.iter().find(|entry| entry.function == function && entry.index == index).unwrap()
    }

    fn place(id: u8, count: u8) -> Place {
        Place { id, count, tsc_deadline: true }
    }

    #[test]
    fn leaf_1_tells_the_apic_id_and_the_hypervisor() {
        let leaf = find(&of_vcpu(&supported(), place(2, 4)), FEATURES, 0);
        assert_eq!(leaf.ebx, 0x0204_0800);
        assert_eq!(leaf.ecx, 1 | HYPERVISOR | TSC_DEADLINE);
        assert_eq!(leaf.edx, 1 | HTT);
    }

    #[test]
    fn a_lone_vcpu_has_no_siblings() {
        let entries = of_vcpu(&supported(), Place { tsc_deadline: false, ..place(0, 1) });
        assert_eq!(find(&entries, FEATURES, 0).edx & HTT, 0);
        assert_eq!(find(&entries, FEATURES, 0).ecx & TSC_DEADLINE, 0);
        assert_eq!(find(&entries, TOPOLOGY, 1).eax, 0);
        assert_eq!(find(&entries, ADDRESS_SIZES, 0).ecx, 0);
    }

    #[test]
    fn the_topology_leaves_are_the_vms_own() {
        let entries = of_vcpu(&supported(), place(5, 6));
        for leaf in [TOPOLOGY, TOPOLOGY_V2] {
            let [thread, core, end] = [0, 1, 2].map(|index| find(&entries, leaf, index));
            assert_eq!((thread.eax, thread.ebx, thread.ecx, thread.edx), (0, 1, 0x100, 5));
            assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (3, 6, 0x201, 5));
            assert_eq!((end.ebx, end.ecx), (0, 2));
        }
        assert_eq!(entries.iter().filter(|entry| entry.function == TOPOLOGY).count(), 3);
    }

    #[test]
    fn a_processor_without_topology_leaves_gets_none() {
        let mut old = supported();
        old[0].eax = 0xA;
        assert!(!of_vcpu(&old, place(0, 4)).iter().any(|entry| entry.function == TOPOLOGY));
    }

    #[test]
    fn the_last_cache_is_shared_by_all_and_the_first_by_none() {
        let entries = of_vcpu(&supported(), place(0, 4));
        assert_eq!(find(&entries, INTEL_CACHES, 0).eax, 3 << 26 | 0x121);
        assert_eq!(find(&entries, INTEL_CACHES, 3).eax, 3 << 26 | 3 << 14 | 0x163);
    }

    #[test]
    fn amd_leaves_tell_cores_not_threads() {
        let entries = of_vcpu(&supported(), place(3, 64));
        assert_eq!(find(&entries, ADDRESS_SIZES, 0).ecx, 63 | 6 << 12);
        let leaf = find(&entries, AMD_TOPOLOGY, 0);
        assert_eq!((leaf.eax, leaf.ebx, leaf.ecx), (3, 3, 0));
        assert_ne!(find(&entries, EXTENDED_FEATURES, 0).ecx & CMP_LEGACY, 0);
    }

    #[test]
    fn what_is_reserved_on_other_processors_stays_as_it_is() {
        let mut other = supported();
        other[0].ebx = u32::from_le_bytes(*b"Genu");
        let entries = of_vcpu(&other, place(1, 4));
        assert_eq!(find(&entries, ADDRESS_SIZES, 0).ecx, 0x7007);
        assert_eq!(find(&entries, EXTENDED_FEATURES, 0).ecx, TOPOLOGY_EXTENSIONS);
    }

    #[test]
    fn every_vcpu_of_every_size_has_an_id_that_fits_its_bits() {
        for count in 1..=64 {
            for id in 0..count {
                let core = find(&of_vcpu(&supported(), place(id, count)), TOPOLOGY, 1);
                assert!(u32::from(id) < 1 << core.eax && core.edx == u32::from(id));
            }
        }
    }

    #[test]
    fn no_performance_counters_are_shown() {
        assert_eq!(find(&of_vcpu(&supported(), place(0, 1)), PERFORMANCE_COUNTERS, 0).eax, 0);
    }

    #[test]
    fn the_address_width_is_the_hosts() {
        assert_eq!(address_bits(&supported()), 0x30);
        assert_eq!(address_bits(&[]), 36);
    }
}
