//! vm.conf: where it comes from, how it is read, what it means to the registry, and what `vmd -n` says of it.

pub mod check;
mod foreseen;
#[cfg(test)]
mod here;
pub mod obstacles;
pub mod settings;
pub mod source;
