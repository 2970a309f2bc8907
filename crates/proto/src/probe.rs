//! Parent and probe: one file in, what its header says out. The probe has nothing else, and ends.

use model::{DiskFormat, MemorySize, UserPath};
use serde::{Deserialize, Serialize};

use crate::channel::Message;
use crate::failure::Failure;

/// What the parent says; the file comes along.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToProbe {
    /// What kind of kernel is this, and has a guest room for it?
    Kernel {
        /// All that the guest has.
        memory: MemorySize,
    },
    /// May this be used as a raw disk that nobody called raw?
    RawDisk,
    /// May this be used as the raw base of an image that does not record its base's format?
    RawBase,
    /// What is this qcow2 image based on, and can it be used?
    Qcow2 {
        /// Bytes of the file.
        len: u64,
        /// It is to be written too.
        write: bool,
    },
}

/// What the probe says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToParent {
    /// It can be used.
    Found(Found),
    /// It can't be used, and why.
    Failed(Failure),
}

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// The kernel can be started so.
    Kernel {
        /// How.
        kind: KernelKind,
    },
    /// Nothing speaks against taking it for raw.
    Raw,
    /// A qcow2 image.
    Qcow2 {
        /// Bytes of its disk.
        size: u64,
        /// What it is based on.
        base: Option<Base>,
    },
}

/// The base that an image names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// As it is recorded: a path, if it is absolute or not.
    pub name: UserPath,
    /// Its format, where that is recorded.
    pub format: Option<DiskFormat>,
}

/// How a kernel is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KernelKind {
    /// Linux's own format, by its 64-bit entry.
    BzImage,
    /// An ELF file, by its PVH entry.
    Pvh,
}

impl Message for ToProbe {
    fn fds(&self) -> usize {
        match self {
            ToProbe::Kernel { .. } | ToProbe::RawDisk | ToProbe::RawBase | ToProbe::Qcow2 { .. } => 1,
        }
    }
}

impl Message for ToParent {
    fn fds(&self) -> usize {
        match self {
            ToParent::Found(_) | ToParent::Failed(_) => 0,
        }
    }
}
