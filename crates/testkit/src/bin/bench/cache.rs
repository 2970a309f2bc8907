//! What the memory limit of a VM costs its disk: a guest writes to a disk whose image is on an ext4 of the benchmark's own, and
//! so into the host's page cache, with the limit that the daemon set and with none, in turn.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;
use testkit::artefacts::{self, Kernel};
use testkit::daemon::Daemon;
use testkit::guest::Guest;

use crate::boot::{CMDLINE, MEMORY_MIB, median};

/// Rounds with, and as many without.
const ROUNDS: usize = 5;
/// What the guest writes each time, in MiB: more than it may have to be written itself (vm.dirty_ratio), less than its memory.
const WRITTEN_MIB: u64 = 192;
/// The image, and the file system that it is on.
const DISK_MIB: u64 = 256;
const FILE_SYSTEM_MIB: u64 = 320;

/// What was measured.
pub struct Figures {
    /// The limit that the daemon set, in MiB.
    pub limit_mib: u64,
    /// What was written each time, in MiB.
    pub written_mib: u64,
    /// Seconds for that without a limit, and with it.
    pub seconds: [f64; 2],
}

/// Starts a daemon of its own and measures. None where the host's cgroups have no controller of memory.
pub fn measure() -> Option<Figures> {
    let rounds = std::env::var("BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let disk = Ext4::make();
    let daemon = Daemon::start_quietly(&format!(
        "vm \"disk\" {{\n\tdisable\n\tmemory {MEMORY_MIB}M\n\tboot \"{}\"\n\tinitrd \"{}\"\n\tcmdline \"{}\"\n\tdisk \"{}\" format raw\n}}\n",
        artefacts::kernel(Kernel::Vmlinux).display(),
        artefacts::initrd().display(),
        CMDLINE.replace("hold=1", ""),
        disk.image().display(),
    ));
    daemon.vmctl(&["start", "disk"]).success();
    let mut guest = Guest::wait_up(daemon.console("disk"));
    let limit = limit_of(daemon.row("disk").pid.expect("it runs"))?;
    let set = fs::read_to_string(&limit).expect("the daemon's limit");
    let mut seconds = [vec![], vec![]];
    for round in 1..=rounds {
        eprintln!("bench: round {round} of {rounds}: a disk without and with a limit of memory");
        for (bytes, seconds) in ["max", &set].into_iter().zip(&mut seconds) {
            rustix::fs::sync();
            fs::write("/proc/sys/vm/drop_caches", "1").expect("root may");
            fs::write(&limit, bytes).expect("root may");
            let begun = Instant::now();
            guest.check(&format!("dd if=/dev/zero of=/dev/vda bs=1M count={WRITTEN_MIB} oflag=direct 2>/dev/null"));
            seconds.push(begun.elapsed().as_secs_f64());
        }
    }
    daemon.vmctl(&["stop", "-fw", "disk"]).success();
    let limit_mib = set.trim().parse::<u64>().expect("a number") >> 20;
    Some(Figures { limit_mib, written_mib: WRITTEN_MIB, seconds: seconds.map(median) })
}

/// The file of the limit of a process's cgroup.
fn limit_of(pid: u32) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process runs");
    let own = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .map(|mount| Path::new(mount).join(own).join("memory.max"))
        .find(|file| file.exists())
}

/// An ext4 with an image on it, all of whose blocks have been written: in a file, since a benchmark has no disk of its own.
struct Ext4(TempDir);

impl Ext4 {
    fn make() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let this = Self(dir);
        let (file, on) = (this.0.path().join("ext4"), this.0.path().join("on"));
        fs::create_dir(&on).expect("it is ours");
        let (file, on, image) = (file.display(), on.display(), this.image());
        let zeros = |path: &dyn std::fmt::Display, mib: u64| {
            run(&format!("dd if=/dev/zero of={path} bs=1M count={mib} conv=fsync status=none"));
        };
        zeros(&file, FILE_SYSTEM_MIB);
        run(&format!("mke2fs -q -t ext4 -E nodiscard {file}"));
        run(&format!("mount -o loop {file} {on}"));
        zeros(&image.display(), DISK_MIB);
        this
    }

    fn image(&self) -> PathBuf {
        self.0.path().join("on/disk.img")
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path().join("on")).status();
    }
}

fn run(command: &str) {
    let mut words = command.split(' ');
    let program = words.next().unwrap_or_default();
    let status = Command::new(program).args(words).status().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(status.success(), "{command}: {status}");
}
