//! Linux' zero page, `struct boot_params` (Documentation/arch/x86/zero-page.rst), and the page tables of the 64-bit entry.

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::Error;
use crate::initrd::Initrd;
use crate::kernel::BzImage;
use crate::layout::{Area, COMMAND_LINE, PAGE_TABLES, RSDP, ZERO_PAGE};

/// `type_of_loader`: a loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xFF;
/// `loadflags` that speak of the loader, not of the kernel: `CAN_USE_HEAP`, KASLR's own flag stays the kernel's.
const CAN_USE_HEAP: u8 = 1 << 7;

/// Writes the zero page. All of it that isn't named here or in the kernel's own header is zero.
pub fn write<M: GuestMemoryBackend>(
    memory: &M,
    image: &BzImage,
    map: &[Area],
    initrd: Option<Initrd>,
) -> Result<(), Error> {
    let mut params = boot_params { hdr: image.header(), acpi_rsdp_addr: RSDP, ..Default::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.loadflags &= !CAN_USE_HEAP;
    params.hdr.cmd_line_ptr = u32::try_from(COMMAND_LINE).map_err(|_| Error::Memory(COMMAND_LINE))?;
    // The initial RAM disk lies below 4 GiB, so the extended fields stay zero.
    let Initrd { gpa, len } = initrd.unwrap_or(Initrd { gpa: 0, len: 0 });
    params.hdr.ramdisk_image = u32::try_from(gpa).map_err(|_| Error::Memory(gpa))?;
    params.hdr.ramdisk_size = u32::try_from(len).map_err(|_| Error::Memory(gpa))?;
    let mut table = params.e820_table;
    for (entry, area) in table.iter_mut().zip(map) {
        *entry = boot_e820_entry { addr: area.gpa, size: area.len, r#type: area.kind as u32 };
    }
    params.e820_table = table;
    params.e820_entries = map.len().min(table.len()).try_into().unwrap_or(0);
    LinuxBootConfigurator::write_bootparams(&BootParams::new(&params, GuestAddress(ZERO_PAGE)), memory)
        .map_err(|_| Error::Memory(ZERO_PAGE))
}

const ENTRIES: u64 = 512;
const TABLE_LEN: u64 = ENTRIES * 8;
const PRESENT_WRITABLE: u64 = 0b11;
/// A page directory entry that maps 2 MiB itself.
const LARGE_PAGE: u64 = 1 << 7;
const LARGE_PAGE_LEN: u64 = 2 << 20;
/// One page directory a GiB.
const MAPPED_GIB: u64 = 4;
const PDPT: u64 = PAGE_TABLES + TABLE_LEN;
const DIRECTORIES: u64 = PDPT + TABLE_LEN;

/// Maps the first 4 GiB onto themselves: kernel, zero page, command line and everything else that starting needs.
pub fn write_page_tables<M: GuestMemoryBackend>(memory: &M) -> Result<(), Error> {
    let directories = (0..MAPPED_GIB).map(|gib| DIRECTORIES.saturating_add(gib.saturating_mul(TABLE_LEN)));
    let pages = (0..MAPPED_GIB.saturating_mul(ENTRIES)).map(|page| page.saturating_mul(LARGE_PAGE_LEN));
    write_table(memory, PAGE_TABLES, std::iter::once(PDPT), PRESENT_WRITABLE)?;
    write_table(memory, PDPT, directories, PRESENT_WRITABLE)?;
    write_table(memory, DIRECTORIES, pages, PRESENT_WRITABLE + LARGE_PAGE)
}

/// Writes entries to these addresses, whose low bits are free for the flags.
fn write_table<M: GuestMemoryBackend>(
    memory: &M,
    gpa: u64,
    addresses: impl Iterator<Item = u64>,
    flags: u64,
) -> Result<(), Error> {
    let bytes: Vec<u8> = addresses.flat_map(|address| address.saturating_add(flags).to_le_bytes()).collect();
    memory.write_slice(&bytes, GuestAddress(gpa)).map_err(|_| Error::Memory(gpa))
}
