//! What exists on the machine because of vmd: counted before and after, so that what was left behind is seen.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::process::Process;

/// A count of everything that a start acquires.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Processes of vmd, by title, with the number of descriptors each holds.
    pub descriptors: BTreeMap<String, usize>,
    /// Network interfaces of this name space.
    pub interfaces: Vec<String>,
    /// Pseudo terminals in use.
    pub ptys: usize,
    /// Control groups.
    pub cgroups: usize,
    /// Memory objects (a file of a tmpfs, or a memfd) that processes of vmd hold, by name.
    pub memory_objects: usize,
}

fn is_memory(target: &str) -> bool {
    ["/memfd:", "/guest memory"].iter().any(|start| target.starts_with(start))
}

impl Census {
    /// Counts now.
    pub fn take() -> Self {
        let processes = Process::of_vmd();
        let held: Vec<(String, BTreeMap<u32, String>)> =
            processes.iter().map(|it| (it.title(), it.descriptors())).collect();
        let memory_objects = held.iter().flat_map(|(_, fds)| fds.values()).filter(|it| is_memory(it)).count();
        Self {
            descriptors: held.into_iter().map(|(title, fds)| (title, fds.len())).collect(),
            interfaces: interfaces(),
            ptys: terminals(),
            cgroups: folders_below(Path::new("/sys/fs/cgroup")),
            memory_objects,
        }
    }

    /// Waits until the count is again what it was; panics with both if it never is. What ends takes a moment to be
    /// reaped, so the first look proves nothing.
    pub fn wait_same(&self) {
        let mut last = Self::take();
        let end = std::time::Instant::now() + crate::deadline::DAEMON;
        while last != *self {
            assert!(std::time::Instant::now() < end, "left behind:\nbefore: {self:#?}\nafter: {last:#?}");
            std::thread::sleep(std::time::Duration::from_millis(50));
            last = Self::take();
        }
    }
}

fn interfaces() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net").expect("/sys is mounted");
    let mut names: Vec<String> = entries.flatten().map(|it| it.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn folders_below(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| 1 + folders_below(&entry.path())).sum()
}

/// Those of this name space; the kernel's own count is of all.
fn terminals() -> usize {
    let entries = fs::read_dir("/dev/pts").expect("/dev/pts is mounted");
    entries.flatten().filter(|entry| entry.file_name() != "ptmx").count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_counted_at_every_depth_and_files_are_not() {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        fs::create_dir_all(dir.path().join("a/b")).expect("it is ours");
        fs::create_dir(dir.path().join("c")).expect("it is ours");
        fs::write(dir.path().join("a/file"), "").expect("it is ours");
        assert_eq!(folders_below(dir.path()), 3);
    }

    #[test]
    fn loopback_is_among_the_interfaces() {
        assert!(Census::take().interfaces.contains(&"lo".to_owned()));
    }
}
