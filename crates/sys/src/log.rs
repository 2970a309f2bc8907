//! The `log` crate's back end of every process: one bounded line a record, to standard error, never waiting.
//!
//! A line is `L name: text` and a newline: `L` is the level's letter, control characters in the text are escaped.
//! Standard error is the parent's log pipe (see `logpipe`) and does not block: when it is full the line is dropped and
//! counted, and the count is told before the next line that fits. Lines are at most `MAX_LINE` bytes, so a pipe shared by
//! several processes takes each whole (PIPE_BUF is 4096).
//!
//! A name says of whom a line is: a process (`priv`), or a process and a VM (`vmm/web`, `vm/web/vioblk0`). Where there is a
//! journal, the parent gives it both as fields.

use std::fmt::Arguments;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

pub use log::Level;
use log::{LevelFilter, Log, Metadata, Record};

mod journal;
mod limit;
mod line;

pub use journal::Journal;
use limit::Limits;
pub use limit::RateLimit;
use line::Line;
pub use line::{Form, MAX_LINE, Weight, letter};

/// Targets of records that are of more than this process: of a VM, or passed on for another process. No module is called so.
const OF_VM: &str = "of vm/";
const RELAYED: &str = "relayed/";
/// Before one of those, or alone: the record is a notice.
const NOTICE: &str = "notice/";

/// Lines that a user or a VM may cause in 10 s.
const LINES_OF_CAUSE: u32 = 20;

/// And those that a process may write which has a limit for each of its causes itself, unless it is taken over.
const LINES_OF_PROCESS: u32 = 1000;

/// And all processes of a VM together, or of all VMs that one user made: each place in them has a limit, and one that is taken
/// over has not.
const LINES_OF_PIPE: u32 = 100;

/// Who causes lines.
static LIMITS: Limits = Limits::new();

/// The process's one logger. The name is empty until `init`.
struct Logger {
    name: Mutex<String>,
    dropped: AtomicU64,
}

static FORM: OnceLock<Form> = OnceLock::new();

/// Says once what stands before each line's name: for the process whose standard error is no log pipe of ours.
pub fn set_form(form: Form) {
    let _ = FORM.set(form);
}

fn form() -> Form {
    FORM.get().copied().unwrap_or(Form::Piped)
}

static JOURNAL: OnceLock<Journal> = OnceLock::new();

/// Records go there as entries, and to standard error only where it does not take one. For the parent.
pub fn set_journal(journal: Journal) {
    let _ = JOURNAL.set(journal); // it has one already: as good
}

/// Logs what this process has to say of a VM. Where a user made it, who may give any number of VMs a name, it is he who causes
/// the line.
pub fn of_vm(weight: impl Into<Weight>, vm: &str, maker: Option<u32>, text: Arguments<'_>) {
    let target = format!("{OF_VM}{vm}");
    match maker {
        Some(uid) => by_cause(weight.into(), format_args!("uid {uid}"), &target, text),
        None => by_cause(weight.into(), format_args!("vm {vm}"), &target, text),
    }
}

/// Logs what a user caused, and is of no VM.
pub fn by_user(weight: impl Into<Weight>, uid: u32, text: Arguments<'_>) {
    by_cause(weight.into(), format_args!("uid {uid}"), "", text);
}

/// Logs what is of the whole daemon.
pub fn of_daemon(weight: impl Into<Weight>, text: Arguments<'_>) {
    let weight = weight.into();
    write_allowed(Some(0), weight.level(), &target_of(weight, ""), text);
}

/// Logs what somebody caused whom this process does not know: so many lines of each kind.
pub fn by(level: Level, cause: &str, text: Arguments<'_>) {
    by_cause(level.into(), format_args!("{cause}"), "", text);
}

/// A log pipe of another process: what who writes into it can't choose.
#[derive(Clone, Debug)]
pub struct Source {
    /// A process and a VM, or a process alone.
    pub name: String,
    /// The user who made the VM.
    pub maker: Option<u32>,
}

/// Logs a line of another process, whose name is `origin`. All pipes of VMs that one user made have one limit.
pub fn relay(level: Level, pipe: &Source, origin: &str, text: Arguments<'_>) {
    write_limited(|| allowed_of(pipe), level, &format!("{RELAYED}{origin}"), text);
}

/// As [`RateLimit::allow`].
fn allowed_of(pipe: &Source) -> Option<u32> {
    match pipe {
        Source { maker: Some(uid), .. } => LIMITS.allow(&format!("vms of uid {uid}"), LINES_OF_PIPE),
        Source { name, maker: None } if name.contains('/') => LIMITS.allow(&format!("pipe {name}"), LINES_OF_PIPE),
        Source { name, maker: None } => LIMITS.allow(&format!("pipe {name}"), LINES_OF_PROCESS),
    }
}

fn by_cause(weight: Weight, cause: Arguments<'_>, target: &str, text: Arguments<'_>) {
    let allowed = || LIMITS.allow(&cause.to_string(), LINES_OF_CAUSE);
    write_limited(allowed, weight.level(), &target_of(weight, target), text);
}

/// Debug lines have no limit here: who asked for them wants them all.
fn write_limited(allowed: impl FnOnce() -> Option<u32>, level: Level, target: &str, text: Arguments<'_>) {
    if level > log::max_level() {
        return;
    }
    let allowed = if level > Level::Info { Some(0) } else { allowed() };
    write_allowed(allowed, level, target, text);
}

fn target_of(weight: Weight, target: &str) -> String {
    let notice = if weight == Weight::Notice { NOTICE } else { "" };
    format!("{notice}{target}")
}

fn write_allowed(allowed: Option<u32>, level: Level, target: &str, text: Arguments<'_>) {
    match allowed {
        None => {}
        Some(0) => log::log!(target: target, level, "{text}"),
        Some(lost) => log::log!(target: target, level, "{text} ({lost} similar ones were not logged)"),
    }
}

static LOGGER: Logger = Logger { name: Mutex::new(String::new()), dropped: AtomicU64::new(0) };

/// Sends the records of this process to standard error under `name`. A second call changes name and level.
pub fn init(name: &str, level: LevelFilter) {
    set_name(name);
    set_level(level);
    // The only error is that a logger is set already: this one, by an earlier call.
    let _ = log::set_logger(&LOGGER);
}

/// Changes the name before each line, when a process learns whom it serves (`vm/web/vioblk0`).
pub fn set_name(name: &str) {
    *LOGGER.name.lock().unwrap_or_else(PoisonError::into_inner) = name.to_owned();
}

/// Changes which records are written. Each process says so itself: the log shows whom a change has reached.
pub fn set_level(level: LevelFilter) {
    if level != log::max_level() {
        log::info!("the log level is now {level}");
    }
    log::set_max_level(level);
}

/// The level for a number of `-v`: info, then debug, then all.
pub fn level_of(verbose: u8) -> LevelFilter {
    match verbose {
        0 => LevelFilter::Info,
        1 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    }
}

/// Logs under a limit; `guest_log!` gives each place its own.
pub fn limited(limit: &RateLimit, level: Level, text: Arguments<'_>) {
    if level > log::max_level() {
        return;
    }
    write_allowed(limit.allow(), level, "", text);
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true // the level is checked by the macros, against `log::max_level`
    }

    fn log(&self, record: &Record<'_>) {
        // The lock is held while writing, so that lines of threads do not change places with a count of drops.
        let name = self.name.lock().unwrap_or_else(PoisonError::into_inner);
        write_record(rustix::stdio::stderr(), &name, &self.dropped, record);
    }

    fn flush(&self) {}
}

fn write_record(to: BorrowedFd<'_>, name: &str, dropped: &AtomicU64, record: &Record<'_>) {
    let text = *record.args();
    let (target, weight) = match record.target().strip_prefix(NOTICE) {
        Some(target) => (target, Weight::Notice),
        None => (record.target(), record.level().into()),
    };
    match (target.strip_prefix(OF_VM), target.strip_prefix(RELAYED)) {
        (Some(vm), _) => write_named(to, &format!("{name}/{vm}"), format_args!("{name}/{vm}"), dropped, weight, text),
        (_, Some(origin)) => write_named(to, origin, format_args!("{name}: {origin}"), dropped, weight, text),
        (None, None) => write_named(to, name, format_args!("{name}"), dropped, weight, text),
    }
}

fn write_named(
    to: BorrowedFd<'_>,
    origin: &str,
    name: Arguments<'_>,
    dropped: &AtomicU64,
    weight: Weight,
    text: Arguments<'_>,
) {
    if JOURNAL.get().is_some_and(|journal| journal.write(weight, origin, name, text)) {
        return;
    }
    let lost = dropped.load(Ordering::Relaxed);
    if lost > 0 {
        let told = Line::new(form(), Level::Warn.into(), name, format_args!("{lost} log lines were dropped"));
        if !write_line(to, &told) {
            dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        dropped.fetch_sub(lost, Ordering::Relaxed);
    }
    if !write_line(to, &Line::new(form(), weight, name, text)) {
        dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether the line was taken whole. A terminal or a file may take a part; the rest is lost with the same count.
fn write_line(to: BorrowedFd<'_>, line: &Line) -> bool {
    loop {
        match rustix::io::write(to.as_fd(), line.bytes()) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(written) => return written == line.bytes().len(),
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn say(to: BorrowedFd<'_>, dropped: &AtomicU64, text: &str) {
        let args = format_args!("{text}");
        write_record(to, "test", dropped, &Record::builder().level(log::Level::Info).args(args).build());
    }

    fn drain(from: &impl AsFd) -> String {
        let mut text = Vec::new();
        let mut part = [0u8; 4096];
        while let Ok(got) = rustix::io::read(from, &mut part) {
            text.extend_from_slice(&part[..got]);
        }
        String::from_utf8(text).expect("text")
    }

    #[test]
    fn record_is_one_line() {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK).expect("pipe");
        say(write.as_fd(), &AtomicU64::new(0), "two\nlines");
        assert_eq!(drain(&read), "I test: two\\nlines\n");
    }

    #[test]
    fn full_pipe_drops_counts_and_tells_the_count_later() {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK).expect("pipe");
        let dropped = AtomicU64::new(0);
        while dropped.load(Ordering::Relaxed) < 3 {
            say(write.as_fd(), &dropped, &"x".repeat(900));
        }
        drain(&read);
        say(write.as_fd(), &dropped, "after");
        assert_eq!(drain(&read), "W test: 3 log lines were dropped\nI test: after\n");
        assert_eq!(dropped.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_reader_that_is_gone_ends_nothing() {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK).expect("pipe");
        drop(read);
        let dropped = AtomicU64::new(0);
        say(write.as_fd(), &dropped, "to nobody");
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_record_of_a_vm_or_of_another_process_says_so_in_its_name() {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK).expect("pipe");
        let say = |target: &str| {
            let args = format_args!("x");
            let record = Record::builder().level(log::Level::Info).target(target).args(args).build();
            write_record(write.as_fd(), "vmd", &AtomicU64::new(0), &record);
        };
        say("of vm/web");
        say("relayed/vm/web/vioblk0");
        say("vmd::parent");
        say("notice/of vm/web");
        assert_eq!(drain(&read), "I vmd/web: x\nI vmd: vm/web/vioblk0: x\nI vmd: x\nI vmd/web: x\n");
    }

    #[test]
    fn a_user_has_one_limit_for_all_vms_that_he_makes_and_each_of_roots_has_its_own() {
        let by = |maker, made: u32| {
            let pipe = |n: u32| Source { name: format!("vm/new{n}"), maker };
            (0..made).filter(|n| allowed_of(&pipe(*n)).is_some()).count()
        };
        assert!((100..=200).contains(&by(Some(7_000_001), 500)), "a window may end meanwhile");
        assert_eq!(by(None, 500), 500);
    }

    #[test]
    fn each_v_says_more() {
        assert_eq!(
            [level_of(0), level_of(1), level_of(9)],
            [LevelFilter::Info, LevelFilter::Debug, LevelFilter::Trace]
        );
    }
}
