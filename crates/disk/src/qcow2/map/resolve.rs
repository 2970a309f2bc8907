//! Where bytes of the disk are: down the chain, by the tables of each image.

use super::cache::{Key, Kind as TableKind};
use super::layer::Kind;
use super::{Failure, Map, Op, Stop, Task, Wait};
use crate::qcow2::{Cluster, Subcluster};

/// What bytes of the disk are, from one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Bytes; at least one.
    pub(super) len: u64,
    pub(super) found: Found,
}

/// Where bytes of the disk are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nowhere: they are zero.
    Zero,
    /// In a file, from a byte on.
    Bytes { file: u8, at: u64 },
    /// In compressed data of `len` bytes, `skip` bytes into its cluster.
    Packed { file: u8, at: u64, len: usize, skip: u64 },
}

impl Segment {
    /// The two as one, where the other goes on where this ends.
    pub(super) fn join(self, next: Self) -> Option<Self> {
        let joins = match (self.found, next.found) {
            (Found::Zero, Found::Zero) => true,
            (Found::Bytes { file, at }, Found::Bytes { file: other, at: next_at }) => {
                file == other && at.checked_add(self.len) == Some(next_at)
            }
            (Found::Zero | Found::Bytes { .. } | Found::Packed { .. }, _) => false,
        };
        joins.then_some(Self { len: self.len.saturating_add(next.len), found: self.found })
    }
}

/// What one image has of bytes of the disk.
enum Part {
    /// Nothing: the next has the word on so many bytes.
    Below(u64),
    Here(Segment),
}

impl Map {
    /// Where the bytes from `offset` on are, up to `len` of them, in the files from `first` on.
    pub(super) fn resolve(&mut self, first: u8, offset: u64, len: u64) -> Result<Segment, Stop> {
        let mut len = len;
        for file in first.. {
            if usize::from(file) >= self.layers.len() {
                break;
            }
            match self.part(file, offset, len)? {
                Part::Here(segment) => return Ok(segment),
                Part::Below(less) => len = less,
            }
        }
        Ok(Segment { len, found: Found::Zero })
    }

    /// What one file has.
    fn part(&mut self, file: u8, offset: u64, len: u64) -> Result<Part, Stop> {
        let corrupt = |what| Stop::Fail(Failure::Corrupt { file, what });
        let zero = |len| Part::Here(Segment { len, found: Found::Zero });
        let Some(layer) = self.layers.get(usize::from(file)) else { return Ok(Part::Below(len)) };
        let file_len = layer.file_len;
        // A base that is shorter reads as zeros beyond; what is below it is not seen there.
        let Some(there) = layer.size().checked_sub(offset).filter(|there| *there > 0) else { return Ok(zero(len)) };
        let len = len.min(there);
        let image = match &layer.kind {
            Kind::Raw => return Ok(Part::Here(Segment { len, found: Found::Bytes { file, at: offset } })),
            Kind::Qcow2(image) => image,
        };
        let geometry = image.geometry();
        let place = geometry.place(offset);
        let Some(table) = image.table(place.l1, layer.bound).map_err(corrupt)? else {
            let covers = geometry.l2_covers();
            let rest = covers.saturating_sub(offset & covers.saturating_sub(1));
            return Ok(Part::Below(len.min(rest)));
        };
        let key = Key { file, at: table.at };
        let Some(table) = self.cache.get(key) else { return Err(Stop::Lack(key, TableKind::Table)) };
        self.touched.push(key);
        let len = len.min(geometry.cluster_size().saturating_sub(place.within));
        let bytes = |at: u64, len: u64| {
            let at = at.saturating_add(place.within);
            // A file may end within its last cluster: what is beyond is zero.
            match file_len.checked_sub(at).filter(|there| *there > 0) {
                Some(there) => Part::Here(Segment { len: len.min(there), found: Found::Bytes { file, at } }),
                None => zero(len),
            }
        };
        Ok(match image.cluster(table.bytes(), offset, layer.bound).map_err(corrupt)? {
            Cluster::Unallocated => Part::Below(len),
            Cluster::Zero { .. } => zero(len),
            Cluster::Standard { at, .. } => bytes(at, len),
            Cluster::Compressed { at, len: packed } => {
                let packed = usize::try_from(packed.min(file_len.saturating_sub(at))).unwrap_or(0);
                let found = Found::Packed { file, at, len: packed, skip: place.within };
                Part::Here(Segment { len, found })
            }
            Cluster::Subclusters { at, parts } => {
                let size = geometry.subcluster_size();
                let index = u8::try_from(place.within.checked_div(size).unwrap_or(0)).unwrap_or(u8::MAX);
                let len = len.min(size.saturating_sub(place.within & size.saturating_sub(1)));
                match (parts.get(index), at) {
                    (Subcluster::Zero, _) => zero(len),
                    (Subcluster::Standard, Some((at, _))) => bytes(at, len),
                    (Subcluster::Standard, None) | (Subcluster::Unallocated, _) => Part::Below(len),
                }
            }
        })
    }

    /// Begins to read a table, where nobody has; what to wait for.
    pub(super) fn load(&mut self, key: Key, kind: TableKind) -> Wait {
        if !self.loading.contains(&key) {
            self.loading.push(key);
            let file_len = self.layers.get(usize::from(key.file)).map_or(0, |layer| layer.file_len);
            let there = usize::try_from(file_len.saturating_sub(key.at)).unwrap_or(usize::MAX);
            let len = self.cluster_len(key.file).min(there);
            self.give(Task::Table(key, kind), key.file, Op::Read { at: key.at, len });
        }
        Wait::Table(key)
    }
}
