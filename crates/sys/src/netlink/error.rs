//! Why a request over netlink failed, by what the caller does next.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use thiserror::Error;

/// Why a request over netlink failed.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// The kernel refused it, and often says why in words (extended acknowledgement).
    #[error("{}{}", io::Error::from(*.errno), because(.reason))]
    Refused {
        /// The kernel's error.
        errno: Errno,
        /// The kernel's words, empty where it has none.
        reason: String,
    },
    /// The kernel did not answer in time; whether it did what was asked is unknown.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// The answer can't be read.
    #[error("malformed answer")]
    Malformed,
    /// The links changed faster than they could be listed.
    #[error("the interfaces keep changing")]
    Unsteady,
    /// The socket itself failed.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
}

impl NetlinkError {
    /// The kernel's error, where it answered with one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Deadline(_) | Self::Malformed | Self::Unsteady | Self::Socket(_) => None,
        }
    }

    /// No link has that name or index.
    pub fn is_missing(&self) -> bool {
        self.errno() == Some(Errno::NODEV)
    }

    /// The name is taken.
    pub fn is_taken(&self) -> bool {
        self.errno() == Some(Errno::EXIST)
    }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}
