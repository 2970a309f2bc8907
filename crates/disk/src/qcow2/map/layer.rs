//! A file of a chain as the map knows it: what was read when it was opened.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use model::DiskFormat;

use crate::qcow2::{Access, Cluster, Geometry, Header, HeaderError, L1Entry, L2Entry, Version};

use super::Corruption;
use super::claims::merged;

/// Entries of an L1 table: 32 MiB, as in QEMU (qcow2.h, `QCOW_MAX_L1_SIZE`).
const MAX_L1_ENTRIES: u64 = (32 << 20) / 8;
/// Entries of all snapshots' L1 tables that are looked through for L2 tables. That an entry leads to one of those beyond is
/// image check's to tell.
const MAX_SNAPSHOT_ENTRIES: u64 = MAX_L1_ENTRIES;

/// Why a file can't be part of a chain.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// It can't be read.
    #[error("the image can't be read: {}", crate::plain(.0))]
    Io(#[from] io::Error),
    /// Its header is refused.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// None, or too many files.
    #[error("the image and its bases are {0} files; up to 16 are read")]
    Chain(usize),
}

/// One file: the image or one of its bases.
#[derive(Debug)]
pub struct Layer {
    pub(super) kind: Kind,
    /// The file's bytes: what was written since counts once it is done.
    pub(super) file_len: u64,
    /// Where its last cluster ends: entries lead before it.
    pub(super) bound: u64,
}

/// What a file is.
#[derive(Debug)]
pub(super) enum Kind {
    /// The disk's bytes.
    Raw,
    /// An image.
    Qcow2(Box<Image>),
}

/// The part of an image that is held in memory.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) header: Header,
    /// The active L1 table, as it stands in the file.
    pub(super) l1: Vec<u64>,
    /// Where the image is written.
    pub(super) writable: Option<Writable>,
}

/// What is read of an image that is written.
#[derive(Debug)]
pub(super) struct Writable {
    /// The refcount table, as it stands in the file.
    pub(super) refcounts: Vec<u64>,
    pub(super) snapshots: Snapshots,
}

/// The clusters that the snapshots have for themselves.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// Of the snapshot table and the L1 tables that it names, apart from each other, ascending.
    pub(super) fixed: Vec<Range<u64>>,
    /// Of the L2 tables, ascending. The active L1 table may name them too.
    pub(super) tables: Vec<u64>,
}

impl Snapshots {
    fn sort(&mut self) {
        self.tables.sort_unstable();
        self.tables.dedup();
    }
}

impl Layer {
    /// Reads what the map needs of a file to read it: header and L1 table, up to 34 MiB of an image, nothing of a raw file.
    /// Blocks. Its format was decided before, never here.
    pub fn open(file: &File, file_len: u64, format: DiskFormat) -> Result<Self, LayerError> {
        Self::from_reads(reads(file, file_len), file_len, format, Access::Read)
    }

    /// As `open`, of an image that is written: its refcount table, up to 8 MiB, and its snapshot table too.
    pub fn open_to_write(file: &File, file_len: u64) -> Result<Self, LayerError> {
        Self::from_reads(reads(file, file_len), file_len, DiskFormat::Qcow2, Access::Write)
    }

    /// As `open`, by a function that gives so many bytes from a place on, and zeros beyond the file's end.
    pub fn from_reads(
        read: impl Fn(u64, usize) -> io::Result<Vec<u8>>,
        file_len: u64,
        format: DiskFormat,
        access: Access,
    ) -> Result<Self, LayerError> {
        match format {
            DiskFormat::Raw => return Ok(Self { kind: Kind::Raw, file_len, bound: file_len }),
            DiskFormat::Qcow2 => {}
        }
        let up_to = |len: usize| usize::try_from(file_len).unwrap_or(usize::MAX).min(len);
        let needed = Header::bytes_needed(&read(0, up_to(512))?)?;
        let header = Header::parse(&read(0, up_to(needed))?, file_len)?;
        header.check(access)?;
        let table = |at: u64, entries: usize| -> io::Result<Vec<u64>> {
            let bytes = read(at, entries.saturating_mul(8))?;
            Ok(bytes.chunks_exact(8).filter_map(|entry| entry.try_into().ok()).map(u64::from_be_bytes).collect())
        };
        let l1 = table(header.l1.at, usize::try_from(header.l1.count).unwrap_or(usize::MAX))?;
        let bound = header.geometry.round_up(file_len).unwrap_or(u64::MAX);
        let writable = match access {
            Access::Read => None,
            Access::Write => {
                let clusters = usize::try_from(header.refcounts.count).unwrap_or(usize::MAX);
                let refcounts = table(header.refcounts.at, clusters.saturating_mul(header.geometry.cluster_len() / 8))?;
                Some(Writable { refcounts, snapshots: snapshots(&header, file_len, &read)? })
            }
        };
        Ok(Self { kind: Kind::Qcow2(Box::new(Image { header, l1, writable })), file_len, bound })
    }

    /// The disk's bytes, as this file has them.
    pub fn size(&self) -> u64 {
        match &self.kind {
            Kind::Raw => self.file_len,
            Kind::Qcow2(image) => image.header.size,
        }
    }

    /// An image's header; none of a raw file.
    pub fn header(&self) -> Option<&Header> {
        match &self.kind {
            Kind::Raw => None,
            Kind::Qcow2(image) => Some(&image.header),
        }
    }
}

/// Reads of a file, with zeros beyond its end: a table may end in a cut last cluster.
fn reads(file: &File, file_len: u64) -> impl Fn(u64, usize) -> io::Result<Vec<u8>> {
    move |at: u64, len: usize| {
        let there = usize::try_from(file_len.saturating_sub(at)).unwrap_or(usize::MAX).min(len);
        let mut bytes = vec![0; there];
        file.read_exact_at(&mut bytes, at)?;
        bytes.resize(len, 0);
        Ok(bytes)
    }
}

/// The clusters of the snapshot table, of the L1 tables that it names and of their L2 tables (qcow2.rst, "Snapshots"), as
/// far as they are in the file. Damage in it is image check's to tell.
fn snapshots(
    header: &Header,
    file_len: u64,
    read: impl Fn(u64, usize) -> io::Result<Vec<u8>>,
) -> io::Result<Snapshots> {
    let geometry = header.geometry;
    let clusters = |at: u64, len: u64| {
        let end = at.saturating_add(len).min(file_len);
        geometry.cluster_of(at)..geometry.clusters(end)
    };
    let Some(snapshots) = header.snapshots else { return Ok(Snapshots::default()) };
    let mut found = Snapshots::default();
    let mut l1_tables = BTreeSet::new();
    let mut at = snapshots.at;
    for _ in 0..snapshots.count {
        if at >= file_len {
            break;
        }
        let fixed = read(at, 40)?;
        let field = |from: usize, len: usize| {
            let bytes = fixed.get(from..from.saturating_add(len)).unwrap_or_default();
            bytes.iter().fold(0u64, |value, byte| value.wrapping_shl(8) | u64::from(*byte))
        };
        let (l1_at, l1_count) = (field(0, 8), field(8, 4).min(MAX_L1_ENTRIES));
        found.fixed.push(clusters(l1_at, l1_count.saturating_mul(8)));
        l1_tables.insert((l1_at, l1_count));
        let len = field(36, 4).saturating_add(field(12, 2)).saturating_add(field(14, 2)).saturating_add(40);
        at = at.saturating_add(len).checked_next_multiple_of(8).unwrap_or(u64::MAX);
    }
    found.fixed.push(clusters(snapshots.at, at.saturating_sub(snapshots.at)));
    found.fixed = merged(found.fixed);
    let (mut left, mut sorted) = (MAX_SNAPSHOT_ENTRIES, 0);
    for (l1_at, count) in l1_tables {
        if left == 0 {
            break;
        }
        let there = file_len.saturating_sub(l1_at) / 8;
        let count = count.min(there).min(left);
        left = left.saturating_sub(count);
        let bytes = read(l1_at, usize::try_from(count.saturating_mul(8)).unwrap_or(usize::MAX))?;
        let entries = bytes.chunks_exact(8).filter_map(|entry| entry.try_into().ok()).map(u64::from_be_bytes);
        let tables = entries.filter_map(|entry| L1Entry::of(entry, geometry).ok().flatten());
        found.tables.extend(tables.map(|table| geometry.cluster_of(table.at)));
        // Snapshots share most of their tables. Not after each: those of 65536 snapshots would be sorted as often.
        if found.tables.len() / 2 >= sorted {
            found.sort();
            sorted = found.tables.len();
        }
    }
    found.sort();
    Ok(found)
}

impl Image {
    pub(super) fn geometry(&self) -> Geometry {
        self.header.geometry
    }

    pub(super) fn version(&self) -> Version {
        self.header.version
    }

    /// The L2 table of an L1 entry; none where there is no table. `bound` is where the file's last
    /// cluster ends.
    pub(super) fn table(&self, index: u64, bound: u64) -> Result<Option<L1Entry>, Corruption> {
        let bits = usize::try_from(index).ok().and_then(|index| self.l1.get(index)).copied().unwrap_or(0);
        let entry = L1Entry::of(bits, self.geometry()).map_err(|why| Corruption::L1 { index, why })?;
        match entry {
            Some(entry) if !self.holds(entry.at, bound) => Err(Corruption::Outside { at: entry.at }),
            entry => Ok(entry),
        }
    }

    /// Whether a cluster that begins here is one of the file, and not the header's.
    pub(super) fn holds(&self, at: u64, bound: u64) -> bool {
        at < bound && at >= self.geometry().cluster_size()
    }

    /// What a cluster of the disk is, by its table's bytes. `offset` is a byte of it.
    pub(super) fn cluster(&self, table: &[u8], offset: u64, bound: u64) -> Result<Cluster, Corruption> {
        let geometry = self.geometry();
        let entry_size = geometry.l2_entry_size();
        let at = usize::try_from(geometry.place(offset).l2.saturating_mul(entry_size)).unwrap_or(usize::MAX);
        let word = |at: usize| {
            let bytes = table.get(at..at.saturating_add(8)).and_then(|bytes| bytes.first_chunk());
            bytes.map_or(0, |bytes| u64::from_be_bytes(*bytes))
        };
        let bitmap = if geometry.is_extended() { word(at.saturating_add(8)) } else { 0 };
        let entry = L2Entry { bits: word(at), bitmap };
        let cluster = entry.cluster(geometry, self.version()).map_err(|why| Corruption::L2 { offset, why })?;
        let host = match cluster {
            Cluster::Unallocated => None,
            Cluster::Zero { kept } => kept.map(|(at, _)| at),
            Cluster::Standard { at, .. } | Cluster::Compressed { at, .. } => Some(at),
            Cluster::Subclusters { at, .. } => at.map(|(at, _)| at),
        };
        match host {
            Some(at) if !self.holds(at, bound) => Err(Corruption::Outside { at }),
            _ => Ok(cluster),
        }
    }
}
