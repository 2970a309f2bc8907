//! How fast a guest may use its disk: a bucket of tokens for requests and one for bytes. Pure: no clock.
//!
//! A request begins when each bucket has a token, and takes all that it costs, if need be on credit: whatever its size it is
//! begun at some time, and in the long run nobody gets more than the rate.

use std::time::{Duration, Instant};

use model::{DiskLimits, Rate};

use super::request::Request;

/// A token is counted in these, so that no part of one is lost however often time is looked at.
const TOKEN: i128 = 1_000_000_000;

/// The longest wait that is told; after it there may be another. It keeps all times within the clock's range.
const LONGEST: Duration = Duration::from_secs(3600);

/// The limits of one disk, and what of them is used.
pub struct Pace {
    requests: Option<Bucket>,
    bytes: Option<Bucket>,
}

impl Pace {
    /// Full buckets; none where there are no limits.
    pub fn new(limits: DiskLimits, now: Instant) -> Option<Pace> {
        let bucket = |rate| Bucket::full(rate, now);
        let pace = Pace { requests: limits.iops.map(bucket), bytes: limits.bandwidth.map(bucket) };
        (pace.requests.is_some() || pace.bytes.is_some()).then_some(pace)
    }

    /// When a request may begin, if not now.
    pub fn wait(&mut self, now: Instant) -> Option<Instant> {
        self.buckets().filter_map(|bucket| bucket.wait(now)).max()
    }

    /// A request has begun.
    pub fn begun(&mut self, request: &Request, readable: u64) {
        let bytes = match request {
            Request::Nothing | Request::GetId { .. } => return, // the disk has no part in it
            Request::Read { len, .. } => u64::from(*len),
            Request::Write { .. } => readable,
            Request::Flush | Request::Clear(_) => 0,
        };
        self.requests.iter_mut().for_each(|bucket| bucket.take(1));
        self.bytes.iter_mut().for_each(|bucket| bucket.take(bytes));
    }

    fn buckets(&mut self) -> impl Iterator<Item = &mut Bucket> {
        [&mut self.requests, &mut self.bytes].into_iter().flatten()
    }
}

/// Tokens that come at a rate, up to a burst of them.
struct Bucket {
    rate: Rate,
    /// In parts of a token; below zero what was taken on credit.
    level: i128,
    /// What came until then is in.
    at: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Bucket {
        Bucket { rate, level: most(rate), at: now }
    }

    /// When a token is there, if not now.
    fn wait(&mut self, now: Instant) -> Option<Instant> {
        let rate = i128::from(self.rate.per_second());
        let elapsed = now.saturating_duration_since(self.at).as_nanos();
        // Parts of a token that come in a nanosecond are as many as tokens in a second.
        let came = i128::try_from(elapsed).unwrap_or(i128::MAX).saturating_mul(rate);
        self.level = self.level.saturating_add(came).min(most(self.rate));
        self.at = self.at.max(now);
        let lacks = TOKEN.saturating_sub(self.level);
        if lacks <= 0 {
            return None;
        }
        let nanos = lacks.saturating_add(rate.saturating_sub(1)).checked_div(rate).unwrap_or(0);
        let wait = u64::try_from(nanos).map_or(LONGEST, Duration::from_nanos).min(LONGEST);
        now.checked_add(wait)
    }

    fn take(&mut self, tokens: u64) {
        self.level = self.level.saturating_sub(i128::from(tokens).saturating_mul(TOKEN));
    }
}

/// What a full bucket has.
fn most(rate: Rate) -> i128 {
    i128::from(rate.burst()).saturating_mul(TOKEN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::blk::request::Clear;

    fn rate(per_second: u64, burst: u64) -> Option<Rate> {
        Some(Rate::new(per_second, burst).unwrap())
    }

    fn after(nanos: u64) -> Duration {
        Duration::from_nanos(nanos)
    }

    const READ: Request = Request::Read { offset: 0, len: 4096 };

    #[test]
    fn without_limits_there_is_no_pace() {
        assert!(Pace::new(DiskLimits::default(), Instant::now()).is_none());
    }

    #[test]
    fn after_its_burst_a_guest_gets_one_request_at_a_time() {
        let now = Instant::now();
        let mut pace = Pace::new(DiskLimits { iops: rate(10, 3), bandwidth: None }, now).unwrap();
        for _ in 0..3 {
            assert_eq!(pace.wait(now), None);
            pace.begun(&READ, 0);
        }
        let due = now + Duration::from_millis(100);
        assert_eq!(pace.wait(now), Some(due));
        assert_eq!(pace.wait(due - after(1)), Some(due));
        assert_eq!(pace.wait(due), None);
        pace.begun(&Request::Flush, 0);
        assert_eq!(pace.wait(due), Some(due + Duration::from_millis(100)));
        let later = due + Duration::from_secs(60);
        for _ in 0..3 {
            assert_eq!(pace.wait(later), None, "no more than a burst was saved");
            pace.begun(&Request::Clear(Clear::Discard), 16);
        }
        assert!(pace.wait(later).is_some());
    }

    #[test]
    fn the_slower_of_two_limits_counts_and_a_large_request_is_paid_for_later() {
        let now = Instant::now();
        let limits = DiskLimits { iops: rate(1000, 1000), bandwidth: rate(1 << 20, 1 << 20) };
        let mut pace = Pace::new(limits, now).unwrap();
        pace.begun(&Request::Write { offset: 0 }, 4 << 20);
        let due = pace.wait(now).unwrap();
        let nearly = due.duration_since(now);
        assert!(nearly >= Duration::from_secs(3) && nearly < Duration::from_millis(3001), "{nearly:?}");
        assert_eq!(pace.wait(due), None);
    }

    #[test]
    fn what_the_disk_has_no_part_in_costs_nothing() {
        let now = Instant::now();
        let mut pace = Pace::new(DiskLimits { iops: rate(1, 1), bandwidth: rate(65536, 65536) }, now).unwrap();
        for request in [Request::Nothing, Request::GetId { len: 20 }] {
            pace.begun(&request, 1 << 30);
            assert_eq!(pace.wait(now), None);
        }
    }

    #[test]
    fn nothing_overflows() {
        let now = Instant::now();
        let most = rate(Rate::MAX, Rate::MAX);
        let mut pace = Pace::new(DiskLimits { iops: most, bandwidth: rate(1, 1) }, now).unwrap();
        for _ in 0..3 {
            pace.begun(&Request::Write { offset: 0 }, u64::MAX);
        }
        assert!(pace.wait(now).unwrap() > now);
        assert!(pace.wait(now + Duration::from_secs(1 << 40)).is_some());
    }

    proptest! {
        /// In no span of time does a guest begin more than its burst and what the span brings, and it is never kept waiting
        /// longer than it was told.
        #[test]
        fn no_span_has_more_than_its_burst_and_its_rate(
            per_second in 1u64..5_000_000, burst in 1u64..100,
            // How many nanoseconds go by before the next is tried.
            tries in proptest::collection::vec(0u64..50_000_000, 1..300),
        ) {
            let start = Instant::now();
            let mut pace = Pace::new(DiskLimits { iops: rate(per_second, burst), bandwidth: None }, start).unwrap();
            let mut now = 0u64;
            let mut begun: Vec<u64> = Vec::new();
            for pause in tries {
                now += pause;
                if let Some(due) = pace.wait(start + after(now)) {
                    let due = u64::try_from(due.duration_since(start).as_nanos()).unwrap();
                    prop_assert!(due > now && due - now <= 1_000_000_000 / per_second + 1);
                    now = due;
                }
                prop_assert_eq!(pace.wait(start + after(now)), None);
                pace.begun(&READ, 0);
                begun.push(now);
            }
            for (first, from) in begun.iter().enumerate() {
                for (last, to) in begun.iter().enumerate().skip(first) {
                    let brought = u128::from(to - from) * u128::from(per_second) / 1_000_000_000;
                    prop_assert!((last - first + 1) as u128 <= u128::from(burst) + brought);
                }
            }
        }
    }
}
