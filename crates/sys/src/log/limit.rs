//! At most so many lines in so much time, for what a user or a guest can cause; the lines not written are counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Lines that one place may write in each window.
const LINES: u32 = 5;

/// Causes that are counted apart. Those beyond share a limit until others have been quiet for a window.
const CAUSES: usize = 1024;

/// Length of a window in seconds.
const WINDOW_S: u64 = 10;

/// The limit of one place in the code. Threads may share it.
#[derive(Debug)]
pub struct RateLimit {
    /// Number of the window in the high half, lines asked for in it in the low.
    state: AtomicU64,
}

impl RateLimit {
    /// Nothing written yet.
    pub const fn new() -> Self {
        Self { state: AtomicU64::new(0) }
    }

    /// Whether a line may be written now; if so, how many were not since the last that was.
    pub fn allow(&self) -> Option<u32> {
        self.allow_at(LINES, crate::clock::boottime().as_secs())
    }

    /// The same of `lines` in each window.
    fn allow_at(&self, lines: u32, seconds: u64) -> Option<u32> {
        let window = (seconds / WINDOW_S + 1) << 32;
        let count = |old: u64| old & 0xffff_ffff;
        let step = |old: u64| {
            let same = old >> 32 == window >> 32;
            Some(if same { old + u64::from(count(old) < 0xffff_ffff) } else { window | 1 })
        };
        let old = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or_else(|old| old);
        let asked = u32::try_from(count(old)).unwrap_or(u32::MAX);
        if old >> 32 != window >> 32 {
            return Some(asked.saturating_sub(lines));
        }
        (asked < lines).then_some(0)
    }

    /// Whether it was asked for no line since the window before this one.
    fn is_quiet(&self, seconds: u64) -> bool {
        self.state.load(Ordering::Relaxed) >> 32 < seconds / WINDOW_S
    }
}

impl Default for RateLimit {
    fn default() -> Self {
        Self::new()
    }
}

/// A limit for each of those who cause lines: users, VMs, processes.
#[derive(Debug)]
pub struct Limits(Mutex<BTreeMap<String, RateLimit>>);

impl Limits {
    /// Nothing written yet.
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// As [`RateLimit::allow`], of `lines` for this cause.
    pub fn allow(&self, cause: &str, lines: u32) -> Option<u32> {
        self.allow_at(cause, lines, crate::clock::boottime().as_secs())
    }

    fn allow_at(&self, cause: &str, lines: u32, seconds: u64) -> Option<u32> {
        let mut of = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if of.len() >= CAUSES && !of.contains_key(cause) {
            of.retain(|_, limit| !limit.is_quiet(seconds));
        }
        let cause = if of.len() < CAUSES || of.contains_key(cause) { cause } else { "" };
        match of.get(cause) {
            Some(limit) => limit.allow_at(lines, seconds),
            None => of.entry(cause.to_owned()).or_default().allow_at(lines, seconds),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}

/// Logs what a user or a guest can cause: `guest_log!(Warn, "queue {index} is broken")`. Each place has its own limit.
#[macro_export]
macro_rules! guest_log {
    ($level:ident, $($text:tt)+) => {{
        static LIMIT: $crate::log::RateLimit = $crate::log::RateLimit::new();
        $crate::log::limited(&LIMIT, $crate::log::Level::$level, ::core::format_args!($($text)+));
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_gets_a_few_lines_and_then_its_count() {
        let limit = RateLimit::new();
        let written = (0..1000).filter(|_| limit.allow_at(LINES, 100).is_some()).count();
        assert_eq!(written, 5);
        assert_eq!(limit.allow_at(LINES, 110), Some(995));
        assert_eq!(limit.allow_at(LINES, 110), Some(0));
    }

    #[test]
    fn a_slow_trickle_is_written_whole() {
        let limit = RateLimit::new();
        for second in (0..1000).step_by(3) {
            assert_eq!(limit.allow_at(LINES, second), Some(0));
        }
    }

    #[test]
    fn the_count_does_not_spill_into_the_window() {
        let limit = RateLimit::new();
        limit.state.store((11 << 32) | 0xffff_ffff, Ordering::Relaxed);
        assert_eq!(limit.allow_at(LINES, 100), None);
        assert_eq!(limit.allow_at(LINES, 110), Some(u32::MAX - 5));
    }

    #[test]
    fn each_cause_has_a_limit_of_its_own() {
        let limits = Limits::new();
        let flood = (0..1000).filter(|_| limits.allow_at("uid 1000", 20, 100).is_some()).count();
        assert_eq!(flood, 20);
        assert_eq!(limits.allow_at("uid 1001", 20, 100), Some(0));
        assert_eq!(limits.allow_at("uid 1000", 20, 110), Some(980));
    }

    #[test]
    fn causes_without_end_share_a_limit_and_take_no_more_memory() {
        let limits = Limits::new();
        let allowed = (0..100_000).filter(|n| limits.allow_at(&format!("vm {n}"), 20, 100).is_some()).count();
        let kept = || limits.0.lock().unwrap().len();
        assert_eq!((allowed, kept()), (CAUSES + 20, CAUSES + 1));
        // Who has been quiet makes room.
        assert_eq!(limits.allow_at("new", 20, 120), Some(0));
        assert_eq!(kept(), 1);
    }
}
