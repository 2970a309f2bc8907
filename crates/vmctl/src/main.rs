//! vmctl: one conversation with the daemon, then a table or a console.
#![forbid(unsafe_code)]

fn main() {}
