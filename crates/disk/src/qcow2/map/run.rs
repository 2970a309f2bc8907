//! How requests run, wait, go on and are answered.

use std::io;
use std::ops::Range;

use super::cache::{Key, Kind as TableKind};
use super::change::Step;
use super::resolve::{Found, Segment};
use super::{Action, Corruption, Failure, Layer, Map, Op, Runner, State, Stop, Task, Token, Wait, Work};
use crate::qcow2::unpack::unpack;

impl Map {
    /// Runs all that can go on.
    pub(super) fn drive(&mut self) {
        while let Some(runner) = self.ready.pop_front() {
            self.touched.clear();
            let ran = match runner {
                Runner::Request(request) => self.run(request),
                Runner::Copy(copy) => self.link(copy),
                Runner::Release => self.run_release(),
                Runner::TakeUp => self.run_take_up(),
            };
            let stop = match ran {
                Ok(()) => None,
                Err(Stop::Lack(key, kind)) => Some(Ok(self.load(key, kind))),
                Err(Stop::Wait(wait)) => Some(Ok(wait)),
                Err(Stop::Fail(failure)) => Some(Err(failure)),
            };
            match stop {
                Some(Ok(wait)) => {
                    self.waiting.push((wait, runner, self.touched.clone()));
                    continue;
                }
                Some(Err(failure)) => self.fail(runner, failure),
                None => {}
            }
            if let Runner::Request(request) = runner {
                self.settle(request);
            }
        }
        let waiting = &self.waiting;
        self.cache.shrink(|| waiting.iter().flat_map(|(_, _, pins)| pins.iter().copied()).collect());
    }

    /// Gives the operations of a request, from its cursor on.
    fn run(&mut self, request: usize) -> Result<(), Stop> {
        if let Some(failure) = self.lost {
            return Err(Stop::Fail(failure));
        }
        if self.taking_up.is_some() {
            return Err(Stop::Wait(Wait::TakenUp));
        }
        if work_of(self.requests.get(request)) == Work::Flush {
            self.join_cycle(request);
            return Ok(());
        }
        // What is next to it in its file becomes one operation with it.
        let mut last: Option<Segment> = None;
        loop {
            self.touched.clear();
            let Some(state) = self.requests.get(request) else { return Ok(()) };
            let (work, failed) = (state.work, state.failure);
            let offset = state.cursor.saturating_add(last.map_or(0, |last| last.len));
            let rest = state.end.saturating_sub(offset);
            if rest == 0 {
                break;
            }
            let next = match work {
                _ if failed.is_some() => Err(Stop::Fail(failed.unwrap_or(Failure::Range))),
                Work::Read => self.resolve(0, offset, rest).map(Step::There),
                Work::Write | Work::Zero { .. } | Work::Discard | Work::Flush => {
                    self.change(request, work, offset, rest)
                }
            };
            match (last, next) {
                (None, Ok(Step::There(next))) => last = Some(next),
                (Some(before), Ok(Step::There(next))) => match before.join(next) {
                    Some(whole) => last = Some(whole),
                    None => {
                        self.give_segment(request, work, before)?;
                        last = Some(next);
                    }
                },
                (before, Ok(Step::Done(len))) => {
                    before.map_or(Ok(()), |before| self.give_segment(request, work, before))?;
                    last = None;
                    if let Some(state) = self.requests.get_mut(request) {
                        state.cursor = state.cursor.saturating_add(len);
                    }
                }
                (before, Err(stop)) => {
                    let touched = self.touched.clone();
                    before.map_or(Ok(()), |before| self.give_segment(request, work, before))?;
                    self.touched = touched;
                    return Err(stop);
                }
            }
        }
        last.map_or(Ok(()), |last| self.give_segment(request, work_of(self.requests.get(request)), last))
    }

    /// Gives the operation for what stands at a request's cursor, and moves the cursor.
    fn give_segment(&mut self, request: usize, work: Work, segment: Segment) -> Result<(), Stop> {
        let Some(state) = self.requests.get(request) else { return Ok(()) };
        let id = state.id;
        let from = state.cursor.saturating_sub(state.start);
        let data = from..from.saturating_add(segment.len);
        let len = segment.len;
        let writes = work != Work::Read;
        match segment.found {
            Found::Zero => {
                let task = Task::Data { request, file: 0, at: 0, len: 0, writes: false };
                self.give(task, 0, Op::ZeroGuest { id, data });
            }
            Found::Bytes { file, at } => {
                let op = match work {
                    Work::Write => Op::WriteGuest { id, data, at },
                    Work::Zero { .. } => Op::Zero { at, len },
                    Work::Read | Work::Discard | Work::Flush => Op::ReadGuest { id, data, at },
                };
                self.give(Task::Data { request, file, at, len, writes }, file, op);
            }
            Found::Packed { file, at, len, skip } => {
                let memory = len.saturating_add(self.cluster_len(file));
                self.take_memory(memory)?;
                let packed = u64::try_from(len).unwrap_or(u64::MAX);
                self.give(
                    Task::Packed { request, file, at, len: packed, data, skip, memory },
                    file,
                    Op::Read { at, len },
                );
            }
        }
        if let Some(state) = self.requests.get_mut(request) {
            state.cursor = state.cursor.saturating_add(segment.len);
            state.open = state.open.saturating_add(1);
        }
        Ok(())
    }

    pub(super) fn give(&mut self, task: Task, file: u8, op: Op) {
        let token = Token(self.tasks.insert(task));
        self.actions.push_back(Action::Do { token, file, op });
    }

    /// Memory for what is unpacked or copied.
    pub(super) fn take_memory(&mut self, bytes: usize) -> Result<(), Stop> {
        if bytes != 0 && self.copying != 0 && self.copying.saturating_add(bytes) > self.limits.copying {
            return Err(Stop::Wait(Wait::Memory));
        }
        self.copying = self.copying.saturating_add(bytes);
        Ok(())
    }

    pub(super) fn free_memory(&mut self, bytes: usize) {
        self.copying = self.copying.saturating_sub(bytes);
        self.wake(|wait| *wait == Wait::Memory);
    }

    /// An operation of a request is over.
    pub(super) fn end_operation(&mut self, request: usize, failure: Option<Failure>) {
        if let Some(state) = self.requests.get_mut(request) {
            state.open = state.open.saturating_sub(1);
            state.failure = state.failure.or(failure);
        }
        self.settle(request);
    }

    /// Something ends where it is.
    fn fail(&mut self, runner: Runner, failure: Failure) {
        match runner {
            Runner::Request(request) => {
                let Some(state) = self.requests.get_mut(request) else { return };
                state.failure = state.failure.or(Some(failure));
                state.end = state.cursor;
                let writes = state.work != Work::Read;
                if let (true, None, Failure::Corrupt { file: 0, .. }) = (writes, self.lost, failure) {
                    self.mark_corrupt();
                }
            }
            Runner::Copy(copy) => self.drop_copy(copy, failure),
            // A cluster whose count can't fall is lost space, no more.
            Runner::Release => {
                if let Failure::Corrupt { file: 0, .. } = failure {
                    self.mark_corrupt();
                }
                self.releasing.pop_front();
                self.is_releasing = false;
                self.go_on_releasing();
            }
            Runner::TakeUp => {
                self.lost = Some(failure);
                self.taking_up = None;
                self.wake(|wait| *wait == Wait::TakenUp);
            }
        }
    }

    /// Answers a request that is over.
    fn settle(&mut self, request: usize) {
        let Some(state) = self.requests.get(request) else { return };
        if state.open != 0 || state.cursor < state.end || state.flushing {
            return;
        }
        let writes = matches!(state.work, Work::Write | Work::Zero { .. } | Work::Discard);
        if writes && self.limits.write_through && state.failure.is_none() {
            self.join_cycle(request);
        } else {
            self.answer(request);
        }
    }

    pub(super) fn answer(&mut self, request: usize) {
        if let Some(state) = self.requests.remove(request) {
            let result = state.failure.map_or(Ok(()), Err);
            self.actions.push_back(Action::Finish { id: state.id, result });
        }
    }

    /// Lets those go on that waited for this.
    pub(super) fn wake(&mut self, which: impl Fn(&Wait) -> bool) {
        let woken = self.waiting.extract_if(.., |(wait, ..)| which(wait));
        self.ready.extend(woken.map(|(_, runner, _)| runner));
    }

    /// A table was read, or can't be.
    pub(super) fn table_done(&mut self, key: Key, kind: TableKind, result: Result<Option<Vec<u8>>, io::ErrorKind>) {
        self.loading.retain(|other| *other != key);
        match result {
            Ok(bytes) => {
                // A table has its whole cluster, also where the file ends before.
                let mut bytes = bytes.unwrap_or_default();
                bytes.resize(self.cluster_len(key.file), 0);
                self.cache.insert(key, kind, bytes);
                self.wake(|wait| *wait == Wait::Table(key));
            }
            Err(error) => {
                let failure = Failure::Io { file: key.file, at: key.at, error };
                self.lose(|wait| *wait == Wait::Table(key), failure);
            }
        }
    }

    /// Ends those that waited for what will not be.
    pub(super) fn lose(&mut self, which: impl Fn(&Wait) -> bool, failure: Failure) {
        let lost: Vec<Runner> =
            self.waiting.extract_if(.., |(wait, ..)| which(wait)).map(|(_, runner, _)| runner).collect();
        for runner in lost {
            self.fail(runner, failure);
            if let Runner::Request(request) = runner {
                self.settle(request);
            }
        }
    }

    /// A compressed cluster was read for a request.
    pub(super) fn packed_done(
        &mut self,
        request: usize,
        (file, at, len): (u8, u64, u64),
        data: Range<u64>,
        skip: u64,
        bytes: Result<Option<Vec<u8>>, Failure>,
    ) {
        let unpacked = bytes.and_then(|bytes| self.unpack(file, at, &bytes.unwrap_or_default()));
        match (unpacked, self.requests.get(request)) {
            // One operation of the request becomes another.
            (Ok(bytes), Some(state)) => {
                let from = usize::try_from(skip).unwrap_or(usize::MAX);
                let op = Op::FillGuest { id: state.id, data, bytes: bytes.into(), from };
                self.give(Task::Data { request, file, at, len, writes: false }, file, op);
            }
            (unpacked, _) => self.end_operation(request, unpacked.err()),
        }
    }

    pub(super) fn unpack(&self, file: u8, at: u64, packed: &[u8]) -> Result<Vec<u8>, Failure> {
        let header = self.layers.get(usize::from(file)).and_then(Layer::header);
        let unpacked = header.and_then(|header| unpack(packed, header.compression, header.geometry.cluster_len()));
        unpacked.ok_or(Failure::Corrupt { file, what: Corruption::Packed { at } })
    }

    pub(super) fn cluster_len(&self, file: u8) -> usize {
        let header = self.layers.get(usize::from(file)).and_then(Layer::header);
        header.map_or(0, |header| header.geometry.cluster_len())
    }
}

fn work_of(state: Option<&State>) -> Work {
    state.map_or(Work::Read, |state| state.work)
}

/// Things with numbers. A number is given again once its thing is gone.
#[derive(Debug)]
pub(super) struct Slab<T> {
    things: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { things: Vec::with_capacity(128), free: Vec::with_capacity(128) }
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, thing: T) -> usize {
        let free = self.free.pop();
        match free.and_then(|number| self.things.get_mut(number).map(|place| (number, place))) {
            Some((number, place)) => {
                *place = Some(thing);
                number
            }
            None => {
                self.things.push(Some(thing));
                self.things.len().saturating_sub(1)
            }
        }
    }

    pub(super) fn get(&self, number: usize) -> Option<&T> {
        self.things.get(number)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut T> {
        self.things.get_mut(number)?.as_mut()
    }

    pub(super) fn remove(&mut self, number: usize) -> Option<T> {
        let thing = self.things.get_mut(number)?.take();
        if thing.is_some() {
            self.free.push(number);
        }
        thing
    }

    /// All that are there.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.things.iter().flatten()
    }

    pub(super) fn len(&self) -> usize {
        self.things.len().saturating_sub(self.free.len())
    }
}
