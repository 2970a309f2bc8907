//! The map: requests of a guest in, operations on the files of a chain out, completions in, answers out. Pure: it does no
//! I/O, reads no clock and logs nothing; its engine performs what it says (vioblk by io_uring, vmctl one by one).
//!
//! ```text
//! submit ─► running ─► its operations are under way ─► Finish
//!             ▲  │
//!             │  ▼
//!           waiting: for a table that is read, for memory
//! ```
//!
//! A request runs from its first byte to its last and gives operations as it goes. Where it lacks something it waits,
//! keeps its place and goes on later, while others overtake it. Files are numbered: 0 is the image, 1 and on its bases,
//! nearest first. What is beyond a file's end reads as zeros, so no operation that reads goes there.
//!
//! Memory is bounded by the limits, by what one request needs of tables and by the number of requests.

mod cache;
mod layer;
mod resolve;
mod seam;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use self::cache::{Cache, Key};
use self::resolve::{Found, Segment};
use super::unpack::unpack;

pub use self::layer::{Layer, LayerError};
pub use self::seam::{Action, Corruption, Failure, Op, Request, RequestId, Token};

/// Files of a chain: the image and its bases.
pub const MAX_CHAIN: usize = 16;

/// What the map may take of memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of tables that are kept. Requests that are under way keep what they use beside.
    pub tables: usize,
    /// Bytes of compressed clusters that are unpacked at once; one always may be.
    pub unpacking: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // 2 MiB of tables describe 16 GiB in 64 KiB clusters.
        Self { tables: 2 << 20, unpacking: 4 << 20 }
    }
}

/// The map of a chain, to read it. A token's number is given again once it
/// is done.
#[derive(Debug)]
pub struct Map {
    layers: Vec<Layer>,
    limits: Limits,
    cache: Cache,
    requests: Slab<State>,
    tasks: Slab<Task>,
    actions: VecDeque<Action>,
    /// Requests that wait, in the order of their coming.
    waiting: Vec<(Wait, usize)>,
    /// Requests that can go on.
    ready: VecDeque<usize>,
    /// Tables that are being read.
    loading: Vec<Key>,
    /// Bytes that are being unpacked.
    unpacking: usize,
    /// Tables that the running request uses for what is next.
    touched: Vec<Key>,
}

/// A request under way.
#[derive(Debug)]
struct State {
    id: RequestId,
    /// The first byte of the disk.
    start: u64,
    /// The next byte that has no operation yet.
    cursor: u64,
    end: u64,
    /// Operations that are not done.
    open: u32,
    failure: Option<Failure>,
    /// Tables that must stay until it goes on.
    pins: Vec<Key>,
}

/// Why a request can't go on now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// A table is read.
    Table(Key),
    /// Others unpack.
    Memory,
}

/// Why a request stops.
#[derive(Debug)]
enum Stop {
    Wait(Wait),
    Fail(Failure),
}

/// What an operation is for.
#[derive(Debug)]
enum Task {
    /// Moves data of a request.
    Data { request: usize, file: u8, at: u64 },
    /// Reads a table.
    Table(Key),
    /// Reads a compressed cluster for a request.
    Packed { request: usize, file: u8, at: u64, data: std::ops::Range<u64>, skip: u64, memory: usize },
}

impl Map {
    /// A map of the image and its bases, nearest first; up to 16 files.
    pub fn open(layers: Vec<Layer>, limits: Limits) -> Result<Self, LayerError> {
        if layers.is_empty() || layers.len() > MAX_CHAIN {
            return Err(LayerError::Chain(layers.len()));
        }
        Ok(Self {
            layers,
            limits,
            cache: Cache::new(limits.tables),
            requests: Slab::default(),
            tasks: Slab::default(),
            actions: VecDeque::with_capacity(128),
            waiting: Vec::new(),
            ready: VecDeque::with_capacity(128),
            loading: Vec::new(),
            unpacking: 0,
            touched: Vec::new(),
        })
    }

    /// The disk's bytes.
    pub fn size(&self) -> u64 {
        self.layers.first().map_or(0, Layer::size)
    }

    /// Takes a request. Its answer is an action, now or later.
    pub fn submit(&mut self, id: RequestId, request: Request) {
        let Request::Read { offset, len } = request;
        let end = offset.checked_add(len).filter(|end| *end <= self.size());
        let Some(end) = end else {
            self.actions.push_back(Action::Finish { id, result: Err(Failure::Range) });
            return;
        };
        let state = State { id, start: offset, cursor: offset, end, open: 0, failure: None, pins: Vec::new() };
        let request = self.requests.insert(state);
        self.ready.push_back(request);
        self.drive();
    }

    /// What is to be done next, if anything is.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Requests that are not answered.
    pub fn under_way(&self) -> usize {
        self.requests.len()
    }

    /// An operation is done. `Op::Read` brings its bytes, all of them; others bring none.
    pub fn done(&mut self, token: Token, result: Result<Option<Vec<u8>>, io::ErrorKind>) {
        let Some(task) = self.tasks.remove(token.0) else { return };
        match task {
            Task::Data { request, file, at } => {
                let failure = result.err().map(|error| Failure::Io { file, at, error });
                self.end_operation(request, failure);
            }
            Task::Table(key) => self.table_done(key, result),
            Task::Packed { request, file, at, data, skip, memory } => {
                self.unpacking = self.unpacking.saturating_sub(memory);
                let unpacked = result
                    .map_err(|error| Failure::Io { file, at, error })
                    .and_then(|bytes| self.unpack(file, at, &bytes.unwrap_or_default()));
                match (unpacked, self.requests.get(request)) {
                    // One operation of the request becomes another.
                    (Ok(bytes), Some(state)) => {
                        let from = usize::try_from(skip).unwrap_or(usize::MAX);
                        let op = Op::FillGuest { id: state.id, data, bytes, from };
                        self.give(Task::Data { request, file, at }, file, op);
                    }
                    (unpacked, _) => self.end_operation(request, unpacked.err()),
                }
                self.wake(|wait| *wait == Wait::Memory);
            }
        }
        self.drive();
    }

    /// Runs all that can go on.
    fn drive(&mut self) {
        while let Some(request) = self.ready.pop_front() {
            match self.run(request) {
                Ok(()) => {}
                Err(Stop::Wait(wait)) => {
                    self.waiting.push((wait, request));
                    continue;
                }
                Err(Stop::Fail(failure)) => self.fail(request, failure),
            }
            self.settle(request);
        }
        let (waiting, requests) = (&self.waiting, &self.requests);
        self.cache.shrink(|| {
            let waiting = waiting.iter().filter_map(|(_, request)| requests.get(*request));
            waiting.flat_map(|state| state.pins.iter().copied()).collect()
        });
    }

    /// Gives the operations of a request, from its cursor on.
    fn run(&mut self, request: usize) -> Result<(), Stop> {
        // What is next to it in its file becomes one operation with it.
        let mut last: Option<Segment> = None;
        loop {
            self.touched.clear();
            let Some(state) = self.requests.get(request) else { return Ok(()) };
            let offset = state.cursor.saturating_add(last.map_or(0, |last| last.len));
            let rest = state.end.saturating_sub(offset);
            let next = match rest {
                0 => break,
                _ => self.resolve(0, offset, rest),
            };
            match (last, next) {
                (None, Ok(next)) => last = Some(next),
                (Some(before), Ok(next)) => match before.join(next) {
                    Some(whole) => last = Some(whole),
                    None => {
                        self.give_segment(request, before)?;
                        last = Some(next);
                    }
                },
                (before, Err(stop)) => {
                    before.map_or(Ok(()), |before| self.give_segment(request, before))?;
                    if let Some(state) = self.requests.get_mut(request) {
                        state.pins.clone_from(&self.touched);
                    }
                    return Err(stop);
                }
            }
        }
        last.map_or(Ok(()), |last| self.give_segment(request, last))
    }

    /// Gives the operation for what stands at a request's cursor, and moves the cursor.
    fn give_segment(&mut self, request: usize, segment: Segment) -> Result<(), Stop> {
        let Some(state) = self.requests.get(request) else { return Ok(()) };
        let id = state.id;
        let from = state.cursor.saturating_sub(state.start);
        let data = from..from.saturating_add(segment.len);
        match segment.found {
            Found::Zero => self.give(Task::Data { request, file: 0, at: 0 }, 0, Op::ZeroGuest { id, data }),
            Found::Bytes { file, at } => {
                self.give(Task::Data { request, file, at }, file, Op::ReadGuest { id, data, at });
            }
            Found::Packed { file, at, len, skip } => {
                let memory = len.saturating_add(self.cluster_len(file));
                if self.unpacking != 0 && self.unpacking.saturating_add(memory) > self.limits.unpacking {
                    return Err(Stop::Wait(Wait::Memory));
                }
                self.unpacking = self.unpacking.saturating_add(memory);
                self.give(Task::Packed { request, file, at, data, skip, memory }, file, Op::Read { at, len });
            }
        }
        if let Some(state) = self.requests.get_mut(request) {
            state.cursor = state.cursor.saturating_add(segment.len);
            state.open = state.open.saturating_add(1);
        }
        Ok(())
    }

    fn give(&mut self, task: Task, file: u8, op: Op) {
        let token = Token(self.tasks.insert(task));
        self.actions.push_back(Action::Do { token, file, op });
    }

    /// An operation of a request is over.
    fn end_operation(&mut self, request: usize, failure: Option<Failure>) {
        if let Some(state) = self.requests.get_mut(request) {
            state.open = state.open.saturating_sub(1);
            state.failure = state.failure.or(failure);
        }
        self.settle(request);
    }

    /// A request ends at its cursor: nothing more is given for it.
    fn fail(&mut self, request: usize, failure: Failure) {
        if let Some(state) = self.requests.get_mut(request) {
            state.failure = state.failure.or(Some(failure));
            state.end = state.cursor;
        }
    }

    /// Answers a request that is over.
    fn settle(&mut self, request: usize) {
        let over = |state: &State| state.open == 0 && state.cursor >= state.end;
        if self.requests.get(request).is_some_and(over) {
            if let Some(state) = self.requests.remove(request) {
                let result = state.failure.map_or(Ok(()), Err);
                self.actions.push_back(Action::Finish { id: state.id, result });
            }
        }
    }

    /// Lets those go on that waited for this.
    fn wake(&mut self, which: impl Fn(&Wait) -> bool) {
        let woken = self.waiting.extract_if(.., |(wait, _)| which(wait));
        self.ready.extend(woken.map(|(_, request)| request));
    }

    /// A table was read, or can't be.
    fn table_done(&mut self, key: Key, result: Result<Option<Vec<u8>>, io::ErrorKind>) {
        self.loading.retain(|other| *other != key);
        match result {
            Ok(bytes) => {
                // A table has its whole cluster, also where the file ends before.
                let mut bytes = bytes.unwrap_or_default();
                bytes.resize(self.cluster_len(key.file), 0);
                self.cache.insert(key, bytes);
            }
            Err(error) => {
                let failure = Failure::Io { file: key.file, at: key.at, error };
                let failed: Vec<usize> = self
                    .waiting
                    .iter()
                    .filter(|(wait, _)| *wait == Wait::Table(key))
                    .map(|(_, request)| *request)
                    .collect();
                failed.into_iter().for_each(|request| self.fail(request, failure));
            }
        }
        self.wake(|wait| *wait == Wait::Table(key));
    }

    fn unpack(&self, file: u8, at: u64, packed: &[u8]) -> Result<Arc<[u8]>, Failure> {
        let header = self.layers.get(usize::from(file)).and_then(Layer::header);
        let unpacked = header.and_then(|header| unpack(packed, header.compression, header.geometry.cluster_len()));
        unpacked.map(Arc::from).ok_or(Failure::Corrupt { file, what: Corruption::Packed { at } })
    }

    fn cluster_len(&self, file: u8) -> usize {
        let header = self.layers.get(usize::from(file)).and_then(Layer::header);
        header.map_or(0, |header| header.geometry.cluster_len())
    }
}

/// Things with numbers. A number is given again once its thing is gone.
#[derive(Debug)]
struct Slab<T> {
    things: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { things: Vec::with_capacity(128), free: Vec::with_capacity(128) }
    }
}

impl<T> Slab<T> {
    fn insert(&mut self, thing: T) -> usize {
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

    fn get(&self, number: usize) -> Option<&T> {
        self.things.get(number)?.as_ref()
    }

    fn get_mut(&mut self, number: usize) -> Option<&mut T> {
        self.things.get_mut(number)?.as_mut()
    }

    fn remove(&mut self, number: usize) -> Option<T> {
        let thing = self.things.get_mut(number)?.take();
        if thing.is_some() {
            self.free.push(number);
        }
        thing
    }

    fn len(&self) -> usize {
        self.things.len().saturating_sub(self.free.len())
    }
}
