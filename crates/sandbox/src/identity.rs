//! Who a process is: user, groups, capabilities, and that it can't get any of them back.

use std::fs::read_to_string;

use rustix::io::Errno;
use rustix::process::{Gid, Uid, geteuid, getuid};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::Error;
use crate::error::at;
use crate::promise::{Promise, User};

/// The daemon's own user.
pub const USER: &str = "_vmd";

/// A user id and its primary group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The user.
    pub uid: Uid,
    /// Its one group.
    pub gid: Gid,
}

/// The ids that `promise` wants, looked up while /etc/passwd still has a name. `None`: those the process has.
pub fn look_up(promise: &Promise) -> Result<Option<Ids>, Error> {
    match promise.user {
        User::Vmd if geteuid().is_root() => {
            let passwd = read_to_string("/etc/passwd").map_err(Error::Passwd)?;
            find(&passwd, USER).map(Some).ok_or(Error::NoSuchUser)
        }
        User::Root => Ok(Some(Ids { uid: Uid::ROOT, gid: Gid::ROOT })),
        User::Vmd | User::Vm | User::Asker => Ok(None),
    }
}

/// The line of `name` in the text of a passwd(5) file; the first one counts, as everywhere.
fn find(passwd: &str, name: &str) -> Option<Ids> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    let uid: u32 = fields.next()?.parse().ok()?;
    let gid: u32 = fields.next()?.parse().ok()?;
    // Root in disguise would keep all that is given up here; (uid_t)-1 means "leave it" to the kernel.
    let usable = uid != 0 && gid != 0 && uid != u32::MAX && gid != u32::MAX;
    usable.then(|| Ids { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid) })
}

/// Where a process has the capabilities that it gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The user namespace that vmd was started in.
    Host,
    /// That of VMs, where root has no number.
    Inside,
}

/// Gives up the bounding set, the ambient set and, for roles that are no root, the ids. A process that comes here
/// without root has lost all of it before.
pub fn drop(promise: &Promise, ids: Option<Ids>, place: Place) -> Result<(), Error> {
    let role = promise.name;
    if geteuid().is_root() || place == Place::Inside {
        let bounding =
            if promise.starts.is_empty() || ids.is_none() { CapabilitySet::empty() } else { bounding(promise) };
        restrict_bounding(bounding).map_err(at(role, "bounding set"))?;
        clear_ambient_capability_set().map_err(at(role, "ambient set"))?;
        set_capabilities_secure_bits(secure_bits(promise)).map_err(at(role, "securebits"))?;
        if let Some(ids) = ids {
            become_user(role, ids.uid, ids.gid, &[ids.gid])?;
        }
    }
    keep(role, if place == Place::Inside { promise.keeps_inside } else { promise.keeps })
}

/// Takes the ids of a user for good, in the order that needs each right before it is gone.
pub fn become_user(role: &'static str, uid: Uid, gid: Gid, groups: &[Gid]) -> Result<(), Error> {
    set_thread_groups(groups).map_err(at(role, "setgroups"))?;
    set_thread_res_gid(gid, gid, gid).map_err(at(role, "setresgid"))?;
    set_thread_res_uid(uid, uid, uid).map_err(at(role, "setresuid"))
}

/// Leaves, of the capabilities that are there, those named; none inheritable.
pub fn keep(role: &'static str, named: CapabilitySet) -> Result<(), Error> {
    let held = capabilities(None).map_err(at(role, "capget"))?;
    let left = held.permitted & named;
    set_capabilities(None, CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() })
        .map_err(at(role, "capset"))
}

/// Whether the process has neither uid of root.
pub fn is_ordinary() -> bool {
    !geteuid().is_root() && !getuid().is_root()
}

/// What an exec as root may get back: for the parent, whose children start as root.
fn bounding(promise: &Promise) -> CapabilitySet {
    match promise.user {
        User::Root => promise.keeps,
        User::Vmd | User::Vm | User::Asker => CapabilitySet::empty(),
    }
}

fn restrict_bounding(named: CapabilitySet) -> Result<(), Errno> {
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(one) {
            Ok(true) if !named.contains(one) => remove_capability_from_bounding_set(one)?,
            Ok(_) => {}
            Err(Errno::INVAL) => break, // beyond the last one that this kernel knows
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

/// Uid 0 has no special rights any more, except in a parent, whose children start as root. None of this can be undone.
fn secure_bits(promise: &Promise) -> CapabilitiesSecureBits {
    let always = CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED;
    if promise.user == User::Root && !promise.starts.is_empty() {
        return always;
    }
    always | CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\n_vmdx:x:7:7::/:\n_vmd:x:108:110:vmd:/var/empty:/usr/sbin/nologin\n";
        assert_eq!(find(passwd, "_vmd"), Some(Ids { uid: Uid::from_raw(108), gid: Gid::from_raw(110) }));
        assert_eq!(find(passwd, "_vm"), None);
    }

    #[test]
    fn a_user_with_the_ids_of_root_is_refused() {
        assert_eq!(find("_vmd:x:0:5:::", "_vmd"), None);
        assert_eq!(find("_vmd:x:5:0:::", "_vmd"), None);
        assert_eq!(find("_vmd:x:4294967295:5:::", "_vmd"), None);
    }

    #[test]
    fn a_line_that_is_cut_short_is_refused() {
        assert_eq!(find("_vmd:x:5", "_vmd"), None);
        assert_eq!(find("_vmd:x:five:5:::", "_vmd"), None);
    }
}
