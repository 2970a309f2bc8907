//! The configuration as it is used: who holds one of these need not check it again.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::names::{CommandLine, GroupName, IfName, MacAddr, SwitchName, VmName};
use crate::prefix::{Prefix4, Prefix6};
use crate::size::MIB;
pub use crate::switches::Switches;

/// Disks of one VM. The original allows 4; each is a process and a PCI slot here, and the bus has 32 slots.
pub const MAX_DISKS: usize = 16;

/// Network cards of one VM. The original allows 4; with [`MAX_DISKS`] and the fixed devices they still fit the bus.
pub const MAX_NICS: usize = 8;

/// CPUs of one VM (openbsd/vm.conf.md, 10.1).
pub const MAX_CPUS: u8 = 64;

/// The greatest routing domain (openbsd/vm.conf.md, 9).
pub const MAX_RDOMAIN: u8 = 255;

/// All that a file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Statements that concern no one VM.
    pub globals: Globals,
    /// Switches in the order of the file; disabled ones too. The first of a name counts.
    pub switches: Switches,
    /// VMs in the order of the file, which is that of their ids and of their start.
    pub vms: Vec<Vm>,
}

impl Config {
    /// The switch that an interface means by a name. A disabled one is as good as none.
    pub fn switch(&self, name: &SwitchName) -> Option<&Switch> {
        self.switches.named(name)
    }
}

/// Statements outside all blocks (openbsd/vm.conf.md, 8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Globals {
    /// Where the addresses of local interfaces come from.
    pub local_prefix: Prefix4,
    /// Whether local interfaces have IPv6 addresses, and from where.
    pub local_inet6: Option<LocalInet6>,
    /// Whether local interfaces reach the outside by NAT (`local nat no` says no).
    pub local_nat: bool,
    /// Owner and group of the control socket: root and group 0 when not given.
    pub socket_owner: Owner,
    /// The SNMP sub-agent, when it is to run.
    pub agentx: Option<AgentX>,
    /// How configured VMs are started; `None` is the daemon's default (CPUs online at a time, 30 s apart).
    pub staggered: Option<Staggered>,
}

impl Default for Globals {
    fn default() -> Self {
        Self {
            local_prefix: Prefix4::DEFAULT,
            local_inet6: None,
            local_nat: true,
            socket_owner: Owner { uid: 0, gid: Some(0) },
            agentx: None,
            staggered: None,
        }
    }
}

/// `local inet6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalInet6 {
    /// A /64 below fd00::/8 that the daemon draws once in its life.
    Random,
    /// The one given.
    Prefix(Prefix6),
}

/// `agentx`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentX {
    /// The SNMP context, at most 32 bytes.
    pub context: Option<Vec<u8>>,
    /// The master's socket, absolute, at most 103 bytes; `None` is the system's.
    pub path: Option<PathBuf>,
}

/// `staggered start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staggered {
    /// VMs started at a time, at least 1.
    pub parallel: u32,
    /// Seconds until the next are.
    pub delay_s: u32,
}

/// A user and perhaps a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    /// The user; 0 also when only a group was given.
    pub uid: u32,
    /// The group, if one was given.
    pub gid: Option<u32>,
}

/// A group of interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceGroup {
    /// Its name.
    pub name: GroupName,
    /// Its number, where the host has one for the name.
    pub number: Option<u32>,
}

/// `switch NAME { }`: a bridge of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switch {
    /// What interfaces call it.
    pub name: SwitchName,
    /// Whether it counts at all.
    pub enabled: bool,
    /// The bridge.
    pub interface: IfName,
    /// Interfaces on it drop frames with a foreign source address.
    pub locked_lladdr: bool,
    /// Group of the interfaces attached to it that name none.
    pub group: Option<InterfaceGroup>,
    /// Routing domain of the bridge and of interfaces that name none of their own.
    pub rdomain: Option<u8>,
    /// Whether the bridge is set up or down.
    pub up: bool,
}

/// `vm NAME { }`, with all defaults and what its template gave filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// Its name.
    pub name: VmName,
    /// The VM it was made from, if it is an instance.
    pub template: Option<VmName>,
    /// Whether it starts with the daemon.
    pub enabled: bool,
    /// Memory of the guest.
    pub memory: MemorySize,
    /// CPUs of the guest: 1 to [`MAX_CPUS`].
    pub cpus: u8,
    /// Kernel or firmware, absolute; `None` is the default firmware.
    pub boot: Option<PathBuf>,
    /// What the firmware or kernel is told to boot from.
    pub boot_device: Option<BootDevice>,
    /// The kernel's initial RAM disk, absolute.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub cmdline: Option<CommandLine>,
    /// CD-ROM image, as written: it is looked for when the VM starts.
    pub cdrom: Option<PathBuf>,
    /// Disks in the guest's order, at most [`MAX_DISKS`].
    pub disks: Vec<Disk>,
    /// Network cards in the guest's order, at most [`MAX_NICS`]; those that `interfaces` asked for too.
    pub nics: Vec<Nic>,
    /// Who may start, stop and pause it.
    pub owner: Owner,
    /// What its instances may change, and who may make them.
    pub allow: Allow,
    /// Memory encryption.
    pub sev: Option<Sev>,
}

/// Memory of a guest in bytes: whole MiB, 1 MiB to 128 GiB (openbsd/vm.conf.md, 7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemorySize(u64);

/// Why a number of bytes is no memory size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Less than a MiB.
    #[error("memory size must be at least 1MB")]
    TooSmall,
    /// More than 128 GiB.
    #[error("memory size too large (limit is 128G)")]
    TooLarge,
}

impl MemorySize {
    /// 512 MiB, for a VM that says nothing.
    pub const DEFAULT: Self = Self(512 * MIB);

    /// 128 GiB (openbsd/vm.conf.md, 15).
    pub const MAX: Self = Self(128 * 1024 * MIB);

    /// That many bytes, rounded down to whole MiB.
    pub fn from_bytes(bytes: i64) -> Result<Self, MemoryError> {
        match u64::try_from(bytes) {
            Ok(bytes) if bytes > Self::MAX.0 => Err(MemoryError::TooLarge),
            Ok(bytes) if bytes >= MIB => Ok(Self(bytes & !(MIB - 1))),
            _ => Err(MemoryError::TooSmall),
        }
    }

    /// Bytes, a multiple of 1 MiB.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

/// `boot device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootDevice {
    /// The CD-ROM only.
    Cdrom,
    /// The first disk only.
    Disk,
    /// The network.
    Net,
}

/// A disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its image or block device; absolute from a file.
    pub path: PathBuf,
    /// How the image is to be read.
    pub format: ImageFormat,
}

/// A disk image's format. Contents never decide it: a guest may have written them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageFormat {
    /// The format.
    pub kind: DiskFormat,
    /// Whether the user said so by keyword or prefix. One that was not, and looks like another, is refused at start.
    pub named: bool,
}

/// What a disk image can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    /// The disk's bytes.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

impl DiskFormat {
    /// The format's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    /// The format of a word, in any case.
    pub fn of_word(word: &[u8]) -> Option<Self> {
        [Self::Raw, Self::Qcow2].into_iter().find(|format| format.word().as_bytes().eq_ignore_ascii_case(word))
    }
}

/// A disk as users name one: `raw:PATH`, `qcow2:PATH` or PATH, whose extension then decides, else it is raw
/// (openbsd/vmctl.md, 2.3, with the defect mended as in openbsd/devices.md, 3.5).
pub fn disk_argument(word: &[u8]) -> (ImageFormat, PathBuf) {
    for kind in [DiskFormat::Raw, DiskFormat::Qcow2] {
        let path = word.strip_prefix(kind.word().as_bytes()).and_then(|rest| rest.strip_prefix(b":"));
        if let Some(path) = path {
            return (ImageFormat { kind, named: true }, path_of(path));
        }
    }
    let path = path_of(word);
    (guessed_format(&path), path)
}

/// The format that a file's extension suggests, else raw.
pub(crate) fn guessed_format(path: &Path) -> ImageFormat {
    let extension = path.extension().map(OsStr::as_bytes).unwrap_or_default();
    let kind = DiskFormat::of_word(extension).unwrap_or(DiskFormat::Raw);
    ImageFormat { kind, named: false }
}

/// A path of these bytes.
pub(crate) fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()))
}

/// The bytes of a path.
pub(crate) fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// A network card of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// An address pair of its own with the host, and DHCP.
    pub local: bool,
    /// The tap wanted; `None` is any free one.
    pub tap: Option<IfName>,
    /// The switch it is attached to. It need not exist: then it is attached to nothing.
    pub switch: Option<SwitchName>,
    /// Group of the tap; `None` is the switch's.
    pub group: Option<InterfaceGroup>,
    /// The guest's address; `None` is a random one.
    pub lladdr: Option<MacAddr>,
    /// Frames from the guest with another source address are dropped.
    pub locked: bool,
    /// Routing domain; `None` is the switch's, else the daemon's.
    pub rdomain: Option<u8>,
    /// Whether the tap is set up or down.
    pub up: bool,
}

impl Default for Nic {
    fn default() -> Self {
        Self {
            local: false,
            tap: None,
            switch: None,
            group: None,
            lladdr: None,
            locked: false,
            rdomain: None,
            up: true,
        }
    }
}

/// `allow instance { }`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allow {
    /// What users may set differently from the template.
    pub rights: BTreeSet<Right>,
    /// Who may make instances; `None` is root alone.
    pub owner: Option<Owner>,
}

/// A thing that a user may set in an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// The kernel or firmware, with its initrd and command line.
    Boot,
    /// The CD-ROM.
    Cdrom,
    /// The number of CPUs.
    Cpus,
    /// Disks.
    Disk,
    /// Pass on these rights to instances of the instance.
    Instance,
    /// Network cards.
    Interface,
    /// The memory.
    Memory,
}

impl Right {
    /// The right's keyword.
    pub fn word(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Cdrom => "cdrom",
            Self::Cpus => "cpus",
            Self::Disk => "disk",
            Self::Instance => "instance",
            Self::Interface => "interface",
            Self::Memory => "memory",
        }
    }
}

/// AMD's memory encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sev {
    /// SEV: memory.
    Memory,
    /// SEV-ES: memory and CPU state.
    State,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(word: &str) -> (DiskFormat, bool, String) {
        let (format, path) = disk_argument(word.as_bytes());
        (format.kind, format.named, path.display().to_string())
    }

    #[test]
    fn prefix_names_the_format_and_extension_suggests_it() {
        assert_eq!(format("raw:/a.qcow2"), (DiskFormat::Raw, true, "/a.qcow2".into()));
        assert_eq!(format("qcow2:/a.img"), (DiskFormat::Qcow2, true, "/a.img".into()));
        assert_eq!(format("/a.QCOW2"), (DiskFormat::Qcow2, false, "/a.QCOW2".into()));
        assert_eq!(format("/a.img"), (DiskFormat::Raw, false, "/a.img".into()));
        assert_eq!(format("vmdk:x"), (DiskFormat::Raw, false, "vmdk:x".into()));
        assert_eq!(format("RAW:x"), (DiskFormat::Raw, false, "RAW:x".into()));
    }

    #[test]
    fn memory_is_whole_mebibytes_between_its_limits() {
        assert_eq!(MemorySize::from_bytes(1_048_575), Err(MemoryError::TooSmall));
        assert_eq!(MemorySize::from_bytes(-1), Err(MemoryError::TooSmall));
        assert_eq!(MemorySize::from_bytes(1_048_576).map(MemorySize::bytes), Ok(1_048_576));
        assert_eq!(MemorySize::from_bytes(3_000_000).map(MemorySize::bytes), Ok(2_097_152));
        assert_eq!(MemorySize::from_bytes(137_438_953_472).map(MemorySize::bytes), Ok(137_438_953_472));
        assert_eq!(MemorySize::from_bytes(137_438_953_473), Err(MemoryError::TooLarge));
    }
}
