//! The tables' bytes, against the specification's own offsets.

use super::*;

fn find(vcpus: u16, signature: &[u8]) -> (u64, Vec<u8>) {
    tables(vcpus).unwrap().into_iter().find(|(_, bytes)| bytes.starts_with(signature)).unwrap()
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

#[test]
fn every_table_sums_to_zero_and_states_its_length() {
    for vcpus in [1, 4, 64] {
        for (_, bytes) in tables(vcpus).unwrap() {
            if bytes.starts_with(b"FACS") {
                continue; // has no checksum
            }
            assert_eq!(bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
            let length = if bytes.starts_with(b"RSD PTR ") { u32_at(&bytes, 20) } else { u32_at(&bytes, 4) };
            assert_eq!(length as usize, bytes.len());
        }
    }
}

#[test]
fn tables_do_not_overlap_nor_leave_their_area() {
    let mut places: Vec<_> = tables(64).unwrap().iter().map(|(gpa, bytes)| (*gpa, bytes.len() as u64)).collect();
    places.sort_unstable();
    assert!(places.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
    assert_eq!(places.pop(), Some((0xE_0000, 36)), "the RSDP alone lies in firmware's area");
    assert!(places.iter().all(|(gpa, len)| gpa % 64 == 0 && *gpa >= 0x9_0000 && gpa + len <= 0xA_0000));
}

#[test]
fn a_table_that_outgrows_the_area_is_refused() {
    let mut area = Area { next: 0x9_FFC0, tables: Vec::new() };
    assert_eq!(area.add(vec![0; 65]), Err(Error::AcpiArea));
    assert_eq!(area.add(vec![0; 64]), Ok(0x9_FFC0));
    assert_eq!(area.add(vec![0]), Err(Error::AcpiArea));
}

#[test]
fn the_pointers_lead_to_the_tables() {
    let (rsdp_gpa, rsdp) = find(2, b"RSD PTR ");
    assert_eq!(rsdp_gpa, 0xE_0000);
    assert_eq!(rsdp[..20].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    let (xsdt_gpa, xsdt) = find(2, b"XSDT");
    assert_eq!(u64_at(&rsdp, 24), xsdt_gpa);
    let listed: Vec<u64> = xsdt[36..].chunks(8).map(|entry| u64_at(entry, 0)).collect();
    assert_eq!(listed, [find(2, b"FACP").0, find(2, b"APIC").0, find(2, b"MCFG").0]);
    let (_, fadt) = find(2, b"FACP");
    assert_eq!(u64::from(u32_at(&fadt, 36)), find(2, b"FACS").0);
    assert_eq!(u64::from(u32_at(&fadt, 40)), find(2, b"DSDT").0);
    assert_eq!(u64_at(&fadt, 140), find(2, b"DSDT").0);
}

#[test]
fn the_fadt_describes_fixed_hardware() {
    let (_, fadt) = find(1, b"FACP");
    assert_eq!(fadt.len(), 276);
    assert_eq!((fadt[46], fadt[47]), (9, 0)); // SCI_INT
    assert_eq!(u32_at(&fadt, 48), 0); // SMI_CMD: always in ACPI mode
    assert_eq!((u32_at(&fadt, 56), u32_at(&fadt, 64), u32_at(&fadt, 76)), (0x600, 0x604, 0x608));
    assert_eq!((fadt[88], fadt[89], fadt[91]), (4, 2, 4));
    assert_eq!(fadt[108], 0x32); // CENTURY
    assert_eq!(fadt[109..111], [0b101, 0]); // IAPC_BOOT_ARCH: no 8042, no VGA
    let flags = u32_at(&fadt, 112);
    assert_eq!(flags & (1 << 4), 0, "a fixed power button");
    assert_ne!(flags & (1 << 5), 0, "no fixed sleep button");
    assert_ne!(flags & (1 << 8), 0, "a PM timer of 32 bits");
    assert_ne!(flags & (1 << 10), 0, "a reset register");
    assert_eq!(flags & (1 << 20), 0, "not hardware-reduced");
    assert_eq!(fadt[116..129], [1, 8, 0, 1, 0xF9, 0xC, 0, 0, 0, 0, 0, 0, 6]); // RESET_REG, RESET_VALUE
    assert_eq!(fadt[148..160], [1, 32, 0, 2, 0, 6, 0, 0, 0, 0, 0, 0]); // X_PM1a_EVT_BLK
    assert_eq!(fadt[172..184], [1, 16, 0, 2, 4, 6, 0, 0, 0, 0, 0, 0]); // X_PM1a_CNT_BLK
    assert_eq!(fadt[208..220], [1, 32, 0, 3, 8, 6, 0, 0, 0, 0, 0, 0]); // X_PM_TMR_BLK
}

#[test]
fn the_madt_lists_each_vcpu_once() {
    for vcpus in [1u16, 4, 64] {
        let (_, madt) = find(vcpus, b"APIC");
        assert_eq!((u32_at(&madt, 36), u32_at(&madt, 40)), (0xFEE0_0000, 1));
        let (local, rest) = madt[44..].split_at(usize::from(vcpus) * 8);
        for (id, entry) in (0u8..).zip(local.chunks(8)) {
            assert_eq!(entry, [0, 8, id, id, 1, 0, 0, 0]);
        }
        assert_eq!(rest[..12], [1, 12, 64, 0, 0, 0, 0xC0, 0xFE, 0, 0, 0, 0]);
        for (irq, level) in [5, 10, 11, 9].into_iter().zip(rest[12..52].chunks(10)) {
            assert_eq!(level, [2, 10, 0, irq, irq, 0, 0, 0, 13, 0]);
        }
        assert_eq!(rest[52..], [4, 6, 0xFF, 0, 0, 1]);
    }
}

#[test]
fn a_number_of_vcpus_that_the_madt_cannot_list_is_refused() {
    for vcpus in [0, 65, 256, u16::MAX] {
        assert_eq!(tables(vcpus), Err(Error::VcpuCount(vcpus)));
    }
}

#[test]
fn the_mcfg_covers_bus_0_alone() {
    let (_, mcfg) = find(1, b"MCFG");
    assert_eq!(mcfg[44..], [0, 0, 0, 0xE0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn the_dsdt_tells_of_s5_and_of_each_device() {
    let (_, dsdt) = find(1, b"DSDT");
    // Name (_S5_, Package (4) { 5, 5, 0, 0 })
    assert_eq!(dsdt[36..50], [8, b'_', b'S', b'5', b'_', 0x12, 8, 4, 0x0A, 5, 0x0A, 5, 0, 0]);
    let holds = |part: &[u8]| dsdt.windows(part.len()).any(|window| window == part);
    assert!(holds(b"PCI0\x08_HID\x0C\x41\xD0\x0A\x08"), "PNP0A08");
    assert!(holds(b"_CID\x0C\x41\xD0\x0A\x03"), "PNP0A03");
    assert!(holds(b"_HID\x0C\x41\xD0\x05\x01"), "PNP0501");
    assert!(holds(b"_HID\x0C\x41\xD0\x0B\x00"), "PNP0B00");
    assert!(holds(b"_HID\x0C\x41\xD0\x0C\x02"), "PNP0C02");
    assert!(holds(&[0x86, 9, 0, 1, 0, 0, 0, 0xE0, 0, 0, 0x10, 0]), "ECAM reserved");
    let window =
        [0x87, 23, 0, 0, 0x0C, 1, 0, 0, 0, 0, 0, 0, 0, 0xC0, 0xFF, 0xFF, 0xFF, 0xDF, 0, 0, 0, 0, 0, 0, 0, 0x20];
    assert!(holds(&window), "window of BARs");
}

#[test]
fn the_dsdt_routes_inta_of_each_slot() {
    let (_, dsdt) = find(1, b"DSDT");
    let start = dsdt.windows(4).position(|window| window == b"_PRT").expect("_PRT") + 4;
    let (head, entries) = dsdt[start..].split_at(4);
    assert_eq!((head[0], head[3]), (0x12, 31), "Package (31), its length in two bytes");
    for (slot, entry) in (1u8..32).zip(entries.chunks(12)) {
        // Package (4) { 0x00SSFFFF, 0, 0, irq }
        let irq = [5, 10, 11][usize::from(slot) % 3];
        assert_eq!(entry, [0x12, 11, 4, 0x0C, 0xFF, 0xFF, slot, 0, 0, 0, 0x0A, irq], "slot {slot}");
    }
}

#[test]
fn tables_arrive_in_memory() {
    let memory: vm_memory::GuestMemoryMmap =
        vm_memory::GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    write(&memory, 4).unwrap();
    for (gpa, bytes) in tables(4).unwrap() {
        let mut found = vec![0; bytes.len()];
        memory.read_slice(&mut found, GuestAddress(gpa)).unwrap();
        assert_eq!(found, bytes);
    }
}
