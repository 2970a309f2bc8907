//! priv: makes the bridges and taps that the parent names, limits what the host learns of guests there (`guard.rs`), lets
//! local interfaces reach the outside (`nat.rs`), puts back what other programs undo of that (`restore.rs`, `kept.rs`), and
//! undoes all of it at the end.
//!
//! Its one peer is the parent ([`proto::privileged`]). It runs as root with CAP_NET_ADMIN alone, in the host's network
//! and an empty root: it can open no file but IPv6 settings, so that /dev/net/tun comes with each request for a tap. It
//! knows no VM.
//!
//! It holds the parent's channel, a netlink socket, another one for nftables, which the parent holds too since tables
//! belong to it, one each for the changes that others make to links and rules, the directory of the
//! host's IPv6 settings, and its signals; a tap's descriptor only while its request is carried out. A request that can't be
//! carried out is answered so and leaves nothing behind; nothing the parent says ends priv. It ends when the parent does, and
//! first removes what it made. SIGTERM and SIGINT end it too, but VMs run on then: it fails, and what it made is left to the
//! next, which the parent starts and which recognises it (`switches.rs`), as what a killed one left.

mod edge;
mod forward6;
mod guard;
mod kept;
mod looks;
mod nat;
mod outside;
mod restore;
mod switches;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;

use sys::ipv6::Settings;
use sys::netlink::NetlinkError;

/// Why priv can't go on.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// It could not give up what it must not have.
    #[error("{0}")]
    Sandbox(#[from] sandbox::Error),
    /// No netlink.
    #[error("netlink: {0}")]
    Netlink(#[from] NetlinkError),
    /// No event loop.
    #[error("event loop: {0}")]
    Events(#[from] io::Error),
    /// A signal: an end in which nothing is removed, which its status tells the parent.
    #[error("ended by a signal; bridges and taps are left to the next priv")]
    Signal,
}

/// Serves the parent at the other end of `channel` until it is gone. `filter` is the socket that nftables' tables belong to,
/// if the parent could open one.
pub fn run(channel: OwnedFd, filter: Option<OwnedFd>) -> Result<(), Fatal> {
    // A kernel without IPv6 has none to set, and a host that can't clone a mount goes without forwarding.
    let settings = Settings::open_at_its_number().map_err(|error| log::debug!("IPv6 settings: {error}")).ok();
    sandbox::enter(&sandbox::promise::PRIV)?;
    edge::Edge::new(channel, settings, filter)?.serve()
}
