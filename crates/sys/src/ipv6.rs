//! IPv6 settings of interfaces (sysctl net.ipv6.conf), for a process that will have no path to them.
//!
//! The directory is opened while there is one, by a mount of its own: from it no name leads up. Which network namespace it
//! speaks of is that of the thread that asks.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, fcntl_dupfd_cloexec, read, write};
use rustix::mount::{OpenTreeFlags, open_tree};

/// The descriptor's number, so that a filter of system calls can tell it from others.
pub const NUMBER: i32 = 64;
const DIRECTORY: &str = "/proc/sys/net/ipv6/conf";
/// Bytes of a number of 32 bits and its newline.
const MAX_VALUE: usize = 16;

/// A setting that an interface has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// Of "all": the host forwards; of one interface: whether it behaves as a router's.
    Forwarding,
    /// This interface's packets are forwarded, whatever "all" says (Linux 6.17).
    ForceForwarding,
    /// Routers are believed: 1 unless the interface forwards, 2 always.
    AcceptRa,
    /// The interface has no IPv6 at all.
    DisableIpv6,
}

impl Setting {
    /// Those of forwarding.
    pub const ALL: [Self; 3] = [Self::Forwarding, Self::ForceForwarding, Self::AcceptRa];

    /// As the kernel calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forwarding => "forwarding",
            Self::ForceForwarding => "force_forwarding",
            Self::AcceptRa => "accept_ra",
            Self::DisableIpv6 => "disable_ipv6",
        }
    }
}

/// The open directory.
#[derive(Debug)]
pub struct Settings {
    directory: OwnedFd,
    lacking: Option<Setting>,
}

impl Settings {
    /// Opens it, as root of the mount namespace. A kernel without IPv6 has none.
    pub fn open() -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        Ok(Self { directory: open_tree(CWD, DIRECTORY, flags)?, lacking: None })
    }

    /// The same under its number, for a process that promises to open nothing else.
    pub fn open_at_its_number() -> io::Result<Self> {
        let directory = fcntl_dupfd_cloexec(&Self::open()?.directory, NUMBER)?;
        match std::os::fd::AsRawFd::as_raw_fd(&directory) {
            NUMBER => Ok(Self { directory, lacking: None }),
            _ => Err(Errno::MFILE.into()),
        }
    }

    /// As on an older kernel, which lacks this one.
    pub fn without(self, setting: Setting) -> Self {
        Self { lacking: Some(setting), ..self }
    }

    /// The value; none where the interface or the kernel lacks it.
    pub fn value(&self, interface: &str, setting: Setting) -> io::Result<Option<u32>> {
        let Some(file) = self.file(interface, setting, OFlags::RDONLY)? else { return Ok(None) };
        let mut bytes = [0; MAX_VALUE];
        let length = read(&file, &mut bytes)?;
        let text = bytes.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
        text.trim().parse().map(Some).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Sets it. False: the interface or the kernel lacks it.
    pub fn set(&self, interface: &str, setting: Setting, value: u32) -> io::Result<bool> {
        let Some(file) = self.file(interface, setting, OFlags::WRONLY)? else { return Ok(false) };
        let text = value.to_string();
        match write(&file, text.as_bytes()) {
            Ok(written) if written == text.len() => Ok(true),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(Errno::NODEV) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn file(&self, interface: &str, setting: Setting, access: OFlags) -> io::Result<Option<OwnedFd>> {
        if self.lacking == Some(setting) {
            return Ok(None);
        }
        let path = format!("{interface}/{}", setting.name());
        match openat(&self.directory, path, access | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(deprecated)] // rustix's safe `unshare`: CLONE_NEWNET alone shares no descriptors anew
    use rustix::thread::{UnshareFlags, unshare};

    use super::*;

    #[test]
    fn settings_are_told_and_set_in_the_threads_namespace_and_nothing_lies_above() {
        let of_lo = || std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/accept_ra").unwrap();
        let before = of_lo();
        std::thread::spawn(in_a_namespace).join().unwrap();
        assert_eq!(of_lo(), before);
    }

    fn in_a_namespace() {
        unshare(UnshareFlags::NEWNET).expect("a network namespace, as root");
        let settings = Settings::open().unwrap();
        let before = settings.value("lo", Setting::AcceptRa).unwrap().expect("IPv6");
        assert!(settings.set("lo", Setting::AcceptRa, 3 - before).unwrap());
        assert_eq!(settings.value("lo", Setting::AcceptRa).unwrap(), Some(3 - before));
        assert_eq!(settings.value("none", Setting::AcceptRa).unwrap(), None);
        assert!(!settings.set("none", Setting::Forwarding, 1).unwrap());
        assert_eq!(settings.value("all", Setting::Forwarding).unwrap(), Some(0));
        for up in ["..", "../../..", "lo/../../../.."] {
            assert_eq!(settings.value(up, Setting::Forwarding).unwrap(), None, "{up}");
        }
        for outside in ["../../../../../etc/passwd", "../../ipv4/ip_forward"] {
            let found = openat(&settings.directory, outside, OFlags::RDONLY, Mode::empty());
            assert_eq!(found.err(), Some(Errno::NOENT), "{outside}");
        }
    }
}
