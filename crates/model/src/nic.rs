//! A guest's network card.

use serde::{Deserialize, Serialize};

use crate::mac::MacAddr;
use crate::names::{GroupName, IfName, SwitchName};

/// Network cards of one VM. The original allows 4; with [`crate::MAX_DISKS`] and the fixed devices they still fit the bus.
pub const MAX_NICS: usize = 8;

/// The greatest routing domain (openbsd/vm.conf.md, 9).
pub const MAX_RDOMAIN: u8 = 255;

/// A group of interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceGroup {
    /// Its name.
    pub name: GroupName,
    /// Its number, where the host has one for the name.
    pub number: Option<u32>,
}

/// A network card of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// An address pair of its own with the host, and DHCP.
    pub local: bool,
    /// The tap wanted; `None` is any free one.
    pub tap: Option<IfName>,
    /// The switch it is attached to. It need not exist: then it is attached to nothing.
    pub switch: Option<SwitchName>,
    /// Group of the tap; `None` is the switch's.
    pub group: Option<InterfaceGroup>,
    /// The guest's address; `None` is a random one.
    pub lladdr: Option<MacAddr>,
    /// Frames from the guest with another source address are dropped.
    pub locked: bool,
    /// Routing domain; `None` is the switch's, else the daemon's.
    pub rdomain: Option<u8>,
    /// Whether the tap is set up or down.
    pub up: bool,
}

impl Default for Nic {
    fn default() -> Self {
        Self {
            local: false,
            tap: None,
            switch: None,
            group: None,
            lladdr: None,
            locked: false,
            rdomain: None,
            up: true,
        }
    }
}
