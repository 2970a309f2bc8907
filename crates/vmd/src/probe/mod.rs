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

use proto::Failure;
use proto::probe::{Found, ToParent, ToProbe};

use crate::ending::Fatal;

/// What a probe would say of a file, where it needs none: to who has no more rights than the file's own user.
pub fn look_at(question: ToProbe, file: OwnedFd) -> Result<Option<Found>, Failure> {
    match edge::look(question, file) {
        ToParent::Found(found) => Ok(Some(found)),
        ToParent::Failed(failure) => Err(failure),
    }
}

/// Answers the one question of the parent at the other end of `channel`.
pub fn run(channel: OwnedFd) -> Result<(), Fatal> {
    sandbox::enter(&sandbox::promise::PROBE)?;
    edge::serve(proto::Channel::new(channel))
}
