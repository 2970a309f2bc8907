//! How a file is opened, whether it is what was wanted, and the sentence when it is not. Pure.

use std::os::fd::OwnedFd;

use proto::opener::{Asker, FileId, OpenFile, What};
use proto::{Code, Failure};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use sys::lock::Kind as LockKind;
use sys::reach::Barrier;

/// Bytes of the shortest disk: one sector (virtio 1.2, 5.2.4: capacity in units of 512 bytes).
pub const MIN_DISK: u64 = disk::SECTOR;

/// Bytes of the shortest CD-ROM image: one block.
pub const MIN_CDROM: u64 = 2048;

/// How a file is opened for `what`. Never created; a fifo does not wait for its other end; a terminal does not become
/// ours. Symbolic links are followed: it is the file they lead to that the user must be allowed to open.
pub fn flags(what: What) -> OFlags {
    let always = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match what {
        // O_EXCL without O_CREAT refuses a block device that the host uses, for a mounted file system say (open(2)).
        What::Disk { write: true } => always | OFlags::RDWR | OFlags::EXCL,
        What::Disk { write: false } | What::Base | What::Kernel | What::Initrd | What::Cdrom => always | OFlags::RDONLY,
    }
}

/// The lock that goes with it. Kernels are read once; a CD-ROM is read all the time, by any number of VMs.
pub fn lock(what: What) -> Option<LockKind> {
    match what {
        What::Disk { write: true } => Some(LockKind::Exclusive),
        What::Disk { write: false } | What::Base | What::Cdrom => Some(LockKind::Shared),
        What::Kernel | What::Initrd => None,
    }
}

/// An open file that may be handed over.
#[derive(Debug)]
pub struct Opened {
    /// The descriptor.
    pub fd: OwnedFd,
    /// What it is.
    pub file: OpenFile,
}

/// Why a file is not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A path that is not from the root means nothing here.
    Relative,
    /// The kernel refused.
    Open(Errno),
    /// A right is missing, and this is where.
    Denied(Barrier),
    /// It is open, and something else than was wanted.
    Type(FileType),
    /// Shorter than a sector.
    Short(u64),
    /// A block device that takes no writes, as after `losetup -r`: the kernel says so of none until the first write.
    ReadOnly,
    /// Nothing is in it.
    Empty,
    /// Somebody else has locked this file; who, if the kernel tells.
    Locked(FileId, Option<u32>),
    /// It is open, and a question about it failed.
    Examine(Errno),
}

/// Whether a file of this type may be what was wanted.
pub fn check_type(what: What, found: FileType) -> Result<(), Refusal> {
    match (what, found) {
        (_, FileType::RegularFile) | (What::Disk { .. } | What::Base | What::Cdrom, FileType::BlockDevice) => Ok(()),
        (_, other) => Err(Refusal::Type(other)),
    }
}

/// Whether it is long enough.
pub fn check_size(what: What, size: u64) -> Result<(), Refusal> {
    match what {
        What::Disk { .. } if size < MIN_DISK => Err(Refusal::Short(size)),
        What::Cdrom if size < MIN_CDROM => Err(Refusal::Short(size)),
        What::Initrd if size == 0 => Err(Refusal::Empty),
        // The probe judges kernels; a base that is shorter than the disk reads as zeros beyond its end.
        What::Disk { .. } | What::Base | What::Kernel | What::Initrd | What::Cdrom => Ok(()),
    }
}

/// The answer to a refused request. `user` is the asker's name, if it is known.
pub fn failure(refusal: Refusal, what: What, path: &str, asker: &Asker, user: Option<&str>) -> Failure {
    let why = match refusal {
        Refusal::Relative => "the path must begin with \"/\"".to_owned(),
        Refusal::Open(errno) => open_sentence(errno, None, what, path, asker, user),
        Refusal::Denied(barrier) => open_sentence(Errno::ACCESS, Some(barrier), what, path, asker, user),
        Refusal::Type(found) => format!("is {}, {} must be {}", type_name(found), noun(what), wanted(what)),
        Refusal::Short(size) if what == What::Cdrom => {
            format!("has {size} bytes, but a CD-ROM image has at least {MIN_CDROM}; name another file")
        }
        Refusal::Short(size) => {
            format!(
                "has {size} bytes, but a disk has at least {MIN_DISK}; create one with \"vmctl create -s SIZE {path}\""
            )
        }
        Refusal::ReadOnly => {
            "is a read-only block device; make it writable (blockdev --setrw, losetup without -r), or copy it"
                .to_owned()
        }
        Refusal::Empty => "is empty; name another file, or leave the option out".to_owned(),
        Refusal::Locked(_, Some(pid)) => format!("already in use by process {pid}; end it, or name another image"),
        Refusal::Locked(_, None) => {
            "already in use by another program or daemon; end it, or name another image".to_owned()
        }
        Refusal::Examine(errno) => reason(errno),
    };
    Failure::new(code(refusal, what), format!("{} \"{path}\": {why}", noun(what)))
}

/// The numbers that OpenBSD's clients know for each kind of file (openbsd/daemon.md, 3.5).
fn code(refusal: Refusal, what: What) -> Code {
    match (refusal, what) {
        (Refusal::Denied(_) | Refusal::ReadOnly | Refusal::Open(Errno::ACCESS | Errno::PERM | Errno::ROFS), _) => {
            Code::NotPermitted
        }
        (Refusal::Type(_) | Refusal::Short(_), What::Cdrom) => Code::CdromInvalid,
        (Refusal::Relative | Refusal::Short(_) | Refusal::Empty, _) => Code::Invalid,
        (Refusal::Type(_), _) => Code::NotPermitted,
        (Refusal::Open(_) | Refusal::Locked(..), What::Disk { .. } | What::Base) => Code::DiskMissing,
        (Refusal::Open(_), What::Cdrom) => Code::CdromMissing,
        (Refusal::Open(errno) | Refusal::Examine(errno), _) => Code::of_errno(errno.raw_os_error()),
        (Refusal::Locked(..), _) => Code::Busy,
    }
}

fn open_sentence(
    errno: Errno,
    barrier: Option<Barrier>,
    what: What,
    path: &str,
    asker: &Asker,
    user: Option<&str>,
) -> String {
    match errno {
        Errno::ACCESS | Errno::PERM => match asker {
            Asker::Root => {
                "permission denied even to root: a network file system or a flag of the file forbids it".into()
            }
            Asker::User { uid, .. } => {
                let user = user.map_or_else(|| uid.to_string(), |name| format!("\"{name}\""));
                let barrier = barrier.map(|it| format!(": {}", it.told(path, "that user"))).unwrap_or_default();
                let whose = match what {
                    What::Base => {
                        "an image's base is opened with the rights of who names the image, and where it does not \
                                   lie beside an image that root names, with those of \"nobody\""
                            .to_owned()
                    }
                    What::Disk { .. } | What::Kernel | What::Initrd | What::Cdrom => {
                        format!("a {} you name is opened with your own rights", noun(what))
                    }
                };
                format!("permission denied to user {user}{barrier}; {whose}")
            }
        },
        Errno::NAMETOOLONG => "a name in the path is longer than 255 bytes; correct the path".to_owned(),
        Errno::NOTDIR => "a part of the path before its last is no directory; correct the path".to_owned(),
        Errno::ROFS => {
            "it lies on a file system that is read-only; mount that for writing, or copy the image".to_owned()
        }
        Errno::NOENT => match what {
            What::Disk { .. } => {
                format!("no such file; make a disk with \"vmctl create -s SIZE {path}\", or correct the path")
            }
            What::Base => {
                "no such file; put it there, or tell the image where it is with \"qemu-img rebase -u\"".to_owned()
            }
            What::Kernel | What::Initrd | What::Cdrom => "no such file; correct the path".to_owned(),
        },
        Errno::BUSY => "already in use by the host, as a mounted file system perhaps".to_owned(),
        Errno::ISDIR => format!("is a directory, {} must be {}", noun(what), wanted(what)),
        Errno::NXIO => format!("is a socket, or a device without a driver; {} must be {}", noun(what), wanted(what)),
        other => reason(other),
    }
}

/// What the kernel's number means, as our sentences are: lower case, without the number.
fn reason(errno: Errno) -> String {
    let words = proto::failure::plain(&errno.into());
    let mut letters = words.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// What messages call it.
pub fn noun(what: What) -> &'static str {
    match what {
        What::Kernel => "kernel",
        What::Initrd => "initrd",
        What::Cdrom => "cdrom",
        What::Disk { .. } => "disk",
        What::Base => "base",
    }
}

fn wanted(what: What) -> &'static str {
    match what {
        What::Kernel | What::Initrd => "a regular file",
        What::Cdrom | What::Disk { .. } | What::Base => "a regular file or a block device",
    }
}

fn type_name(found: FileType) -> &'static str {
    match found {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a fifo",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Unknown => "nothing known",
    }
}
