//! Linux' bzImage (Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header"): its header, checked, and its place.

use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

use super::elf::MAX_COMMAND_LINE;
use super::{Fields, Head, Loaded};
use crate::registers::Registers;
use crate::{Error, layout};

/// `HdrS`, at 0x202.
const MAGIC: u32 = 0x5372_6448;
const MAGIC_OFFSET: usize = 0x202;
/// Where the setup header begins, in the file as in the zero page.
pub const SETUP_HEADER: usize = 0x1F1;
/// The version with `xloadflags`, which tells of the 64-bit entry: Linux 3.8.
const MIN_VERSION: u16 = 0x020C;
/// `loadflags`: the protected-mode part goes to 1 MiB and above.
const LOADED_HIGH: u8 = 1;
/// `xloadflags`: there is a 64-bit entry.
const XLF_KERNEL_64: u16 = 1;
/// Distance of the 64-bit entry from the start of the protected-mode part.
const ENTRY_64: u64 = 0x200;
const SECTOR: u64 = 512;
/// What `setup_sects` means when it is 0, for the sake of very old kernels.
const DEFAULT_SETUP_SECTS: u64 = 4;
/// Unit of `syssize`.
const PARAGRAPH: u64 = 16;
/// Greatest alignment that a kernel asks for: CONFIG_PHYSICAL_ALIGN ends at 16 MiB.
const MAX_ALIGNMENT: u64 = 16 * layout::MIB;

/// A bzImage whose header was checked.
#[derive(Debug, Clone, PartialEq)]
pub struct BzImage {
    header: setup_header,
    /// Bytes behind the setup sectors.
    payload_len: u64,
}

impl BzImage {
    pub(super) fn is_one<F>(head: &Head<'_, F>) -> bool {
        head.first.u32_at(MAGIC_OFFSET) == MAGIC && head.first.u16_at(0x1FE) == 0xAA55
    }

    pub(super) fn parse<F>(head: &Head<'_, F>) -> Result<Self, Error> {
        let cut_short = |what, needed| Error::CutShort { what, needed, len: head.len };
        // The header states its own length: a shorter one is filled with zeros, what we don't know is left out.
        let end = usize::from(head.first.get(0x201).copied().unwrap_or(0)).saturating_add(MAGIC_OFFSET);
        let bytes = head.first.get(SETUP_HEADER..end).ok_or(cut_short("setup header", end as u64))?;
        let mut header = setup_header::default();
        header.as_mut_slice().iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let sectors = if header.setup_sects == 0 { DEFAULT_SETUP_SECTS } else { header.setup_sects.into() };
        let setup_len = sectors.saturating_add(1).saturating_mul(SECTOR);
        let payload_len = head.len.checked_sub(setup_len).filter(|len| *len > ENTRY_64);
        let payload_len = payload_len.ok_or(cut_short("setup sectors", setup_len))?;
        check(&header)?;
        // `syssize` is rounded up, and not every file is padded to it: memtest86+ ends in the last paragraph.
        let code_len = u64::from(header.syssize).saturating_mul(PARAGRAPH);
        if code_len >= payload_len.saturating_add(PARAGRAPH) {
            return Err(cut_short("protected-mode code", setup_len.saturating_add(code_len)));
        }
        Ok(Self { header, payload_len })
    }

    /// Where to put the protected-mode part: where the kernel prefers it. A lower place would save nothing: the kernel moves
    /// itself up to this one before it runs.
    pub(super) fn place(&self) -> u64 {
        self.header.pref_address
    }

    /// That the RAM below 4 GiB has all that the kernel needs.
    pub(super) fn fits(&self, low_ram_end: u64) -> Result<(), Error> {
        let (start, end) = (self.place(), self.end());
        match end <= low_ram_end {
            true => Ok(()),
            false => Err(Error::KernelOutsideRam { start, end, available: low_ram_end }),
        }
    }

    pub(super) fn loaded(&self) -> Loaded {
        Loaded { registers: Registers::linux_64(self.place().saturating_add(ENTRY_64)), end: self.end() }
    }

    /// First byte behind what the kernel needs before it knows its memory: `init_size` from where it runs, and the file where
    /// that is more.
    fn end(&self) -> u64 {
        let file = self.place().saturating_add(self.payload_len);
        self.runs_at().saturating_add(self.header.init_size.into()).max(file)
    }

    /// Where a kernel that was loaded where it prefers decompresses itself to ("kernel runtime start address").
    fn runs_at(&self) -> u64 {
        let alignment = match self.header.relocatable_kernel {
            0 => 1,
            _ => u64::from(self.header.kernel_alignment),
        };
        self.place().checked_next_multiple_of(alignment).unwrap_or(u64::MAX)
    }

    pub(super) fn max_command_line(&self) -> usize {
        // Nothing that Linux takes is longer than the room before the VGA hole, but a header may say so.
        usize::try_from(self.header.cmdline_size).map_or(MAX_COMMAND_LINE, |max| max.min(MAX_COMMAND_LINE))
    }

    pub(super) fn initrd_ceiling(&self, low_ram_end: u64) -> u64 {
        u64::from(self.header.initrd_addr_max).saturating_add(1).min(low_ram_end)
    }

    /// The setup header, for the zero page.
    #[must_use]
    pub fn header(&self) -> setup_header {
        self.header
    }
}

fn check(header: &setup_header) -> Result<(), Error> {
    let setup_header { version, loadflags, xloadflags, kernel_alignment, pref_address, .. } = *header;
    let [minor, major] = version.to_le_bytes();
    if version < MIN_VERSION || xloadflags & XLF_KERNEL_64 == 0 {
        return Err(Error::No64BitEntry { major, minor });
    }
    if loadflags & LOADED_HIGH == 0 {
        return Err(Error::Header { field: "loadflags", value: loadflags.into() });
    }
    if !kernel_alignment.is_power_of_two() || !(4096..=MAX_ALIGNMENT).contains(&kernel_alignment.into()) {
        return Err(Error::Header { field: "kernel_alignment", value: kernel_alignment.into() });
    }
    if pref_address < layout::KERNEL_MIN || !pref_address.is_multiple_of(4096) {
        return Err(Error::Header { field: "pref_address", value: pref_address });
    }
    Ok(())
}
