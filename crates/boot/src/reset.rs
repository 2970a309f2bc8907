//! Everything that lies in memory when the first vCPU starts, in one call.

use std::io::{Read, Seek};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, ReadVolatile};

use crate::initrd::{self, Initrd};
use crate::kernel::Kernel;
use crate::layout::{self, COMMAND_LINE, GDT, RESET_PORT, RESET_VALUE, RESET_VECTOR, Ram};
use crate::registers::Registers;
use crate::{Error, acpi, start_info, zero_page};

/// What the first vCPU enters.
#[derive(Debug)]
pub enum Entry<F> {
    /// A kernel, without firmware before it.
    Kernel {
        /// The kernel's file.
        kernel: F,
        /// Its initial RAM disk.
        initrd: Option<F>,
        /// Its command line, without a NUL.
        command_line: Vec<u8>,
    },
}

/// Fills zeroed guest memory, whose pieces are `ram`, and tells how the first vCPU begins.
///
/// Files are read from their start, whatever their position is.
pub fn fill<M, F>(memory: &M, ram: &[Ram], vcpus: u16, entry: Entry<F>) -> Result<Registers, Failed>
where
    M: GuestMemoryBackend,
    F: Read + Seek + ReadVolatile,
{
    let Entry::Kernel { mut kernel, initrd, command_line } = entry;
    let image = Kernel::probe(&mut kernel).map_err(Failed::Kernel)?;
    check_command_line(&image, &command_line).map_err(Failed::CommandLine)?;
    let low_ram_end = layout::low_ram_end(ram);
    let loaded = image.load(memory, &mut kernel, low_ram_end).map_err(Failed::Kernel)?;
    let initrd = match initrd {
        Some(mut file) => {
            let ceiling = image.initrd_ceiling(low_ram_end);
            Some(initrd::load(memory, &mut file, loaded.end, ceiling).map_err(Failed::Initrd)?)
        }
        None => None,
    };
    write_tables(memory, ram, vcpus, &image, initrd, &command_line).map_err(Failed::Tables)?;
    write_gdt(memory, &loaded.registers).map_err(Failed::Tables)?;
    Ok(loaded.registers)
}

/// Which of the user's inputs was at fault, so that the message can name its file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// The kernel file.
    #[error("kernel {0}")]
    Kernel(Error),
    /// The initial RAM disk.
    #[error("initrd {0}")]
    Initrd(Error),
    /// The command line.
    #[error("{0}")]
    CommandLine(Error),
    /// What does not come from a user: sizes, and memory that is not as promised.
    #[error("{0}")]
    Tables(Error),
}

fn check_command_line(kernel: &Kernel, command_line: &[u8]) -> Result<(), Error> {
    let max = kernel.max_command_line();
    if command_line.len() > max {
        return Err(Error::CommandLineTooLong { len: command_line.len(), max });
    }
    if command_line.contains(&0) {
        return Err(Error::CommandLineNul);
    }
    Ok(())
}

fn write_tables<M: GuestMemoryBackend>(
    memory: &M,
    ram: &[Ram],
    vcpus: u16,
    kernel: &Kernel,
    initrd: Option<Initrd>,
    command_line: &[u8],
) -> Result<(), Error> {
    // The memory is zeroed, so the NUL is there already.
    memory.write_slice(command_line, GuestAddress(COMMAND_LINE)).map_err(|_| Error::Memory(COMMAND_LINE))?;
    acpi::write(memory, vcpus)?;
    memory.write_slice(&HARD_RESET, GuestAddress(RESET_VECTOR)).map_err(|_| Error::Memory(RESET_VECTOR))?;
    let map = layout::memory_map(ram);
    match kernel {
        Kernel::BzImage(image) => {
            zero_page::write_page_tables(memory)?;
            zero_page::write(memory, image, &map, initrd)
        }
        Kernel::ElfPvh(_) => start_info::write(memory, &map, initrd),
    }
}

/// Real mode code for [`RESET_VECTOR`]: `mov $RESET_PORT, %dx; mov $RESET_VALUE, %al; out %al, %dx`, and `hlt; jmp .-1` since
/// the reset comes while the processor goes on. A guest jumps there to reset (Linux with `reboot=b` or `reboot=e`, DOS).
const HARD_RESET: [u8; 9] = {
    let [low, high] = RESET_PORT.to_le_bytes();
    [0xBA, low, high, 0xB0, RESET_VALUE, 0xEE, 0xF4, 0xEB, 0xFD]
};

fn write_gdt<M: GuestMemoryBackend>(memory: &M, registers: &Registers) -> Result<(), Error> {
    let bytes: Vec<u8> = registers.gdt().into_iter().flat_map(u64::to_le_bytes).collect();
    memory.write_slice(&bytes, GuestAddress(GDT)).map_err(|_| Error::Memory(GDT))
}

#[cfg(test)]
mod tests;
