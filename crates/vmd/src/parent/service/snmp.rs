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

/// The master, as long as there is one.
#[derive(Debug, Default)]
pub struct Snmp {
    master: Option<Master>,
}

impl Snmp {
    /// What vm.conf says of the master.
    pub fn master(&self) -> Option<&Master> {
        self.master.as_ref()
    }

    /// vm.conf says this now.
    pub fn serve(&mut self, master: Option<Master>) -> &'static [Do] {
        let before = std::mem::replace(&mut self.master, master);
        match (before, &self.master) {
            (None, None) => &[],
            (Some(_), None) => &[Do::End],
            (None, Some(_)) => &[Do::Start],
            (Some(before), Some(now)) if before == *now => &[],
            (Some(before), Some(now)) if before.path == now.path => &[Do::Tell], // in the same session
            (Some(_), Some(_)) => &[Do::End, Do::Start],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(path: &str, context: Option<&str>) -> Option<Master> {
        Some(Master { path: UserPath::new(path).unwrap(), context: context.map(|it| Context::new(it).unwrap()) })
    }

    #[test]
    fn it_runs_while_vm_conf_says_so_and_only_then() {
        let mut snmp = Snmp::default();
        assert_eq!(snmp.serve(None), []);
        assert_eq!(snmp.serve(master("/a", None)), [Do::Start]);
        assert_eq!(snmp.serve(None), [Do::End]);
        assert_eq!(snmp.serve(master("/a", None)), [Do::Start]);
    }

    #[test]
    fn an_unchanged_line_does_nothing_a_context_is_told_and_a_path_needs_a_new_session() {
        let mut snmp = Snmp::default();
        snmp.serve(master("/a", None));
        assert_eq!(snmp.serve(master("/a", None)), []);
        assert_eq!(snmp.serve(master("/a", Some("lab"))), [Do::Tell]);
        assert_eq!(snmp.serve(master("/b", Some("lab"))), [Do::End, Do::Start]);
        assert_eq!(snmp.master().unwrap().path.as_str(), "/b");
    }
}
