//! An image of several files: what the map of the chain says is carried out on the engine, and what ends is told to the
//! map. Requests go by numbers that whoever serves the disk gives; their buffers are kept here until they are answered.
//!
//! The files are the image and its bases, nearest first, as the engine has them. Operations beyond the engine's slots wait
//! here, in their order: no more than what the map has under way, which its requests bound.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use disk::qcow2::{Action, Failure, Map, Op, Request, RequestId, Token};
use sys::guest_io::{Buffers, Extent, GuestMemory};
use sys::ring::{Job, Operation};
use vm_memory::Bytes;

use super::back_end::{Begun as Begins, Ended, Failed, Why, Work};
use super::clearing::{Clearing, Host, Next};
use super::engine::{Done, Engine};
use super::request::{Clear, Range as Cleared};
use crate::queue::fill_front;
use crate::serve_vhost::Progress;

/// How long what was changed may stay in memory alone: so much of what a guest never flushes is lost with this process, which
/// may be killed. A guest's own write-back waits longer than that.
const WRITE_OUT: Duration = Duration::from_secs(1);

/// Rounds of a turn: in each, all that is done is seen to. Then others have theirs, as the front end and vmm.
const ROUNDS: usize = 8;

/// Flushes at the end: the first leaves clusters to be freed, whose counts the second writes. More finds nothing more to do.
const LAST_FLUSHES: usize = 3;

/// A chain of files that is served.
pub struct Chain {
    map: Map,
    engine: Engine,
    /// What the image's file can do.
    host: Host,
    /// The image's bytes, as far as it was written here.
    file_len: u64,
    requests: Vec<Held>,
    /// Operations under way, by the engine's slot; and the slots that are free.
    under_way: Vec<Option<UnderWay>>,
    free: Vec<u16>,
    waiting: VecDeque<(Token, u8, Op)>,
    done: Vec<Done>,
    /// Extents of a part of a request.
    part: Vec<Extent>,
    /// What the host said last when an operation failed: the map keeps its kind alone.
    errno: Option<i32>,
    /// When what was changed is written out, if something may have been.
    write_out: Option<Instant>,
}

/// A request's buffers.
#[derive(Default)]
struct Held {
    memory: Option<Arc<GuestMemory>>,
    extents: Vec<Extent>,
}

/// An operation that the engine has.
struct UnderWay {
    token: Token,
    clearing: Option<Clearing>,
    /// Where the image ends when it is done.
    end: u64,
}

impl Chain {
    /// A chain whose files `engine` has, with so many slots; the image has `file_len` bytes. Requests are numbered below
    /// `requests`.
    pub fn new(map: Map, engine: Engine, slots: u16, file_len: u64, requests: u16) -> Chain {
        Chain {
            map,
            engine,
            host: Host::default(),
            file_len,
            requests: (0..=requests).map(|_| Held::default()).collect(), // the last is the chain's own
            under_way: (0..slots).map(|_| None).collect(),
            free: (0..slots).collect(),
            waiting: VecDeque::new(),
            done: Vec::with_capacity(usize::from(slots)),
            part: Vec::new(),
            errno: None,
            write_out: None,
        }
    }

    /// The disk's bytes.
    pub fn size(&self) -> u64 {
        self.map.size()
    }

    /// Bytes of the least that can be given back; none where an image on a base can't say that something is no more.
    pub fn granularity(&self) -> Option<u32> {
        self.map.granularity()
    }

    /// Whether each write is made to last before it is answered.
    pub fn set_write_through(&mut self, whether: bool) {
        self.map.set_write_through(whether);
    }

    /// Begins a request, whose number is free; `turn` answers it. False where the number is too large.
    pub fn begin(&mut self, number: u16, request: Request, memory: &Arc<GuestMemory>, extents: &[Extent]) -> bool {
        if usize::from(number) >= self.own() {
            return false;
        }
        let Some(held) = self.requests.get_mut(usize::from(number)) else { return false };
        held.memory = Some(memory.clone());
        held.extents.clear();
        held.extents.extend_from_slice(extents);
        let changes = !matches!(request, Request::Read { .. } | Request::Flush);
        if changes && self.write_out.is_none() {
            self.write_out = Instant::now().checked_add(WRITE_OUT);
        }
        self.map.submit(RequestId(number.into()), request);
        true
    }

    /// The same, as whoever serves the disk has it.
    pub fn begin_work(&mut self, number: u16, work: Work, memory: &Arc<GuestMemory>, extents: &[Extent]) -> Begins {
        let request = match work {
            Work::Read { offset, len } => Request::Read { offset, len: len.into() },
            // `set_write_through` says which of them last.
            Work::Write { offset, len, durable: _ } => Request::Write { offset, len },
            Work::Flush => Request::Flush,
            Work::Clear { how: Clear::Discard, range, durable: _ } => {
                Request::Discard { offset: range.offset, len: range.len }
            }
            Work::Clear { how: Clear::WriteZeroes, range, durable: _ } => {
                Request::WriteZeroes { offset: range.offset, len: range.len, unmap: range.unmap }
            }
        };
        if self.begin(number, request, memory, extents) { Begins::UnderWay } else { Begins::Refused }
    }

    /// Carries on without waiting, for so many rounds at most, and appends what is answered. The error is the host's ring's.
    pub fn turn(&mut self, ended: &mut Vec<Ended>) -> io::Result<Progress> {
        self.write_out_late();
        for _ in 0..ROUNDS {
            self.act(ended);
            self.engine.submit()?;
            let mut done = std::mem::take(&mut self.done);
            self.engine.completed(&mut done);
            let none = done.is_empty();
            for (slot, result) in done.drain(..) {
                self.ended(slot, result);
            }
            self.done = done;
            if none {
                return Ok(Progress::Idle);
            }
        }
        Ok(Progress::More)
    }

    /// Begins to write out what was changed, where it is time for that.
    fn write_out_late(&mut self) {
        let Some(at) = self.write_out else { return };
        let now = Instant::now();
        if now < at {
            return;
        }
        let goes_on = self.map.dirty() && !self.map.is_broken();
        self.write_out = if goes_on { now.checked_add(WRITE_OUT) } else { None };
        if goes_on {
            self.map.flush_soon();
        }
    }

    /// When a turn is due although nothing is done.
    pub fn deadline(&self) -> Option<Instant> {
        self.write_out
    }

    /// Waits until something of what is under way is done, if anything is.
    pub fn wait(&mut self) -> io::Result<()> {
        self.engine.wait()
    }

    /// Where its operations are carried out.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.map.under_way() == 0 && self.waiting.is_empty() && self.free.len() == self.under_way.len()
    }

    /// Brings all that was answered to the files, and makes it last. Nothing of the guest's is under way.
    pub fn finish(&mut self) -> Result<(), Why> {
        for _ in 0..LAST_FLUSHES {
            self.map.submit(RequestId(u64::try_from(self.own()).unwrap_or(u64::MAX)), Request::Flush);
            let mut ended = Vec::new();
            loop {
                let progress = self.turn(&mut ended).map_err(Why::Host)?;
                if progress == Progress::Idle && self.is_idle() {
                    break;
                }
                self.wait().map_err(Why::Host)?;
            }
            ended.into_iter().try_for_each(|(_, result)| result).map_err(|failed| failed.why)?;
            if !self.map.dirty() {
                break;
            }
        }
        Ok(())
    }

    /// The number of the chain's own request.
    fn own(&self) -> usize {
        self.requests.len().saturating_sub(1)
    }

    /// Why a request failed, with the host's own words.
    fn failed(&self, failure: Failure) -> Failed {
        let why = match failure {
            Failure::Io { file, at, error } => {
                let own = self.errno.map(io::Error::from_raw_os_error).filter(|own| own.kind() == error);
                Why::File { file, at, error: own.unwrap_or_else(|| error.into()) }
            }
            Failure::Range | Failure::ReadOnly | Failure::MarkedCorrupt | Failure::Full | Failure::Corrupt { .. } => {
                Why::Chain(failure)
            }
        };
        Failed { why, lost: self.map.is_broken() }
    }

    /// Does what the map says, as far as there are slots.
    fn act(&mut self, ended: &mut Vec<Ended>) {
        loop {
            while let Some((token, file, op)) = self.free.last().and_then(|_| self.waiting.pop_front()) {
                self.perform(token, file, op);
            }
            match self.map.poll() {
                None => return,
                Some(Action::Finish { id, result }) => {
                    let number = u16::try_from(id.0).unwrap_or(u16::MAX);
                    if let Some(held) = self.requests.get_mut(usize::from(number)) {
                        held.memory = None;
                    }
                    ended.push((number, result.map_err(|failure| self.failed(failure))));
                }
                Some(Action::Do { token, op: Op::ZeroGuest { id, data }, .. }) => {
                    let result = self.fill(id, data, None);
                    self.map.done(token, result);
                }
                Some(Action::Do { token, op: Op::FillGuest { id, data, bytes, from }, .. }) => {
                    let result = self.fill(id, data, bytes.get(from..));
                    self.map.done(token, result);
                }
                Some(Action::Do { token, file, op }) => self.waiting.push_back((token, file, op)),
            }
        }
    }

    /// Writes to a part of a request's buffers: bytes, or zeros.
    fn fill(
        &mut self,
        id: RequestId,
        data: Range<u64>,
        bytes: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, io::ErrorKind> {
        let held = held(&self.requests, id).ok_or(io::ErrorKind::InvalidInput)?;
        let memory = held.memory.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        part(&held.extents, data, &mut self.part)?;
        match bytes {
            Some(bytes) => {
                fill_front(memory, &self.part, bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
            }
            None => self.part.iter().try_for_each(|extent| zero(memory, *extent))?,
        }
        Ok(None)
    }

    /// Gives an operation to the engine.
    fn perform(&mut self, token: Token, file: u8, op: Op) {
        let mut clearing = None;
        let mut end = 0;
        let Chain { engine, requests, part: extents, .. } = self;
        let guest = |id, data: Range<u64>, extents: &mut Vec<Extent>| {
            let held = held(requests, id).ok_or(io::ErrorKind::InvalidInput)?;
            part(&held.extents, data, extents)?;
            held.memory.as_ref().ok_or(io::ErrorKind::InvalidInput)
        };
        let write = Operation::Write { durable: false };
        let Some(slot) = self.free.last().copied() else { return };
        let begun = match op {
            Op::ReadGuest { id, data, at } => guest(id, data, extents).and_then(|memory| {
                let buffers = Buffers::Guest(memory, extents);
                begin(engine, slot, Job { file, operation: Operation::Read, at, buffers })
            }),
            Op::WriteGuest { id, data, at } => {
                end = at.saturating_add(data.end.saturating_sub(data.start));
                guest(id, data, extents).and_then(|memory| {
                    begin(engine, slot, Job { file, operation: write, at, buffers: Buffers::Guest(memory, extents) })
                })
            }
            Op::Read { at, len } => {
                let buffers = Buffers::Bytes(vec![0; len]);
                begin(engine, slot, Job { file, operation: Operation::Read, at, buffers })
            }
            Op::Write { at, bytes } => {
                end = at.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                begin(engine, slot, Job { file, operation: write, at, buffers: Buffers::Bytes(bytes) })
            }
            Op::Sync => begin(engine, slot, Job { file, operation: Operation::Sync, at: 0, buffers: Buffers::None }),
            Op::Zero { at, len } => {
                end = at.saturating_add(len);
                let range = Cleared { offset: at, len, unmap: false };
                // Only a write makes the file longer.
                let way = if end > self.file_len {
                    Clearing::written(range)
                } else {
                    Clearing::new(Clear::WriteZeroes, range, false)
                };
                step(engine, slot, file, clearing.insert(way).first(self.host))
            }
            Op::Punch { at, len } => {
                let way = Clearing::new(Clear::Discard, Cleared { offset: at, len, unmap: true }, false);
                step(engine, slot, file, clearing.insert(way).first(self.host))
            }
            Op::ZeroGuest { .. } | Op::FillGuest { .. } => Ok(Begun::Done), // memory alone, done before
        };
        match begun {
            Ok(Begun::UnderWay) => {
                self.free.pop();
                if let Some(place) = self.under_way.get_mut(usize::from(slot)) {
                    *place = Some(UnderWay { token, clearing, end });
                }
            }
            Ok(Begun::Done) => self.map.done(token, Ok(None)),
            Err(error) => self.map.done(token, Err(error)),
        }
    }

    /// An operation of the engine has ended.
    fn ended(&mut self, slot: u16, result: io::Result<()>) {
        let bytes = self.engine.bytes(slot);
        let Some(mut was) = self.under_way.get_mut(usize::from(slot)).and_then(Option::take) else { return };
        self.errno = result.as_ref().err().and_then(io::Error::raw_os_error).or(self.errno);
        let result = match &mut was.clearing {
            None => result.map(|()| bytes).map_err(|error| error.kind()),
            Some(clearing) => match clearing.after(&result, &mut self.host) {
                Next::Done => Ok(None),
                Next::Failed => Err(result.err().map_or(io::ErrorKind::Other, |error| error.kind())),
                // The image alone is cleared.
                next @ Next::Do { .. } => match step(&mut self.engine, slot, 0, next) {
                    Ok(_) => {
                        if let Some(place) = self.under_way.get_mut(usize::from(slot)) {
                            *place = Some(was);
                        }
                        return;
                    }
                    Err(error) => Err(error),
                },
            },
        };
        self.free.push(slot);
        if result.is_ok() {
            self.file_len = self.file_len.max(was.end);
        }
        self.map.done(was.token, result);
    }
}

/// What became of an operation.
enum Begun {
    UnderWay,
    Done,
}

fn begin(engine: &mut Engine, slot: u16, job: Job<'_>) -> Result<Begun, io::ErrorKind> {
    engine.start(slot, job).map(|()| Begun::UnderWay).map_err(|error| error.kind())
}

fn step(engine: &mut Engine, slot: u16, file: u8, next: Next) -> Result<Begun, io::ErrorKind> {
    match next.job(file) {
        Some(job) => begin(engine, slot, job),
        None if next == Next::Done => Ok(Begun::Done),
        None => Err(io::ErrorKind::Other),
    }
}

fn held(requests: &[Held], id: RequestId) -> Option<&Held> {
    usize::try_from(id.0).ok().and_then(|number| requests.get(number))
}

/// The extents of bytes `data` of a request's buffers.
fn part(extents: &[Extent], data: Range<u64>, into: &mut Vec<Extent>) -> Result<(), io::ErrorKind> {
    into.clear();
    let mut skip = data.start;
    let mut left = data.end.saturating_sub(data.start);
    for extent in extents {
        let len = u64::from(extent.len);
        if skip >= len {
            skip = skip.saturating_sub(len);
            continue;
        }
        let rest = usize::try_from(skip).ok().and_then(|skip| extent.after(skip)).ok_or(io::ErrorKind::InvalidInput)?;
        skip = 0;
        let now = u64::from(rest.len).min(left);
        into.push(Extent { addr: rest.addr, len: u32::try_from(now).map_err(|_| io::ErrorKind::InvalidInput)? });
        left = left.saturating_sub(now);
        if left == 0 {
            return Ok(());
        }
    }
    if left == 0 { Ok(()) } else { Err(io::ErrorKind::InvalidInput) }
}

/// Fills guest memory with zeros.
fn zero(memory: &GuestMemory, extent: Extent) -> Result<(), io::ErrorKind> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut rest = extent;
    while rest.len > 0 {
        let now = usize::try_from(rest.len).unwrap_or(ZEROS.len()).min(ZEROS.len());
        let zeros = ZEROS.get(..now).unwrap_or(&ZEROS);
        memory.write_slice(zeros, rest.addr).map_err(|_| io::ErrorKind::InvalidInput)?;
        rest = rest.after(now).ok_or(io::ErrorKind::InvalidInput)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
