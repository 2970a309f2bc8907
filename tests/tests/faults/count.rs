//! What exists because of the daemon, counted: what a failed start may leave none of.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use testkit::bridge;
use testkit::census::Census;
use testkit::daemon::Daemon;
use testkit::deadline::DAEMON;
use testkit::process::Process;

use crate::world::BRIDGE;

/// How much more private memory a process that stays may have after a hundred starts than after the first, in KiB: what
/// an allocator keeps for the next. A leak of 4 KiB in each start is more.
const SLACK_KIB: u64 = 384;

/// A count that is quick enough to be made after each start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The daemon and all that descends from it by title, those that nobody has reaped too, with how many descriptors each
    /// holds. Guest memory has no name, and goes with the last of them.
    descriptors: Vec<(String, usize)>,
    /// Network interfaces.
    interfaces: usize,
    /// Those that are ports of the switch.
    ports: usize,
    /// Pseudo terminals, of all that there are.
    ptys: String,
    /// Control groups.
    cgroups: usize,
    /// Locks of open files, whoever holds them: those on disks.
    locks: usize,
}

impl Count {
    pub fn take(daemon: &Daemon) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let held = |it: Process| (it.title(), entries(&format!("/proc/{}/fd", it.pid)));
        let mut descriptors: Vec<_> = family(daemon).into_iter().map(held).collect();
        descriptors.sort();
        Self {
            descriptors,
            interfaces: entries("/sys/class/net"),
            ports: bridge::members(BRIDGE).len(),
            ptys: read("/proc/sys/kernel/pty/nr"),
            cgroups: folders_below(Path::new("/sys/fs/cgroup")),
            locks: read("/proc/locks").matches("OFDLCK").count(),
        }
    }

    /// Waits until it is so again: what has ended takes a moment to be reaped.
    pub fn wait_same(&self, daemon: &Daemon, what: &str) {
        let end = Instant::now() + DAEMON;
        loop {
            let now = Self::take(daemon);
            if now == *self {
                return;
            }
            assert!(Instant::now() < end, "{what}: left behind:\nbefore: {self:#?}\nafter: {now:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The daemon's first process and its descendants.
fn family(daemon: &Daemon) -> Vec<Process> {
    let mut family = vec![daemon.process()];
    let mut next = 0;
    while let Some(Process { pid }) = family.get(next) {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        family.extend(children.split_whitespace().map(|pid| Process { pid: pid.parse().expect("a pid") }));
        next += 1;
    }
    family
}

fn entries(dir: &str) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

fn folders_below(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| 1 + folders_below(&entry.path())).sum()
}

/// A count that takes longer: the census, which finds processes without a parent and memory objects, and the private
/// memory, in KiB, of each process that lives as long as the daemon.
#[derive(Debug)]
pub struct Whole {
    census: Census,
    memory: BTreeMap<Process, u64>,
}

impl Whole {
    pub fn take(daemon: &Daemon) -> Self {
        let roles = ["control", "priv", "vmm"].into_iter().flat_map(|role| daemon.in_role(role));
        let processes = [daemon.process()].into_iter().chain(roles);
        Self { census: Census::take(), memory: processes.map(|it| (it, it.private_kib(|_| false))).collect() }
    }

    /// The same is there, and none of the processes has grown by more than an allocator's slack.
    pub fn wait_same(&self, daemon: &Daemon, what: &str) {
        self.census.wait_same();
        let now = Self::take(daemon);
        for (process, before) in &self.memory {
            let after = now.memory.get(process).copied().unwrap_or(0);
            let title = process.title();
            assert!(after <= before + SLACK_KIB, "{what}: {title} had {before} KiB and has {after}");
        }
    }
}
