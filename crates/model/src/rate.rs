//! How fast a guest may use a disk.

use std::ops::RangeInclusive;

use serde::{Deserialize, Deserializer, Serialize};

/// So many a second in the long run, and so many at once after a pause: requests, or bytes. Both 1 to [`Rate::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rate {
    per_second: u64,
    burst: u64,
}

impl Rate {
    /// More than any device does.
    pub const MAX: u64 = 1 << 50;

    /// A rate, if both numbers are in their range.
    pub const fn new(per_second: u64, burst: u64) -> Option<Self> {
        let right = per_second > 0 && per_second <= Self::MAX && burst > 0 && burst <= Self::MAX;
        if right { Some(Self { per_second, burst }) } else { None }
    }

    /// In the long run.
    pub fn per_second(self) -> u64 {
        self.per_second
    }

    /// At once, after a pause.
    pub fn burst(self) -> u64 {
        self.burst
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (per_second, burst) = Deserialize::deserialize(deserializer)?;
        Self::new(per_second, burst).ok_or_else(|| serde::de::Error::custom("not a rate"))
    }
}

/// The limits of a disk; none where nothing is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskLimits {
    /// Requests.
    pub iops: Option<Rate>,
    /// Bytes that are read and written.
    pub bandwidth: Option<Rate>,
}

impl DiskLimits {
    /// Requests a second, and in a burst, that can be said.
    pub const IOPS: RangeInclusive<u64> = 1..=1_000_000_000;

    /// Bytes a second, and in a burst, that can be said. With less, one request of a guest (about 1 MiB) takes so long that its
    /// kernel complains.
    pub const BANDWIDTH: RangeInclusive<u64> = 64 << 10..=Rate::MAX;

    /// The limits that there are, in the words of vm.conf.
    pub fn words(self) -> impl Iterator<Item = String> {
        [("iops", self.iops), ("bandwidth", self.bandwidth)].into_iter().filter_map(|(word, rate)| {
            let Rate { per_second, burst } = rate?;
            Some(format!("{word} {per_second} burst {burst}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_never_nothing_and_never_beyond_its_most() {
        for (per_second, burst, right) in [
            (1, 1, true),
            (Rate::MAX, Rate::MAX, true),
            (0, 1, false),
            (1, 0, false),
            (Rate::MAX + 1, 1, false),
            (1, Rate::MAX + 1, false),
        ] {
            let bytes = postcard::to_stdvec(&(per_second, burst)).unwrap();
            assert_eq!(Rate::new(per_second, burst).is_some(), right, "{per_second} {burst}");
            assert_eq!(postcard::from_bytes::<Rate>(&bytes).ok(), Rate::new(per_second, burst), "{per_second} {burst}");
        }
    }

    #[test]
    fn what_travels_is_what_was_sent() {
        let limits = DiskLimits { iops: Rate::new(7, 9), bandwidth: None };
        let bytes = postcard::to_stdvec(&limits).unwrap();
        assert_eq!(postcard::from_bytes(&bytes), Ok(limits));
    }

    #[test]
    fn only_limits_that_there_are_have_words() {
        let limits = DiskLimits { iops: Rate::new(7, 9), bandwidth: Rate::new(65536, 70000) };
        assert_eq!(limits.words().collect::<Vec<_>>(), ["iops 7 burst 9", "bandwidth 65536 burst 70000"]);
        assert_eq!(DiskLimits::default().words().count(), 0);
    }
}
