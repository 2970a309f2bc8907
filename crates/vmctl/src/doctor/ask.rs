//! Asks what no file tells: the kernel, the network, vmd's own program, and who listens on the control socket. Each answer
//! has a deadline, and nothing is changed.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use proto::failure::plain;
use proto::privileged::{GROUP, LOCAL_GROUP, MARK};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Resource, getegid, geteuid, getgroups, getrlimit, pidfd_open};
use sys::netlink::nft::Nft;
use sys::netlink::{Link, LinkKind, NetlinkError, Route};

use super::host::{Host, Manager, Marked, Program, Ran, Seen, Socket, Unseen};
use super::look::Root;
use crate::conversation::{Conversation, TalkError};

/// The kernel answers at once, unless another holds the interfaces' lock.
const NETLINK: Duration = Duration::from_secs(5);
/// A probe guest that runs needs a second, on an emulated machine some; one that hangs is given up by vmd itself earlier.
const PROBE: Duration = Duration::from_secs(60);
/// Names in vm.conf may be asked of a directory server.
const CHECK: Duration = Duration::from_secs(30);
/// Bytes that are kept of what a program says.
const MAX_SAID: u64 = 64 * 1024;

/// The device numbers of /dev/kvm, /dev/net/tun and /dev/ptmx (Linux, admin-guide/devices.txt).
pub const KVM: (u32, u32) = (10, 232);
pub const TUN: (u32, u32) = (10, 200);
pub const PTMX: (u32, u32) = (5, 2);

/// Where the daemon says that it runs.
pub const PID_FILE: &str = "/run/vmd.pid";
/// Its configuration.
pub const CONFIGURATION: &str = "/etc/vm.conf";

/// Everything that can be seen of this host.
pub fn host(socket: &Path) -> Host {
    let root = Root("/".into());
    let mut gids = vec![getegid().as_raw()];
    let others = getgroups().unwrap_or_default().into_iter().map(rustix::process::Gid::as_raw);
    gids.extend(others.filter(|gid| *gid != getegid().as_raw()));
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let (cgroups, links) = (root.cgroups(), links());
    let limits = getrlimit(Resource::Nofile);
    Host {
        caller: root.caller(geteuid().as_raw(), &gids),
        machine: name.machine().to_string_lossy().into_owned(),
        cpu: root.cpu(),
        drivers: root.drivers(),
        modules: root.modules(&release),
        release,
        kvm: root.node("/dev/kvm", KVM, true),
        tun: root.node("/dev/net/tun", TUN, true),
        ptmx: root.node("/dev/ptmx", PTMX, false),
        landlock: sys::kernel::landlock().map_err(|error| plain(&error)),
        seccomp: sys::kernel::seccomp().map_err(|error| plain(&error)),
        io_uring: sys::kernel::io_uring().map_err(|error| plain(&error)),
        values: root.values(),
        marked: Marked {
            links: links.as_ref().map(|all| names(all, |_| true)).map_err(Clone::clone),
            managed: managed(&root, links.as_deref().unwrap_or_default()),
            local: names(links.as_deref().unwrap_or_default(), |link| link.group == LOCAL_GROUP),
            cgroups: root.marked_cgroups(cgroups.as_deref().unwrap_or_default()),
            processes: root.marked_processes(),
            files: root.half_written(),
        },
        cgroups,
        own_cgroup: root.own_cgroup(),
        run: root.writable("/run"),
        account: root.account(),
        file_systems: root.file_systems(),
        memory: root.memory(),
        descriptors: (limits.current.unwrap_or(u64::MAX), limits.maximum.unwrap_or(u64::MAX)),
        firmware: root.firmware(),
        chains: asked(Nft::open(NETLINK).and_then(|mut nft| nft.chains())),
        pid_file: root.pid_file(PID_FILE),
        socket: behind(&root, socket),
        configuration: root.readable(CONFIGURATION),
        program: program(&root),
    }
}

fn asked<T>(answer: Result<T, NetlinkError>) -> Seen<T> {
    answer.map_err(|error| match error.errno() {
        Some(Errno::PERM) => Unseen::Denied,
        _ => Unseen::Failed(error.to_string()),
    })
}

/// Names of the interfaces that have a group of vmd's, or, in a group of the administrator's, its other name.
fn links() -> Seen<Vec<Link>> {
    let all = Route::open(NETLINK).and_then(|mut route| route.links());
    let ours = |link: &Link| {
        let named = link.kind == LinkKind::Tun && link.names.iter().any(|name| name.starts_with(MARK));
        [GROUP, LOCAL_GROUP].contains(&link.group) || named
    };
    asked(all).map(|all| all.into_iter().filter(ours).collect())
}

fn names(links: &[Link], which: impl Fn(&Link) -> bool) -> Vec<String> {
    links.iter().filter(|link| which(link)).map(|link| link.name.clone()).collect()
}

fn managed(root: &Root, links: &[Link]) -> Seen<Vec<(String, Manager)>> {
    let of = |link: &Link| Ok(root.manager(link.index)?.map(|manager| (link.name.clone(), manager)));
    links.iter().filter_map(|link| of(link).transpose()).collect()
}

/// What is behind the control socket.
fn behind(root: &Root, socket: &Path) -> Socket {
    match root.is_socket(&socket.to_string_lossy()) {
        Err(Unseen::Missing) => return Socket::Missing,
        Ok(Err(word)) => return Socket::OtherFile(word),
        Ok(Ok(())) | Err(Unseen::Denied | Unseen::Failed(_)) => {}
    }
    match Conversation::open(socket, || {}) {
        Ok(daemon) => Socket::Answers { release: daemon.release.to_string() },
        Err(TalkError::Connect(_, error)) => match error.kind() {
            io::ErrorKind::NotFound => Socket::Missing,
            io::ErrorKind::PermissionDenied => Socket::Denied,
            io::ErrorKind::ConnectionRefused => Socket::Stale,
            _ => Socket::Odd(plain(&error)),
        },
        Err(TalkError::Version { daemon, .. }) => Socket::Version { daemon },
        Err(
            error @ (TalkError::Closed
            | TalkError::TurnedAway(_)
            | TalkError::Unexpected
            | TalkError::Silent(_)
            | TalkError::Channel(_)),
        ) => Socket::Odd(error.to_string()),
    }
}

fn program(root: &Root) -> Seen<Program> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned()));
    root.program(beside.as_deref()).map(|path| Program {
        probe: run(&path, &["-x", "doctor"], PROBE),
        check: run(&path, &["-n"], CHECK),
        path: path.display().to_string(),
    })
}

/// Runs a program to its end, or to the deadline.
pub fn run(program: &Path, arguments: &[&str], limit: Duration) -> Ran {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    match command.spawn().map(|child| watched(child, limit)) {
        Ok(Ok(ran)) => ran,
        Ok(Err(error)) | Err(error) => Ran::NotStarted(plain(&error)),
    }
}

fn watched(mut child: Child, limit: Duration) -> io::Result<Ran> {
    let (out, err) = (said(child.stdout.take()), said(child.stderr.take()));
    let ended = ends(&child, limit);
    if !matches!(ended, Ok(true)) {
        child.kill()?; // it is waited for either way
    }
    let status = child.wait()?;
    if !ended? {
        return Ok(Ran::Late(limit.as_secs()));
    }
    // A program that it started may hold its output open: what came until now is all.
    let text = |said: Receiver<String>| said.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
    Ok(Ran::Ended { success: status.success(), out: text(out), err: text(err) })
}

/// Whether the child ends in time.
fn ends(child: &Child, limit: Duration) -> io::Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let limit = limit.try_into().map_err(io::Error::other)?;
    Ok(rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)))? > 0)
}

/// Reads in a thread, so that a child that says much does not wait for us.
fn said(stream: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (teller, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read before an error counts; what is more is read, and not kept.
            let _ = stream.by_ref().take(MAX_SAID).read_to_end(&mut bytes);
            let _ = io::copy(&mut stream, &mut io::sink());
        }
        teller.send(String::from_utf8_lossy(&bytes).into_owned())
    });
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn shell(script: &str, limit: Duration) -> Ran {
        run(Path::new("/bin/sh"), &["-c", script], limit)
    }

    #[test]
    fn a_program_is_told_with_all_that_it_says() {
        let ended = |success, out: &str, err: &str| Ran::Ended { success, out: out.into(), err: err.into() };
        assert_eq!(shell("echo a; echo b >&2", LIMIT), ended(true, "a\n", "b\n"));
        assert_eq!(shell("exit 3", LIMIT), ended(false, "", ""));
        let Ran::Ended { success, out, .. } = shell("seq 1 50000", LIMIT) else { panic!("it ends") };
        assert_eq!((success, out.len() as u64), (true, MAX_SAID), "more than is kept, and than a pipe holds");
    }

    #[test]
    fn a_program_that_hangs_is_ended_and_one_that_is_none_is_told() {
        assert_eq!(shell("exec sleep 1000", Duration::from_millis(100)), Ran::Late(0));
        assert_eq!(run(Path::new("/dev/null"), &[], LIMIT), Ran::NotStarted("Permission denied".into()));
        let nothing = tempfile::tempdir().expect("a directory");
        let missing = run(&nothing.path().join("vmd"), &[], LIMIT);
        assert_eq!(missing, Ran::NotStarted("No such file or directory".into()));
    }
}
