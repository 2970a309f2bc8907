//! Guest memory: one memory object, made by the parent, mapped here and handed to the device processes.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use boot::layout::Ram;
use sys::guest_log;
use vm_memory::{Bytes, FileOffset, GuestAddress};

use crate::error::Error;

/// A guest's memory as all code of this process sees it.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;

/// The memory of a guest with these pieces of RAM. Pages come from the host as they are touched. An object that is
/// too short for the pieces is refused, so that no access can miss it.
pub fn map(ram: &[Ram], object: OwnedFd) -> Result<GuestMemory, Error> {
    let object = Arc::new(File::from(object));
    let needed = ram.iter().map(|piece| piece.len).sum();
    let has = object.metadata().map_err(Error::Memory)?.len();
    if has < needed {
        return Err(Error::Memory(std::io::Error::other(format!("{has} bytes came, but {needed} are needed"))));
    }
    let mut ranges = Vec::new();
    for piece in ram {
        let len = usize::try_from(piece.len).map_err(|_| Error::Memory(std::io::ErrorKind::OutOfMemory.into()))?;
        ranges.push((GuestAddress(piece.gpa), len, Some(FileOffset::from_arc(object.clone(), piece.offset))));
    }
    GuestMemory::from_ranges_with_files(&ranges)
        .map_err(|error| Error::Memory(std::io::Error::other(error.to_string())))
}

/// Reads guest memory. False if not all of it is RAM.
pub fn read(memory: &GuestMemory, gpa: u64, into: &mut [u8]) -> bool {
    memory.read_slice(into, GuestAddress(gpa)).is_ok()
}

/// Writes guest memory; what is not RAM takes nothing.
pub fn write(memory: &GuestMemory, gpa: u64, bytes: &[u8]) {
    if let Err(error) = memory.write_slice(bytes, GuestAddress(gpa)) {
        guest_log!(Warn, "{} bytes can't be written at {gpa:#x}: {error}", bytes.len());
    }
}

/// The memory of a test's guest.
#[cfg(test)]
pub fn for_test(ram: &[Ram]) -> GuestMemory {
    let bytes = ram.iter().map(|piece| piece.len).sum();
    map(ram, sys::memory::Pool::SmallPages.take(bytes).unwrap()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use boot::layout::{self, MIB};
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

    #[test]
    fn pieces_lie_behind_one_another_in_one_object() {
        let ram = layout::ram(6 << 30).unwrap();
        let memory = for_test(&ram);
        let mut offsets = memory.iter().map(|region| region.file_offset().unwrap().start());
        assert_eq!((offsets.next(), offsets.next(), offsets.next()), (Some(0), Some(layout::LOW_RAM_END), None));
        let file = memory.iter().next().unwrap().file_offset().unwrap().file();
        assert_eq!(file.metadata().unwrap().len(), 6 << 30);
    }

    #[test]
    fn an_object_that_is_too_short_is_refused() {
        let short = sys::memory::Pool::SmallPages.take((64 << 20) - 4096).unwrap();
        assert!(matches!(map(&layout::ram(64 * MIB).unwrap(), short), Err(Error::Memory(_))));
    }

    #[test]
    fn memory_is_zero_and_there_up_to_its_end() {
        let memory = for_test(&layout::ram(64 * MIB).unwrap());
        assert_eq!(memory.read_obj::<u64>(GuestAddress(64 * MIB - 8)).unwrap(), 0);
        assert!(memory.write_obj(1u8, GuestAddress(64 * MIB)).is_err());
    }

    #[test]
    fn chips_read_and_write_what_is_ram() {
        let memory = for_test(&layout::ram(64 * MIB).unwrap());
        let mut bytes = [0; 4];
        write(&memory, 64 * MIB - 4, b"abcd");
        assert!(read(&memory, 64 * MIB - 4, &mut bytes));
        assert_eq!(bytes, *b"abcd");
        assert!(!read(&memory, 64 * MIB - 3, &mut bytes));
        assert!(!read(&memory, u64::MAX, &mut bytes));
        write(&memory, u64::MAX, b"abcd");
    }
}
