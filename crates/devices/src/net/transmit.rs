//! From the guest to the tap (virtio 1.2, 5.1.6.2). Header and Ethernet header are copied once and checked as copies, of a
//! locked or guarded card as much more as tells what it is; what was copied is what is sent, and the rest goes from guest memory to
//! the kernel as it is.

use sys::tap::SendError;
use zerocopy::{FromBytes, IntoBytes};

use super::dhcp::{self, Server};
use super::frame::{
    Drop, ETHERNET, HEADER, Header, MAX_FRAME, NO_OFFLOAD, Offloads, check_header, check_length, checksum_at,
    leaves_checksum,
};
use super::sender::{FRONT, Frame};
use super::{Card, Link};
use crate::queue::{Chain, RingFault};
use crate::serve_vhost::{Active, Progress};

/// The transmitting half.
pub(super) struct Transmit {
    /// What the guest may leave to the host.
    pub(super) offloads: Offloads,
    chain: Chain,
    /// The header and the front of the frame, as they are checked and sent; of a card that judges, there is room for the whole.
    copy: Vec<u8>,
}

impl Transmit {
    /// With nothing negotiated.
    pub(super) fn new(card: Card) -> Self {
        const WHOLE: usize = HEADER + MAX_FRAME;
        const HEADERS: usize = HEADER + ETHERNET;
        let room = if card.judges() { WHOLE } else { HEADERS };
        Self { offloads: Offloads::default(), chain: Chain::default(), copy: vec![0; room] }
    }

    /// Sends what waits, at most as many frames as the ring has entries.
    pub(super) fn serve(&mut self, link: &mut Link, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        let progress = self.send_all(link, on);
        on.notify()?;
        progress
    }

    fn send_all(&mut self, link: &mut Link, on: &mut Active<'_>) -> Result<Progress, RingFault> {
        on.ring.disable_kicks(on.memory)?;
        for _ in 0..on.ring.size() {
            if !on.ring.pop_or_wait(on.memory, &mut self.chain)? {
                return Ok(Progress::Idle);
            }
            if self.chain.writable_bytes() > 0 {
                return Err(RingFault::Direction);
            }
            if let Err(why) = self.send(link, on)? {
                sys::guest_log!(Debug, "frame not sent: {why}");
            }
            on.ring.push_used(on.memory, &[(self.chain.head, 0)])?; // nothing was written to the guest
        }
        Ok(Progress::More)
    }

    /// Sends one frame, or says why it is dropped.
    fn send(&mut self, link: &mut Link, on: &Active<'_>) -> Result<Result<(), Drop>, RingFault> {
        let (header, copy) = self.copy.split_first_chunk_mut::<HEADER>().ok_or(RingFault::Host)?;
        self.chain.take_front(on.memory, header)?; // less than a header is a broken ring
        let bytes = self.chain.readable_bytes();
        if let Err(why) = check_length(bytes) {
            return Ok(Err(why));
        }
        let len = usize::try_from(bytes).map_err(|_| RingFault::Host)?;
        let mut front = if link.card.judges() { FRONT.min(len) } else { ETHERNET };
        self.chain.take_front(on.memory, copy.get_mut(..front).ok_or(RingFault::Host)?)?;
        let parsed = Header::read_from_bytes(&header[..]).unwrap_or(NO_OFFLOAD);
        let checked = match check_header(parsed, bytes, self.offloads) {
            Ok(checked) => checked,
            Err(why) => return Ok(Err(why)),
        };
        if link.card.judges() {
            let seen = |copy: &[u8], front| -> Result<_, RingFault> {
                let bytes = copy.get(..front).ok_or(RingFault::Host)?;
                let frame = Frame { bytes, whole: front == len, written: checksum_at(checked) };
                Ok(frame.is_fine(link.card))
            };
            let mut fine = seen(copy, front)?;
            if fine == Ok(false) {
                self.chain.take_front(on.memory, copy.get_mut(front..len).ok_or(RingFault::Host)?)?;
                front = len;
                fine = seen(copy, front)?;
            }
            if let Err(why) = fine {
                return Ok(Err(why));
            }
        }
        let frame = copy.get(..front).ok_or(RingFault::Host)?;
        if let Some(dhcp) = &mut link.dhcp {
            if is_request(&self.chain, dhcp, frame, len, !leaves_checksum(checked), on)? {
                return Ok(Ok(()));
            }
        }
        header.copy_from_slice(checked.as_bytes());
        let head = self.copy.get(..HEADER.saturating_add(front)).ok_or(RingFault::Host)?;
        match link.tap.send(head, on.memory, &self.chain.readable) {
            Ok(()) => Ok(Ok(())),
            Err(SendError::Outside(_)) => Err(RingFault::Outside),
            // Down, full, too many parts, or a header that the kernel refuses: frames may be lost.
            Err(SendError::Refused(why)) => {
                sys::guest_log!(Debug, "frame not taken: {why}");
                Ok(Ok(()))
            }
        }
    }
}

/// Whether the frame is a DHCP request that was taken. It is looked at as one copy, whose front there is already.
fn is_request(
    chain: &Chain,
    dhcp: &mut Server,
    front: &[u8],
    len: usize,
    checksum: bool,
    on: &Active<'_>,
) -> Result<bool, RingFault> {
    if !dhcp::FRAMES.contains(&len) {
        return Ok(false);
    }
    let mut copy = [0; *dhcp::FRAMES.end()];
    let frame = copy.get_mut(..len).ok_or(RingFault::Host)?;
    let (first, rest) = frame.split_at_mut_checked(front.len()).ok_or(RingFault::Host)?;
    first.copy_from_slice(front);
    chain.copy_front(on.memory, rest)?;
    Ok(dhcp.take(frame, checksum))
}
