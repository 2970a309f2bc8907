//! What a write, zeroing or discard does to one cluster of the disk.

use super::cache::{Key, Kind as TableKind};
use super::claims::Meta;
use super::layer::Kind;
use super::resolve::{Found, Segment};
use super::{Begin, Corruption, Failure, Layer, Map, Op, Stop, Task, Wait, Work};
use crate::qcow2::header::features;
use crate::qcow2::{Cluster, Geometry, L1Entry, L2Entry, Version};

/// Clusters that may wait for a cycle to be freed.
const MAX_FREED: usize = 4096;
/// Copies that may be under way. A power cut leaves as many counts beyond the file's end.
pub(super) const MAX_COPIES: usize = 1024;

/// What comes of a change.
pub(super) enum Step {
    /// It goes to these bytes.
    There(Segment),
    /// So many bytes of the disk are seen to.
    Done(u64),
}

/// A cluster of the disk as the image has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) cluster: Cluster,
    /// Whether there is a table for it.
    there: bool,
    /// Whether the table is the image's alone: what an entry says of being used once counts.
    pub(super) owned: bool,
}

impl View {
    /// Where the cluster may be written in place.
    fn in_place(&self) -> Option<u64> {
        match self.cluster {
            Cluster::Standard { at, copied: true } if self.owned => Some(at),
            Cluster::Unallocated
            | Cluster::Zero { .. }
            | Cluster::Standard { .. }
            | Cluster::Compressed { .. }
            | Cluster::Subclusters { .. } => None,
        }
    }
}

/// The clusters of the file that a cluster of the disk takes, and whether its entry says that they are used once.
pub(super) fn hosts(cluster: Cluster, geometry: Geometry) -> (std::ops::Range<u64>, bool) {
    let one = |at: u64| geometry.cluster_of(at)..geometry.cluster_of(at).saturating_add(1);
    match cluster {
        Cluster::Unallocated | Cluster::Zero { kept: None } | Cluster::Subclusters { at: None, .. } => (0..0, false),
        Cluster::Zero { kept: Some((at, copied)) }
        | Cluster::Standard { at, copied }
        | Cluster::Subclusters { at: Some((at, copied)), .. } => (one(at), copied),
        // Each cluster that its sectors touch counts it once.
        Cluster::Compressed { at, len } => (geometry.cluster_of(at)..geometry.clusters(at.saturating_add(len)), false),
    }
}

fn corrupt(what: Corruption) -> Stop {
    Stop::Fail(Failure::Corrupt { file: 0, what })
}

impl Map {
    /// Changes the disk from `offset` on, up to `rest` bytes of it.
    pub(super) fn change(&mut self, request: usize, work: Work, offset: u64, rest: u64) -> Result<Step, Stop> {
        self.may_write()?;
        let (geometry, version) = self.shape()?;
        let within = geometry.within(offset);
        let start = offset.saturating_sub(within);
        let len = rest.min(geometry.cluster_size().saturating_sub(within));
        if self.locks.contains(&start) {
            return Err(Stop::Wait(Wait::Lock(start)));
        }
        let view = self.view(offset)?;
        let full = within == 0 && (len == geometry.cluster_size() || offset.saturating_add(len) == self.size());
        let there = |at: u64| {
            let found = Found::Bytes { file: 0, at: at.saturating_add(within) };
            Ok(Step::There(Segment { len, found }))
        };
        let becomes = match work {
            Work::Write => match view.in_place() {
                Some(at) => return there(at),
                None => None,
            },
            Work::Zero { unmap } => match self.zeroed(view, version, (offset, len), full, unmap)? {
                Zeroing::Done => return Ok(Step::Done(len)),
                Zeroing::Entry(cluster) => Some(cluster),
                Zeroing::Bytes => match view.in_place() {
                    Some(at) => return there(at),
                    None => None,
                },
            },
            Work::Discard if !view.there => {
                // All that this table would describe is nowhere.
                let covers = geometry.l2_covers();
                return Ok(Step::Done(rest.min(covers.saturating_sub(offset & covers.saturating_sub(1)))));
            }
            Work::Discard => match (view.cluster, self.layers.len() > 1, version) {
                _ if !full => return Ok(Step::Done(len)),
                (Cluster::Unallocated | Cluster::Zero { kept: None }, ..) => return Ok(Step::Done(len)),
                // Without zero clusters the base would show again.
                (_, true, Version::V2) => return Ok(Step::Done(len)),
                (_, true, Version::V3) => Some(Cluster::Zero { kept: None }),
                (_, false, _) => Some(Cluster::Unallocated),
            },
            Work::Read | Work::Flush => return Ok(Step::Done(rest)),
        };
        self.make_room()?;
        match becomes {
            Some(cluster) => self.set_entry(start, cluster, view.cluster)?,
            None => self.start_copy(request, work, (offset, len), view)?,
        }
        Ok(Step::Done(len))
    }

    /// How bytes of a cluster become zero.
    fn zeroed(
        &mut self,
        view: View,
        version: Version,
        (offset, len): (u64, u64),
        full: bool,
        unmap: bool,
    ) -> Result<Zeroing, Stop> {
        let v3 = version == Version::V3;
        Ok(match view.cluster {
            Cluster::Zero { kept: Some(_) } if full && unmap => Zeroing::Entry(Cluster::Zero { kept: None }),
            Cluster::Zero { .. } => Zeroing::Done,
            Cluster::Unallocated if self.is_zero_below(offset, len)? => Zeroing::Done,
            Cluster::Standard { at, copied: true } if full && v3 && !unmap && view.owned => {
                Zeroing::Entry(Cluster::Zero { kept: Some((at, true)) })
            }
            _ if full && v3 => Zeroing::Entry(Cluster::Zero { kept: None }),
            _ if full && unmap && self.layers.len() == 1 => Zeroing::Entry(Cluster::Unallocated),
            _ => Zeroing::Bytes,
        })
    }

    /// Whether the bases have nothing but zeros there.
    fn is_zero_below(&mut self, offset: u64, len: u64) -> Result<bool, Stop> {
        let end = offset.saturating_add(len);
        let mut at = offset;
        while at < end {
            let segment = self.resolve(1, at, end.saturating_sub(at))?;
            if segment.found != Found::Zero {
                return Ok(false);
            }
            at = at.saturating_add(segment.len);
        }
        Ok(true)
    }

    pub(super) fn shape(&self) -> Result<(Geometry, Version), Stop> {
        let header = self.layers.first().and_then(Layer::header);
        header.map(|header| (header.geometry, header.version)).ok_or(Stop::Fail(Failure::ReadOnly))
    }

    /// Whether the image may be written now.
    pub(super) fn may_write(&mut self) -> Result<(), Stop> {
        if let Some(failure) = self.broken {
            return Err(Stop::Fail(failure));
        }
        if self.marked_corrupt {
            return Err(Stop::Fail(Failure::MarkedCorrupt));
        }
        match self.begin {
            Begin::Done => Ok(()),
            Begin::Running => Err(Stop::Wait(Wait::Begin)),
            Begin::Needed => {
                self.begin = Begin::Running;
                // qcow2.rst, "Header": autoclear_features at byte 88.
                self.give(Task::Begin { synced: false }, 0, Op::Write { at: 88, bytes: vec![0; 8] });
                Err(Stop::Wait(Wait::Begin))
            }
        }
    }

    /// The header was changed before the first write, or was made to last.
    pub(super) fn begun(&mut self, synced: bool, failure: Option<Failure>) {
        match (failure, synced) {
            (None, false) => self.give(Task::Begin { synced: true }, 0, Op::Sync),
            (None, true) => {
                self.begin = Begin::Done;
                self.wake(|wait| *wait == Wait::Begin);
            }
            (Some(failure), _) => {
                self.begin = Begin::Needed;
                self.lose(|wait| *wait == Wait::Begin, failure);
            }
        }
    }

    /// Waits for a cycle where too much is changed.
    fn make_room(&mut self) -> Result<(), Stop> {
        let freed = self.refs.as_ref().map_or(0, |refs| refs.freed.len()).saturating_add(self.releasing.len());
        if freed > MAX_FREED || self.cache.is_full() || self.unwritten.is_full() {
            self.start_cycle();
            return Err(Stop::Wait(Wait::Cycle));
        }
        if self.copies.len() >= MAX_COPIES {
            return Err(Stop::Wait(Wait::Memory));
        }
        Ok(())
    }

    /// The image contradicts itself: nothing is written any more, now or later. Version 2 has no mark for it, so such an
    /// image is found to be damaged anew each time that it is opened.
    pub(super) fn mark_corrupt(&mut self) {
        let Some(header) = self.layers.first().and_then(Layer::header) else { return };
        if !self.marked_corrupt && header.version == Version::V3 {
            // qcow2.rst, "Header": incompatible_features at byte 72.
            let bytes = (header.incompatible | features::CORRUPT).to_be_bytes().to_vec();
            self.give(Task::Mark { written: false }, 0, Op::Write { at: 72, bytes });
        }
        self.marked_corrupt = true;
    }

    /// The mark was written, or was made to last. Nothing waits for it: what fails is told by the next that finds damage.
    pub(super) fn marked(&mut self, written: bool, well: bool) {
        if well && !written {
            self.give(Task::Mark { written: true }, 0, Op::Sync);
        }
    }

    /// A cluster of the disk, with every check that its entry, its table and their refcounts allow.
    pub(super) fn view(&mut self, offset: u64) -> Result<View, Stop> {
        let nothing = View { cluster: Cluster::Unallocated, there: false, owned: false };
        let (Some(layer), Some(refs)) = (self.layers.first(), &self.refs) else { return Ok(nothing) };
        let Kind::Qcow2(image) = &layer.kind else { return Ok(nothing) };
        let geometry = image.geometry();
        let place = geometry.place(offset);
        let Some(l1) = image.table(place.l1, layer.bound).map_err(corrupt)? else { return Ok(nothing) };
        let table_cluster = geometry.cluster_of(l1.at);
        if refs.meta(table_cluster) != Some(Meta::table(place.l1)) {
            return Err(corrupt(Corruption::Metadata { at: l1.at }));
        }
        let key = Key { file: 0, at: l1.at };
        let Some(table) = self.cache.get(key) else { return Err(Stop::Lack(key, TableKind::Table)) };
        self.touched.push(key);
        let cluster = image.cluster(table.bytes(), offset, layer.bound).map_err(corrupt)?;
        let view = View { cluster, there: true, owned: l1.copied };
        let (table_checked, entry_checked) = (table.is_checked(), table.is_entry_checked(place.l2));
        if table_checked && entry_checked {
            return Ok(view);
        }
        let mut check = |host: u64, once: bool| {
            let count = refs.count(host, &mut self.cache, &mut self.touched)?;
            let at = host.saturating_mul(geometry.cluster_size());
            match count {
                0 => Err(corrupt(Corruption::Refcount { at, count })),
                2.. if once => Err(corrupt(Corruption::Refcount { at, count })),
                _ => Ok(()),
            }
        };
        check(table_cluster, l1.copied)?;
        let (hosts, once) = hosts(cluster, geometry);
        for host in hosts {
            if refs.meta(host).is_some() {
                return Err(corrupt(Corruption::Metadata { at: host.saturating_mul(geometry.cluster_size()) }));
            }
            check(host, once && l1.copied)?;
        }
        if let Some(table) = self.cache.get(key) {
            table.set_checked();
            table.set_entry_checked(place.l2);
        }
        Ok(view)
    }

    /// Changes the entry of a cluster of the disk, in memory. What `old` took and `new` does not is freed by the cycle that
    /// writes it.
    pub(super) fn set_entry(&mut self, start: u64, new: Cluster, old: Cluster) -> Result<(), Stop> {
        let (geometry, _) = self.shape()?;
        let place = geometry.place(start);
        let key = self.own_table(place.l1)?;
        let Some(entry) = L2Entry::new(new) else { return Err(Stop::Fail(Failure::ReadOnly)) };
        let at = usize::try_from(place.l2.saturating_mul(8)).unwrap_or(usize::MAX);
        let range = at..at.saturating_add(8);
        let Some(bytes) = self.cache.change(key, range.clone()) else { return Err(Stop::Lack(key, TableKind::Table)) };
        if let Some(bytes) = bytes.get_mut(range) {
            bytes.copy_from_slice(&entry.bits.to_be_bytes());
        }
        if let Some(table) = self.cache.get(key) {
            table.set_entry_checked(place.l2);
        }
        self.unwritten.note(geometry.cluster_of(start), entry.bits);
        let (kept, _) = hosts(new, geometry);
        let (gone, _) = hosts(old, geometry);
        if let Some(refs) = &mut self.refs {
            refs.freed.extend(gone.filter(|host| !kept.contains(host)));
        }
        Ok(())
    }

    /// The L2 table of this index, as the image's alone: a new one where there is none or snapshots have it too.
    fn own_table(&mut self, index: u64) -> Result<Key, Stop> {
        let (Some(layer), Some(refs)) = (self.layers.first_mut(), &mut self.refs) else {
            return Err(Stop::Fail(Failure::ReadOnly));
        };
        let bound = layer.bound;
        let Kind::Qcow2(image) = &mut layer.kind else { return Err(Stop::Fail(Failure::ReadOnly)) };
        let geometry = image.geometry();
        let old = image.table(index, bound).map_err(corrupt)?;
        let bytes = match old {
            None => vec![0; geometry.cluster_len()],
            Some(L1Entry { at, copied }) => {
                let key = Key { file: 0, at };
                let Some(table) = self.cache.get(key) else { return Err(Stop::Lack(key, TableKind::Table)) };
                self.touched.push(key);
                if copied {
                    return Ok(key);
                }
                table.bytes().to_vec()
            }
        };
        let cluster = refs.take_table(index, &mut self.cache, &mut self.touched)?;
        let at = cluster.saturating_mul(geometry.cluster_size());
        let key = Key { file: 0, at };
        if let Some(table) = self.cache.insert_changed(key, TableKind::Table, bytes) {
            table.set_checked();
        }
        if let Some(old) = old {
            let old = geometry.cluster_of(old.at);
            refs.keep_table(old);
            refs.freed.push(old);
        }
        if let Some(entry) = usize::try_from(index).ok().and_then(|index| image.l1.get_mut(index)) {
            *entry = L1Entry { at, copied: true }.bits();
        }
        self.l1_changed.insert(index);
        layer.bound = layer.bound.max(refs.end.saturating_mul(geometry.cluster_size()));
        Ok(key)
    }
}

/// How bytes become zero.
enum Zeroing {
    /// They are.
    Done,
    /// By the cluster's entry alone.
    Entry(Cluster),
    /// They are written.
    Bytes,
}
