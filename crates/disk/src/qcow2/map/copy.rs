//! A copy: a cluster of the disk that gets another place in the file, because it has none, or one that is not the image's
//! alone, or is compressed. What the write does not cover is taken from what the disk showed there before. The entry is
//! changed once all is written; until then the disk shows the old, and other changes of the cluster wait.

use std::ops::Range;

use super::change::View;
use super::resolve::{Found, Segment};
use super::{Failure, Map, Op, Runner, Stop, Task, Wait, Work};
use crate::qcow2::Cluster;

/// A copy under way.
#[derive(Debug)]
pub(super) struct Copy {
    request: usize,
    /// The first byte of the cluster on the disk.
    start: u64,
    /// Its new first byte in the file.
    host: u64,
    /// Whether the place is certain to be zero.
    fresh: bool,
    /// Whether the place was the cluster's before.
    kept: bool,
    /// What the request changes, in bytes of the cluster.
    changed: Range<u64>,
    /// Where that begins in the request's buffers; none where it becomes zero.
    data: Option<u64>,
    /// The cluster as it was, zero where the request changes it; none where it was zero.
    buffer: Option<Vec<u8>>,
    /// Operations that are not done.
    open: u32,
    failure: Option<Failure>,
    old: Cluster,
    /// Bytes of memory that it takes.
    memory: usize,
}

impl Map {
    /// Begins a copy for bytes of one cluster.
    pub(super) fn start_copy(
        &mut self,
        request: usize,
        work: Work,
        (offset, len): (u64, u64),
        view: View,
    ) -> Result<(), Stop> {
        let (geometry, _) = self.shape()?;
        let within = geometry.within(offset);
        let start = offset.saturating_sub(within);
        let changed = within..within.saturating_add(len);
        let mut parts = self.old_parts(start, 0..changed.start)?;
        parts.extend(self.old_parts(start, changed.end..geometry.cluster_size())?);
        let packed = parts.iter().map(|(_, segment)| match segment.found {
            Found::Packed { len, .. } => len.saturating_add(geometry.cluster_len()),
            Found::Zero | Found::Bytes { .. } => 0,
        });
        let extra = packed.max().unwrap_or(0);
        let memory = if parts.is_empty() { 0 } else { extra.saturating_add(geometry.cluster_len()) };
        self.take_memory(memory)?;
        let place = match view.cluster {
            Cluster::Zero { kept: Some((at, true)) } if view.owned => Ok((at, false, true)),
            _ => self.take_cluster().map(|(at, fresh)| (at, fresh, false)),
        };
        let (host, fresh, kept) = match place {
            Ok(place) => place,
            Err(stop) => {
                self.free_memory(memory);
                return Err(stop);
            }
        };
        let Some(state) = self.requests.get_mut(request) else { return Ok(()) };
        state.open = state.open.saturating_add(1);
        let data = (work == Work::Write).then_some(offset.saturating_sub(state.start));
        let buffer = (!parts.is_empty()).then(|| vec![0; geometry.cluster_len()]);
        let old = view.cluster;
        let copy =
            Copy { request, start, host, fresh, kept, changed, data, buffer, open: 0, failure: None, old, memory };
        let copy = self.copies.insert(copy);
        self.locks.push(start);
        if parts.is_empty() {
            self.write_copy(copy);
        }
        for (into, segment) in parts {
            self.fill(copy, into, segment);
        }
        Ok(())
    }

    /// A new cluster for data: its first byte, and whether it is certain to be zero.
    fn take_cluster(&mut self) -> Result<(u64, bool), Stop> {
        let (geometry, _) = self.shape()?;
        let (Some(layer), Some(refs)) = (self.layers.first_mut(), &mut self.refs) else {
            return Err(Stop::Fail(Failure::ReadOnly));
        };
        let (cluster, fresh) = refs.take(&mut self.cache, &mut self.touched)?;
        layer.bound = layer.bound.max(refs.end.saturating_mul(geometry.cluster_size()));
        Ok((cluster.saturating_mul(geometry.cluster_size()), fresh))
    }

    /// What is not zero of a cluster of the disk as it is, in bytes of the cluster.
    fn old_parts(&mut self, start: u64, range: Range<u64>) -> Result<Vec<(Range<u64>, Segment)>, Stop> {
        let mut parts = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let segment = self.resolve(0, start.saturating_add(at), range.end.saturating_sub(at))?;
            let end = at.saturating_add(segment.len);
            if segment.found != Found::Zero {
                parts.push((at..end, segment));
            }
            at = end;
        }
        Ok(parts)
    }

    /// Reads a part of the cluster as it was.
    fn fill(&mut self, copy: usize, into: Range<u64>, segment: Segment) {
        let usize_of = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        let into = usize_of(into.start)..usize_of(into.end);
        let (file, at, len, skip) = match segment.found {
            Found::Zero => return,
            Found::Bytes { file, at } => (file, at, into.len(), None),
            Found::Packed { file, at, len, skip } => (file, at, len, Some(skip)),
        };
        if let Some(copy) = self.copies.get_mut(copy) {
            copy.open = copy.open.saturating_add(1);
        }
        let task = Task::Fill { copy, file, at, len: u64::try_from(len).unwrap_or(u64::MAX), into, skip };
        self.give(task, file, Op::Read { at, len });
    }

    /// A part of the cluster as it was is there.
    pub(super) fn filled(
        &mut self,
        number: usize,
        (file, at): (u8, u64),
        into: Range<usize>,
        skip: Option<u64>,
        bytes: Result<Option<Vec<u8>>, Failure>,
    ) {
        let bytes = bytes.map(Option::unwrap_or_default).and_then(|bytes| match skip {
            None => Ok(bytes),
            Some(_) => self.unpack(file, at, &bytes),
        });
        let Some(copy) = self.copies.get_mut(number) else { return };
        copy.open = copy.open.saturating_sub(1);
        match bytes {
            Err(failure) => copy.failure = copy.failure.or(Some(failure)),
            Ok(bytes) => {
                let from = usize::try_from(skip.unwrap_or(0)).unwrap_or(usize::MAX);
                let part = bytes.get(from..from.saturating_add(into.len()));
                let place = copy.buffer.as_mut().and_then(|buffer| buffer.get_mut(into));
                if let (Some(part), Some(place)) = (part, place) {
                    place.copy_from_slice(part);
                }
            }
        }
        match (copy.open, copy.failure) {
            (0, None) => self.write_copy(number),
            (0, Some(failure)) => self.drop_copy(number, failure),
            (_, _) => {}
        }
    }

    /// Writes the cluster to its new place.
    fn write_copy(&mut self, number: usize) {
        let Some(copy) = self.copies.get_mut(number) else { return };
        let Some(state) = self.requests.get(copy.request) else { return };
        let id = state.id;
        let (host, changed) = (copy.host, copy.changed.clone());
        let Some(header) = self.layers.first().and_then(super::Layer::header) else { return };
        let size = header.geometry.cluster_size();
        let changed_len = changed.end.saturating_sub(changed.start);
        let mut ops = Vec::new();
        if let Some(data) = copy.data {
            let at = host.saturating_add(changed.start);
            let data = data..data.saturating_add(changed_len);
            ops.push((at, changed_len, Op::WriteGuest { id, data, at }));
        }
        let around = match copy.data {
            Some(_) => [0..changed.start, changed.end..size],
            None => [0..size, size..size],
        };
        for part in around.into_iter().filter(|part| !part.is_empty()) {
            let at = host.saturating_add(part.start);
            let len = part.end.saturating_sub(part.start);
            let usize_of = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
            match &copy.buffer {
                Some(buffer) => {
                    let bytes = buffer.get(usize_of(part.start)..usize_of(part.end)).unwrap_or_default().to_vec();
                    ops.push((at, len, Op::Write { at, bytes }));
                }
                // Beyond the file's end it is zero by itself, as long as something else makes the file longer.
                None if copy.fresh && copy.data.is_some() => {}
                None => ops.push((at, len, Op::Zero { at, len })),
            }
        }
        copy.buffer = None;
        copy.open = u32::try_from(ops.len()).unwrap_or(u32::MAX);
        for (at, len, op) in ops {
            self.give(Task::Copied { copy: number, at, len }, 0, op);
        }
    }

    /// A part was written.
    pub(super) fn copied(&mut self, number: usize, failure: Option<Failure>) {
        let Some(copy) = self.copies.get_mut(number) else { return };
        copy.open = copy.open.saturating_sub(1);
        copy.failure = copy.failure.or(failure);
        match (copy.open, copy.failure) {
            (0, None) => self.ready.push_back(Runner::Copy(number)),
            (0, Some(failure)) => self.drop_copy(number, failure),
            (_, _) => {}
        }
    }

    /// Shows the cluster at its new place.
    pub(super) fn link(&mut self, number: usize) -> Result<(), Stop> {
        let Some(copy) = self.copies.get(number) else { return Ok(()) };
        let (start, old) = (copy.start, copy.old);
        let new = Cluster::Standard { at: copy.host, copied: true };
        self.set_entry(start, new, old)?;
        self.end_copy(number, None);
        Ok(())
    }

    /// Gives a copy up: its place is free again, the disk shows what it did.
    pub(super) fn drop_copy(&mut self, number: usize, failure: Failure) {
        let geometry = self.shape().map(|(geometry, _)| geometry);
        if let (Some(copy), Some(refs), Ok(geometry)) = (self.copies.get(number), &mut self.refs, geometry) {
            if !copy.kept {
                refs.freed.push(geometry.cluster_of(copy.host));
            }
        }
        if let Failure::Corrupt { file: 0, .. } = failure {
            self.mark_corrupt();
        }
        self.end_copy(number, Some(failure));
    }

    fn end_copy(&mut self, number: usize, failure: Option<Failure>) {
        let Some(copy) = self.copies.remove(number) else { return };
        self.locks.retain(|start| *start != copy.start);
        self.wake(|wait| *wait == Wait::Lock(copy.start));
        self.free_memory(copy.memory);
        self.end_operation(copy.request, failure);
    }
}
