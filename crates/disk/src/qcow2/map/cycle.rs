//! A cycle: what was changed in memory goes to the file, in stages of which each is made to last before the next begins.
//!
//! | stage | is written | because |
//! |---|---|---|
//! | 0 | nothing: where the file grew much, what was written to it is made to last | few counts are beyond the file's end after a power cut |
//! | 1 | refcount blocks, and the refcount table where it moved | a count comes before what refers to the cluster |
//! | 2 | entries of the refcount table, or its new place in the header | a block comes before the entry that leads to it |
//! | 3 | L2 tables | their data and counts are in the file for good |
//! | 4 | L1 entries | an L2 table comes before the entry that leads to it |
//!
//! All stages are copies of one moment, so what changes meanwhile waits for the next cycle and nothing else waits. Counts
//! of what became free fall after the last stage, in memory first.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use super::cache::Kind as TableKind;
use super::layer::Kind;
use super::refs::MAX_AHEAD;
use super::{Failure, Map, Op, Runner, Stop, Task, Wait};

/// Clusters whose counts fall at once: so much work between two operations that are done.
const MAX_RELEASED: usize = 256;

/// Bytes and their place in the file.
type Write = (u64, Vec<u8>);

/// A cycle under way.
#[derive(Debug)]
pub(super) struct Cycle {
    /// What is still to be written.
    stages: VecDeque<Vec<Write>>,
    /// Operations that are not done.
    open: u32,
    failure: Option<Failure>,
    /// Requests that its end answers.
    requests: Vec<usize>,
    /// What is changed again where it fails.
    freed: Vec<u64>,
    l1: BTreeSet<u64>,
    entries: BTreeSet<u64>,
    moved: bool,
}

impl Map {
    /// A request is answered at the end of a cycle that begins now or later.
    pub(super) fn join_cycle(&mut self, request: usize) {
        if self.refs.is_none() {
            // Nothing was ever written.
            self.answer(request);
            return;
        }
        if let Some(state) = self.requests.get_mut(request) {
            state.flushing = true;
        }
        self.flushing.push(request);
        self.start_cycle();
    }

    /// Begins a cycle, where none is under way.
    pub(super) fn start_cycle(&mut self) {
        if self.cycle.is_some() {
            return;
        }
        if let Some(failure) = self.broken {
            let requests = std::mem::take(&mut self.flushing);
            requests.into_iter().for_each(|request| self.answer_cycle(request, Some(failure)));
            self.lose(|wait| *wait == Wait::Cycle, failure);
            return;
        }
        let Some(refs) = &mut self.refs else { return };
        let Some(Kind::Qcow2(image)) = self.layers.first().map(|layer| &layer.kind) else { return };
        let entry_at = |table: u64, index: u64| table.saturating_add(index.saturating_mul(8));
        let word = |words: &[u64], index: u64| {
            let word = usize::try_from(index).ok().and_then(|index| words.get(index)).copied().unwrap_or(0);
            word.to_be_bytes().to_vec()
        };
        self.unwritten.begin();
        let mut blocks = self.cache.take_changed(TableKind::Block);
        let entries = std::mem::take(&mut refs.changed);
        let moved = std::mem::take(&mut refs.moved);
        let leads: Vec<Write> = if moved {
            blocks.push((refs.table_at, refs.table_bytes()));
            // qcow2.rst, "Header": refcount_table_offset and refcount_table_clusters from byte 48 on.
            vec![(48, refs.header_bytes())]
        } else {
            entries.iter().map(|index| (entry_at(refs.table_at, *index), word(&refs.table, *index))).collect()
        };
        let tables = self.cache.take_changed(TableKind::Table);
        let l1 = std::mem::take(&mut self.l1_changed);
        let l1_at = image.header.l1.at;
        let roots: Vec<Write> = l1.iter().map(|index| (entry_at(l1_at, *index), word(&image.l1, *index))).collect();
        // The first stage's sync is the one that makes data last: it is there also where no count changed.
        let mut stages = VecDeque::from([blocks]);
        if refs.end.saturating_sub(refs.lasting) > MAX_AHEAD {
            stages.push_front(Vec::new());
        }
        refs.lasting = refs.end;
        stages.extend([leads, tables, roots].into_iter().filter(|stage| !stage.is_empty()));
        let freed = std::mem::take(&mut refs.freed);
        let requests = std::mem::take(&mut self.flushing);
        self.cycle = Some(Cycle { stages, open: 0, failure: None, requests, freed, l1, entries, moved });
        self.next_stage();
    }

    /// Writes the next stage, or ends the cycle.
    fn next_stage(&mut self) {
        let Some(cycle) = &mut self.cycle else { return };
        let Some(stage) = cycle.stages.pop_front() else {
            self.end_cycle();
            return;
        };
        if stage.is_empty() {
            self.give(Task::Sync, 0, Op::Sync);
            return;
        }
        cycle.open = u32::try_from(stage.len()).unwrap_or(u32::MAX);
        for (at, bytes) in stage {
            let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            self.give(Task::Cycle { at, len }, 0, Op::Write { at, bytes });
        }
    }

    /// A part of a stage is written.
    pub(super) fn cycle_written(&mut self, failure: Option<Failure>) {
        let Some(cycle) = &mut self.cycle else { return };
        cycle.open = cycle.open.saturating_sub(1);
        cycle.failure = cycle.failure.or(failure);
        match (cycle.open, cycle.failure) {
            (0, None) => self.give(Task::Sync, 0, Op::Sync),
            (0, Some(_)) => self.end_cycle(),
            (_, _) => {}
        }
    }

    /// A stage lasts, or may not: then nothing that was written before is certain, and nothing more is written.
    pub(super) fn cycle_synced(&mut self, failure: Option<Failure>) {
        let Some(cycle) = &mut self.cycle else { return };
        match failure {
            None => self.next_stage(),
            Some(failure) => {
                cycle.failure = Some(failure);
                self.broken = Some(failure);
                self.end_cycle();
            }
        }
    }

    fn end_cycle(&mut self) {
        let Some(cycle) = self.cycle.take() else { return };
        self.cache.written(cycle.failure.is_none());
        self.unwritten.end(cycle.failure.is_none());
        if let (Some(refs), Some(_)) = (&mut self.refs, cycle.failure) {
            refs.freed.extend(cycle.freed);
            refs.changed.extend(cycle.entries);
            refs.moved |= cycle.moved;
            self.l1_changed.extend(cycle.l1);
        } else {
            let mut freed = cycle.freed;
            freed.sort_unstable();
            self.releasing.extend(freed);
            self.go_on_releasing();
        }
        cycle.requests.into_iter().for_each(|request| self.answer_cycle(request, cycle.failure));
        match cycle.failure {
            None => self.wake(|wait| *wait == Wait::Cycle),
            Some(failure) => self.lose(|wait| *wait == Wait::Cycle, failure),
        }
        if !self.flushing.is_empty() {
            self.start_cycle();
        }
    }

    fn answer_cycle(&mut self, request: usize, failure: Option<Failure>) {
        if let Some(state) = self.requests.get_mut(request) {
            state.failure = state.failure.or(failure);
        }
        self.answer(request);
    }

    /// Lets counts of freed clusters fall from now on, where that is not under way.
    pub(super) fn go_on_releasing(&mut self) {
        if !self.is_releasing && !self.releasing.is_empty() {
            self.is_releasing = true;
            self.ready.push_back(Runner::Release);
        }
    }

    /// Lets the counts of freed clusters fall, so many at once; a punch that is done goes on with the next. A cluster that is
    /// still read or written waits for the next cycle.
    pub(super) fn run_release(&mut self) -> Result<(), Stop> {
        let mut run = 0..0;
        let stop = self.release_some(&mut run);
        self.punch(run);
        if stop.is_ok() {
            self.is_releasing = false;
            if self.refs.as_ref().is_some_and(|refs| refs.punching.is_empty()) {
                self.go_on_releasing();
            }
        }
        stop
    }

    fn release_some(&mut self, run: &mut Range<u64>) -> Result<(), Stop> {
        let (geometry, _) = self.shape()?;
        let size = geometry.cluster_size();
        for _ in 0..MAX_RELEASED {
            let Some(cluster) = self.releasing.front().copied() else { break };
            let at = cluster.saturating_mul(size);
            let busy = self.tasks.iter().any(|task| task.touches(at..at.saturating_add(size)));
            let Some(refs) = &mut self.refs else { return Ok(()) };
            if busy {
                refs.freed.push(cluster);
            } else if refs.release(cluster, &mut self.cache, &mut self.touched)? {
                self.cache.remove(super::Key { file: 0, at });
                if run.end == cluster && !run.is_empty() {
                    run.end = cluster.saturating_add(1);
                } else {
                    let whole = std::mem::replace(run, cluster..cluster.saturating_add(1));
                    self.punch(whole);
                }
            }
            self.releasing.pop_front();
        }
        Ok(())
    }

    /// Gives the space of clusters back, which are counted as free.
    fn punch(&mut self, clusters: Range<u64>) {
        let (Ok((geometry, _)), Some(refs)) = (self.shape(), &mut self.refs) else { return };
        if clusters.is_empty() {
            return;
        }
        refs.punching.push(clusters.clone());
        let at = clusters.start.saturating_mul(geometry.cluster_size());
        let len = clusters.end.saturating_sub(clusters.start).saturating_mul(geometry.cluster_size());
        self.give(Task::Punch { clusters }, 0, Op::Punch { at, len });
    }
}

impl Task {
    /// Whether it moves bytes of this range of the image's file.
    fn touches(&self, range: Range<u64>) -> bool {
        let (at, len) = match self {
            Self::Data { file: 0, at, len, .. }
            | Self::Packed { file: 0, at, len, .. }
            | Self::Fill { file: 0, at, len, .. }
            | Self::Copied { at, len, .. }
            | Self::Cycle { at, len } => (*at, *len),
            Self::Punch { .. }
            | Self::Data { .. }
            | Self::Packed { .. }
            | Self::Fill { .. }
            | Self::Table(..)
            | Self::Sync
            | Self::Begin { .. }
            | Self::Mark { .. } => return false,
        };
        len != 0 && at < range.end && range.start < at.saturating_add(len)
    }
}
