//! Parent and opener: paths in, descriptors out. One opener serves one start, as one user, then ends.

use model::{List, UserPath};
use serde::{Deserialize, Serialize};

use crate::channel::Message;
use crate::failure::Failure;

/// What the parent says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToOpener {
    /// First of all: whose rights the files are opened with.
    Become(Asker),
    /// Open this. Answered by `Opened`, `Locked` or `Failed` with the same index.
    Open {
        /// Chosen by the parent.
        index: u8,
        /// What it is to be.
        what: What,
        /// Where, in the host's root.
        path: UserPath,
    },
    /// Nothing more comes; end.
    End,
}

/// Groups of an asker at most; a user in more can't be served.
pub const MAX_GROUPS: usize = 4096;

/// Whose rights a file is opened with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asker {
    /// Root, for what root named.
    Root,
    /// A user.
    User {
        /// The user.
        uid: u32,
        /// The primary group.
        gid: u32,
        /// The supplementary groups.
        groups: List<u32, MAX_GROUPS>,
    },
}

/// What a path is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A kernel or firmware: a regular file, to read.
    Kernel,
    /// An initial RAM disk: a regular file, to read.
    Initrd,
    /// A CD-ROM image: a regular file or block device, to read.
    Cdrom,
    /// A disk: a regular file or block device of at least a sector, locked.
    Disk {
        /// Locked exclusively for writing, else shared for reading.
        write: bool,
    },
    /// What a disk's image is based on: a regular file or block device of any size, to read, locked shared.
    Base,
}

/// Which file it is, whatever it is called. A block device is the same under each of its names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileId {
    /// The device that it lies on; of a block device the greatest number.
    pub device: u64,
    /// Its inode there; of a block device its own number.
    pub inode: u64,
}

/// A file that was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFile {
    /// Which.
    pub id: FileId,
    /// Bytes.
    pub size: u64,
    /// A block device.
    pub block: bool,
}

/// What the opener says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToParent {
    /// Open, checked and locked; the descriptor comes along.
    Opened {
        /// The request's.
        index: u8,
        /// What it is.
        file: OpenFile,
    },
    /// It is what was wanted, and somebody else has it locked.
    Locked {
        /// The request's.
        index: u8,
        /// Which file, so that the parent can tell who.
        id: FileId,
        /// Why, for where it can't.
        failure: Failure,
    },
    /// It could not be opened, or is not what was wanted.
    Failed {
        /// The request's.
        index: u8,
        /// Why.
        failure: Failure,
    },
}

impl Message for ToOpener {
    fn fds(&self) -> usize {
        match self {
            ToOpener::Become(_) | ToOpener::Open { .. } | ToOpener::End => 0,
        }
    }
}

impl Message for ToParent {
    fn fds(&self) -> usize {
        match self {
            ToParent::Opened { .. } => 1,
            ToParent::Locked { .. } | ToParent::Failed { .. } => 0,
        }
    }
}
