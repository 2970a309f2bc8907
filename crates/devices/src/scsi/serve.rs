//! Carries out the requests of a SCSI host: chains from the rings to the drive and the engine, results back. The only file
//! that touches the medium's descriptor. Many reads are under way at once, answered as they end.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use proto::device::{Ask, ToVmm};
use proto::failure::{Code, Failure, plain};
use rustix::event::PollFlags;
use sys::guest_io::{Buffers, Extent};
use sys::ring::{Job, Operation};
use zerocopy::IntoBytes;

use super::FEATURES;
use super::answers::Answer;
use super::command;
use super::config::Config;
use super::drive::{Drive, Locked, Reaction};
use super::medium::{Medium, open};
use super::request::{self, EVENTS_REQUEST, Lun, Outcome, REQUEST, RESPONSE_LEN, Response, TASK_REQUEST, TaskRequest};
use super::sense::Sense;
use super::state::State;
use crate::blk::Engine;
use crate::kept::Kept;
use crate::queue::{Chain, RingFault, fill_front, is_inside};
use crate::serve_vhost::{Active, Device, Progress};

/// Reads under way at most. More wait in the available ring.
pub const MAX_IN_FLIGHT: u16 = 16;

/// How soon the host is asked again when it had no room for a read.
const RETRY: Duration = Duration::from_millis(1);

/// The queues (virtio 1.2, 5.6.2).
const CONTROL: usize = 0;
const EVENTS: usize = 1;
const REQUESTS: usize = 2;

/// A SCSI host with its drive.
pub struct Scsi {
    drive: Drive,
    medium: Option<Medium>,
    config: Config,
    features: u64,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// The ring has more, and it was not looked at.
    starved: bool,
    chain: Chain,
    /// Where the response of the request goes that is looked at.
    response: Vec<Extent>,
    answer: Answer,
    done: Vec<(u16, io::Result<()>)>,
    used: Vec<(u16, u32)>,
    /// When to offer the host again what it had no room for.
    retry: Option<Instant>,
    /// What vmm has asked for, until nothing is under way.
    change: Option<Change>,
    news: VecDeque<ToVmm>,
    /// What the next process must know, and the file for records of what is under way.
    kept: Option<(Kept, File)>,
}

/// The word that is kept: the drive.
const DRIVE: u64 = 0;

/// What the host does with the drive.
struct Change {
    /// What is put in; nothing is only taken out.
    image: Option<(OwnedFd, String)>,
    /// Locked or not.
    force: bool,
}

/// A read under way, and what is needed to answer it.
#[derive(Default)]
struct Slot {
    busy: bool,
    head: u16,
    response: Vec<Extent>,
    len: u32,
    residual: u32,
}

/// What became of a chain.
enum Begun {
    /// The engine has it.
    UnderWay,
    /// It is answered so, after so many bytes of data.
    Answered(Outcome, u32),
}

impl Scsi {
    /// A host whose drive has this serial number and this medium, if any, in a tray that is open or not.
    pub fn new(serial: &[u8], medium: Option<Medium>, open: bool) -> Scsi {
        let drive = Drive::new(serial, medium.as_ref().map(|medium| medium.blocks), open);
        Scsi {
            drive,
            medium,
            config: Config::default(),
            features: 0,
            slots: (0..MAX_IN_FLIGHT).map(|_| Slot::default()).collect(),
            free: (0..MAX_IN_FLIGHT).collect(),
            starved: false,
            chain: Chain::default(),
            response: Vec::new(),
            answer: Answer::new(),
            done: Vec::with_capacity(usize::from(MAX_IN_FLIGHT)),
            used: Vec::with_capacity(usize::from(MAX_IN_FLIGHT)),
            retry: None,
            change: None,
            news: VecDeque::new(),
            kept: None,
        }
    }

    /// Goes on from what the process before it kept, and keeps what the next one must know; what is under way is recorded in the file.
    pub fn keeping(mut self, kept: Kept, records: File) -> Scsi {
        if let Some(state) = State::of_word(kept.word(DRIVE)) {
            state.apply(&mut self.drive);
        }
        self.kept = Some((kept, records));
        self.keep(&self.save());
        self
    }

    fn keep(&self, state: &State) {
        self.kept.iter().for_each(|(kept, _)| kept.keep(DRIVE, state.word()));
    }

    /// What a successor needs to go on, beside its rings' and the medium. Nothing is under way once the queues have stopped.
    pub fn save(&self) -> State {
        State::of(self.features, &self.drive)
    }

    /// Goes on from a predecessor's state, before the first queue starts.
    pub fn restore(&mut self, state: &State) {
        self.features = state.features;
        state.apply(&mut self.drive);
    }

    fn is_idle(&self) -> bool {
        self.free.len() >= self.slots.len()
    }

    /// Takes chains from the ring while there are chains and slots; at most as many as the ring has entries.
    fn take(&mut self, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        on.ring.disable_kicks(on.memory)?;
        for _ in 0..on.ring.size() {
            if self.free.is_empty() || self.change.is_some() {
                self.starved = true; // kicks stay off: what completes will look here
                return Ok(Progress::Idle);
            }
            if !on.ring.pop_or_wait(on.memory, &mut self.chain)? {
                return Ok(Progress::Idle);
            }
            let before = self.save();
            if let Begun::Answered(outcome, len) = self.begin(on)? {
                self.keep(&self.save().with_untold(&before));
                fill_front(on.memory, &self.response, &outcome.bytes())?;
                on.ring.push_used(on.memory, &[(self.chain.head, RESPONSE_LEN.saturating_add(len))])?;
                self.keep(&self.save());
            }
        }
        Ok(Progress::More)
    }

    /// Reads the chain's request, and begins it or answers. A chain that is too short for both headers can't be answered.
    fn begin(&mut self, on: &Active<'_>) -> Result<Begun, RingFault> {
        let mut header = [0; REQUEST];
        self.chain.take_front(on.memory, &mut header)?;
        self.chain.take_writable(RESPONSE_LEN, &mut self.response)?;
        if !self.response.iter().all(|extent| is_inside(on.memory, *extent)) {
            return Err(RingFault::Outside);
        }
        let (lun, cdb) = request::command_of(header);
        let data = self.chain.writable_bytes().max(self.chain.readable_bytes());
        let outcome = |response, sense, len: u32| {
            let residual = u32::try_from(data.saturating_sub(len.into())).unwrap_or(u32::MAX);
            Begun::Answered(Outcome { response, sense, residual }, len)
        };
        if matches!(lun, Lun::NoUnit | Lun::NoTarget) {
            return Ok(outcome(Response::BadTarget, None, 0));
        }
        self.answer.cut(0);
        let reaction = match command::parse(&cdb) {
            Ok(command) => self.drive.perform(lun, &command, &mut self.answer),
            Err(sense) => Reaction::Check(sense),
        };
        Ok(match reaction {
            Reaction::Check(sense) => outcome(Response::Ok, Some(sense), 0),
            Reaction::Done => {
                let len = fill_front(on.memory, &self.chain.writable, self.answer.bytes())?;
                outcome(Response::Ok, None, u32::try_from(len).unwrap_or(0))
            }
            Reaction::Read { len: 0, .. } => outcome(Response::Ok, None, 0),
            Reaction::Read { at, len } => {
                let fits = |len: &u32| u64::from(*len) <= self.chain.writable_bytes();
                match u32::try_from(len).ok().filter(fits).filter(|len| *len < u32::MAX - RESPONSE_LEN) {
                    None => outcome(Response::Overrun, None, 0),
                    Some(len) if self.read(on, at, len, data) => Begun::UnderWay,
                    Some(_) => outcome(Response::Ok, Some(Sense::UNREADABLE), 0),
                }
            }
        })
    }

    /// Begins a read; false where it can't be.
    fn read(&mut self, on: &Active<'_>, at: u64, len: u32, data: u64) -> bool {
        let Some(medium) = &mut self.medium else { return false };
        let mut left = len;
        for extent in &mut self.chain.writable {
            extent.len = extent.len.min(left);
            left = left.saturating_sub(extent.len);
        }
        let Some(slot) = self.free.pop() else { return false };
        let buffers = Buffers::Guest(on.memory, &self.chain.writable);
        if medium.engine.start(slot, Job { file: 0, operation: Operation::Read, at, buffers }).is_err() {
            self.free.push(slot);
            return false;
        }
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            (place.busy, place.head, place.len) = (true, self.chain.head, len);
            place.residual = u32::try_from(data.saturating_sub(len.into())).unwrap_or(u32::MAX);
            std::mem::swap(&mut place.response, &mut self.response);
        }
        true
    }

    /// Answers what the engine has finished. Without a queue (it was reset or is broken) results are dropped: a late
    /// one never reaches a ring of later.
    fn reap(&mut self, on: Option<&mut Active<'_>>) -> Result<(), RingFault> {
        let mut done = std::mem::take(&mut self.done);
        if let Some(medium) = &mut self.medium {
            medium.engine.completed(&mut done);
        }
        let submitted = self.submit(); // what was read in part goes on
        self.used.clear();
        let mut outside = false;
        for (slot, result) in done.drain(..) {
            self.free.push(slot);
            let called = self.medium.as_ref().map_or("", |medium| medium.called.as_str());
            let Some(was) = self.slots.get_mut(usize::from(slot)) else { continue };
            let forgotten = !std::mem::take(&mut was.busy);
            let mut outcome = Outcome { response: Response::Ok, sense: None, residual: was.residual };
            let mut written = was.len;
            if let Err(error) = result {
                sys::guest_log!(Warn, "cdrom \"{called}\": read: {}", lower(&plain(&error)));
                outcome.sense = Some(Sense::UNREADABLE);
                outcome.residual = was.residual.saturating_add(was.len);
                written = 0;
            }
            let Some(on) = on.as_ref().filter(|_| !forgotten) else { continue };
            outside |= fill_front(on.memory, &was.response, &outcome.bytes()).is_err();
            self.used.push((was.head, RESPONSE_LEN.saturating_add(written)));
        }
        self.done = done;
        self.perhaps_change();
        submitted?;
        match on {
            Some(_) if outside => Err(RingFault::Outside),
            Some(on) => on.ring.push_used(on.memory, &self.used),
            None => Ok(()),
        }
    }

    /// One round: take, submit, answer.
    fn round(&mut self, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        self.starved = false;
        let progress = self.take(on);
        self.submit()?;
        self.reap(Some(on))?;
        let progress = progress?;
        on.notify()?;
        // Plain reads are done by now, so that slots are free again.
        Ok(if self.starved && !self.free.is_empty() { Progress::More } else { progress })
    }

    /// What is under way is answered to nobody: its heads are of a ring that is gone. The slots come back as it completes.
    fn forget(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.busy = false);
    }

    fn submit(&mut self) -> Result<(), RingFault> {
        let Some(medium) = &mut self.medium else { return Ok(()) };
        let submitted = medium.engine.submit();
        self.retry = medium.engine.unsubmitted().then(|| Instant::now().checked_add(RETRY)).flatten();
        submitted.map_err(|error| {
            sys::guest_log!(Error, "cdrom \"{}\": io_uring: {}", medium.called, lower(&plain(&error)));
            RingFault::Host
        })
    }

    /// Does what vmm has asked for once no read is under way: no answer mixes two media.
    fn perhaps_change(&mut self) {
        if let Some(change) = self.change.take_if(|_| self.free.len() >= self.slots.len()) {
            let result = self.change_medium(change);
            self.news.push_back(ToVmm::Answered { changed: false, result });
        }
    }

    fn change_medium(&mut self, Change { image, force }: Change) -> Result<(), Failure> {
        // What is put in later is read in place: a ring is bound to the file that it was made for.
        let engine = |image| Engine::plain(image, MAX_IN_FLIGHT);
        let medium = image.map(|(image, called)| open(image, &called, engine)).transpose()?;
        let done = match &medium {
            None => self.drive.eject(force),
            Some(medium) => self.drive.insert(medium.blocks, force),
        };
        done.map_err(|_: Locked| {
            let text = "the guest has locked the tray of its CD-ROM drive, and was asked to open it; -f does not ask";
            Failure::new(Code::Busy, text)
        })?;
        self.medium = medium;
        self.keep(&self.save());
        Ok(())
    }

    /// Task management (5.6.6.2): a read that the host has can't be called back.
    fn tasks(&mut self, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        on.ring.disable_kicks(on.memory)?;
        for _ in 0..on.ring.size() {
            if !on.ring.pop_or_wait(on.memory, &mut self.chain)? {
                on.notify()?;
                return Ok(Progress::Idle);
            }
            let mut kind = [0; 4];
            self.chain.copy_front(on.memory, &mut kind)?;
            let (request, answer) = match TaskRequest::kind(kind) {
                Some(true) => {
                    let mut header = [0; TASK_REQUEST];
                    self.chain.take_front(on.memory, &mut header)?;
                    (TaskRequest::of(header), 1)
                }
                Some(false) => {
                    self.chain.take_front(on.memory, &mut [0; EVENTS_REQUEST])?;
                    (TaskRequest::Events, 5) // which events there are comes first: none
                }
                None => (TaskRequest::Unknown, 1),
            };
            self.chain.take_writable(answer, &mut self.response)?;
            let mut bytes = [0; 5];
            let count = usize::try_from(answer).unwrap_or(0);
            let bytes = bytes.get_mut(..count).unwrap_or_default();
            bytes.last_mut().into_iter().for_each(|byte| *byte = self.manage(request).byte());
            fill_front(on.memory, &self.response, bytes)?;
            on.ring.push_used(on.memory, &[(self.chain.head, answer)])?;
        }
        on.notify()?;
        Ok(Progress::More)
    }

    fn manage(&mut self, request: TaskRequest) -> Response {
        match request.lun() {
            Some(Lun::NoTarget | Lun::ReportLuns) => return Response::BadTarget,
            Some(Lun::NoUnit) => return Response::IncorrectLun,
            Some(Lun::Drive) | None => {}
        }
        match request {
            TaskRequest::Abort(..) if self.is_idle() => Response::Ok,
            TaskRequest::Reset(_) if self.is_idle() => {
                self.drive.reset_unit();
                self.keep(&self.save());
                Response::Ok
            }
            TaskRequest::Query(..) if self.is_idle() => Response::Ok,
            TaskRequest::Query(_, None) => Response::FunctionSucceeded,
            TaskRequest::Abort(..) | TaskRequest::Reset(_) | TaskRequest::Query(_, Some(_)) => {
                Response::FunctionRejected
            }
            TaskRequest::Events => Response::Ok,
            TaskRequest::ClearAca(_) | TaskRequest::Unknown => Response::FunctionRejected,
        }
    }
}

impl Device for Scsi {
    fn queues(&self) -> usize {
        3
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn config(&self) -> &[u8] {
        self.config.as_bytes()
    }

    fn accept(&mut self, features: u64) {
        self.features = features;
    }

    fn kicked(&mut self, queue: usize, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        match queue {
            CONTROL => self.tasks(on),
            EVENTS => Ok(Progress::Idle), // its buffers stay there
            _ => self.round(on),
        }
    }

    fn source(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let fd = self.medium.as_ref().and_then(|medium| medium.engine.fd());
        fd.map(|fd| (fd, PollFlags::IN))
    }

    fn source_queue(&self) -> usize {
        REQUESTS
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

    fn stop(&mut self, queue: usize, mut on: Option<&mut Active<'_>>) {
        if queue != REQUESTS {
            return;
        }
        while !self.is_idle() {
            let waited = self.medium.as_mut().map_or(Ok(()), |medium| medium.engine.wait());
            if let Err(error) = waited {
                sys::guest_log!(Error, "io_uring: {}: requests under way are lost", lower(&plain(&error)));
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
        self.kept.as_ref().map(|(_, records)| records)
    }

    fn reset(&mut self) {
        self.drive.reset();
        self.keep(&self.save());
    }

    fn asked(&mut self, ask: Ask, mut fds: Vec<OwnedFd>) -> bool {
        let change = match (ask, fds.pop()) {
            (Ask::Eject { force }, _) => Change { image: None, force },
            (Ask::Insert { called, force }, Some(image)) => Change { image: Some((image, called.to_string())), force },
            (Ask::Insert { .. } | Ask::Memory(_), _) => return false,
        };
        if self.change.is_some() {
            let failure = Failure::new(Code::Busy, "the CD-ROM drive is being changed already");
            self.news.push_back(ToVmm::Answered { changed: false, result: Err(failure) });
            return true;
        }
        self.change = Some(change);
        self.perhaps_change();
        true
    }

    fn news(&mut self) -> Option<ToVmm> {
        self.news.pop_front()
    }

    fn finish(&mut self) {}
}

/// A sentence as our messages begin.
fn lower(words: &str) -> String {
    let (first, rest) = words.split_at_checked(1).unwrap_or_default();
    format!("{}{rest}", first.to_lowercase())
}

#[cfg(test)]
mod tests;
