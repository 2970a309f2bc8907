//! Changes that the end of this process would lose: entries of the disk's clusters whose requests may be answered, and
//! which are in memory alone. Whoever serves the map keeps them where the end of the process does not reach, and the next map
//! takes them up before it does anything else. A power cut needs none of it: what was not flushed may be lost then.
//!
//! Counts and tables are not kept. A cluster that an entry leads to is counted when the entry is taken up, in a block that
//! is made anew where it was in memory alone too; so is an L2 table. What the cycle that was under way wrote of them is
//! lost space at most.

use std::collections::{BTreeMap, VecDeque};

use super::change::{MAX_COPIES, hosts};
use super::{Corruption, Failure, Map, Stop, Wait};
use crate::qcow2::{Cluster, L2Entry};

/// Entries that may be in memory alone: 16 bytes each, 2 GiB of new clusters of 64 KiB. More wait for a cycle.
pub const MAX_PENDING: usize = 32768;

/// An entry of a cluster of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The cluster's number on the disk.
    pub cluster: u64,
    /// The entry, as it stands in an L2 table (qcow2.rst, "L2 table entry").
    pub entry: u64,
}

/// The entries that are in memory alone, by the cluster.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    /// Those since the last cycle began.
    new: BTreeMap<u64, u64>,
    /// Those that the cycle under way writes.
    writing: BTreeMap<u64, u64>,
}

impl Unwritten {
    pub(super) fn note(&mut self, cluster: u64, entry: u64) {
        self.new.insert(cluster, entry);
    }

    /// A cycle begins to write all.
    pub(super) fn begin(&mut self) {
        self.writing.append(&mut self.new);
    }

    /// It has, or has not.
    pub(super) fn end(&mut self, well: bool) {
        let mut writing = std::mem::take(&mut self.writing);
        if !well {
            writing.append(&mut self.new);
            self.new = writing;
        }
    }

    pub(super) fn is_full(&self) -> bool {
        // Copies that are under way become entries whatever comes.
        self.new.len().saturating_add(self.writing.len()).saturating_add(MAX_COPIES) >= MAX_PENDING
    }

    fn iter(&self) -> impl Iterator<Item = Pending> {
        let older = self.writing.iter().filter(|(cluster, _)| !self.new.contains_key(cluster));
        older.chain(&self.new).map(|(cluster, entry)| Pending { cluster: *cluster, entry: *entry })
    }
}

impl Map {
    /// Entries that the end of this process would lose: each cluster once. They change with each action that is polled.
    pub fn pending(&self) -> impl Iterator<Item = Pending> {
        self.unwritten.iter().chain(self.taking_up.iter().flatten().copied())
    }

    /// Takes up the entries that the process before had in memory alone, before any request; up to `MAX_PENDING` of them.
    /// They are checked as the image's own are: where one can't be, no request is performed.
    pub fn take_up(&mut self, pending: impl IntoIterator<Item = Pending>) {
        let pending: VecDeque<Pending> = pending.into_iter().take(MAX_PENDING).collect();
        if !pending.is_empty() {
            self.taking_up = Some(pending);
            self.ready.push_back(super::Runner::TakeUp);
            self.drive();
        }
    }

    /// Takes up what is left.
    pub(super) fn run_take_up(&mut self) -> Result<(), Stop> {
        while let Some(next) = self.taking_up.as_ref().and_then(|left| left.front()).copied() {
            self.touched.clear();
            self.take_up_one(next)?;
            self.taking_up.as_mut().and_then(VecDeque::pop_front);
        }
        self.taking_up = None;
        self.wake(|wait| *wait == Wait::TakenUp);
        Ok(())
    }

    fn take_up_one(&mut self, Pending { cluster, entry }: Pending) -> Result<(), Stop> {
        let (geometry, version) = self.shape()?;
        let corrupt = |what| Stop::Fail(Failure::Corrupt { file: 0, what });
        let start = geometry.start_of(cluster).filter(|start| *start < self.size());
        let start = start.ok_or(Stop::Fail(Failure::Range))?;
        let new = L2Entry { bits: entry, bitmap: 0 }.cluster(geometry, version);
        let new = new.map_err(|why| corrupt(Corruption::L2 { offset: start, why }))?;
        self.may_write()?;
        let view = self.view(start)?;
        if view.cluster == new {
            return Ok(());
        }
        let place = match new {
            Cluster::Unallocated | Cluster::Zero { kept: None } => None,
            Cluster::Zero { kept: Some((at, _)) } | Cluster::Standard { at, .. } => Some(at),
            // None is ever made here.
            Cluster::Compressed { at, .. } => return Err(corrupt(Corruption::Outside { at })),
            Cluster::Subclusters { .. } => return Err(Stop::Fail(Failure::ReadOnly)),
        };
        let (had, _) = hosts(view.cluster, geometry);
        if let (Some(at), Some(refs)) = (place, &mut self.refs) {
            let host = geometry.cluster_of(at);
            if host == 0 || host >= refs.end {
                return Err(corrupt(Corruption::Outside { at }));
            }
            if refs.meta(host).is_some() {
                return Err(corrupt(Corruption::Metadata { at }));
            }
            if !had.contains(&host) {
                refs.count_once(host, &mut self.cache, &mut self.touched)?;
            }
        }
        self.set_entry(start, new, view.cluster)
    }
}
