//! Many VMs under one daemon: what `vmctl status` costs it, and how much memory its processes have.
//!
//! Guests that run are a few bytes that halt: what is measured is the daemon, not them.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use testkit::artefacts;
use testkit::daemon::Daemon;
use testkit::idle::{self, Does};
use testkit::process::Process;

use crate::boot::{cpu_time, median};

/// VMs of the configuration.
const DEFINED: usize = 500;
/// Those that run, unless `BENCH_RUNNING` says otherwise: as many as an emulated machine bears.
const RUNNING: usize = 24;
/// How often the daemon is asked.
const ASKED: u32 = 50;
/// The processes that serve all VMs.
const DAEMON: [&str; 3] = ["control", "priv", "vmm"];

/// What was measured, in the table's order.
pub struct Figures {
    /// VMs that ran.
    pub running: usize,
    /// From the start of the daemon until it answers.
    pub until_served: Duration,
    /// From the first `vmctl start` until the last VM ran, one after the other.
    pub until_run: Duration,
    /// Processor time of the daemon for one `vmctl status`.
    pub status_cpu: Duration,
    /// One `vmctl status`, from its start to its end.
    pub status_wall: Duration,
    /// Memory of each process of the daemon that is its alone, in KiB.
    pub private_kib: Vec<(&'static str, u64)>,
}

/// Starts a daemon of its own and measures.
pub fn measure() -> Figures {
    let running = std::env::var("BENCH_RUNNING").ok().and_then(|text| text.parse().ok()).unwrap_or(RUNNING);
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let kernel = idle::kernel_file(dir.path(), Does::Nothing);
    let text: String = (0..DEFINED).map(|number| idle::vm(&name(number), &kernel, &[])).collect();
    let launch = Instant::now();
    let daemon = Daemon::start_quietly(&text);
    let until_served = launch.elapsed();
    let launch = Instant::now();
    (0..running).for_each(|number| drop(daemon.vmctl(&["start", &name(number)]).success()));
    let until_run = launch.elapsed();
    let rows = daemon.status();
    assert_eq!(rows.len(), DEFINED, "all are listed");
    assert_eq!(rows.iter().filter(|row| row.state == "running").count(), running, "all run that were started");
    let (status_cpu, status_wall) = of_status(&daemon);
    rustix::fs::sync(); // or pages of a binary that was just linked count as dirty
    let private = |(name, process): (_, Process)| (name, process.private_kib(|_| false));
    let private_kib = processes(&daemon).map(private).collect();
    Figures { running, until_served, until_run, status_cpu, status_wall, private_kib }
}

fn name(number: usize) -> String {
    format!("vm{number}")
}

fn processes(daemon: &Daemon) -> impl Iterator<Item = (&'static str, Process)> {
    let roles = DAEMON.into_iter().flat_map(|role| daemon.in_role(role).into_iter().map(move |it| (role, it)));
    [("parent", daemon.process())].into_iter().chain(roles)
}

fn of_status(daemon: &Daemon) -> (Duration, Duration) {
    let spent = || processes(daemon).map(|(_, process)| cpu_time(process)).sum::<Duration>();
    let before = spent();
    let walls = (0..ASKED).map(|_| {
        let mut status = Command::new(artefacts::vmctl());
        status.arg("status").stdin(Stdio::null()).stdout(Stdio::null());
        let begin = Instant::now();
        assert!(status.status().expect("vmctl can be run").success());
        begin.elapsed().as_secs_f64()
    });
    let wall = median(walls.collect());
    ((spent() - before) / ASKED, Duration::from_secs_f64(wall))
}
