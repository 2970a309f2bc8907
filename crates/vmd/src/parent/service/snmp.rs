//! What vm.conf says of the SNMP master, and what follows for agentx. Pure; that one which ends is started again is decided
//! with the others (`restarts.rs`).

use model::UserPath;
use proto::agentx::Context;

/// Where the SNMP master listens, if vm.conf says nothing else (openbsd/daemon.md, 7).
pub const DEFAULT_PATH: &str = "/var/agentx/master";
/// `agentx` of vm.conf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// Its socket.
    pub path: UserPath,
    /// Under which context VMs are reported; none: the default one.
    pub context: Option<Context>,
}

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Do {
    /// End agentx, or do not start it again: its session ends with it.
    End,
    /// Start it; it is told the context then.
    Start,
    /// Tell it the context, if it runs.
    Tell,
}

/// What follows when vm.conf says this of the master now, and said that before.
pub fn steps(before: Option<&Master>, now: Option<&Master>) -> &'static [Do] {
    match (before, now) {
        (None, None) => &[],
        (Some(_), None) => &[Do::End],
        (None, Some(_)) => &[Do::Start],
        (Some(before), Some(now)) if before == now => &[],
        (Some(before), Some(now)) if before.path == now.path => &[Do::Tell], // in the same session
        (Some(_), Some(_)) => &[Do::End, Do::Start],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(path: &str, context: Option<&str>) -> Master {
        Master { path: UserPath::new(path).unwrap(), context: context.map(|it| Context::new(it).unwrap()) }
    }

    #[test]
    fn it_runs_while_vm_conf_says_so_and_only_then() {
        let a = master("/a", None);
        assert_eq!(steps(None, None), []);
        assert_eq!(steps(None, Some(&a)), [Do::Start]);
        assert_eq!(steps(Some(&a), None), [Do::End]);
    }

    #[test]
    fn an_unchanged_line_does_nothing_a_context_is_told_and_a_path_needs_a_new_session() {
        let (a, lab, b) = (master("/a", None), master("/a", Some("lab")), master("/b", Some("lab")));
        assert_eq!(steps(Some(&a), Some(&a.clone())), []);
        assert_eq!(steps(Some(&a), Some(&lab)), [Do::Tell]);
        assert_eq!(steps(Some(&lab), Some(&b)), [Do::End, Do::Start]);
    }
}
