//! What the start of a VM takes from the host, and what the VM then holds in the parent.

mod allowance;
mod edge;
pub mod holdings;
pub mod host;

use super::registry::{File, Run};

/// What one opener is for: some files of a start, the first of them this one.
pub type Errand = (Run, File);
