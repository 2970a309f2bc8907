//! The memory in which queues record what is under way, as GET_INFLIGHT_FD and SET_INFLIGHT_FD hand it over (QEMU's
//! docs/interop/vhost-user.rst): made by this process, kept by the front end, and given to the next process after this one's death.
//!
//! As of guest memory, whether its file can shrink later is not asked: a front end that does that ends its own device.

use std::fs::File;
use std::sync::Arc;

use sys::guest_io::GuestMemory;
use vhost::vhost_user::message::VhostUserInflight;
use vm_memory::mmap::FromRangesError;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestRegionMmap};

use super::MAX_QUEUES;
use crate::queue::MAX_QUEUE_SIZE;
use crate::queue::in_flight::{self, Place};

/// Bytes of a file that has room for the records of any device.
pub const MAX_LEN: u64 = MAX_QUEUES as u64 * in_flight::len(MAX_QUEUE_SIZE);

/// Why memory for records is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordsError {
    /// More queues or entries than a device has, or none.
    #[error("records of {0} queues of {1} entries")]
    Number(u16, u16),
    /// The records do not fit into the area, or the area into its file.
    #[error("records are larger than their memory")]
    Size,
    /// The file can't be asked for its size.
    #[error("records' file: {0}")]
    File(std::io::Error),
    /// The kernel does not map it.
    #[error("map: {0}")]
    Map(FromRangesError),
}

/// The records of a device's queues.
pub(super) struct Records {
    memory: Arc<GuestMemory>,
    queues: u16,
    /// Entries that each has room for.
    size: u16,
}

impl Records {
    /// Maps what a front end hands over.
    pub(super) fn take(told: &VhostUserInflight, file: File) -> Result<Self, RecordsError> {
        let VhostUserInflight { mmap_size, mmap_offset, num_queues: queues, queue_size: size } = *told;
        let needed = len(queues, size)?;
        let end = mmap_offset.checked_add(needed).ok_or(RecordsError::Size)?;
        if mmap_size < needed || file.metadata().map_err(RecordsError::File)?.len() < end {
            return Err(RecordsError::Size);
        }
        let needed = usize::try_from(needed).map_err(|_| RecordsError::Size)?;
        let file = FileOffset::new(file, mmap_offset);
        let region = GuestRegionMmap::from_range(GuestAddress(0), needed, Some(file)).map_err(RecordsError::Map)?;
        let memory = GuestMemory::from_regions(vec![region]).map_err(|_| RecordsError::Size)?;
        Ok(Self { memory: Arc::new(memory), queues, size })
    }

    /// New records in this file, to be handed to the front end, which gives them back when they are to be used.
    pub(super) fn make(file: File, queues: u16, size: u16) -> Result<VhostUserInflight, RecordsError> {
        let told = VhostUserInflight::new(len(queues, size)?, 0, queues, size);
        Self::take(&told, file)?.forget();
        Ok(told)
    }

    /// Where a queue of this size has its record. None: there is no room for it.
    pub(super) fn place(&self, queue: usize, size: u16) -> Option<Place> {
        let queue = u16::try_from(queue).ok().filter(|queue| *queue < self.queues && size <= self.size)?;
        let at = in_flight::len(self.size).saturating_mul(queue.into());
        Some(Place { memory: self.memory.clone(), at: GuestAddress(at) })
    }

    /// Nothing is under way: the driver has reset the device.
    pub(super) fn forget(&self) {
        let words = len(self.queues, self.size).unwrap_or(0) / 8;
        for word in 0..words {
            // All of it is mapped.
            let _ = self.memory.write_obj(0u64, GuestAddress(word.saturating_mul(8)));
        }
    }
}

/// Bytes of the records of so many queues.
fn len(queues: u16, size: u16) -> Result<u64, RecordsError> {
    let right = (1..=MAX_QUEUES).contains(&queues.into()) && size.is_power_of_two() && size <= MAX_QUEUE_SIZE;
    right.then(|| in_flight::len(size).saturating_mul(queues.into())).ok_or(RecordsError::Number(queues, size))
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    fn file(len: u64) -> File {
        let file = File::from(memfd_create("records", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(len).unwrap();
        file
    }

    #[test]
    fn records_are_taken_only_where_they_fit() {
        let take = |size, offset, queues, entries, file_len| {
            Records::take(&VhostUserInflight::new(size, offset, queues, entries), file(file_len)).is_ok()
        };
        let len = 2 * in_flight::len(128);
        assert!(take(len, 0, 2, 128, len));
        assert!(take(len + 1, 4096, 2, 128, len + 4096));
        let wrong = [
            (len - 1, 0, 2, 128, len),
            (len, 0, 2, 128, len - 1),
            (len, 4096, 2, 128, len),
            (len, u64::MAX - 4095, 2, 128, len),
            (len, 8, 2, 128, len + 4096),
            (u64::MAX, 0, 0, 128, len),
            (u64::MAX, 0, 5, 128, MAX_LEN * 2),
            (u64::MAX, 0, 1, 100, len),
            (u64::MAX, 0, 1, 2048, MAX_LEN),
        ];
        for (size, offset, queues, entries, file_len) in wrong {
            assert!(!take(size, offset, queues, entries, file_len), "{size} {offset} {queues} {entries} {file_len}");
        }
    }

    #[test]
    fn each_queue_has_its_own_record_and_a_new_one_is_empty() {
        let all = file(MAX_LEN);
        std::os::unix::fs::FileExt::write_all_at(&all, &[7; 64], 0).unwrap();
        let told = Records::make(all.try_clone().unwrap(), 4, 1024).unwrap();
        assert_eq!((told.mmap_size, told.mmap_offset, told.num_queues, told.queue_size), (MAX_LEN, 0, 4, 1024));
        let records = Records::take(&told, all).unwrap();
        assert_eq!(records.memory.read_obj::<u64>(GuestAddress(0)).unwrap(), 0);
        let at = |queue, size| records.place(queue, size).map(|place| place.at.0);
        assert_eq!([0, 1, 3, 4].map(|queue| at(queue, 1024)), [Some(0), Some(16448), Some(3 * 16448), None]);
        assert_eq!(Records { size: 64, ..records }.place(0, 128).map(|place| place.at), None);
    }
}
