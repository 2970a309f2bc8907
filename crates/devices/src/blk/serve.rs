//! Carries out block requests: chains from the ring to the engine, results from the engine to the ring. The only file
//! that touches the disk's descriptor. Many requests are under way at once, answered as they end.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use proto::failure::plain;
use rustix::event::PollFlags;
use sys::guest_io::{Buffers, Extent};
use sys::ring::{Job, Operation};
use virtio_bindings::bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;
use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

use super::clearing::{Clearing, Host, Next};
use super::config::{Blocks, Config};
use super::engine::{Done, Engine};
use super::request::{self, Clear, Disk, HEADER, ID_BYTES, RANGE, Request, Status};
use super::{READ_ONLY, State, WRITTEN};
use crate::kept::Kept;
use crate::queue::{Chain, RingFault, accepted, fill_front, is_inside};
use crate::serve_vhost::{Active, Device, Progress};

/// Requests under way at most. More wait in the available ring, so a full ring of large requests costs no memory here.
pub const MAX_IN_FLIGHT: u16 = 32;

/// How soon the host is asked again when it had no room for a request.
const RETRY: Duration = Duration::from_millis(1);

/// The word that is kept: not 0 once a flush has failed.
const SYNC_FAILED: u64 = 0;

/// A disk that is served.
pub struct Blk {
    file: OwnedFd,
    disk: Disk,
    config: Config,
    /// In the log: `disk "/srv/a.img"`.
    called: String,
    /// What is under way is recorded in it, where the front end wants that.
    records: Option<File>,
    /// What the next process must know.
    kept: Option<Kept>,
    serial: [u8; ID_BYTES as usize],
    engine: Engine,
    /// What the file can do beside reads and writes.
    host: Host,
    state: State,
    /// Requests under way, by slot; and the slots that are free.
    under_way: Vec<Option<UnderWay>>,
    free: Vec<u16>,
    /// The ring has more, and no slot was free.
    starved: bool,
    chain: Chain,
    done: Vec<Done>,
    used: Vec<(u16, u32)>,
    /// When to offer the host again what it had no room for.
    retry: Option<Instant>,
}

/// What is needed to answer.
#[derive(Clone, Copy)]
struct UnderWay {
    head: u16,
    status: GuestAddress,
    operation: Operation,
    /// More may follow, if it clears a range.
    clearing: Option<Clearing>,
    /// Bytes of data that a success has written to the guest.
    written: u32,
}

/// What became of a chain.
enum Begun {
    /// The engine has it.
    UnderWay,
    /// It is answered with this status, after so many bytes of data.
    Answered(GuestAddress, Status, u32),
}

impl Blk {
    /// A disk on `file`; `engine` transfers to and from the same.
    pub fn new(file: OwnedFd, engine: Engine, disk: Disk, blocks: Blocks, serial: &[u8]) -> Blk {
        let mut padded = [0; ID_BYTES as usize];
        padded.iter_mut().zip(serial).for_each(|(to, from)| *to = *from);
        let config = Config::new(disk.sectors, blocks);
        Blk {
            file,
            disk,
            config: if disk.read_only { config } else { config.with_clearing(blocks) },
            serial: padded,
            called: "disk".to_owned(),
            records: None,
            kept: None,
            engine,
            host: Host::default(),
            state: State::default(),
            under_way: vec![None; usize::from(MAX_IN_FLIGHT)],
            free: (0..MAX_IN_FLIGHT).collect(),
            starved: false,
            chain: Chain::default(),
            done: Vec::with_capacity(usize::from(MAX_IN_FLIGHT)),
            used: Vec::with_capacity(usize::from(MAX_IN_FLIGHT)),
            retry: None,
        }
    }

    /// What its users call it, for the log.
    pub fn called(self, path: &str) -> Blk {
        Blk { called: format!("disk \"{path}\""), ..self }
    }

    /// Has a file for records of what is under way.
    pub fn recording(self, records: File) -> Blk {
        Blk { records: Some(records), ..self }
    }

    /// Goes on from what the process before it kept, and keeps what the next one must know.
    pub fn keeping(mut self, kept: Kept) -> Blk {
        self.state.sync_failed |= kept.word(SYNC_FAILED) != 0;
        self.kept = Some(kept);
        self
    }

    /// A line of the log, in the users' words.
    fn line(&self, what: impl std::fmt::Display, error: &io::Error) -> String {
        let words = plain(error);
        let (first, rest) = words.split_at_checked(1).unwrap_or_default();
        format!("{}: {what}: {}{rest}", self.called, first.to_lowercase())
    }

    /// What a successor needs to go on, beside its rings'. Nothing is under way once the queue has stopped.
    pub fn save(&self) -> State {
        self.state
    }

    /// Goes on from a predecessor's state, before the first queue starts.
    pub fn restore(&mut self, state: State) {
        self.state = state;
    }

    /// Takes chains from the ring while there are chains and slots; at most as many as the ring has entries.
    fn take(&mut self, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        on.ring.disable_kicks(on.memory)?;
        for _ in 0..on.ring.size() {
            if self.free.is_empty() {
                self.starved = true; // kicks stay off: what completes will look here
                return Ok(Progress::Idle);
            }
            if !on.ring.pop_or_wait(on.memory, &mut self.chain)? {
                return Ok(Progress::Idle);
            }
            self.begin_one(on)?;
        }
        Ok(Progress::More)
    }

    fn begin_one(&mut self, on: &mut Active<'_>) -> Result<(), RingFault> {
        match self.begin(on)? {
            Begun::UnderWay => Ok(()),
            Begun::Answered(at, status, written) => {
                on.memory.write_obj(status.byte(), at).map_err(|_| RingFault::Outside)?;
                on.ring.push_used(on.memory, &[(self.chain.head, written.saturating_add(1))])
            }
        }
    }

    /// Reads the chain's request, and begins it or answers.
    fn begin(&mut self, on: &mut Active<'_>) -> Result<Begun, RingFault> {
        let status = self.chain.take_last_byte()?; // no writable byte: nowhere to answer
        if !is_inside(on.memory, Extent { addr: status, len: 1 }) {
            return Err(RingFault::Outside);
        }
        let mut header = [0; HEADER];
        if self.chain.readable_bytes() < HEADER as u64 {
            return Ok(Begun::Answered(status, Status::IoErr, 0));
        }
        self.chain.take_front(on.memory, &mut header)?;
        let (readable, writable) = (self.chain.readable_bytes(), self.chain.writable_bytes());
        Ok(match request::parse(header, readable, writable, self.disk) {
            Err(refused) => Begun::Answered(status, refused, 0),
            Ok(Request::Nothing) => Begun::Answered(status, Status::Ok, 0),
            Ok(Request::GetId { len }) => self.give_id(on, status, len),
            Ok(Request::Read { offset, len }) => self.start(on, status, Operation::Read, offset, len),
            Ok(Request::Write { offset }) => {
                self.start(on, status, Operation::Write { durable: self.is_write_through() }, offset, 0)
            }
            Ok(Request::Flush) => self.start(on, status, Operation::Sync, 0, 0),
            Ok(Request::Clear(how)) => self.clear(on, status, how)?,
        })
    }

    /// Without FLUSH the driver takes every answer for "on the medium" (5.2.6.2).
    fn is_write_through(&self) -> bool {
        !accepted(self.state.features, VIRTIO_BLK_F_FLUSH)
    }

    fn start(
        &mut self,
        on: &mut Active<'_>,
        status: GuestAddress,
        operation: Operation,
        offset: u64,
        written: u32,
    ) -> Begun {
        let buffers = match operation {
            Operation::Read => Buffers::Guest(on.memory, &self.chain.writable),
            Operation::Write { .. } => Buffers::Guest(on.memory, &self.chain.readable),
            Operation::Sync | Operation::Punch { .. } | Operation::Zero { .. } => Buffers::None,
        };
        let refused = Begun::Answered(status, Status::IoErr, 0);
        if self.state.sync_failed && claims_durability(operation) {
            return refused;
        }
        let Some(slot) = self.free.pop() else { return refused };
        if self.engine.start(slot, Job { file: 0, operation, at: offset, buffers }).is_err() {
            self.free.push(slot);
            return refused;
        }
        let head = self.chain.head;
        self.is_under_way(slot, UnderWay { head, status, operation, clearing: None, written });
        Begun::UnderWay
    }

    /// Begins to clear the range that the chain's data is.
    fn clear(&mut self, on: &mut Active<'_>, status: GuestAddress, how: Clear) -> Result<Begun, RingFault> {
        let mut bytes = [0; RANGE];
        self.chain.take_front(on.memory, &mut bytes)?;
        let range = match request::range(how, bytes, self.disk) {
            Ok(range) => range,
            Err(refused) => return Ok(Begun::Answered(status, refused, 0)),
        };
        let durable = how == Clear::WriteZeroes && self.is_write_through();
        if durable && self.state.sync_failed {
            return Ok(Begun::Answered(status, Status::IoErr, 0));
        }
        let mut clearing = Clearing::new(how, range, durable);
        let next = clearing.first(self.host);
        let Next::Do { operation, .. } = next else { return Ok(Begun::Answered(status, Status::Ok, 0)) };
        let refused = Begun::Answered(status, Status::IoErr, 0);
        let Some(slot) = self.free.pop() else { return Ok(refused) };
        if !self.step(slot, next) {
            self.free.push(slot);
            return Ok(refused);
        }
        let head = self.chain.head;
        self.is_under_way(slot, UnderWay { head, status, operation, clearing: Some(clearing), written: 0 });
        Ok(Begun::UnderWay)
    }

    /// Begins the next operation that clears a range; false where nothing is left to begin or the engine refuses it.
    fn step(&mut self, slot: u16, next: Next) -> bool {
        let Next::Do { operation, at, zeros } = next else { return false };
        let buffers = if zeros > 0 { Buffers::Zeros(zeros) } else { Buffers::None };
        self.engine.start(slot, Job { file: 0, operation, at, buffers }).is_ok()
    }

    fn is_under_way(&mut self, slot: u16, request: UnderWay) {
        if let Some(place) = self.under_way.get_mut(usize::from(slot)) {
            *place = Some(request);
        }
    }

    fn give_id(&mut self, on: &Active<'_>, status: GuestAddress, len: u32) -> Begun {
        let len = usize::try_from(len).unwrap_or(0);
        let id = self.serial.get(..len).unwrap_or(&self.serial);
        match fill_front(on.memory, &self.chain.writable, id) {
            Ok(written) => Begun::Answered(status, Status::Ok, u32::try_from(written).unwrap_or(0)),
            Err(_) => Begun::Answered(status, Status::IoErr, 0),
        }
    }

    /// Answers what the engine has finished. Without a queue (it was reset or is broken) results are dropped: a late
    /// one never reaches a ring of later.
    fn reap(&mut self, on: Option<&mut Active<'_>>) -> Result<(), RingFault> {
        let mut done = std::mem::take(&mut self.done);
        self.engine.completed(&mut done);
        self.used.clear();
        let mut outside = false;
        for (slot, result) in done.drain(..) {
            let was = self.under_way.get_mut(usize::from(slot)).and_then(Option::take);
            let Some(was) = was else {
                self.free.push(slot); // forgotten
                continue;
            };
            let Some(status) = self.ended(slot, was, &result) else { continue };
            self.free.push(slot);
            let Some(on) = on.as_ref() else { continue };
            outside |= on.memory.write_obj(status.byte(), was.status).is_err();
            let written = if status == Status::Ok { was.written } else { 0 };
            self.used.push((was.head, written.saturating_add(1)));
        }
        self.done = done;
        self.submit()?; // what was transferred in part goes on
        match on {
            Some(_) if outside => Err(RingFault::Outside),
            Some(on) => on.ring.push_used(on.memory, &self.used),
            None => Ok(()),
        }
    }

    /// A request's answer when its operation has ended, or none where more is under way for it.
    fn ended(&mut self, slot: u16, was: UnderWay, result: &io::Result<()>) -> Option<Status> {
        let Some(mut clearing) = was.clearing else { return Some(self.judge(&was, result)) };
        let next = clearing.after(result, &mut self.host);
        match next {
            Next::Done => Some(Status::Ok),
            Next::Failed => Some(self.judge(&was, result)),
            Next::Do { operation, .. } if self.step(slot, next) => {
                self.is_under_way(slot, UnderWay { operation, clearing: Some(clearing), ..was });
                None
            }
            Next::Do { .. } => Some(Status::IoErr),
        }
    }

    fn judge(&mut self, was: &UnderWay, result: &io::Result<()>) -> Status {
        let Err(error) = result else { return Status::Ok };
        let line = match was.clearing {
            Some(clearing) => self.line(clearing.clear(), error),
            None => self.line(was.operation, error),
        };
        sys::guest_log!(Warn, "{line}");
        let was_lost = match was.operation {
            Operation::Sync => true,
            // A full disk took nothing, and says so each time.
            Operation::Write { durable: true } => !is_full(error),
            Operation::Write { durable: false }
            | Operation::Read
            | Operation::Punch { .. }
            | Operation::Zero { .. } => false,
        };
        if was_lost {
            self.state.sync_failed = true;
            self.kept.iter().for_each(|kept| kept.keep(SYNC_FAILED, 1)); // before the guest hears of it
        }
        Status::IoErr
    }

    /// One round: take, submit, answer.
    fn round(&mut self, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        self.starved = false;
        let progress = self.take(on);
        self.submit()?;
        self.reap(Some(on))?;
        let progress = progress?;
        on.notify()?;
        // Plain transfers are done by now, so that slots are free again.
        Ok(if self.starved && !self.free.is_empty() { Progress::More } else { progress })
    }

    /// What is under way is answered to nobody: its heads are of a ring that is gone. The slots come back as it completes.
    fn forget(&mut self) {
        self.under_way.iter_mut().for_each(|place| *place = None);
    }

    fn submit(&mut self) -> Result<(), RingFault> {
        let submitted = self.engine.submit();
        self.retry = match (self.engine.unsubmitted(), self.engine.has_done()) {
            (true, _) => Instant::now().checked_add(RETRY),
            (false, true) => Some(Instant::now()),
            (false, false) => None,
        };
        submitted.map_err(|error| {
            sys::guest_log!(Error, "{}", self.line("io_uring", &error));
            RingFault::Host
        })
    }
}

impl Device for Blk {
    fn queues(&self) -> usize {
        1
    }

    fn features(&self) -> u64 {
        if self.disk.read_only { READ_ONLY } else { WRITTEN }
    }

    fn config(&self) -> &[u8] {
        self.config.as_bytes()
    }

    fn accept(&mut self, features: u64) {
        self.state.features = features;
    }

    fn kicked(&mut self, _queue: usize, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        self.round(on)
    }

    fn source(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.engine.fd().map(|fd| (fd, PollFlags::IN))
    }

    fn ready(&mut self, on: Option<&mut Active<'_>>) -> Result<Progress, RingFault> {
        self.submit()?;
        let Some(on) = on else {
            self.reap(None)?;
            return Ok(Progress::Idle);
        };
        self.reap(Some(on))?;
        if self.starved && !self.free.is_empty() {
            return self.round(on);
        }
        on.notify()?;
        Ok(Progress::Idle)
    }

    fn deadline(&self) -> Option<Instant> {
        self.retry
    }

    fn stop(&mut self, _queue: usize, mut on: Option<&mut Active<'_>>) {
        while self.free.len() < self.under_way.len() {
            if let Err(error) = self.engine.wait() {
                sys::guest_log!(Error, "{}: requests under way are lost", self.line("io_uring", &error));
                self.forget();
                return;
            }
            // A ring that breaks now is about to be forgotten.
            let _ = self.reap(on.as_deref_mut());
        }
        if let Some(on) = on {
            let _ = on.notify();
        }
        self.starved = false;
    }

    fn records(&self) -> Option<&File> {
        self.records.as_ref()
    }

    fn finish(&mut self) {
        if self.disk.read_only {
            return;
        }
        if let Err(error) = rustix::fs::fdatasync(self.file.as_fd()) {
            log::error!("{}", self.line("flush at its end", &error.into()));
        }
    }
}

/// A write-back error is told once by the kernel; what it lost stays lost, so the answer stays (3.4).
fn claims_durability(operation: Operation) -> bool {
    match operation {
        Operation::Sync | Operation::Write { durable: true } => true,
        Operation::Write { durable: false } | Operation::Read | Operation::Punch { .. } | Operation::Zero { .. } => {
            false
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

#[cfg(test)]
mod tests;
