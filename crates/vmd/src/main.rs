//! vmd: keeps the virtual machines of a Linux host; every process of it is this binary.
#![forbid(unsafe_code)]

fn main() {}
