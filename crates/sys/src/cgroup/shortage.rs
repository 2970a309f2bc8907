//! What memory.events says of processes that the kernel ended (Documentation/admin-guide/cgroup-v2.rst).

/// Whose memory was used up when the kernel ended processes of a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Its own: it has so many bytes.
    Limit(u64),
    /// The host's, or that of a cgroup around it.
    Host,
}

impl Shortage {
    /// None while no process of it was ended so. `oom` counts how often the cgroup was at its own limit and could free nothing.
    pub fn of(events: &str, limit: &str) -> Option<Self> {
        let count = |name: &str| {
            let mut words = events.lines().filter_map(|line| line.split_once(' '));
            words.find(|(found, _)| *found == name).and_then(|(_, count)| count.trim().parse::<u64>().ok())
        };
        count("oom_kill").filter(|killed| *killed > 0)?;
        let own = count("oom").is_some_and(|times| times > 0);
        Some(limit.trim().parse().ok().filter(|_| own).map_or(Self::Host, Self::Limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: &str = "low 0\nhigh 0\nmax 812\noom 0\noom_kill 0\noom_group_kill 0\n";

    #[test]
    fn nobody_was_ended_while_there_was_something_to_free() {
        assert_eq!(Shortage::of(CALM, "1048576\n"), None);
        assert_eq!(Shortage::of(&CALM.replace("oom 0", "oom 3"), "1048576\n"), None, "a call failed, and that was all");
        assert_eq!(Shortage::of("", ""), None);
    }

    #[test]
    fn its_own_limit_is_told_from_the_hosts_memory() {
        let killed = CALM.replace("oom_kill 0", "oom_kill 2");
        assert_eq!(Shortage::of(&killed, "1048576\n"), Some(Shortage::Host));
        let own = killed.replace("oom 0", "oom 1");
        assert_eq!(Shortage::of(&own, "1048576\n"), Some(Shortage::Limit(1 << 20)));
        assert_eq!(Shortage::of(&own, "max\n"), Some(Shortage::Host));
    }
}
