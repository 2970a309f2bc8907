//! End-to-end tests: real guests under the real daemon, one file per promise to the user.
//!
//! Here is what the files share: a vm.conf for a guest that runs commands (`scripts/guest-init`), and guests
//! that do nothing and need no time.
#![forbid(unsafe_code)]

pub mod calls;
pub mod vm_conf;

pub use testkit::idle;
