//! Carries out block requests: chains from the ring to what the disk is on, answers from there to the ring. Many requests are
//! under way at once, answered as they end.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use model::DiskLimits;
use rustix::event::PollFlags;
use sys::guest_io::Extent;
use virtio_bindings::bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;
use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

use super::back_end::{self, BackEnd, Ended, Failed, Why, Work};
use super::chain::Chain as Images;
use super::config::{Blocks, Config};
use super::engine::Engine;
use super::pace::Pace;
use super::raw::Raw;
use super::request::{self, Clear, Disk, HEADER, ID_BYTES, RANGE, Request, SECTOR, Status};
use super::{FEATURES, READ_ONLY, State, WRITTEN};
use crate::kept::Kept;
use crate::queue::{Chain, RingFault, accepted, fill_front, is_inside};
use crate::serve_vhost::{Active, Device, Progress};

/// Requests under way at most. More wait in the available ring, so a full ring of large requests costs no memory here.
pub const MAX_IN_FLIGHT: u16 = 32;

/// The word that is kept: not 0 once a flush has failed.
const SYNC_FAILED: u64 = 0;

/// A disk that is served.
pub struct Blk {
    disk: Disk,
    features: u64,
    config: Config,
    /// In the log: `disk "/srv/a.img"`.
    called: String,
    /// What is under way is recorded in it, where the front end wants that.
    records: Option<File>,
    /// What the next process must know.
    kept: Option<Kept>,
    serial: [u8; ID_BYTES as usize],
    back_end: BackEnd,
    state: State,
    /// Requests under way, by slot; and the slots that are free.
    under_way: Vec<Option<UnderWay>>,
    free: Vec<u16>,
    /// The ring has more, and no slot was free.
    starved: bool,
    chain: Chain,
    ended: Vec<Ended>,
    used: Vec<(u16, u32)>,
    /// When a turn of the back end is due.
    due: Option<Instant>,
    /// How fast the guest may go, if there is a limit.
    pace: Option<Pace>,
    /// The ring may have more, for which it is too early: kicks stay off until then.
    held: Option<Instant>,
}

/// What is needed to answer.
#[derive(Clone, Copy)]
struct UnderWay {
    head: u16,
    status: GuestAddress,
    work: Work,
}

/// What became of a chain.
enum Begun {
    /// The back end has it.
    UnderWay,
    /// It is answered with this status, after so many bytes of data.
    Answered(GuestAddress, Status, u32),
}

impl Blk {
    /// A disk on `file`; `engine` transfers to and from the same.
    pub fn new(file: OwnedFd, engine: Engine, disk: Disk, blocks: Blocks, serial: &[u8]) -> Blk {
        let raw = BackEnd::Raw(Raw::new(file, engine, MAX_IN_FLIGHT));
        Blk::on(raw, disk, blocks, Some(blocks.physical), serial)
    }

    /// A disk on an image with its bases, which has numbers for [`MAX_IN_FLIGHT`] requests.
    pub fn of_images(images: Images, read_only: bool, blocks: Blocks, serial: &[u8]) -> Blk {
        let disk = Disk { sectors: images.size().checked_div(SECTOR).unwrap_or(0), read_only };
        let granularity = images.granularity();
        Blk::on(BackEnd::Chain(Box::new(images)), disk, blocks, granularity, serial)
    }

    /// `granularity` is the least that can be given back, in bytes, if ranges can be cleared.
    fn on(back_end: BackEnd, disk: Disk, blocks: Blocks, granularity: Option<u32>, serial: &[u8]) -> Blk {
        let mut padded = [0; ID_BYTES as usize];
        padded.iter_mut().zip(serial).for_each(|(to, from)| *to = *from);
        let config = Config::new(disk.sectors, blocks);
        let (features, config) = match granularity {
            _ if disk.read_only => (READ_ONLY, config),
            None => (FEATURES, config),
            Some(granularity) => (WRITTEN, config.with_clearing(granularity)),
        };
        Blk {
            disk,
            features,
            config,
            serial: padded,
            called: "disk".to_owned(),
            records: None,
            kept: None,
            back_end,
            state: State::default(),
            under_way: vec![None; usize::from(MAX_IN_FLIGHT)],
            free: (0..MAX_IN_FLIGHT).collect(),
            starved: false,
            chain: Chain::default(),
            ended: Vec::with_capacity(usize::from(MAX_IN_FLIGHT)),
            used: Vec::with_capacity(usize::from(MAX_IN_FLIGHT)),
            due: None,
            pace: None,
            held: None,
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

    /// Is used no faster than these allow.
    pub fn limited(self, limits: DiskLimits) -> Blk {
        Blk { pace: Pace::new(limits, Instant::now()), ..self }
    }

    /// A line of the log, in the users' words.
    fn line(&self, what: impl std::fmt::Display, why: &Why) -> String {
        format!("{}: {what}: {why}", self.called)
    }

    /// What a successor needs to go on, beside its rings'. Nothing is under way once the queue has stopped.
    pub fn save(&self) -> State {
        self.state
    }

    /// Goes on from a predecessor's state, before the first queue starts.
    pub fn restore(&mut self, state: State) {
        self.state = state;
        self.back_end.set_write_through(self.is_write_through());
    }

    /// Takes chains from the ring while there are chains and slots; at most as many as the ring has entries.
    fn take(&mut self, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        on.ring.disable_kicks(on.memory)?;
        for _ in 0..on.ring.size() {
            if self.free.is_empty() {
                self.starved = true; // kicks stay off: what completes will look here
                return Ok(Progress::Idle);
            }
            self.held = self.pace.as_mut().and_then(|pace| pace.wait(Instant::now()));
            if self.held.is_some() {
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
        let request = request::parse(header, readable, writable, self.disk);
        if let (Some(pace), Ok(request)) = (&mut self.pace, &request) {
            pace.begun(request, readable);
        }
        Ok(match request {
            Err(refused) => Begun::Answered(status, refused, 0),
            Ok(Request::Nothing) => Begun::Answered(status, Status::Ok, 0),
            Ok(Request::GetId { len }) => self.give_id(on, status, len),
            Ok(Request::Read { offset, len }) => self.start(on, status, Work::Read { offset, len }),
            Ok(Request::Write { offset }) => {
                let durable = self.is_write_through();
                self.start(on, status, Work::Write { offset, len: readable, durable })
            }
            Ok(Request::Flush) => self.start(on, status, Work::Flush),
            Ok(Request::Clear(how)) => self.clear(on, status, how)?,
        })
    }

    /// Without FLUSH the driver takes every answer for "on the medium" (5.2.6.2).
    fn is_write_through(&self) -> bool {
        !accepted(self.state.features, VIRTIO_BLK_F_FLUSH)
    }

    fn start(&mut self, on: &Active<'_>, status: GuestAddress, work: Work) -> Begun {
        let refused = Begun::Answered(status, Status::IoErr, 0);
        if self.state.sync_failed && work.claims_durability() {
            return refused;
        }
        let Some(slot) = self.free.pop() else { return refused };
        let extents: &[Extent] = match work {
            Work::Read { .. } => &self.chain.writable,
            Work::Write { .. } => &self.chain.readable,
            Work::Flush | Work::Clear { .. } => &[],
        };
        let answer = match self.back_end.begin(slot, work, on.memory, extents) {
            back_end::Begun::UnderWay => {
                if let Some(place) = self.under_way.get_mut(usize::from(slot)) {
                    *place = Some(UnderWay { head: self.chain.head, status, work });
                }
                return Begun::UnderWay;
            }
            back_end::Begun::Done => Status::Ok,
            back_end::Begun::Refused => Status::IoErr,
        };
        self.free.push(slot);
        Begun::Answered(status, answer, 0)
    }

    /// Begins to clear the range that the chain's data is.
    fn clear(&mut self, on: &Active<'_>, status: GuestAddress, how: Clear) -> Result<Begun, RingFault> {
        let mut bytes = [0; RANGE];
        self.chain.take_front(on.memory, &mut bytes)?;
        Ok(match request::range(how, bytes, self.disk) {
            Ok(range) => self.start(on, status, Work::Clear { how, range, durable: self.is_write_through() }),
            Err(refused) => Begun::Answered(status, refused, 0),
        })
    }

    fn give_id(&mut self, on: &Active<'_>, status: GuestAddress, len: u32) -> Begun {
        let len = usize::try_from(len).unwrap_or(0);
        let id = self.serial.get(..len).unwrap_or(&self.serial);
        match fill_front(on.memory, &self.chain.writable, id) {
            Ok(written) => Begun::Answered(status, Status::Ok, u32::try_from(written).unwrap_or(0)),
            Err(_) => Begun::Answered(status, Status::IoErr, 0),
        }
    }

    /// Answers what has ended. Without a queue (it was reset or is broken) results are dropped: a late one never reaches a
    /// ring of later.
    fn reap(&mut self, on: Option<&mut Active<'_>>) -> Result<Progress, RingFault> {
        let mut ended = std::mem::take(&mut self.ended);
        let turned = self.back_end.turn(&mut ended);
        self.used.clear();
        let mut outside = false;
        for (slot, result) in ended.drain(..) {
            self.free.push(slot);
            let Some(was) = self.under_way.get_mut(usize::from(slot)).and_then(Option::take) else {
                continue; // forgotten
            };
            let status = self.judge(was.work, result);
            let Some(on) = on.as_ref() else { continue };
            outside |= on.memory.write_obj(status.byte(), was.status).is_err();
            let written = if status == Status::Ok { was.work.fills() } else { 0 };
            self.used.push((was.head, written.saturating_add(1)));
        }
        self.ended = ended;
        self.due = self.back_end.deadline();
        let progress = turned.map_err(|error| {
            sys::guest_log!(Error, "{}", self.line("io_uring", &Why::Host(error)));
            RingFault::Host
        })?;
        match on {
            Some(_) if outside => return Err(RingFault::Outside),
            Some(on) => on.ring.push_used(on.memory, &self.used)?,
            None => {}
        }
        Ok(progress)
    }

    fn judge(&mut self, work: Work, result: Result<(), Failed>) -> Status {
        let Err(Failed { why, lost }) = result else { return Status::Ok };
        sys::guest_log!(Warn, "{}", self.line(work, &why));
        if lost {
            self.state.sync_failed = true;
            self.kept.iter().for_each(|kept| kept.keep(SYNC_FAILED, 1)); // before the guest hears of it
        }
        Status::IoErr
    }

    /// One round: take, carry out, answer.
    fn round(&mut self, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        self.starved = false;
        let taken = self.take(on);
        let reaped = self.reap(Some(on))?;
        let taken = taken?;
        on.notify()?;
        // Plain transfers are done by now, so that slots are free again.
        let more = self.starved && !self.free.is_empty() || reaped == Progress::More;
        Ok(if more { Progress::More } else { taken })
    }

    /// What is under way is answered to nobody: its heads are of a ring that is gone. The slots come back as it completes.
    fn forget(&mut self) {
        self.under_way.iter_mut().for_each(|place| *place = None);
    }
}

impl Device for Blk {
    fn queues(&self) -> usize {
        1
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn config(&self) -> &[u8] {
        self.config.as_bytes()
    }

    fn accept(&mut self, features: u64) {
        self.state.features = features;
        self.back_end.set_write_through(self.is_write_through());
    }

    fn kicked(&mut self, _queue: usize, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        self.round(on)
    }

    fn source(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.back_end.fd().map(|fd| (fd, PollFlags::IN))
    }

    fn ready(&mut self, on: Option<&mut Active<'_>>) -> Result<Progress, RingFault> {
        let Some(on) = on else {
            self.held = None; // a queue that is served again has its turn at once
            return self.reap(None);
        };
        let progress = self.reap(Some(on))?;
        let due = self.held.is_some_and(|at| at <= Instant::now());
        if due || self.starved && !self.free.is_empty() {
            return self.round(on);
        }
        on.notify()?;
        Ok(progress)
    }

    fn deadline(&self) -> Option<Instant> {
        [self.due, self.held].into_iter().flatten().min()
    }

    fn stop(&mut self, _queue: usize, mut on: Option<&mut Active<'_>>) {
        while self.free.len() < self.under_way.len() {
            if let Err(error) = self.back_end.wait() {
                sys::guest_log!(Error, "{}: requests under way are lost", self.line("io_uring", &Why::Host(error)));
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
        self.held = None;
    }

    fn records(&self) -> Option<&File> {
        self.records.as_ref()
    }

    fn finish(&mut self) {
        if self.disk.read_only {
            return;
        }
        if let Err(why) = self.back_end.finish() {
            log::error!("{}", self.line("flush at its end", &why));
        }
    }
}

#[cfg(test)]
mod tests;
