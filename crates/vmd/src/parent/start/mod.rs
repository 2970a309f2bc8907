//! What the start of a VM takes from the host, and what the VM then holds in the parent.

mod allowance;
mod edge;
pub mod holdings;
pub mod host;

use super::registry::Run;

/// What one opener is for: the files of a start that this user may open.
pub type Errand = (Run, u32);
