//! How a range is cleared on a host that can do this or that: a machine that is asked for the next operation until there is
//! none. Pure: no descriptor, no log.
//!
//! ```text
//!  discard ─────► punch ─────────────────────────────► done, done or not
//!  zeros ───────► punch ──► zero ──► write in pieces ─► (sync) ─► done
//!   (unmap only)    │         │
//!                   └── the next way where the host has not this one, which is remembered ──
//! ```

use std::io;

use rustix::io::Errno;
use sys::guest_io::Buffers;
use sys::ring::{Job, Operation};

use super::request::{Clear, Range};

/// Zeros of one write at most. Longer ranges are written in pieces, each after the one before.
const MAX_PIECE: u32 = 1 << 20;

/// What the host's file can do, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    punches: bool,
    zeroes: bool,
}

impl Default for Host {
    /// All, until it says otherwise.
    fn default() -> Host {
        Host { punches: true, zeroes: true }
    }
}

#[cfg(test)]
impl Host {
    /// A host that only reads and writes.
    pub fn can_nothing(&mut self) {
        *self = Host { punches: false, zeroes: false };
    }
}

/// A range that is being cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clearing {
    clear: Clear,
    /// What is left of it.
    left: Range,
    way: Way,
    /// It must be on the medium before it is answered.
    durable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Punch,
    Zero,
    Write,
    /// All is zero; the medium has to know.
    Sync,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// An operation from this byte on; `zeros` is how many to write, for a write.
    Do {
        /// What.
        operation: Operation,
        /// In bytes of the disk.
        at: u64,
        /// Zeros that it writes.
        zeros: u32,
    },
    /// The range is cleared.
    Done,
    /// It is not; the operation's error is the request's.
    Failed,
}

impl Next {
    /// The engine's operation on a file, where there is one to begin.
    pub fn job(self, file: u8) -> Option<Job<'static>> {
        let Next::Do { operation, at, zeros } = self else { return None };
        let buffers = if zeros > 0 { Buffers::Zeros(zeros) } else { Buffers::None };
        Some(Job { file, operation, at, buffers })
    }
}

impl Clearing {
    /// Begins to clear a range. `durable` as for a write.
    pub fn new(clear: Clear, range: Range, durable: bool) -> Clearing {
        let way = if clear == Clear::Discard || range.unmap { Way::Punch } else { Way::Zero };
        Clearing { clear, left: range, way, durable: durable && clear == Clear::WriteZeroes }
    }

    /// Begins to write zeros, which makes a file longer where need be.
    pub fn written(range: Range) -> Clearing {
        Clearing { clear: Clear::WriteZeroes, left: range, way: Way::Write, durable: false }
    }

    /// The first operation.
    pub fn first(&mut self, host: Host) -> Next {
        loop {
            match self.way {
                _ if self.left.len == 0 && self.way != Way::Sync => return Next::Done,
                Way::Punch if host.punches => return self.on_all(Operation::Punch { len: self.left.len }),
                Way::Zero if host.zeroes => return self.on_all(Operation::Zero { len: self.left.len }),
                Way::Punch if self.clear == Clear::Discard => return Next::Done, // it was a hint
                Way::Punch => self.way = Way::Zero,
                Way::Zero => self.way = Way::Write,
                Way::Write => {
                    let zeros = u32::try_from(self.left.len).unwrap_or(MAX_PIECE).min(MAX_PIECE);
                    let operation = Operation::Write { durable: self.durable };
                    return Next::Do { operation, at: self.left.offset, zeros };
                }
                Way::Sync => return self.on_all(Operation::Sync),
            }
        }
    }

    /// The operation after one that has ended so.
    pub fn after(&mut self, result: &io::Result<()>, host: &mut Host) -> Next {
        match (self.way, result) {
            (Way::Punch, Ok(())) if !self.durable => Next::Done,
            (Way::Zero, Ok(())) if !self.durable => Next::Done,
            (Way::Punch | Way::Zero, Ok(())) => {
                self.way = Way::Sync;
                self.first(*host)
            }
            (Way::Write, Ok(())) => {
                let piece = self.left.len.min(MAX_PIECE.into());
                self.left.offset = self.left.offset.saturating_add(piece);
                self.left.len = self.left.len.saturating_sub(piece);
                self.first(*host)
            }
            (Way::Sync, Ok(())) => Next::Done,
            (Way::Punch | Way::Zero, Err(error)) if is_unable(error) => {
                self.forget_way(host);
                self.first(*host)
            }
            // Not this range: a block device takes whole blocks of its own alone.
            (Way::Punch, Err(error)) if is_unfit(error) && self.clear == Clear::Discard => Next::Done,
            (Way::Punch | Way::Zero, Err(error)) if is_unfit(error) => {
                self.way = Way::Write;
                self.first(*host)
            }
            (_, Err(_)) => Next::Failed,
        }
    }

    fn forget_way(&self, host: &mut Host) {
        match self.way {
            Way::Punch => host.punches = false,
            Way::Zero => host.zeroes = false,
            Way::Write | Way::Sync => {}
        }
    }

    fn on_all(&self, operation: Operation) -> Next {
        Next::Do { operation, at: self.left.offset, zeros: 0 }
    }
}

/// The file system or the device has no such operation (fallocate(2)).
fn is_unable(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV))
}

fn is_unfit(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNABLE: i32 = 95; // EOPNOTSUPP
    const INVAL: i32 = 22;
    const IO: i32 = 5;

    const MIB: u64 = 1 << 20;

    fn range(len: u64, unmap: bool) -> Range {
        Range { offset: 4096, len, unmap }
    }

    /// What is done to a range of 4096 bytes, where the host answers the operations so; and how it ends.
    fn steps(mut clearing: Clearing, host: &mut Host, answers: &[i32]) -> (Vec<(Operation, u64, u32)>, Next) {
        let (mut steps, mut answers) = (Vec::new(), answers.iter());
        let mut next = clearing.first(*host);
        while let Next::Do { operation, at, zeros } = next {
            steps.push((operation, at, zeros));
            let result = match answers.next() {
                None | Some(0) => Ok(()),
                Some(errno) => Err(io::Error::from_raw_os_error(*errno)),
            };
            next = clearing.after(&result, host);
        }
        (steps, next)
    }

    const PUNCH: (Operation, u64, u32) = (Operation::Punch { len: 4096 }, 4096, 0);
    const ZERO: (Operation, u64, u32) = (Operation::Zero { len: 4096 }, 4096, 0);
    const WRITE: (Operation, u64, u32) = (Operation::Write { durable: false }, 4096, 4096);
    const DURABLE: (Operation, u64, u32) = (Operation::Write { durable: true }, 4096, 4096);
    const SYNC: (Operation, u64, u32) = (Operation::Sync, 4096, 0);

    #[test]
    fn each_way_is_tried_and_the_next_where_the_host_has_it_not() {
        let (discard, zeroes) = (Clear::Discard, Clear::WriteZeroes);
        for (clear, unmap, durable, answers, expected, end) in [
            (discard, false, false, &[][..], &[PUNCH][..], Next::Done),
            (discard, false, true, &[], &[PUNCH], Next::Done), // nothing that must be there later
            (discard, false, false, &[UNABLE], &[PUNCH], Next::Done),
            (discard, false, false, &[INVAL], &[PUNCH], Next::Done),
            (discard, false, false, &[IO], &[PUNCH], Next::Failed),
            (zeroes, true, false, &[], &[PUNCH], Next::Done),
            (zeroes, true, true, &[], &[PUNCH, SYNC], Next::Done),
            (zeroes, true, true, &[0, IO], &[PUNCH, SYNC], Next::Failed),
            (zeroes, true, false, &[UNABLE], &[PUNCH, ZERO], Next::Done),
            (zeroes, true, false, &[UNABLE, UNABLE], &[PUNCH, ZERO, WRITE], Next::Done),
            (zeroes, true, false, &[INVAL], &[PUNCH, WRITE], Next::Done),
            (zeroes, false, false, &[], &[ZERO], Next::Done),
            (zeroes, false, true, &[], &[ZERO, SYNC], Next::Done),
            (zeroes, false, true, &[UNABLE], &[ZERO, DURABLE], Next::Done),
            (zeroes, false, false, &[INVAL], &[ZERO, WRITE], Next::Done),
            (zeroes, false, false, &[IO], &[ZERO], Next::Failed),
            (zeroes, false, false, &[UNABLE, IO], &[ZERO, WRITE], Next::Failed),
        ] {
            let clearing = Clearing::new(clear, range(4096, unmap), durable);
            let ended = steps(clearing, &mut Host::default(), answers);
            assert_eq!(ended, (expected.to_vec(), end), "{clear:?}, unmap {unmap}, durable {durable}, {answers:?}");
        }
    }

    #[test]
    fn what_the_host_can_not_do_is_not_asked_again() {
        let mut host = Host::default();
        let zeroes = |unmap| Clearing::new(Clear::WriteZeroes, range(4096, unmap), false);
        steps(zeroes(true), &mut host, &[UNABLE, UNABLE]);
        assert_eq!(steps(zeroes(true), &mut host, &[]), (vec![WRITE], Next::Done));
        assert_eq!(steps(zeroes(false), &mut host, &[]), (vec![WRITE], Next::Done));
        let discard = Clearing::new(Clear::Discard, range(4096, false), false);
        assert_eq!(steps(discard, &mut host, &[]), (vec![], Next::Done));
        // but what did not fit one range may fit another
        let mut host = Host::default();
        steps(zeroes(true), &mut host, &[INVAL]);
        assert_eq!(host, Host::default());
    }

    #[test]
    fn zeros_are_written_in_pieces() {
        let write = Operation::Write { durable: true };
        let clearing = Clearing::new(Clear::WriteZeroes, range(2 * MIB + 512, false), true);
        let (done, end) = steps(clearing, &mut Host::default(), &[UNABLE]);
        let piece = 1 << 20;
        let expected = [(write, 4096, piece), (write, 4096 + MIB, piece), (write, 4096 + 2 * MIB, 512)];
        assert_eq!((&done[1..], end), (&expected[..], Next::Done));
    }

    #[test]
    fn an_empty_range_is_nothing_to_do() {
        for clear in [Clear::Discard, Clear::WriteZeroes] {
            assert_eq!(
                steps(Clearing::new(clear, range(0, true), true), &mut Host::default(), &[]),
                (vec![], Next::Done)
            );
        }
    }
}
