//! Dev-only: the machine that end-to-end tests run on, the daemon under test, its guests, and what it leaves behind.
//!
//! Used by `tests/` and `make bench`; never linked into a product. Where something does not go as a test needs it, these
//! helpers panic and say what was waited for: a test has no other way to fail.
#![forbid(unsafe_code)]

pub mod apart;
pub mod artefacts;
pub mod bridge;
pub mod census;
pub mod console;
pub mod daemon;
pub mod deadline;
pub mod guest;
pub mod idle;
pub mod machine;
pub mod moment;
pub mod process;
pub mod schema;
pub mod status;

/// How many times longer than usual tests are that have no natural end: 1, but for `make test-long`.
pub fn long() -> u32 {
    std::env::var("VMD_LONG").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}
