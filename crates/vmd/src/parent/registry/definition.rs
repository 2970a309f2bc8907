//! What a VM is to be, whoever said so: a block of vm.conf, or a client's start request.

use std::sync::Arc;

use config::instance::Requester;
use config::model;
use config::register::{Refusal, VmRequest, register};
use proto::client::{BootDevice, DiskArg, DiskFormat, NicArg, Start};
use proto::names::BadName;
use proto::{Code, Failure, IfName, MAX_CMDLINE, MacAddr, SwitchName, Text, UserPath, VmName};

use super::access::{Owner, Who};
use crate::parent::conf::settings::{Names, definition_of};

/// The least that a stock kernel finds room in.
pub const MIN_MEMORY: u64 = 64 << 20;
/// Virtual CPUs of one VM (openbsd/daemon.md, 9).
pub const MAX_CPUS: u8 = 64;

/// A VM as defined.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Its name.
    pub name: VmName,
    /// Bytes of memory, whole MiB.
    pub memory: u64,
    /// Virtual CPUs.
    pub cpus: u8,
    /// Kernel or firmware.
    pub boot: Option<UserPath>,
    /// Initial RAM disk.
    pub initrd: Option<UserPath>,
    /// The kernel's command line.
    pub cmdline: Text<MAX_CMDLINE>,
    /// In guest-visible order.
    pub disks: Vec<Disk>,
    /// In guest-visible order.
    pub nics: Vec<Nic>,
    /// Whom it belongs to.
    pub owner: Owner,
    /// `user[:group]`, as its names are known.
    pub owner_name: Text<80>,
    /// Started with the daemon.
    pub enabled: bool,
    /// With one set, a reboot ends the VM.
    pub boot_device: Option<BootDevice>,
    /// From vm.conf: it stays listed when it stops.
    pub from_config: bool,
    /// The user who made it, and whose rights open its disks; nobody where root did.
    pub user: Option<Who>,
    /// The same in the words of vm.conf, for what may be made from it.
    pub model: Arc<config::model::Vm>,
}

/// A disk as defined.
#[derive(Clone, Debug, PartialEq)]
pub struct Disk {
    /// The image.
    pub path: UserPath,
    /// The format, and whether somebody said so or it is only raw for want of a word.
    pub format: DiskFormat,
    /// Called raw by keyword, prefix or extension.
    pub said: bool,
    /// The guest may only read.
    pub read_only: bool,
}

/// A network card as defined.
#[derive(Clone, Debug, PartialEq)]
pub struct Nic {
    /// The guest's address, kept for the life of the definition.
    pub mac: MacAddr,
    /// The tap, where one is named.
    pub tap: Option<IfName>,
    /// The switch it is on.
    pub switch: Option<SwitchName>,
    /// Its tap is up.
    pub up: bool,
    /// Frames from or to other addresses are dropped.
    pub locked: bool,
    /// Its routing domain, where it is on no switch.
    pub rdomain: Option<u8>,
    /// Number of its interface group: its own, else its switch's.
    pub group: Option<u32>,
    /// A network of its own with the host, which tells it its address.
    pub local: bool,
}

impl Disk {
    /// A disk by its path: the format from the word, else from the extension, else raw; never from contents.
    pub fn new(path: UserPath, word: Option<DiskFormat>) -> Self {
        let by_name = || match path.rsplit_once('.').map(|(_, extension)| extension) {
            Some(e) if e.eq_ignore_ascii_case("raw") => Some(DiskFormat::Raw),
            Some(e) if e.eq_ignore_ascii_case("qcow2") => Some(DiskFormat::Qcow2),
            Some(_) | None => None,
        };
        let said = word.or_else(by_name);
        Self { format: said.unwrap_or(DiskFormat::Raw), said: said.is_some(), read_only: false, path }
    }
}

/// `fe:e1:bb:d<N>:xx:yy` (openbsd/daemon.md, 3.13) from two random bytes.
pub fn generated_mac(index: usize, random: [u8; 2]) -> MacAddr {
    let low = u8::try_from((index + 1) & 15).unwrap_or(0);
    MacAddr([0xfe, 0xe1, 0xbb, 0xd0 + low, random[0], random[1]])
}

/// The definition that a client's request makes (openbsd/vmctl.md, 5), beside these switches; its own limits checked
/// again, as a client may say anything.
pub fn of_request(
    start: &Start,
    name: &VmName,
    known: &config::Config,
    names: &mut dyn Names,
) -> Result<Definition, Failure> {
    let request = request_of(start, name)?;
    let vm = register(request, None, Requester::ROOT, |name| known.switch(name)).map_err(|why| refused(name, &why))?;
    made_by_client(vm, start, known, names)
}

/// The definition of an instance of this template for who asks; that it may be made was asked before
/// (openbsd/daemon.md, 3.2).
pub fn of_instance(
    start: &Start,
    name: &VmName,
    template: &model::Vm,
    who: &Who,
    known: &config::Config,
    names: &mut dyn Names,
) -> Result<Definition, Failure> {
    let request = VmRequest {
        template: Some(template.name.clone()),
        owner: Some(model::Owner { uid: who.uid, gid: None }),
        ..request_of(start, name)?
    };
    let gids = who.gids();
    let requester = Requester { uid: who.uid, gids: &gids };
    let vm = register(request, Some(template), requester, |name| known.switch(name));
    let vm = vm.map_err(|why| refused(name, &why))?;
    let user = Some(who.clone()).filter(|who| !who.is_root());
    Ok(Definition { user, ..made_by_client(vm, start, known, names)? })
}

/// The failure of a VM that can't be made.
pub fn refused(name: &VmName, why: &Refusal) -> Failure {
    Failure::new(code_of(why), format!("vm \"{name}\": {why}"))
}

/// A kernel came open with the request, for its first boot alone: its path is of no use afterwards, nor to others.
fn made_by_client(
    mut vm: config::model::Vm,
    start: &Start,
    known: &config::Config,
    names: &mut dyn Names,
) -> Result<Definition, Failure> {
    vm.boot = vm.boot.filter(|_| start.kernel.is_none());
    if let Some(failure) = obstacle(&vm) {
        return Err(failure); // it would be forgotten right away
    }
    Ok(Definition { from_config: false, ..definition_of(&vm, known, names)? })
}

/// A request in the words of vm.conf; what to boot from is for that boot alone, and no part of the definition.
fn request_of(start: &Start, name: &VmName) -> Result<VmRequest, Failure> {
    let name = config::names::VmName::new(name.as_str().as_bytes());
    let name = name.map_err(|error| Failure::new(Code::Invalid, error.to_string()))?;
    let path = |path: &UserPath| std::path::PathBuf::from(path.as_str());
    let mut nics = Vec::new();
    for nic in &*start.nics {
        nics.push(match nic {
            NicArg::Plain => model::Nic::default(),
            NicArg::Local => model::Nic { local: true, ..model::Nic::default() },
            NicArg::Switch(name) => model::Nic { switch: Some(switch_name(name)?), ..model::Nic::default() },
        });
    }
    Ok(VmRequest {
        enabled: false,
        memory: start.memory.map(checked_memory).transpose()?,
        cpus: start.cpus.map(|cpus| checked_cpus(Some(cpus))).transpose()?,
        boot: start.kernel.as_ref().map(path),
        cdrom: start.cdrom.as_ref().map(path),
        disks: start.disks.iter().map(disk_of).collect(),
        nics,
        ..VmRequest::new(name)
    })
}

fn switch_name(name: &SwitchName) -> Result<config::names::SwitchName, Failure> {
    let bad = |error| Failure::new(Code::Invalid, format!("switch \"{name}\": {error}"));
    config::names::SwitchName::new(name.as_bytes()).map_err(bad)
}

fn disk_of(disk: &DiskArg) -> model::Disk {
    let path = std::path::PathBuf::from(disk.path.as_str());
    let named = |kind| model::ImageFormat { kind, named: true };
    let format = match disk.format {
        Some(DiskFormat::Raw) => named(model::DiskFormat::Raw),
        Some(DiskFormat::Qcow2) => named(model::DiskFormat::Qcow2),
        None => model::ImageFormat { kind: model::DiskFormat::Raw, named: false }, // the extension still counts
    };
    model::Disk { path, format }
}

/// The kind of a refusal (openbsd/daemon.md, 3.2; the odd codes of the original mended).
fn code_of(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::TemplateUnknown(_) => Code::ParentInvalid,
        Refusal::MayNotCreate
        | Refusal::MayNotSet(_)
        | Refusal::NetworkForeign
        | Refusal::UserMismatch
        | Refusal::GroupMismatch
        | Refusal::MayNotAllow => Code::NotPermitted,
        Refusal::DiskReused(_) | Refusal::LladdrReused | Refusal::TapReused => Code::Busy,
        Refusal::NoDevices => Code::DiskMissing,
        Refusal::NothingToBoot | Refusal::TooManyDisks(_) | Refusal::TooManyInterfaces(_) => Code::Invalid,
    }
}

fn checked_memory(asked: u64) -> Result<model::MemorySize, Failure> {
    let memory = asked & !((1 << 20) - 1);
    let size = i64::try_from(memory).ok().and_then(|memory| model::MemorySize::from_bytes(memory).ok());
    size.filter(|_| memory >= MIN_MEMORY).ok_or_else(|| {
        Failure::new(Code::Invalid, format!("memory of {} MiB is not within 64M and 128G", memory >> 20))
    })
}

/// The CPU count of a request.
pub fn checked_cpus(asked: Option<u8>) -> Result<u8, Failure> {
    match asked.unwrap_or(1) {
        cpus @ 1..=MAX_CPUS => Ok(cpus),
        other => Err(Failure::new(Code::Invalid, format!("{other} cpus are not within 1 and {MAX_CPUS}"))),
    }
}

/// The word for what this release does not do.
pub fn unsupported(what: &str) -> Failure {
    Failure::new(Code::Unsupported, format!("{what} is not supported by this release"))
}

/// What keeps a VM from starting, whoever asks: this release does not carry it out, or no kernel fits. The original's
/// definition stands too where the host lacks what it asks for.
pub fn obstacle(vm: &model::Vm) -> Option<Failure> {
    let qcow2 = vm.disks.iter().find(|disk| disk.format.kind == model::DiskFormat::Qcow2);
    if let Some(disk) = qcow2 {
        return Some(unsupported(&format!("disk \"{}\" in qcow2 format", disk.path.display())));
    }
    if vm.cdrom.is_some() {
        return Some(unsupported("a CD-ROM"));
    }
    if vm.sev.is_some() {
        return Some(unsupported("memory encryption"));
    }
    let small = || format!("memory of {} MiB is less than the 64 MiB that a kernel needs", vm.memory.bytes() >> 20);
    (vm.memory.bytes() < MIN_MEMORY).then(|| Failure::new(Code::Invalid, small()))
}

/// The failure of a name that does not obey its rule.
pub fn bad_name(name: &str, why: BadName) -> Failure {
    Failure::new(Code::Invalid, format!("invalid VM name \"{name}\": {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disks_format_is_the_word_then_the_extension_then_raw() {
        let path = |p: &str| UserPath::new(p).unwrap();
        for (name, word, format, said) in [
            ("/a", None, DiskFormat::Raw, false),
            ("/a.img", None, DiskFormat::Raw, false),
            ("/a.RAW", None, DiskFormat::Raw, true),
            ("/a.qcow2", None, DiskFormat::Qcow2, true),
            ("/a.qcow2", Some(DiskFormat::Raw), DiskFormat::Raw, true),
        ] {
            let disk = Disk::new(path(name), word);
            assert_eq!((disk.format, disk.said), (format, said), "{name}");
        }
    }

    #[test]
    fn generated_addresses_are_the_specs() {
        assert_eq!(generated_mac(0, [1, 2]).to_string(), "fe:e1:bb:d1:01:02");
        assert_eq!(generated_mac(15, [1, 2]).to_string(), "fe:e1:bb:d0:01:02");
    }

    #[test]
    fn memory_is_whole_mebibytes_within_its_bounds() {
        assert_eq!(checked_memory((100 << 20) + 5).unwrap().bytes(), 100 << 20);
        assert!(checked_memory(MIN_MEMORY - 1).is_err());
        assert!(checked_memory((128 << 30) + (1 << 20)).is_err());
        assert!(checked_memory(u64::MAX).is_err());
        assert!(checked_cpus(Some(0)).is_err() && checked_cpus(Some(65)).is_err() && checked_cpus(Some(64)).is_ok());
    }

    struct Nobody;

    impl Names for Nobody {
        fn owner(&mut self, _: Owner) -> String {
            String::new()
        }

        fn random(&mut self) -> [u8; 2] {
            [0; 2]
        }
    }

    #[test]
    fn a_vm_that_a_client_defines_starts_with_no_daemon_and_boots_from_a_device_once() {
        let start = Start {
            vm: proto::client::VmRef::Id(1),
            instance_of: None,
            memory: None,
            cpus: None,
            kernel: None,
            disks: proto::List::try_from(vec![DiskArg { path: UserPath::new("/d").unwrap(), format: None }]).unwrap(),
            cdrom: None,
            nics: proto::List::default(),
            boot_device: Some(BootDevice::Net),
        };
        let name = VmName::new("new").unwrap();
        let made = of_request(&start, &name, &config::Config::default(), &mut Nobody).unwrap();
        assert_eq!((made.enabled, made.boot_device, made.from_config), (false, None, false));
    }
}
