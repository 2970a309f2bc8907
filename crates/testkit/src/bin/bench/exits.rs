//! KVM exits of the one VM that runs, by reason, from the kernel's histograms of its trace events.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Counts, by what the kernel calls the reason.
pub type Counts = BTreeMap<String, u64>;

/// What was counted during one boot.
#[derive(Clone, Debug, Default)]
pub struct Exits {
    /// Every exit of a vCPU, by SVM or VMX exit reason.
    pub all: Counts,
    /// Those that returned to the vm process, by KVM's exit reason.
    pub to_process: Counts,
    /// Port and width of each port access, also those that KVM answers itself.
    pub ports: Counts,
}

impl Exits {
    /// The sum of one kind.
    pub fn sum(counts: &Counts) -> u64 {
        counts.values().sum()
    }
}

/// The events whose histograms are read, and their keys.
const EVENTS: [(&str, &str); 3] =
    [("kvm_exit", "exit_reason"), ("kvm_userspace_exit", "reason"), ("kvm_pio", "rw,port")];

/// Histograms that count until this is dropped. Only one VM may run meanwhile.
pub struct Tracer(PathBuf);

impl Tracer {
    /// Starts to count from nothing.
    pub fn start() -> Self {
        let folders = ["/sys/kernel/tracing/events/kvm", "/sys/kernel/debug/tracing/events/kvm"].map(PathBuf::from);
        let folder = folders.into_iter().find(|it| it.join("kvm_exit").exists()).expect("tracefs is mounted");
        let tracer = Self(folder);
        for (event, keys) in EVENTS {
            tracer.trigger(event, &format!("hist:keys={keys}:size=4096"));
        }
        tracer
    }

    /// What was counted so far.
    pub fn read(&self) -> Exits {
        let [all, to_process, ports] = EVENTS.map(|(event, _)| {
            fs::read_to_string(self.0.join(event).join("hist")).map(|text| histogram(&text)).expect("it was set up")
        });
        Exits {
            all: named(all, exit_reason),
            to_process: named(to_process, userspace_reason),
            ports: named(ports, port),
        }
    }

    fn trigger(&self, event: &str, command: &str) {
        let file = self.0.join(event).join("trigger");
        fs::write(&file, command).unwrap_or_else(|error| panic!("{}: {command:?}: {error}", file.display()));
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        for (event, keys) in EVENTS {
            self.trigger(event, &format!("!hist:keys={keys}:size=4096"));
        }
    }
}

/// Reads lines like `{ rw:          1, port:       1016 } hitcount:        290` into keys and counts.
fn histogram(text: &str) -> Vec<(Vec<u64>, u64)> {
    let line = |line: &str| {
        let (keys, count) = line.strip_prefix("{ ")?.split_once(" } hitcount:")?;
        let keys: Option<Vec<u64>> = keys.split(',').map(|key| key.split_once(':')?.1.trim().parse().ok()).collect();
        Some((keys?, count.trim().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

fn named(rows: Vec<(Vec<u64>, u64)>, name: impl Fn(&[u64]) -> String) -> Counts {
    let mut counts = Counts::new();
    for (keys, count) in rows {
        *counts.entry(name(&keys)).or_default() += count;
    }
    counts
}

/// SVM's exit codes (AMD APM volume 2, appendix C) and VMX's (Intel SDM volume 3, appendix C) that a boot shows. The lab's
/// processor is an AMD one.
fn exit_reason(keys: &[u64]) -> String {
    let svm = |code: u64| match code {
        0x40..=0x5f => Some("exception"),
        0x60 => Some("interrupt"),
        0x64 => Some("interrupt window"),
        0x65 => Some("CR0 write"),
        0x72 => Some("CPUID"),
        0x78 => Some("HLT"),
        0x7b => Some("port"),
        0x7c => Some("MSR"),
        0x81 => Some("hypercall"),
        0x89 => Some("WBINVD"),
        0x8d => Some("XSETBV"),
        0x400 => Some("nested page fault"),
        _ => None,
    };
    let code = keys.first().copied().unwrap_or_default();
    svm(code).map_or_else(|| format!("code {code:#x}"), str::to_owned)
}

/// KVM's exit reasons (Linux, include/uapi/linux/kvm.h).
fn userspace_reason(keys: &[u64]) -> String {
    match keys.first().copied().unwrap_or_default() {
        0 => "none (a signal)".to_owned(),
        2 => "KVM_EXIT_IO".to_owned(),
        5 => "KVM_EXIT_HLT".to_owned(),
        6 => "KVM_EXIT_MMIO".to_owned(),
        7 => "KVM_EXIT_IRQ_WINDOW_OPEN".to_owned(),
        8 => "KVM_EXIT_SHUTDOWN".to_owned(),
        10 => "KVM_EXIT_INTR".to_owned(),
        24 => "KVM_EXIT_SYSTEM_EVENT".to_owned(),
        29 => "KVM_EXIT_X86_RDMSR".to_owned(),
        30 => "KVM_EXIT_X86_WRMSR".to_owned(),
        other => format!("KVM exit {other}"),
    }
}

fn port(keys: &[u64]) -> String {
    match keys {
        [write, port] => format!("{} {port:#06x}", if *write == 1 { "write" } else { "read" }),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_read_line_by_line() {
        let text = "# event histogram\n#\n\n{ rw:          1, port:       1016 } hitcount:        290\n\
                    { rw:          0, port:        113 } hitcount:         12\n\nTotals:\n    Hits: 302\n";
        let rows = histogram(text);
        assert_eq!(rows, [(vec![1, 1016], 290), (vec![0, 113], 12)]);
        assert_eq!(named(rows, port).get("write 0x03f8"), Some(&290));
    }
}
