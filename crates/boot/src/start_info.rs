//! PVH's start info (Xen, public/arch-x86/hvm/start_info.h), version 1: command line, initial RAM disk, memory map, RSDP.

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::Error;
use crate::initrd::Initrd;
use crate::layout::{self, Area, COMMAND_LINE, RSDP, START_INFO};

const MAGIC: u32 = 0x336E_C578;
const VERSION: u32 = 1;
/// Behind the structure of 56 bytes.
const MODULES: u64 = START_INFO + 0x40;
/// Behind the one module of 32 bytes.
const MEMORY_MAP: u64 = START_INFO + 0x80;

/// Writes start info, module list and memory map.
pub fn write<M: GuestMemoryBackend>(memory: &M, map: &[Area], initrd: Option<Initrd>) -> Result<(), Error> {
    let entries: Vec<hvm_memmap_table_entry> = map
        .iter()
        .map(|area| hvm_memmap_table_entry { addr: area.gpa, size: area.len, type_: area.kind as u32, reserved: 0 })
        .collect();
    let modules: Vec<hvm_modlist_entry> = initrd
        .iter()
        .map(|initrd| hvm_modlist_entry { paddr: initrd.gpa, size: initrd.len, ..Default::default() })
        .collect();
    let start_info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        nr_modules: initrd.iter().count().try_into().unwrap_or(0),
        modlist_paddr: if modules.is_empty() { 0 } else { MODULES },
        cmdline_paddr: COMMAND_LINE,
        rsdp_paddr: RSDP,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: entries.len().try_into().unwrap_or(0),
        ..Default::default()
    };
    let mut params = BootParams::new(&start_info, GuestAddress(START_INFO));
    params.set_sections(&entries, GuestAddress(MEMORY_MAP));
    if !modules.is_empty() {
        params.set_modules(&modules, GuestAddress(MODULES));
    }
    PvhBootConfigurator::write_bootparams(&params, memory).map_err(|_| Error::Memory(layout::START_INFO))
}
