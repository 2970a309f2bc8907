//! What is to be told to the parent, in order. While something waits, clients are not read: so it can't grow without end.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use proto::channel::ChannelError;
use proto::control::{ToControl, ToParent};
use proto::{Channel, Received};

/// The parent's channel, and the messages that it does not take yet.
#[derive(Debug)]
pub(super) struct Outbox {
    channel: Channel<ToParent, ToControl>,
    waiting: VecDeque<(ToParent, Vec<OwnedFd>)>,
}

impl Outbox {
    pub(super) fn new(channel: OwnedFd) -> Self {
        Self { channel: Channel::new(channel), waiting: VecDeque::new() }
    }

    /// Sends after what waits; at most the ends of all clients come while it is full.
    pub(super) fn push(&mut self, message: ToParent, fds: Vec<OwnedFd>) {
        self.waiting.push_back((message, fds));
    }

    /// Hands on as much as the parent takes now.
    pub(super) fn pump(&mut self) -> Result<(), ChannelError> {
        self.channel.flush()?;
        while !self.channel.wants_write() {
            let Some((message, fds)) = self.waiting.pop_front() else { break };
            self.channel.send(&message, fds)?;
        }
        Ok(())
    }

    /// The parent is behind: nothing new for it is to be read.
    pub(super) fn is_full(&self) -> bool {
        self.channel.wants_write() || !self.waiting.is_empty()
    }

    pub(super) fn recv(&mut self) -> Result<Received<ToControl>, ChannelError> {
        self.channel.recv()
    }
}

impl AsFd for Outbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
