//! What the host's state means for VMs: a [`Host`] in, findings out, each id once and always in the same order. Pure.
//!
//! | room | judges |
//! |---|---|
//! | `kvm` | the processor, /dev/kvm and the probe guest |
//! | `daemon` | vmd's program, account, configuration, and whether it runs or left something |
//! | `walls` | what keeps guests and processes apart: seccomp, Landlock, cgroups |
//! | `network` | taps, bridges, NAT, and what stands in its way |
//! | `means` | memory, descriptors, processes, time, firmware |

mod daemon;
mod kvm;
mod means;
mod network;
#[cfg(test)]
mod tests;
mod walls;

use super::host::{Host, Module, Node, NodeKind, Seen, Value};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Something to know; nothing fails for it.
    Note,
    /// Some VMs fail, or all run with less protection.
    Warning,
    /// VMs could not run.
    Fault,
}

impl Verdict {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its name, the same in every release.
    pub id: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was seen, with its value.
    pub seen: String,
    /// What to do, where something is to be done.
    pub advice: Option<String>,
}

/// All findings, in the order in which they are shown: what everything needs comes first.
pub fn findings(host: &Host) -> Vec<Finding> {
    vec![
        caller(host),
        kvm::kernel(host),
        kvm::cpu(host),
        kvm::module(host),
        kvm::device(host),
        kvm::access(host),
        kvm::guest(host),
        daemon::program(host),
        daemon::account(host),
        daemon::configuration(host),
        daemon::daemon(host),
        daemon::socket(host),
        daemon::leftovers(host),
        walls::seccomp(host),
        walls::landlock(host),
        walls::cgroups(host),
        walls::io_uring(host),
        network::tun(host),
        network::module(host, "bridge", "bridge", "switches whose bridge vmd makes"),
        network::module(host, "vrf", "vrf", "rdomain"),
        network::nftables(host),
        network::forwarding(host, "forwarding-ipv4", Value::ForwardIpv4),
        network::forwarding(host, "forwarding-ipv6", Value::ForwardIpv6),
        network::firewall(host),
        means::terminals(host),
        means::memory(host),
        means::huge_pages(host),
        means::descriptors(host),
        means::processes(host),
        means::clock(host),
        means::firmware(host),
    ]
}

/// Bits of linux/capability.h.
const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;
const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_RESOURCE: u64 = 1 << 24;

/// Who asks, and whether this root may do what vmd has to: in a container it may not.
fn caller(host: &Host) -> Finding {
    let caller = &host.caller;
    let seen = format!("user \"{}\" (uid {}), groups {}", caller.name, caller.uid, caller.groups.join(", "));
    if caller.uid != 0 {
        return note("caller", seen, "only root is told everything, and only root can start vmd");
    }
    let needed = [("SETUID", SETUID), ("SETGID", SETGID), ("NET_ADMIN", NET_ADMIN), ("SYS_ADMIN", SYS_ADMIN)];
    let lacking: Vec<&str> =
        needed.iter().filter(|(_, bit)| caller.capabilities & bit == 0).map(|(name, _)| *name).collect();
    let seen_without = format!("{seen}, without the capabilities {}", lacking.join(", "));
    match lacking.as_slice() {
        [] => ok("caller", seen),
        ["NET_ADMIN"] => warning("caller", seen_without, "give it NET_ADMIN, or VMs have no network cards"),
        ["SYS_ADMIN"] => warning("caller", seen_without, "give it SYS_ADMIN, or processes keep the host's namespaces"),
        _ => fault("caller", seen_without, "start vmd as root with them; a container must be given them"),
    }
}

fn ok(id: &'static str, seen: impl Into<String>) -> Finding {
    Finding { id, verdict: Verdict::Ok, seen: seen.into(), advice: None }
}

fn with(id: &'static str, verdict: Verdict, seen: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { id, verdict, seen: seen.into(), advice: Some(advice.into()) }
}

fn note(id: &'static str, seen: impl Into<String>, advice: impl Into<String>) -> Finding {
    with(id, Verdict::Note, seen, advice)
}

fn warning(id: &'static str, seen: impl Into<String>, advice: impl Into<String>) -> Finding {
    with(id, Verdict::Warning, seen, advice)
}

fn fault(id: &'static str, seen: impl Into<String>, advice: impl Into<String>) -> Finding {
    with(id, Verdict::Fault, seen, advice)
}

/// What this caller may not see: a finding of its own.
fn hidden(host: &Host, id: &'static str, what: &str) -> Finding {
    let seen = format!("{what}: can't be told as user \"{}\"", host.caller.name);
    note(
        id,
        seen,
        if host.caller.uid == 0 { "run vmctl doctor outside the container" } else { "let root run vmctl doctor" },
    )
}

/// What could not be looked at.
fn unread(id: &'static str, what: &str, why: &str) -> Finding {
    note(id, format!("{what}: {why}"), "look at it by hand; nothing more is known about it")
}

/// A thing that was seen, or the finding that it was not.
fn known<'h, T>(host: &Host, id: &'static str, what: &str, seen: &'h Seen<T>) -> Result<&'h T, Finding> {
    match seen {
        Seen::Is(value) => Ok(value),
        Seen::Missing => Err(note(id, format!("{what}: not there"), "mount /proc and /sys where vmctl runs")),
        Seen::Denied => Err(hidden(host, id, what)),
        Seen::Failed(why) => Err(unread(id, what, why)),
    }
}

/// A file of one value, or the finding that it was not seen.
fn value<'h>(host: &'h Host, id: &'static str, what: &str, of: Value) -> Result<&'h str, Finding> {
    known(host, id, what, host.values.get(&of).unwrap_or(&Seen::Missing)).map(String::as_str)
}

fn module_of(host: &Host, name: &str) -> Module {
    host.modules.get(name).copied().unwrap_or(Module::Unknown)
}

fn has_driver(host: &Host, name: &str) -> Option<bool> {
    host.drivers.get().map(|all| all.iter().any(|driver| driver == name))
}

/// Mode and owner of a file, as ls(1) has them.
fn rights(node: &Node) -> String {
    format!("mode {:04o}, {}:{}", node.mode, node.owner.0, node.owner.1)
}

/// What is wrong with a file that should be the device of these numbers.
fn other_device(node: &Node, (major, minor): (u32, u32)) -> Option<String> {
    match node.kind {
        NodeKind::Character(a, b) if (a, b) == (major, minor) => None,
        NodeKind::Character(a, b) => Some(format!("it is device {a}:{b}, not {major}:{minor}")),
        NodeKind::Other(word) => Some(format!("it is {word}, no device")),
    }
}
