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

use super::host::{Host, Module, Node, NodeKind, Seen, Unseen, Value};

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

/// What is thought of one thing; each line of [`findings`] gives it its name.
struct Judgement {
    verdict: Verdict,
    seen: String,
    advice: Option<String>,
}

/// An error ends the judge early, as what it goes by could not be seen; it is told as well.
type Judged = Result<Judgement, Judgement>;

/// All findings, in the order in which they are shown: what everything needs comes first.
pub fn findings(host: &Host) -> Vec<Finding> {
    let judged = [
        ("caller", caller(host)),
        ("kernel", kvm::kernel(host)),
        ("cpu", kvm::cpu(host)),
        ("kvm-module", kvm::module(host)),
        ("kvm-device", kvm::device(host)),
        ("kvm-access", kvm::access(host)),
        ("kvm-guest", kvm::guest(host)),
        ("vmd", daemon::program(host)),
        ("account", daemon::account(host)),
        ("configuration", daemon::configuration(host)),
        ("daemon", daemon::daemon(host)),
        ("socket", daemon::socket(host)),
        ("leftovers", daemon::leftovers(host)),
        ("seccomp", walls::seccomp(host)),
        ("landlock", walls::landlock(host)),
        ("cgroups", walls::cgroups(host)),
        ("users", walls::users(host)),
        ("io-uring", walls::io_uring(host)),
        ("tun", network::tun(host)),
        ("bridge", network::module(host, "bridge", "switches whose bridge vmd makes")),
        ("vrf", network::module(host, "vrf", "rdomain")),
        ("nftables", network::nftables(host)),
        ("forwarding-ipv4", network::forwarding(host, Value::ForwardIpv4)),
        ("forwarding-ipv6", network::forwarding(host, Value::ForwardIpv6)),
        ("firewall", network::firewall(host)),
        ("managers", network::managers(host)),
        ("terminals", means::terminals(host)),
        ("memory", means::memory(host)),
        ("huge-pages", means::huge_pages(host)),
        ("descriptors", means::descriptors(host)),
        ("processes", means::processes(host)),
        ("clock", means::clock(host)),
        ("firmware", means::firmware(host)),
    ];
    let finding = |(id, judged): (&'static str, Judged)| {
        let Judgement { verdict, seen, advice } = judged.unwrap_or_else(|unseen| unseen);
        Finding { id, verdict, seen, advice }
    };
    judged.into_iter().map(finding).collect()
}

/// Bits of linux/capability.h.
const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;
const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_RESOURCE: u64 = 1 << 24;

/// Who asks, and whether this root may do what vmd has to: in a container it may not.
fn caller(host: &Host) -> Judged {
    let caller = &host.caller;
    let seen = format!("user \"{}\" (uid {}), groups {}", caller.name, caller.uid, caller.groups.join(", "));
    if caller.uid != 0 {
        return note(seen, "only root is told everything, and only root can start vmd");
    }
    let needed = [("SETUID", SETUID), ("SETGID", SETGID), ("NET_ADMIN", NET_ADMIN), ("SYS_ADMIN", SYS_ADMIN)];
    let lacking: Vec<&str> =
        needed.iter().filter(|(_, bit)| caller.capabilities & bit == 0).map(|(name, _)| *name).collect();
    let seen_without = format!("{seen}, without the capabilities {}", lacking.join(", "));
    match lacking.as_slice() {
        [] => ok(seen),
        ["NET_ADMIN"] => warning(seen_without, "give it NET_ADMIN, or VMs have no network cards"),
        ["SYS_ADMIN"] => warning(seen_without, "give it SYS_ADMIN, or processes keep the host's namespaces"),
        _ => fault(seen_without, "start vmd as root with them; a container must be given them"),
    }
}

fn ok(seen: impl Into<String>) -> Judged {
    Ok(Judgement { verdict: Verdict::Ok, seen: seen.into(), advice: None })
}

fn with(verdict: Verdict, seen: impl Into<String>, advice: impl Into<String>) -> Judged {
    Ok(Judgement { verdict, seen: seen.into(), advice: Some(advice.into()) })
}

fn note(seen: impl Into<String>, advice: impl Into<String>) -> Judged {
    with(Verdict::Note, seen, advice)
}

fn warning(seen: impl Into<String>, advice: impl Into<String>) -> Judged {
    with(Verdict::Warning, seen, advice)
}

fn fault(seen: impl Into<String>, advice: impl Into<String>) -> Judged {
    with(Verdict::Fault, seen, advice)
}

/// What this caller may not see.
fn hidden(host: &Host, what: &str) -> Judged {
    let root = host.caller.uid == 0;
    let advice = if root { "run vmctl doctor outside the container" } else { "let root run vmctl doctor" };
    note(format!("{what}: can't be told as user \"{}\"", host.caller.name), advice)
}

/// What could not be looked at.
fn unread(what: &str, why: &str) -> Judged {
    note(format!("{what}: {why}"), "look at it by hand; nothing more is known about it")
}

/// A thing that was seen, or the judgement that it was not.
fn known<'h, T>(host: &Host, what: &str, seen: &'h Seen<T>) -> Result<&'h T, Judgement> {
    seen.as_ref().or_else(|unseen| unknown(host, what, unseen).and_then(Err))
}

/// The judgement of a thing that was not seen.
fn unknown(host: &Host, what: &str, unseen: &Unseen) -> Judged {
    match unseen {
        Unseen::Missing => note(format!("{what}: not there"), "mount /proc and /sys where vmctl runs"),
        Unseen::Denied => hidden(host, what),
        Unseen::Failed(why) => unread(what, why),
    }
}

/// A file of one value, or the judgement that it was not seen.
fn value<'h>(host: &'h Host, what: &str, of: Value) -> Result<&'h str, Judgement> {
    known(host, what, host.values.get(&of).unwrap_or(&Err(Unseen::Missing))).map(String::as_str)
}

fn module_of(host: &Host, name: &str) -> Module {
    host.modules.get(name).copied().unwrap_or(Module::Unknown)
}

fn has_driver(host: &Host, name: &str) -> Option<bool> {
    host.drivers.as_ref().ok().map(|all| all.iter().any(|driver| driver == name))
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
