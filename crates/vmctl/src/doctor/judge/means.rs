//! What VMs use up: consoles, memory, descriptors, processes; and what they tell the time by and would boot from.

use super::{Finding, SYS_RESOURCE, fault, hidden, known, note, ok, other_device, unread, value, warning};
use crate::doctor::ask::PTMX;
use crate::doctor::host::{Host, Seen, Value};

/// Memory of a VM that says nothing about it (vm.conf(5)).
const DEFAULT_MEMORY: u64 = 512 << 20;
/// Descriptors that the daemon gives itself: a console, disks and taps of hundreds of VMs.
const DESCRIPTORS: u64 = 65536;
/// Descriptors of a daemon with a handful of VMs; with fewer even they fail.
const FEW_DESCRIPTORS: u64 = 256;
/// Processes of a hundred VMs, with their threads, beside a small host's own.
const PROCESSES: u64 = 8192;

/// Where consoles come from.
pub fn terminals(host: &Host) -> Finding {
    let id = "terminals";
    let mount = "\"mount -t devpts devpts /dev/pts\", and make /dev/ptmx a link to pts/ptmx";
    match &host.ptmx {
        Seen::Missing => fault(id, "/dev/ptmx: not there; a VM gets no console, and does not start", mount),
        Seen::Denied => hidden(host, id, "/dev/ptmx"),
        Seen::Failed(why) => unread(id, "/dev/ptmx", why),
        Seen::Is(node) => match other_device(node, PTMX) {
            Some(wrong) => fault(id, format!("/dev/ptmx: {wrong}"), mount),
            None => ok(id, "/dev/ptmx: device 5:2"),
        },
    }
}

/// What can be had for guests now.
pub fn memory(host: &Host) -> Finding {
    let id = "memory";
    let (all, free) = match known(host, id, "/proc/meminfo", &host.memory) {
        Ok(memory) => *memory,
        Err(finding) => return finding,
    };
    let seen = format!("{} of {} available", config::size::format(free), config::size::format(all));
    if free < DEFAULT_MEMORY {
        return warning(
            id,
            format!("{seen}: less than a VM has by default"),
            "end other programs, or give VMs less memory (\"memory\" in vm.conf)",
        );
    }
    ok(id, seen)
}

/// Whether guests get huge pages; they come from a tmpfs of the daemon's own.
pub fn huge_pages(host: &Host) -> Finding {
    let id = "huge-pages";
    let small = "guests run with small pages, a little slower";
    if host.file_systems.get().is_some_and(|kinds| !kinds.iter().any(|kind| kind == "tmpfs")) {
        return note(id, format!("the kernel has no tmpfs: {small}"), "boot a kernel with CONFIG_TMPFS");
    }
    let what = "/sys/kernel/mm/transparent_hugepage/enabled";
    if host.values.get(&Value::HugePages) == Some(&Seen::Missing) {
        return note(id, format!("{what}: not there; {small}"), "boot a kernel with CONFIG_TRANSPARENT_HUGEPAGE");
    }
    match value(host, id, what, Value::HugePages) {
        Err(finding) => finding,
        Ok(words) if words.contains("[never]") => {
            note(id, format!("{what} is never: {small}"), format!("\"echo madvise > {what}\""))
        }
        Ok(words) => {
            let chosen = words.split(['[', ']']).nth(1).unwrap_or(words);
            ok(id, format!("{what} is {chosen}"))
        }
    }
}

/// How many descriptors a vmd could have that is started from here.
pub fn descriptors(host: &Host) -> Finding {
    let id = "descriptors";
    let (soft, hard) = host.descriptors;
    let most = host
        .values
        .get(&Value::MostDescriptors)
        .and_then(Seen::get)
        .and_then(|text| text.parse().ok())
        .unwrap_or(u64::MAX);
    let seen = format!("limits {} and {}, at most {}", limit(soft), limit(hard), limit(most));
    if host.caller.uid != 0 {
        return ok(id, format!("{seen}; those of root count, since root starts vmd"));
    }
    let raises = host.caller.capabilities & SYS_RESOURCE != 0;
    let could = if raises { most } else { hard.min(most) };
    let advice =
        "\"ulimit -Hn 65536\" before vmd is started, LimitNOFILE=65536 in its unit, or \"sysctl fs.nr_open=1048576\"";
    match could {
        0..FEW_DESCRIPTORS => fault(id, format!("{seen}: vmd can have {could}, too few for any VM"), advice),
        FEW_DESCRIPTORS..DESCRIPTORS => {
            warning(id, format!("{seen}: vmd can have {could}, and wants {DESCRIPTORS} for hundreds of VMs"), advice)
        }
        DESCRIPTORS.. => ok(id, seen),
    }
}

fn limit(number: u64) -> String {
    if number == u64::MAX { "none".to_owned() } else { number.to_string() }
}

/// How many processes and threads the host can have.
pub fn processes(host: &Host) -> Finding {
    let id = "processes";
    let number = |of, name| value(host, id, name, of).map(|text| text.parse::<u64>().unwrap_or(0));
    match (number(Value::MostPids, "kernel.pid_max"), number(Value::MostThreads, "kernel.threads-max")) {
        (Ok(pids), Ok(threads)) if pids.min(threads) >= PROCESSES => {
            ok(id, format!("at most {} and {} threads", pids, threads))
        }
        (Ok(pids), Ok(threads)) => warning(
            id,
            format!("kernel.pid_max is {pids}, kernel.threads-max {threads}: too few for many VMs"),
            "\"sysctl kernel.pid_max=32768 kernel.threads-max=32768\"",
        ),
        (Err(finding), _) | (_, Err(finding)) => finding,
    }
}

/// What the host, and kvm-clock of its guests, tells the time by.
pub fn clock(host: &Host) -> Finding {
    let id = "clock";
    match value(host, id, "the kernel's source of time", Value::ClockSource) {
        Err(finding) => finding,
        Ok(source @ ("hpet" | "acpi_pm" | "jiffies" | "refined-jiffies" | "pit")) => note(
            id,
            format!("{source}: reading the time is slow, in guests too"),
            "dmesg says why tsc was given up; \"clocksource=tsc\" where it is sound",
        ),
        Ok(source) => ok(id, source),
    }
}

/// Firmware for guests that boot from a disk: for later releases.
pub fn firmware(host: &Host) -> Finding {
    match host.firmware.as_slice() {
        [] => note(
            "firmware",
            "none is installed",
            "nothing: this release boots kernels; for later ones, packages ovmf and seabios",
        ),
        some => ok("firmware", format!("{}; this release boots kernels only", some.join(", "))),
    }
}
