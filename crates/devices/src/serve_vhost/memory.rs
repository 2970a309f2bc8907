//! The guest memory that a front end shares: checked, mapped, and its ring addresses translated.
//!
//! Whether a region's file can shrink later is not asked. Our vm process has no call that does it (docs/architecture.md,
//! Guest memory), the files of other front ends need no seals, and one that does shrink its file ends its own device by
//! SIGBUS, which serves nobody else: as by closing the socket (openbsd/devices.md, V21).

use std::fs::File;
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags};
use sys::guest_io::GuestMemory;
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{FileOffset, GuestAddress, GuestRegionCollectionError, GuestRegionMmap};

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
    Map(MmapRegionError),
    /// None, or overlapping ones.
    #[error("regions: {0}")]
    Regions(GuestRegionCollectionError),
}

/// All memory of the guest.
pub(super) struct Memory {
    /// Mapped here.
    pub(super) guest: Arc<GuestMemory>,
    /// Where each region lies in the front end's address space, for ring addresses.
    views: Vec<View>,
}

struct View {
    user: u64,
    len: u64,
    guest: u64,
}

impl Memory {
    /// Maps a front end's table; `files` has one for each region. (The number of regions is bounded by vhost: 32.)
    pub(super) fn map(table: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<Memory, TableError> {
        let mut regions = Vec::with_capacity(table.len());
        let mut views = Vec::with_capacity(table.len());
        for (entry, file) in table.iter().zip(files) {
            let (user, len, guest) = (entry.user_addr, entry.memory_size, entry.guest_phys_addr);
            regions.push(region(guest, len, entry.mmap_offset, file)?);
            views.push(View { user, len, guest });
        }
        regions.sort_by_key(|region: &GuestRegionMmap<()>| vm_memory::GuestMemoryRegion::start_addr(region));
        let guest = GuestMemory::from_regions(regions).map_err(TableError::Regions)?;
        Ok(Memory { guest: Arc::new(guest), views })
    }

    /// The guest-physical address of an address in the front end's space, if that lies in shared memory.
    pub(super) fn translate(&self, user: u64) -> Option<GuestAddress> {
        self.views.iter().find_map(|view| {
            let offset = user.checked_sub(view.user).filter(|offset| *offset < view.len)?;
            view.guest.checked_add(offset).map(GuestAddress)
        })
    }
}

fn region(guest: u64, len: u64, offset: u64, file: File) -> Result<GuestRegionMmap<()>, TableError> {
    let end = offset.checked_add(len).ok_or(TableError::Size(guest))?;
    if file.metadata().map_err(TableError::File)?.len() < end {
        return Err(TableError::Size(guest));
    }
    let len = usize::try_from(len).map_err(|_| TableError::Size(guest))?;
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::SHARED | MapFlags::NORESERVE;
    let signed = |bits| i32::try_from(bits).map_err(|_| TableError::Size(guest));
    let mapping = MmapRegionBuilder::<()>::new(len)
        .with_mmap_prot(signed(prot.bits())?)
        .with_mmap_flags(signed(flags.bits())?)
        .with_file_offset(FileOffset::new(file, offset))
        .build()
        .map_err(TableError::Map)?;
    // The guest-physical end was checked by vhost's `is_valid`, and is again.
    GuestRegionMmap::new(mapping, GuestAddress(guest)).ok_or(TableError::Size(guest))
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
