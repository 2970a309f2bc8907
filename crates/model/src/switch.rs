//! What a guest's card is attached to.

use serde::{Deserialize, Serialize};

use crate::names::{IfName, SwitchName};
use crate::nic::InterfaceGroup;

/// `switch NAME { }`: a bridge of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// What interfaces call it.
    pub name: SwitchName,
    /// Whether it counts at all.
    pub enabled: bool,
    /// The bridge.
    pub interface: IfName,
    /// Interfaces on it drop frames with a foreign source address.
    pub locked_lladdr: bool,
    /// Interfaces on it drop their guests' frames of DHCP servers and routers.
    pub guarded: bool,
    /// Interfaces on it do not reach each other.
    pub isolated: bool,
    /// Others make the bridge; it is waited for.
    pub external: bool,
    /// Group of the interfaces attached to it that name none.
    pub group: Option<InterfaceGroup>,
    /// Routing domain of the bridge and of interfaces that name none of their own.
    pub rdomain: Option<u8>,
    /// Whether the bridge is set up or down.
    pub up: bool,
}
