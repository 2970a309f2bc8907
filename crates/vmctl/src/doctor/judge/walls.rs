//! What keeps a guest, and each process that serves it, from everything else; and rings, which some hosts forbid.

use sys::vm_users;

use super::{Judged, fault, known, note, ok, value, warning};
use crate::doctor::host::{Host, Unseen, Value};
use crate::doctor::look::{CGROUPS, CONTROLLERS};

/// Filters of system calls: every process of vmd has one, and does not start without it.
pub fn seccomp(host: &Host) -> Judged {
    match &host.seccomp {
        Ok(()) => ok("filters of system calls can be set"),
        Err(why) => fault(
            format!("no filters of system calls: {why}"),
            "boot a kernel with CONFIG_SECCOMP_FILTER; a container must allow seccomp(2)",
        ),
    }
}

/// Landlock: without, an empty root alone keeps files away.
pub fn landlock(host: &Host) -> Judged {
    match &host.landlock {
        Ok(version) => ok(format!("version {version}")),
        Err(why) => warning(
            format!("none: {why}; an empty root alone keeps the host's files from vmd's processes"),
            "boot a kernel from 5.13 on with CONFIG_SECURITY_LANDLOCK, and with landlock in \"lsm=\"",
        ),
    }
}

/// Control groups: without, VMs run, are held one process at a time, and have no limit of threads and memory.
pub fn cgroups(host: &Host) -> Judged {
    let mounts = known(host, "/proc/self/mountinfo", &host.cgroups)?;
    let without = "VMs run without cgroups of their own";
    let Some(mount) = CGROUPS.iter().find_map(|place| mounts.iter().rfind(|mount| mount.place == *place)) else {
        let elsewhere: Vec<&str> = mounts.iter().map(|mount| mount.place.as_str()).collect();
        let seen = match elsewhere.as_slice() {
            [] => format!("no cgroups of version 2 are mounted: {without}"),
            places => format!("cgroups of version 2 are at {}, not where vmd looks: {without}", places.join(", ")),
        };
        return warning(seen, format!("\"mount -t cgroup2 cgroup2 {}\"", CGROUPS[0]));
    };
    let place = &mount.place;
    if mount.read_only {
        let seen = format!("{place} is mounted for reading only: {without}");
        return warning(seen, "let the container have cgroups of its own, for writing");
    }
    let own = host.own_cgroup.as_deref().unwrap_or("/");
    match &mount.home {
        _ if host.caller.uid != 0 => {} // root starts vmd, elsewhere
        Ok(()) => {}
        Err(Unseen::Missing) => {
            let seen = format!("{place} does not have the caller's own cgroup {own}: {without} if vmd is started here");
            return warning(
                seen,
                "start vmd where its cgroup can be seen: in the container's own namespace of cgroups",
            );
        }
        Err(Unseen::Denied | Unseen::Failed(_)) => {
            let seen = format!("no cgroup can be made in the caller's own, {own}: {without} if vmd is started here");
            return warning(
                seen,
                "let vmd be a service with Delegate=yes, or the container have its cgroup for writing",
            );
        }
    }
    let missing = CONTROLLERS.into_iter().filter(|name| !mount.controllers.iter().any(|found| found == name));
    let (names, limits) = match missing.collect::<Vec<_>>().as_slice() {
        [] => return ok(format!("version 2 at {place}, with {}", mount.controllers.join(", "))),
        ["pids"] => ("pids", "the number of a VM's threads is"),
        ["memory"] => ("memory", "what a VM's processes take of the host's memory is"),
        _ => ("pids or memory", "a VM's threads, and what they take of the host's memory, are"),
    };
    let seen = format!("version 2 at {place}, without the controller {names}: {limits} not limited");
    note(
        seen,
        format!("use version 2 alone (systemd.unified_cgroup_hierarchy=1), with cgroup.controllers that name {names}"),
    )
}

/// User namespaces: without, all VMs share what the kernel counts by user.
pub fn users(host: &Host) -> Judged {
    let shared = "VMs share the user _vmd, and one can use up what is counted by user";
    let most = "user.max_user_namespaces";
    match value(host, most, Value::MostUserNamespaces) {
        Ok("0") => return warning(format!("{most} is 0: {shared}"), format!("\"sysctl {most}=1000\"")),
        Ok(_) => {}
        Err(_) => {
            let seen = format!("the kernel has no user namespaces: {shared}");
            return warning(seen, "boot a kernel with CONFIG_USER_NS");
        }
    }
    let (first, end) = (vm_users::FIRST, vm_users::FIRST + vm_users::COUNT);
    if has(value(host, "/proc/self/uid_map", Value::UserMap)?, first.into()..end.into()) {
        return ok(format!("each VM has one, {first} and its number"));
    }
    let seen = format!("the ids {first} to {} are not the container's: {shared}", end - 1);
    warning(seen, "let the container have these ids, or run vmd outside")
}

/// Whether a map of users has all of these in one piece.
fn has(map: &str, wanted: std::ops::Range<u64>) -> bool {
    let lines =
        map.lines().map(|line| line.split_whitespace().map_while(|word| word.parse().ok()).collect::<Vec<u64>>());
    let pieces = lines.filter_map(|line| Some(*line.first()?..line.first()?.checked_add(*line.get(2)?)?));
    pieces.into_iter().any(|piece| piece.start <= wanted.start && piece.end >= wanted.end)
}

/// io_uring: without, disks are served by threads.
pub fn io_uring(host: &Host) -> Judged {
    let slower = "disks are served without it, with a system call each";
    let setting = value(host, "kernel.io_uring_disabled", Value::IoUringDisabled).unwrap_or("0"); // Linux before 6.6 does not have the setting
    match (&host.io_uring, setting) {
        (_, "1" | "2") => note(
            format!("kernel.io_uring_disabled is {setting}: {slower}"),
            "\"sysctl kernel.io_uring_disabled=0\", if disks are to be faster",
        ),
        (Ok(()), _) => ok("rings can be made"),
        (Err(why), _) => note(
            format!("no ring: {why}; {slower}"),
            "a kernel with CONFIG_IO_URING, and a container's filter that allows io_uring_setup(2)",
        ),
    }
}
