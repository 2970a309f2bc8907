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
    /// None, or overlapping ones.
    #[error("regions: {0}")]
    Regions(GuestRegionCollectionError),
}

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
    fn an_offset_that_is_no_page_is_refused() {
        assert!(matches!(Memory::map(&[entry(0, 0x1000, 0, 8)], vec![memfd(0x2000)]), Err(TableError::Map(_))));
    }
}
