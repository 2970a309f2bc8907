//! Why a process could not enter its promise. Each is fatal to it: a role never runs half sealed.

use rustix::io::Errno;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a promise could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `_vmd` is not in /etc/passwd.
    #[error("no user \"_vmd\" in /etc/passwd: create it, for example with \"useradd -r -s /usr/sbin/nologin _vmd\"")]
    NoSuchUser,
    /// /etc/passwd can't be read.
    #[error("/etc/passwd: {0}")]
    Passwd(std::io::Error),
    /// A role that has its root and its user from vmm was started by root.
    #[error("role \"{0}\" was started as root: only vmm may start it")]
    StillRoot(&'static str),
    /// One step failed; without it the role would hold more than it promises.
    #[error("can't enter the sandbox of \"{role}\": {step}: {cause}")]
    Step {
        /// The role.
        role: &'static str,
        /// What was tried.
        step: &'static str,
        /// What the kernel, or the compiler of filters, said.
        cause: Cause,
    },
    /// Neither an empty root nor Landlock: every file of the host would have a name.
    #[error(
        "can't enter the sandbox of \"{role}\": no empty root ({root}) and no Landlock in this kernel: \
         give vmd CAP_SYS_ADMIN, or boot with \"lsm=landlock,...\""
    )]
    NoConfinement {
        /// The role.
        role: &'static str,
        /// Why the root could not be emptied.
        root: Errno,
    },
    /// An id that no user has.
    #[error("no user has uid {uid} and gid {gid}")]
    NoSuchAsker {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// `narrow` or `become_asker` on a promise that has no second stage.
    #[error("role \"{0}\" has no narrower promise")]
    NoSecondStage(&'static str),
}

/// Says at which step of a role's way in something failed.
pub fn at<E: Into<Cause>>(role: &'static str, step: &'static str) -> impl Fn(E) -> Error {
    move |cause| Error::Step { role, step, cause: cause.into() }
}
