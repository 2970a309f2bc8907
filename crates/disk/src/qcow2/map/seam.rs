//! What the map and its engine say to each other.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::qcow2::BadEntry;

/// A request, as the engine names it. One that is under way has a number of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(pub u64);

/// An operation, as the map names it, until `done`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub(super) usize);

/// What the guest asks for, in bytes of its disk. Any alignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// To fill the request's buffers.
    Read {
        /// From here on.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

/// What the engine does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Performs the operation on a file, then says so by `done`. Operations that are given at once go in any order.
    Do {
        /// For `done`.
        token: Token,
        /// The file: 0 is the image, 1 and on its bases, nearest first.
        file: u8,
        /// The operation.
        op: Op,
    },
    /// Answers the guest.
    Finish {
        /// The request.
        id: RequestId,
        /// Whether it went well.
        result: Result<(), Failure>,
    },
}

/// An operation. Ranges of a file that are read are within it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads bytes of the file from `at` into the bytes `data` of the request's buffers.
    ReadGuest {
        /// Whose buffers.
        id: RequestId,
        /// Bytes of the buffers.
        data: Range<u64>,
        /// A byte of the file.
        at: u64,
    },
    /// Fills bytes of the request's buffers with zeros. Memory alone.
    ZeroGuest {
        /// Whose buffers.
        id: RequestId,
        /// Bytes of the buffers.
        data: Range<u64>,
    },
    /// Copies to bytes of the request's buffers. Memory alone.
    FillGuest {
        /// Whose buffers.
        id: RequestId,
        /// Bytes of the buffers; as many as `bytes` has from `from` on.
        data: Range<u64>,
        /// What is copied, with more around it.
        bytes: Arc<[u8]>,
        /// The first byte that is copied.
        from: usize,
    },
    /// Reads bytes of the file for the map itself; `done` takes them.
    Read {
        /// The first byte.
        at: u64,
        /// Bytes.
        len: usize,
    },
}

/// Why a request failed. The guest is told an I/O error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Not all of it is on the disk.
    #[error("the request is beyond the disk's end")]
    Range,
    /// The host failed.
    #[error("file {file} of the chain, byte {at}: {error}")]
    Io {
        /// The file.
        file: u8,
        /// A byte of the file.
        at: u64,
        /// The host's error.
        error: io::ErrorKind,
    },
    /// An image contradicts itself.
    #[error("file {file} of the chain is damaged: {what}; see vmctl image check")]
    Corrupt {
        /// The file.
        file: u8,
        /// Where and how.
        what: Corruption,
    },
}

/// What contradicts itself in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corruption {
    /// An entry of the L1 table.
    #[error("L1 entry {index}: {why}")]
    L1 {
        /// Its index.
        index: u64,
        /// What is wrong.
        why: BadEntry,
    },
    /// An entry of an L2 table.
    #[error("the entry of the disk's byte {offset}: {why}")]
    L2 {
        /// A byte of the disk that it stands for.
        offset: u64,
        /// What is wrong.
        why: BadEntry,
    },
    /// An entry leads to the header or beyond the file.
    #[error("an entry leads to byte {at}, where no cluster of the disk can be")]
    Outside {
        /// Where it leads.
        at: u64,
    },
    /// Compressed data is no cluster.
    #[error("the compressed data at byte {at} is no cluster")]
    Packed {
        /// Where it begins.
        at: u64,
    },
}
