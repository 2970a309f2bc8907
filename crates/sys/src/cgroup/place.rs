//! Reads where version 2 is and where a process is in it.

use std::path::Path;

/// linux/magic.h: CGROUP2_SUPER_MAGIC.
const CGROUP2: i64 = 0x6367_7270;

pub fn is_version_2(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == CGROUP2)
}

/// The path of version 2 in /proc/self/cgroup. None where it has none, or lies outside what is mounted here.
pub fn own_path(text: &str) -> Option<&str> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let outside = path.split('/').any(|part| part == "..") || path.ends_with(" (deleted)");
    (path.starts_with('/') && !outside).then_some(path)
}

/// What cgroup.events says.
pub fn populated(text: &str) -> bool {
    text.lines().any(|line| line == "populated 1")
}

/// Who lives in the leaf of a daemon's own processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inside {
    /// Nobody but us.
    Nobody,
    /// Processes of a role alone: their daemon is dead, and they end too.
    Others,
    /// A daemon.
    Daemon(u32),
}

/// Looks at each process in a leaf.
pub fn inside(leaf: &Path) -> Inside {
    let pids = std::fs::read_to_string(leaf.join("cgroup.procs")).unwrap_or_default();
    let own = std::process::id();
    let mut found = Inside::Nobody;
    for pid in pids.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != own) {
        if pid == 0 {
            return Inside::Daemon(pid); // in another pid name space: nothing shows that it is dead
        }
        match title(pid) {
            Some(title) if is_role(&title) => found = Inside::Others,
            Some(_) => return Inside::Daemon(pid),
            None => {}
        }
    }
    found
}

/// Its first argument. None of one that has no memory any more, or a SIGKILL to heed: what holds it in the kernel is not its
/// own.
pub fn title(pid: u32) -> Option<Vec<u8>> {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|arguments| !arguments.is_empty())?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    (!is_killed(&status)).then(|| arguments.split(|byte| *byte == 0).next().unwrap_or_default().to_vec())
}

/// Our children's titles are "vmd: ROLE".
fn is_role(title: &[u8]) -> bool {
    title.starts_with(b"vmd: ")
}

/// Whether SIGKILL is pending (proc_pid_status(5): SigPnd, ShdPnd; signal 9 is bit 8).
fn is_killed(status: &str) -> bool {
    let pending = status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or(line.strip_prefix("ShdPnd:")));
    pending.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok()).any(|mask| mask & 1 << 8 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_path_is_that_of_version_2() {
        assert_eq!(own_path("9:name=systemd:/x\n0::/system.slice/vmd.service\n"), Some("/system.slice/vmd.service"));
        assert_eq!(own_path("0::/\n"), Some("/"));
    }

    #[test]
    fn a_place_that_cannot_be_reached_is_none() {
        for text in ["", "1:cpu:/a\n", "0::/../init.scope\n", "0::/gone (deleted)\n", "0::\n"] {
            assert_eq!(own_path(text), None, "{text:?}");
        }
    }

    #[test]
    fn populated_is_one() {
        assert!(populated("populated 1\nfrozen 0\n"));
        assert!(!populated("populated 0\nfrozen 1\n"));
        assert!(!populated(""));
    }

    #[test]
    fn who_is_in_a_leaf_is_a_daemon_if_it_lives_and_is_no_role() {
        let leaf = tempfile::tempdir().expect("a directory");
        let inside = |pids: &[u32]| {
            let lines: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
            std::fs::write(leaf.path().join("cgroup.procs"), lines).expect("its list");
            super::inside(leaf.path())
        };
        let run = |title: &str| {
            use std::os::unix::process::CommandExt as _;
            std::process::Command::new("/bin/sleep")
                .arg0(title)
                .arg("100")
                .stdout(std::process::Stdio::null())
                .spawn()
                .expect("a process")
        };
        let (mut daemon, mut role) = (run("/usr/sbin/vmd"), run("vmd: priv"));
        let until = |pids: &[u32], wanted: Inside| {
            let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
            while inside(pids) != wanted {
                assert!(std::time::Instant::now() < end, "{:?} is not {wanted:?}", inside(pids));
                std::thread::yield_now();
            }
        };
        let own = std::process::id();
        assert_eq!(super::inside(Path::new("/nowhere")), Inside::Nobody);
        assert_eq!(inside(&[own]), Inside::Nobody);
        until(&[own, role.id()], Inside::Others); // once it has its arguments
        until(&[daemon.id()], Inside::Daemon(daemon.id()));
        assert_eq!(inside(&[role.id(), daemon.id()]), Inside::Daemon(daemon.id()));
        assert_eq!(inside(&[own, 0]), Inside::Daemon(0));
        daemon.kill().expect("it is ours");
        until(&[role.id(), daemon.id()], Inside::Others); // not yet reaped
        role.kill().expect("it is ours");
        until(&[role.id(), daemon.id()], Inside::Nobody);
        daemon.wait().and_then(|_| role.wait()).expect("they end");
        assert_eq!(inside(&[role.id(), daemon.id()]), Inside::Nobody);
    }

    #[test]
    fn a_pending_kill_is_seen_and_no_other_signal() {
        assert!(is_killed("Name:\tvmd\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n"));
        assert!(is_killed("SigPnd:\t0000000000000000\nShdPnd:\t0000000000004100\n"));
        assert!(!is_killed("SigPnd:\t0000000000004000\nShdPnd:\t0000000000000200\nSigBlk:\t0000000000000100\n"));
    }

    #[test]
    fn an_ordinary_directory_is_not_version_2() {
        assert!(!is_version_2(Path::new("/tmp")));
        assert!(!is_version_2(Path::new("/nonexistent")));
    }
}
