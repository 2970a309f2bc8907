//! What a device with a process of its own is, and what vmm and that process say. The device speaks vhost-user with its VM
//! on another socket.
//!
//! [`Spec`] is the one place that knows the kinds of devices: whoever starts, wires or counts devices asks it.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use model::{DiskFormat, DiskLimits, List, MAX_BASES, MAX_PATH, MacAddr, MemorySize, Text, VmName};
use serde::{Deserialize, Serialize};

use crate::channel::Message;
use crate::failure::Failure;

/// Devices of one VM at most: the slots of its PCI bus but those of the host bridge and the entropy device.
pub const MAX_DEVICES: u8 = 30;

/// A device of a VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Which of its kind, from 0.
    pub number: u8,
    /// What its process is told.
    pub told: Told,
}

/// What a device's process is told, by kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Told {
    /// A vioblk. The image comes along, then its bases.
    Blk(Blk),
    /// A vionet. The tap comes along.
    Net(Net),
    /// A vioballoon.
    Balloon(Balloon),
    /// A vioscsi. The image comes along, if a medium is in the drive.
    Cdrom(Cdrom),
}

/// What all devices of a kind have in common.
#[derive(Debug)]
pub struct Kind {
    /// The role of its process, as `-x` has it.
    pub role: &'static str,
    /// What the vm process shows the guest.
    pub front: Front,
    /// Threads of its process at most, those of the kernel for it included.
    pub threads: u32,
}

/// What a guest sees of a device before its driver asks: all that the vm process knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Front {
    /// The virtio device id (virtio 1.2, 5).
    pub virtio_id: u16,
    /// Virtqueues.
    pub queues: u16,
    /// Entries of each at most: a power of two.
    pub queue_size: u16,
    /// Bytes of the configuration space that are shown: the fields to which any feature that is offered gives a meaning.
    pub config_len: u16,
}

impl Front {
    /// The role of the process behind it, as logs and ps(1) have it.
    pub fn role(&self) -> &'static str {
        [&BLK, &NET, &BALLOON, &CDROM]
            .iter()
            .find(|kind| kind.front.virtio_id == self.virtio_id)
            .map_or("device", |kind| kind.role)
    }
}

/// Virtio 1.2, 5.2. Its configuration space goes up to `write_zeroes_may_unmap` and the padding behind it. The kernel may start
/// four threads of each of two kinds for its ring.
const BLK: Kind =
    Kind { role: "vioblk", front: Front { virtio_id: 2, queues: 1, queue_size: 256, config_len: 60 }, threads: 9 };

/// Virtio 1.2, 5.1: a queue to receive, one to transmit. Its configuration space has mac, status, max_virtqueue_pairs and mtu.
const NET: Kind =
    Kind { role: "vionet", front: Front { virtio_id: 1, queues: 2, queue_size: 256, config_len: 12 }, threads: 1 };

/// Virtio 1.2, 5.5: queues for pages given, pages taken back, statistics, free pages. Its configuration space is `num_pages`
/// and `actual`.
const BALLOON: Kind =
    Kind { role: "vioballoon", front: Front { virtio_id: 5, queues: 4, queue_size: 128, config_len: 8 }, threads: 1 };

/// Virtio 1.2, 5.6: a queue for task management, one for events, one for requests. The kernel may start four threads of each
/// of two kinds for its ring.
const CDROM: Kind =
    Kind { role: "vioscsi", front: Front { virtio_id: 8, queues: 3, queue_size: 128, config_len: 36 }, threads: 9 };

impl Spec {
    /// What it has in common with others of its kind.
    pub fn kind(&self) -> &'static Kind {
        match self.told {
            Told::Blk(_) => &BLK,
            Told::Net(_) => &NET,
            Told::Balloon(_) => &BALLOON,
            Told::Cdrom(_) => &CDROM,
        }
    }

    /// Whether another process takes the place of one that ends. A qcow2 image that is written has entries of its tables in the
    /// memory of its process for a while, which a guest that had an answer counts on.
    pub fn is_replaced(&self) -> bool {
        let keeps_changes = self.disk().is_some_and(|disk| disk.format == DiskFormat::Qcow2 && !disk.read_only);
        !keeps_changes
    }

    /// What a disk's process is told.
    pub fn disk(&self) -> Option<&Blk> {
        match &self.told {
            Told::Blk(blk) => Some(blk),
            Told::Net(_) | Told::Balloon(_) | Told::Cdrom(_) => None,
        }
    }

    /// Descriptors that come along for its process, beside its vhost-user socket.
    pub fn fds(&self) -> usize {
        match &self.told {
            Told::Blk(blk) => blk.bases.len().saturating_add(1),
            Told::Net(_) => 1,
            Told::Balloon(_) => 0,
            Told::Cdrom(cdrom) => usize::from(cdrom.medium),
        }
    }

    /// What its next process is told once this was done.
    pub fn heed(&mut self, ask: &Ask) {
        match (&mut self.told, ask) {
            (Told::Cdrom(cdrom), Ask::Insert { called, .. }) => {
                (cdrom.medium, cdrom.called, cdrom.open) = (true, called.clone(), false);
            }
            (Told::Cdrom(cdrom), Ask::Eject { .. }) => {
                (cdrom.medium, cdrom.called, cdrom.open) = (false, Text::cut(""), false);
            }
            // A balloon keeps it by itself; a request that is not of its kind is not done.
            (Told::Blk(_) | Told::Net(_) | Told::Balloon(_) | Told::Cdrom(_), Ask::Memory(_))
            | (Told::Blk(_) | Told::Net(_) | Told::Balloon(_), Ask::Insert { .. } | Ask::Eject { .. }) => {}
        }
    }

    /// Bytes of memory that outlive its process, for the next one; 0: it keeps nothing.
    pub fn keeps(&self) -> u64 {
        match &self.told {
            Told::Blk(_) | Told::Cdrom(_) => KEPT,
            Told::Balloon(balloon) => {
                // A bit for each page of 4096 bytes; each range of memory may begin and end within a block of 64 bytes.
                KEPT.saturating_add(balloon.memory.bytes() / (4096 * 8)).saturating_add(4096)
            }
            Told::Net(_) => 0,
        }
    }
}

/// Bytes that a device keeps beyond the life of a process, for the next: the records of its queues, and a page of its own.
pub const KEPT: u64 = 72 << 10;

/// As logs and ps(1) call its process: `vioblk0`.
impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind().role, self.number)
    }
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Blk {
    /// Never from contents that a guest could have written.
    pub format: DiskFormat,
    /// Formats of the images that it is based on, the nearest first; they are only read.
    pub bases: List<DiskFormat, MAX_BASES>,
    /// The guest may only read.
    pub read_only: bool,
    /// How fast the guest may use it.
    pub limits: DiskLimits,
    /// What the guest reads as the disk's serial number (virtio 1.2, 5.2.6: 20 bytes).
    pub serial: Text<20>,
    /// What its users call it, for the log: nothing is opened by this name.
    pub called: Text<MAX_PATH>,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Net {
    /// The guest's address.
    pub mac: MacAddr,
    /// Frames from or to other addresses are dropped.
    pub locked: bool,
    /// Frames from its guest that only DHCP servers and routers send are dropped.
    pub guarded: bool,
    /// What its guest is told by DHCP, on a `local interface`.
    pub local: Option<Local>,
}

/// A balloon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Balloon {
    /// All memory of the guest.
    pub memory: MemorySize,
}

/// A CD-ROM drive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cdrom {
    /// What the guest reads as the drive's serial number.
    pub serial: Text<20>,
    /// A medium is in it.
    pub medium: bool,
    /// What its users call the medium, for the log: nothing is opened by this name. Empty where there is none.
    pub called: Text<MAX_PATH>,
    /// The tray is open: the guest had opened it before it was reset.
    pub open: bool,
}

/// The two ends of a `local interface`: the whole network is this pair (openbsd/daemon.md, 3.12).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    /// Address of the host's side of the tap.
    pub host_mac: MacAddr,
    /// The host's: router, and name server where no other is known.
    pub host: Ipv4Addr,
    /// The guest's.
    pub guest: Ipv4Addr,
    /// Name servers of the host that the guest can reach.
    pub name_servers: List<Ipv4Addr, MAX_NAME_SERVERS>,
    /// Told the file that OpenBSD's installer boots by.
    pub net_boot: bool,
}

/// Name servers that a guest is told of; a resolver asks no more (resolver(5), MAXNS).
pub const MAX_NAME_SERVERS: usize = 3;

/// What vmm says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToDevice {
    /// What to serve. The vhost-user socket (the back end's side) comes along, then the write end of a pipe that stays open for as
    /// long as the host may still carry out something for this process, then the memory that it keeps, if it keeps any, then its
    /// descriptors. Answered by `Ready` or `Failed`.
    Start {
        /// Whose, for logs.
        vm: VmName,
        /// What it is.
        spec: Box<Spec>,
        /// Debug lines too.
        debug: bool,
    },
    /// While it serves. Answered by `Answered`.
    Ask(Ask),
    /// How much to log.
    Verbose {
        /// Debug lines too.
        debug: bool,
    },
}

/// What a device can be asked while it serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Ask {
    /// A balloon: leave the guest so much of its memory.
    Memory(MemorySize),
    /// A CD-ROM drive: take the medium out. Refused where the guest has locked the tray, unless by force.
    Eject {
        /// Locked or not.
        force: bool,
    },
    /// A CD-ROM drive: put the image that comes along in, in place of what is there, which is taken out as by `Eject`.
    Insert {
        /// What its users call it.
        called: Text<MAX_PATH>,
        /// Locked or not.
        force: bool,
    },
}

impl Ask {
    /// Descriptors that come along.
    pub fn fds(&self) -> usize {
        match self {
            Ask::Insert { .. } => 1,
            Ask::Memory(_) | Ask::Eject { .. } => 0,
        }
    }
}

/// What a device's process says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToVmm {
    /// It holds its resource, is in its sandbox, and serves.
    Ready,
    /// It can't; the process ends.
    Failed(Failure),
    /// Answers `Ask`: what could be done by the device alone is done.
    Answered {
        /// Its configuration space is another now: the guest is to hear of it.
        changed: bool,
        /// Why it was not done.
        result: Result<(), Failure>,
    },
    /// Its last message: its front end or vmm is gone, and all is flushed. A process that ends without it has died.
    Ended,
    /// What it has learned of its guest, at most once within [`REPORT_EVERY`].
    Report(Report),
}

/// The least time between two reports of a device; what comes within half of it is dropped.
pub const REPORT_EVERY: Duration = Duration::from_secs(1);

/// What a device has learned of its guest. A guest can make up all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// A balloon.
    Memory(MemoryReport),
}

/// Memory as a guest sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryReport {
    /// Bytes that the guest has put into the balloon and may not use.
    pub taken: u64,
    /// By tag (virtio 1.2, 5.5.6.3), as [`STATISTICS`] names them: bytes, or a count; those that the guest gave.
    pub statistics: [Option<u64>; STATISTICS.len()],
}

/// Names of a guest's statistics of its memory, by tag (virtio 1.2, 5.5.6.4).
pub const STATISTICS: [&str; 10] = [
    "swapped_in",
    "swapped_out",
    "major_faults",
    "minor_faults",
    "free",
    "total",
    "available",
    "disk_caches",
    "hugetlb_allocations",
    "hugetlb_failures",
];

impl Message for ToDevice {
    const VERSION: Option<u32> = Some(crate::VERSION_OF_A_VM);

    fn fds(&self) -> usize {
        match self {
            ToDevice::Start { spec, .. } => spec.fds().saturating_add(2).saturating_add(usize::from(spec.keeps() > 0)),
            ToDevice::Ask(ask) => ask.fds(),
            ToDevice::Verbose { .. } => 0,
        }
    }
}

impl Message for ToVmm {
    const VERSION: Option<u32> = Some(crate::VERSION_OF_A_VM);

    fn fds(&self) -> usize {
        match self {
            ToVmm::Ready | ToVmm::Failed(_) | ToVmm::Answered { .. } | ToVmm::Ended | ToVmm::Report(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_replaced_unless_its_process_has_what_the_next_lacks() {
        let blk = |format, read_only| {
            let (serial, called) = (Text::default(), Text::default());
            Told::Blk(Blk { format, bases: List::default(), read_only, limits: DiskLimits::default(), serial, called })
        };
        for (told, replaced) in [
            (blk(DiskFormat::Raw, false), true),
            (blk(DiskFormat::Raw, true), true),
            (blk(DiskFormat::Qcow2, false), false),
            (blk(DiskFormat::Qcow2, true), true),
            (Told::Balloon(Balloon { memory: MemorySize::DEFAULT }), true),
        ] {
            let spec = Spec { number: 0, told };
            assert_eq!(spec.is_replaced(), replaced, "{spec:?}");
        }
    }
}
