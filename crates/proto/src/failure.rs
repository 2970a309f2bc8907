//! What went wrong, in one word for programs and one sentence for people; the only place where words become numbers.

use model::Text;
use serde::{Deserialize, Serialize};

/// The kind of a failure. Numbers over 1000 are vmd's own and seen by clients (openbsd/daemon.md, 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Code {
    /// EPERM: the asker may not.
    NotPermitted,
    /// ENOENT: there is no such thing.
    NotFound,
    /// EALREADY: it is so, or being done.
    Already,
    /// EINVAL: the request makes no sense.
    Invalid,
    /// EBUSY: somebody else has it.
    Busy,
    /// EEXIST: the name is taken.
    Exists,
    /// ENOMEM: no memory.
    NoMemory,
    /// EIO: a process or a device failed.
    Io,
    /// EMFILE: no descriptor left.
    NoDescriptors,
    /// ETIMEDOUT: no answer in time.
    TimedOut,
    /// EOPNOTSUPP: known, not carried out by this release.
    Unsupported,
    /// ENOEXEC: not a kernel that can be started.
    NotExecutable,
    /// ENODEV: the host lacks something, such as a working /dev/kvm.
    NoDevice,
    /// EAGAIN: too many at once, later perhaps.
    TooMany,
    /// VMD_BIOS_MISSING.
    BiosMissing,
    /// VMD_DISK_MISSING.
    DiskMissing,
    /// VMD_VM_STOP_INVALID.
    StopInvalid,
    /// VMD_CDROM_MISSING.
    CdromMissing,
    /// VMD_CDROM_INVALID.
    CdromInvalid,
    /// VMD_PARENT_INVALID.
    ParentInvalid,
}

impl Code {
    /// Linux's errno, or vmd's own number.
    pub fn number(self) -> i32 {
        match self {
            Code::NotPermitted => 1,
            Code::NotFound => 2,
            Code::Io => 5,
            Code::NotExecutable => 8,
            Code::TooMany => 11,
            Code::NoMemory => 12,
            Code::Busy => 16,
            Code::Exists => 17,
            Code::NoDevice => 19,
            Code::Invalid => 22,
            Code::NoDescriptors => 24,
            Code::Unsupported => 95,
            Code::TimedOut => 110,
            Code::Already => 114,
            Code::BiosMissing => 1001,
            Code::DiskMissing => 1002,
            Code::StopInvalid => 1004,
            Code::CdromMissing => 1005,
            Code::CdromInvalid => 1006,
            Code::ParentInvalid => 1007,
        }
    }

    /// The kind that an errno of the kernel means here.
    pub fn of_errno(errno: i32) -> Self {
        match errno {
            1 | 13 => Code::NotPermitted,
            2 | 20 => Code::NotFound,
            8 => Code::NotExecutable,
            11 => Code::TooMany,
            12 => Code::NoMemory,
            16 | 26 => Code::Busy,
            17 => Code::Exists,
            6 | 19 => Code::NoDevice,
            22 | 36 => Code::Invalid,
            23 | 24 => Code::NoDescriptors,
            95 => Code::Unsupported,
            110 => Code::TimedOut,
            114 => Code::Already,
            _ => Code::Io,
        }
    }
}

/// A failure: its kind, and a sentence that says what failed, with which value, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// The kind.
    pub code: Code,
    /// Lower case, no full stop, values quoted.
    pub text: Text<1024>,
}

impl Failure {
    /// A failure of a kind; text over 1024 bytes is cut.
    pub fn new(code: Code, text: impl AsRef<str>) -> Self {
        Self { code, text: Text::cut(text.as_ref()) }
    }

    /// What `what` did when the system refused it.
    pub fn io(what: impl AsRef<str>, error: &std::io::Error) -> Self {
        let code = error.raw_os_error().map_or(Code::Io, Code::of_errno);
        Self::new(code, format!("{}: {}", what.as_ref(), plain(error)))
    }
}

/// The system's words for an error, without Rust's number behind them.
pub fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_as_their_kind() {
        use Code::*;
        let errnos = [
            (NotPermitted, 1),
            (NotFound, 2),
            (Io, 5),
            (NotExecutable, 8),
            (TooMany, 11),
            (NoMemory, 12),
            (Busy, 16),
            (Exists, 17),
            (NoDevice, 19),
            (Invalid, 22),
            (NoDescriptors, 24),
            (Unsupported, 95),
            (TimedOut, 110),
            (Already, 114),
        ];
        for (code, number) in errnos {
            assert_eq!((code.number(), Code::of_errno(number)), (number, code));
        }
        for (errno, code) in
            [(13, NotPermitted), (20, NotFound), (26, Busy), (6, NoDevice), (36, Invalid), (23, NoDescriptors), (9, Io)]
        {
            assert_eq!(Code::of_errno(errno), code, "{errno}");
        }
        let own = [BiosMissing, DiskMissing, StopInvalid, CdromMissing, CdromInvalid, ParentInvalid];
        assert_eq!(own.map(Code::number), [1001, 1002, 1004, 1005, 1006, 1007]);
    }

    #[test]
    fn what_the_system_refused_is_said_in_its_words() {
        let full = std::io::Error::from_raw_os_error(28);
        assert_eq!(plain(&full), "No space left on device");
        let failure = Failure::io("disk \"/a b\"", &std::io::Error::from_raw_os_error(2));
        assert_eq!((failure.code, failure.text.as_str()), (Code::NotFound, "disk \"/a b\": No such file or directory"));
        let failure = Failure::io("image", &std::io::Error::other("odd"));
        assert_eq!((failure.code, failure.text.as_str()), (Code::Io, "image: odd"));
    }
}
