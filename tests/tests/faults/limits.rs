//! A limit of a process that runs, lowered from outside.

use std::fs;

use rustix::process::{Resource, Rlimit, prlimit};
use testkit::process::Process;

use crate::world::pid;

/// A lowered limit; what it was comes again when this is dropped.
pub struct Limited {
    process: Process,
    resource: Resource,
    before: Rlimit,
}

impl Limited {
    /// The process itself may have no more, and what it starts may raise it again.
    pub fn softly(process: Process, resource: Resource, most: u64) -> Self {
        let before = limit(process, resource);
        Self::set(process, resource, before, Rlimit { current: Some(most), ..before })
    }

    /// Neither it nor what it starts may have more.
    pub fn firmly(process: Process, resource: Resource, most: u64) -> Self {
        let before = limit(process, resource);
        Self::set(process, resource, before, Rlimit { current: Some(most), maximum: Some(most) })
    }

    fn set(process: Process, resource: Resource, before: Rlimit, now: Rlimit) -> Self {
        prlimit(Some(pid(process)), resource, now).expect("root may");
        Self { process, resource, before }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = prlimit(Some(pid(self.process)), self.resource, self.before);
    }
}

fn limit(process: Process, resource: Resource) -> Rlimit {
    let name = match resource {
        Resource::Nofile => "Max open files",
        Resource::Nproc => "Max processes",
        Resource::As => "Max address space",
        Resource::Fsize => "Max file size",
        other => panic!("no test lowers {other:?}"),
    };
    let text = fs::read_to_string(format!("/proc/{}/limits", process.pid)).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("every limit has a line");
    let mut numbers = line.split_whitespace().map(|number| number.parse().ok()); // "unlimited" is none
    Rlimit { current: numbers.next().flatten(), maximum: numbers.next().flatten() }
}

/// The limit of descriptors with which a process can have no further one: the lowest number that is free.
pub fn full(process: Process) -> u64 {
    let taken = process.descriptors();
    (0..).find(|number| !taken.contains_key(number)).map_or(0, u64::from)
}
