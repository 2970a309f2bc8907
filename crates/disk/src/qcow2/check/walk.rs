//! Everything in a file that refers to a cluster: the header's tables, snapshots, bitmaps, L1 and L2 tables. Each pass counts
//! the references into one window and compares them with the refcounts.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};

use super::super::{
    BadEntry, Cluster, Geometry, Header, L1Entry, L2Entry, RefcountBlock, block_of, features, table_entry,
};
use super::cells::{Cells, Use};
use super::{Bytes, CheckError, CheckWatch, Finding, Place, Report, Storage, read_up_to};

/// Different L2 tables of an image with its snapshots: 8 Mi tables of 64 KiB describe 4 PiB. 16 bytes each.
const MAX_TABLES: usize = 8 << 20;
/// Bytes of all L1 tables: that of the image has up to 32 MiB, and each snapshot's as many.
const MAX_L1_BYTES: u64 = 4 << 30;
/// Bytes of the snapshot table (QEMU, block/qcow2.h, QCOW_MAX_SNAPSHOTS_SIZE).
const MAX_SNAPSHOT_TABLE: u64 = 64 << 20;
/// Bytes of all bitmaps' tables. QEMU allows 1 GiB each (block/qcow2-bitmap.c, BME_MAX_TABLE_SIZE).
const MAX_BITMAP_TABLES: u64 = 1 << 30;
/// Refcount blocks that are held for looking up: 16 MiB of the largest.
const MAX_BLOCKS: usize = 8;
/// The header extension that says where bitmaps are (qcow2.rst, "Header extensions").
const BITMAPS: u32 = 0x2385_2875;
/// Bits 9 to 55 of an entry of any table: where something is (qcow2.rst, "Cluster mapping" and "Bitmap table").
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// The mark of an entry whose cluster may be written in place, and that of a compressed one (qcow2.rst, "Cluster mapping").
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

/// An L2 table.
#[derive(Clone, Copy, Debug)]
struct Table {
    at: u64,
    times: u32,
    /// Whether the guest's disk has it, not snapshots alone.
    active: bool,
}

/// A stretch of the file that something other than an L1 or L2 entry refers to.
#[derive(Clone, Copy, Debug)]
struct Reference {
    at: u64,
    len: u64,
    used: Use,
    place: Place,
}

/// What the refcounts that a file has are to a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old {
    /// They stay: their clusters are used.
    Counted,
    /// Others take their place: their clusters are free.
    Left,
}

/// A check under way.
pub struct Walk<'a> {
    bytes: &'a dyn Bytes,
    header: &'a Header,
    geometry: Geometry,
    /// Clusters of the file.
    clusters: u64,
    references: Vec<Reference>,
    tables: Vec<Table>,
    /// Refcount blocks by their index; 0 where there is none.
    blocks: Vec<u64>,
    held: HashMap<u64, RefcountBlock<Vec<u8>>>,
    report: Report,
}

impl<'a> Walk<'a> {
    /// Reads what is read once: the refcount table, snapshots, bitmaps, and which L2 tables there are.
    pub fn new(bytes: &'a dyn Bytes, header: &'a Header, clusters: u64, old: Old) -> Result<Self, CheckError> {
        let geometry = header.geometry;
        let report = Report { clusters: geometry.clusters(header.size), ..Report::default() };
        let (references, tables, blocks, held) = (Vec::new(), Vec::new(), Vec::new(), HashMap::new());
        let mut walk = Self { bytes, header, geometry, clusters, references, tables, blocks, held, report };
        let cluster = geometry.cluster_size();
        walk.refer(0, cluster, Use::Own, Place::Header);
        walk.refer(header.l1.at, u64::from(header.l1.count).saturating_mul(8), Use::Own, Place::Header);
        let refcounts = u64::from(header.refcounts.count).saturating_mul(cluster);
        if old == Old::Counted {
            walk.refer(header.refcounts.at, refcounts, Use::Own, Place::Header);
            walk.refcount_table(refcounts)?;
        }
        let mut l1 = vec![(header.l1.at, u64::from(header.l1.count), None)];
        walk.snapshots(&mut l1)?;
        walk.bitmaps()?;
        walk.l1_tables(&l1)?;
        Ok(walk)
    }

    /// What was found.
    pub fn end(self) -> Report {
        self.report
    }

    fn refer(&mut self, at: u64, len: u64, used: Use, place: Place) {
        self.references.push(Reference { at, len, used, place });
    }

    /// So many bytes from there; behind the end of the file are zeros.
    fn read(&self, at: u64, len: u64) -> Result<Vec<u8>, CheckError> {
        let len = usize::try_from(len).map_err(|_| CheckError::TooMuch("a table that is too large"))?;
        let mut buffer = vec![0; len];
        read_up_to(self.bytes, &mut buffer, at)?;
        Ok(buffer)
    }

    /// Whether nothing but a hole is there.
    fn is_hole(&self, at: u64, len: u64) -> Result<bool, CheckError> {
        Ok(self.bytes.next_data(at)?.is_none_or(|next| next >= at.saturating_add(len)))
    }

    fn refcount_table(&mut self, len: u64) -> Result<(), CheckError> {
        let table = self.read(self.header.refcounts.at, len)?;
        for (index, entry) in (0..).zip(numbers(&table)) {
            let place = Place::Refcounts(index);
            let block = table_entry(entry, self.geometry).unwrap_or_else(|error| {
                self.report.add(Finding::Entry { place, error });
                None
            });
            let inside = block.filter(|at| self.is_inside(*at, self.geometry.cluster_size()));
            self.blocks.push(inside.unwrap_or(0));
            if let Some(at) = block {
                self.refer(at, self.geometry.cluster_size(), Use::Own, place);
            }
        }
        Ok(())
    }

    /// The snapshot table (qcow2.rst, "Snapshots"): each with an L1 table of its own.
    fn snapshots(&mut self, l1: &mut Vec<(u64, u64, Option<u32>)>) -> Result<(), CheckError> {
        let Some(table) = self.header.snapshots else { return Ok(()) };
        let mut at = table.at;
        for which in 0..table.count {
            let place = Place::Snapshot(which);
            let record = self.read(at, 40)?;
            let (l1_at, entries) = (number(&record, 0, 8), number(&record, 8, 4));
            let extra = number(&record, 12, 2).saturating_add(number(&record, 14, 2));
            let len = 40_u64.saturating_add(extra).saturating_add(number(&record, 36, 4));
            let next = at.saturating_add(len.next_multiple_of(8));
            if next.saturating_sub(table.at) > MAX_SNAPSHOT_TABLE || !self.is_inside(at, len) {
                self.report.add(Finding::Table { place });
                break;
            }
            at = next;
            if entries > 0 {
                self.refer(l1_at, entries.saturating_mul(8), Use::Own, place);
                match self.geometry.is_aligned(l1_at) && self.is_inside(l1_at, entries.saturating_mul(8)) {
                    true => l1.push((l1_at, entries, Some(which))),
                    false => self.report.add(Finding::Table { place }),
                }
            }
        }
        self.refer(table.at, at.saturating_sub(table.at), Use::Own, Place::Header);
        Ok(())
    }

    /// Bitmaps (qcow2.rst, "Bitmaps"), unless somebody wrote the image who does not know them: then all of them are leaks.
    fn bitmaps(&mut self) -> Result<(), CheckError> {
        let extension = self.header.extensions.iter().find(|one| one.kind == BITMAPS);
        let Some(data) = extension.filter(|_| self.header.autoclear & features::BITMAPS != 0) else { return Ok(()) };
        let (count, len, from) = (number(&data.data, 0, 4), number(&data.data, 8, 8), number(&data.data, 16, 8));
        let end = from.saturating_add(len);
        self.refer(from, len, Use::Own, Place::Header);
        let (mut at, mut tables) = (from, 0_u64);
        for which in 0..u32::try_from(count).unwrap_or(u32::MAX) {
            let place = Place::Bitmap(which);
            let record = self.read(at, 24)?;
            let (table, entries) = (number(&record, 0, 8), number(&record, 8, 4));
            let extra = number(&record, 18, 2).saturating_add(number(&record, 20, 4));
            let bytes = entries.saturating_mul(8);
            at = at.saturating_add(24_u64.saturating_add(extra).next_multiple_of(8));
            tables = tables.saturating_add(bytes);
            if at > end || !self.is_inside(from, len) || !self.is_inside(table, bytes) {
                self.report.add(Finding::Table { place });
                break;
            }
            if tables > MAX_BITMAP_TABLES {
                return Err(CheckError::TooMuch("bitmaps that are too large"));
            }
            self.refer(table, bytes, Use::Own, place);
            if self.is_hole(table, bytes)? {
                continue;
            }
            for entry in numbers(&self.read(table, bytes)?) {
                let part = entry & OFFSET;
                if !self.geometry.is_aligned(part) {
                    self.report.add(Finding::Entry { place, error: BadEntry::Unaligned });
                } else if part != 0 {
                    self.refer(part, self.geometry.cluster_size(), Use::Data, place);
                }
            }
            if self.references.len() > MAX_TABLES {
                return Err(CheckError::TooMuch("bitmaps that are too large"));
            }
        }
        Ok(())
    }

    /// Finds the L2 tables that L1 tables name: offset, entries, and whose it is if a snapshot's.
    fn l1_tables(&mut self, all: &[(u64, u64, Option<u32>)]) -> Result<(), CheckError> {
        let mut read = 0_u64;
        for (at, entries, snapshot) in all {
            let len = entries.saturating_mul(8);
            read = read.saturating_add(len);
            if read > MAX_L1_BYTES {
                return Err(CheckError::TooMuch("more snapshots than can be looked at"));
            }
            if self.is_hole(*at, len)? {
                continue;
            }
            for (index, entry) in (0..).zip(numbers(&self.read(*at, len)?)) {
                let place = snapshot.map_or(Place::L1(index), |which| Place::SnapshotL1(which, index));
                match L1Entry::of(entry, self.geometry) {
                    Ok(None) => {}
                    Err(error) => self.report.add(Finding::Entry { place, error }),
                    Ok(Some(entry)) if !self.is_inside(entry.at, self.geometry.cluster_size()) => {
                        self.report.add(Finding::Outside { place, at: entry.at });
                    }
                    Ok(Some(entry)) => {
                        if snapshot.is_none() {
                            self.copied(place, entry.at, entry.copied)?;
                        }
                        self.tables.push(Table { at: entry.at, times: 1, active: snapshot.is_none() });
                    }
                }
            }
            if self.tables.len() > MAX_TABLES {
                self.join_tables();
            }
            if self.tables.len() > MAX_TABLES {
                return Err(CheckError::TooMuch("more L2 tables than can be looked at"));
            }
        }
        self.join_tables();
        Ok(())
    }

    /// One of each table, with how often it is named.
    fn join_tables(&mut self) {
        self.tables.sort_unstable_by_key(|table| table.at);
        self.tables.dedup_by(|next, first| {
            let same = next.at == first.at;
            if same {
                first.times = first.times.saturating_add(next.times);
                first.active |= next.active;
            }
            same
        });
    }

    /// Counts what refers to the clusters of a window, and compares.
    pub fn pass(&mut self, window: Range<u64>, watch: &mut CheckWatch<'_>) -> Result<(), CheckError> {
        let cells = self.count_window(window.clone(), watch)?;
        self.compare(&cells, window)
    }

    /// What refers to the clusters of a window.
    pub fn count_window(&mut self, window: Range<u64>, watch: &mut CheckWatch<'_>) -> Result<Cells, CheckError> {
        let first = window.start == 0;
        let mut cells = Cells::new(window.clone());
        for Reference { at, len, used, place } in std::mem::take(&mut self.references) {
            self.count(&mut cells, (at, len), used, 1, place, first);
            self.references.push(Reference { at, len, used, place });
        }
        let tables = std::mem::take(&mut self.tables);
        let every = (tables.len() >> 8).max(1);
        let width = window.end.saturating_sub(window.start);
        let part = width.checked_div(tables.len() as u64).unwrap_or(0);
        for (done, table) in tables.iter().enumerate() {
            if done.checked_rem(every) == Some(0) {
                let total = self.clusters.saturating_add(1);
                let done = window.start.saturating_add(part.saturating_mul(done as u64));
                if watch(done.min(total), total) == ControlFlow::Break(()) {
                    return Err(CheckError::Stopped);
                }
            }
            let size = (table.at, self.geometry.cluster_size());
            self.count(&mut cells, size, Use::Table, table.times, Place::L2 { table: table.at, index: 0 }, first);
            self.l2_table(&mut cells, *table, first)?;
        }
        self.tables = tables;
        Ok(cells)
    }

    /// Sets the mark for writing in place of each entry of the guest's disk as the refcounts say.
    pub fn mark_copied(&mut self, image: &dyn Storage) -> Result<(), CheckError> {
        let l1 = self.header.l1;
        let mut table = self.read(l1.at, u64::from(l1.count).saturating_mul(8))?;
        if self.mark(&mut table, 8, |bits| bits & OFFSET != 0)? {
            image.write_at(&table, l1.at)?;
        }
        let size = usize::try_from(self.geometry.l2_entry_size()).unwrap_or(8);
        for table in self.tables.clone().into_iter().filter(|table| table.active) {
            let mut bytes = self.read(table.at, self.geometry.cluster_size())?;
            if self.mark(&mut bytes, size, |bits| bits & COMPRESSED == 0 && bits & OFFSET != 0)? {
                image.write_at(&bytes, table.at)?;
            }
        }
        Ok(())
    }

    /// Sets the marks of a table's entries that name a cluster; whether any changed.
    fn mark(&mut self, table: &mut [u8], size: usize, names: fn(u64) -> bool) -> Result<bool, CheckError> {
        let mut changed = false;
        for entry in table.chunks_exact_mut(size) {
            let bits = number(entry, 0, 8);
            if !names(bits) {
                continue;
            }
            let single = self.refcount(self.geometry.cluster_of(bits & OFFSET))? == 1;
            let right = if single { bits | COPIED } else { bits & !COPIED };
            if let Some(word) = entry.get_mut(..8).filter(|_| right != bits) {
                word.copy_from_slice(&right.to_be_bytes());
                changed = true;
            }
        }
        Ok(changed)
    }

    fn l2_table(&mut self, cells: &mut Cells, table: Table, first: bool) -> Result<(), CheckError> {
        let cluster = self.geometry.cluster_size();
        if self.is_hole(table.at, cluster)? {
            return Ok(());
        }
        let bytes = self.read(table.at, cluster)?;
        let size = usize::try_from(self.geometry.l2_entry_size()).unwrap_or(8);
        for (index, entry) in (0..).zip(bytes.chunks_exact(size)) {
            let entry = L2Entry { bits: number(entry, 0, 8), bitmap: number(entry, 8, 8) };
            if entry == L2Entry::default() {
                continue;
            }
            let place = Place::L2 { table: table.at, index };
            let (used, copied, compressed) = match entry.cluster(self.geometry, self.header.version) {
                Err(error) if first => {
                    self.report.add(Finding::Entry { place, error });
                    continue;
                }
                Err(_) | Ok(Cluster::Unallocated | Cluster::Zero { kept: None }) => continue,
                Ok(Cluster::Subclusters { at: None, .. }) => continue,
                Ok(Cluster::Zero { kept: Some((at, copied)) }) => ((at, cluster), Some(copied), false),
                Ok(Cluster::Standard { at, copied }) => ((at, cluster), Some(copied), false),
                Ok(Cluster::Subclusters { at: Some((at, copied)), .. }) => ((at, cluster), Some(copied), false),
                Ok(Cluster::Compressed { at, len }) => ((at, len), None, true),
            };
            self.count(cells, used, Use::Data, table.times, place, first);
            if first && table.active {
                self.report.allocated = self.report.allocated.saturating_add(1);
                self.report.compressed = self.report.compressed.saturating_add(u64::from(compressed));
                if let Some(copied) = copied.filter(|_| self.is_inside(used.0, used.1)) {
                    self.copied(place, used.0, copied)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the file has the first byte of each cluster of a stretch: its last cluster may be cut.
    fn is_inside(&self, at: u64, len: u64) -> bool {
        let last = at.checked_add(len.saturating_sub(1)).map(|last| self.geometry.cluster_of(last));
        last.is_some_and(|last| last < self.clusters)
    }

    /// Counts a stretch's clusters. What is wrong with it is told in the first pass, and overlaps in that of their window.
    fn count(&mut self, cells: &mut Cells, (at, len): (u64, u64), used: Use, times: u32, place: Place, first: bool) {
        if len == 0 {
            return;
        }
        if !self.is_inside(at, len) {
            if first {
                self.report.add(Finding::Outside { place, at });
            }
            return;
        }
        let last = self.geometry.cluster_of(at.saturating_add(len.saturating_sub(1)));
        for cluster in self.geometry.cluster_of(at)..=last {
            if !cells.count(cluster, used, times) {
                let at = self.geometry.start_of(cluster).unwrap_or(at);
                self.report.add(Finding::Overlap { place, at });
            }
        }
    }

    /// What the file says how often a cluster is used.
    fn refcount(&mut self, cluster: u64) -> Result<u64, CheckError> {
        let (block, index) = block_of(cluster, self.geometry);
        let at = usize::try_from(block).ok().and_then(|block| self.blocks.get(block)).copied().unwrap_or(0);
        if at == 0 {
            return Ok(0);
        }
        if let Some(block) = self.held.get(&at) {
            return Ok(block.get(index));
        }
        if self.held.len() >= MAX_BLOCKS {
            self.held.clear();
        }
        let bytes = self.read(at, self.geometry.cluster_size())?;
        let block = RefcountBlock::new(bytes, self.geometry);
        let count = block.get(index);
        self.held.insert(at, block);
        Ok(count)
    }

    /// Whether the mark of an entry of the guest's disk says what the refcount does.
    fn copied(&mut self, place: Place, at: u64, copied: bool) -> Result<(), CheckError> {
        let refcount = self.refcount(self.geometry.cluster_of(at))?;
        // A walk that leaves the old refcounts reports to nobody.
        if copied != (refcount == 1) {
            self.report.add(Finding::Copied { place, refcount });
        }
        Ok(())
    }

    fn compare(&mut self, cells: &Cells, window: Range<u64>) -> Result<(), CheckError> {
        for cluster in window {
            let (refcount, references) = (self.refcount(cluster)?, cells.of(cluster));
            let at = self.geometry.start_of(cluster).unwrap_or(u64::MAX);
            match refcount.cmp(&references) {
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Greater => self.report.add(Finding::Leak { at, refcount, references }),
                std::cmp::Ordering::Less => self.report.add(Finding::Refcount { at, refcount, references }),
            }
        }
        Ok(())
    }
}

/// A number of up to 8 bytes, big end first; 0 where there are too few.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let digits = bytes.get(at..at.saturating_add(len)).unwrap_or_default();
    digits.iter().fold(0, |number, byte| number.wrapping_shl(8) | u64::from(*byte))
}

/// Numbers of 8 bytes each.
fn numbers(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(8).map(|bytes| number(bytes, 0, 8))
}
