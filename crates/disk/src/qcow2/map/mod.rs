//! The map: requests of a guest in, operations on the files of a chain out, completions in, answers out. Pure: it does no
//! I/O, reads no clock and logs nothing; its engine performs what it says (vioblk by io_uring, vmctl one by one).
//!
//! ```text
//! submit ─► running ─► its operations are under way ─► Finish
//!             ▲  │
//!             │  ▼
//!           waiting: for a table that is read, a cluster that is being copied, memory, the end of a cycle
//! ```
//!
//! A request runs from its first byte to its last and gives operations as it goes. Where it lacks something it waits,
//! keeps its place and goes on later, while others overtake it. Files are numbered: 0 is the image, 1 and on its bases,
//! nearest first. What is beyond a file's end reads as zeros, so no operation that reads goes there.
//!
//! A write goes in place where the cluster is the image's alone. Else a *copy* (`copy`) gets a new cluster, fills and
//! writes it, and only then changes the entry, in memory. A *cycle* (`cycle`) brings what was changed to the file in the
//! order that a power cut at any moment asks for; a flush is answered at the end of one that began after it came.
//!
//! New clusters are such as were freed, also by earlier sessions (`search`), else they are at the file's end. Where a
//! process is killed, what it had in memory alone can be taken up by the next (`pending`).
//!
//! Memory is bounded by the limits, by what one request needs of tables and by the number of requests; beside, an open image
//! takes its L1 and refcount tables and 16 bytes for each L2 table and refcount block (`claims`).

mod cache;
mod change;
mod claims;
mod copy;
mod cycle;
mod layer;
mod pending;
mod refs;
mod resolve;
mod run;
mod seam;
mod search;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::ops::Range;

use self::cache::{Cache, Key, Kind as TableKind};
use self::copy::Copy;
use self::cycle::Cycle;
use self::layer::Kind;
use self::pending::Unwritten;
use self::refs::Refs;
use self::run::Slab;
use super::Version;

pub use self::layer::{Layer, LayerError};
pub use self::pending::{MAX_PENDING, Pending};
pub use self::seam::{Action, Corruption, Failure, Op, Request, RequestId, Token};

/// Files of a chain: the image and its bases.
pub const MAX_CHAIN: usize = 16;

/// What the map may take of memory, and how it answers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of tables that are kept. Requests that are under way keep what they use beside.
    pub tables: usize,
    /// Bytes of clusters that are unpacked or copied at once; one always may be.
    pub copying: usize,
    /// Whether each write is made to outlast a power cut before it is answered: for a guest that never flushes.
    pub write_through: bool,
}

impl Default for Limits {
    fn default() -> Self {
        // 2 MiB of tables describe 16 GiB in 64 KiB clusters.
        Self { tables: 2 << 20, copying: 4 << 20, write_through: false }
    }
}

/// The map of a chain. A token's number is given again once it is done.
#[derive(Debug)]
pub struct Map {
    layers: Vec<Layer>,
    limits: Limits,
    cache: Cache,
    requests: Slab<State>,
    tasks: Slab<Task>,
    actions: VecDeque<Action>,
    /// What waits, in the order of its coming, and the tables that must stay until it goes on.
    waiting: Vec<(Wait, Runner, Vec<Key>)>,
    /// What can go on.
    ready: VecDeque<Runner>,
    /// Tables that are being read.
    loading: Vec<Key>,
    /// Bytes that are being unpacked or copied.
    copying: usize,
    /// Tables that what runs uses for what is next.
    touched: Vec<Key>,
    /// Where the image is written: its refcounts.
    refs: Option<Refs>,
    copies: Slab<Copy>,
    /// Clusters of the disk that are being copied, by their first byte.
    locks: Vec<u64>,
    /// L1 entries that were changed and are not written.
    l1_changed: BTreeSet<u64>,
    begin: Begin,
    marked_corrupt: bool,
    /// Why nothing can be written any more: a sync failed, and what was written before it may be lost.
    broken: Option<Failure>,
    cycle: Option<Cycle>,
    /// Requests that the next cycle answers.
    flushing: Vec<usize>,
    /// Clusters that the last cycle has made free, before their counts fall.
    releasing: VecDeque<u64>,
    /// Whether their counts fall now: this runs or waits.
    is_releasing: bool,
    /// Entries that are in memory alone.
    unwritten: Unwritten,
    /// Entries of the process before that are still to be taken up: requests wait for that.
    taking_up: Option<VecDeque<Pending>>,
    /// Why they can't be: no request is performed.
    lost: Option<Failure>,
}

/// A request under way.
#[derive(Debug)]
struct State {
    id: RequestId,
    work: Work,
    /// The first byte of the disk.
    start: u64,
    /// The next byte that has no operation yet.
    cursor: u64,
    end: u64,
    /// Operations that are not done.
    open: u32,
    failure: Option<Failure>,
    /// Whether it waits for a cycle to answer it.
    flushing: bool,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Read,
    Write,
    Zero { unmap: bool },
    Discard,
    Flush,
}

/// What runs, waits and goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runner {
    Request(usize),
    Copy(usize),
    /// Counts of freed clusters fall.
    Release,
    /// Entries of the process before are taken up.
    TakeUp,
}

/// Why something can't go on now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// A table is read.
    Table(Key),
    /// Others unpack or copy.
    Memory,
    /// The cluster of the disk is being copied.
    Lock(u64),
    /// The header is being changed before the first write.
    Begin,
    /// A cycle ends.
    Cycle,
    /// The entries of the process before are taken up.
    TakenUp,
}

/// Why something stops.
#[derive(Debug)]
enum Stop {
    Wait(Wait),
    /// A table is not there.
    Lack(Key, TableKind),
    Fail(Failure),
}

/// Whether the image is ready to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// Features that we do not know must be cleared first.
    Needed,
    Running,
    Done,
}

/// What an operation is for.
#[derive(Debug)]
enum Task {
    /// Moves data of a request.
    Data { request: usize, file: u8, at: u64, len: u64, writes: bool },
    /// Reads a table.
    Table(Key, TableKind),
    /// Reads a compressed cluster for a request.
    Packed { request: usize, file: u8, at: u64, len: u64, data: Range<u64>, skip: u64, memory: usize },
    /// Reads what a copy keeps; `skip` bytes into the cluster where it is compressed.
    Fill { copy: usize, file: u8, at: u64, len: u64, into: Range<usize>, skip: Option<u64> },
    /// Writes a part of a copy.
    Copied { copy: usize, at: u64, len: u64 },
    /// Writes tables in a cycle.
    Cycle { at: u64, len: u64 },
    /// Ends a stage of a cycle.
    Sync,
    /// Changes the header before the first write, and makes that last.
    Begin { synced: bool },
    /// Gives the space of clusters of the file back.
    Punch { clusters: Range<u64> },
    /// Marks the image as corrupt, and makes that last.
    Mark { written: bool },
}

impl Map {
    /// A map of the image and its bases, nearest first; up to 16 files. It writes where the image was opened for that.
    pub fn open(mut layers: Vec<Layer>, limits: Limits) -> Result<Self, LayerError> {
        if layers.is_empty() || layers.len() > MAX_CHAIN {
            return Err(LayerError::Chain(layers.len()));
        }
        let mut begin = Begin::Done;
        let refs = layers.first_mut().and_then(|layer| {
            let file_len = layer.file_len;
            let Kind::Qcow2(image) = &mut layer.kind else { return None };
            let writable = image.writable.take()?;
            if image.header.autoclear != 0 {
                begin = Begin::Needed;
            }
            Some(Refs::new(image, file_len, writable))
        });
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
            copying: 0,
            touched: Vec::new(),
            refs,
            copies: Slab::default(),
            locks: Vec::new(),
            l1_changed: BTreeSet::new(),
            begin,
            marked_corrupt: false,
            broken: None,
            cycle: None,
            flushing: Vec::new(),
            releasing: VecDeque::new(),
            unwritten: Unwritten::default(),
            taking_up: None,
            lost: None,
            is_releasing: false,
        })
    }

    /// The disk's bytes.
    pub fn size(&self) -> u64 {
        self.layers.first().map_or(0, Layer::size)
    }

    /// Takes a request. Its answer is an action, now or later.
    pub fn submit(&mut self, id: RequestId, request: Request) {
        let (work, offset, len) = match request {
            Request::Read { offset, len } => (Work::Read, offset, len),
            Request::Write { offset, len } => (Work::Write, offset, len),
            Request::WriteZeroes { offset, len, unmap } => (Work::Zero { unmap }, offset, len),
            Request::Discard { offset, len } => (Work::Discard, offset, len),
            Request::Flush => (Work::Flush, 0, 0),
        };
        let end = offset.checked_add(len).filter(|end| *end <= self.size()).ok_or(Failure::Range);
        let end = match work {
            Work::Write | Work::Zero { .. } | Work::Discard if self.refs.is_none() => Err(Failure::ReadOnly),
            Work::Read | Work::Write | Work::Zero { .. } | Work::Discard | Work::Flush => end,
        };
        let end = match end {
            Ok(end) => end,
            Err(failure) => {
                self.actions.push_back(Action::Finish { id, result: Err(failure) });
                return;
            }
        };
        let state = State { id, work, start: offset, cursor: offset, end, open: 0, failure: None, flushing: false };
        let request = self.requests.insert(state);
        self.ready.push_back(Runner::Request(request));
        self.drive();
    }

    /// What is to be done next, if anything is.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Bytes of a cluster, which is the least that a discard gives back; none where the image is only read, or is of version 2
    /// and has a base: without zero clusters the base would show again.
    pub fn granularity(&self) -> Option<u32> {
        let header = self.refs.as_ref().and(self.layers.first()).and_then(Layer::header)?;
        let gives_back = header.version == Version::V3 || self.layers.len() == 1;
        gives_back.then(|| u32::try_from(header.geometry.cluster_size()).ok())?
    }

    /// Whether each write is made to last before it is answered, from now on: see [`Limits`].
    pub fn set_write_through(&mut self, whether: bool) {
        self.limits.write_through = whether;
    }

    /// Whether nothing can be written any more: what was answered before may be lost.
    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Requests that are not answered.
    pub fn under_way(&self) -> usize {
        self.requests.len()
    }

    /// Whether something was changed that a power cut, or the end of this process, would lose and a cycle can still save.
    /// Once a sync has failed nothing can: each flush is told so, and this is over. What can't be written stays changed, so
    /// one that ends asks for a flush and looks at its answer.
    pub fn dirty(&self) -> bool {
        let freed = self.refs.as_ref().is_some_and(|refs| !refs.freed.is_empty()) || !self.releasing.is_empty();
        let changed = self.cache.is_changed() || !self.l1_changed.is_empty() || freed || self.cycle.is_some();
        changed && self.broken.is_none()
    }

    /// Begins to write out what was changed, for a timer of the engine's.
    pub fn flush_soon(&mut self) {
        if self.dirty() {
            self.start_cycle();
            self.drive();
        }
    }

    /// An operation is done. `Op::Read` brings its bytes, all of them; others bring none.
    pub fn done(&mut self, token: Token, result: Result<Option<Vec<u8>>, io::ErrorKind>) {
        let Some(task) = self.tasks.remove(token.0) else { return };
        let failed = |file: u8, at: u64, result: &Result<Option<Vec<u8>>, io::ErrorKind>| {
            result.as_ref().err().map(|error| Failure::Io { file, at, error: *error })
        };
        match task {
            Task::Data { request, file, at, len, writes } => {
                let failure = failed(file, at, &result);
                if writes && failure.is_none() {
                    self.lengthen(at, len);
                }
                self.end_operation(request, failure);
            }
            Task::Table(key, kind) => self.table_done(key, kind, result),
            Task::Packed { request, file, at, len, data, skip, memory } => {
                self.free_memory(memory);
                let bytes = result.map_err(|error| Failure::Io { file, at, error });
                self.packed_done(request, (file, at, len), data, skip, bytes);
            }
            Task::Fill { copy, file, at, into, skip, .. } => {
                let bytes = result.map_err(|error| Failure::Io { file, at, error });
                self.filled(copy, (file, at), into, skip, bytes);
            }
            Task::Copied { copy, at, len } => {
                let failure = failed(0, at, &result);
                if failure.is_none() {
                    self.lengthen(at, len);
                }
                self.copied(copy, failure);
            }
            Task::Cycle { at, len } => {
                let failure = failed(0, at, &result);
                if failure.is_none() {
                    self.lengthen(at, len);
                }
                self.cycle_written(failure);
            }
            Task::Sync => self.cycle_synced(failed(0, 0, &result)),
            Task::Begin { synced } => self.begun(synced, failed(0, 0, &result)),
            Task::Punch { clusters } => {
                if let Some(refs) = &mut self.refs {
                    refs.reuse(clusters);
                }
                self.go_on_releasing();
            }
            Task::Mark { written } => self.marked(written, result.is_ok()),
        }
        self.drive();
    }

    /// The file has these bytes now.
    fn lengthen(&mut self, at: u64, len: u64) {
        if let Some(layer) = self.layers.first_mut() {
            layer.file_len = layer.file_len.max(at.saturating_add(len));
            layer.bound = layer.bound.max(layer.file_len);
        }
    }
}
