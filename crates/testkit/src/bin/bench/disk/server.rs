//! The servers that are compared: each a process that serves one image on one queue.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use model::{DiskFormat, List, Text, VmName};
use proto::channel::{CHANNEL, Channel, Received};
use proto::device::{Blk, Spec, ToDevice, ToVmm, Told};

/// nobody: who serves a VM is an ordinary user.
const NOBODY: u32 = 65534;

const PATIENCE: Duration = Duration::from_secs(30);

/// Whose server it is.
#[derive(Clone, Copy, Debug)]
pub enum Vendor {
    /// qemu-storage-daemon.
    Qemu,
    /// vmd's vioblk, in its sandbox.
    Vmd,
}

/// A running server.
pub struct Server {
    process: Process,
    socket: Socket,
}

enum Process {
    Qemu(Child),
    /// With vmm's end of its channel.
    Vmd(sys::child::Child, #[expect(dead_code, reason = "held: the process ends with it")] Channel<ToDevice, ToVmm>),
}

enum Socket {
    Connected(UnixStream),
    At(PathBuf, #[expect(dead_code, reason = "held: the socket is in it")] tempfile::TempDir),
}

impl Server {
    /// Starts a server of an image.
    pub fn start(vendor: Vendor, image: &Path, format: DiskFormat) -> Server {
        match vendor {
            Vendor::Qemu => qemu(image, format),
            Vendor::Vmd => vmd(image, format),
        }
    }

    /// The socket on which it speaks vhost-user. It takes one.
    pub fn connect(&self) -> UnixStream {
        let path = match &self.socket {
            Socket::Connected(stream) => return stream.try_clone().expect("a descriptor"),
            Socket::At(path, _) => path,
        };
        let end = Instant::now() + PATIENCE;
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => return stream,
                Err(error) => assert!(Instant::now() < end, "qemu-storage-daemon does not listen: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn pid(&self) -> u32 {
        match &self.process {
            Process::Qemu(child) => child.id(),
            Process::Vmd(child, _) => child.pid(),
        }
    }

    /// Processor time of all its threads, those of the kernel for its ring among them (proc(5): the first number of schedstat, in
    /// ns). They live on for seconds when they have nothing to do.
    pub fn cpu(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        let times = tasks.map(|task| {
            let line = std::fs::read_to_string(task?.path().join("schedstat"))?;
            let first = line.split(' ').next().and_then(|number| number.parse().ok());
            first.map(Duration::from_nanos).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
        });
        times.filter_map(Result::ok).sum()
    }

    /// KiB that this process has alone and has written to. The guest's memory is shared.
    pub fn private_kib(&self) -> u64 {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).expect("it may be read");
        let line = rollup.lines().find(|line| line.starts_with("Private_Dirty:")).expect("Linux tells it");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        match &mut self.process {
            Process::Qemu(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Process::Vmd(child, _) => {
                let _ = child.kill(rustix::process::Signal::KILL);
                let _ = child.wait();
            }
        }
    }
}

fn qemu(image: &Path, format: DiskFormat) -> Server {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("socket");
    let file = format!("file,node-name=file,aio=io_uring,filename={}", image.display());
    let export = format!(
        "vhost-user-blk,id=disk,node-name=disk,writable=on,num-queues=1,addr.type=unix,addr.path={}",
        path.display()
    );
    let disk = match format {
        DiskFormat::Raw => "raw,node-name=disk,file=file",
        DiskFormat::Qcow2 => "qcow2,node-name=disk,file=file",
    };
    let child = Command::new("qemu-storage-daemon")
        .args(["--blockdev", &file, "--blockdev", disk, "--export", &export])
        .stdin(Stdio::null())
        .spawn()
        .expect("qemu-storage-daemon (Debian: qemu-system-common)");
    Server { process: Process::Qemu(child), socket: Socket::At(path, dir) }
}

/// Where the vmd is that is measured.
pub fn bin_dir() -> OsString {
    std::env::var_os("VMD_BIN_DIR").expect("VMD_BIN_DIR is set")
}

fn vmd(image: &Path, format: DiskFormat) -> Server {
    let bin = PathBuf::from(bin_dir()).join("vmd");
    let vmd = File::open(&bin).unwrap_or_else(|error| panic!("{}: {error}", bin.display()));
    let (ours, theirs) = sys::seqpacket::pair().expect("a pair of sockets");
    let child = sys::spawn::Spawn::new(&vmd, &["vmd: vioblk", "-x", "vioblk"])
        .fd(2, io::stderr())
        .fd(CHANNEL.into(), theirs)
        .user(rustix::process::geteuid().is_root().then_some(NOBODY))
        .spawn()
        .expect("vmd runs");
    let mut channel = Channel::new(ours);
    let (socket, back_end) = UnixStream::pair().expect("a pair of sockets");
    let file = File::options().read(true).write(true).open(image).expect("the image is there");
    let blk = Blk {
        format,
        bases: List::default(),
        limits: model::DiskLimits::default(),
        read_only: false,
        serial: Text::cut("bench"),
        called: Text::cut("bench"),
    };
    let spec = Box::new(Spec { number: 0, told: Told::Blk(blk) });
    let keeps = spec.keeps();
    let start = ToDevice::Start { vm: VmName::new("bench").expect("a name"), spec, debug: false };
    let kept = sys::memory::sealed("kept", keeps).expect("memory");
    // Nobody waits for the end of what is under way: this process ends when nothing is.
    let (_, lives) = rustix::pipe::pipe().expect("a pipe");
    channel.send(&start, vec![back_end.into(), lives, kept, file.into()]).expect("vioblk reads");
    match channel.recv_within(PATIENCE) {
        Ok(Received::Message(ToVmm::Ready, _)) => {}
        other => panic!("vioblk does not serve: {other:?}"),
    }
    Server { process: Process::Vmd(child, channel), socket: Socket::Connected(socket) }
}
