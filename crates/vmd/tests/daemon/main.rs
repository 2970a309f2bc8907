//! The real program, from its start to its end: what it refuses, how its processes are confined, what it leaves. Without
//! guests, so that any machine will do: its /dev/kvm is no KVM. Needs root.
#![forbid(unsafe_code)]
#![allow(deprecated)] // rustix's safe `unshare`: mounts and network alone, no descriptors

mod life;
mod master;
mod refusals;
mod roles;
mod world;
