//! What the start of a VM takes from the host, and what the VM then holds in the parent.

pub mod holdings;
pub mod host;
