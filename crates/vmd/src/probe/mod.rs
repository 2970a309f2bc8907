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

use crate::ending::Fatal;

/// Answers the one question of the parent at the other end of `channel`.
pub fn run(channel: OwnedFd) -> Result<(), Fatal> {
    sandbox::enter(&sandbox::promise::PROBE)?;
    edge::serve(proto::Channel::new(channel))
}
