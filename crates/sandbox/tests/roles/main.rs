//! Every role in a process of its own (`fixture/main.rs`), tried from inside and from outside. Needs root.
#![forbid(unsafe_code)]

mod isolation;
mod promises;
mod support;
