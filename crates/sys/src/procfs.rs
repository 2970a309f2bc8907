//! What /proc tells about a process's memory. For the parent and benches; processes in an empty root have no /proc.

use std::io;

/// Bytes of a page, the unit of statm on x86-64.
const PAGE: u64 = 4096;

/// Bytes of a process that are in memory now (`/proc/PID/statm`, second field).
pub fn resident(pid: u32) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages = parse_statm(&text).ok_or(io::ErrorKind::InvalidData)?;
    Ok(pages.saturating_mul(PAGE))
}

fn parse_statm(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// A process's memory by who else has it, in bytes (`/proc/PID/smaps_rollup`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Its own, like the file it came from.
    pub private_clean: u64,
    /// Its own, changed.
    pub private_dirty: u64,
    /// Its share of all, by the number of processes that map each page.
    pub proportional: u64,
}

/// How much memory a process has, and what ends with it.
pub fn memory(pid: u32) -> io::Result<Memory> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    Ok(parse_rollup(&text).ok_or(io::ErrorKind::InvalidData)?)
}

fn parse_rollup(text: &str) -> Option<Memory> {
    let field = |name: &str| -> Option<u64> {
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory {
        private_clean: field("Private_Clean:")?,
        private_dirty: field("Private_Dirty:")?,
        proportional: field("Pss:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alone::alone;

    #[test]
    fn own_memory_is_told_and_grows_when_touched() {
        alone("procfs::tests::own_memory_is_told_and_grows_when_touched", || {
            let before = resident(std::process::id()).expect("resident");
            let touched = vec![1u8; 32 << 20];
            let after = resident(std::process::id()).expect("resident");
            let memory = memory(std::process::id()).expect("rollup");
            assert!(after >= before + (16 << 20), "{before} {after} {}", touched.len());
            assert!(memory.private_dirty >= 32 << 20, "{memory:?}");
        });
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(resident(u32::MAX).is_err());
    }

    #[test]
    fn odd_text_is_no_number() {
        for text in ["", "12", "1 x 3", "1 -2"] {
            assert_eq!(parse_statm(text), None, "{text:?}");
        }
        assert_eq!(parse_statm("10 20 30\n"), Some(20));
        assert_eq!(parse_rollup("Pss: 1 kB\nPrivate_Clean: 2 kB\n"), None);
    }

    #[test]
    fn rollup_is_read_by_name() {
        let text = "0-1 ---p\nRss:  9 kB\nPss:  4 kB\nPss_Dirty: 7 kB\nPrivate_Clean:  2 kB\nPrivate_Dirty:  3 kB\n";
        let memory = Memory { private_clean: 2048, private_dirty: 3072, proportional: 4096 };
        assert_eq!(parse_rollup(text), Some(memory));
    }
}
