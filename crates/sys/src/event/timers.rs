//! Deadlines keyed by token. Pure: the caller brings the time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// At most one deadline for each token.
#[derive(Debug, Clone)]
pub struct Timers<T> {
    of: BTreeMap<T, Instant>,
    order: BTreeSet<(Instant, T)>,
}

impl<T: Copy + Ord> Timers<T> {
    /// No deadlines.
    pub fn new() -> Self {
        Self { of: BTreeMap::new(), order: BTreeSet::new() }
    }

    /// Sets a token's deadline, in place of the one it had.
    pub fn set(&mut self, token: T, at: Instant) {
        self.cancel(token);
        self.of.insert(token, at);
        self.order.insert((at, token));
    }

    /// Forgets a token's deadline, if it has one.
    pub fn cancel(&mut self, token: T) {
        if let Some(at) = self.of.remove(&token) {
            self.order.remove(&(at, token));
        }
    }

    /// The earliest deadline: how long the loop may wait.
    pub fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes one token whose deadline has come, earliest first.
    pub fn expired(&mut self, now: Instant) -> Option<T> {
        let (at, token) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.cancel(token);
        Some(token)
    }

    /// How many deadlines are set.
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}

impl<T: Copy + Ord> Default for Timers<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn deadlines_expire_in_order_and_not_early() {
        let start = Instant::now();
        let mut timers = Timers::new();
        timers.set('b', after(start, 2));
        timers.set('a', after(start, 1));
        assert_eq!(timers.expired(start), None);
        assert_eq!(timers.expired(after(start, 5)), Some('a'));
        assert_eq!(timers.expired(after(start, 5)), Some('b'));
        assert_eq!(timers.expired(after(start, 5)), None);
    }

    #[test]
    fn setting_again_replaces() {
        let start = Instant::now();
        let mut timers = Timers::new();
        timers.set(1, after(start, 1));
        timers.set(1, after(start, 9));
        assert_eq!((timers.len(), timers.next()), (1, Some(after(start, 9))));
        assert_eq!(timers.expired(after(start, 5)), None);
    }

    #[test]
    fn cancelled_deadline_never_comes() {
        let start = Instant::now();
        let mut timers = Timers::new();
        timers.set(1, start);
        timers.cancel(1);
        timers.cancel(2);
        assert_eq!(timers.expired(after(start, 5)), None);
        assert!(timers.is_empty());
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn equal_deadlines_both_come() {
        let start = Instant::now();
        let mut timers = Timers::new();
        timers.set(1, start);
        timers.set(2, start);
        assert_eq!((timers.expired(start), timers.expired(start)), (Some(1), Some(2)));
    }
}
