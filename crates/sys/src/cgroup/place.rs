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
    fn an_ordinary_directory_is_not_version_2() {
        assert!(!is_version_2(Path::new("/tmp")));
        assert!(!is_version_2(Path::new("/nonexistent")));
    }
}
