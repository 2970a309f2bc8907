//! What each role may do: its promise as data, and how a process enters it.
//!
//! A promise (`promise.rs`, all roles on one page) names the user, the capabilities, the root, the
//! namespaces, the system calls, the files and the limits of a role. `enter` gives up all the rest
//! and must come before the role reads a byte that it did not write itself; `narrow` gives up more
//! once what only the start needed is done.
#![forbid(unsafe_code)]

pub mod calls;
mod enter;
mod error;
mod files;
mod filter;
mod identity;
mod limits;
pub mod promise;
mod root;
mod table;

pub use enter::{Asker, Entered, become_asker, enter, enter_in, narrow};
pub use error::Error;
pub use filter::{Filters, allowed, groups};
pub use promise::Promise;
pub use table::{table, unseen};
