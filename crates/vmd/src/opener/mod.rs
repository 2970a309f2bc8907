//! opener: opens the files that one start names, as the user who asks, and hands the descriptors over. Then it ends.
//!
//! Its one peer is the parent ([`proto::opener`]). It comes up sealed as root, learns who asks by the first message, and
//! becomes that user for good: uid, gid and groups, so that mode bits, ACLs and network file systems apply as they do to
//! the user. For what root's vm.conf names it stays root, with CAP_DAC_OVERRIDE alone. It sees the host's root, creates
//! nothing, reads nothing of what it opens, and keeps no descriptor that it has handed over.
//!
//! Everything is looked at after it is open: what a path meant before tells nothing.

mod conversation;
mod edge;
pub mod judge;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;

pub use edge::{id, look, refused};

use proto::channel::ChannelError;

/// Why an opener ends before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// It could not give up its privileges, or become the user who asks.
    #[error("{0}")]
    Sandbox(#[from] sandbox::Error),
    /// The parent can't be spoken to.
    #[error("the parent's channel: {0}")]
    Channel(#[from] ChannelError),
    /// The parent said something out of turn.
    #[error("the parent's channel: {0}")]
    OutOfTurn(#[from] conversation::OutOfTurn),
}

/// Serves the request of the parent at the other end of `channel`.
pub fn run(channel: OwnedFd) -> Result<(), Fatal> {
    sandbox::enter(&sandbox::promise::OPENER)?;
    edge::serve(proto::Channel::new(channel), |asker| sandbox::become_asker(&sandbox::promise::OPENER, asker))
}
