//! The one room that speaks vhost-user (QEMU's docs/interop/vhost-user.rst) for every device: a connected socket, one
//! thread, one loop. `requests.rs` is what a front end may ask, `back_end.rs` holds the device and its queues,
//! `memory.rs` maps what the front end shares, `records.rs` what it keeps for the next process, `port.rs` is one queue with its
//! descriptors, `wire.rs` tells whether a whole request has come.
//!
//! Who is not trusted: the front end (it may send anything; what is no request ends the connection, what can't be done
//! is refused and answered) and the guest, by its rings (a broken one stops the device, tells the front end by the error
//! descriptor, and waits for a reset). Neither ends the process by a panic, holds the loop, or makes it grow.

mod back_end;
mod memory;
mod port;
mod records;
mod requests;
mod wire;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto::device::{Ask, ToVmm};
use rustix::event::{PollFd, PollFlags, Timespec};
use vhost::vhost_user::{BackendReqHandler, Error, VhostUserBackendReqHandlerMut};

pub use back_end::BackEnd;
pub use port::Active;
pub use records::MAX_LEN as MAX_RECORDS_LEN;

use crate::queue::RingFault;
use wire::Arrived;

/// Queues of one device at most: the loop's set of descriptors is of fixed size.
pub const MAX_QUEUES: usize = 4;

/// How long the rest of a request may take to come. A front end that stops in the middle of one is cut off.
const MAX_PARTIAL: Duration = Duration::from_secs(1);

/// How often an unfinished request is looked at.
const PARTIAL_STEP: Duration = Duration::from_millis(5);

/// How long a reply may wait for a front end that does not read.
const MAX_REPLY: Duration = Duration::from_secs(2);

/// What a device has left to do after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing, until the next kick or event.
    Idle,
    /// More of the same: it stopped so that others get their turn.
    More,
}

/// What is special of one device.
pub trait Device {
    /// How many queues, at most [`MAX_QUEUES`].
    fn queues(&self) -> usize;
    /// Feature bits offered (virtio 1.2, 2.2), VERSION_1 among them.
    fn features(&self) -> u64;
    /// The configuration space; what lies past its end reads zero.
    fn config(&self) -> &[u8];
    /// What the driver accepted. No queue runs.
    fn accept(&mut self, features: u64);
    /// A queue was kicked, or has just started.
    fn kicked(&mut self, queue: usize, on: &mut Active<'_>) -> Result<Progress, RingFault>;
    /// The device's own descriptor, if it is to be waited for now, and for what.
    fn source(&self) -> Option<(BorrowedFd<'_>, PollFlags)>;
    /// The queue that [`ready`](Self::ready) gets.
    fn source_queue(&self) -> usize {
        0
    }
    /// The device's own descriptor is ready, or its deadline has passed. The source's queue comes along if it runs.
    fn ready(&mut self, on: Option<&mut Active<'_>>) -> Result<Progress, RingFault>;
    /// When [`ready`](Self::ready) is to be called although nothing is ready.
    fn deadline(&self) -> Option<Instant>;
    /// A queue stops: returns when nothing of it is under way. It comes along if it was running.
    fn stop(&mut self, queue: usize, on: Option<&mut Active<'_>>);
    /// A file of [`MAX_RECORDS_LEN`] bytes for records of what is under way in its queues, by which another process goes on when
    /// this one dies. None: it keeps none.
    fn records(&self) -> Option<&File> {
        None
    }
    /// The driver has reset the device; all queues have stopped.
    fn reset(&mut self) {}
    /// vmm asks for something, with the descriptors that came along. False where this kind of device takes no such request.
    fn asked(&mut self, _: Ask, _: Vec<OwnedFd>) -> bool {
        false
    }
    /// The next thing that vmm is to hear, if there is one.
    fn news(&mut self) -> Option<ToVmm> {
        None
    }
    /// The front end is gone; all queues have stopped.
    fn finish(&mut self);
}

/// Why the serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The front end closed its socket.
    FrontEnd,
    /// Who watches over us is gone.
    Control,
    /// The front end broke the protocol and was cut off.
    Protocol,
}

/// What the owner said.
#[derive(Debug)]
pub enum Heard {
    /// Nothing for the device.
    Nothing,
    /// It asks for this, with these descriptors.
    Ask(Ask, Vec<OwnedFd>),
    /// It is there no more.
    Gone,
}

/// Beside the queues: a descriptor that the loop watches for its owner.
pub trait Control {
    /// The descriptor.
    fn fd(&self) -> BorrowedFd<'_>;
    /// It is readable or has hung up.
    fn ready(&mut self) -> Heard;
    /// Passes news of the device on. False when there is nobody any more.
    fn tell(&mut self, news: &ToVmm) -> bool;
}

/// Serves a device on a connected socket until an end of it hangs up, then lets the device finish. Reads of the socket must
/// wait; they are made when a request is whole.
pub fn serve<D: Device>(stream: UnixStream, device: D, control: Option<&mut dyn Control>) -> io::Result<Ended> {
    let back_end = Arc::new(Mutex::new(BackEnd::new(device)));
    let handler = BackendReqHandler::from_stream(stream.try_clone()?, back_end.clone());
    let mut serving = Serving { stream, back_end: back_end.clone(), handler, control, partial: None };
    let ended = serving.run();
    lock(&back_end).finish();
    ended
}

struct Serving<'a, D: Device> {
    stream: UnixStream,
    back_end: Arc<Mutex<BackEnd<D>>>,
    handler: BackendReqHandler<Mutex<BackEnd<D>>>,
    control: Option<&'a mut dyn Control>,
    /// Since when a part of a request has been there.
    partial: Option<Instant>,
}

/// What one wait has found.
#[derive(Default)]
struct Found {
    control: bool,
    front_end: bool,
    source: bool,
    kicks: [Option<PollFlags>; MAX_QUEUES],
}

impl<D: Device> Serving<'_, D> {
    fn run(&mut self) -> io::Result<Ended> {
        loop {
            let found = self.wait()?;
            if found.control && !self.hear() {
                return Ok(Ended::Control);
            }
            if found.front_end || self.partial.is_some() {
                if let Some(ended) = self.front_end()? {
                    return Ok(ended);
                }
            }
            let mut back_end = lock(&self.back_end);
            for (queue, flags) in found.kicks.into_iter().enumerate() {
                if let Some(flags) = flags {
                    back_end.kicked(queue, flags);
                }
            }
            back_end.turn(found.source, Instant::now());
            while let Some(news) = back_end.device.news() {
                if !self.control.as_mut().is_none_or(|control| control.tell(&news)) {
                    return Ok(Ended::Control);
                }
            }
        }
    }

    /// False when who watches over us is gone, or asks for what the device can't do.
    fn hear(&mut self) -> bool {
        match self.control.as_mut().map_or(Heard::Nothing, |control| control.ready()) {
            Heard::Nothing => true,
            Heard::Gone => false,
            Heard::Ask(ask, fds) => {
                let taken = lock(&self.back_end).device.asked(ask, fds);
                if !taken {
                    log::error!("vmm asked for what another kind of device does");
                }
                taken
            }
        }
    }

    /// Waits for a descriptor or a deadline. The set is of fixed size and on the stack; where there is nothing to wait
    /// for, the socket stands in with no flags.
    fn wait(&self) -> io::Result<Found> {
        let back_end = lock(&self.back_end);
        let timeout = self.timeout(&back_end);
        let nothing = PollFd::new(&self.stream, PollFlags::empty());
        let control = self.control.as_ref().map(|control| (control.fd(), PollFlags::IN));
        let stream = self.partial.is_none().then(|| (self.stream.as_fd(), PollFlags::IN));
        let source = back_end.device.source();
        let kicks: [_; MAX_QUEUES] = std::array::from_fn(|queue| back_end.kick(queue).map(|fd| (fd, PollFlags::IN)));
        let [a, b, c, d] = kicks;
        let wanted = [control, stream, source, a, b, c, d];
        let mut set = wanted.map(|wanted| poll_fd(wanted, &nothing));
        match rustix::event::poll(&mut set, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Found::default()),
            Err(error) => return Err(error.into()),
        }
        let mut flags = set.iter().zip(wanted).map(|(fd, wanted)| wanted.map(|_| fd.revents()));
        let mut next = || flags.next().flatten().filter(|flags| !flags.is_empty());
        Ok(Found {
            control: next().is_some(),
            front_end: next().is_some(),
            source: next().is_some(),
            kicks: std::array::from_fn(|_| next()),
        })
    }

    fn timeout(&self, back_end: &BackEnd<D>) -> Option<Timespec> {
        let at_once = back_end.has_more().then_some(Duration::ZERO);
        let due = || back_end.device.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let partial = self.partial.map(|_| PARTIAL_STEP);
        let wait = at_once.or_else(due).into_iter().chain(partial).min();
        wait.and_then(|wait| Timespec::try_from(wait).ok())
    }

    /// Carries out one request, if a whole one has come.
    fn front_end(&mut self) -> io::Result<Option<Ended>> {
        match wire::arrived(self.stream.as_fd())? {
            Arrived::Whole => self.partial = None,
            Arrived::Closed => return Ok(Some(Ended::FrontEnd)),
            Arrived::Cut => return Ok(Some(self.cut_off(&"half a request"))),
            Arrived::Malformed => return Ok(Some(self.cut_off(&"malformed request"))),
            Arrived::Nothing => {
                self.partial = None;
                return Ok(None);
            }
            Arrived::Partial => {
                let since = *self.partial.get_or_insert_with(Instant::now);
                let late = since.elapsed() > MAX_PARTIAL;
                return Ok(late.then(|| self.cut_off(&"half a request")));
            }
        }
        if !wire::takes_reply(self.stream.as_fd(), MAX_REPLY)? {
            return Ok(Some(self.cut_off(&"replies are not read")));
        }
        if self.enables_early()? {
            return Ok(None);
        }
        match self.handler.handle_request() {
            Ok(()) => Ok(None),
            // The back end refused it, and said so if it was asked to.
            Err(Error::ReqHandlerError(why)) => {
                sys::guest_log!(Debug, "front end's request refused: {why}");
                Ok(None)
            }
            Err(Error::Disconnected | Error::SocketBroken(_)) => Ok(Some(Ended::FrontEnd)),
            Err(why) => Ok(Some(self.cut_off(&why))),
        }
    }

    /// Carries out a SET_VRING_ENABLE that comes before SET_FEATURES, as from QEMU's network cards; to the vhost crate that is the
    /// request of a feature which was not negotiated. Answers are as short as the room that was waited for.
    fn enables_early(&mut self) -> io::Result<bool> {
        let mut back_end = lock(&self.back_end);
        if !back_end.is_early() {
            return Ok(false);
        }
        let Some(early) = wire::take_enable(self.stream.as_fd())? else { return Ok(false) };
        let done = back_end.set_vring_enable(early.queue, early.enable).is_ok();
        if early.answered {
            (&self.stream).write_all(&wire::answer(done))?;
        }
        Ok(true)
    }

    fn cut_off(&self, why: &dyn std::fmt::Display) -> Ended {
        log::warn!("front end cut off: {why}");
        Ended::Protocol
    }
}

fn poll_fd<'a>(wanted: Option<(BorrowedFd<'a>, PollFlags)>, nothing: &PollFd<'a>) -> PollFd<'a> {
    wanted.map_or_else(|| nothing.clone(), |(fd, flags)| PollFd::from_borrowed_fd(fd, flags))
}

/// The lock is never contended: there is one thread. The handler wants one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
