//! What /proc tells about a process's memory. For the parent; processes in an empty root have no /proc.

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
            assert!(after >= before + (16 << 20), "{before} {after} {}", touched.len());
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
    }
}
