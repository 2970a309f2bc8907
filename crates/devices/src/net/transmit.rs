//! From the guest to the tap (virtio 1.2, 5.1.6.2). Header and Ethernet header are copied once and checked as copies;
//! the rest goes from guest memory to the kernel as it is.

use sys::tap::SendError;
use zerocopy::{FromBytes, IntoBytes};

use super::Link;
use super::dhcp::{self, Server};
use super::frame::{
    Drop, ETHERNET, HEADER, Header, NO_OFFLOAD, Offloads, check_header, check_length, leaves_checksum, may_send,
};
use crate::queue::{Chain, RingFault};
use crate::serve_vhost::{Active, Progress};

/// The transmitting half.
#[derive(Default)]
pub(super) struct Transmit {
    /// What the guest may leave to the host.
    pub(super) offloads: Offloads,
    chain: Chain,
}

impl Transmit {
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
        let mut head = [0; HEADER + ETHERNET];
        let (header, ethernet) = head.split_first_chunk_mut::<HEADER>().ok_or(RingFault::Host)?;
        self.chain.take_front(on.memory, header)?; // less than a header is a broken ring
        let len = self.chain.readable_bytes();
        if let Err(why) = check_length(len) {
            return Ok(Err(why));
        }
        self.chain.take_front(on.memory, ethernet)?;
        let parsed = Header::read_from_bytes(&header[..]).unwrap_or(NO_OFFLOAD);
        let checked = match check_header(parsed, len, self.offloads) {
            Ok(checked) => checked,
            Err(why) => return Ok(Err(why)),
        };
        if link.card.locked {
            let addresses: &[u8; ETHERNET] = (&*ethernet).try_into().map_err(|_| RingFault::Host)?;
            if let Err(why) = may_send(addresses, &link.card.mac) {
                return Ok(Err(why));
            }
        }
        if let Some(dhcp) = &mut link.dhcp {
            if self.is_request(dhcp, ethernet, len, !leaves_checksum(checked), on)? {
                return Ok(Ok(()));
            }
        }
        header.copy_from_slice(checked.as_bytes());
        match link.tap.send(&head, on.memory, &self.chain.readable) {
            Ok(()) => Ok(Ok(())),
            Err(SendError::Outside(_)) => Err(RingFault::Outside),
            // Down, full, too many parts, or a header that the kernel refuses: frames may be lost.
            Err(SendError::Refused(why)) => {
                sys::guest_log!(Debug, "frame not taken: {why}");
                Ok(Ok(()))
            }
        }
    }

    /// Whether the frame is a DHCP request that was taken. It is looked at as one copy.
    fn is_request(
        &self,
        dhcp: &mut Server,
        ethernet: &[u8],
        len: u64,
        checksum: bool,
        on: &Active<'_>,
    ) -> Result<bool, RingFault> {
        let Some(len) = usize::try_from(len).ok().filter(|len| dhcp::FRAMES.contains(len)) else { return Ok(false) };
        let mut copy = [0; *dhcp::FRAMES.end()];
        let frame = copy.get_mut(..len).ok_or(RingFault::Host)?;
        let (front, rest) = frame.split_at_mut_checked(ethernet.len()).ok_or(RingFault::Host)?;
        front.copy_from_slice(ethernet);
        self.chain.copy_front(on.memory, rest)?;
        Ok(dhcp.take(frame, checksum))
    }
}
