//! probe: reads the headers of one file that it was handed, and says what they say. Then it ends.
//!
//! Its one peer is the parent ([`proto::probe`]), which parses no user's data itself. It runs as `_vmd` without
//! capabilities, paths, or a system call that writes to a file. Whatever a header does to it ends one request: the parent
//! takes a probe that dies for a refusal.

mod answer;
mod edge;
mod positioned;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;

use proto::channel::ChannelError;

/// Why a probe ends before it has answered.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// It could not give up what it must not have.
    #[error("{0}")]
    Sandbox(#[from] sandbox::Error),
    /// The parent can't be spoken to.
    #[error("the parent's channel: {0}")]
    Channel(#[from] ChannelError),
}

/// Answers the one question of the parent at the other end of `channel`.
pub fn run(channel: OwnedFd) -> Result<(), Fatal> {
    sandbox::enter(&sandbox::promise::PROBE)?;
    edge::serve(proto::Channel::new(channel))
}
