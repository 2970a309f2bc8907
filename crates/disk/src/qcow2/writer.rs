//! New images, written from begin to end: version 3, 64 KiB clusters, 16 bit refcounts (openbsd/vmctl.md, 4.3). The file holds
//! no qcow2 header before all else of it is there, so one that is not whole is taken for none. Called by vmctl.
//!
//! ```text
//! header | data clusters, each L2 table behind those that it names | L1 table | refcount blocks | refcount table
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{Backing, Cluster, Geometry, Header, HeaderError, L1Entry, L2Entry, RefcountBlock, Table};
use crate::{PIECE, SECTOR, Target};

/// 64 KiB: QEMU's default, and the piece in which disks are copied.
const CLUSTER_BITS: u8 = 16;
/// 16 bits: QEMU's default.
const REFCOUNT_ORDER: u8 = 4;
/// The largest disk: an L1 table of 32 MiB (QEMU's bound) describes it.
pub const MAX_NEW_SIZE: u64 = 1 << 51;

/// Why there is no new image.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Less than a sector, or more than can be described.
    #[error("a qcow2 disk has 512 bytes to 2 PiB, not {0}")]
    Size(u64),
    /// The header can't say it.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The file can't be written.
    #[error("{}", crate::plain(.0))]
    Io(#[from] io::Error),
}

/// An image that is being written.
#[derive(Debug)]
pub struct Writer<'a> {
    file: &'a File,
    geometry: Geometry,
    backing: Option<Backing>,
    /// As long as what was written needs.
    l1: Vec<u64>,
    /// The L2 table that is being filled, and which it is.
    open: Option<(usize, Vec<u8>)>,
    /// Clusters of the file so far.
    used: u64,
}

impl<'a> Writer<'a> {
    /// Begins an image in an empty file, on top of a base if there is one. What can't be is refused here: `size`, where it
    /// is known, and what the header can't hold.
    pub fn begin(file: &'a File, size: Option<u64>, backing: Option<Backing>) -> Result<Self, WriteError> {
        let size = size.unwrap_or(SECTOR);
        let geometry = Geometry::new(CLUSTER_BITS, REFCOUNT_ORDER, false).ok_or(WriteError::Size(size))?;
        let writer = Self { file, geometry, backing, l1: Vec::new(), open: None, used: 1 };
        writer.header(size, 0, Table { at: 0, count: 0 })?.to_bytes()?;
        Ok(writer)
    }

    /// Writes what is left, the header last, and waits until all of it is on the disk. `size` is the disk's, and not less
    /// than what was written.
    pub fn finish(mut self, size: u64) -> Result<(), WriteError> {
        self.close_table()?;
        let geometry = self.geometry;
        let l1_at = geometry.start_of(self.used).unwrap_or(u64::MAX);
        let mut header = self.header(size, l1_at, Table { at: 0, count: 0 })?;
        let l1_len = u64::from(header.l1.count).saturating_mul(8);
        let l1: Vec<u8> = self.l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        if l1.len() as u64 > l1_len {
            return Err(WriteError::Size(size));
        }
        self.file.write_all_at(&l1, l1_at)?;
        let used = self.used.saturating_add(geometry.clusters(l1_len));
        let (blocks, table, total) = refcounts(used, geometry);
        let blocks_at = geometry.start_of(used).unwrap_or(u64::MAX);
        let mut entries = Vec::new();
        for index in 0..blocks {
            let at = blocks_at.saturating_add(index.saturating_mul(geometry.cluster_size()));
            let first = index.saturating_mul(geometry.block_entries());
            let mut block = RefcountBlock::new(vec![0; geometry.cluster_len()], geometry);
            for at in 0..total.saturating_sub(first).min(geometry.block_entries()) {
                let _fits = block.set(at, 1);
            }
            self.file.write_all_at(block.bytes(), at)?;
            entries.extend(at.to_be_bytes());
        }
        let at = blocks_at.saturating_add(blocks.saturating_mul(geometry.cluster_size()));
        self.file.write_all_at(&entries, at)?;
        self.file.set_len(geometry.start_of(total).unwrap_or(u64::MAX))?;
        self.file.sync_all()?;
        header.refcounts = Table { at, count: u32::try_from(table).unwrap_or(u32::MAX) };
        self.file.write_all_at(&header.to_bytes()?, 0)?;
        Ok(self.file.sync_all()?)
    }

    fn header(&self, size: u64, l1_at: u64, refcounts: Table) -> Result<Header, WriteError> {
        if !(SECTOR..=MAX_NEW_SIZE).contains(&size) {
            return Err(WriteError::Size(size));
        }
        let count = u32::try_from(self.geometry.l1_needed(size)).map_err(|_| WriteError::Size(size))?;
        let mut header = Header::new(self.geometry, size, Table { at: l1_at, count }, refcounts);
        header.backing = self.backing.clone();
        Ok(header)
    }

    /// The first byte of a new cluster.
    fn allocate(&mut self) -> u64 {
        let at = self.geometry.start_of(self.used).unwrap_or(u64::MAX);
        self.used = self.used.saturating_add(1);
        at
    }

    fn close_table(&mut self) -> io::Result<()> {
        let Some((index, table)) = self.open.take() else { return Ok(()) };
        let at = self.allocate();
        self.file.write_all_at(&table, at)?;
        self.l1.resize(index, 0);
        self.l1.push(L1Entry { at, copied: true }.bits());
        Ok(())
    }
}

impl Target for Writer<'_> {
    /// Pieces come in ascending order: a table that is written is not looked at again.
    fn write(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        let geometry = self.geometry;
        let place = geometry.place(at);
        let out_of_place = || io::Error::from(io::ErrorKind::InvalidInput);
        let index = usize::try_from(place.l1).map_err(|_| out_of_place())?;
        if at >= MAX_NEW_SIZE || place.within != 0 || bytes.len() > PIECE {
            return Err(out_of_place());
        }
        if self.open.as_ref().is_none_or(|(open, _)| *open != index) {
            self.close_table()?;
            if index < self.l1.len() {
                return Err(out_of_place());
            }
            self.open = Some((index, vec![0; geometry.cluster_len()]));
        }
        let data = self.allocate();
        self.file.write_all_at(bytes, data)?;
        let (_, table) = self.open.as_mut().ok_or_else(out_of_place)?;
        let entry = L2Entry::new(Cluster::Standard { at: data, copied: true }).unwrap_or_default();
        let from = usize::try_from(place.l2.saturating_mul(geometry.l2_entry_size())).map_err(|_| out_of_place())?;
        let slot = table.get_mut(from..from.saturating_add(8)).ok_or_else(out_of_place)?;
        slot.copy_from_slice(&entry.bits.to_be_bytes());
        Ok(())
    }
}

/// Refcount blocks, clusters of the refcount table, and all clusters of a file that has `used` beside them: they count
/// themselves too.
pub(super) fn refcounts(used: u64, geometry: Geometry) -> (u64, u64, u64) {
    let (mut blocks, mut table) = (0_u64, 0_u64);
    loop {
        let total = used.saturating_add(blocks).saturating_add(table);
        let needed = total.div_ceil(geometry.block_entries().max(1));
        let table_needed = geometry.clusters(needed.saturating_mul(8));
        if (needed, table_needed) == (blocks, table) {
            return (blocks, table, total);
        }
        (blocks, table) = (needed, table_needed);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use model::DiskFormat;

    use super::*;

    /// What QEMU's tool says of a file; the tests need the package qemu-utils.
    fn qemu_img(arguments: &[&str]) -> (bool, String) {
        let output = Command::new("qemu-img").args(arguments).output();
        let output = output.unwrap_or_else(|error| panic!("qemu-img: {error}; install qemu-utils"));
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    #[track_caller]
    fn is_right(path: &std::path::Path) {
        let (right, said) = qemu_img(&["check", "-f", "qcow2", path.to_str().unwrap()]);
        assert!(right && said.contains("No errors were found"), "{said}");
    }

    #[test]
    fn new_images_of_all_sizes_are_right_for_qemu_img_and_for_our_own_reader() {
        for size in [512, 1 << 20, (512 << 20) - 512, 512 << 20, (512 << 20) + 512, 7 << 40, 256 << 40] {
            let file = tempfile::NamedTempFile::new().unwrap();
            Writer::begin(file.as_file(), Some(size), None).unwrap().finish(size).unwrap();
            is_right(file.path());
            let bytes = std::fs::read(file.path()).unwrap();
            let header = Header::parse(&bytes, bytes.len() as u64).unwrap();
            assert_eq!((header.size, header.backing), (size, None));
        }
        let file = tempfile::tempfile().unwrap();
        for size in [0, 511, MAX_NEW_SIZE + 1, u64::MAX] {
            assert!(matches!(Writer::begin(&file, Some(size), None), Err(WriteError::Size(_))), "{size}");
        }
    }

    #[test]
    fn what_is_written_is_there_and_the_rest_is_zero() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let raw = tempfile::NamedTempFile::new().unwrap();
        let size = (3 << 30) + 512;
        raw.as_file().set_len(size).unwrap();
        let mut writer = Writer::begin(file.as_file(), None, None).unwrap();
        let piece = PIECE as u64;
        for (at, len) in [(0, PIECE), (5 * piece, PIECE), (8191 * piece, PIECE), (8192 * piece, 7), (3 << 30, 512)] {
            let bytes: Vec<u8> = (0..len).map(|byte| (byte % 251) as u8 + 1).collect();
            writer.write(&bytes, at).unwrap();
            raw.as_file().write_all_at(&bytes, at).unwrap();
        }
        assert!(writer.write(&[1], 0).is_err(), "its table is written");
        assert!(writer.write(&[1], MAX_NEW_SIZE).is_err());
        writer.finish(size).unwrap();
        is_right(file.path());
        let [image, raw] = [file.path(), raw.path()].map(|path| path.to_str().unwrap());
        let (same, said) = qemu_img(&["compare", "-f", "qcow2", "-F", "raw", image, raw]);
        assert!(same, "{said}");
    }

    #[test]
    fn a_base_is_named_with_its_format_and_a_name_that_does_not_fit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (base, image) = (dir.path().join("base.raw"), dir.path().join("image"));
        std::fs::write(&base, vec![7; 1 << 20]).unwrap();
        let file = File::create_new(&image).unwrap();
        let backing = |name: &[u8]| Some(Backing { name: name.to_vec(), format: Some(DiskFormat::Raw) });
        Writer::begin(&file, Some(2 << 20), backing(b"base.raw")).unwrap().finish(2 << 20).unwrap();
        is_right(&image);
        let (right, said) = qemu_img(&["info", image.to_str().unwrap()]);
        assert!(
            right && said.contains("backing file: base.raw") && said.contains("backing file format: raw"),
            "{said}"
        );
        assert!(Writer::begin(&file, None, backing(&[b'x'; 1023])).is_ok());
        let long = Writer::begin(&file, None, backing(&[b'x'; 1024]));
        assert!(matches!(long, Err(WriteError::Header(HeaderError::BackingLength(1024)))));
    }

    #[test]
    fn an_image_that_is_not_whole_is_taken_for_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = Writer::begin(file.as_file(), Some(4 << 30), None).unwrap();
        writer.write(&[1; PIECE], 0).unwrap();
        writer.write(&[1; PIECE], 1 << 30).unwrap();
        assert!(matches!(writer.finish(1 << 29), Err(WriteError::Size(_))), "less than what was written");
        let bytes = std::fs::read(file.path()).unwrap();
        assert!(bytes.len() > PIECE && bytes[..PIECE].iter().all(|byte| *byte == 0));
    }

    /// Each count of clusters around the sizes where another block or table cluster begins.
    #[test]
    fn refcounts_count_themselves() {
        let geometry = Geometry::new(9, 6, false).unwrap();
        for used in (0..20_000).chain((1 << 20) - 300..(1 << 20) + 300) {
            let (blocks, table, total) = refcounts(used, geometry);
            assert_eq!(total, used + blocks + table);
            assert!(blocks * geometry.block_entries() >= total && table * 512 >= blocks * 8, "{used}");
        }
    }
}
