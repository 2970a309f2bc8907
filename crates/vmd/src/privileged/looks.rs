//! When to look again after something changed: at once, but not more often than every so often. Pure.

use std::time::{Duration, Instant};

/// Between two looks: a look lists all, and some programs change rules hundreds of times in a second.
const APART: Duration = Duration::from_millis(200);

/// The looks at one thing.
#[derive(Debug, Default)]
pub struct Looks {
    last: Option<Instant>,
    due: Option<Instant>,
}

impl Looks {
    /// Something changed.
    pub fn changed(&mut self, now: Instant) {
        let soonest = self.last.map_or(now, |last| now.max(last + APART));
        self.at(soonest);
    }

    /// There is to be a look then, or before.
    pub fn at(&mut self, when: Instant) {
        self.due = Some(self.due.map_or(when, |due| due.min(when)));
    }

    /// When the next is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Whether to look now; it is told once.
    pub fn due(&mut self, now: Instant) -> bool {
        let due = self.due.is_some_and(|due| due <= now);
        if due {
            (self.last, self.due) = (Some(now), None);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_is_looked_at_at_once_and_a_storm_every_so_often() {
        let (mut looks, start) = (Looks::default(), Instant::now());
        assert!(!looks.due(start) && looks.deadline().is_none());
        let mut seen = 0;
        for millisecond in 0..1000 {
            let now = start + Duration::from_millis(millisecond);
            looks.changed(now);
            seen += u32::from(looks.due(now));
        }
        assert_eq!(seen, 5);
        let late = looks.deadline().unwrap();
        assert!(looks.due(late), "the last change is not forgotten");
        assert_eq!(looks.deadline(), None);
    }
}
