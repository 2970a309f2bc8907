//! The configuration as it is used: a value of these types need not be checked again.

use model::{Owner, Switch, SwitchName, UserPath, Vm};

use crate::prefix::{Prefix4, Prefix6};
pub use crate::switches::Switches;

/// All that a file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Statements that concern no one VM.
    pub globals: Globals,
    /// Switches in the order of the file; disabled ones too. The first of a name counts.
    pub switches: Switches,
    /// VMs in the order of the file, which is that of their ids and of their start.
    pub vms: Vec<Vm>,
}

impl Config {
    /// The switch that an interface means by a name. A disabled one counts as missing.
    pub fn switch(&self, name: &SwitchName) -> Option<&Switch> {
        self.switches.named(name)
    }
}

/// Statements outside all blocks (openbsd/vm.conf.md, 8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Globals {
    /// Where the addresses of local interfaces come from.
    pub local_prefix: Prefix4,
    /// Whether local interfaces have IPv6 addresses, and from where.
    pub local_inet6: Option<LocalInet6>,
    /// Whether local interfaces reach the outside by NAT (`local nat no` says no).
    pub local_nat: bool,
    /// Owner and group of the control socket: root and group 0 when not given.
    pub socket_owner: Owner,
    /// The SNMP sub-agent, when it is to run.
    pub agentx: Option<AgentX>,
    /// How configured VMs are started; `None` is the daemon's default (CPUs online at a time, 30 s apart).
    pub staggered: Option<Staggered>,
}

impl Default for Globals {
    fn default() -> Self {
        Self {
            local_prefix: Prefix4::DEFAULT,
            local_inet6: None,
            local_nat: true,
            socket_owner: Owner { uid: 0, gid: Some(0) },
            agentx: None,
            staggered: None,
        }
    }
}

/// `local inet6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalInet6 {
    /// A /64 below fd00::/8 that the daemon draws once in its life.
    Random,
    /// The one given.
    Prefix(Prefix6),
}

/// `agentx`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentX {
    /// The SNMP context, at most 32 bytes.
    pub context: Option<Vec<u8>>,
    /// The master's socket, absolute, at most 103 bytes; `None` is the system's.
    pub path: Option<UserPath>,
}

/// `staggered start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staggered {
    /// VMs started at a time, at least 1.
    pub parallel: u32,
    /// Seconds until the next are.
    pub delay_s: u32,
}
