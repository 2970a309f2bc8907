//! The initial RAM disk: as high in low memory as the kernel accepts it, so that it is in nobody's way.

use std::io::{Read, Seek, SeekFrom};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, ReadVolatile};

use crate::Error;

/// Where the initial RAM disk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Initrd {
    /// First byte, page-aligned.
    pub gpa: u64,
    /// Length in bytes, at least one.
    pub len: u64,
}

const PAGE: u64 = 4096;

/// Finds the place for `len` bytes between `floor`, the end of the kernel, and `ceiling`.
pub fn place(len: u64, floor: u64, ceiling: u64) -> Result<Initrd, Error> {
    if len == 0 {
        return Err(Error::InitrdEmpty);
    }
    let gpa = ceiling.checked_sub(len).map(|start| start & !(PAGE.wrapping_sub(1)));
    match gpa.filter(|&start| start >= floor) {
        Some(gpa) => Ok(Initrd { gpa, len }),
        None => Err(Error::InitrdTooLarge { len, room: ceiling.saturating_sub(floor) }),
    }
}

/// Reads the file into the guest, from its start whatever its position is.
pub fn load<M, F>(memory: &M, file: &mut F, floor: u64, ceiling: u64) -> Result<Initrd, Error>
where
    M: GuestMemoryBackend,
    F: Read + Seek + ReadVolatile,
{
    let read_error = |error: std::io::Error| Error::Read(error.to_string());
    let place = place(file.seek(SeekFrom::End(0)).map_err(read_error)?, floor, ceiling)?;
    file.rewind().map_err(read_error)?;
    let len = usize::try_from(place.len).map_err(|_| Error::InitrdTooLarge { len: place.len, room: 0 })?;
    memory
        .read_exact_volatile_from(GuestAddress(place.gpa), file, len)
        .map_err(|error| Error::Read(error.to_string()))?;
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;
    use vm_memory::GuestMemoryMmap;

    #[test]
    fn an_empty_file_is_refused() {
        assert_eq!(place(0, 0, 1 << 20), Err(Error::InitrdEmpty));
    }

    #[test]
    fn a_file_larger_than_the_room_is_refused() {
        assert_eq!(place(4097, 0x10_0000, 0x10_1000), Err(Error::InitrdTooLarge { len: 4097, room: 4096 }));
        assert_eq!(place(4096, 0x10_0000, 0x10_1000), Ok(Initrd { gpa: 0x10_0000, len: 4096 }));
        assert_eq!(place(u64::MAX, 0x10_0000, 0x10_1000), Err(Error::InitrdTooLarge { len: u64::MAX, room: 4096 }));
        assert_eq!(place(1, 0x20_0000, 0x10_0000), Err(Error::InitrdTooLarge { len: 1, room: 0 }));
    }

    #[test]
    fn the_whole_file_arrives_whatever_its_position() {
        let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let mut file = Cursor::new(b"070701".to_vec());
        file.set_position(5);
        let initrd = load(&memory, &mut file, 0, 1 << 20).unwrap();
        assert_eq!(initrd, Initrd { gpa: (1 << 20) - 4096, len: 6 });
        let mut bytes = [0; 6];
        memory.read_slice(&mut bytes, GuestAddress(initrd.gpa)).unwrap();
        assert_eq!(&bytes, b"070701");
    }

    proptest! {
        #[test]
        fn a_place_is_between_floor_and_ceiling(len in 1u64..1 << 34, floor in 0u64..1 << 33, ceiling in 0u64..1 << 33) {
            if let Ok(initrd) = place(len, floor, ceiling) {
                prop_assert!(initrd.gpa >= floor && initrd.gpa + initrd.len <= ceiling && initrd.gpa % 4096 == 0);
            }
        }
    }
}
