//! Namespaces and an empty root: after this nothing of the host has a name.
//!
//! An empty, read-only tmpfs takes the place of `/` and the host's tree is detached from the new mount namespace.
//! A root that can't be pivoted (the kernel's own rootfs) is covered and left by chroot instead, and one that can't be
//! covered (a chroot that is no mount point) is only left: both hold as well, since no capability and no descriptor
//! is left that leads out.
//!
//! Over the empty root lies another, which nobody is in. So its processes are not at the top of their mount namespace, and
//! for such the kernel makes no user namespace (EPERM), whichever call asks for it.

use std::os::fd::OwnedFd;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, chroot, fchdir, pivot_root};

use crate::promise::{Namespaces, Promise, Root};

/// Makes the namespaces that `promise` names, and its empty root. The error is the kernel's reason why not, which
/// the caller weighs against Landlock.
pub fn separate(promise: &Promise) -> Result<(), Errno> {
    if promise.own != Namespaces::default() {
        sys::privileges::unshare(promise.own)?;
    }
    match promise.root {
        Root::Host | Root::Inherited => Ok(()),
        Root::Empty => empty(),
    }
}

fn empty() -> Result<(), Errno> {
    let mount = nothing()?;
    fchdir(&mount)?;
    // Nothing that happens here may show in the host's namespace.
    match mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC) {
        Ok(()) => take_the_place_of_root(&mount)?,
        Err(Errno::INVAL) => {
            chroot(".")?; // no mount point: then nothing is mounted at all, and nobody is at the top
            return chdir("/");
        }
        Err(other) => return Err(other),
    }
    chdir("/")?;
    cover()
}

/// Mounts the root once more, over itself.
fn cover() -> Result<(), Errno> {
    let again = open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    move_mount(&again, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// A file system without a name, whose root directory is empty and stays so.
fn nothing() -> Result<OwnedFd, Errno> {
    let tmpfs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&tmpfs, "mode", "0555")?;
    fsconfig_set_string(&tmpfs, "size", "4096")?;
    fsconfig_set_string(&tmpfs, "nr_inodes", "1")?; // the root directory itself
    fsconfig_create(&tmpfs)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&tmpfs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// `mount` is the working directory.
fn take_the_place_of_root(mount: &OwnedFd) -> Result<(), Errno> {
    move_mount(mount, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    match pivot_root(".", ".") {
        Ok(()) => unmount(".", UnmountFlags::DETACH), // the old root lies on top of the new one now
        Err(Errno::INVAL) => chroot("."),
        Err(other) => Err(other),
    }
}
