//! Parent and priv: bridges and taps. Each request is answered once, with its number.
//!
//! At its start the parent says `Sweep` before the first `MakeSwitch`. To a priv that is started again after one has
//! answered that, it says neither: what an earlier priv made is recognised by its marks, and removed at the end.

use std::net::{Ipv4Addr, Ipv6Addr};

use model::{IfName, MacAddr, Text};
use serde::{Deserialize, Serialize};

use crate::channel::Message;
use crate::failure::Failure;
use crate::names::RequestId;

/// What an interface says of itself (`ip link`'s alias; the kernel takes 255 bytes, the spec 63).
pub type Alias = Text<63>;

/// The group of every interface that vmd made, "vmd" in ASCII: `ip link show group 7761252`.
pub const GROUP: u32 = 0x0076_6d64;
/// The group of the taps of local interfaces that reach the outside.
pub const LOCAL_GROUP: u32 = GROUP + 1;
/// Before the name of a tap, a bridge or a VRF that vmd made, in its alternative one: `ip link show vmd-tap0`. By that other
/// programs are told to leave it alone (packaging/00-vmd.network).
pub const MARK: &str = "vmd-";
/// The name of vmd's nftables table, whose family is inet. It belongs to a socket of vmd's where the kernel can have it so
/// (Linux 5.12): another program's "flush ruleset" passes it by, and it goes with vmd, however that ends.
pub const TABLE: &str = "vmd";
/// The name of the table that stays when vmd is killed: what was changed on the host, and the rules that keep it from being
/// a router for others as long as it forwards.
pub const HOST_TABLE: &str = "vmd-host";
/// Where tools that drop forwarded packets let others put rules, and vmd does: docker's and ufw's chains.
pub const DOORS: [&str; 3] = ["DOCKER-USER", "ufw-user-forward", "ufw6-user-forward"];
/// firewalld's table and the chain that ends in its refusal. It gives no place to others; where it owns its table
/// (NftablesTableOwner) the kernel takes no rule of anybody else there.
pub const FIREWALLD: (&str, &str) = ("firewalld", "filter_FORWARD");

/// What the parent says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToPriv {
    /// Remove what a killed daemon left behind. Answered by `Removed`, or `Failed` where something could not go.
    Sweep {
        /// Joins the answer.
        request: RequestId,
    },
    /// Make a bridge, or join the one that is there. Answered by `SwitchMade` or `Failed`.
    MakeSwitch {
        /// Joins the answer.
        request: RequestId,
        /// The bridge.
        bridge: IfName,
        /// `switch<id>-<name>`.
        alias: Alias,
        /// Others make it: `Failed` with [`Code::NotFound`](crate::Code::NotFound) while it is not there.
        external: bool,
        /// Up, else down.
        up: bool,
        /// The routing domain that it is in; 0 as none.
        rdomain: Option<u8>,
    },
    /// Make a tap of the /dev/net/tun that comes along, and set it up. Answered by `TapMade` or `Failed`.
    MakeTap {
        /// Joins the answer.
        request: RequestId,
        /// What it is to be.
        tap: TapSpec,
        /// What goes from port to port of a bridge meets the chains of the host's firewall for forwarded packets
        /// (net.bridge.bridge-nf-call-iptables and the like).
        filtered: bool,
    },
    /// A switch is no longer in vm.conf: remove its bridge if it was made by vmd, as soon as it has no port. Not answered.
    RemoveSwitch {
        /// The bridge.
        bridge: IfName,
    },
    /// See whether all is there that was made, and put back what is not. Not answered.
    Look {
        /// As with `MakeTap`.
        filtered: bool,
    },
    /// The tap of a local interface is gone, or going: nothing is to let its name through any more. Not answered.
    TapGone {
        /// The name that it had.
        name: IfName,
    },
    /// How much to log.
    Verbose {
        /// Debug lines too.
        debug: bool,
    },
}

/// A tap, as the parent plans it and priv makes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapSpec {
    /// Its name; none: the first free `tap<N>`.
    pub name: Option<IfName>,
    /// `vm<id>-if<i>-<name>`.
    pub alias: Alias,
    /// The bridge to join.
    pub bridge: Option<IfName>,
    /// Reaches no other such port of the bridge.
    pub isolated: bool,
    /// Up, else down.
    pub up: bool,
    /// The routing domain that it is in, without a bridge; 0 as none.
    pub rdomain: Option<u8>,
    /// The administrator's interface group that it is in, else one of vmd's own.
    pub group: Option<u32>,
    /// The host's end of a `local interface`.
    pub local: Option<LocalEnd>,
}

/// The host's addresses on the tap of a `local interface` (openbsd/daemon.md, 3.12). They go with the tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalEnd {
    /// One of the two of a /31.
    pub inet: Ipv4Addr,
    /// In a /96, with `local inet6`.
    pub inet6: Option<Ipv6Addr>,
    /// Its guest reaches the outside.
    pub nat: bool,
}

/// What another program undid of an interface that vmd made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Undone {
    /// It was taken out of its bridge or VRF.
    Master,
    /// It was switched off.
    Up,
    /// An address was taken from it.
    Address,
}

/// What priv says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToParent {
    /// The bridge is there.
    SwitchMade {
        /// The request's.
        request: RequestId,
        /// Made by us, so removed at the end.
        created: bool,
    },
    /// Gone, or kept because it was not ours or is in use.
    Removed {
        /// The request's.
        request: RequestId,
    },
    /// The tap is there; its descriptor comes along, and the tap lives as long as that.
    TapMade {
        /// The request's.
        request: RequestId,
        /// Its name.
        name: IfName,
        /// The host side's address.
        mac: MacAddr,
    },
    /// Another program changed an interface that vmd made. Not asked for.
    PutBack {
        /// Which.
        name: IfName,
        /// What.
        undone: Undone,
        /// It happened too often, and stays so for a minute; else it is as it was.
        gave_up: bool,
    },
    /// It could not be done; nothing was left behind.
    Failed {
        /// The request's.
        request: RequestId,
        /// Why.
        failure: Failure,
    },
}

impl Message for ToPriv {
    fn fds(&self) -> usize {
        match self {
            ToPriv::MakeTap { .. } => 1,
            ToPriv::Sweep { .. }
            | ToPriv::MakeSwitch { .. }
            | ToPriv::RemoveSwitch { .. }
            | ToPriv::TapGone { .. }
            | ToPriv::Look { .. }
            | ToPriv::Verbose { .. } => 0,
        }
    }
}

impl Message for ToParent {
    fn fds(&self) -> usize {
        match self {
            ToParent::TapMade { .. } => 1,
            ToParent::SwitchMade { .. }
            | ToParent::Removed { .. }
            | ToParent::PutBack { .. }
            | ToParent::Failed { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_that_reach_the_outside_are_in_the_group_beside_vmds() {
        assert_eq!((GROUP, LOCAL_GROUP), (7_761_252, 7_761_253));
    }
}
