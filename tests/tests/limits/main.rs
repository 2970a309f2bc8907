//! Limits and bad input, as a user meets them: the real daemon and the real vmctl get what is wrong, say in one line what
//! failed, with which value and what to do, leave nothing behind, and go on serving.
//!
//! All but `guests` need no KVM: they run in name spaces of their own on any machine, with a /dev/kvm that is not KVM.
#![forbid(unsafe_code)]

mod command;
mod configuration;
mod create;
mod disks;
mod flood;
mod guests;
mod kernels;
mod nics;
mod rules;
mod socket;
mod startup;
mod streams;
mod unkillable;
mod waits;
mod world;
