//! Control and parent. Control names the connection; the parent reads who is at its other end, and decides.

use serde::{Deserialize, Serialize};

use crate::channel::Message;
use crate::client::{Reply, Request};
use crate::names::{ConnId, RequestId};

/// Connections of one user, root apart.
pub const MAX_CONNECTIONS: usize = 64;

/// What control says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToParent {
    /// A client came; its connection is attached once, for the parent to read the peer's credentials from it.
    Connected {
        /// The connection's name from here on.
        conn: ConnId,
    },
    /// A client asks; the request's descriptors come along.
    Ask {
        /// Whose connection.
        conn: ConnId,
        /// The client's own number for it.
        id: RequestId,
        /// What is wanted.
        request: Request,
    },
    /// A client left: its waits end, nothing more is sent to it.
    Gone {
        /// Whose connection.
        conn: ConnId,
    },
}

/// What the parent says to control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToControl {
    /// An answer for a client.
    Answer {
        /// Whose connection.
        conn: ConnId,
        /// The client's own number for it.
        id: RequestId,
        /// The answer.
        reply: Reply,
    },
    /// The control socket was made anew; the new one is attached. Nobody comes to the old one any more.
    Listen,
    /// End this connection.
    Disconnect {
        /// Which.
        conn: ConnId,
    },
    /// How much to log.
    Verbose {
        /// Debug lines too.
        debug: bool,
    },
}

impl Message for ToParent {
    fn fds(&self) -> usize {
        match self {
            ToParent::Connected { .. } => 1,
            ToParent::Ask { request, .. } => request.fds(),
            ToParent::Gone { .. } => 0,
        }
    }
}

impl Message for ToControl {
    fn fds(&self) -> usize {
        match self {
            ToControl::Listen => 1,
            ToControl::Answer { .. } | ToControl::Disconnect { .. } | ToControl::Verbose { .. } => 0,
        }
    }
}
