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
    /// Open this. Answered by `Opened` or `Failed` with the same index.
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
}

/// What the opener says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToParent {
    /// Open, checked and locked; the descriptor comes along.
    Opened {
        /// The request's.
        index: u8,
        /// Bytes.
        size: u64,
        /// A block device.
        block: bool,
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
            ToParent::Failed { .. } => 0,
        }
    }
}
