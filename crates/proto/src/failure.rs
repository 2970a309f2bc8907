//! What went wrong, in one word for programs and one sentence for people; the only place where words become numbers.

use model::Text;
use serde::{Deserialize, Serialize};

/// The kind of a failure. Numbers over 1000 are vmd's own and seen by clients (openbsd/daemon.md, 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Code {
    /// EPERM: the asker may not.
    NotPermitted = 1,
    /// ENOENT: there is no such thing.
    NotFound = 2,
    /// EALREADY: it is so, or being done.
    Already = 114,
    /// EINPROGRESS: not before what is under way has ended.
    InProgress = 115,
    /// EINVAL: the request makes no sense.
    Invalid = 22,
    /// EBUSY: somebody else has it.
    Busy = 16,
    /// EEXIST: the name is taken.
    Exists = 17,
    /// ENOMEM: no memory.
    NoMemory = 12,
    /// EIO: a process or a device failed.
    Io = 5,
    /// EMFILE: no descriptor left.
    NoDescriptors = 24,
    /// ETIMEDOUT: no answer in time.
    TimedOut = 110,
    /// EOPNOTSUPP: known, not carried out by this release.
    Unsupported = 95,
    /// ENOEXEC: not a kernel that can be started.
    NotExecutable = 8,
    /// ENODEV: the host lacks something, such as a working /dev/kvm.
    NoDevice = 19,
    /// EAGAIN: too many at once, later perhaps.
    TooMany = 11,
    /// VMD_BIOS_MISSING.
    BiosMissing = 1001,
    /// VMD_DISK_MISSING.
    DiskMissing = 1002,
    /// VMD_VM_STOP_INVALID.
    StopInvalid = 1004,
    /// VMD_CDROM_MISSING.
    CdromMissing = 1005,
    /// VMD_CDROM_INVALID.
    CdromInvalid = 1006,
    /// VMD_PARENT_INVALID.
    ParentInvalid = 1007,
}

impl Code {
    /// Linux's errno, or vmd's own number.
    pub fn number(self) -> i32 {
        self as i32
    }

    /// It is for who asked to mend, by another request or other files; else the daemon or its host has failed.
    pub fn is_of_the_request(self) -> bool {
        match self {
            Code::NotPermitted
            | Code::NotFound
            | Code::Already
            | Code::InProgress
            | Code::Invalid
            | Code::Busy
            | Code::Exists
            | Code::Unsupported
            | Code::NotExecutable
            | Code::BiosMissing
            | Code::DiskMissing
            | Code::StopInvalid
            | Code::CdromMissing
            | Code::CdromInvalid
            | Code::ParentInvalid => true,
            Code::NoMemory | Code::Io | Code::NoDescriptors | Code::TimedOut | Code::NoDevice | Code::TooMany => false,
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
            115 => Code::InProgress,
            _ => Code::Io,
        }
    }
}

/// Bytes of a failure's sentence.
pub const MAX_TEXT: usize = 1024;

/// A failure: its kind, and a sentence that says what failed, with which value, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// The kind.
    pub code: Code,
    /// Lower case, no full stop, values quoted.
    pub text: Text<MAX_TEXT>,
}

impl Failure {
    /// A failure of a kind; longer text than [`MAX_TEXT`] is cut, and the numbers of the system's errors are taken out of it.
    pub fn new(code: Code, text: impl AsRef<str>) -> Self {
        Self { code, text: Text::cut(&sys::words::plain(text.as_ref())) }
    }

    /// What `what` did when the system refused it.
    pub fn io(what: impl AsRef<str>, error: &std::io::Error) -> Self {
        let code = error.raw_os_error().map_or(Code::Io, Code::of_errno);
        Self::new(code, format!("{}: {}", what.as_ref(), plain(error)))
    }
}

/// The system's words for an error, without Rust's number behind them.
pub fn plain(error: &std::io::Error) -> String {
    sys::words::plain(&error.to_string()).into_owned()
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
            (InProgress, 115),
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
    fn what_the_host_lacks_is_not_for_who_asked_to_mend() {
        use Code::*;
        assert!([NotFound, NotPermitted, Invalid, NotExecutable, InProgress].into_iter().all(Code::is_of_the_request));
        assert!(![NoMemory, Io, NoDescriptors, TimedOut, NoDevice, TooMany].into_iter().any(Code::is_of_the_request));
    }

    #[test]
    fn what_the_system_refused_is_said_in_its_words() {
        let full = std::io::Error::from_raw_os_error(28);
        assert_eq!(plain(&full), "No space left on device");
        let failure = Failure::io("disk \"/a b\"", &std::io::Error::from_raw_os_error(2));
        assert_eq!((failure.code, failure.text.as_str()), (Code::NotFound, "disk \"/a b\": No such file or directory"));
        let told = Failure::new(Code::Io, format!("start vmm: {}", std::io::Error::from_raw_os_error(12)));
        assert_eq!(told.text.as_str(), "start vmm: Cannot allocate memory");
        let failure = Failure::io("image", &std::io::Error::other("odd"));
        assert_eq!((failure.code, failure.text.as_str()), (Code::Io, "image: odd"));
    }
}
