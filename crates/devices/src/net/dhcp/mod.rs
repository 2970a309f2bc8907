//! DHCP for a `local interface`: the one guest behind this card gets the one address that is its own
//! (openbsd/devices.md, 4.8).
//!
//! Stateless: what is answered follows from the request and the lease alone. A frame that is no request of ours, or
//! that has no answer, goes on to the tap like any other.

mod packet;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Instant;

pub use packet::FRAMES;
use packet::{Answer, Request};

/// At most this many answers wait for the guest's buffers; a guest that keeps asking without reading gets no more.
const MAX_WAITING: usize = 16;

/// What the guest behind a card is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The guest's own Ethernet address.
    pub mac: [u8; 6],
    /// That of the host's side of the tap.
    pub host_mac: [u8; 6],
    /// The host's address: router, this server, and the name server where no other is known.
    pub host: Ipv4Addr,
    /// The guest's address.
    pub address: Ipv4Addr,
    /// Name servers.
    pub name_servers: Vec<Ipv4Addr>,
    /// The guest's name, if it can be a host's.
    pub name: Option<String>,
    /// It boots from the network: the file that OpenBSD's installer looks for.
    pub net_boot: bool,
}

impl Lease {
    /// What the guest is told to this request, if anything (RFC 2131, 4.3).
    pub fn answer(&self, request: &Request) -> Option<Answer> {
        let wanted = request.wants.or(request.has);
        if request.server.is_some_and(|server| server != self.host) {
            return None; // it chose another server
        }
        match request.kind {
            None => Some(Answer::Bootp),
            Some(1) => Some(Answer::Offer),
            Some(3) if wanted.is_none_or(|address| address == self.address) => Some(Answer::Ack),
            Some(3) => Some(Answer::Nak),
            Some(8) => Some(Answer::Inform),
            Some(_) => None, // DECLINE, RELEASE, and what only a server says
        }
    }
}

/// The name as a host's (RFC 1123, 2.1): labels of letters, digits and inner hyphens; more than one character.
pub fn host_name(name: &str) -> Option<String> {
    let label = |label: &str| {
        let good = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        good && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    ((2..=253).contains(&name.len()) && name.split('.').all(label)).then(|| name.to_owned())
}

/// Answers and holds them until the guest has room.
#[derive(Debug)]
pub struct Server {
    lease: Lease,
    waiting: VecDeque<Vec<u8>>,
    /// Since when the first of them waits.
    since: Option<Instant>,
}

impl Server {
    /// For one guest.
    pub fn new(lease: Lease) -> Self {
        Self { lease, waiting: VecDeque::new(), since: None }
    }

    /// Whether the frame was a request, and is done with. `checksum`: its UDP checksum is there.
    pub fn take(&mut self, frame: &[u8], checksum: bool) -> bool {
        let Some(request) = packet::parse(frame, &self.lease, checksum) else { return false };
        let Some(answer) = self.lease.answer(&request) else { return false };
        sys::guest_log!(Debug, "dhcp: {answer:?} for {:?}", request.kind);
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(packet::emit(answer, request.xid, &self.lease));
            self.since.get_or_insert_with(Instant::now);
        }
        true
    }

    /// When an answer became ready that waits still.
    pub fn due(&self) -> Option<Instant> {
        self.since
    }

    /// The next answer.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        let next = self.waiting.pop_front();
        if self.waiting.is_empty() {
            self.since = None;
        }
        next
    }

    /// Forgets all answers.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.since = None;
    }
}
