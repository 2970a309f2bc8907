//! Carries out block requests: chains from the ring to the engine, results from the engine to the ring. The only file
//! that touches the disk's descriptor. Many requests are under way at once, answered as they end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use proto::failure::plain;
use rustix::event::PollFlags;
use sys::guest_io::Extent;
use sys::ring::Operation;
use virtio_bindings::bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;
use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

use super::config::Config;
use super::engine::{Done, Engine};
use super::request::{self, Disk, HEADER, ID_BYTES, Request, Status};
use super::{FEATURES, READ_ONLY, State};
use crate::queue::{Chain, RingFault, accepted, fill_front, is_inside};
use crate::serve_vhost::{Active, Device, Progress};

/// Requests under way at most. More wait in the available ring, so a full ring of large requests costs no memory here.
pub const MAX_IN_FLIGHT: u16 = 32;

/// How soon the host is asked again when it had no room for a request.
const RETRY: Duration = Duration::from_millis(1);

/// A disk that is served.
pub struct Blk {
    file: OwnedFd,
    disk: Disk,
    config: Config,
    /// In the log: `disk "/srv/a.img"`.
    called: String,
    serial: [u8; ID_BYTES as usize],
    engine: Engine,
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
    pub fn new(file: OwnedFd, engine: Engine, disk: Disk, block_size: u32, serial: &[u8]) -> Blk {
        let mut padded = [0; ID_BYTES as usize];
        padded.iter_mut().zip(serial).for_each(|(to, from)| *to = *from);
        Blk {
            file,
            disk,
            config: Config::new(disk.sectors, block_size),
            serial: padded,
            called: "disk".to_owned(),
            engine,
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
                // Without FLUSH the driver takes every answer for "on the medium" (5.2.6.2).
                let durable = !accepted(self.state.features, VIRTIO_BLK_F_FLUSH);
                self.start(on, status, Operation::Write { durable }, offset, 0)
            }
            Ok(Request::Flush) => self.start(on, status, Operation::Sync, 0, 0),
        })
    }

    fn start(
        &mut self,
        on: &mut Active<'_>,
        status: GuestAddress,
        operation: Operation,
        offset: u64,
        written: u32,
    ) -> Begun {
        let refused = Begun::Answered(status, Status::IoErr, 0);
        // A write-back error is told once by the kernel; what it lost stays lost, so the answer stays (3.4).
        if self.state.sync_failed && operation != Operation::Read && operation != (Operation::Write { durable: false })
        {
            return refused;
        }
        let extents = match operation {
            Operation::Read => &self.chain.writable[..],
            Operation::Write { .. } => &self.chain.readable[..],
            Operation::Sync => &[],
        };
        let Some(slot) = self.free.pop() else { return refused };
        if self.engine.start(slot, operation, on.memory, extents, offset).is_err() {
            self.free.push(slot);
            return refused;
        }
        if let Some(place) = self.under_way.get_mut(usize::from(slot)) {
            *place = Some(UnderWay { head: self.chain.head, status, operation, written });
        }
        Begun::UnderWay
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
        let submitted = self.submit(); // what was transferred in part goes on
        self.used.clear();
        let mut outside = false;
        for (slot, result) in done.drain(..) {
            self.free.push(slot);
            let was = self.under_way.get_mut(usize::from(slot)).and_then(Option::take);
            let Some(was) = was else { continue }; // forgotten
            let status = self.judge(was.operation, &result);
            let Some(on) = on.as_ref() else { continue };
            outside |= on.memory.write_obj(status.byte(), was.status).is_err();
            let written = if status == Status::Ok { was.written } else { 0 };
            self.used.push((was.head, written.saturating_add(1)));
        }
        self.done = done;
        submitted?;
        match on {
            Some(_) if outside => Err(RingFault::Outside),
            Some(on) => on.ring.push_used(on.memory, &self.used),
            None => Ok(()),
        }
    }

    fn judge(&mut self, operation: Operation, result: &io::Result<()>) -> Status {
        let Err(error) = result else { return Status::Ok };
        sys::guest_log!(Warn, "{}", self.line(operation, error));
        let was_lost = match operation {
            Operation::Sync => true,
            // A full disk took nothing, and says so each time.
            Operation::Write { durable: true } => !is_full(error),
            Operation::Write { durable: false } | Operation::Read => false,
        };
        self.state.sync_failed |= was_lost;
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
        self.retry = self.engine.unsubmitted().then(|| Instant::now().checked_add(RETRY)).flatten();
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
        if self.disk.read_only { READ_ONLY } else { FEATURES }
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

    fn finish(&mut self) {
        if self.disk.read_only {
            return;
        }
        if let Err(error) = rustix::fs::fdatasync(self.file.as_fd()) {
            log::error!("{}", self.line("flush at its end", &error.into()));
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

#[cfg(test)]
mod tests;
