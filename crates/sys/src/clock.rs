//! Time as numbers: what is left until a deadline, and how long the host has run.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec};

/// Time left until `at`, zero when it has passed.
pub fn until(at: Instant, now: Instant) -> Timespec {
    timespec(at.saturating_duration_since(now))
}

/// A duration as the kernel takes it; one beyond its range becomes the longest it knows.
pub fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// Time since boot, also that which passed in suspend.
pub fn boottime() -> Duration {
    rustix::time::clock_gettime(ClockId::Boottime).try_into().unwrap_or_default()
}

/// Time on the clock of [`Instant`].
pub fn monotonic() -> Duration {
    rustix::time::clock_gettime(ClockId::Monotonic).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passed_deadline_has_nothing_left() {
        let now = Instant::now();
        let left = until(now, now + Duration::from_secs(1));
        assert_eq!((left.tv_sec, left.tv_nsec), (0, 0));
    }

    #[test]
    fn what_is_left_is_exact() {
        let now = Instant::now();
        let left = until(now + Duration::new(3, 5), now);
        assert_eq!((left.tv_sec, left.tv_nsec), (3, 5));
    }

    #[test]
    fn the_longest_duration_does_not_overflow() {
        assert_eq!(timespec(Duration::MAX).tv_sec, i64::MAX);
    }

    #[test]
    fn monotonic_is_the_clock_of_instants() {
        let (begun, before) = (Instant::now(), monotonic());
        std::thread::sleep(Duration::from_millis(2));
        assert!(monotonic() - before >= Duration::from_millis(2));
        assert!(monotonic() - before <= begun.elapsed());
    }

    #[test]
    fn boottime_runs() {
        let before = boottime();
        while boottime() == before {}
        assert!(boottime() > before);
    }
}
