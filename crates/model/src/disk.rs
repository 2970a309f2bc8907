//! A disk of a VM, and how users name one.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::names::UserPath;
use crate::rate::DiskLimits;

/// Disks of one VM. The original allows 4; each is a process and a PCI slot here, and the bus has 32 slots.
pub const MAX_DISKS: usize = 16;

/// Bases of one disk: with its own image 16 files, each a descriptor of its process (the original: 3, openbsd/devices.md, 3.5).
pub const MAX_BASES: usize = 15;

/// A disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its image or block device; absolute from a file.
    pub path: UserPath,
    /// How the image is to be read.
    pub format: ImageFormat,
    /// How fast the guest may use it.
    pub limits: DiskLimits,
}

/// A disk image's format. Contents never decide it: a guest may have written them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFormat {
    /// The format.
    pub kind: DiskFormat,
    /// Whether the user said so by keyword or prefix. One that was not, and looks like another, is refused at start.
    pub named: bool,
}

/// What a disk image can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

    /// The format that a file's extension suggests, else raw.
    pub fn of_path(path: impl AsRef<Path>) -> Self {
        Self::of_extension(path).unwrap_or(Self::Raw)
    }

    /// The format that a file's extension suggests. A name that only begins with a dot has none.
    pub fn of_extension(path: impl AsRef<Path>) -> Option<Self> {
        Self::of_word(path.as_ref().extension()?.as_bytes())
    }

    /// The format of a word, in any case.
    pub fn of_word(word: &[u8]) -> Option<Self> {
        [Self::Raw, Self::Qcow2].into_iter().find(|format| format.word().as_bytes().eq_ignore_ascii_case(word))
    }
}

impl Disk {
    /// A disk at this path, without limits: what the user called it, else what its extension suggests, else raw.
    pub fn new(path: UserPath, word: Option<DiskFormat>) -> Self {
        let kind = word.unwrap_or_else(|| DiskFormat::of_path(&*path));
        Self { format: ImageFormat { kind, named: word.is_some() }, path, limits: DiskLimits::default() }
    }

    /// Whether somebody called it what it is: by keyword, by prefix or by the file's extension. One that was not is raw
    /// for want of a word.
    pub fn is_called(&self) -> bool {
        self.format.named || DiskFormat::of_extension(&*self.path).is_some()
    }
}

/// Takes `raw:` or `qcow2:` off the front of a disk as a user names one (openbsd/vmctl.md, 2.3, with the defect mended
/// as in openbsd/devices.md, 3.5).
pub fn split_prefix(word: &[u8]) -> (Option<DiskFormat>, &[u8]) {
    for format in [DiskFormat::Raw, DiskFormat::Qcow2] {
        let path = word.strip_prefix(format.word().as_bytes()).and_then(|rest| rest.strip_prefix(b":"));
        if let Some(path) = path {
            return (Some(format), path);
        }
    }
    (None, word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_prefix_is_taken_off() {
        assert_eq!(split_prefix(b"raw:/a.qcow2"), (Some(DiskFormat::Raw), &b"/a.qcow2"[..]));
        assert_eq!(split_prefix(b"qcow2:/a:b"), (Some(DiskFormat::Qcow2), &b"/a:b"[..]));
        for plain in ["/a", "vmdk:x", "RAW:x", "raw", ""] {
            assert_eq!(split_prefix(plain.as_bytes()), (None, plain.as_bytes()));
        }
    }

    #[test]
    fn the_extension_suggests_the_format_and_a_leading_dot_makes_none() {
        for qcow2 in ["/a.QCOW2", "a.qcow2", "/a.raw.qcow2"] {
            assert_eq!(DiskFormat::of_path(qcow2), DiskFormat::Qcow2, "{qcow2}");
        }
        for raw in ["/a.img", "/a", "/a.raw", "qcow2", ".qcow2", "/x/.qcow2", "a.qcow2.bak", "/a.qcow2/b"] {
            assert_eq!(DiskFormat::of_path(raw), DiskFormat::Raw, "{raw}");
        }
    }

    #[test]
    fn a_disks_format_is_the_word_then_the_extension_then_raw() {
        for (path, word, kind, named, called) in [
            ("/a", None, DiskFormat::Raw, false, false),
            ("/a.img", None, DiskFormat::Raw, false, false),
            ("/x/.raw", None, DiskFormat::Raw, false, false),
            ("/a.RAW", None, DiskFormat::Raw, false, true),
            ("/a.qcow2", None, DiskFormat::Qcow2, false, true),
            ("/x/.qcow2", None, DiskFormat::Raw, false, false),
            ("/a.qcow2", Some(DiskFormat::Raw), DiskFormat::Raw, true, true),
            ("/a", Some(DiskFormat::Raw), DiskFormat::Raw, true, true),
        ] {
            let disk = Disk::new(UserPath::new(path).unwrap(), word);
            assert_eq!((disk.format, disk.is_called()), (ImageFormat { kind, named }, called), "{path}");
        }
    }
}
