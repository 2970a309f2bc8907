//! The power button of a guest that was asked to stop. It is pressed again and again, ever more slowly: a press that comes
//! before anybody in the guest listens is lost.
//!
//! Nothing that a guest does before it switches off shows that somebody has listened. Its kernel takes the interrupt and clears
//! the status bit as soon as it has a driver, long before a process waits for the event, and without a driver the bit just
//! stays set. A guest that has listened ignores further presses: its shutdown is under way.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::vmm::moment::Moment;

/// From the first press to the second. A guest that listens has begun to shut down by then.
const FIRST_GAP: Duration = Duration::from_secs(3);
/// The longest time between two presses: what a guest whose boot takes most of its time may lose of it.
const LAST_GAP: Duration = Duration::from_secs(15);
/// Between two presses that were asked for. A finger is no faster, and each is a message to the vm process.
const LEAST_GAP: Duration = Duration::from_secs(1);

/// When it was pressed last, and when it is pressed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Presses {
    last: Moment,
    gap: Duration,
}

impl Presses {
    /// The first press is now.
    pub(super) fn first(now: Moment) -> Self {
        Self { last: now, gap: FIRST_GAP }
    }

    /// When the next is due.
    pub(super) fn next(self) -> Moment {
        self.last + self.gap
    }

    /// Whether it is due, and then it is done; the one after it comes later.
    pub(super) fn due(&mut self, now: Moment) -> bool {
        let due = self.next() <= now;
        if due {
            *self = Self { last: now, gap: (self.gap * 3 / 2).min(LAST_GAP) };
        }
        due
    }

    /// Somebody asks again: it is pressed at once, unless it just was.
    pub(super) fn asked_again(&mut self, now: Moment) {
        if self.last + LEAST_GAP <= now {
            self.last = now;
        }
    }
}
