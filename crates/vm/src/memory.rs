//! Guest memory: one memory object, sealed, mapped here and handed to the device processes.

use std::fs::File;
use std::sync::Arc;

use boot::layout::Ram;
use vm_memory::{FileOffset, GuestAddress};

use crate::error::Error;

/// A guest's memory as all code of this process sees it.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;

/// The memory of a guest with these pieces of RAM, all zeros. Pages come from the host as they are touched.
pub fn make(ram: &[Ram]) -> Result<GuestMemory, Error> {
    let bytes = ram.iter().map(|piece| piece.len).sum();
    let object = Arc::new(File::from(sys::memory::guest_memory("guest memory", bytes).map_err(Error::Memory)?));
    let mut ranges = Vec::new();
    for piece in ram {
        let len = usize::try_from(piece.len).map_err(|_| Error::Memory(std::io::ErrorKind::OutOfMemory.into()))?;
        ranges.push((GuestAddress(piece.gpa), len, Some(FileOffset::from_arc(object.clone(), piece.offset))));
    }
    let memory = GuestMemory::from_ranges_with_files(&ranges)
        .map_err(|error| Error::Memory(std::io::Error::other(error.to_string())))?;
    crate::kvm::advise(&memory).map_err(Error::Memory)?;
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use boot::layout::{self, MIB};
    use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

    #[test]
    fn pieces_lie_behind_one_another_in_one_sealed_object() {
        let ram = layout::ram(6 << 30).unwrap();
        let memory = make(&ram).unwrap();
        let mut offsets = memory.iter().map(|region| region.file_offset().unwrap().start());
        assert_eq!((offsets.next(), offsets.next(), offsets.next()), (Some(0), Some(layout::LOW_RAM_END), None));
        let file = memory.iter().next().unwrap().file_offset().unwrap().file();
        assert_eq!(file.metadata().unwrap().len(), 6 << 30);
        assert!(file.set_len(0).is_err());
        assert!(file.set_len(7 << 30).is_err());
    }

    #[test]
    fn memory_is_zero_and_there_up_to_its_end() {
        let memory = make(&layout::ram(64 * MIB).unwrap()).unwrap();
        assert_eq!(memory.read_obj::<u64>(GuestAddress(64 * MIB - 8)).unwrap(), 0);
        assert!(memory.write_obj(1u8, GuestAddress(64 * MIB)).is_err());
    }
}
