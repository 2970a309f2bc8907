//! Waiting for an event with a deadline, and with a message that says what was waited for.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

/// How long a guest may take for anything: an emulated machine is 10 to 50 times slower than a real one.
pub const GUEST: Duration = Duration::from_secs(240);

/// How long the daemon may take for anything that no guest is needed for.
pub const DAEMON: Duration = Duration::from_secs(60);

/// Pause between two looks at something that can only be polled.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Looks until there is something. Panics at the deadline and names what was waited for.
pub fn until<T>(what: impl Display, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited {} s for {what}", limit.as_secs());
        thread::sleep(LOOK_AGAIN);
    }
}
