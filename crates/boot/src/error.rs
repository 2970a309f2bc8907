//! Why a guest cannot be prepared. Each text ends a line that names the file: `kernel "/vmlinuz": is cut short ...`.

use thiserror::Error;

use crate::layout::MIB;

/// Why memory could not be filled. None of these is the fault of the host: the user changes the file, the size or the option.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// The file is no kernel that this program knows.
    #[error("is {}, and neither a Linux bzImage nor an ELF kernel; name one such as /vmlinuz", .0.unwrap_or("of an unknown kind"))]
    NotAKernel(Option<&'static str>),
    /// The file ends before what its headers promise.
    #[error("is cut short: it has {len} bytes, at least {needed} are needed to the end of its {what}; copy it again")]
    CutShort {
        /// The part that is not whole.
        what: &'static str,
        /// First byte behind that part.
        needed: u64,
        /// Length of the file.
        len: u64,
    },
    /// A field of a header has a value that no kernel has.
    #[error("has a damaged header: {field} is {value:#x}; copy it again")]
    Header {
        /// The field, as its specification calls it.
        field: &'static str,
        /// What the file says.
        value: u64,
    },
    /// A 32-bit ELF file, or one of another processor.
    #[error("is an ELF file for another processor than x86-64")]
    OtherProcessor,
    /// An ELF kernel that can't be entered by PVH.
    #[error(
        "is an ELF file that lacks a PVH entry (Xen's note PHYS32_ENTRY), by which it would be started; use the bzImage, or a \
         Linux kernel built with CONFIG_PVH"
    )]
    NoPvhEntry,
    /// A bzImage from before Linux 3.8 or a 32-bit one.
    #[error("is a bzImage without a 64-bit entry (boot protocol {major}.{minor:02})")]
    No64BitEntry {
        /// Major number of the boot protocol.
        major: u8,
        /// Minor number of the boot protocol.
        minor: u8,
    },
    /// The kernel wants memory that the guest doesn't have, or that is not RAM.
    #[error(
        "needs memory from {start:#x} to {end:#x} ({} MiB), the guest has {} MiB there; give it more memory",
        .end.div_ceil(MIB), available / MIB
    )]
    KernelOutsideRam {
        /// First byte that is needed.
        start: u64,
        /// First byte behind what is needed.
        end: u64,
        /// First byte behind the RAM below 4 GiB.
        available: u64,
    },
    /// A segment would overwrite what the loader itself puts below 1 MiB.
    #[error("has a segment at {start:#x}, below 1 MiB")]
    KernelTooLow {
        /// Where the segment wants to be.
        start: u64,
    },
    /// The initial RAM disk is an empty file.
    #[error("is empty")]
    InitrdEmpty,
    /// No room for the initial RAM disk between the kernel and the end of low memory.
    #[error("has {len} bytes, and {room} are free beside the kernel; give the guest more memory")]
    InitrdTooLarge {
        /// Length of the file.
        len: u64,
        /// Bytes that are free.
        room: u64,
    },
    /// The kernel command line is longer than the kernel reads.
    #[error("the kernel command line has {len} bytes, this kernel takes {max}")]
    CommandLineTooLong {
        /// Length without the terminating NUL.
        len: usize,
        /// Most that this kernel takes.
        max: usize,
    },
    /// A NUL byte would end the command line early.
    #[error("the kernel command line contains a NUL byte")]
    CommandLineNul,
    /// Outside [`crate::layout::MIN_MEMORY`] to [`crate::layout::MAX_MEMORY`], or no multiple of a MiB.
    #[error("{bytes} bytes of memory; it must be whole MiB from 64 MiB to 1 TiB")]
    MemorySize {
        /// The size asked for.
        bytes: u64,
    },
    /// Outside 1 to [`crate::layout::MAX_VCPUS`].
    #[error("{0} vCPUs; there can be 1 to 64")]
    VcpuCount(u16),
    /// Reading the file failed, or it changed while being read.
    #[error("can't be read: {0}")]
    Read(String),
    /// The memory handed in is not the memory of [`crate::layout::ram`].
    #[error("guest memory does not hold address {0:#x}")]
    Memory(u64),
    /// A table outgrew its place. The sizes are ours, so this is a defect of the program.
    #[error("the ACPI tables don't fit their area")]
    AcpiArea,
}
