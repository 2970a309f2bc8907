//! Parent and probe: one file in, what its header says out. The probe has nothing else, and ends.

use model::MemorySize;
use serde::{Deserialize, Serialize};

use crate::channel::Message;
use crate::failure::Failure;

/// What the parent says; the file comes along.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToProbe {
    /// What kind of kernel is this, and has a guest room for it? Answered by `Kernel` or `Failed`.
    Kernel {
        /// All that the guest has.
        memory: MemorySize,
    },
    /// May this be used as a raw disk that nobody called raw? Answered by `Raw` or `Failed`.
    RawDisk,
}

/// What the probe says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToParent {
    /// The kernel can be started so.
    Kernel {
        /// How.
        kind: KernelKind,
    },
    /// Nothing speaks against it.
    Raw,
    /// It can't be used, and why.
    Failed(Failure),
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
            ToProbe::Kernel { .. } | ToProbe::RawDisk => 1,
        }
    }
}

impl Message for ToParent {
    fn fds(&self) -> usize {
        match self {
            ToParent::Kernel { .. } | ToParent::Raw | ToParent::Failed(_) => 0,
        }
    }
}
