//! A whole VM, and what its instances may change.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::memory::MemorySize;
use crate::names::{UserPath, VmName, name, none_of};
use crate::nic::Nic;
use crate::owner::Owner;

/// CPUs of one VM (openbsd/vm.conf.md, 10.1).
pub const MAX_CPUS: u8 = 64;

/// Bytes of a kernel command line: Linux's COMMAND_LINE_SIZE on x86 (2048) less the end. A longer one would be cut.
pub const MAX_CMDLINE: usize = 2047;

/// Deaths of its devices' processes within a minute that a VM outlives where its block says nothing.
pub const DEVICE_RESTARTS: u8 = 5;

/// The most that it may say: devices that die more often than that serve nobody.
pub const MAX_DEVICE_RESTARTS: u8 = 100;

/// Bytes of a VM's description: a line of text, and few enough that an answer to `vmctl status` holds many VMs.
pub const MAX_DESCRIPTION: usize = 127;

/// `vm NAME { }`, with all defaults and what its template gave filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// Its name.
    pub name: VmName,
    /// The VM it was made from, if it is an instance.
    pub template: Option<VmName>,
    /// What it is for, in its owner's words.
    pub description: Option<Description>,
    /// Whether it starts with the daemon.
    pub enabled: bool,
    /// Memory of the guest.
    pub memory: MemorySize,
    /// CPUs of the guest: 1 to [`MAX_CPUS`].
    pub cpus: u8,
    /// Kernel or firmware, absolute; `None` is the default firmware.
    pub boot: Option<UserPath>,
    /// What the firmware or kernel is to boot from.
    pub boot_device: Option<BootDevice>,
    /// The kernel's initial RAM disk, absolute.
    pub initrd: Option<UserPath>,
    /// The kernel's command line.
    pub cmdline: Option<CommandLine>,
    /// It has a CD-ROM drive, and this image is in it, as written: it is looked for when the VM starts. Empty: the drive is.
    pub cdrom: Option<UserPath>,
    /// Disks in the guest's order, at most [`crate::MAX_DISKS`].
    pub disks: Vec<Disk>,
    /// Network cards in the guest's order, at most [`crate::MAX_NICS`]; those that `interfaces` asked for too.
    pub nics: Vec<Nic>,
    /// Who may start, stop and pause it.
    pub owner: Owner,
    /// What its instances may change, and who may make them.
    pub allow: Allow,
    /// Memory encryption.
    pub sev: Option<Sev>,
    /// It has vmmci, OpenBSD's control device.
    pub vmmci: bool,
    /// Deaths of its devices' processes within a minute that it outlives; `None` is [`DEVICE_RESTARTS`].
    pub device_restarts: Option<u8>,
    /// It has a balloon, which leaves the guest at least so much memory.
    pub balloon: Option<MemorySize>,
}

impl Vm {
    /// A VM that has nothing but its name and the defaults.
    pub fn new(name: VmName) -> Self {
        Self {
            name,
            template: None,
            description: None,
            enabled: true,
            memory: MemorySize::DEFAULT,
            cpus: 1,
            boot: None,
            boot_device: None,
            initrd: None,
            cmdline: None,
            cdrom: None,
            disks: Vec::new(),
            nics: Vec::new(),
            owner: Owner::default(),
            allow: Allow::default(),
            sev: None,
            vmmci: false,
            device_restarts: None,
            balloon: None,
        }
    }

    /// The image that is in its CD-ROM drive when it starts.
    pub fn medium(&self) -> Option<&UserPath> {
        self.cdrom.as_ref().filter(|path| !path.is_empty())
    }

    /// What it says in text, each with its word of vm.conf.
    pub fn texts(&self) -> [(&'static str, Option<&str>); 5] {
        [
            ("description", self.description.as_ref().map(Description::as_str)),
            ("boot", self.boot.as_deref()),
            ("initrd", self.initrd.as_deref()),
            ("cmdline", self.cmdline.as_ref().map(CommandLine::as_str)),
            ("cdrom", self.cdrom.as_deref()),
        ]
    }

    /// Takes over from its template what it does not say itself; that it may say the rest was checked before. Kernel, initrd
    /// and command line belong together: a VM that names a kernel inherits none of the three.
    pub fn inherit(&mut self, template: &Self) {
        self.description = self.description.take().or_else(|| template.description.clone());
        if self.boot.is_none() {
            self.boot.clone_from(&template.boot);
            self.initrd = self.initrd.take().or_else(|| template.initrd.clone());
            self.cmdline = self.cmdline.take().or_else(|| template.cmdline.clone());
        }
        self.vmmci |= template.vmmci;
        self.device_restarts = self.device_restarts.or(template.device_restarts);
        self.balloon = self.balloon.or(template.balloon);
        self.cdrom = self.cdrom.take().or_else(|| template.cdrom.clone());
        // A copied card is the template's in all but what only one VM can have: its address and its tap.
        let missing = template.nics.iter().skip(self.nics.len());
        self.nics.extend(missing.map(|nic| Nic { lladdr: None, tap: None, ..nic.clone() }));
        if template.allow.rights.contains(&Right::Instance) {
            self.allow = template.allow.clone();
        }
    }
}

/// `boot device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootDevice {
    /// The CD-ROM only.
    Cdrom,
    /// The first disk only.
    Disk,
    /// The network.
    Net,
}

impl BootDevice {
    /// The device's word, in vm.conf and on command lines.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cdrom => "cdrom",
            Self::Disk => "disk",
            Self::Net => "net",
        }
    }

    /// The device of a word.
    pub fn of_word(word: &[u8]) -> Option<Self> {
        [Self::Cdrom, Self::Disk, Self::Net].into_iter().find(|device| device.word().as_bytes() == word)
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

name!(
    /// What a kernel is told at boot: UTF-8 of at most [`MAX_CMDLINE`] bytes, none of them NUL; it may be empty.
    CommandLine,
    MAX_CMDLINE,
    |text| none_of(text, |c| c == '\0')
);

name!(
    /// What a VM is for: UTF-8 of at most [`MAX_DESCRIPTION`] bytes without control characters; it may be empty.
    Description,
    MAX_DESCRIPTION,
    |text| none_of(text, char::is_control)
);

/// A kernel that is told nothing.
impl Default for CommandLine {
    fn default() -> Self {
        Self(Default::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::NameError;

    #[test]
    fn boot_devices_and_rights_have_the_words_of_vm_conf() {
        let devices = [BootDevice::Cdrom, BootDevice::Disk, BootDevice::Net];
        assert_eq!(devices.map(BootDevice::word), ["cdrom", "disk", "net"]);
        assert_eq!(devices.map(|device| BootDevice::of_word(device.word().as_bytes())), devices.map(Some));
        assert_eq!((BootDevice::of_word(b"Disk"), BootDevice::of_word(b"")), (None, None));
        let rights =
            [Right::Boot, Right::Cdrom, Right::Cpus, Right::Disk, Right::Instance, Right::Interface, Right::Memory];
        assert_eq!(rights.map(Right::word), ["boot", "cdrom", "cpus", "disk", "instance", "interface", "memory"]);
    }

    #[test]
    fn a_description_is_one_line_of_127_bytes_without_control_characters() {
        for text in ["", "Ann's web server: \u{2014} caf\u{e9}", &"x".repeat(127)] {
            assert_eq!(Description::new(text).map(|text| text.to_string()).as_deref(), Ok(text));
        }
        for (bad, why) in [
            ("x".repeat(128).as_bytes(), NameError::TooLong(127)),
            (b"a\tb", NameError::Character('\t')),
            (b"\x1b[31m", NameError::Character('\x1b')),
            ("a\u{9b}".as_bytes(), NameError::Character('\u{9b}')),
            (b"a\xff", NameError::NotUtf8),
        ] {
            assert_eq!(Description::new(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn command_line_ends_at_2047_bytes() {
        assert!(CommandLine::new([b'x'; 2047]).is_ok());
        assert_eq!(CommandLine::new([b'x'; 2048]), Err(NameError::TooLong(2047)));
        assert_eq!(CommandLine::new(b"a\0b"), Err(NameError::Character('\0')));
        assert_eq!(CommandLine::new(b"a\xe9"), Err(NameError::NotUtf8));
        assert_eq!(CommandLine::new("").as_ref(), Ok(&CommandLine::default()));
    }
}
