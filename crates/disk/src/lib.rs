//! Disk images: raw and qcow2, base chains, create and check.
#![forbid(unsafe_code)]
