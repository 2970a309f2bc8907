//! A process as /proc shows it: what it is called, what it may do, what it holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// One process. Reads /proc anew at each question; a process that has ended answers `None` or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Process id.
    pub pid: u32,
}

/// One mapping of a process's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its length.
    pub bytes: u64,
    /// What is mapped; empty for anonymous memory.
    pub name: String,
}

impl Process {
    /// All processes of the machine.
    pub fn all() -> Vec<Self> {
        let entries = fs::read_dir("/proc").expect("/proc is mounted");
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.map(|pid| Self { pid }).collect()
    }

    /// This process and all that descend from it, parents first.
    pub fn family(self) -> Vec<Self> {
        let parents: BTreeMap<Self, Option<Self>> = Self::all().into_iter().map(|it| (it, it.parent())).collect();
        let mut family = vec![self];
        let mut next = 0;
        while let Some(one) = family.get(next).copied() {
            family.extend(parents.iter().filter(|(_, parent)| **parent == Some(one)).map(|(child, _)| *child));
            next += 1;
        }
        family
    }

    /// Every process of vmd, by its title: also those whose parent is gone.
    pub fn of_vmd() -> Vec<Self> {
        Self::all().into_iter().filter(|it| it.title().starts_with("vmd: ")).collect()
    }

    /// The first word of its command line, which vmd's processes set to what they are.
    pub fn title(self) -> String {
        self.arguments().into_iter().next().unwrap_or_default()
    }

    /// The role a process of vmd was started in; the parent has none.
    pub fn role(self) -> Option<String> {
        let arguments = self.arguments();
        let at = arguments.iter().position(|it| it == "-x")?;
        arguments.get(at + 1).cloned()
    }

    /// Its command line.
    pub fn arguments(self) -> Vec<String> {
        let bytes = fs::read(self.path("cmdline")).unwrap_or_default();
        let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    /// A field of /proc/PID/status, blanks at both ends removed.
    pub fn status(self, field: &str) -> Option<String> {
        let text = fs::read_to_string(self.path("status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        Some(line.trim().to_owned())
    }

    /// Its parent.
    pub fn parent(self) -> Option<Self> {
        self.status("PPid")?.parse().ok().map(|pid| Self { pid })
    }

    /// What each of its descriptors is, by number.
    pub fn descriptors(self) -> BTreeMap<u32, String> {
        let entries = fs::read_dir(self.path("fd")).into_iter().flatten().flatten();
        let named = entries.filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            let target = fs::read_link(entry.path()).ok()?;
            Some((number, target.to_string_lossy().into_owned()))
        });
        named.collect()
    }

    /// The identity of one of its name spaces (`mnt`, `net`, `ipc`, `pid`, `user`, ...).
    pub fn name_space(self, kind: &str) -> Option<String> {
        let link = fs::read_link(self.path("ns").join(kind)).ok()?;
        Some(link.to_string_lossy().into_owned())
    }

    /// What lies in its root directory.
    pub fn root_entries(self) -> Option<Vec<String>> {
        let entries = fs::read_dir(self.path("root").join(".")).ok()?;
        Some(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    }

    /// Its own memory in KiB: `Private_Clean` and `Private_Dirty` of all mappings but those that are told apart (the
    /// guest's memory).
    pub fn private_kib(self, apart: impl Fn(&Mapping) -> bool) -> u64 {
        private_kib(&fs::read_to_string(self.path("smaps")).unwrap_or_default(), apart)
    }

    fn path(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }
}

fn private_kib(smaps: &str, apart: impl Fn(&Mapping) -> bool) -> u64 {
    let mut counted = true;
    let mut sum = 0;
    for line in smaps.lines() {
        if let Some(mapping) = Mapping::of_header(line) {
            counted = !apart(&mapping);
        } else if let (true, Some((key, value))) = (counted, line.split_once(':')) {
            if matches!(key, "Private_Clean" | "Private_Dirty") {
                sum += value.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
            }
        }
    }
    sum
}

impl Mapping {
    /// Reads the first line of a mapping in smaps: `55d1-55d2 r-xp 00000000 00:01 1024   /memfd:guest (deleted)`.
    fn of_header(line: &str) -> Option<Self> {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let address = |text| u64::from_str_radix(text, 16).ok();
        let bytes = address(end)?.checked_sub(address(start)?)?;
        let name = rest.splitn(5, ' ').nth(4).unwrap_or_default().trim().to_owned();
        Some(Self { bytes, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn this() -> Process {
        Process { pid: std::process::id() }
    }

    #[test]
    fn a_child_is_family_with_its_own_title_and_descriptors() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("sleep can be run");
        let process = Process { pid: child.id() };
        crate::deadline::until("exec of sleep", crate::deadline::DAEMON, || (process.title() == "sleep").then_some(()));
        assert!(this().family().contains(&process));
        assert_eq!(process.parent(), Some(this()));
        assert_eq!(process.descriptors().get(&0).map(String::as_str), Some("/dev/null"));
        assert_eq!(process.name_space("mnt"), this().name_space("mnt"));
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
        assert!(!this().family().contains(&process));
    }

    #[test]
    fn private_memory_leaves_out_what_is_told_apart() {
        let smaps = "55d1-55d2 r-xp 00000000 00:01 1024 /usr/sbin/vmd\nRss: 64 kB\nShared_Clean: 8 kB\n\
                     Private_Clean: 4 kB\nPrivate_Dirty: 12 kB\nVmFlags: rd ex\n\
                     7f00-7f01 rw-s 00000000 00:01 77 /memfd:guest (deleted)\nPrivate_Clean: 0 kB\n\
                     Private_Dirty: 90000 kB\n7ffc-7ffd rw-p 00000000 00:00 0 [stack]\nPrivate_Dirty: 16 kB\n";
        assert_eq!(private_kib(smaps, |it| it.name.starts_with("/memfd:guest")), 32);
        assert_eq!(private_kib(smaps, |it| it.bytes > 0), 0);
        assert_eq!(private_kib(smaps, |_| false), 90032);
    }
}
