//! How a process enters its promise: what it gives up, in the order that lets it give up the next.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Uid, getpid, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, set_no_new_privs};

use crate::error::at;
use crate::filter::Filters;
use crate::identity::Place;
use crate::promise::{Promise, Root};
use crate::{Error, files, identity, limits, root};

/// What was had of the things that a kernel or a container may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// Why the root could not be emptied and the namespaces not be made; Landlock holds instead.
    pub root_failed: Option<Errno>,
    /// Whether a Landlock domain was entered.
    pub landlock: bool,
}

/// Who asks the opener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asker {
    /// Root's own vm.conf, or root: DAC_OVERRIDE is kept, nothing else.
    Root,
    /// A user, with no capability.
    User {
        /// The user.
        uid: u32,
        /// The primary group.
        gid: u32,
        /// The supplementary groups.
        groups: Vec<u32>,
    },
}

/// Gives up all that `promise` does not name. To be called by a process with one thread, before it reads anything
/// that it did not write itself.
pub fn enter(promise: &'static Promise) -> Result<Entered, Error> {
    enter_in(promise, None)
}

/// The same, in a user namespace of `sys::vm_users` where there is one.
pub fn enter_in(promise: &'static Promise, users: Option<OwnedFd>) -> Result<Entered, Error> {
    let role = promise.name;
    if promise.root == Root::Inherited && !identity::is_ordinary() {
        return Err(Error::StillRoot(role)); // what it would inherit is the host's root
    }
    // At its first look at a clock rustix asks for the vdso by prctl(PR_GET_AUXV), or in /proc: no promise has either, and
    // the look may come with a guest's or a client's first nonsense, when a line is logged under a limit.
    let _ = sys::clock::boottime();
    let ids = identity::look_up(promise)?;
    let rules = promise.files.map(files::open_rules).transpose().map_err(at(role, "landlock: open"))?;
    limits::apply(promise.limits).map_err(at(role, "limits"))?;
    let place = if let Some(users) = users {
        sys::vm_users::enter(&users).map_err(at(role, "user namespace"))?;
        Place::Inside
    } else {
        Place::Host
    };
    let separated = root::separate(promise);
    identity::drop(promise, ids, place)?;
    // A change of ids or capabilities puts the system's default back, so only now.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(at(role, "dumpable"))?;
    set_no_new_privs(true).map_err(at(role, "no_new_privs"))?;
    let landlock = rules.map_or(Ok(false), files::restrict).map_err(at(role, "landlock"))?;
    let entered = weigh(promise, separated, landlock)?;
    if let Some(cause) = entered.root_failed {
        log::warn!(
            "no root directory and namespaces of its own ({cause}): only landlock keeps it from the host's files"
        );
    }
    seal(promise, seccompiler::apply_filter)?;
    Ok(entered)
}

/// Gives up what only the start needed: what is left is `promise.then`. For all threads.
pub fn narrow(promise: &'static Promise) -> Result<(), Error> {
    let then = promise.then.ok_or(Error::NoSecondStage(promise.name))?;
    seal(then, seccompiler::apply_filter_all_threads)
}

/// Makes the opener the user who asks, for good, and narrows it.
pub fn become_asker(promise: &'static Promise, asker: &Asker) -> Result<(), Error> {
    let role = promise.name;
    let (uid, gid, groups) = match asker {
        Asker::Root => (Uid::ROOT, Gid::ROOT, Vec::new()),
        Asker::User { uid, gid, groups } => {
            // To the kernel (uid_t)-1 means "as it is", which is root.
            if [uid, gid].into_iter().chain(groups).any(|id| *id == u32::MAX) {
                return Err(Error::NoSuchAsker { uid: *uid, gid: *gid });
            }
            (Uid::from_raw(*uid), Gid::from_raw(*gid), groups.iter().copied().map(Gid::from_raw).collect())
        }
    };
    identity::become_user(role, uid, gid, &groups)?;
    let kept = if uid.is_root() { CapabilitySet::DAC_OVERRIDE } else { CapabilitySet::empty() };
    identity::keep(role, kept)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(at(role, "dumpable"))?;
    narrow(promise)
}

/// A role without an empty root needs Landlock, and the other way round.
fn weigh(promise: &Promise, separated: Result<(), Errno>, landlock: bool) -> Result<Entered, Error> {
    match separated {
        Err(cause) if promise.root == Root::Empty && !landlock => {
            Err(Error::NoConfinement { role: promise.name, root: cause })
        }
        separated => Ok(Entered { root_failed: separated.err(), landlock }),
    }
}

fn seal(
    promise: &'static Promise,
    apply: fn(seccompiler::BpfProgramRef) -> seccompiler::Result<()>,
) -> Result<(), Error> {
    let own_pid = getpid().as_raw_nonzero().get().unsigned_abs();
    let filters = Filters::compile(promise, own_pid).map_err(at(promise.name, "seccomp"))?;
    // The one that kills comes last: it may not allow another.
    if let Some(refuse) = &filters.refuse {
        apply(refuse).map_err(at(promise.name, "seccomp"))?;
    }
    apply(&filters.allow).map_err(at(promise.name, "seccomp"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promise::{CONTROL, OPENER, VM};

    #[test]
    fn neither_empty_root_nor_landlock_is_refused() {
        let error = weigh(&CONTROL, Err(Errno::PERM), false);
        assert!(matches!(error, Err(Error::NoConfinement { role: "control", root: Errno::PERM })));
    }

    #[test]
    fn one_of_the_two_is_enough() {
        let by_landlock = weigh(&CONTROL, Err(Errno::PERM), true).expect("landlock holds");
        assert_eq!(by_landlock, Entered { root_failed: Some(Errno::PERM), landlock: true });
        let by_root = weigh(&CONTROL, Ok(()), false).expect("the root is empty");
        assert_eq!(by_root, Entered { root_failed: None, landlock: false });
    }

    #[test]
    fn opener_and_children_of_vmm_need_no_root_of_their_own() {
        assert!(weigh(&OPENER, Ok(()), false).is_ok());
        assert!(weigh(&VM, Ok(()), false).is_ok());
    }
}
