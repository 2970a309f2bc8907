//! One end of a conversation: typed messages out and in, descriptors beside them. Alone knows SOCK_SEQPACKET.
//!
//! Never waits, but in [`Channel::recv_within`]: what the peer does not take yet is queued, at most [`MAX_QUEUE`]
//! messages, or [`MAX_PATIENT_QUEUE`]; beyond that the peer is too slow and its channel ends.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sys::seqpacket::{self, Packet};

use crate::MAX_MESSAGE;

/// Messages that wait for a slow peer at most: a whole start of the largest VM fits several times.
pub const MAX_QUEUE: usize = 256;
/// Messages that wait for a peer that no message may be lost to: more than all that one configuration asks for at once. Who
/// sends that much takes no new work from a peer that is behind, so only one that has stopped reading gets there.
pub const MAX_PATIENT_QUEUE: usize = 1 << 18;

/// The descriptor of a role's channel to whoever started it.
pub const CHANNEL: u8 = 3;
/// That of what a role has beside its channel: control its listening socket, vmm vmd's executable.
pub const EXTRA: u8 = 4;
/// vmm's: the user namespace in which each VM has a user of its own. Not there where none could be made.
pub const USERS: u8 = 5;

/// What may travel on a channel.
pub trait Message: Serialize + DeserializeOwned {
    /// The version of the conversation, where its ends may be of different builds: it stands before the first message of
    /// each way, and another one ends the conversation before anything is decoded.
    const VERSION: Option<u32> = None;

    /// How many descriptors come with this message; sender and receiver refuse any other number.
    fn fds(&self) -> usize;
}

/// Why a channel can't go on.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The peer sent bytes that are no message of its type.
    #[error("malformed message: {0}")]
    Malformed(postcard::Error),
    /// The peer is of another build.
    #[error("the peer speaks version {theirs} of this conversation, and this process version {ours}")]
    Version {
        /// What the peer says.
        theirs: u32,
        /// What is spoken here.
        ours: u32,
    },
    /// More than the limit, in bytes or descriptors.
    #[error("message over {MAX_MESSAGE} bytes or {} descriptors", seqpacket::MAX_FDS)]
    TooLong,
    /// The message's descriptors did not all get a number here, and it is lost: see [`Channel::take_lost`].
    #[error("no descriptor is free for those of a message")]
    NoRoom,
    /// Another number of descriptors than the message has.
    #[error("message with {got} descriptors instead of {want}")]
    Descriptors {
        /// What came, or was about to be sent.
        got: usize,
        /// What the message has.
        want: usize,
    },
    /// The peer does not read.
    #[error("peer does not read what is sent to it")]
    Slow,
    /// Nothing came before the deadline.
    #[error("no message within {0:?}")]
    Late(Duration),
    /// The socket failed.
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
}

impl ChannelError {
    /// Whether the peer said something wrong, and not the socket failed.
    pub fn is_peers_fault(&self) -> bool {
        match self {
            Self::Malformed(_) | Self::Version { .. } | Self::TooLong | Self::NoRoom | Self::Descriptors { .. } => true,
            Self::Slow | Self::Late(_) | Self::Socket(_) => false,
        }
    }
}

/// What a read gave.
#[derive(Debug)]
pub enum Received<Rx> {
    /// A message and its descriptors, as many as it has.
    Message(Rx, Vec<OwnedFd>),
    /// Nothing there now.
    Empty,
    /// The peer is gone.
    Closed,
}

/// One end: sends `Tx`, receives `Rx`.
#[derive(Debug)]
pub struct Channel<Tx, Rx> {
    socket: OwnedFd,
    queue: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    max_queue: usize,
    /// Nothing was sent yet, so the version stands before what is.
    first_out: bool,
    /// Nothing came yet.
    first_in: bool,
    /// The message that [`ChannelError::NoRoom`] was about.
    lost: Option<Vec<u8>>,
    types: PhantomData<fn(Tx) -> Rx>,
}

/// A connected pair of ends.
pub fn pair<A: Message, B: Message>() -> io::Result<(Channel<A, B>, Channel<B, A>)> {
    let (left, right) = seqpacket::pair()?;
    Ok((Channel::new(left), Channel::new(right)))
}

impl<Tx: Message, Rx: Message> Channel<Tx, Rx> {
    /// The end that is `socket`, connected and of type SOCK_SEQPACKET.
    pub fn new(socket: OwnedFd) -> Self {
        let (queue, types) = (VecDeque::new(), PhantomData);
        Self { socket, queue, max_queue: MAX_QUEUE, first_out: true, first_in: true, lost: None, types }
    }

    /// The same with a queue for [`MAX_PATIENT_QUEUE`] messages.
    pub fn patient(self) -> Self {
        Self { max_queue: MAX_PATIENT_QUEUE, ..self }
    }

    /// Sends now, or queues behind what waits. The descriptors are closed here once they are sent.
    pub fn send(&mut self, message: &Tx, fds: Vec<OwnedFd>) -> Result<(), ChannelError> {
        if fds.len() != message.fds() {
            return Err(ChannelError::Descriptors { got: fds.len(), want: message.fds() });
        }
        let mut bytes =
            Tx::VERSION.filter(|_| self.first_out).map_or_else(Vec::new, |ours| ours.to_le_bytes().to_vec());
        bytes.extend(postcard::to_stdvec(message).map_err(ChannelError::Malformed)?);
        if bytes.len() > MAX_MESSAGE {
            return Err(ChannelError::TooLong);
        }
        if self.queue.len() >= self.max_queue {
            return Err(ChannelError::Slow);
        }
        self.first_out = false;
        self.queue.push_back((bytes, fds));
        self.flush()
    }

    /// Sends what waits, as far as the peer takes it.
    pub fn flush(&mut self) -> Result<(), ChannelError> {
        while let Some((bytes, fds)) = self.queue.front() {
            let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match seqpacket::send(self.socket.as_fd(), bytes, &borrowed) {
                Ok(()) => drop(self.queue.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// True while something waits to be sent: watch the socket for writing and call [`Channel::flush`].
    pub fn wants_write(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Reads one message without waiting. After an error of the peer's making the caller ends the conversation.
    pub fn recv(&mut self) -> Result<Received<Rx>, ChannelError> {
        self.lost = None;
        let (bytes, fds) = match seqpacket::recv(self.socket.as_fd(), MAX_MESSAGE)? {
            Packet::Whole(bytes, fds) => (self.without_version(bytes)?, fds),
            Packet::TooLong => return Err(ChannelError::TooLong),
            Packet::NoRoom(bytes) => {
                self.lost = Some(self.without_version(bytes)?);
                return Err(ChannelError::NoRoom);
            }
            Packet::Empty => return Ok(Received::Empty),
            Packet::Closed => return Ok(Received::Closed),
        };
        let message: Rx = decode(&bytes)?;
        if fds.len() != message.fds() {
            return Err(ChannelError::Descriptors { got: fds.len(), want: message.fds() });
        }
        Ok(Received::Message(message, fds))
    }

    /// The first packet without the version that it begins with, if that is ours; any other as it is.
    fn without_version(&mut self, mut bytes: Vec<u8>) -> Result<Vec<u8>, ChannelError> {
        let first = std::mem::replace(&mut self.first_in, false);
        let Some(ours) = Rx::VERSION.filter(|_| first) else { return Ok(bytes) };
        let Some((version, _)) = bytes.split_first_chunk() else {
            return Err(ChannelError::Malformed(postcard::Error::DeserializeUnexpectedEnd));
        };
        let theirs = u32::from_le_bytes(*version);
        if theirs != ours {
            return Err(ChannelError::Version { theirs, ours });
        }
        Ok(bytes.split_off(size_of::<u32>()))
    }

    /// The message that the last read lost for want of descriptors, without any: so that who waits for it can be told.
    pub fn take_lost(&mut self) -> Option<Rx> {
        decode(&self.lost.take()?).ok()
    }

    /// Sends what waits, then reads one message, waiting at most `limit`: for roles with a single peer and no loop.
    /// `Empty` is never given.
    pub fn recv_within(&mut self, limit: Duration) -> Result<Received<Rx>, ChannelError> {
        let end = Instant::now() + limit;
        loop {
            match self.flush() {
                // A peer that is gone takes nothing more; what it had said is still to be read.
                Err(ChannelError::Socket(error)) if error.kind() == io::ErrorKind::BrokenPipe => self.queue.clear(),
                other => other?,
            }
            match self.recv()? {
                Received::Empty => {}
                other => return Ok(other),
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ChannelError::Late(limit));
            }
            let wanted = if self.wants_write() { PollFlags::IN.union(PollFlags::OUT) } else { PollFlags::IN };
            let mut fds = [PollFd::new(&self.socket, wanted)];
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match rustix::event::poll(&mut fds, Some(&left)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }

    /// The socket itself, to hand the conversation to another process.
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }
}

/// What a packet says, beside its descriptors and without the version that the first has.
pub fn decode<M: Message>(bytes: &[u8]) -> Result<M, ChannelError> {
    match postcard::take_from_bytes(bytes).map_err(ChannelError::Malformed)? {
        (message, []) => Ok(message),
        _ => Err(ChannelError::Malformed(postcard::Error::SerdeDeCustom)),
    }
}

impl<Tx, Rx> AsFd for Channel<Tx, Rx> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests;
