//! A control peer that answers as a test says, on a real SOCK_SEQPACKET socket, and vmctl asking it.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use proto::client::{Reply, Request, ToClient, ToControl, VERSION};
use proto::{Channel, Received};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tempfile::TempDir;

/// What vmctl may take to say something.
const PATIENCE: Duration = Duration::from_secs(20);

/// A listening socket in a directory of its own.
pub struct Control {
    folder: TempDir,
    listener: OwnedFd,
}

/// A connection as control sees it.
pub type Client = Channel<ToClient, ToControl>;

/// How vmctl ended, and what it printed.
pub struct Outcome {
    pub success: bool,
    pub out: String,
    pub err: String,
}

impl Control {
    pub fn listen() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("a socket");
        let address = SocketAddrUnix::new(folder.path().join("vmd.sock")).expect("an address");
        rustix::net::bind(&listener, &address).expect("bound");
        rustix::net::listen(&listener, 5).expect("listens");
        Self { folder, listener }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("vmd.sock")
    }

    /// Serves one connection with `serve`, in a thread; joined, it gives what `serve` gave.
    pub fn serve<T: Send + 'static>(&self, serve: impl FnOnce(Client) -> T + Send + 'static) -> JoinHandle<T> {
        let listener = self.listener.try_clone().expect("a copy");
        thread::spawn(move || {
            let socket = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC).expect("a client");
            serve(Channel::new(socket))
        })
    }

    /// Serves one connection: greets, and answers each request with what `answers` says. Gives the requests, each with
    /// the number of its descriptors.
    pub fn answer(
        &self,
        mut answers: impl FnMut(&Request) -> Vec<Reply> + Send + 'static,
    ) -> JoinHandle<Vec<(Request, usize)>> {
        self.serve(move |mut client| {
            greet(&mut client);
            let mut requests = Vec::new();
            while let Received::Message(ToControl::Ask { id, request }, fds) =
                client.recv_within(PATIENCE).expect("a request")
            {
                for reply in answers(&request) {
                    client.send(&ToClient::Answer { id, reply }, Vec::new()).expect("answered");
                }
                requests.push((request, fds.len()));
            }
            requests
        })
    }
}

/// Takes the greeting and returns it.
pub fn greet(client: &mut Client) {
    let hello = client.recv_within(PATIENCE).expect("a greeting");
    assert!(matches!(hello, Received::Message(ToControl::Hello { version: VERSION }, _)), "{hello:?}");
    client.send(&ToClient::hello(), Vec::new()).expect("greeted");
}

/// Runs vmctl on the socket.
pub fn vmctl(socket: &Path, line: &str) -> Outcome {
    let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let screen = vmctl::Screen { out: &mut out, err: &mut err, lively: false, coloured: false };
    let code = vmctl::run(&arguments, socket, screen);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Outcome { success: code == ExitCode::SUCCESS, out: text(out), err: text(err) }
}
