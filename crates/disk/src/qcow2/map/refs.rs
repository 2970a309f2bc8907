//! The refcounts of an image that is written: which clusters of the file are used, and where new ones come from. New
//! ones were freed since the image was opened, or earlier (a search finds them bit by bit), or are at the file's end.

use std::collections::BTreeSet;
use std::ops::Range;

use super::cache::{Cache, Key, Kind};
use super::claims::{Claims, Meta};
use super::layer::{Image, Writable};
use super::search::Search;
use super::{Corruption, Failure, Stop};
use crate::qcow2::header::MAX_REFCOUNT_TABLE;
use crate::qcow2::{Geometry, RefcountBlock, block_of, table_entry};

/// Clusters beyond the file's end that may have refcounts already, of all that were taken since the image was opened: a
/// power cut leaves as many as were under way and `MAX_AHEAD` allows. More is corruption, and the file is not made longer
/// for it. What is passed over is a hole: the file becomes longer by it, and takes no space.
const MAX_SKIPPED: u64 = 4096;
/// Clusters that the file may have grown by since a sync when counts are written: where it is more, what they count is made
/// to last first, so that a power cut leaves no more counts than this, and those of `MAX_COPIES`, beyond the file's end.
pub(super) const MAX_AHEAD: u64 = 1024;
/// Clusters that are remembered as free before more are not: those are searched for once these are used up.
const MAX_FREE: usize = 65536;
/// Entries can't name what is beyond (qcow2.rst, "Cluster mapping": 56 bits).
const MAX_FILE: u64 = 1 << 56;

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
    /// The end when counts were written last: what is before is in the file for good, but for copies that are under way.
    pub(super) lasting: u64,
    search: Search,
    /// Clusters that are free and may hold anything.
    free: Vec<u64>,
    /// Clusters that nothing will lead to once what is changed now is written.
    pub(super) freed: Vec<u64>,
    /// Clusters that are counted as free and whose space is being given back: not to be used before that is done.
    pub(super) punching: Vec<Range<u64>>,
    /// What the clusters are that are not the disk's.
    pub(super) claims: Claims,
    /// Clusters beyond the file's end that were not used for what their counts or claims say.
    skipped: u64,
}

fn corrupt(what: Corruption) -> Stop {
    Stop::Fail(Failure::Corrupt { file: 0, what })
}

impl Refs {
    /// Those of an image.
    pub(super) fn new(image: &Image, file_len: u64, Writable { refcounts: table, snapshots }: Writable) -> Self {
        let geometry = image.geometry();
        let header = &image.header;
        let clusters = |at: u64, bytes: u64| {
            let first = geometry.cluster_of(at);
            first..first.saturating_add(geometry.clusters(bytes))
        };
        let mut fixed = snapshots.fixed;
        let table_len = u64::from(header.refcounts.count).saturating_mul(geometry.cluster_size());
        let l1_len = u64::from(header.l1.count).saturating_mul(8);
        fixed.extend([0..1, clusters(header.l1.at, l1_len), clusters(header.refcounts.at, table_len)]);
        let end = geometry.clusters(file_len);
        // A table beyond the file's end is not read as one, not even after the file has grown over it.
        let claim = |at: u64, meta: Meta| {
            let cluster = geometry.cluster_of(at);
            (cluster, if cluster < end { meta } else { Meta::Fixed })
        };
        let blocks = (0..).zip(&table).filter_map(|(index, entry)| {
            let at = table_entry(*entry, geometry).ok().flatten()?;
            Some(claim(at, Meta::block(index)))
        });
        let tables = (0..u64::from(header.l1.count)).filter_map(|index| {
            let entry = image.table(index, u64::MAX).ok().flatten()?;
            Some(claim(entry.at, Meta::table(index)))
        });
        // A table that a snapshot and the active L1 table name is the latter's, to be copied.
        let kept = snapshots.tables.into_iter().map(|cluster| (cluster, Meta::Fixed));
        let claims = Claims::new(fixed, blocks.chain(tables).chain(kept).collect());
        Self {
            geometry,
            table,
            table_at: header.refcounts.at,
            moved: false,
            changed: BTreeSet::new(),
            end,
            lasting: end,
            search: Search::new(geometry, end),
            free: Vec::new(),
            freed: Vec::new(),
            punching: Vec::new(),
            claims,
            skipped: 0,
        }
    }

    /// What a cluster is, where it is not the disk's.
    pub(super) fn meta(&self, cluster: u64) -> Option<Meta> {
        self.claims.get(cluster)
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
        if self.meta(cluster) != Some(Meta::block(index)) {
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
        let bits = 1u64.wrapping_shl(u32::from(self.geometry.refcount_order()));
        let from = usize::try_from(index.saturating_mul(bits) / 8).unwrap_or(usize::MAX);
        let len = usize::try_from(bits.div_ceil(8)).unwrap_or(8);
        if count > self.geometry.max_refcount() {
            return Err(full);
        }
        let range = from..from.saturating_add(len);
        let Some(bytes) = cache.change(key, range) else { return Err(Stop::Lack(key, Kind::Block)) };
        if RefcountBlock::new(bytes, self.geometry).set(index, count) { Ok(()) } else { Err(full) }
    }

    /// A cluster for data, counted, and whether it is certain to be zero.
    pub(super) fn take(&mut self, cache: &mut Cache, touched: &mut Vec<Key>) -> Result<(u64, bool), Stop> {
        loop {
            while let Some(cluster) = self.free.last().copied() {
                let count = self.count(cluster, cache, touched)?;
                if count == 0 {
                    self.set(cluster, 1, cache)?;
                    self.free.pop();
                    return Ok((cluster, false));
                }
                self.free.pop();
            }
            if !self.look_for_free(cache, touched)? {
                break;
            }
        }
        self.reserve(1, cache, touched)?;
        self.search.grown();
        Ok((self.take_end(cache)?, true))
    }

    /// Looks at some of the file's clusters for free ones; whether it found any.
    fn look_for_free(&mut self, cache: &mut Cache, touched: &mut Vec<Key>) -> Result<bool, Stop> {
        let Some(range) = self.search.step() else { return Ok(false) };
        let (index, first) = block_of(range.start, self.geometry);
        // Without a block its clusters are free too, but what the image has no counts for is not touched.
        if let Some(key) = self.block(index)? {
            let Some(entry) = cache.get(key) else { return Err(Stop::Lack(key, Kind::Block)) };
            touched.push(key);
            let block = RefcountBlock::new(entry.bytes(), self.geometry);
            let is_free = |cluster: &u64| {
                let index = first.saturating_add(cluster.saturating_sub(range.start));
                block.get(index) == 0
                    && self.claims.get(*cluster).is_none()
                    && !self.punching.iter().any(|punched| punched.contains(cluster))
            };
            // The last is taken first.
            self.free.extend(range.clone().rev().filter(is_free));
        }
        let found = !self.free.is_empty();
        self.search.looked(found);
        Ok(found)
    }

    /// A cluster at the file's end for a table of this index, counted.
    pub(super) fn take_table(&mut self, index: u64, cache: &mut Cache, touched: &mut Vec<Key>) -> Result<u64, Stop> {
        self.reserve(1, cache, touched)?;
        let cluster = self.take_end(cache)?;
        self.claims.set(cluster, Meta::table(index));
        Ok(cluster)
    }

    /// A table that snapshots keep is nobody's to write any more.
    pub(super) fn keep_table(&mut self, cluster: u64) {
        self.claims.set(cluster, Meta::Fixed);
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
    /// What is counted or claimed there already is passed over; the end moves only once all is certain.
    fn reserve(&mut self, clusters: u64, cache: &mut Cache, touched: &mut Vec<Key>) -> Result<(), Stop> {
        let full = || Stop::Fail(Failure::Full);
        let mut start = self.end;
        loop {
            let end = start.checked_add(self.needed(start, clusters)?).ok_or_else(full)?;
            if end.checked_mul(self.geometry.cluster_size()).is_none_or(|bytes| bytes > MAX_FILE) {
                return Err(full());
            }
            let Some(used) = self.first_used(start..end, cache, touched)? else { break };
            start = used.saturating_add(1);
            if start.saturating_sub(self.end).saturating_add(self.skipped) > MAX_SKIPPED {
                return Err(corrupt(Corruption::Beyond { cluster: used }));
            }
        }
        self.skipped = self.skipped.saturating_add(start.saturating_sub(self.end));
        self.end = start;
        Ok(())
    }

    /// The first of these clusters that is counted or claimed.
    fn first_used(&self, clusters: Range<u64>, cache: &mut Cache, touched: &mut Vec<Key>) -> Result<Option<u64>, Stop> {
        for cluster in clusters {
            if self.meta(cluster).is_some() || self.count(cluster, cache, touched)? != 0 {
                return Ok(Some(cluster));
            }
        }
        Ok(None)
    }

    /// Clusters from `start` on that are used where so many are taken: with blocks, and with a larger table.
    fn needed(&self, start: u64, clusters: u64) -> Result<u64, Stop> {
        let full = || Stop::Fail(Failure::Full);
        let mut total = clusters;
        loop {
            let last = start.checked_add(total).ok_or_else(full)?;
            let (first, last) = (block_of(start, self.geometry).0, block_of(last, self.geometry).0);
            let mut needed = clusters;
            for index in first..=last {
                needed = needed.saturating_add(u64::from(self.block(index)?.is_none()));
            }
            if !self.has_entry(last) {
                needed = needed.saturating_add(self.table_clusters(last).ok_or_else(full)?);
            }
            if needed <= total {
                return Ok(total);
            }
            total = needed;
        }
    }

    /// The cluster at the end, after `reserve`.
    fn take_end(&mut self, cache: &mut Cache) -> Result<u64, Stop> {
        let taken = self.end;
        self.end = self.end.saturating_add(1);
        self.count_new(taken, cache)?;
        Ok(taken)
    }

    /// A cluster before the end is used once, where nothing says so yet.
    pub(super) fn count_once(&mut self, cluster: u64, cache: &mut Cache, touched: &mut Vec<Key>) -> Result<(), Stop> {
        if self.count(cluster, cache, touched)? != 0 {
            return Ok(());
        }
        // For its block, where that is not there.
        self.reserve(1, cache, touched)?;
        self.count_new(cluster, cache)
    }

    /// Counts a cluster, and each block and table at the end that is needed for that, after `reserve`.
    fn count_new(&mut self, cluster: u64, cache: &mut Cache) -> Result<(), Stop> {
        let mut uncounted = vec![cluster];
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
                self.claims.set(block, Meta::block(index));
                let key = Key { file: 0, at };
                cache.insert_changed(key, Kind::Block, vec![0; self.geometry.cluster_len()]);
                uncounted.extend([cluster, block]);
            } else {
                self.set(cluster, 1, cache)?;
            }
        }
        Ok(())
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
        self.claims.fix(new.clone());
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
            self.claims.remove(cluster);
        }
        Ok(less == 0)
    }

    /// The space of clusters was given back, or not: they may be used again, and what they hold is not known.
    pub(super) fn reuse(&mut self, clusters: Range<u64>) {
        self.punching.retain(|other| *other != clusters);
        if self.free.len() < MAX_FREE {
            self.free.extend(clusters.rev());
        } else {
            self.search.again(self.end);
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
