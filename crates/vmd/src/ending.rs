//! Why a process that another started ends: by a signal, or for want of what it can't go on without.

use std::io;

use proto::channel::ChannelError;
use sys::signals::{Signal, Signals};

/// Why a process can't go on.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// It could not give up what it must not have.
    #[error("{0}")]
    Sandbox(#[from] sandbox::Error),
    /// No event loop.
    #[error("event loop: {0}")]
    Events(#[from] io::Error),
    /// The parent can't be spoken to.
    #[error("the parent's channel: {0}")]
    Channel(#[from] ChannelError),
}

/// The signals that end a process of ours, and those that mean nothing to it.
pub fn signals() -> io::Result<Signals> {
    Signals::block(&[Signal::Terminate, Signal::Interrupt, Signal::Hangup, Signal::Pipe, Signal::User1])
}

/// Whether the next of them ends it.
pub fn is_told_to_end(signals: &Signals) -> io::Result<bool> {
    Ok(signals.next()?.is_some_and(|signal| matches!(signal, Signal::Terminate | Signal::Interrupt)))
}
