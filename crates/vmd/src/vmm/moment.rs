//! A time of the kernel's monotonic clock, as `Instant` is, but plain data: it means the same in every process of this boot.

use std::ops::Add;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// A time since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment(Duration);

impl Moment {
    /// The present.
    pub fn now() -> Self {
        Self(sys::clock::monotonic())
    }

    /// The same time for who waits: one that has passed is now.
    pub fn instant(self) -> Instant {
        Instant::now() + self.0.saturating_sub(sys::clock::monotonic())
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0 + time)
    }
}
