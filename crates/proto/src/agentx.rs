//! Parent and agentx. agentx may ask for a connection to the SNMP master that vm.conf names, and for what the VM-MIB says of
//! VMs; it knows no path and no user.

use model::{List, MemorySize, Text, VmName};
use serde::{Deserialize, Serialize};

use crate::channel::Message;
use crate::client::VmState;
use crate::failure::Failure;
use crate::names::{RequestId, VmId};

/// An SNMP context (openbsd/vm.conf.md, 8.4).
pub type Context = Text<32>;
/// VMs in one message: 10,000 of them fit a channel's queue six times.
pub const MAX_ROWS: usize = 256;

/// What agentx says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToParent {
    /// Connect to the master. Answered by `Connected` or `NotConnected`.
    Connect,
    /// All VMs. Answered by `Vms`, as many as it takes, then `VmsEnd`.
    List {
        /// Comes back with the answers.
        request: RequestId,
    },
}

/// What the parent says to agentx.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToAgentX {
    /// Under which context VMs are reported; at first, and when vm.conf has another.
    Serve {
        /// None: the default one.
        context: Option<Context>,
    },
    /// A connection to the master comes along: a stream that does not block.
    Connected,
    /// There is none.
    NotConnected {
        /// Why.
        failure: Failure,
    },
    /// Some VMs, in no order.
    Vms {
        /// Whose answer.
        request: RequestId,
        /// One each.
        rows: List<Row, MAX_ROWS>,
    },
    /// That were all.
    VmsEnd {
        /// Whose answer.
        request: RequestId,
    },
    /// How much to log.
    Verbose {
        /// Debug lines too.
        debug: bool,
    },
}

/// What the VM-MIB says of a VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its number.
    pub vm: VmId,
    /// Its name.
    pub name: VmName,
    /// What it does.
    pub state: VmState,
    /// vm.conf says that it is not started with the daemon.
    pub disabled: bool,
    /// Virtual CPUs.
    pub cpus: u8,
    /// Memory that it may have.
    pub memory: MemorySize,
    /// Resident bytes of its vm process, while it runs.
    pub used: Option<u64>,
}

impl Message for ToParent {
    fn fds(&self) -> usize {
        match self {
            ToParent::Connect | ToParent::List { .. } => 0,
        }
    }
}

impl Message for ToAgentX {
    fn fds(&self) -> usize {
        match self {
            ToAgentX::Connected => 1,
            ToAgentX::Serve { .. }
            | ToAgentX::NotConnected { .. }
            | ToAgentX::Vms { .. }
            | ToAgentX::VmsEnd { .. }
            | ToAgentX::Verbose { .. } => 0,
        }
    }
}
