//! How a device's process begins and is watched: the one description that vmm sends, the answer, and what comes later.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use model::VmName;
use proto::channel::{Channel, ChannelError, Received};
use proto::device::{ToDevice, ToVmm, Told};
use proto::failure::Failure;
use rustix::fd::AsFd;

use crate::serve_vhost::{self, Control, Device, Heard};

/// How long the description may take: vmm sends it as soon as the process runs.
const MAX_DESCRIPTION: Duration = Duration::from_secs(30);

/// Why a device's process ends other than by being told.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// It could not give up what it must not have.
    #[error("sandbox: {0}")]
    Sandbox(#[from] sandbox::Error),
    /// vmm said nothing, or nothing that made sense.
    #[error("vmm: {0}")]
    Vmm(#[from] ChannelError),
    /// vmm was gone before it said what to serve.
    #[error("vmm ended before it described the device")]
    Gone,
    /// vmm described another kind of device.
    #[error("vmm described another device")]
    Kind,
    /// The device can't be served; vmm knows.
    #[error("{0}")]
    Refused(Failure),
    /// Waiting failed.
    #[error("loop: {0}")]
    Loop(#[from] std::io::Error),
}

/// What vmm says at first.
pub struct Start {
    /// Whose device it is.
    pub vm: VmName,
    /// What is told to its kind.
    pub told: Told,
    /// The vhost-user socket.
    pub front_end: UnixStream,
    /// The end of a pipe: while anything holds it, the next process of this device is not started.
    pub lives: OwnedFd,
    /// Memory that outlives the process, as many bytes as [`Spec::keeps`](proto::device::Spec::keeps) says.
    pub kept: Option<File>,
    /// The descriptors of the host's that are served, as many as [`Spec::fds`](proto::device::Spec::fds) says: the channel has
    /// counted them.
    pub files: Vec<OwnedFd>,
}

/// vmm, on descriptor 3.
pub struct Vmm(Channel<ToVmm, ToDevice>);

impl Vmm {
    /// vmm, on its socket.
    pub fn new(socket: OwnedFd) -> Vmm {
        Vmm(Channel::new(socket))
    }

    /// What is to be served. The process logs under its name from then on.
    pub fn start(&mut self) -> Result<Start, Fatal> {
        let (message, fds) = match self.0.recv_within(MAX_DESCRIPTION)? {
            Received::Message(message, fds) => (message, fds),
            Received::Closed | Received::Empty => return Err(Fatal::Gone),
        };
        let ToDevice::Start { vm, spec, debug } = message else { return Err(Fatal::Kind) };
        sys::log::set_name(&format!("vm/{vm}/{spec}"));
        log_level(debug);
        let mut fds = fds.into_iter();
        let front_end = UnixStream::from(fds.next().ok_or(Fatal::Kind)?);
        let lives = fds.next().ok_or(Fatal::Kind)?;
        let kept = if spec.keeps() > 0 { fds.next().map(File::from) } else { None };
        Ok(Start { vm, told: spec.told, front_end, lives, kept, files: fds.collect() })
    }

    /// Tells vmm that the device is served from now on, serves it to its end, and tells that too.
    pub fn serve<D: Device>(mut self, front_end: UnixStream, device: D) -> Result<(), Fatal> {
        self.0.send(&ToVmm::Ready, Vec::new())?;
        let ended = serve_vhost::serve(front_end, device, Some(&mut self))?;
        log::debug!("ended: {ended:?}");
        // vmm may be what is gone.
        let _ = self.0.send(&ToVmm::Ended, Vec::new());
        Ok(())
    }

    /// Tells vmm why not.
    pub fn failed(&mut self, failure: Failure) -> Fatal {
        match self.0.send(&ToVmm::Failed(failure.clone()), Vec::new()) {
            Ok(()) => Fatal::Refused(failure),
            Err(error) => error.into(),
        }
    }
}

impl Control for Vmm {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn ready(&mut self) -> Heard {
        match self.0.recv() {
            Ok(Received::Message(ToDevice::Verbose { debug }, _)) => {
                log_level(debug);
                Heard::Nothing
            }
            Ok(Received::Message(ToDevice::Ask(ask), fds)) => Heard::Ask(ask, fds),
            Ok(Received::Empty) => Heard::Nothing,
            Ok(Received::Closed) => Heard::Gone,
            Ok(Received::Message(ToDevice::Start { .. }, _)) => {
                log::error!("vmm described the device twice");
                Heard::Gone
            }
            Err(error) => {
                log::error!("vmm: {error}");
                Heard::Gone
            }
        }
    }

    fn tell(&mut self, news: &ToVmm) -> bool {
        let sent = self.0.send(news, Vec::new());
        if let Err(error) = &sent {
            log::error!("vmm: {error}");
        }
        sent.is_ok()
    }
}

/// Debug lines too, or not.
fn log_level(debug: bool) {
    sys::log::set_level(sys::log::level_of(u8::from(debug)));
}
