//! A daemon with one VM that runs all the time, and VMs of several kinds whose starts are made to fail, or go well.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use e2e::idle::{self, Does, kernel_file};
use e2e::vm_conf::switch;
use rustix::process::{Pid, Signal, kill_process};
use testkit::census::Census;
use testkit::daemon::{self, Daemon, Reply};
use testkit::deadline::{self, DAEMON};
use testkit::process::Process;
use testkit::status::Row;

use crate::count::{Count, Whole};

/// Of the switch that cards are on.
pub const BRIDGE: &str = "bridge0";
/// How often each step of a start is made to fail; the ways in which it does share them.
pub const ROUNDS: usize = 100;

/// A start sooner than six seconds after the one before of the same VM is a fast one, of which the daemon refuses the
/// fourth; and a second for what lies between the two clocks.
const FAST: Duration = Duration::from_secs(7);
/// Fast starts that it takes.
const IN_A_ROW: usize = 3;
/// VMs that differ in nothing but their names, with a kernel and a disk of their own: what their names begin with, how
/// many there are, and their card. Those that take turns can start three times each in seven seconds.
pub type Kind = (&'static str, usize, &'static str);

/// Those that every test has.
const PLAIN: Kind = ("vm", 34, "interface { switch \"lan\" }");

/// The machine, the daemon and its VMs.
pub struct World {
    pub daemon: Daemon,
    /// What was there before the daemon.
    nothing: Census,
    /// The line of the VM that runs all the time.
    other: Row,
    kinds: BTreeMap<&'static str, Turns>,
    _dir: tempfile::TempDir,
}

/// Whose turn it is among those of a kind.
struct Turns {
    files: Files,
    vms: usize,
    starts: usize,
    last: BTreeMap<usize, Instant>,
}

/// What all VMs of a kind use.
#[derive(Clone)]
pub struct Files {
    pub kernel: PathBuf,
    pub disk: PathBuf,
}

impl World {
    /// With the VMs that every test has, and more.
    pub fn new(switches: &str, more: &[Kind]) -> Self {
        let nothing = Census::take();
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let mut text = switch("lan", BRIDGE) + switches;
        text += &Files::new(dir.path(), "other").vm("other", PLAIN.2);
        let mut kinds = BTreeMap::new();
        for (kind, vms, card) in [PLAIN].iter().chain(more) {
            let files = Files::new(dir.path(), kind);
            text.extend((0..*vms).map(|number| files.vm(&format!("{kind}{number}"), card)));
            kinds.insert(*kind, Turns { files, vms: *vms, starts: 0, last: BTreeMap::new() });
        }
        let daemon = Daemon::start(&text);
        daemon.vmctl(&["start", "other"]).success();
        let other = daemon.row("other");
        Self { daemon, nothing, other, kinds, _dir: dir }
    }

    pub fn files(&self, kind: &str) -> Files {
        self.kinds[kind].files.clone()
    }

    /// The name of a VM of a kind that the daemon will let start now.
    pub fn next(&mut self, kind: &str) -> String {
        let turns = self.kinds.get_mut(kind).unwrap_or_else(|| panic!("no kind {kind:?}"));
        let number = turns.starts / IN_A_ROW % turns.vms;
        if let (0, Some(last)) = (turns.starts % IN_A_ROW, turns.last.get(&number)) {
            std::thread::sleep((*last + FAST).saturating_duration_since(Instant::now()));
        }
        turns.starts += 1;
        turns.last.insert(number, Instant::now());
        format!("{kind}{number}")
    }

    /// Makes starts of VMs fail so often: each says why in these words, and leaves nothing.
    pub fn fails(
        &mut self,
        (fault, kind): (&str, &str),
        rounds: usize,
        words: &str,
        mut start: impl FnMut(&mut Self, &str) -> Reply,
    ) {
        self.rounds((fault, kind), rounds, |world, name| {
            let reply = start(world, name);
            says(fault, &reply, words);
        });
    }

    /// Makes starts of VMs so often that leave nothing.
    pub fn rounds(&mut self, (fault, kind): (&str, &str), rounds: usize, mut round: impl FnMut(&mut Self, &str)) {
        let begin = Instant::now();
        let before = Count::take(&self.daemon);
        let mut whole = None;
        for _ in 0..rounds {
            let name = self.next(kind);
            round(self, &name);
            self.is_stopped(fault, &name);
            before.wait_same(&self.daemon, fault);
            whole.get_or_insert_with(|| Whole::take(&self.daemon));
        }
        whole.expect("a round").wait_same(&self.daemon, fault);
        println!("{fault}: {rounds} times in {:.1} s", begin.elapsed().as_secs_f64());
    }

    /// A VM starts and ends, and nothing is left of it either.
    pub fn serves(&mut self, fault: &str) {
        let before = Count::take(&self.daemon);
        let name = self.next("vm");
        self.start(&name).success();
        let row = self.daemon.row(&name);
        assert_eq!((row.state.as_str(), row.pid.is_some()), ("running", true), "after {fault}");
        self.stop(&name);
        self.is_stopped(fault, &name);
        before.wait_same(&self.daemon, fault);
    }

    /// The status table has it so, and the VM that runs all the time still runs.
    pub fn is_stopped(&self, fault: &str, name: &str) {
        let rows = self.daemon.status();
        let row = |name: &str| rows.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("{fault}: no {name}"));
        let (state, pid, tty) = (row(name).state.as_str(), row(name).pid, row(name).tty.as_str());
        assert_eq!((state, pid, tty), ("stopped", None, "-"), "{fault}: {name}");
        let other = row("other");
        assert_eq!((other.state.as_str(), other.pid), ("running", self.other.pid), "{fault}: the other VM");
    }

    /// Starts a VM and waits for the answer.
    pub fn start(&self, name: &str) -> Reply {
        self.daemon.vmctl(&["start", name])
    }

    /// Ends a VM by force and waits for its end.
    pub fn stop(&self, name: &str) {
        self.daemon.vmctl(&["stop", "-f", "-w", name]).success();
    }

    /// Whatever it does now, it comes to stand still.
    pub fn ends(&self, name: &str) {
        deadline::until(format!("{name} to be stopped"), DAEMON, || {
            let stopped = self.daemon.row(name).state == "stopped";
            if !stopped {
                self.daemon.vmctl(&["stop", "-f", "-w", name]); // refused where it stops, or has stopped
            }
            stopped.then_some(())
        });
    }

    /// The only process of a role.
    pub fn role(&self, role: &str) -> Process {
        let found = self.daemon.in_role(role);
        assert_eq!(found.len(), 1, "{role}");
        found[0]
    }

    /// A VM's process in a role.
    pub fn member(&self, role: &str, name: &str) -> Process {
        let own = |it: &Process| it.title().rsplit(' ').next() == Some(name);
        self.daemon.in_role(role).into_iter().find(own).unwrap_or_else(|| panic!("no {role} of {name}"))
    }

    /// Ends the daemon; nothing is left of it at all.
    pub fn end(self) {
        self.stop("other");
        assert!(self.daemon.stop().success(), "vmd ends well");
        self.nothing.wait_same();
    }
}

impl Files {
    fn new(dir: &Path, kind: &str) -> Self {
        let (kernel, disk) = (dir.join(format!("{kind}.elf")), dir.join(format!("{kind}.img")));
        fs::rename(kernel_file(dir, Does::Nothing), &kernel).expect("it is ours");
        File::create(&disk).and_then(|file| file.set_len(1 << 20)).expect("an image can be made");
        Self { kernel, disk }
    }

    fn vm(&self, name: &str, card: &str) -> String {
        idle::vm(name, &self.kernel, &[&format!("disk \"{}\" format raw", self.disk.display()), card])
    }
}

/// A start that failed, and said these words.
pub fn says(fault: &str, reply: &Reply, words: &str) {
    assert_eq!(reply.status, Some(1), "{fault}: {reply:?}");
    assert!(reply.stderr.contains(words), "{fault}: no {words:?} in {:?}", reply.stderr);
}

/// Starts a VM; the answer is waited for elsewhere.
pub fn begin(name: &str) -> JoinHandle<Reply> {
    let name = name.to_owned();
    std::thread::spawn(move || daemon::vmctl(&["start", &name]))
}

/// What `begin` has begun.
pub fn answer(start: JoinHandle<Reply>) -> Reply {
    start.join().expect("vmctl can be run")
}

pub fn kill(process: Process, signal: Signal) {
    kill_process(pid(process), signal).unwrap_or_else(|error| panic!("{}: {error}", process.title()));
}

pub fn pid(process: Process) -> Pid {
    i32::try_from(process.pid).ok().and_then(Pid::from_raw).expect("a pid")
}
