//! How often a VM may start (openbsd/daemon.md, 3.6): the fourth start in fast succession is refused.

use std::time::{Duration, Instant};

/// A start sooner than this after the one before is a fast one.
pub const FAST: Duration = Duration::from_secs(6);
/// Fast starts in a row, the last of which is refused.
pub const MAX_FAST: u8 = 3;

/// The starts of one VM.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    last: Option<Instant>,
    fast: u8,
}

impl Rate {
    /// Counts a start; false when it is one too many. A refused start does not move the clock.
    pub fn start(&mut self, now: Instant) -> bool {
        if let Some(last) = self.last {
            let fast = now.saturating_duration_since(last) < FAST;
            self.fast = if fast { self.fast.saturating_add(1) } else { 0 };
            if self.fast >= MAX_FAST {
                return false;
            }
        }
        self.last = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fourth_fast_start_is_refused_until_six_seconds_after_the_third() {
        let mut rate = Rate::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(rate.start(at(0)) && rate.start(at(5999)) && rate.start(at(6000)));
        assert!(!rate.start(at(6001)));
        assert!(!rate.start(at(11_999)));
        assert!(rate.start(at(12_000)));
        assert!(rate.start(at(12_001)));
    }

    #[test]
    fn a_slow_start_clears_the_count() {
        let mut rate = Rate::default();
        let start = Instant::now();
        for i in 0..50 {
            assert!(rate.start(start + FAST * i));
        }
    }
}
