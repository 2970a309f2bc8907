//! The network: what the parent wants of priv, and what it computes of addresses, groups and name servers.

mod edge;
mod filtered;
pub mod ifgroups;
pub mod local;
pub mod makers;
mod others;
pub mod resolvers;
pub mod wishes;
