//! What a disk is on: one file or block device as it is, or the files of a chain of images. Requests go by numbers that
//! whoever serves the disk gives; each is answered once, at once or by a later turn.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use disk::qcow2::Failure;
use proto::failure::plain;
use sys::guest_io::{Extent, GuestMemory};

use super::chain::Chain;
use super::engine::Engine;
use super::raw::Raw;
use super::request::{Clear, Range};
use crate::serve_vhost::Progress;

/// How soon the host is asked again when it had no room for a request.
const RETRY: Duration = Duration::from_millis(1);

/// What is to be done with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Fill the buffers.
    Read {
        /// In bytes.
        offset: u64,
        /// Bytes, as many as the buffers have.
        len: u32,
    },
    /// Write the buffers.
    Write {
        /// In bytes.
        offset: u64,
        /// Bytes, as many as the buffers have.
        len: u64,
        /// It is answered when it is on the medium.
        durable: bool,
    },
    /// All that was answered before must be on the medium.
    Flush,
    /// Clear a range.
    Clear {
        /// How.
        how: Clear,
        /// Which.
        range: Range,
        /// As for a write.
        durable: bool,
    },
}

impl Work {
    /// Whether its answer says that something is on the medium.
    pub fn claims_durability(self) -> bool {
        match self {
            Work::Flush => true,
            Work::Write { durable, .. } | Work::Clear { how: Clear::WriteZeroes, durable, .. } => durable,
            Work::Read { .. } | Work::Clear { how: Clear::Discard, .. } => false,
        }
    }

    /// Bytes of data that a success has written to the guest.
    pub fn fills(self) -> u32 {
        match self {
            Work::Read { len, .. } => len,
            Work::Write { .. } | Work::Flush | Work::Clear { .. } => 0,
        }
    }
}

/// As the log calls it.
impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Read { .. } => f.write_str("read"),
            Work::Write { .. } => f.write_str("write"),
            Work::Flush => f.write_str("flush"),
            Work::Clear { how, .. } => how.fmt(f),
        }
    }
}

/// How a request begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// A turn answers it.
    UnderWay,
    /// Nothing was to be done.
    Done,
    /// It can't be done; its number is free.
    Refused,
}

/// Why a request failed.
#[derive(Debug)]
pub struct Failed {
    /// For the log.
    pub why: Why,
    /// What was answered before may be lost: from then on nothing can be called durable any more.
    pub lost: bool,
}

/// A request's number and how it ended.
pub type Ended = (u16, Result<(), Failed>);

/// What has failed.
#[derive(Debug)]
pub enum Why {
    /// The host.
    Host(io::Error),
    /// The host, with one of the files of a chain: 0 is the image, 1 and on its bases.
    File {
        /// The file.
        file: u8,
        /// A byte of it.
        at: u64,
        /// Its error.
        error: io::Error,
    },
    /// The chain itself.
    Chain(Failure),
}

/// In the users' words, as they stand behind a colon.
impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Host(error) => f.write_str(&words(error)),
            Why::File { file: 0, at, error } => write!(f, "byte {at} of the image: {}", words(error)),
            Why::File { file, at, error } => write!(f, "byte {at} of base {file}: {}", words(error)),
            Why::Chain(failure) => failure.fmt(f),
        }
    }
}

fn words(error: &io::Error) -> String {
    let words = plain(error);
    let (first, rest) = words.split_at_checked(1).unwrap_or_default();
    format!("{}{rest}", first.to_lowercase())
}

/// What a disk is on.
pub enum BackEnd {
    /// A file or block device as it is.
    Raw(Raw),
    /// An image with its bases.
    Chain(Box<Chain>),
}

impl BackEnd {
    /// Begins a request whose number is free. Guest memory is held until it is answered.
    pub fn begin(&mut self, number: u16, work: Work, memory: &Arc<GuestMemory>, extents: &[Extent]) -> Begun {
        match self {
            BackEnd::Raw(raw) => raw.begin(number, work, memory, extents),
            BackEnd::Chain(chain) => chain.begin_work(number, work, memory, extents),
        }
    }

    /// Carries on without waiting, as far as a turn goes, and appends what is answered. The error is the host's ring's.
    pub fn turn(&mut self, ended: &mut Vec<Ended>) -> io::Result<Progress> {
        match self {
            BackEnd::Raw(raw) => raw.turn(ended).map(|()| Progress::Idle),
            BackEnd::Chain(chain) => chain.turn(ended),
        }
    }

    /// When a turn is due although nothing has happened.
    pub fn deadline(&self) -> Option<Instant> {
        let soon = match (self.engine().unsubmitted(), self.engine().has_done()) {
            (true, _) => Instant::now().checked_add(RETRY),
            (false, true) => Some(Instant::now()),
            (false, false) => None,
        };
        let later = match self {
            BackEnd::Raw(_) => None,
            BackEnd::Chain(chain) => chain.deadline(),
        };
        soon.into_iter().chain(later).min()
    }

    /// Waits until something of what is under way is done, if anything is.
    pub fn wait(&mut self) -> io::Result<()> {
        match self {
            BackEnd::Raw(raw) => raw.engine.wait(),
            BackEnd::Chain(chain) => chain.wait(),
        }
    }

    /// Readable when a turn has something to do.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.engine().fd()
    }

    /// Whether each write must be on the medium when it is answered, as `durable` says of each.
    pub fn set_write_through(&mut self, whether: bool) {
        match self {
            BackEnd::Raw(_) => {}
            BackEnd::Chain(chain) => chain.set_write_through(whether),
        }
    }

    /// Brings all that was answered to the medium, once nothing is under way.
    pub fn finish(&mut self) -> Result<(), Why> {
        match self {
            BackEnd::Raw(raw) => raw.finish().map_err(Why::Host),
            BackEnd::Chain(chain) => chain.finish(),
        }
    }

    fn engine(&self) -> &Engine {
        match self {
            BackEnd::Raw(raw) => &raw.engine,
            BackEnd::Chain(chain) => chain.engine(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_with_the_file_and_the_place() {
        let error = || io::Error::from_raw_os_error(5);
        for (why, words) in [
            (Why::Host(error()), "input/output error"),
            (Why::File { file: 0, at: 512, error: error() }, "byte 512 of the image: input/output error"),
            (Why::File { file: 2, at: 0, error: error() }, "byte 0 of base 2: input/output error"),
            (Why::Chain(Failure::Range), "the request is beyond the disk's end"),
        ] {
            assert_eq!(why.to_string(), words);
        }
    }
}
