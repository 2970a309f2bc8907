//! The network: what the parent wants of priv, and what it computes of addresses, groups and name servers.

mod edge;
pub mod ifgroups;
pub mod local;
pub mod makers;
pub mod resolvers;
pub mod wishes;
