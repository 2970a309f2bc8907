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
    /// To write the request's buffers.
    Write {
        /// From here on.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// To make bytes zero.
    WriteZeroes {
        /// From here on.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Whether the space may be given back.
        unmap: bool,
    },
    /// To give space back. What is less than a cluster stays as it is.
    Discard {
        /// From here on.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// To make what was answered before outlast a power cut.
    Flush,
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
    /// Writes bytes of the request's buffers to the file, which may become longer by it.
    WriteGuest {
        /// Whose buffers.
        id: RequestId,
        /// Bytes of the buffers.
        data: Range<u64>,
        /// A byte of the file.
        at: u64,
    },
    /// Writes bytes to the file, which may become longer by it.
    Write {
        /// The first byte.
        at: u64,
        /// What is written.
        bytes: Vec<u8>,
    },
    /// Makes bytes of the file zero; it may become longer by it.
    Zero {
        /// The first byte.
        at: u64,
        /// Bytes.
        len: u64,
    },
    /// Gives the space of bytes of the file back; their content does not matter any more. It may fail.
    Punch {
        /// The first byte.
        at: u64,
        /// Bytes.
        len: u64,
    },
    /// Makes all that was done before outlast a power cut: fdatasync.
    Sync,
}

/// Why a request failed. The guest is told an I/O error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Not all of it is on the disk.
    #[error("the request is beyond the disk's end")]
    Range,
    /// The host failed.
    #[error("byte {at} of {}: {error}", called(*.file))]
    Io {
        /// The file.
        file: u8,
        /// A byte of the file.
        at: u64,
        /// The host's error.
        error: io::ErrorKind,
    },
    /// The chain was opened to be read.
    #[error("the image is open to be read")]
    ReadOnly,
    /// The image was found damaged before.
    #[error("the image is marked as corrupt; see vmctl image check")]
    MarkedCorrupt,
    /// The format has no room for more, or a count no bits.
    #[error(
        "the image can't become larger, or a refcount not higher; make another with larger clusters or wider refcounts"
    )]
    Full,
    /// An image contradicts itself.
    #[error("{} is damaged: {what}; see vmctl image check", called(*.file))]
    Corrupt {
        /// The file.
        file: u8,
        /// Where and how.
        what: Corruption,
    },
}

/// A file of a chain, as users are told of it.
fn called(file: u8) -> String {
    if file == 0 { "the image".to_owned() } else { format!("base {file}") }
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
    /// An entry leads to the image's own tables.
    #[error("an entry leads to byte {at}, where tables of the image are")]
    Metadata {
        /// Where it leads.
        at: u64,
    },
    /// A cluster in use whose refcount says otherwise.
    #[error("the cluster at byte {at} is in use, and its refcount is {count}")]
    Refcount {
        /// The cluster's first byte.
        at: u64,
        /// Its count.
        count: u64,
    },
    /// Refcounts where no file is.
    #[error("cluster {cluster} and many before it have refcounts and are beyond the file's end")]
    Beyond {
        /// A cluster.
        cluster: u64,
    },
    /// An entry of the refcount table.
    #[error("refcount table entry {index}: {why}")]
    RefcountTable {
        /// Its index.
        index: u64,
        /// What is wrong.
        why: BadEntry,
    },
    /// Compressed data is no cluster.
    #[error("the compressed data at byte {at} is no cluster")]
    Packed {
        /// Where it begins.
        at: u64,
    },
}
