//! What a service manager is told of the daemon (sd_notify(3), sd_watchdog_enabled(3)): that it serves, that it reads its
//! file again, that it ends, and at every turn that it lives. Where none asked to be told, nothing is.

use std::ffi::OsString;
use std::time::{Duration, Instant};

/// Shortest wait that is believed; a shorter one would keep the daemon busy with it.
const MIN_WATCHDOG: Duration = Duration::from_millis(10);

/// Signs of life: twice in the time after which the manager takes the daemon for hung.
#[derive(Debug, PartialEq, Eq)]
pub struct Watchdog {
    every: Duration,
    next: Instant,
}

impl Watchdog {
    /// As the environment asks for it, if it means this process.
    pub fn of_environment(now: Instant) -> Option<Self> {
        Self::asked(std::env::var_os("WATCHDOG_USEC"), std::env::var_os("WATCHDOG_PID"), std::process::id(), now)
    }

    fn asked(usec: Option<OsString>, meant: Option<OsString>, own: u32, now: Instant) -> Option<Self> {
        let number = |text: OsString| text.to_str().and_then(|text| text.parse::<u64>().ok());
        if meant.is_some_and(|pid| number(pid) != Some(own.into())) {
            return None;
        }
        let limit = Duration::from_micros(usec.and_then(number).filter(|usec| *usec > 0)?);
        Some(Self { every: (limit / 2).max(MIN_WATCHDOG), next: now })
    }

    /// When the next sign is due.
    pub fn deadline(&self) -> Instant {
        self.next
    }

    /// Whether one is due now; the next is then.
    pub fn due(&mut self, now: Instant) -> bool {
        let due = self.next <= now;
        if due {
            self.next = now + self.every;
        }
        due
    }
}

/// Whether standard error is the journal's own stream (systemd.exec(5), $JOURNAL_STREAM): of what is started from a unit too,
/// unless its output goes elsewhere.
pub fn stderr_is_the_journal() -> bool {
    let own = rustix::fs::fstat(rustix::stdio::stderr()).ok().map(|stat| (stat.st_dev, stat.st_ino));
    own.is_some() && own == std::env::var("JOURNAL_STREAM").ok().as_deref().and_then(stream)
}

/// Reads `DEVICE:INODE`.
fn stream(text: &str) -> Option<(u64, u64)> {
    let (device, inode) = text.split_once(':')?;
    Some((device.parse().ok()?, inode.parse().ok()?))
}

/// Sends a state. A manager that can't be reached is no reason to end.
pub fn tell(state: &str) {
    if let Err(error) = sys::notify::notify(state) {
        log::debug!("sd_notify: {error}");
    }
}

/// That the file is read again: [`tell`] of `READY=1` ends it. The manager compares the time with that of its request.
pub fn tell_reloading() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let usec = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(usec: &str, meant: Option<&str>, now: Instant) -> Option<Watchdog> {
        Watchdog::asked(Some(usec.into()), meant.map(OsString::from), 7, now)
    }

    #[test]
    fn the_journals_stream_is_known_by_device_and_inode() {
        assert_eq!(stream("9:12345"), Some((9, 12345)));
        assert_eq!(["", "9", "9:", ":1", "9:x", "9:1:2"].map(stream), [None; 6]);
        assert!(!stderr_is_the_journal(), "a test's is not");
    }

    #[test]
    fn signs_of_life_come_twice_in_the_time_that_is_given() {
        let now = Instant::now();
        let mut watchdog = asked("60000000", None, now).unwrap();
        assert!(watchdog.due(now), "the first at once");
        assert_eq!(watchdog.deadline(), now + Duration::from_secs(30));
        assert!(!watchdog.due(now + Duration::from_secs(29)));
        assert!(watchdog.due(now + Duration::from_secs(31)));
        assert_eq!(watchdog.deadline(), now + Duration::from_secs(61));
    }

    #[test]
    fn what_is_asked_of_another_process_or_is_no_time_asks_for_nothing() {
        let now = Instant::now();
        assert!(asked("1000000", Some("7"), now).is_some());
        for (usec, meant) in [("1000000", Some("8")), ("1000000", Some("")), ("0", None), ("", None), ("-1", None)] {
            assert_eq!(asked(usec, meant, now), None, "{usec:?} {meant:?}");
        }
        assert_eq!(Watchdog::asked(None, None, 7, now), None);
        assert_eq!(asked("1", None, now).unwrap().every, MIN_WATCHDOG);
    }
}
