//! Every process of a daemon with a running guest is what docs/roles.md says: who it is, what it may do, what it sees and
//! holds, and that no other process of its user can look into it.
//!
//! What a role can't call or open, Landlock's part in it included, is tried from inside in `crates/sandbox/tests/roles`;
//! opener and probe, which live for one request, are in `crates/vmd/tests/short_lived`.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use e2e::idle::{Does, kernel_file, vm};
use e2e::vm_conf::switch;
use rustix::process::{Gid, Pid, PidfdFlags, PidfdGetfdFlags, Uid, pidfd_getfd, pidfd_open};
use sandbox::promise::{AGENTX, CONTROL, PARENT, PRIV, Promise, Root, User, VIOBLK, VIONET, VM, VMM};
use testkit::daemon::Daemon;
use testkit::deadline::{self, DAEMON};
use testkit::machine::on_kvm;
use testkit::process::Process;

/// The daemon's user in the machine of a test (`scripts/test-root`).
const USER: &str = "_vmd";

/// User and group of the first VM.
const OF_VM_1: u32 = 1_879_048_193;

/// How long what a start needed for a moment may take to go.
const SETTLE: Duration = Duration::from_secs(20);

/// What each process holds, beside three times /dev/null, or twice and its log pipe.
const HOLDS: [(&str, &[(&str, usize)]); 8] = [
    (
        "parent",
        &[
            ("/dev/null", 18),        // standard input and output of children; the rest is in reserve
            ("/dev/ptmx", 1),         // the console's master
            ("/dev/pts", 1),          // and its slave, so that the master never hangs up
            ("/dev/net/tun", 1),      // the VM's tap, for a reboot
            ("disk.img", 1),          // the VM's disk with its lock, for a reboot
            ("epoll", 1),             //
            ("signals", 1),           //
            ("process", 4),           // control, priv, agentx, vmm
            ("socket", 6), // their channels, the listening socket, and the one that nftables' tables belong to
            ("pipe", 5),   // logs of control, priv, agentx, vmm, and of the VM
            ("vmd", 1),    // its own executable
            ("/run/vmd.pid", 1), // locked
            ("names", 1),  // in /run: whether the socket's goes
            ("/var/lib/vmd/lock", 1), // the same, against a second daemon
            ("network", 1), // the name space, for the same
            ("cgroup", 2), // of vmm and of the VM
            ("user", 1),   // the name space in which VMs have users
        ],
    ),
    ("control", &[("epoll", 1), ("signals", 1), ("socket", 2)]),
    ("priv", &[("/", 1), ("epoll", 1), ("signals", 1), ("socket", 5)]), // the first: settings of IPv6, and no more of /proc
    ("agentx", &[("epoll", 1), ("signals", 1), ("socket", 1)]),         // no master is there
    (
        "vmm",
        &[
            ("epoll", 1),        //
            ("signals", 1),      //
            ("/dev/kvm", 1),     //
            ("vmd", 1),          //
            ("process", 3),      //
            ("socket", 4),       //
            ("pipe", 3),         // the VM's log, and one of each device
            ("cgroup", 1),       // the VM's, for the next process of a device
            ("disk.img", 1),     // what the devices serve, for the same
            ("kept", 1),         // what the disk keeps, for the same
            ("/dev/net/tun", 1), //
        ],
    ),
    (
        "vm",
        &[
            ("/dev/ptmx", 1), // the console's master
            ("epoll", 2),     // its loop, and its timers'
            ("eventfd", 13),  // kicks, interrupts and wishes
            ("machine", 1),   // the VM; /dev/kvm, which could make another, is closed
            ("vcpu", 1),      //
            ("memory", 1),    // the guest's
            ("socket", 5),    // vmm's channel, and both devices' twice
            ("timer", 2),     //
        ],
    ),
    ("vioblk", &[("disk.img", 1), ("ring", 1), ("kept", 2), ("socket", 3)]), // vmm's channel, and its vm process's twice
    ("vionet", &[("/dev/net/tun", 1), ("socket", 3)]),                       // the same
];

#[test]
fn every_process_is_what_its_promise_says() {
    on_kvm("every_process_is_what_its_promise_says", || {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let disk = dir.path().join("disk.img");
        File::create(&disk).and_then(|file| file.set_len(1 << 20)).expect("an image can be made");
        let kernel = kernel_file(dir.path(), Does::Nothing);
        let options = [&*format!("disk \"{}\" format raw", disk.display()), "interface { switch \"lan\" }"];
        let daemon = Daemon::start(
            &("agentx path \"/run/nobody\"\n".to_owned() + &switch("lan", "bridge0") + &vm("idle", &kernel, &options)),
        );
        daemon.vmctl(&["start", "idle"]).success();
        let roles = processes(&daemon);
        for (promise, process) in &roles {
            is_who_it_promises(promise, *process);
            sees_what_it_promises(promise, *process, &roles);
            holds_what_is_listed(promise, *process);
            if [User::Vmd, User::Vm].contains(&promise.user) {
                no_process_of_its_user_looks_in(promise, *process);
            }
        }
        a_process_that_is_not_sealed_can_be_looked_into();
        daemon.vmctl(&["stop", "-f", "-w", "idle"]).success();
        assert!(daemon.stop().success(), "vmd ends well");
    });
}

/// All processes of the daemon, each with its promise; there are no others.
fn processes(daemon: &Daemon) -> Vec<(&'static Promise, Process)> {
    let one = |promise: &'static Promise| {
        let found = daemon.in_role(promise.name);
        assert_eq!(found.len(), 1, "one {}", promise.name);
        (promise, found[0])
    };
    let children = [&CONTROL, &PRIV, &AGENTX, &VMM, &VM, &VIOBLK, &VIONET].map(one);
    let family = daemon.process().family();
    assert_eq!(family.len(), 1 + children.len(), "{:?}", family.iter().map(|it| it.title()).collect::<Vec<_>>());
    [vec![(&PARENT, daemon.process())], children.to_vec()].concat()
}

/// The promise that holds while a guest runs.
fn now(promise: &'static Promise) -> &'static Promise {
    promise.then.unwrap_or(promise)
}

fn is_who_it_promises(promise: &'static Promise, process: Process) {
    let name = promise.name;
    let (uid, gid) = match promise.user {
        User::Vmd => ids_of_vmd(),
        User::Vm => (OF_VM_1, OF_VM_1),
        User::Root | User::Asker => (0, 0),
    };
    let all_four = |id: u32| [id.to_string(), id.to_string(), id.to_string(), id.to_string()].join("\t");
    let field = |field: &str| process.status(field).unwrap_or_else(|| panic!("{name} has {field}"));
    let bits = |set: &str| u64::from_str_radix(&field(set), 16).expect("a set of capabilities");
    assert_eq!((field("Uid"), field("Gid")), (all_four(uid), all_four(gid)), "{name}");
    let inside = now(promise).keeps_inside.bits();
    let kept = if inside == 0 { now(promise).keeps.bits() } else { inside };
    assert_eq!((bits("CapEff"), bits("CapPrm")), (kept, kept), "{name}");
    assert_eq!(bits("CapBnd"), if name == "parent" { kept } else { 0 }, "{name}");
    assert_eq!((bits("CapInh"), bits("CapAmb")), (0, 0), "{name}");
    assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".to_owned(), "2".to_owned()), "{name}");
    let filters: u32 = field("Seccomp_filters").parse().expect("a number");
    let starters = if promise.user == User::Root && name == "parent" { 0 } else { 1 };
    assert!(filters > starters, "{name} has a filter of its own beside its starters': {filters}");
}

/// Its root, and which namespaces it shares with whom.
fn sees_what_it_promises(promise: &'static Promise, process: Process, roles: &[(&'static Promise, Process)]) {
    let name = promise.name;
    let of = |wanted: &str| roles.iter().find(|(promise, _)| promise.name == wanted).map(|(_, it)| *it);
    let parent = of("parent").expect("the parent is there");
    let starter = if promise.root == Root::Inherited { of("vmm").expect("vmm is there") } else { parent };
    let made = [("mnt", promise.own.mount), ("net", promise.own.net), ("ipc", promise.own.ipc)];
    for (kind, own) in made {
        let same = process.name_space(kind) == starter.name_space(kind);
        assert_eq!(same, !own || process == starter, "{name}: {kind}");
    }
    let vmm = of("vmm").expect("vmm is there");
    let of_vms = process == vmm || promise.user == User::Vm;
    let place = if of_vms { vmm } else { parent };
    assert_eq!(process.name_space("user"), place.name_space("user"), "{name}: user");
    assert_ne!(vmm.name_space("user"), parent.name_space("user"), "vmm: user");
    for kind in ["pid", "uts", "cgroup", "time"] {
        assert_eq!(process.name_space(kind), parent.name_space(kind), "{name}: {kind}");
    }
    let entries = process.root_entries().unwrap_or_else(|| panic!("{name} has a root"));
    assert_eq!(entries.is_empty(), promise.root != Root::Host, "{name}: {entries:?}");
}

fn holds_what_is_listed(promise: &'static Promise, process: Process) {
    let (_, listed) = HOLDS.iter().find(|(role, _)| *role == promise.name).expect("every role is listed");
    let expected: BTreeMap<String, usize> = listed.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
    // vmctl's connection and the helpers of the start take a moment to be closed and reaped.
    let end = Instant::now() + SETTLE;
    while held(process) != expected && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    let descriptors = process.descriptors();
    assert_eq!(held(process), expected, "{}: {descriptors:?}", promise.name);
    let null = |number: u32| descriptors.get(&number).is_some_and(|target| target == "/dev/null");
    assert!(null(0) && null(1), "{}: {descriptors:?}", promise.name);
    if promise.name != "parent" {
        assert_eq!(descriptors.get(&2).map(|it| kind(it)).as_deref(), Some("pipe"), "{}: its log", promise.name);
    }
}

/// How many it holds of each kind, the standard ones apart.
fn held(process: Process) -> BTreeMap<String, usize> {
    let mut held = BTreeMap::new();
    for (_, target) in process.descriptors().iter().filter(|(number, _)| **number > 2) {
        *held.entry(kind(target)).or_default() += 1;
    }
    held
}

/// What a descriptor is, without the number of the one thing that it is.
fn kind(target: &str) -> String {
    let kinds = [
        ("socket:", "socket"),
        ("pipe:", "pipe"),
        ("net:", "network"),
        ("user:", "user"),
        ("anon_inode:[eventpoll]", "epoll"),
        ("anon_inode:inotify", "names"),
        ("anon_inode:[eventfd]", "eventfd"),
        ("anon_inode:[signalfd]", "signals"),
        ("anon_inode:[timerfd]", "timer"),
        ("anon_inode:[pidfd]", "process"),
        ("anon_inode:[io_uring]", "ring"),
        ("anon_inode:kvm-vcpu", "vcpu"),
        ("anon_inode:kvm-vm", "machine"),
        ("/guest memory", "memory"),
        ("/memfd:kept", "kept"),
        ("/sys/fs/cgroup", "cgroup"),
        ("/dev/pts/", "/dev/pts"),
    ];
    if let Some((_, kind)) = kinds.iter().find(|(start, _)| target.starts_with(start)) {
        return (*kind).to_owned();
    }
    let own_file = ["disk.img", "vmd"].into_iter().find(|name| target.ends_with(&format!("/{name}")));
    own_file.map_or_else(|| target.to_owned(), str::to_owned)
}

/// What an intruder of the same user gets: looked at, opened, taken.
#[derive(Debug, PartialEq, Eq)]
struct Loot {
    descriptors: bool,
    environment: bool,
    memory: bool,
    root: bool,
    descriptor: bool,
}

/// Another process of the user would be refused as this thread is, which has become that user and nobody else.
fn intrude(process: Process) -> Loot {
    let of = |field| process.status(field).and_then(|ids| ids.split('\t').next()?.parse().ok()).expect("an id");
    let (uid, gid) = (Uid::from_raw(of("Uid")), Gid::from_raw(of("Gid")));
    std::thread::spawn(move || {
        rustix::thread::set_thread_groups(&[gid]).expect("root may");
        rustix::thread::set_thread_res_gid(gid, gid, gid).expect("root may");
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("root may");
        let path = |name: &str| format!("/proc/{}/{name}", process.pid);
        let pid = Pid::from_raw(i32::try_from(process.pid).expect("pids are small")).expect("no pid is 0");
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("it runs");
        Loot {
            descriptors: std::fs::read_dir(path("fd")).is_ok(),
            environment: std::fs::read(path("environ")).is_ok(),
            memory: File::options().write(true).open(path("mem")).is_ok(),
            root: std::fs::read_dir(path("root/.")).is_ok(),
            descriptor: pidfd_getfd(&pidfd, 0, PidfdGetfdFlags::empty()).is_ok(),
        }
    })
    .join()
    .expect("the intruder ends")
}

fn no_process_of_its_user_looks_in(promise: &'static Promise, process: Process) {
    let nothing = Loot { descriptors: false, environment: false, memory: false, root: false, descriptor: false };
    assert_eq!(intrude(process), nothing, "{}", promise.name);
}

/// So it is the seal that is seen above, and not something else that keeps the intruder out.
fn a_process_that_is_not_sealed_can_be_looked_into() {
    use std::os::unix::process::CommandExt as _;
    let (uid, gid) = ids_of_vmd();
    let mut open = Command::new("sleep").arg("600").stdin(Stdio::null()).uid(uid).gid(gid).spawn().expect("sleep");
    let process = Process { pid: open.id() };
    deadline::until("exec of sleep", DAEMON, || (process.title() == "sleep").then_some(()));
    let loot = intrude(process);
    assert!(loot.descriptors && loot.environment && loot.root, "{loot:?}");
    open.kill().and_then(|()| open.wait()).expect("it is ours");
}

fn ids_of_vmd() -> (u32, u32) {
    let passwd = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd can be read");
    let line = passwd.lines().find(|line| line.split(':').next() == Some(USER)).expect("_vmd has an account");
    let mut ids = line.split(':').skip(2).map(|id| id.parse().expect("an id"));
    (ids.next().expect("a uid"), ids.next().expect("a gid"))
}
