//! Names of accounts: what the registry needs of the host to define a VM.

use model::Owner;

/// Names of accounts, for what users read.
pub trait Names {
    /// `user[:group]`.
    fn owner(&mut self, owner: Owner) -> String;
}
