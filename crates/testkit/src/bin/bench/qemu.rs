//! The peer: QEMU's microvm machine at its best (without PIT or RTC Linux polls for seconds), booted by PVH.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testkit::artefacts::{self, Kernel};
use testkit::console::Console;
use testkit::process::{Mapping, Process};

use crate::boot::{CMDLINE, Contender, MEMORY_MIB, Running, wait_for_init};

/// `qemu-system-x86_64 -M microvm`, one CPU, serial console, nothing else.
pub struct Qemu;

struct Machine {
    child: Child,
    to_init: Duration,
    /// Open as long as the machine runs, or its serial port would be closed.
    _console: Console,
}

impl Contender for Qemu {
    fn name(&self) -> String {
        "QEMU microvm".to_owned()
    }

    fn boot(&self) -> Box<dyn Running> {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-M", "microvm,pit=on,pic=off,rtc=on", "-accel", "kvm", "-cpu", "host"]);
        command.args(["-smp", "1", "-m", &MEMORY_MIB.to_string(), "-nodefaults", "-no-user-config", "-no-reboot"]);
        command.args(["-display", "none", "-serial", "stdio", "-append", CMDLINE, "-kernel"]);
        command.arg(artefacts::kernel(Kernel::Vmlinux)).arg("-initrd").arg(artefacts::initrd());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let launch = Instant::now();
        let mut child = command.spawn().expect("QEMU can be run");
        let output = child.stdout.take().expect("its output is a pipe");
        let mut console = Console::over(File::from(OwnedFd::from(output)));
        let to_init = wait_for_init(&mut console, launch);
        Box::new(Machine { child, to_init, _console: console })
    }
}

impl Running for Machine {
    fn to_init(&self) -> Duration {
        self.to_init
    }

    fn vm_process(&self) -> Process {
        Process { pid: self.child.id() }
    }

    fn processes(&self) -> Vec<Process> {
        vec![self.vm_process()]
    }

    fn is_guest_memory(&self, mapping: &Mapping) -> bool {
        // Anonymous, as it comes: huge pages spare it exits.
        mapping.name.is_empty() && mapping.bytes >= u64::from(MEMORY_MIB) << 20
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
