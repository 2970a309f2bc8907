//! One boot of one contender, until the guest's first process runs, and what is read then.

use std::fs;
use std::time::{Duration, Instant};

use testkit::console::Console;
use testkit::deadline::GUEST;
use testkit::process::{Mapping, Process};

/// What `guest-init` prints first when it is told to hold.
pub const IN_INIT: &str = "GUEST-INIT";

/// The kernel's arguments of every contender.
pub const CMDLINE: &str = "console=ttyS0 quiet panic=-1 hold=1";

/// Memory of every contender's guest, in MiB.
pub const MEMORY_MIB: u32 = 256;

/// Something that boots a guest.
pub trait Contender {
    /// What the table calls it.
    fn name(&self) -> String;
    /// Launches the VM and waits until its guest is in init. Dropping what is returned ends the VM.
    fn boot(&self) -> Box<dyn Running>;
}

/// A VM whose guest is in init.
pub trait Running {
    /// From launch until init, seen from outside.
    fn to_init(&self) -> Duration;
    /// The process that runs the vCPU.
    fn vm_process(&self) -> Process;
    /// Every process of the VM.
    fn processes(&self) -> Vec<Process>;
    /// Is this mapping the guest's memory?
    fn is_guest_memory(&self, mapping: &Mapping) -> bool;
}

/// What one boot cost.
#[derive(Clone, Debug)]
pub struct Sample {
    /// From launch until the guest's init.
    pub to_init: Duration,
    /// Processor time of all processes of the VM until then.
    pub cpu: Duration,
    /// KVM exits until then.
    pub exits: u64,
    /// Memory of all processes of the VM that is theirs alone and not the guest's.
    pub private_kib: u64,
}

/// Boots once and reads everything.
pub fn measure(contender: &dyn Contender) -> Sample {
    let running = contender.boot();
    let exits = kvm_statistic(running.vm_process(), "exits");
    let processes = running.processes();
    let cpu = processes.iter().map(|it| cpu_time(*it)).sum();
    // Pages of a binary that was just linked count as dirty until they are written back.
    rustix::fs::sync();
    let private_kib = processes.iter().map(|it| it.private_kib(|mapping| running.is_guest_memory(mapping))).sum();
    Sample { to_init: running.to_init(), cpu, exits, private_kib }
}

/// Waits for init on a console, and tells how long that took from `launch`.
pub fn wait_for_init(console: &mut Console, launch: Instant) -> Duration {
    console.expect(IN_INIT, GUEST);
    launch.elapsed()
}

/// One of KVM's counters of the VM that a process owns: /sys/kernel/debug/kvm/PID-FD/NAME.
fn kvm_statistic(process: Process, name: &str) -> u64 {
    let start = format!("{}-", process.pid);
    let vms = fs::read_dir("/sys/kernel/debug/kvm").expect("debugfs is mounted").flatten();
    let vm =
        vms.map(|it| it.path()).find(|it| it.file_name().is_some_and(|it| it.to_string_lossy().starts_with(&start)));
    let file = vm.unwrap_or_else(|| panic!("KVM knows no VM of process {}", process.pid)).join(name);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.trim().parse().expect("a counter is a number")
}

/// Time on a processor of all threads of a process, those of guests included (Documentation/scheduler/sched-stats.rst:
/// the first number of /proc/PID/task/TID/schedstat, in ns).
pub fn cpu_time(process: Process) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.pid)).expect("the process runs").flatten();
    let times = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(times.sum())
}

/// The middle of them, or the mean of the two that are.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle.wrapping_sub(1)), values.get(middle)) {
        (Some(low), Some(high)) if values.len().is_multiple_of(2) => (low + high) / 2.0,
        (_, Some(middle)) => *middle,
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_two() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
