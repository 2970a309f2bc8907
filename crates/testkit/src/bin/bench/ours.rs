//! vmd: one daemon for the whole benchmark, VMs that differ in their devices.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testkit::artefacts::{self, Kernel};
use testkit::daemon::{self, Daemon};
use testkit::process::{Mapping, Process};

use crate::boot::{CMDLINE, Contender, MEMORY_MIB, Running, wait_for_init};

/// The VM that is compared: no disk, no card.
pub const BARE: &str = "bare";

/// VMs, and what each has beside what `bare` has.
const VMS: [(&str, &str); 5] = [
    (BARE, ""),
    ("vmmci", "\tvmmci\n"),
    ("disk", "\tdisk \"DISK\" format raw\n"),
    ("card", "\tinterface { switch \"lan\" }\n"),
    ("both", "\tdisk \"DISK\" format raw\n\tinterface { switch \"lan\" }\n"),
];

/// The daemon that all VMs of the benchmark run under.
pub struct Ours {
    daemon: Daemon,
    _dir: TempDir,
}

/// One of its VMs.
pub struct Vm<'d> {
    daemon: &'d Daemon,
    name: &'static str,
}

/// That VM while it runs.
struct Boot {
    name: &'static str,
    to_init: Duration,
    vm: Process,
    /// Of the VM alone; the daemon's own serve every VM.
    processes: Vec<Process>,
}

impl Ours {
    /// Starts the daemon, with no VM running.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let disk = dir.path().join("disk.img");
        File::create(&disk).and_then(|file| file.set_len(16 << 20)).expect("an image can be made");
        Self { daemon: Daemon::start_quietly(&configuration(&disk)), _dir: dir }
    }

    /// The daemon.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// The VM that is compared.
    pub fn bare(&self) -> Vm<'_> {
        Vm { daemon: &self.daemon, name: BARE }
    }

    /// The VMs that have devices.
    pub fn with_devices(&self) -> impl Iterator<Item = Vm<'_>> {
        let names = VMS.iter().map(|(name, _)| *name).filter(|name| *name != BARE);
        names.map(|name| Vm { daemon: &self.daemon, name })
    }
}

impl Contender for Vm<'_> {
    fn name(&self) -> String {
        match self.name {
            BARE => "vmd".to_owned(),
            "vmmci" => "vmd with vmmci".to_owned(),
            "both" => "vmd with a disk and a card".to_owned(),
            other => format!("vmd with a {other}"),
        }
    }

    fn boot(&self) -> Box<dyn Running> {
        let before = Process::of_vmd();
        let launch = Instant::now();
        daemon::vmctl(&["start", self.name]).success();
        let mut console = self.daemon.console(self.name);
        let to_init = wait_for_init(&mut console, launch);
        let vm = Process { pid: self.daemon.row(self.name).pid.expect("it runs") };
        let processes = Process::of_vmd().into_iter().filter(|it| !before.contains(it)).collect();
        Box::new(Boot { name: self.name, to_init, vm, processes })
    }
}

impl Running for Boot {
    fn to_init(&self) -> Duration {
        self.to_init
    }

    fn vm_process(&self) -> Process {
        self.vm
    }

    fn processes(&self) -> Vec<Process> {
        self.processes.clone()
    }

    fn is_guest_memory(&self, mapping: &Mapping) -> bool {
        mapping.name.starts_with("/guest memory")
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        daemon::vmctl(&["stop", "-f", "-w", self.name]);
    }
}

fn configuration(disk: &Path) -> String {
    let kernel = artefacts::kernel(Kernel::Vmlinux);
    let initrd = artefacts::initrd();
    let mut text = "switch \"lan\" {\n\tinterface bridge0\n}\n".to_owned();
    for (name, devices) in VMS {
        text.push_str(&format!(
            "vm \"{name}\" {{\n\tdisable\n\tmemory {MEMORY_MIB}M\n\tboot \"{}\"\n\tinitrd \"{}\"\n\tcmdline \"{CMDLINE}\"\n{}}}\n",
            kernel.display(),
            initrd.display(),
            devices.replace("DISK", &disk.display().to_string()),
        ));
    }
    text
}
