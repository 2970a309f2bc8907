//! A device as a process of its own, in its sandbox, with a test in the place of vmm.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use model::VmName;
use proto::channel::{Channel, Received};
use proto::device::{self, Spec, ToDevice, ToVmm, Told};

const PATIENCE: Duration = Duration::from_secs(30);

/// nobody: the processes run as an ordinary user, as under vmm.
const NOBODY: u32 = 65534;

/// A device's process.
pub struct Process {
    pub child: Child,
    /// As vmm has it.
    pub channel: Channel<ToDevice, ToVmm>,
}

impl Process {
    /// Starts one as `nobody`.
    pub fn start(role: &str) -> Process {
        let (channel, theirs) = sys::seqpacket::pair().unwrap();
        // By descriptor: the user may not reach every directory that this was built in.
        let fixture = File::open(env!("CARGO_BIN_EXE_device-fixture")).unwrap();
        let child = Command::new(format!("/proc/self/fd/{}", fixture.as_raw_fd()))
            .arg(role)
            .stdin(theirs)
            .stderr(Stdio::piped())
            .uid(NOBODY)
            .gid(NOBODY)
            .spawn()
            .unwrap();
        Process { child, channel: Channel::new(channel) }
    }

    /// The next that it says.
    pub fn told(&mut self) -> ToVmm {
        match self.channel.recv_within(PATIENCE) {
            Ok(Received::Message(message, _)) => message,
            other => panic!("no answer: {other:?}: {}", self.said()),
        }
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the process did not end within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What it logged, after its end.
    pub fn said(&mut self) -> String {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// KiB that are this process's alone: clean (text, where no other process runs it) and dirty. Guest memory is shared.
    pub fn private_kib(&self) -> (u64, u64) {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).unwrap();
        let kib = |name| {
            let line = rollup.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        (kib("Private_Clean:"), kib("Private_Dirty:"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of a pipe that a process keeps for as long as anything of it is under way.
pub fn lives() -> OwnedFd {
    rustix::pipe::pipe().unwrap().1
}

/// The memory that a device keeps.
pub fn kept() -> OwnedFd {
    sys::memory::sealed("kept", device::KEPT + (1 << 20)).unwrap()
}

/// What vmm says at first.
pub fn start(number: u8, told: Told) -> ToDevice {
    ToDevice::Start { vm: VmName::new("web").unwrap(), spec: Box::new(Spec { number, told }), debug: true }
}
