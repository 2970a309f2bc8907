//! Linux' bzImage (Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header"): its header, checked, and its place.

use std::io::{Read, Seek};

use super::{EntryPoint, Fields, Head, Loaded};
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BzImage {
    /// The setup header as it is in the file, from [`SETUP_HEADER`] to the end that it states.
    header: Vec<u8>,
    /// Bytes behind the setup sectors.
    payload_len: u64,
}

impl BzImage {
    pub(super) fn is_one<F: Read + Seek>(head: &mut Head<'_, F>) -> Result<bool, Error> {
        Ok(head.first.u32_at(MAGIC_OFFSET) == MAGIC && head.first.u16_at(0x1FE) == 0xAA55)
    }

    pub(super) fn parse<F: Read + Seek>(head: &mut Head<'_, F>) -> Result<Self, Error> {
        let end = usize::from(head.first.get(0x201).copied().unwrap_or(0)).saturating_add(MAGIC_OFFSET);
        let header = match head.first.get(SETUP_HEADER..end) {
            Some(header) => header.to_vec(),
            None => return Err(Error::CutShort { what: "setup header", needed: end as u64, len: head.len }),
        };
        let setup_len = Self::setup_len(&header);
        let payload_len = match head.len.checked_sub(setup_len) {
            Some(len) if len > ENTRY_64 => len,
            _ => return Err(Error::CutShort { what: "setup sectors", needed: setup_len, len: head.len }),
        };
        let image = Self { header, payload_len };
        image.check(setup_len, head.len)?;
        Ok(image)
    }

    fn setup_len(header: &[u8]) -> u64 {
        let sectors = match header.first().copied().unwrap_or(0) {
            0 => DEFAULT_SETUP_SECTS,
            sectors => u64::from(sectors),
        };
        sectors.saturating_add(1).saturating_mul(SECTOR)
    }

    fn check(&self, setup_len: u64, file_len: u64) -> Result<(), Error> {
        let [minor, major] = self.version().to_le_bytes();
        if self.version() < MIN_VERSION || self.u16(0x236) & XLF_KERNEL_64 == 0 {
            return Err(Error::No64BitEntry { major, minor });
        }
        if self.byte(0x211) & LOADED_HIGH == 0 {
            return Err(Error::Header { field: "loadflags", value: self.byte(0x211).into() });
        }
        let code_len = u64::from(self.u32(0x1F4)).saturating_mul(PARAGRAPH);
        if code_len > self.payload_len {
            return Err(Error::CutShort {
                what: "protected-mode code",
                needed: setup_len.saturating_add(code_len),
                len: file_len,
            });
        }
        let alignment = self.alignment();
        if !alignment.is_power_of_two() || !(4096..=MAX_ALIGNMENT).contains(&alignment) {
            return Err(Error::Header { field: "kernel_alignment", value: alignment });
        }
        if self.pref_address() < layout::KERNEL_MIN || !self.pref_address().is_multiple_of(4096) {
            return Err(Error::Header { field: "pref_address", value: self.pref_address() });
        }
        Ok(())
    }

    /// Where to put the protected-mode part: where the kernel prefers it, which saves it a move, or as low as it may be.
    pub(super) fn place(&self, low_ram_end: u64) -> Result<u64, Error> {
        let fits = |start: u64| start.checked_add(self.memory_len()).is_some_and(|end| end <= low_ram_end);
        let preferred = self.pref_address();
        if fits(preferred) {
            return Ok(preferred);
        }
        let lowest = layout::KERNEL_MIN.next_multiple_of(self.alignment());
        if self.byte(0x234) != 0 && fits(lowest) {
            return Ok(lowest);
        }
        Err(Error::KernelOutsideRam {
            start: preferred,
            end: preferred.saturating_add(self.memory_len()),
            available: low_ram_end,
        })
    }

    pub(super) fn loaded_at(&self, start: u64) -> Loaded {
        Loaded {
            entry: EntryPoint::Linux64(start.saturating_add(ENTRY_64)),
            end: start.saturating_add(self.memory_len()),
        }
    }

    /// RAM needed from the load address on: `init_size`, or the file where that is a lie.
    fn memory_len(&self) -> u64 {
        u64::from(self.u32(0x260)).max(self.payload_len)
    }

    pub(super) fn max_command_line(&self) -> usize {
        // Nothing that Linux takes is longer than the room before the VGA hole, but a header may say so.
        usize::try_from(self.u32(0x238))
            .map_or(super::elf::MAX_COMMAND_LINE, |max| max.min(super::elf::MAX_COMMAND_LINE))
    }

    pub(super) fn initrd_ceiling(&self, low_ram_end: u64) -> u64 {
        u64::from(self.u32(0x22C)).saturating_add(1).min(low_ram_end)
    }

    /// The setup header for the zero page.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    fn version(&self) -> u16 {
        self.u16(0x206)
    }
    fn alignment(&self) -> u64 {
        u64::from(self.u32(0x230))
    }
    fn pref_address(&self) -> u64 {
        self.header.u64_at(0x258_usize.saturating_sub(SETUP_HEADER))
    }

    /// Fields by their offset in the file, as the specification lists them.
    fn byte(&self, offset: usize) -> u8 {
        self.header.get(offset.saturating_sub(SETUP_HEADER)).copied().unwrap_or(0)
    }
    fn u16(&self, offset: usize) -> u16 {
        self.header.u16_at(offset.saturating_sub(SETUP_HEADER))
    }
    fn u32(&self, offset: usize) -> u32 {
        self.header.u32_at(offset.saturating_sub(SETUP_HEADER))
    }
}
