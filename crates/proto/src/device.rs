//! vmm and a device's process. The device speaks vhost-user with its VM on another socket.

use model::{Text, VmName};
use serde::{Deserialize, Serialize};

use crate::channel::Message;
use crate::failure::Failure;
use crate::vmm::{DiskDescription, NicDescription};

/// What vmm says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToDevice {
    /// To a vioblk: the vhost-user socket (the back end's side) and the image come along. Answered by `Ready` or
    /// `Failed`.
    Blk {
        /// Whose, for logs.
        vm: VmName,
        /// Index of the disk.
        disk: u8,
        /// What it is.
        description: DiskDescription,
        /// What the guest reads as the disk's serial number (virtio 1.2, 5.2.6: 20 bytes).
        serial: Text<20>,
        /// Debug lines too.
        debug: bool,
    },
    /// To a vionet: the vhost-user socket and the tap come along. Answered by `Ready` or `Failed`.
    Net {
        /// Whose, for logs.
        vm: VmName,
        /// Index of the card.
        nic: u8,
        /// What it is.
        description: NicDescription,
        /// Debug lines too.
        debug: bool,
    },
    /// How much to log.
    Verbose {
        /// Debug lines too.
        debug: bool,
    },
}

/// What a device's process says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToVmm {
    /// It holds its resource, is in its sandbox, and serves.
    Ready,
    /// It can't; the process ends.
    Failed(Failure),
}

impl Message for ToDevice {
    fn fds(&self) -> usize {
        match self {
            ToDevice::Blk { .. } | ToDevice::Net { .. } => 2,
            ToDevice::Verbose { .. } => 0,
        }
    }
}

impl Message for ToVmm {
    fn fds(&self) -> usize {
        match self {
            ToVmm::Ready | ToVmm::Failed(_) => 0,
        }
    }
}
