//! opener and probe as the parent starts them: real processes, their channel, their descriptors. Needs root.
#![forbid(unsafe_code)]

mod opener;
mod probe;
mod support;
