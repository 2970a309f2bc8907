//! A kernel that a user named: what it is, whether its headers are sane, and how it gets into memory.
//!
//! [`Kernel::probe`] reads a bounded part of the file and checks every number that loading uses; the probe process calls it to
//! tell the user early, the vm process calls it again before it loads. The bytes then go through linux-loader, which reads
//! the headers a second time: were the file changed in between, its accesses to guest memory are still checked.

mod bzimage;
mod elf;

pub use bzimage::BzImage;
pub use elf::Elf;

use std::io::{Read, Seek, SeekFrom};

use linux_loader::loader::KernelLoader;
use vm_memory::{GuestAddress, GuestMemoryBackend, ReadVolatile};

use crate::Error;
use crate::registers::Registers;

/// A kernel whose headers were checked.
#[derive(Debug, Clone, PartialEq)]
pub enum Kernel {
    /// Linux' own format, entered at its 64-bit entry.
    BzImage(Box<BzImage>),
    /// An ELF file with Xen's PHYS32_ENTRY note, entered by PVH.
    ElfPvh(Elf),
}

/// A kernel in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// What the first vCPU starts with.
    pub registers: Registers,
    /// First byte that the kernel doesn't need while it starts.
    pub end: u64,
}

impl Kernel {
    /// What `file` is. Reads at most its headers, [`elf::MAX_PROGRAM_HEADERS`] program headers and their notes.
    pub fn probe<F: Read + Seek>(file: &mut F) -> Result<Self, Error> {
        let mut head = Head::read(file)?;
        if head.starts_with(elf::MAGIC) {
            return Elf::parse(&mut head).map(Self::ElfPvh);
        }
        if BzImage::is_one(&head) {
            return BzImage::parse(&head).map(|image| Self::BzImage(Box::new(image)));
        }
        Err(Error::NotAKernel(what_else(&head.first)))
    }

    /// Most bytes of a command line, without its NUL.
    #[must_use]
    pub fn max_command_line(&self) -> usize {
        match self {
            Self::BzImage(image) => image.max_command_line(),
            Self::ElfPvh(_) => elf::MAX_COMMAND_LINE,
        }
    }

    /// First address behind what the kernel accepts for an initial RAM disk, below `low_ram_end`.
    #[must_use]
    pub fn initrd_ceiling(&self, low_ram_end: u64) -> u64 {
        match self {
            Self::BzImage(image) => image.initrd_ceiling(low_ram_end),
            Self::ElfPvh(_) => low_ram_end,
        }
    }

    /// That the RAM below 4 GiB, which ends at `low_ram_end`, has room for the kernel and for what it needs while it starts.
    pub fn fits(&self, low_ram_end: u64) -> Result<(), Error> {
        match self {
            Self::BzImage(image) => image.fits(low_ram_end),
            Self::ElfPvh(image) => image.fits(low_ram_end),
        }
    }

    /// Puts the kernel into memory whose RAM below 4 GiB ends at `low_ram_end`. `file` is the one that was probed.
    pub fn load<M, F>(&self, memory: &M, file: &mut F, low_ram_end: u64) -> Result<Loaded, Error>
    where
        M: GuestMemoryBackend,
        F: Read + Seek + ReadVolatile,
    {
        self.fits(low_ram_end)?;
        let failed = |error: linux_loader::loader::Error| Error::Read(error.to_string());
        match self {
            Self::BzImage(image) => {
                let start = Some(GuestAddress(image.place()));
                linux_loader::loader::BzImage::load(memory, start, file, None).map_err(failed)?;
                Ok(image.loaded())
            }
            Self::ElfPvh(image) => {
                linux_loader::loader::Elf::load(memory, None, file, None).map_err(failed)?;
                Ok(image.loaded())
            }
        }
    }
}

/// What users name instead of a kernel, by its first bytes; where they are elsewhere, by an offset.
const OTHERS: [(usize, &[u8], &str); 15] = [
    (0, b"\x1F\x8B", "compressed with gzip"),
    (0, b"\xFD7zXZ\0", "compressed with xz"),
    (0, b"\x28\xB5\x2F\xFD", "compressed with zstd"),
    (0, b"BZh", "compressed with bzip2"),
    (0, b"\x04\x22\x4D\x18", "compressed with lz4"),
    (0, b"\x02\x21\x4C\x18", "compressed with lz4"),
    (0, b"07070", "an initial RAM disk (cpio)"),
    (0, b"QFI\xFB", "a disk image (qcow2)"),
    (0, b"#!", "a script"),
    (0, b"\xD0\x0D\xFE\xED", "a device tree, or a FIT image with one"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image"),
    (0x38, b"ARM\x64", "a kernel for ARM"),
    (0x30, b"RISCV", "a kernel for RISC-V"),
    (0, b"MZ", "a program for EFI or Windows"),
    (0x1FE, b"\x55\xAA", "a boot sector, as a disk begins with"),
];

/// What a file is that is no kernel, if that can be told.
fn what_else(first: &[u8]) -> Option<&'static str> {
    if first.is_empty() {
        return Some("empty");
    }
    let begins = |(at, magic, _): &&(usize, &[u8], &str)| first.get(*at..).is_some_and(|rest| rest.starts_with(magic));
    OTHERS.iter().find(begins).map(|(.., what)| *what)
}

/// The first bytes of a file, and a checked way to its others.
struct Head<'a, F> {
    file: &'a mut F,
    len: u64,
    first: Vec<u8>,
}

/// Bytes that hold both an ELF header and a bzImage's setup header, whose end a byte tells (0x202 + 0xFF).
const HEAD_LEN: usize = 0x400;

impl<'a, F: Read + Seek> Head<'a, F> {
    fn read(file: &'a mut F) -> Result<Self, Error> {
        let len = file.seek(SeekFrom::End(0)).map_err(|error| Error::Read(error.to_string()))?;
        let mut head = Self { file, len, first: Vec::new() };
        let first = usize::try_from(len).map_or(HEAD_LEN, |len| len.min(HEAD_LEN));
        head.first = head.bytes("first bytes", 0, first)?;
        Ok(head)
    }

    fn starts_with(&self, magic: &[u8]) -> bool {
        self.first.starts_with(magic)
    }

    /// `len` bytes from `offset`. The caller has bounded `len`; the file bounds both.
    fn bytes(&mut self, what: &'static str, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        self.whole(what, offset, len as u64)?;
        let read_error = |error: std::io::Error| Error::Read(error.to_string());
        self.file.seek(SeekFrom::Start(offset)).map_err(read_error)?;
        let mut bytes = vec![0; len];
        self.file.read_exact(&mut bytes).map_err(read_error)?;
        Ok(bytes)
    }

    /// That the file has all of `len` bytes from `offset`.
    fn whole(&self, what: &'static str, offset: u64, len: u64) -> Result<(), Error> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            end => Err(Error::CutShort { what, needed: end.unwrap_or(u64::MAX), len: self.len }),
        }
    }
}

/// Little-endian numbers at fixed offsets of a header that was read whole.
trait Fields {
    fn u16_at(&self, offset: usize) -> u16;
    fn u32_at(&self, offset: usize) -> u32;
    fn u64_at(&self, offset: usize) -> u64;
}

impl Fields for [u8] {
    fn u16_at(&self, offset: usize) -> u16 {
        u16::from_le_bytes(array_at(self, offset))
    }
    fn u32_at(&self, offset: usize) -> u32 {
        u32::from_le_bytes(array_at(self, offset))
    }
    fn u64_at(&self, offset: usize) -> u64 {
        u64::from_le_bytes(array_at(self, offset))
    }
}

/// Bytes past the end read as zero: the callers' offsets are constants inside what they read.
fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes.get(offset..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests;
