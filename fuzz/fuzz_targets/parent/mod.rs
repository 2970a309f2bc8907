//! The daemon is a program and no library: the pure parts of its parent, by their files.

#[path = "../../../crates/vmd/src/parent/network/local.rs"]
pub mod local;
#[path = "../../../crates/vmd/src/parent/accounts/names.rs"]
pub mod names;
#[path = "../../../crates/vmd/src/parent/registry/mod.rs"]
pub mod registry;
#[path = "../../../crates/vmd/src/parent/service/snmp.rs"]
pub mod snmp;

/// As the registry finds them.
pub mod accounts {
    pub use super::names;
}

/// As the registry finds them.
pub mod network {
    pub use super::local;
}

/// As the registry finds them.
pub mod service {
    pub use super::snmp;
}
