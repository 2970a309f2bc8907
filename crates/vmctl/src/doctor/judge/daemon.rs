//! vmd itself: its program, account and configuration, whether it runs and answers, and what an earlier one left.

use proto::client::VERSION;
use proto::doctor;
use proto::privileged::{HOST_TABLE, TABLE};
use sys::netlink::nft::Listed;

use super::{Judged, Verdict, fault, hidden, known, note, ok, unread, warning, with};
use crate::doctor::ask::{CONFIGURATION, PID_FILE};
use crate::doctor::host::{Host, Ran, Socket, Unseen};

/// NFPROTO_INET (linux/netfilter.h).
const INET: u8 = 1;

/// Whether vmd is there, runs, and is of our release.
pub fn program(host: &Host) -> Judged {
    let program = match &host.program {
        Ok(program) => program,
        Err(Unseen::Missing) => {
            return fault(
                "no vmd beside vmctl, nor in ../sbin, /usr/local/sbin, /usr/sbin, /sbin",
                "install vmd, of the same release as vmctl",
            );
        }
        Err(Unseen::Denied) => return hidden(host, "vmd beside vmctl"),
        Err(Unseen::Failed(why)) => return unread("vmd", why),
    };
    let path = &program.path;
    match &program.probe {
        Ran::NotStarted(why) if host.caller.uid != 0 => hidden(host, &format!("{path} ({why})")),
        Ran::NotStarted(why) => {
            fault(format!("{path}: can't be run: {why}"), "install vmd again; its file must be executable")
        }
        Ran::Late(_) => ok(format!("{path} (it did not say its release: see kvm-guest)")),
        Ran::Ended { out, err, success } => match doctor::read(out) {
            Some(said) if said.protocol == VERSION => ok(format!("{path}, release {}", said.release)),
            Some(said) => fault(
                format!("{path}: release {}, protocol {}; this vmctl speaks {VERSION}", said.release, said.protocol),
                "install vmd and vmctl of one release",
            ),
            None if err.contains("unknown role") => fault(
                format!("{path}: older than this vmctl: it has no probe guest"),
                "install vmd and vmctl of one release",
            ),
            None => {
                let line = err.lines().chain(out.lines()).next().unwrap_or(if *success {
                    "nothing"
                } else {
                    "nothing, and failed"
                });
                fault(
                    format!("{path}: is not vmd of this release: it printed {line}"),
                    "install vmd and vmctl of one release",
                )
            }
        },
    }
}

/// The account of its processes that need no root.
pub fn account(host: &Host) -> Judged {
    let make = "\"useradd --system --no-create-home --shell /usr/sbin/nologin _vmd\"";
    match known(host, "/etc/passwd", &host.account)? {
        None => fault("no user _vmd in /etc/passwd", make),
        Some((0, _)) => fault("_vmd is uid 0: its processes would be root", "give _vmd a uid of its own"),
        Some((_, 0)) => fault("_vmd has gid 0: vmd does not start with it", "give _vmd a group of its own"),
        Some((uid, gid)) => ok(format!("_vmd, uid {uid}, gid {gid}")),
    }
}

/// Whether vmd would start with its configuration.
pub fn configuration(host: &Host) -> Judged {
    match &host.configuration {
        Err(Unseen::Missing) => {
            return note(format!("no {CONFIGURATION}"), "write one (vm.conf(5)), or make VMs with vmctl start");
        }
        Err(Unseen::Denied) => return hidden(host, CONFIGURATION),
        Err(Unseen::Failed(why)) => return fault(format!("{CONFIGURATION}: {why}"), "make it a readable file"),
        Ok(()) => {}
    }
    let Ok(program) = &host.program else { return note("not checked: no vmd to ask", "see vmd") };
    match &program.check {
        Ran::NotStarted(why) => note(format!("not checked: {}: {why}", program.path), "see vmd"),
        Ran::Late(seconds) => warning(
            format!("vmd -n has no answer within {seconds} s"),
            "a directory server may not answer for a name in it",
        ),
        Ran::Ended { success, err, .. } => {
            let lines = lines(err);
            let (first, rest) = lines.split_first().map_or(("", 0), |(first, rest)| (*first, rest.len()));
            let more = if rest == 0 { String::new() } else { format!(" (and {rest} more)") };
            // What root's vm.conf names may be closed to a user who checks it.
            let closed = lines.iter().any(|line| line.contains("ermission denied"));
            match (*success, first) {
                (false, _) if closed && host.caller.uid != 0 => hidden(host, CONFIGURATION),
                (true, "") => ok(format!("{CONFIGURATION} has no errors")),
                (true, first) => note(format!("{first}{more}"), "\"vmd -n\" shows each warning with its line"),
                (false, first) => with(
                    // What runs goes on; the next start, or a reload, fails.
                    if runs(host) { Verdict::Warning } else { Verdict::Fault },
                    format!("{first}{more}"),
                    "\"vmd -n\" shows each error with its line; with one vmd does not start, or not the VM that it concerns",
                ),
            }
        }
    }
}

/// The diagnostics in what `vmd -n` says: the lines below one show its place.
fn lines(err: &str) -> Vec<&str> {
    err.lines().filter(|line| !line.is_empty() && !line.starts_with(' ') && *line != "configuration OK").collect()
}

/// Whether a daemon is there, however well.
fn runs(host: &Host) -> bool {
    let locked = matches!(&host.pid_file, Ok((_, true)));
    locked || matches!(host.socket, Socket::Answers { .. } | Socket::Version { .. } | Socket::Odd(_))
}

/// The release of the program that would be started.
fn installed(host: &Host) -> Option<String> {
    match &host.program.as_ref().ok()?.probe {
        Ran::Ended { out, .. } => doctor::read(out).map(|said| said.release),
        Ran::NotStarted(_) | Ran::Late(_) => None,
    }
}

/// The daemon that runs, and whether it can be talked to.
pub fn daemon(host: &Host) -> Judged {
    let restart = "restart it; its log says what it was doing";
    let who = match &host.pid_file {
        Ok((pid, true)) => format!("vmd runs (pid {pid})"),
        _ => "a vmd runs".to_owned(),
    };
    match &host.socket {
        _ if !runs(host) => note("no vmd runs", "\"systemctl start vmd\", or \"vmd\" as root"),
        Socket::Answers { release } => match installed(host).filter(|installed| installed != release) {
            None => ok(format!("{who} and answers, release {release}, protocol {VERSION}")),
            Some(other) => note(
                format!("{who} and answers, release {release}; release {other} is installed"),
                "restart vmd when its VMs may end: it then runs what is installed",
            ),
        },
        Socket::Version { daemon } => fault(
            format!("{who} and speaks protocol {daemon}; this vmctl speaks {VERSION}"),
            "use the vmctl that came with it, or restart it after an upgrade",
        ),
        Socket::Denied => note(
            format!("{who}; user \"{}\" may not talk to it", host.caller.name),
            "\"socket owner\" in vm.conf says who may",
        ),
        Socket::Odd(why) => fault(format!("{who} and does not answer: {why}"), restart),
        Socket::Missing | Socket::Stale | Socket::OtherFile(_) => {
            fault(format!("{who}, but nobody listens on its control socket"), restart)
        }
    }
}

/// The control socket's name.
pub fn socket(host: &Host) -> Judged {
    let path = proto::client::SOCKET_PATH;
    match &host.socket {
        Socket::Missing if runs(host) => {
            fault(format!("{path}: not there, though vmd runs"), "restart vmd: it creates it again")
        }
        Socket::Missing if host.caller.uid == 0 && host.run != Ok(()) => {
            let why = match &host.run {
                Err(Unseen::Failed(why)) => why.as_str(),
                Err(Unseen::Missing) => "not there",
                Err(Unseen::Denied) | Ok(()) => "root may not write to it",
            };
            fault(format!("/run: {why}; vmd can't make its socket there"), "mount a tmpfs on /run")
        }
        Socket::Missing => ok(format!("{path}: not there, as no vmd runs")),
        Socket::OtherFile("a directory") => {
            fault(format!("{path}: a directory"), "remove it: vmd can't make its socket")
        }
        Socket::OtherFile(word) => warning(format!("{path}: {word}, no socket"), "start vmd: it replaces it"),
        Socket::Stale => warning(format!("{path}: nobody listens"), "start vmd: it replaces what an earlier one left"),
        Socket::Denied => note(
            format!("{path}: user \"{}\" may not connect", host.caller.name),
            "\"socket owner\" in vm.conf says who may",
        ),
        Socket::Odd(why) => warning(format!("{path}: {why}"), "see daemon"),
        Socket::Answers { .. } | Socket::Version { .. } => ok(format!("{path}: a vmd listens")),
    }
}

/// What a daemon that did not end well has left.
pub fn leftovers(host: &Host) -> Judged {
    if runs(host) {
        return ok("everything with vmd's mark belongs to the running daemon");
    }
    let marked = &host.marked;
    let mut left = Vec::new();
    let mut by_hand = Vec::new();
    for (pid, title) in &marked.processes {
        left.push(format!("process {pid} (vmd: {title})"));
        by_hand.push(format!("kill {pid}"));
    }
    for name in marked.links.iter().flatten() {
        left.push(format!("interface {name}"));
        by_hand.push(format!("ip link delete {name}"));
    }
    let chains = host.chains.iter().flatten();
    for table in [TABLE, HOST_TABLE] {
        let of_table = |chain: &&Listed| chain.family == INET && chain.table == table;
        let ours: Vec<_> = chains.clone().filter(of_table).collect();
        if ours.is_empty() {
            continue;
        }
        left.push(format!("nftables table inet {table}"));
        // A chain without a hook is a change of the host that vmd undoes; until then the table keeps others out.
        if ours.iter().all(|chain| chain.hook.is_some()) {
            by_hand.push(format!("nft delete table inet {table}"));
        }
    }
    left.extend(marked.cgroups.iter().map(|place| format!("cgroup {place}")));
    if host.socket == Socket::Stale {
        left.push(format!("socket {}", proto::client::SOCKET_PATH));
    }
    if let Ok((pid, false)) = &host.pid_file {
        left.push(format!("{PID_FILE} of pid {pid}"));
    }
    left.extend(marked.files.iter().map(|file| format!("file {file}")));
    let by_hand = if by_hand.is_empty() { String::new() } else { format!("; by hand: \"{}\"", by_hand.join("; ")) };
    match left.as_slice() {
        [] => ok("nothing is left of an earlier vmd"),
        left => warning(
            format!("left by a vmd that has ended: {}", left.join(", ")),
            format!("start vmd: it removes them{by_hand}"),
        ),
    }
}
