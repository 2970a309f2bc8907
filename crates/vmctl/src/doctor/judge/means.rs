//! What VMs use up: consoles, memory, descriptors, processes; and what they tell the time by and would boot from.

use super::{Judged, SYS_RESOURCE, fault, known, note, ok, other_device, unknown, value, warning};
use crate::doctor::ask::PTMX;
use crate::doctor::host::{Host, Unseen, Value};

/// Memory of a VM that says nothing about it (vm.conf(5)).
const DEFAULT_MEMORY: u64 = 512 << 20;
/// Descriptors that the daemon gives itself: a console, disks and taps of hundreds of VMs.
const DESCRIPTORS: u64 = 65536;
/// Descriptors of a daemon with a handful of VMs; with fewer even they fail.
const FEW_DESCRIPTORS: u64 = 256;
/// Processes of a hundred VMs, with their threads, beside a small host's own.
const PROCESSES: u64 = 8192;

/// Where consoles come from.
pub fn terminals(host: &Host) -> Judged {
    let mount = "\"mount -t devpts devpts /dev/pts\", and make /dev/ptmx a link to pts/ptmx";
    match &host.ptmx {
        Err(Unseen::Missing) => fault("/dev/ptmx: not there; a VM gets no console, and does not start", mount),
        Err(unseen) => unknown(host, "/dev/ptmx", unseen),
        Ok(node) => match other_device(node, PTMX) {
            Some(wrong) => fault(format!("/dev/ptmx: {wrong}"), mount),
            None => ok("/dev/ptmx: device 5:2"),
        },
    }
}

/// What can be had for guests now.
pub fn memory(host: &Host) -> Judged {
    let (all, free) = *known(host, "/proc/meminfo", &host.memory)?;
    let seen = format!("{} of {} available", config::size::format(free), config::size::format(all));
    if free < DEFAULT_MEMORY {
        return warning(
            format!("{seen}: less than a VM has by default"),
            "end other programs, or give VMs less memory (\"memory\" in vm.conf)",
        );
    }
    ok(seen)
}

/// Whether guests get huge pages; they come from a tmpfs of the daemon's own.
pub fn huge_pages(host: &Host) -> Judged {
    let small = "guests run with small pages, a little slower";
    if host.file_systems.as_ref().is_ok_and(|kinds| !kinds.iter().any(|kind| kind == "tmpfs")) {
        return note(format!("the kernel has no tmpfs: {small}"), "boot a kernel with CONFIG_TMPFS");
    }
    let what = "/sys/kernel/mm/transparent_hugepage/enabled";
    if host.values.get(&Value::HugePages) == Some(&Err(Unseen::Missing)) {
        return note(format!("{what}: not there; {small}"), "boot a kernel with CONFIG_TRANSPARENT_HUGEPAGE");
    }
    let words = value(host, what, Value::HugePages)?;
    match words.split(['[', ']']).nth(1).unwrap_or(words) {
        "never" => note(format!("{what} is never: {small}"), format!("\"echo madvise > {what}\"")),
        chosen => ok(format!("{what} is {chosen}")),
    }
}

/// How many descriptors a vmd could have that is started from here.
pub fn descriptors(host: &Host) -> Judged {
    let (soft, hard) = host.descriptors;
    let most = value(host, "fs.nr_open", Value::MostDescriptors).ok();
    let most = most.and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
    let seen = format!("limits {} and {}, at most {}", limit(soft), limit(hard), limit(most));
    if host.caller.uid != 0 {
        return ok(format!("{seen}; those of root count, since root starts vmd"));
    }
    let raises = host.caller.capabilities & SYS_RESOURCE != 0;
    let could = if raises { most } else { hard.min(most) };
    let advice =
        "\"ulimit -Hn 65536\" before vmd is started, LimitNOFILE=65536 in its unit, or \"sysctl fs.nr_open=1048576\"";
    match could {
        0..FEW_DESCRIPTORS => fault(format!("{seen}: vmd can have {could}, too few for any VM"), advice),
        FEW_DESCRIPTORS..DESCRIPTORS => {
            warning(format!("{seen}: vmd can have {could}, and wants {DESCRIPTORS} for hundreds of VMs"), advice)
        }
        DESCRIPTORS.. => ok(seen),
    }
}

fn limit(number: u64) -> String {
    if number == u64::MAX { "none".to_owned() } else { number.to_string() }
}

/// How many processes and threads the host can have.
pub fn processes(host: &Host) -> Judged {
    let number = |of, name| value(host, name, of).map(|text| text.parse::<u64>().unwrap_or(0));
    let pids = number(Value::MostPids, "kernel.pid_max")?;
    let threads = number(Value::MostThreads, "kernel.threads-max")?;
    if pids.min(threads) >= PROCESSES {
        return ok(format!("at most {pids} and {threads} threads"));
    }
    warning(
        format!("kernel.pid_max is {pids}, kernel.threads-max {threads}: too few for many VMs"),
        "\"sysctl kernel.pid_max=32768 kernel.threads-max=32768\"",
    )
}

/// What the host, and kvm-clock of its guests, tells the time by.
pub fn clock(host: &Host) -> Judged {
    match value(host, "the kernel's source of time", Value::ClockSource)? {
        source @ ("hpet" | "acpi_pm" | "jiffies" | "refined-jiffies" | "pit") => note(
            format!("{source}: reading the time is slow, in guests too"),
            "dmesg says why tsc was given up; \"clocksource=tsc\" where it is sound",
        ),
        source => ok(source),
    }
}

/// Firmware for guests that boot from a disk: for later releases.
pub fn firmware(host: &Host) -> Judged {
    match host.firmware.as_slice() {
        [] => {
            note("none is installed", "nothing: this release boots kernels; for later ones, packages ovmf and seabios")
        }
        some => ok(format!("{}; this release boots kernels only", some.join(", "))),
    }
}
