//! Whom a thing belongs to.

use serde::{Deserialize, Serialize};

/// A user and perhaps a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Owner {
    /// The user; 0 also when only a group was given.
    pub uid: u32,
    /// The group, if one was given. Group 0 is a group like any other.
    pub gid: Option<u32>,
}
