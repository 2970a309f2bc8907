//! What was counted of each cluster in a window of a file. Pure.

use std::ops::Range;

/// What a cluster is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The guest's data, or a bitmap's: may be shared.
    Data,
    /// An L2 table: may be shared with snapshots, and is nothing else.
    Table,
    /// Any other metadata, which one thing alone refers to.
    Own,
}

/// References, up to this many.
const COUNT: u32 = 0x0fff_ffff;
const DATA: u32 = 1 << 28;
const TABLE: u32 = 1 << 29;
const OWN: u32 = 1 << 30;

/// Counts from a first cluster on.
#[derive(Debug)]
pub struct Cells {
    from: u64,
    cells: Vec<u32>,
}

impl Cells {
    /// Nothing is counted yet. Untouched parts of a large window take no memory.
    pub fn new(window: Range<u64>) -> Self {
        let len = usize::try_from(window.end.saturating_sub(window.start)).unwrap_or(0);
        Self { from: window.start, cells: vec![0; len] }
    }

    fn index(&self, cluster: u64) -> Option<usize> {
        usize::try_from(cluster.checked_sub(self.from)?).ok().filter(|index| *index < self.cells.len())
    }

    /// Counts references to a cluster. False where it can't be used for both this and what it was counted for before; clusters
    /// outside the window are not looked at.
    pub fn count(&mut self, cluster: u64, used: Use, times: u32) -> bool {
        let Some(cell) = self.index(cluster).and_then(|index| self.cells.get_mut(index)) else { return true };
        let (flag, others) = match used {
            Use::Data => (DATA, TABLE | OWN),
            Use::Table => (TABLE, DATA | OWN),
            Use::Own => (OWN, DATA | TABLE | OWN),
        };
        let fits = *cell & others == 0;
        let count = (*cell & COUNT).saturating_add(times).min(COUNT);
        *cell = (*cell & !COUNT) | count | flag;
        fits
    }

    /// References to a cluster of the window.
    pub fn of(&self, cluster: u64) -> u64 {
        let cell = self.index(cluster).and_then(|index| self.cells.get(index));
        cell.map_or(0, |cell| u64::from(cell & COUNT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_that_exclude_each_other_are_told() {
        use Use::{Data, Own, Table};
        for (first, second, fits) in [
            (Data, Data, true),
            (Table, Table, true),
            (Data, Table, false),
            (Table, Data, false),
            (Own, Own, false),
            (Own, Data, false),
            (Table, Own, false),
        ] {
            let mut cells = Cells::new(5..6);
            assert!(cells.count(5, first, 1));
            assert_eq!(cells.count(5, second, 2), fits, "{first:?} {second:?}");
            assert_eq!(cells.of(5), 3);
        }
    }

    #[test]
    fn a_window_counts_its_own_clusters_and_no_further_than_it_can() {
        let mut cells = Cells::new(10..12);
        for cluster in [0, 9, 12, u64::MAX] {
            assert!(cells.count(cluster, Use::Own, 1) && cells.count(cluster, Use::Own, 1), "{cluster}");
            assert_eq!(cells.of(cluster), 0);
        }
        for _ in 0..3 {
            cells.count(11, Use::Data, u32::MAX);
        }
        assert_eq!((cells.of(11), cells.of(10)), (u64::from(COUNT), 0));
    }
}
