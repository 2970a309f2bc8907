//! The refcounts of an image that is written: which clusters of the file are used, and where new ones come from. New
//! ones are at the file's end, or were freed since the image was opened.

use std::collections::{BTreeSet, HashMap};

use super::cache::{Cache, Key, Kind};
use super::layer::Image;
use super::{Corruption, Failure, Stop};
use crate::qcow2::header::MAX_REFCOUNT_TABLE;
use crate::qcow2::{Geometry, RefcountBlock, block_of, table_entry};

/// Clusters beyond the file's end that may have refcounts already: a crash leaves as many as were under way. More is
/// corruption, and the file is not made longer for it.
const MAX_SKIPPED: u32 = 4096;
/// Clusters that are remembered as free. What is beyond is free all the same; the image grows instead of using it.
const MAX_FREE: usize = 65536;
/// Entries can't name what is beyond (qcow2.rst, "Cluster mapping": 56 bits).
const MAX_FILE: u64 = 1 << 56;

/// What a cluster of the file is, where it is not the disk's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meta {
    /// Header, L1 table, refcount table, snapshots, or a table of theirs.
    Fixed,
    /// The refcount block of this index.
    Block(u64),
    /// The L2 table of this index.
    Table(u64),
}

/// The refcounts.
#[derive(Debug)]
pub(super) struct Refs {
    geometry: Geometry,
    /// The refcount table.
    pub(super) table: Vec<u64>,
    /// Where it is.
    pub(super) table_at: u64,
    /// Whether it is not where the header says.
    pub(super) moved: bool,
    /// Its entries that were changed and are not written.
    pub(super) changed: BTreeSet<u64>,
    /// The first cluster beyond the file.
    pub(super) end: u64,
    /// Clusters that are free and may hold anything.
    free: Vec<u64>,
    /// Clusters that nothing will lead to once what is changed now is written.
    pub(super) freed: Vec<u64>,
    /// What the clusters are that are not the disk's.
    meta: HashMap<u64, Meta>,
    skipped: u32,
}

fn corrupt(what: Corruption) -> Stop {
    Stop::Fail(Failure::Corrupt { file: 0, what })
}

impl Refs {
    /// Those of an image whose refcount table is `table`. `fixed` are clusters of its snapshots.
    pub(super) fn new(image: &Image, file_len: u64, table: Vec<u64>, fixed: &[u64]) -> Self {
        let geometry = image.geometry();
        let header = &image.header;
        let mut meta = HashMap::new();
        let clusters = |at: u64, bytes: u64| {
            let first = geometry.cluster_of(at);
            first..first.saturating_add(geometry.clusters(bytes))
        };
        let l1 = clusters(header.l1.at, u64::from(header.l1.count).saturating_mul(8));
        let table_len = u64::from(header.refcounts.count).saturating_mul(geometry.cluster_size());
        let all = l1.chain(clusters(header.refcounts.at, table_len)).chain(fixed.iter().copied()).chain([0]);
        meta.extend(all.map(|cluster| (cluster, Meta::Fixed)));
        // The first that claims a cluster has it; another that leads there is found out by that.
        for (index, entry) in (0..).zip(&table) {
            if let Ok(Some(at)) = table_entry(*entry, geometry) {
                meta.entry(geometry.cluster_of(at)).or_insert(Meta::Block(index));
            }
        }
        for index in 0..u64::from(header.l1.count) {
            if let Ok(Some(entry)) = image.table(index, u64::MAX) {
                meta.entry(geometry.cluster_of(entry.at)).or_insert(Meta::Table(index));
            }
        }
        Self {
            geometry,
            table,
            table_at: header.refcounts.at,
            moved: false,
            changed: BTreeSet::new(),
            end: geometry.clusters(file_len),
            free: Vec::new(),
            freed: Vec::new(),
            meta,
            skipped: 0,
        }
    }

    /// What a cluster is, where it is not the disk's.
    pub(super) fn meta(&self, cluster: u64) -> Option<Meta> {
        self.meta.get(&cluster).copied()
    }

    /// The block of an index: its key; none where there is none.
    fn block(&self, index: u64) -> Result<Option<Key>, Stop> {
        let entry = usize::try_from(index).ok().and_then(|index| self.table.get(index)).copied().unwrap_or(0);
        let at = table_entry(entry, self.geometry).map_err(|why| corrupt(Corruption::RefcountTable { index, why }))?;
        let Some(at) = at else { return Ok(None) };
        let cluster = self.geometry.cluster_of(at);
        if cluster >= self.end {
            return Err(corrupt(Corruption::Outside { at }));
        }
        if self.meta(cluster) != Some(Meta::Block(index)) {
            return Err(corrupt(Corruption::Metadata { at }));
        }
        Ok(Some(Key { file: 0, at }))
    }

    /// A cluster's count.
    pub(super) fn count(&self, cluster: u64, cache: &mut Cache, touched: &mut Vec<Key>) -> Result<u64, Stop> {
        let (block, index) = block_of(cluster, self.geometry);
        let Some(key) = self.block(block)? else { return Ok(0) };
        let Some(entry) = cache.get(key) else { return Err(Stop::Lack(key, Kind::Block)) };
        touched.push(key);
        Ok(RefcountBlock::new(entry.bytes(), self.geometry).get(index))
    }

    /// Sets a cluster's count; its block is there.
    pub(super) fn set(&mut self, cluster: u64, count: u64, cache: &mut Cache) -> Result<(), Stop> {
        let (block, index) = block_of(cluster, self.geometry);
        let full = Stop::Fail(Failure::Full);
        let Some(key) = self.block(block)? else { return Err(full) };
        let Some(entry) = cache.get(key) else { return Err(Stop::Lack(key, Kind::Block)) };
        let bits = 1u64.wrapping_shl(u32::from(self.geometry.refcount_order()));
        let from = usize::try_from(index.saturating_mul(bits) / 8).unwrap_or(usize::MAX);
        let len = usize::try_from(bits.div_ceil(8)).unwrap_or(8);
        if count > self.geometry.max_refcount() {
            return Err(full);
        }
        let bytes = entry.change_within(from..from.saturating_add(len));
        if RefcountBlock::new(bytes, self.geometry).set(index, count) { Ok(()) } else { Err(full) }
    }

    /// A cluster for data, counted, and whether it is certain to be zero.
    pub(super) fn take(&mut self, cache: &mut Cache, touched: &mut Vec<Key>) -> Result<(u64, bool), Stop> {
        while let Some(cluster) = self.free.last().copied() {
            let count = self.count(cluster, cache, touched)?;
            if count == 0 {
                self.set(cluster, 1, cache)?;
                self.free.pop();
                return Ok((cluster, false));
            }
            self.free.pop();
        }
        self.reserve(1, cache, touched)?;
        Ok((self.take_end(cache)?, true))
    }

    /// A cluster at the file's end for a table of this index, counted.
    pub(super) fn take_table(&mut self, index: u64, cache: &mut Cache, touched: &mut Vec<Key>) -> Result<u64, Stop> {
        self.reserve(1, cache, touched)?;
        let cluster = self.take_end(cache)?;
        self.meta.insert(cluster, Meta::Table(index));
        Ok(cluster)
    }

    /// A table that snapshots keep is nobody's to write any more.
    pub(super) fn keep_table(&mut self, cluster: u64) {
        self.meta.insert(cluster, Meta::Fixed);
    }

    /// Clusters of a refcount table that has an entry of this index, with room for half as many again.
    fn table_clusters(&self, index: u64) -> Option<u64> {
        let entries = index.checked_add(1)?;
        let bytes = entries.checked_add(entries / 2)?.checked_mul(8)?;
        (entries.checked_mul(8)? <= MAX_REFCOUNT_TABLE).then(|| self.geometry.clusters(bytes.min(MAX_REFCOUNT_TABLE)))
    }

    fn has_entry(&self, index: u64) -> bool {
        usize::try_from(index).is_ok_and(|index| index < self.table.len())
    }

    /// Makes certain that so many clusters can be taken at the end: every block that is needed is there or can be made.
    fn reserve(&mut self, clusters: u64, cache: &mut Cache, touched: &mut Vec<Key>) -> Result<(), Stop> {
        let full = || Stop::Fail(Failure::Full);
        'search: loop {
            let mut total = clusters;
            loop {
                let last = self.end.checked_add(total).ok_or_else(full)?;
                let (first, last) = (block_of(self.end, self.geometry).0, block_of(last, self.geometry).0);
                let mut needed = clusters;
                for index in first..=last {
                    needed = needed.saturating_add(u64::from(self.block(index)?.is_none()));
                }
                if !self.has_entry(last) {
                    needed = needed.saturating_add(self.table_clusters(last).ok_or_else(full)?);
                }
                if needed <= total {
                    break;
                }
                total = needed;
            }
            let end = self.end.checked_add(total).ok_or_else(full)?;
            if end.checked_mul(self.geometry.cluster_size()).is_none_or(|bytes| bytes > MAX_FILE) {
                return Err(full());
            }
            for cluster in self.end..end {
                if self.count(cluster, cache, touched)? != 0 {
                    self.skipped = self.skipped.saturating_add(1);
                    if self.skipped > MAX_SKIPPED {
                        return Err(corrupt(Corruption::Beyond { cluster }));
                    }
                    self.end = cluster.saturating_add(1);
                    continue 'search;
                }
            }
            return Ok(());
        }
    }

    /// The cluster at the end, after `reserve`.
    fn take_end(&mut self, cache: &mut Cache) -> Result<u64, Stop> {
        let taken = self.end;
        self.end = self.end.saturating_add(1);
        let mut uncounted = vec![taken];
        while let Some(cluster) = uncounted.pop() {
            let (index, _) = block_of(cluster, self.geometry);
            if !self.has_entry(index) {
                uncounted.push(cluster);
                uncounted.extend(self.move_table(index)?);
            } else if self.block(index)?.is_none() {
                let block = self.end;
                self.end = self.end.saturating_add(1);
                let at = block.saturating_mul(self.geometry.cluster_size());
                if let Some(entry) = usize::try_from(index).ok().and_then(|index| self.table.get_mut(index)) {
                    *entry = at;
                }
                self.changed.insert(index);
                self.meta.insert(block, Meta::Block(index));
                let key = Key { file: 0, at };
                if let Some(entry) = cache.insert(key, Kind::Block, vec![0; self.geometry.cluster_len()]) {
                    entry.change_all();
                }
                uncounted.extend([cluster, block]);
            } else {
                self.set(cluster, 1, cache)?;
            }
        }
        Ok(taken)
    }

    /// Moves the refcount table to the end, larger; its clusters.
    fn move_table(&mut self, index: u64) -> Result<std::ops::Range<u64>, Stop> {
        let clusters = self.table_clusters(index).ok_or(Stop::Fail(Failure::Full))?;
        let old = self.geometry.cluster_of(self.table_at);
        let old_len = u64::try_from(self.table.len()).unwrap_or(u64::MAX).saturating_mul(8);
        self.freed.extend(old..old.saturating_add(self.geometry.clusters(old_len)));
        let new = self.end..self.end.saturating_add(clusters);
        self.end = new.end;
        self.table_at = new.start.saturating_mul(self.geometry.cluster_size());
        let entries = clusters.saturating_mul(self.geometry.cluster_size()) / 8;
        self.table.resize(usize::try_from(entries).unwrap_or(usize::MAX), 0);
        self.moved = true;
        self.meta.extend(new.clone().map(|cluster| (cluster, Meta::Fixed)));
        Ok(new)
    }

    /// Nothing leads to a cluster any more: one less. Whether it is free now.
    pub(super) fn release(&mut self, cluster: u64, cache: &mut Cache, touched: &mut Vec<Key>) -> Result<bool, Stop> {
        let count = self.count(cluster, cache, touched)?;
        let Some(less) = count.checked_sub(1) else {
            let at = cluster.saturating_mul(self.geometry.cluster_size());
            return Err(corrupt(Corruption::Refcount { at, count }));
        };
        self.set(cluster, less, cache)?;
        if less == 0 {
            self.meta.remove(&cluster);
        }
        Ok(less == 0)
    }

    /// A cluster may be used again; what it holds is not known.
    pub(super) fn reuse(&mut self, cluster: u64) {
        if self.free.len() < MAX_FREE {
            self.free.push(cluster);
        }
    }

    /// The refcount table's bytes.
    pub(super) fn table_bytes(&self) -> Vec<u8> {
        self.table.iter().flat_map(|entry| entry.to_be_bytes()).collect()
    }

    /// The header's fields for the table: its place and clusters (qcow2.rst, "Header": bytes 48 to 59).
    pub(super) fn header_bytes(&self) -> Vec<u8> {
        let bytes = u64::try_from(self.table.len()).unwrap_or(u64::MAX).saturating_mul(8);
        let clusters = u32::try_from(self.geometry.clusters(bytes)).unwrap_or(u32::MAX);
        let mut out = self.table_at.to_be_bytes().to_vec();
        out.extend(clusters.to_be_bytes());
        out
    }
}
