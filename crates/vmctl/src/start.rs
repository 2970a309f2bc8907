//! `start`: its arguments and what can be refused without the daemon (openbsd/vmctl.md, 5).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use model::{
    BootDevice, DiskFormat, MAX_CPUS, MAX_DISKS, MAX_NAME, MAX_NICS, MemorySize, NameError, SwitchName, VmName,
};
use proto::client::{NicArg, VmRef};

use crate::getopt;
use crate::words::{self, WordError, Wrong};

/// What the usage shows.
pub(crate) const SYNTAX: &str = "[-cLw] [-B device] [-b path] [-d disk] [-i count]
\t\t[-m size] [-n switch] [-p count] [-r path] [-t name] id | name";

/// Why a VM can't be defined by these options alone.
const NOTHING_TO_BOOT: &str = "no kernel or disk/cdrom specified: give -b, -d or -r, or only the name of a known vm";

/// A start as it was asked for; paths are not looked at yet.
#[derive(Debug, PartialEq)]
pub struct Start {
    /// Which VM.
    pub vm: VmRef,
    /// `-c`: attach to its console then.
    pub console: bool,
    /// `-w`: if it is being stopped, wait until it has.
    pub wait: bool,
    /// `-t`: make an instance of this VM.
    pub template: Option<VmName>,
    /// `-m`.
    pub memory: Option<MemorySize>,
    /// `-p`.
    pub cpus: Option<u8>,
    /// `-b`.
    pub kernel: Option<OsString>,
    /// `-B`.
    pub boot_device: Option<BootDevice>,
    /// `-d`, with the format that a prefix gave.
    pub disks: Vec<(OsString, Option<DiskFormat>)>,
    /// `-r`.
    pub cdrom: Option<OsString>,
    /// `-L`, `-n` and what `-i` adds.
    pub nics: Vec<NicArg>,
    /// What is said but does not stop the start.
    pub warnings: Vec<String>,
}

pub(crate) fn parse(arguments: &[OsString]) -> Result<Start, Wrong> {
    let parsed = getopt::parse("B:b:cd:i:Lm:n:p:r:t:w", arguments)?;
    let mut start = Start {
        vm: VmRef::Id(0),
        console: false,
        wait: false,
        template: None,
        memory: None,
        cpus: None,
        kernel: None,
        boot_device: None,
        disks: Vec::new(),
        cdrom: None,
        nics: Vec::new(),
        warnings: Vec::new(),
    };
    let mut least_nics = None;
    for (letter, value) in parsed.options {
        start.option(letter, value, &mut least_nics)?;
    }
    let [word] = <[OsString; 1]>::try_from(parsed.operands).map_err(|_| Wrong::Usage)?;
    start.vm = new_vm_ref(&word)?;
    start.check(least_nics)?;
    Ok(start)
}

/// An id, or a name that a new VM could have.
fn new_vm_ref(word: &OsString) -> Result<VmRef, Wrong> {
    words::vm_ref(word).map_err(|error| match error {
        WordError::Id(word, reason) if !word.is_empty() => WordError::VmName(word, reason).into(),
        error => error.into(),
    })
}

/// Sets what may be given once.
fn once<T>(place: &mut Option<T>, what: &str, value: T) -> Result<(), Wrong> {
    if place.is_some() {
        return Err(Wrong::Said(format!("{what} specified multiple times")));
    }
    *place = Some(value);
    Ok(())
}

impl Start {
    fn option(&mut self, letter: char, value: OsString, least_nics: &mut Option<usize>) -> Result<(), Wrong> {
        match letter {
            'B' => once(&mut self.boot_device, "boot device", boot_device(&value)?)?,
            'b' => once(&mut self.kernel, "boot image", value)?,
            'c' => self.console = true,
            'd' => {
                let (format, path) = model::split_prefix(value.as_bytes());
                self.disks.push((OsStr::from_bytes(path).to_owned(), format));
            }
            'i' => once(least_nics, "interfaces", nic_count(&value)?)?,
            'L' => self.nics.push(NicArg::Local),
            'm' => {
                let (size, rounded) = words::memory(&value)?;
                once(&mut self.memory, "memory", size)?;
                self.warnings.extend(rounded);
            }
            'n' => self.nics.push(nic(&value)?),
            'p' => {
                let cpus = words::count("cpu count", &value, 1, MAX_CPUS.into())?;
                once(&mut self.cpus, "cpus", u8::try_from(cpus).unwrap_or(1))?;
            }
            'r' => once(&mut self.cdrom, "iso image", value)?,
            'w' => self.wait = true,
            _ => self.template = Some(template(&value)?),
        }
        Ok(())
    }

    /// The checks of openbsd/vmctl.md, 5.1; the limits hold in every case.
    fn check(&mut self, least_nics: Option<usize>) -> Result<(), Wrong> {
        let said = |text: &str| Err(Wrong::Said(text.to_owned()));
        let devices = self.memory.is_some() || self.has_images() || !self.nics.is_empty() || least_nics.is_some();
        if self.disks.len() > MAX_DISKS {
            return said(&format!("too many disks: at most {MAX_DISKS}"));
        }
        if self.nics.len().max(least_nics.unwrap_or(0)) > MAX_NICS {
            return said(&format!("too many network interfaces: at most {MAX_NICS}"));
        }
        let missing = least_nics.unwrap_or(0).saturating_sub(self.nics.len());
        self.nics.extend(std::iter::repeat_n(NicArg::Plain, missing));
        if !devices || self.template.is_some() {
            return Ok(());
        }
        if self.disks.is_empty() && self.kernel.is_none() {
            self.warnings.push("starting without disks".to_owned());
        }
        if !self.has_images() {
            // The warnings are said too, as where they stop nothing.
            self.warnings.push(NOTHING_TO_BOOT.to_owned());
            return said(&self.warnings.join("\nvmctl: "));
        }
        if self.nics.is_empty() && self.kernel.is_none() {
            self.warnings.push("starting without network interfaces".to_owned());
        }
        Ok(())
    }

    fn has_images(&self) -> bool {
        self.kernel.is_some() || self.cdrom.is_some() || !self.disks.is_empty()
    }
}

fn boot_device(value: &OsString) -> Result<BootDevice, Wrong> {
    BootDevice::of_word(value.as_bytes())
        .ok_or_else(|| Wrong::Said(format!("unknown boot device {}: expected cdrom, disk or net", words::shown(value))))
}

fn nic_count(value: &OsString) -> Result<usize, Wrong> {
    let most = i64::try_from(MAX_NICS).unwrap_or(i64::MAX);
    let count = words::count("count", value, 1, i64::from(i32::MAX))
        .or_else(|_| words::count("count", value, 1, most))
        .map_err(|error| Wrong::Said(format!("{error}\nvmctl: invalid interface count: {}", words::shown(value))))?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// `.` is no switch but a local interface, as in the original; the empty name means no switch, as in vm.conf.
fn nic(value: &OsString) -> Result<NicArg, Wrong> {
    match value.to_str() {
        Some(".") => Ok(NicArg::Local),
        Some("") => Ok(NicArg::Plain),
        Some(name) => match SwitchName::new(name) {
            Ok(name) => Ok(NicArg::Switch(name)),
            Err(NameError::TooLong(_)) => {
                Err(Wrong::Said(format!("interface name too long: {name}; a switch has at most {MAX_NAME} bytes")))
            }
            Err(why) => Err(Wrong::Said(format!("invalid switch \"{name}\": {why}"))),
        },
        None => Err(Wrong::Said(format!("switch name is not UTF-8: {}", words::shown(value)))),
    }
}

fn template(value: &OsString) -> Result<VmName, Wrong> {
    words::name(value).map_err(|error| match error {
        WordError::IdTooLong(word) => {
            Wrong::Said(format!("instance vm name too long: at most {MAX_NAME} bytes\nvmctl: invalid name: {word}"))
        }
        WordError::Id(word, reason) => {
            Wrong::Said(format!("invalid name: {word}: {reason}; -t takes the name of the vm to make an instance of"))
        }
        error => error.into(),
    })
}
