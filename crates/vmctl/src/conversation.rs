//! One conversation with control: connect, agree on the version, ask, take the answers (proto's `client`).

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::Text;
use proto::channel::ChannelError;
use proto::client::{Reply, Request, ToClient, ToControl, Unkillable, VERSION, VmLine};
use proto::failure::plain;
use proto::{Channel, Failure, Received, RequestId};
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// How long the daemon may take to greet. It answers from memory; longer means that it hangs.
const GREETING: Duration = Duration::from_secs(10);

/// Nobody likes to wait longer than this without a word.
pub const SILENCE: Duration = Duration::from_secs(2);

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    /// No connection.
    #[error("connect: {}: {}{}", .0.display(), plain(.1), connect_hint(.1))]
    Connect(PathBuf, io::Error),
    /// The daemon ended the connection.
    #[error("pipe closed: the daemon ended the connection; see its log")]
    Closed,
    /// The daemon accepts no more clients, and says so.
    #[error("{0}")]
    TurnedAway(Failure),
    /// It was connected and greeted, or not even that, and then said nothing.
    #[error("vmd has not answered for {} s: it hangs, or waits for a disk or a mount; see its log", .0.as_secs())]
    Silent(Duration),
    /// The daemon speaks another version.
    #[error(
        "the daemon speaks version {daemon} of the protocol, this vmctl version {client}: use the vmctl that came with it"
    )]
    Version {
        /// The daemon's.
        daemon: u32,
        /// Ours.
        client: u32,
    },
    /// An answer that this request does not have.
    #[error("unexpected response received from vmd")]
    Unexpected,
    /// The socket failed, or what came over it was no message.
    #[error("talking to vmd: {0}")]
    Channel(#[from] ChannelError),
}

/// A socket that the daemon has closed is its end of the conversation, whatever it was used for.
fn ended(error: ChannelError) -> TalkError {
    let closed = |cause: &io::Error| matches!(cause.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
    if matches!(&error, ChannelError::Socket(cause) if closed(cause)) { TalkError::Closed } else { error.into() }
}

#[allow(clippy::wildcard_enum_match_arm)] // the kinds are the library's
fn connect_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => "; is vmd running?",
        io::ErrorKind::WouldBlock => "; vmd is running but accepts no connection: see its log",
        _ if rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::PROTOTYPE) => {
            "; another program listens there: end it, then start vmd"
        }
        io::ErrorKind::PermissionDenied => "; \"socket owner\" in vm.conf says who may use vmd",
        _ => "",
    }
}

/// A connection after the greeting.
pub struct Conversation {
    channel: Channel<ToControl, ToClient>,
    last: u32,
    /// The daemon's release.
    pub release: Text<32>,
}

impl Conversation {
    /// Connects to the socket and greets; `waits` is called if that takes longer than [`SILENCE`].
    pub fn open(path: &Path, mut waits: impl FnMut()) -> Result<Self, TalkError> {
        let failed = |error: rustix::io::Errno| TalkError::Connect(path.to_owned(), error.into());
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(failed)?;
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        // A daemon that hangs takes no more clients, and connecting would wait for it (unix(7)).
        let connect = |limit| {
            rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
            rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))
        };
        let connected = connect(SILENCE).or_else(|error| {
            if error != rustix::io::Errno::AGAIN {
                return Err(error);
            }
            waits();
            connect(GREETING.saturating_sub(SILENCE))
        });
        connected.map_err(failed)?;
        let mut channel = Channel::new(socket);
        // Who is turned away is told why before it has said a word, and its greeting meets a closed socket.
        let sent = channel.send(&ToControl::Hello { version: VERSION }, Vec::new());
        let mut greeting = channel.recv_within(SILENCE);
        if matches!(greeting, Err(ChannelError::Late(_))) {
            waits();
            greeting = channel.recv_within(GREETING.saturating_sub(SILENCE));
        }
        if matches!(greeting, Err(ChannelError::Late(_))) {
            return Err(TalkError::Silent(GREETING));
        }
        let greeting = greeting.map_err(ended)?;
        if !matches!(greeting, Received::Message(ToClient::Answer { .. }, _)) {
            sent.map_err(ended)?;
        }
        match greeting {
            Received::Message(ToClient::Hello { release, .. }, _) => Ok(Self { channel, last: 0, release }),
            Received::Message(ToClient::WrongVersion { daemon, client }, _) => {
                Err(TalkError::Version { daemon, client })
            }
            Received::Message(ToClient::Answer { reply: Reply::Failed(failure), .. }, _) => {
                Err(TalkError::TurnedAway(failure))
            }
            Received::Message(ToClient::Answer { .. }, _) => Err(TalkError::Unexpected),
            Received::Empty | Received::Closed => Err(TalkError::Closed),
        }
    }

    /// Sends a request; its answers are read with [`Conversation::reply`] before the next is sent.
    pub fn ask(&mut self, request: Request, fds: Vec<OwnedFd>) -> Result<(), TalkError> {
        self.last = self.last.wrapping_add(1);
        self.channel.send(&ToControl::Ask { id: RequestId(self.last), request }, fds).map_err(ended)
    }

    /// The next answer to the last request. Each time that none came within `tick`, `waits` is called, and says whether it is
    /// waited for longer.
    pub fn reply(
        &mut self,
        tick: Duration,
        mut waits: impl FnMut() -> Result<(), TalkError>,
    ) -> Result<Reply, TalkError> {
        loop {
            match self.channel.recv_within(tick) {
                Ok(Received::Message(ToClient::Answer { id, reply }, _)) if id.0 == self.last => return Ok(reply),
                Ok(Received::Message(ToClient::Answer { .. }, _)) => {}
                Err(ChannelError::Late(_)) => waits()?,
                Ok(Received::Message(ToClient::Hello { .. } | ToClient::WrongVersion { .. }, _)) => {
                    return Err(TalkError::Unexpected);
                }
                Ok(Received::Empty | Received::Closed) => return Err(TalkError::Closed),
                Err(error) => return Err(ended(error)),
            }
        }
    }

    /// All VMs, in the daemon's order, and what can't be killed; or the daemon's reason for telling none. `next` waits for
    /// an answer.
    pub fn list(
        &mut self,
        mut next: impl FnMut(&mut Self) -> Result<Reply, TalkError>,
    ) -> Result<Result<Listed, Failure>, TalkError> {
        self.ask(Request::List, Vec::new())?;
        let (mut vms, mut unkillable) = (Vec::new(), Vec::new());
        loop {
            match next(self)? {
                Reply::Vms(some) => vms.extend(some),
                Reply::Unkillable(some) => unkillable.extend(some),
                Reply::Done => return Ok(Ok((vms, unkillable))),
                Reply::Failed(failure) => return Ok(Err(failure)),
                Reply::Wrong(_)
                | Reply::Note(_)
                | Reply::Detail(_)
                | Reply::Started { .. }
                | Reply::Accepted { .. }
                | Reply::Ended { .. } => return Err(TalkError::Unexpected),
            }
        }
    }
}

/// The daemon's VMs, and processes that can't be killed.
pub type Listed = (Vec<VmLine>, Vec<Unkillable>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_takes_no_connection_is_told_from_one_that_is_not_there() {
        let told = |errno: rustix::io::Errno| TalkError::Connect("/s".into(), errno.into()).to_string();
        let busy =
            "connect: /s: Resource temporarily unavailable; vmd is running but accepts no connection: see its log";
        assert_eq!(told(rustix::io::Errno::AGAIN), busy);
        assert_eq!(told(rustix::io::Errno::NOENT), "connect: /s: No such file or directory; is vmd running?");
    }
}
