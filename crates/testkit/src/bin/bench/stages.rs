//! `vmctl start` until the first guest instruction, stage by stage, from the kernel's scheduler and KVM events.
//!
//! A stage ends when a process of the start is executed, and the last one when KVM first enters the guest. Processor time
//! is what the processes of the daemon and vmctl ran for meanwhile, from the kernel's account of each run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use testkit::process::Process;

use crate::boot::Contender;
use crate::ours::Ours;

/// One stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// What happened at its end.
    pub name: String,
    /// Wall time in ms.
    pub wall_ms: f64,
    /// Processor time in ms.
    pub cpu_ms: f64,
}

/// The events that are recorded.
const EVENTS: [&str; 4] =
    ["sched/sched_process_fork", "sched/sched_process_exec", "sched/sched_stat_runtime", "kvm/kvm_entry"];

/// What one line of the trace says.
#[derive(Clone, Debug, PartialEq)]
enum Event {
    Fork { parent: u32, child: u32 },
    Exec { pid: u32, file: String },
    Ran { pid: u32, name: String, nanoseconds: u64 },
    Entry,
}

impl Event {
    fn named(self) -> Option<(u32, String)> {
        match self {
            Self::Ran { pid, name, .. } => Some((pid, name)),
            Self::Fork { .. } | Self::Exec { .. } | Self::Entry => None,
        }
    }
}

/// Boots the bare VM once under trace.
pub fn of_a_start(ours: &Ours) -> Vec<Stage> {
    let trace = Trace::start();
    let running = ours.bare().boot();
    let text = trace.stop();
    // The daemon's processes, the VM's own and the benchmark itself, which executes vmctl.
    let mut family: Vec<u32> = ours.daemon().process().family().into_iter().map(|it| it.pid).collect();
    family.extend(running.processes().into_iter().map(|it| it.pid));
    stages(&text, family, Process { pid: std::process::id() })
}

/// Cuts the trace into stages, which are named by what the processes called themselves in the end.
fn stages(trace: &str, mut family: Vec<u32>, starter: Process) -> Vec<Stage> {
    family.push(starter.pid);
    let names: BTreeMap<u32, String> = trace.lines().filter_map(line).filter_map(|(_, event)| event.named()).collect();
    let mut stages = Vec::new();
    let mut since = None;
    let mut ran = 0;
    for (time, event) in trace.lines().filter_map(line) {
        let name = match event {
            Event::Fork { parent, child } => {
                if family.contains(&parent) {
                    family.push(child);
                }
                continue;
            }
            Event::Ran { pid, nanoseconds, .. } => {
                if family.contains(&pid) && pid != starter.pid {
                    ran += nanoseconds;
                }
                continue;
            }
            Event::Exec { pid, file } if family.contains(&pid) => {
                format!("{} executed", names.get(&pid).cloned().unwrap_or(file))
            }
            Event::Exec { .. } => continue,
            Event::Entry => "first guest instruction".to_owned(),
        };
        // Time counts from the first execution, that of vmctl.
        if let Some(start) = since {
            stages.push(Stage { name: name.clone(), wall_ms: (time - start) * 1e3, cpu_ms: ran as f64 / 1e6 });
        }
        (since, ran) = (Some(time), 0);
        if event_is_last(&name) {
            break;
        }
    }
    let total = Stage {
        name: "in all".to_owned(),
        wall_ms: stages.iter().map(|it| it.wall_ms).sum(),
        cpu_ms: stages.iter().map(|it| it.cpu_ms).sum(),
    };
    stages.push(total);
    stages
}

fn event_is_last(name: &str) -> bool {
    name == "first guest instruction"
}

/// Reads `  vmctl-123   [000] d..3.   12.345678: sched_process_exec: filename=/x pid=123 old_pid=123`.
fn line(text: &str) -> Option<(f64, Event)> {
    let (head, tail) = text.split_once(": ")?;
    let time = head.split_whitespace().last()?.parse().ok()?;
    let (name, fields) = tail.split_once(": ")?;
    let field = |key: &str| fields.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let number = |key: &str| field(key)?.parse().ok();
    let event = match name {
        "sched_process_fork" => Event::Fork { parent: number("pid")?, child: number("child_pid")? },
        "sched_process_exec" => Event::Exec { pid: number("pid")?, file: base_name(field("filename")?) },
        "sched_stat_runtime" => Event::Ran {
            pid: number("pid")?,
            name: field("comm")?.to_owned(),
            nanoseconds: field("runtime")?.parse().ok()?,
        },
        "kvm_entry" => Event::Entry,
        _ => return None,
    };
    Some((time, event))
}

fn base_name(path: &str) -> String {
    Path::new(path).file_name().map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The kernel's trace buffer, while it records.
struct Trace(PathBuf);

impl Trace {
    fn start() -> Self {
        let folders = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"].map(PathBuf::from);
        let folder = folders.into_iter().find(|it| it.join("trace").exists()).expect("tracefs is mounted");
        let trace = Self(folder);
        trace.set("trace", "");
        trace.set("buffer_size_kb", "16384");
        // Of the entries into the guest only the first matters.
        trace.set("events/kvm/kvm_entry/trigger", "traceoff:1");
        trace.switch("1");
        trace.set("tracing_on", "1");
        trace
    }

    fn stop(self) -> String {
        self.switch("0");
        let text = fs::read_to_string(self.0.join("trace")).expect("the trace can be read");
        // Refused when it has fired and is gone.
        let _ = fs::write(self.0.join("events/kvm/kvm_entry/trigger"), "!traceoff");
        self.set("tracing_on", "1");
        text
    }

    fn switch(&self, on: &str) {
        for event in EVENTS {
            self.set(&format!("events/{event}/enable"), on);
        }
    }

    fn set(&self, file: &str, value: &str) {
        let path = self.0.join(file);
        fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {value:?}: {error}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
# tracer: nop
           bench-10      [000] d..3.   100.000000: sched_process_fork: comm=bench pid=10 child_comm=bench child_pid=20
           bench-20      [000] .....   100.001000: sched_process_exec: filename=/x/vmctl pid=20 old_pid=20
           vmctl-20      [000] d....   100.002000: sched_stat_runtime: comm=vmctl pid=20 runtime=1000000 [ns] vruntime=1 [ns]
           other-99      [000] d....   100.002500: sched_stat_runtime: comm=other pid=99 runtime=9000000 [ns] vruntime=1 [ns]
           other-99      [000] .....   100.002600: sched_process_exec: filename=/bin/ls pid=99 old_pid=99
             vmm-11      [000] d..3.   100.003000: sched_process_fork: comm=vmm pid=11 child_comm=vmm child_pid=30
             vmm-30      [000] .....   100.004000: sched_process_exec: filename=/dev/fd/4 pid=30 old_pid=30
          vmd-vm-30      [000] d....   100.008000: sched_stat_runtime: comm=vmd-vm pid=30 runtime=2500000 [ns] vruntime=1 [ns]
              vm-30      [000] .....   100.009000: kvm_entry: vcpu 0, rip 0x1000
              vm-30      [000] .....   100.010000: kvm_entry: vcpu 0, rip 0x1000
";

    #[test]
    fn stages_end_at_each_execution_and_at_the_first_entry() {
        let stages = stages(TRACE, vec![11, 30], Process { pid: 10 });
        let names: Vec<&str> = stages.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["vmd-vm executed", "first guest instruction", "in all"]);
        let rounded: Vec<(f64, f64)> =
            stages.iter().map(|it| ((it.wall_ms * 10.0).round() / 10.0, it.cpu_ms)).collect();
        assert_eq!(rounded, [(3.0, 1.0), (5.0, 2.5), (8.0, 3.5)]);
    }
}
