//! The guest memory that a front end shares: checked, mapped, and its ring addresses translated.
//!
//! Whether a region's file can shrink later is not asked. Our vm process has no call that does it (docs/architecture.md,
//! Guest memory), the files of other front ends need no seals, and one that does shrink its file ends its own device by
//! SIGBUS, which serves nobody else: as by closing the socket (openbsd/devices.md, V21).

use std::fs::File;
use std::sync::Arc;

use sys::guest_io::GuestMemory;
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::mmap::FromRangesError;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryRegion, GuestRegionCollectionError, GuestRegionMmap};

/// Why a table of regions is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum TableError {
    /// A region reaches past the end of its file, or does not fit the address space.
    #[error("region at {0:#x} is larger than its file")]
    Size(u64),
    /// The file can't be asked for its size.
    #[error("region's file: {0}")]
    File(std::io::Error),
    /// The kernel does not map it.
    #[error("map: {0}")]
    Map(FromRangesError),
    /// None, overlapping ones, or one that is not there.
    #[error("regions: {0}")]
    Regions(GuestRegionCollectionError),
    /// More than [`MAX_SLOTS`].
    #[error("more than {MAX_SLOTS} regions")]
    Slots,
}

/// Regions at most, as many as vhost takes with a table. Each keeps its file, and a device may have 256 descriptors.
pub(super) const MAX_SLOTS: usize = 32;

/// All memory of the guest.
pub(super) struct Memory {
    /// Mapped here.
    pub(super) guest: Arc<GuestMemory>,
    /// Where each region lies in the front end's address space, for ring addresses.
    views: Vec<VhostUserMemoryRegion>,
}

impl Memory {
    /// Maps a front end's table; `files` has one for each region. (The number of regions is bounded by vhost: 32.)
    pub(super) fn map(table: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<Memory, TableError> {
        let regions = table.iter().zip(files).map(|(entry, file)| region(entry, file));
        let mut regions = regions.collect::<Result<Vec<_>, _>>()?;
        regions.sort_by_key(GuestMemoryRegion::start_addr);
        let guest = GuestMemory::from_regions(regions).map_err(TableError::Regions)?;
        Ok(Memory { guest: Arc::new(guest), views: table.to_vec() })
    }

    /// No memory.
    pub(super) fn none() -> Memory {
        Memory { guest: Arc::new(GuestMemory::new()), views: Vec::new() }
    }

    /// This memory and one more region; what is mapped stays where it is.
    pub(super) fn with(&self, entry: &VhostUserMemoryRegion, file: File) -> Result<Memory, TableError> {
        if self.views.len() >= MAX_SLOTS {
            return Err(TableError::Slots);
        }
        let guest = self.guest.insert_region(Arc::new(region(entry, file)?)).map_err(TableError::Regions)?;
        let views = self.views.iter().copied().chain([*entry]).collect();
        Ok(Memory { guest: Arc::new(guest), views })
    }

    /// This memory without a region, which guest address, user address and size name, as in vhost-user's REM_MEM_REG. The region
    /// is unmapped when the last who uses this memory is done.
    pub(super) fn without(&self, entry: &VhostUserMemoryRegion) -> Result<Memory, TableError> {
        let name = |view: &VhostUserMemoryRegion| (view.guest_phys_addr, view.user_addr, view.memory_size);
        let (named, views): (Vec<_>, Vec<_>) = self.views.iter().copied().partition(|view| name(view) == name(entry));
        if named.is_empty() {
            return Err(TableError::Regions(GuestRegionCollectionError::NoMemoryRegion));
        }
        let removed = self.guest.remove_region(GuestAddress(entry.guest_phys_addr), entry.memory_size);
        let (guest, _) = removed.map_err(TableError::Regions)?;
        Ok(Memory { guest: Arc::new(guest), views })
    }

    /// The guest-physical address of an address in the front end's space, if that lies in shared memory.
    pub(super) fn translate(&self, user: u64) -> Option<GuestAddress> {
        self.views.iter().find_map(|view| {
            let offset = user.checked_sub(view.user_addr).filter(|offset| *offset < view.memory_size)?;
            view.guest_phys_addr.checked_add(offset).map(GuestAddress)
        })
    }
}

fn region(entry: &VhostUserMemoryRegion, file: File) -> Result<GuestRegionMmap<()>, TableError> {
    let (guest, len, offset) = (entry.guest_phys_addr, entry.memory_size, entry.mmap_offset);
    let end = offset.checked_add(len).ok_or(TableError::Size(guest))?;
    if file.metadata().map_err(TableError::File)?.len() < end {
        return Err(TableError::Size(guest));
    }
    let len = usize::try_from(len).map_err(|_| TableError::Size(guest))?;
    GuestRegionMmap::from_range(GuestAddress(guest), len, Some(FileOffset::new(file, offset))).map_err(TableError::Map)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::fs::{MemfdFlags, memfd_create};
    use vm_memory::GuestMemoryBackend;

    use super::*;

    fn memfd(len: u64) -> File {
        let fd: OwnedFd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len(len).unwrap();
        file
    }

    fn entry(guest: u64, len: u64, user: u64, offset: u64) -> VhostUserMemoryRegion {
        VhostUserMemoryRegion::new(guest, len, user, offset)
    }

    #[test]
    fn addresses_are_translated_only_inside_a_region() {
        let table = [entry(0x10_0000, 0x1000, 0x7000_0000, 0x1000), entry(0, 0x1000, 0x9000_0000, 0)];
        let memory = Memory::map(&table, vec![memfd(0x2000), memfd(0x2000)]).unwrap();
        assert_eq!(memory.translate(0x7000_0123), Some(GuestAddress(0x10_0123)));
        assert_eq!(memory.translate(0x9000_0fff), Some(GuestAddress(0xfff)));
        for outside in [0, 0x6fff_ffff, 0x7000_1000, 0x9000_1000, u64::MAX] {
            assert_eq!(memory.translate(outside), None);
        }
    }

    #[test]
    fn a_region_larger_than_its_file_is_refused() {
        for (len, offset) in [(0x2000, 0), (0x1000, 0x1000), (u64::MAX - 0x1000, 0x1000), (1 << 62, 0)] {
            assert!(Memory::map(&[entry(0, len, 0, offset)], vec![memfd(0x1000)]).is_err());
        }
    }

    #[test]
    fn overlapping_regions_are_refused() {
        let table = [entry(0, 0x2000, 0, 0), entry(0x1000, 0x2000, 0x10000, 0)];
        let refused = Memory::map(&table, vec![memfd(0x2000), memfd(0x2000)]);
        assert!(matches!(refused, Err(TableError::Regions(_))));
        assert!(Memory::map(&[], vec![]).is_err());
    }

    #[test]
    fn a_region_is_added_beside_those_there_are_and_removed_alone() {
        let two = Memory::none().with(&entry(0x1000, 0x1000, 0x7000, 0), memfd(0x1000)).unwrap();
        let two = two.with(&entry(0x8000, 0x800, 0x9000, 0x1000), memfd(0x1800)).unwrap();
        assert_eq!(
            (two.translate(0x7010), two.translate(0x97ff)),
            (Some(GuestAddress(0x1010)), Some(GuestAddress(0x87ff)))
        );
        let host = |memory: &Memory| memory.guest.get_host_address(GuestAddress(0x8000)).unwrap();
        // A region is found by its addresses and size; its offset in the file does not matter.
        let one = two.without(&entry(0x1000, 0x1000, 0x7000, 77)).unwrap();
        assert_eq!((one.translate(0x7010), one.translate(0x97ff)), (None, Some(GuestAddress(0x87ff))));
        assert_eq!(host(&one), host(&two), "what stays is not mapped anew");
        assert_eq!(one.guest.num_regions(), 1);
        assert_eq!(one.without(&entry(0x8000, 0x800, 0x9000, 0)).unwrap().guest.num_regions(), 0);
    }

    #[test]
    fn a_region_that_does_not_fit_is_not_added() {
        let memory = Memory::none().with(&entry(0x2000, 0x2000, 0x7000, 0), memfd(0x2000)).unwrap();
        for (guest, len, offset) in [
            (0x2000, 0x2000, 0),           // there already
            (0x1000, 0x1001, 0),           // reaches into it
            (0x3fff, 0x1000, 0),           // begins in it
            (0, 0x8000, 0),                // around it
            (0x8000, 0, 0),                // nothing
            (0x8000, 0x1000, 8),           // no page
            (0x8000, 0x2000, 0x1000),      // past the end of its file
            (0x8000, u64::MAX, 0x1000),    // no file is so long
            (u64::MAX - 0xffe, 0x1000, 0), // past all addresses
        ] {
            let added = memory.with(&entry(guest, len, 0x10_0000, offset), memfd(0x2000));
            assert!(added.is_err(), "{guest:#x}+{len:#x} at {offset:#x}");
        }
    }

    #[test]
    fn a_region_is_removed_by_its_whole_name() {
        let memory = Memory::none().with(&entry(0x2000, 0x2000, 0x7000, 0), memfd(0x2000)).unwrap();
        for (guest, len, user) in
            [(0x2000, 0x1000, 0x7000), (0x2000, 0x2000, 0), (0, 0x2000, 0x7000), (0x3000, 0x1000, 0x8000)]
        {
            assert!(matches!(memory.without(&entry(guest, len, user, 0)), Err(TableError::Regions(_))));
        }
        assert!(matches!(Memory::none().without(&entry(0, 0, 0, 0)), Err(TableError::Regions(_))));
    }

    #[test]
    fn there_are_no_more_regions_than_slots() {
        let slots = 0..u64::try_from(MAX_SLOTS).unwrap();
        let full = slots.fold(Memory::none(), |memory, slot| {
            memory.with(&entry(slot << 20, 0x1000, slot << 30, 0), memfd(0x1000)).unwrap()
        });
        assert!(matches!(full.with(&entry(1 << 40, 0x1000, 0, 0), memfd(0x1000)), Err(TableError::Slots)));
        let room = full.without(&entry(1 << 20, 0x1000, 1 << 30, 0)).unwrap();
        assert!(room.with(&entry(1 << 40, 0x1000, 0, 0), memfd(0x1000)).is_ok());
    }

    #[test]
    fn an_offset_that_is_no_page_is_refused() {
        assert!(matches!(Memory::map(&[entry(0, 0x1000, 0, 8)], vec![memfd(0x2000)]), Err(TableError::Map(_))));
    }
}
