//! From the tap to the guest (virtio 1.2, 5.1.6.3, 5.1.6.4). A frame is read into a buffer of ours, since a locked card
//! must not show the guest what is not for it, and goes out to one chain, or to several with MRG_RXBUF: all of them are
//! handed over at once, or none.

use std::time::{Duration, Instant};

use sys::guest_io::Extent;
use zerocopy::{FromBytes, IntoBytes};

use super::dhcp::Server;
use super::frame::{
    Drop, ETHERNET, HEADER, Header, MAX_FRAME, NO_OFFLOAD, Offloads, check_header, check_length, may_receive,
};
use super::{Card, Link};
use crate::queue::{Chain, RingFault, fill_front};
use crate::serve_vhost::{Active, Progress};

/// Frames moved in one turn at most; then the other queue gets its own.
const MAX_BATCH: usize = 64;

/// Where `num_buffers` lies in the header.
const NUM_BUFFERS: usize = 10;

/// How long a tap that fails is left alone: one that is removed or broken stays ready for ever.
const QUIET: Duration = Duration::from_secs(1);

/// Whether a frame found room.
enum Placed {
    Yes,
    /// Not enough buffers now; nothing was taken.
    NoRoom,
    /// The one buffer that a frame may have is too small.
    TooLarge,
}

/// The receiving half.
pub(super) struct Receive {
    /// What the host may leave to the guest.
    pub(super) offloads: Offloads,
    /// MRG_RXBUF was accepted.
    pub(super) mergeable: bool,
    /// A frame with its header; touched only as far as frames reach.
    buffer: Box<[u8]>,
    /// Bytes of the frame in the buffer that waits for more room.
    pub(super) waiting: Option<usize>,
    /// The ring has no room for what comes: until the next kick the tap is not read.
    pub(super) full: bool,
    /// The tap failed: it is not read before then.
    pub(super) quiet: Option<Instant>,
    chain: Chain,
    /// Where the frame goes, and the chains that this is in.
    targets: Vec<Extent>,
    used: Vec<(u16, u32)>,
}

impl Receive {
    pub(super) fn new() -> Self {
        Receive {
            offloads: Offloads::default(),
            mergeable: false,
            buffer: vec![0; HEADER.saturating_add(MAX_FRAME)].into_boxed_slice(),
            waiting: None,
            full: true,
            quiet: None,
            chain: Chain::default(),
            targets: Vec::new(),
            used: Vec::new(),
        }
    }

    /// Whether the tap is to be watched.
    pub(super) fn wants_tap(&self) -> bool {
        !self.full && self.quiet.is_none()
    }

    /// The queue has stopped: what waits is lost, as on a cable that is pulled.
    pub(super) fn stop(&mut self) {
        (self.waiting, self.full, self.quiet) = (None, true, None);
    }

    /// The driver has made buffers available: goes on with the frame that waits. One that still does not fit after the
    /// driver has added to its buffers is dropped, so that it does not block the card for ever (openbsd/devices.md,
    /// N6).
    pub(super) fn kicked(&mut self, link: &mut Link, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        self.full = false;
        if let Some(len) = self.waiting.take() {
            if let Placed::NoRoom | Placed::TooLarge = self.place(len, on)? {
                sys::guest_log!(Debug, "frame of {len} bytes dropped: the guest's buffers are too few");
            }
        }
        self.serve(link, on)
    }

    /// Moves answers of ours and frames from the tap to the guest while there are both these and buffers.
    pub(super) fn serve(&mut self, link: &mut Link, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        self.quiet = None;
        if self.full {
            return Ok(Progress::Idle);
        }
        let progress = self.move_all(link, on);
        on.notify()?;
        progress
    }

    fn move_all(&mut self, link: &mut Link, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        on.ring.disable_kicks(on.memory)?;
        for _ in 0..MAX_BATCH {
            // A frame that finds no buffer at all stays where it is: in the tap, whose queue the host bounds.
            if on.ring.is_empty(on.memory)? && !on.ring.enable_kicks(on.memory)? {
                self.full = true;
                return Ok(Progress::Idle);
            }
            let answer = link.dhcp.as_mut().and_then(Server::pop);
            let read = match answer {
                Some(frame) => Ok(self.own(&frame)),
                None => link.tap.read(&mut self.buffer),
            };
            let len = match read {
                Ok(Some(len)) => len,
                Ok(None) => return Ok(Progress::Idle),
                Err(why) => {
                    sys::guest_log!(Warn, "tap: {why}");
                    self.quiet = Instant::now().checked_add(QUIET);
                    return Ok(Progress::Idle);
                }
            };
            if let Err(why) = self.check(len, link.card) {
                sys::guest_log!(Debug, "frame not received: {why}");
                continue;
            }
            match self.place(len, on)? {
                Placed::Yes => {}
                Placed::TooLarge => sys::guest_log!(Debug, "frame of {len} bytes dropped: no buffer is as large"),
                Placed::NoRoom => {
                    (self.waiting, self.full) = (Some(len), true);
                    return Ok(Progress::Idle);
                }
            }
        }
        Ok(Progress::More)
    }

    /// Puts a frame of ours into the buffer as the tap does; none, should it not fit.
    fn own(&mut self, frame: &[u8]) -> Option<usize> {
        let (header, rest) = self.buffer.split_first_chunk_mut::<HEADER>()?;
        header.copy_from_slice(NO_OFFLOAD.as_bytes());
        rest.get_mut(..frame.len())?.copy_from_slice(frame);
        HEADER.checked_add(frame.len())
    }

    /// Whether the frame in the buffer is one for this guest; its header becomes what the guest may see.
    fn check(&mut self, len: usize, card: Card) -> Result<(), Drop> {
        let whole = u64::try_from(len).unwrap_or(u64::MAX);
        let frame = whole.saturating_sub(HEADER as u64);
        check_length(frame)?;
        let short = Drop::Short(frame);
        let (header, rest) = self.buffer.split_first_chunk_mut::<HEADER>().ok_or(short)?;
        let ethernet = rest.first_chunk::<ETHERNET>().ok_or(short)?;
        if card.locked {
            may_receive(ethernet, &card.mac)?;
        }
        let parsed = Header::read_from_bytes(&header[..]).map_err(|_| short)?;
        let checked = check_header(parsed, frame, self.offloads)?;
        header.copy_from_slice(checked.as_bytes());
        Ok(())
    }

    /// Puts the frame in the buffer, with its header, into as many chains as it needs, or into none.
    fn place(&mut self, len: usize, on: &mut Active<'_>) -> Result<Placed, RingFault> {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        let missing = self.gather(len, on)?;
        if missing > 0 {
            on.ring.put_back(u16::try_from(self.used.len()).map_err(|_| RingFault::Host)?);
            return Ok(if self.mergeable { Placed::NoRoom } else { Placed::TooLarge });
        }
        let count = u16::try_from(self.used.len()).map_err(|_| RingFault::Host)?;
        if let Some(place) = self.buffer.get_mut(NUM_BUFFERS..HEADER) {
            place.copy_from_slice(&count.to_le_bytes());
        }
        let frame = usize::try_from(len).ok().and_then(|len| self.buffer.get(..len)).ok_or(RingFault::Host)?;
        fill_front(on.memory, &self.targets, frame)?;
        on.ring.push_used(on.memory, &self.used)?;
        Ok(Placed::Yes)
    }

    /// Takes chains until they hold `len` bytes: where they are, and how much of each is used. Returns what is missing;
    /// then kicks are on.
    fn gather(&mut self, len: u64, on: &mut Active<'_>) -> Result<u64, RingFault> {
        self.targets.clear();
        self.used.clear();
        let mut missing = len;
        while missing > 0 && (self.mergeable || self.used.is_empty()) {
            if !on.ring.pop_or_wait(on.memory, &mut self.chain)? {
                return Ok(missing); // kicks are on before anything is put back, so that the next buffer gives one
            }
            let room = self.chain.writable_bytes();
            if self.chain.readable_bytes() > 0 {
                return Err(RingFault::Direction);
            }
            if room < self.least_buffer() {
                return Err(RingFault::TooShort);
            }
            let part = room.min(missing);
            missing = missing.saturating_sub(part);
            self.used.push((self.chain.head, u32::try_from(part).map_err(|_| RingFault::TooShort)?));
            self.targets.extend_from_slice(&self.chain.writable);
        }
        Ok(missing)
    }

    /// Bytes that a buffer must have (5.1.6.3.1): with MRG_RXBUF the header, else at least the shortest frame too.
    fn least_buffer(&self) -> u64 {
        if self.mergeable { HEADER as u64 } else { (HEADER as u64).saturating_add(ETHERNET as u64) }
    }
}
