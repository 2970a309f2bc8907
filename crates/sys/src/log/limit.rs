//! At most so many lines in so much time, for what a guest can cause; the lines not written are counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// Lines that one place may write in each window.
const LINES: u32 = 5;

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
        self.allow_at(crate::clock::boottime().as_secs())
    }

    fn allow_at(&self, seconds: u64) -> Option<u32> {
        let window = (seconds / WINDOW_S + 1) << 32;
        let count = |old: u64| old & 0xffff_ffff;
        let step = |old: u64| {
            let same = old >> 32 == window >> 32;
            Some(if same { old + u64::from(count(old) < 0xffff_ffff) } else { window | 1 })
        };
        let old = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or_else(|old| old);
        let asked = u32::try_from(count(old)).unwrap_or(u32::MAX);
        if old >> 32 != window >> 32 {
            return Some(asked.saturating_sub(LINES));
        }
        (asked < LINES).then_some(0)
    }
}

impl Default for RateLimit {
    fn default() -> Self {
        Self::new()
    }
}

/// Logs what a guest can cause: `guest_log!(Warn, "queue {index} is broken")`. Each place has its own limit.
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
        let written = (0..1000).filter(|_| limit.allow_at(100).is_some()).count();
        assert_eq!(written, 5);
        assert_eq!(limit.allow_at(110), Some(995));
        assert_eq!(limit.allow_at(110), Some(0));
    }

    #[test]
    fn a_slow_trickle_is_written_whole() {
        let limit = RateLimit::new();
        for second in (0..1000).step_by(3) {
            assert_eq!(limit.allow_at(second), Some(0));
        }
    }

    #[test]
    fn the_count_does_not_spill_into_the_window() {
        let limit = RateLimit::new();
        limit.state.store((11 << 32) | 0xffff_ffff, Ordering::Relaxed);
        assert_eq!(limit.allow_at(100), None);
        assert_eq!(limit.allow_at(110), Some(u32::MAX - 5));
    }
}
