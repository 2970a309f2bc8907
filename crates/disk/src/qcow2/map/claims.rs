//! Which clusters of an image's file are its own metadata, and whose. Sorted, so that it takes 16 bytes a cluster.

use std::ops::Range;

/// What a cluster of the file is, where it is not the disk's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meta {
    /// Header, L1 table, refcount table, snapshots, or a table of theirs.
    Fixed,
    /// The refcount block of this index: a table has 2^20 at most.
    Block(u32),
    /// The L2 table of this index: an L1 table has 2^22 at most.
    Table(u32),
}

impl Meta {
    /// The refcount block of an index.
    pub(super) fn block(index: u64) -> Self {
        Self::Block(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// The L2 table of an index.
    pub(super) fn table(index: u64) -> Self {
        Self::Table(u32::try_from(index).unwrap_or(u32::MAX))
    }
}

/// The metadata of an image.
#[derive(Debug)]
pub(super) struct Claims {
    /// Tables of more than one cluster: apart from each other, ascending.
    fixed: Vec<Range<u64>>,
    /// Single clusters, ascending.
    single: Vec<(u64, Meta)>,
}

impl Claims {
    /// Those of ranges that nothing else may claim, and of single clusters, of which the first that claims one has it:
    /// another that leads there is found out by that.
    pub(super) fn new(fixed: Vec<Range<u64>>, mut single: Vec<(u64, Meta)>) -> Self {
        single.sort_by_key(|(cluster, _)| *cluster);
        single.dedup_by_key(|(cluster, _)| *cluster);
        Self { fixed: merged(fixed), single }
    }

    /// What a cluster is, where it is not the disk's.
    pub(super) fn get(&self, cluster: u64) -> Option<Meta> {
        let before = self.fixed.partition_point(|range| range.start <= cluster);
        let range = before.checked_sub(1).and_then(|last| self.fixed.get(last));
        if range.is_some_and(|range| range.contains(&cluster)) {
            return Some(Meta::Fixed);
        }
        let at = self.single.binary_search_by_key(&cluster, |(cluster, _)| *cluster).ok()?;
        self.single.get(at).map(|(_, meta)| *meta)
    }

    /// A cluster has become, or becomes, this.
    pub(super) fn set(&mut self, cluster: u64, meta: Meta) {
        match self.single.binary_search_by_key(&cluster, |(cluster, _)| *cluster) {
            Ok(at) => {
                if let Some(place) = self.single.get_mut(at) {
                    place.1 = meta;
                }
            }
            // New ones are at the file's end, so this is a push but for a few.
            Err(at) => self.single.insert(at, (cluster, meta)),
        }
    }

    /// A table has got these clusters.
    pub(super) fn fix(&mut self, clusters: Range<u64>) {
        self.fixed.push(clusters);
        self.fixed = merged(std::mem::take(&mut self.fixed));
    }

    /// Bytes that are held.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.single.capacity() * size_of::<(u64, Meta)>() + self.fixed.capacity() * size_of::<Range<u64>>()
    }

    /// A cluster is free: nobody's.
    pub(super) fn remove(&mut self, cluster: u64) {
        if let Ok(at) = self.single.binary_search_by_key(&cluster, |(cluster, _)| *cluster) {
            self.single.remove(at);
        }
        if let Some(at) = self.fixed.iter().position(|range| range.contains(&cluster)) {
            let range = self.fixed.remove(at);
            let parts = [range.start..cluster, cluster.saturating_add(1)..range.end];
            self.fixed.splice(at..at, parts.into_iter().filter(|part| !part.is_empty()));
        }
    }
}

/// Ranges without those that are empty, overlap or touch.
pub(super) fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, before| {
        let touches = next.start <= before.end;
        if touches {
            before.end = before.end.max(next.end);
        }
        touches
    });
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_claims_a_cluster_has_it() {
        let single = vec![(9, Meta::Block(1)), (5, Meta::Table(2)), (9, Meta::Table(7)), (3, Meta::Table(0))];
        let claims = Claims::new(vec![0..3, 12..14], single);
        let found: Vec<_> = (0..15).map(|cluster| claims.get(cluster)).collect();
        let (fixed, table) = (Some(Meta::Fixed), |index| Some(Meta::Table(index)));
        let block = Some(Meta::Block(1));
        let wanted =
            [fixed, fixed, fixed, table(0), None, table(2), None, None, None, block, None, None, fixed, fixed, None];
        assert_eq!(found, wanted);
    }

    #[test]
    fn ranges_are_merged_and_parted() {
        let mut claims = Claims::new(vec![8..9, 4..4, 5..8, 0..2, 1..3], Vec::new());
        assert_eq!(claims.fixed, [0..3, 5..9]);
        claims.fix(3..5);
        assert_eq!((claims.fixed.len(), claims.get(0), claims.get(8)), (1, Some(Meta::Fixed), Some(Meta::Fixed)));
        assert_eq!(claims.get(9), None);
        for cluster in [4, 0, 8, 8] {
            claims.remove(cluster);
        }
        assert_eq!(claims.fixed, [1..4, 5..8]);
        claims.set(8, Meta::Table(1));
        claims.set(8, Meta::Fixed);
        claims.set(4, Meta::Table(3));
        assert_eq!((claims.get(8), claims.get(4), claims.get(9)), (Some(Meta::Fixed), Some(Meta::Table(3)), None));
        claims.remove(8);
        assert_eq!(claims.get(8), None);
    }
}
