//! What was found in an image. Pure.

use std::fmt;

use super::super::BadEntry;

/// Findings that are kept; further ones are only counted.
pub const MAX_FINDINGS: usize = 100;

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The header.
    Header,
    /// The L1 table, at an index.
    L1(u64),
    /// An index of the L2 table at a byte of the file.
    L2 {
        /// The table's first byte.
        table: u64,
        /// Which entry.
        index: u64,
    },
    /// The refcount table, at an index.
    Refcounts(u64),
    /// A snapshot, from 0.
    Snapshot(u32),
    /// An index of a snapshot's L1 table.
    SnapshotL1(u32, u64),
    /// A bitmap, from 0.
    Bitmap(u32),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("the header"),
            Self::L1(index) => write!(f, "entry {index} of the L1 table"),
            Self::L2 { table, index } => write!(f, "entry {index} of the L2 table at byte {table}"),
            Self::Refcounts(index) => write!(f, "entry {index} of the refcount table"),
            Self::Snapshot(which) => write!(f, "snapshot {which}"),
            Self::SnapshotL1(which, index) => write!(f, "entry {index} of the L1 table of snapshot {which}"),
            Self::Bitmap(which) => write!(f, "bitmap {which}"),
        }
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A cluster has a higher refcount than there are references: it is never used again. No data is in danger.
    Leak {
        /// Its first byte.
        at: u64,
        /// As the file says.
        refcount: u64,
        /// As was counted.
        references: u64,
    },
    /// A cluster has a lower refcount than there are references: it may be given away while it is used.
    Refcount {
        /// Its first byte.
        at: u64,
        /// As the file says.
        refcount: u64,
        /// As was counted.
        references: u64,
    },
    /// The mark of what may be written in place contradicts the refcount.
    Copied {
        /// The entry.
        place: Place,
        /// The refcount of what it names.
        refcount: u64,
    },
    /// An entry that means nothing.
    Entry {
        /// The entry.
        place: Place,
        /// What is wrong with it.
        error: BadEntry,
    },
    /// An entry that leads out of the file.
    Outside {
        /// The entry.
        place: Place,
        /// Where it leads.
        at: u64,
    },
    /// An entry that leads to what is something else.
    Overlap {
        /// The entry.
        place: Place,
        /// Where it leads.
        at: u64,
    },
    /// A table of snapshots or bitmaps that can't be read to its end.
    Table {
        /// Where it ends to mean something.
        place: Place,
    },
}

impl Finding {
    /// Whether it only costs space.
    pub fn is_leak(&self) -> bool {
        matches!(self, Self::Leak { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leak { at, refcount, references } | Self::Refcount { at, refcount, references } => {
                write!(f, "the cluster at byte {at} has refcount {refcount} and {references} references")
            }
            Self::Copied { place, refcount } => {
                write!(f, "{place}: its mark for writing in place contradicts the refcount {refcount}")
            }
            Self::Entry { place, error } => write!(f, "{place}: {error}"),
            Self::Outside { place, at } => write!(f, "{place}: byte {at} is outside the file"),
            Self::Overlap { place, at } => write!(f, "{place}: what is at byte {at} is used for something else too"),
            Self::Table { place } => write!(f, "{place}: its record can't be read"),
        }
    }
}

/// What a whole image is like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Clusters of the guest's disk.
    pub clusters: u64,
    /// Of these, those with a cluster of the file, compressed ones too.
    pub allocated: u64,
    /// Of these, those that are compressed.
    pub compressed: u64,
    /// Clusters of the file that are never used again.
    pub leaks: u64,
    /// What else is wrong.
    pub errors: u64,
    /// Of these errors, those that are not of refcounts: no repair puts them right.
    pub damage: u64,
    /// The first of all these, in the order in which they were found.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Counts a finding, and keeps it while there is room.
    pub(super) fn add(&mut self, finding: Finding) {
        let count = if finding.is_leak() { &mut self.leaks } else { &mut self.errors };
        *count = count.saturating_add(1);
        if !matches!(finding, Finding::Leak { .. } | Finding::Refcount { .. } | Finding::Copied { .. }) {
            self.damage = self.damage.saturating_add(1);
        }
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }

    /// Nothing was found.
    pub fn is_clean(&self) -> bool {
        self.leaks == 0 && self.errors == 0
    }
}
