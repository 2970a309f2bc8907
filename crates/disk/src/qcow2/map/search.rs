//! Clusters that are free since earlier: where the next to be looked at are. Each step looks at some of one refcount block,
//! and so many clusters are taken at the file's end between two steps that the first write does not read all blocks.

use std::ops::Range;

use crate::qcow2::Geometry;

/// Counts that one step looks at.
const STEP: u64 = 32768;
/// Clusters that are taken at the file's end before the next step.
const PACE: u64 = 8;

/// Where a search through the file is.
#[derive(Debug)]
pub(super) struct Search {
    /// Counts of one step: a block's, or some of it.
    step: u64,
    /// Clusters of the file, when the search began.
    end: u64,
    /// The step's first cluster.
    at: u64,
    /// Steps that are left.
    left: u64,
    /// Clusters to be taken at the file's end before the next step.
    pause: u64,
}

impl Search {
    /// One through a file of so many clusters. It begins at a place that is another in each session that made the file
    /// longer, so that short ones find all in the end.
    pub(super) fn new(geometry: Geometry, end: u64) -> Self {
        let step = geometry.block_entries().min(STEP);
        let steps = end.div_ceil(step);
        let at = end.checked_rem(steps).unwrap_or(0).saturating_mul(step);
        Self { step, end, at, left: steps, pause: 0 }
    }

    /// Another, from the begin of what is longer now.
    pub(super) fn again(&mut self, end: u64) {
        self.end = end;
        self.left = end.div_ceil(self.step);
    }

    /// Clusters to look at now, of one block; none in a pause, and once all were.
    pub(super) fn step(&self) -> Option<Range<u64>> {
        (self.left > 0 && self.pause == 0).then(|| self.at..self.at.saturating_add(self.step).min(self.end))
    }

    /// They were looked at. A step that found something goes on at once when that is used up.
    pub(super) fn looked(&mut self, found: bool) {
        self.left = self.left.saturating_sub(1);
        self.at = self.at.saturating_add(self.step);
        if self.at >= self.end {
            self.at = 0;
        }
        self.pause = if found { 0 } else { PACE };
    }

    /// A cluster was taken at the file's end.
    pub(super) fn grown(&mut self) {
        self.pause = self.pause.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For files of up to 5 steps and every place to begin: each cluster is looked at once, and then none.
    #[test]
    fn each_cluster_is_looked_at_once() {
        let geometry = Geometry::new(9, 6, false).unwrap();
        for end in 0..=5 * 64 {
            let mut search = Search::new(geometry, end);
            let mut seen = Vec::new();
            for _ in 0..6 {
                seen.extend(search.step().into_iter().flatten());
                search.looked(true);
            }
            seen.sort_unstable();
            assert_eq!(seen, (0..end).collect::<Vec<_>>());
            assert_eq!(search.step(), None);
        }
    }

    #[test]
    fn a_step_without_a_find_is_followed_by_a_pause() {
        let mut search = Search::new(Geometry::new(9, 6, false).unwrap(), 128);
        assert_eq!(search.step(), Some(0..64));
        search.looked(false);
        for _ in 0..PACE {
            assert_eq!(search.step(), None);
            search.grown();
        }
        assert_eq!(search.step(), Some(64..128));
        search.looked(true);
        assert_eq!(search.step(), None);
        search.again(200);
        assert_eq!(search.step(), Some(0..64));
    }
}
