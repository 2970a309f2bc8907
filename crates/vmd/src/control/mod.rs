//! control: speaks to clients, and hands their requests to the parent with the name of the connection they came by.
//!
//! Its peers are clients ([`proto::client`]) and the parent ([`proto::control`]). It runs as `_vmd` with no capability,
//! in an empty root with no network, and can open, make and connect nothing. It holds the parent's channel, the
//! listening socket that the parent made, its signals, and the connections of at most `MAX_CLIENTS` clients.
//!
//! It shows each new connection to the parent once, which reads from it who is at the other end. What clients send is
//! decoded here, so that the parent only sees well-formed requests. A client that sends anything else, that does not
//! read, or that never says its version loses its connection and nothing more happens. It ends with the parent, or on
//! SIGTERM and SIGINT.

mod clients;
mod edge;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;

use crate::ending::Fatal;

/// Serves the clients of `listener` until the parent at the other end of `channel` is gone.
pub fn run(channel: OwnedFd, listener: OwnedFd) -> Result<(), Fatal> {
    sandbox::enter(&sandbox::promise::CONTROL)?;
    edge::Edge::new(channel, listener)?.serve()
}
