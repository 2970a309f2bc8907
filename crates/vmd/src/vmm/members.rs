//! The processes of VMs: how they are started. Knows nothing of what they are for.

use std::os::fd::OwnedFd;

use proto::channel::CHANNEL;
use proto::{Channel, Code, Failure};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use sys::child::Child;
use sys::exe::Executable;
use sys::memory::sealed;
use sys::seqpacket;
use sys::spawn::{Spawn, SpawnError};

use super::held::Held;
use super::running::{Member, Process, Slot, Title};
use super::talk::{Living, Talk};

/// Starts a process with its channel; a device with its vhost-user sockets, its pipe and the memory that it keeps, which are held for
/// its and its VM's message.
pub fn start(exe: &Executable, held: &mut Held, process: Process, title: &Title) -> Result<Living, Failure> {
    let Process { run, member } = process;
    if let Member::Device(device) = member {
        let flags = SocketFlags::CLOEXEC;
        let (front, back) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|errno| Failure::io("vhost-user socket", &errno.into()))?;
        let (gone, lives) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Failure::io("pipe", &errno.into()))?;
        let slots = vec![Slot::Front(device), Slot::Back(device), Slot::Gone(device), Slot::Lives(device)];
        held.hold(run, slots, vec![front, back, gone, lives]);
        if title.keeps > 0 && held.lend(run, Slot::Kept(device)).is_none() {
            let kept =
                sealed("kept", title.keeps).map_err(|error| Failure::io("memory that a device keeps", &error))?;
            held.hold(run, vec![Slot::Kept(device)], vec![kept]);
        }
    }
    let (ours, theirs) = seqpacket::pair().map_err(|error| Failure::io("channel", &error))?;
    let child = execute(exe, held, process, title, theirs).map_err(|error| failure_of(&error))?;
    let talk = match member {
        Member::Vm => Talk::Vm(Channel::new(ours)),
        Member::Device(_) => Talk::Device(Channel::new(ours)),
    };
    Ok(Living { child, talk: Some(talk) })
}

fn execute(
    exe: &Executable,
    held: &Held,
    process: Process,
    title: &Title,
    channel: OwnedFd,
) -> Result<Child, SpawnError> {
    let mut argv = vec![title.title.as_str(), "-x", title.role];
    argv.extend(title.debug.then_some("-v"));
    let log = held.lend(process.run, Slot::Log).unwrap_or(rustix::stdio::stderr());
    Spawn::new(exe, &argv)
        .fd(0, rustix::stdio::stdin()) // /dev/null, as our starter gave it
        .fd(1, rustix::stdio::stdout())
        .fd(2, log)
        .fd(CHANNEL.into(), channel)
        .cgroup(held.lend(process.run, Slot::Cgroup))
        .user(title.user)
        // A safety net, on which no decision hangs: vmm's end closes the channels, at which all of them end by themselves, but one
        // that hangs. Who hands VMs over to a successor lifts it.
        .die_with_parent()
        .spawn()
}

/// What the caller of a start hears: EIO as OpenBSD's (openbsd/daemon.md, 2.11), but where the host lacks something,
/// that.
fn failure_of(error: &SpawnError) -> Failure {
    let code = match error.errno {
        Errno::MFILE | Errno::NFILE => Code::NoDescriptors,
        Errno::NOMEM => Code::NoMemory,
        _ => Code::Io,
    };
    Failure::new(code, error.to_string())
}
