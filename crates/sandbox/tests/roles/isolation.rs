//! Each role in a process of its own: who it is, what it sees, and that its neighbours can't touch it.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::{Ended, Idle, KILLED, call, run, vms_have_users};
use sandbox::promise::{Capabilities, Promise, ROLES, Root, User};

/// The user and group of this VM.
fn ids_of_vm(number: u32) -> (String, String) {
    let own = (0x7000_0000 + number).to_string();
    if vms_have_users() { (own.clone(), own) } else { ids_of_vmd() }
}

/// The bits of a capability set as /proc writes them.
fn bits(text: &str) -> u64 {
    u64::from_str_radix(text, 16).expect("hexadecimal")
}

/// The user and group of `_vmd`: the fixture's, where the host has none.
fn ids_of_vmd() -> (String, String) {
    let passwd = std::fs::read_to_string("/etc/passwd").expect("passwd");
    let line = passwd.lines().find(|line| line.starts_with("_vmd:")).unwrap_or("_vmd:x:990:990:");
    let mut fields = line.split(':').skip(2).map(str::to_owned);
    (fields.next().expect("uid"), fields.next().expect("gid"))
}

fn capabilities_of_root() -> u64 {
    rustix::thread::capabilities(None).expect("capabilities").permitted.bits()
}

/// The table of roles as /proc has it.
#[test]
fn every_role_is_what_its_promise_says() {
    for promise in ROLES {
        let role = Idle::start(promise.name, &[]);
        check_identity(promise, &role);
        check_limits(promise, &role);
    }
}

fn check_identity(promise: &Promise, role: &Idle) {
    let name = promise.name;
    let (uid, gid) = match promise.user {
        User::Vmd => ids_of_vmd(),
        User::Vm => ids_of_vm(7),
        User::Root | User::Asker => ("0".to_owned(), "0".to_owned()),
    };
    let all_four = |id: &str| [id; 4].join(" ");
    assert_eq!(role.status("Uid"), all_four(&uid), "{name}");
    assert_eq!(role.status("Gid"), all_four(&gid), "{name}");
    match promise.user {
        User::Root | User::Vmd => assert_eq!(role.status("Groups"), gid, "{name}"),
        User::Vm => assert_eq!(role.status("Groups"), if vms_have_users() { "" } else { &gid }, "{name}"),
        User::Asker => {}
    }
    // A container's root may have been born without some.
    let of_host = promise.keeps.bits() & capabilities_of_root();
    let inside = !promise.keeps_inside.is_empty() && vms_have_users();
    let kept = if inside { promise.keeps_inside.bits() } else { of_host };
    assert_eq!(bits(&role.status("CapEff")), kept, "{name}");
    assert_eq!(bits(&role.status("CapPrm")), kept, "{name}");
    let regained_by_exec = if name == "parent" { kept } else { 0 };
    assert_eq!(bits(&role.status("CapBnd")), regained_by_exec, "{name}");
    assert_eq!(bits(&role.status("CapInh")), 0, "{name}");
    assert_eq!(bits(&role.status("CapAmb")), 0, "{name}");
    assert_eq!(role.status("NoNewPrivs"), "1", "{name}");
    assert_eq!(role.status("Seccomp"), "2", "{name}");
    assert_eq!(role.status("Threads"), "1", "{name}");
}

fn check_limits(promise: &Promise, role: &Idle) {
    let text = std::fs::read_to_string(format!("/proc/{}/limits", role.pid)).expect("limits");
    let both = |what: &str| {
        let line = text.lines().find(|line| line.starts_with(what)).expect("the limit");
        let fields: Vec<&str> = line.trim_start_matches(what).split_whitespace().take(2).collect();
        (fields[0].to_owned(), fields[1].to_owned())
    };
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let may_raise = capabilities_of_root() & Capabilities::SYS_RESOURCE.bits() != 0;
    let most = if may_raise { u64::MAX } else { hard };
    let descriptors = promise.limits.descriptors.min(most).to_string();
    assert_eq!(both("Max open files"), (descriptors.clone(), descriptors), "{}", promise.name);
    assert_eq!(both("Max core file size"), ("0".to_owned(), "0".to_owned()), "{}", promise.name);
    if promise.user == User::Vm && vms_have_users() {
        for (what, most) in [("Max processes", "512"), ("Max pending signals", "256"), ("Max msgqueue size", "0")] {
            assert_eq!(both(what), (most.to_owned(), most.to_owned()), "{}", promise.name);
        }
    }
    if !promise.limits.grows_files {
        assert_eq!(both("Max file size"), ("0".to_owned(), "0".to_owned()), "{}", promise.name);
    }
}

/// With the host's numbers, in a user namespace that has root's by none.
#[test]
fn each_vm_has_a_user_of_its_own() {
    let users = |vm| {
        let role = Idle::start_of(vm, "vm");
        (role.status("Uid"), role.status("Gid"), role.namespace("user"))
    };
    let (seven, eight, none) = (users(Some(7)), users(Some(8)), users(None));
    let all_four = |id: &str| [id; 4].join(" ");
    for (role, (uid, gid)) in [(&seven, ids_of_vm(7)), (&eight, ids_of_vm(8)), (&none, ids_of_vmd())] {
        assert_eq!((&role.0, &role.1), (&all_four(&uid), &all_four(&gid)));
    }
    let host = std::fs::read_link("/proc/self/ns/user").expect("namespace");
    assert_eq!([seven.2, eight.2, none.2].map(|own| own != host), [vms_have_users(); 3]);
}

#[test]
fn vmm_has_users_to_give_and_takes_no_other() {
    for number in [libc::SYS_setresuid, libc::SYS_setresgid] {
        let outside = call(number, &[0, 0, 0]);
        assert_eq!(run("vmm", &["call", &outside]), KILLED);
        let beyond = call(number, &[0x7FFE_0000, 0x7FFE_0000, 0x7FFE_0000]);
        let (unknown, given) = if vms_have_users() { (libc::EINVAL, 0) } else { (libc::EPERM, libc::EPERM) };
        assert_eq!(run("vmm", &["call", &beyond]), Ended::Errno(unknown), "the namespace does not have it");
        assert_eq!(run("vmm", &["call", &call(number, &[0x7000_0001, 0x7000_0001, 0x7000_0001])]), Ended::Errno(given));
        assert_eq!(run("vm", &["call", &call(number, &[0x7000_0001, 0x7000_0001, 0x7000_0001])]), KILLED);
    }
}

/// Across users the kernel asks whether who ends may kill.
#[test]
fn a_vm_of_another_user_ends_with_vmm() {
    let role = Idle::start_of(Some(7), "vm");
    let pid = |id: u32| rustix::process::Pid::from_raw(i32::try_from(id).expect("a pid")).expect("a pid");
    let process = rustix::process::pidfd_open(pid(role.pid), rustix::process::PidfdFlags::empty()).expect("it lives");
    rustix::process::kill_process(pid(role.starter()), rustix::process::Signal::KILL).expect("vmm is killed");
    let mut ended = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut ended, Some(&limit)), Ok(1));
}

#[test]
fn every_role_has_the_root_and_the_namespaces_it_promises() {
    let parent = Idle::start("parent", &[]);
    let of_host = |role: &Idle, name: &str| {
        role.namespace(name) == std::fs::read_link(format!("/proc/self/ns/{name}")).expect("namespace")
    };
    assert!(of_host(&parent, "net") && of_host(&parent, "ipc"));
    for promise in ROLES {
        let role = Idle::start(promise.name, &[]);
        let entries = std::fs::read_dir(format!("/proc/{}/root/", role.pid)).expect("its root").count();
        let mounts = std::fs::read_to_string(format!("/proc/{}/mounts", role.pid)).expect("its mounts");
        if promise.root == Root::Host {
            assert!(entries > 0, "{}", promise.name);
        } else {
            assert_eq!(entries, 0, "{}", promise.name);
            for mount in mounts.lines() {
                let options = mount.split_whitespace().nth(3).expect("options");
                for option in ["ro", "nosuid", "nodev", "noexec"] {
                    assert!(options.split(',').any(|word| word == option), "{}: {mounts}", promise.name);
                }
            }
            // The root, and what lies over it.
            assert_eq!(mounts.lines().count(), 2, "{}: {mounts}", promise.name);
        }
        let inherits = promise.root == Root::Inherited; // vmm's
        assert_eq!(!of_host(&role, "net"), promise.own.net || inherits, "{}", promise.name);
        assert_eq!(!of_host(&role, "ipc"), promise.own.ipc || inherits, "{}", promise.name);
        // A child process's view of mounts may be the fixture's own, so only those that must differ are compared.
        if promise.own.mount || inherits {
            assert!(!of_host(&role, "mnt"), "{}", promise.name);
        }
    }
}

#[test]
fn a_root_that_is_no_mount_point_is_left_for_an_empty_one_too() {
    let dir = tempfile::tempdir().expect("a directory");
    for role in ["control", "vm"] {
        let inside = dir.path().join(role);
        std::fs::create_dir(&inside).expect("a directory");
        let idle = Idle::start_in_chroot(&inside, role);
        let entries = std::fs::read_dir(format!("/proc/{}/root/", idle.pid)).expect("its root").count();
        assert_eq!(entries, 0, "{role}");
    }
}

#[test]
fn a_file_outside_the_promise_can_not_be_opened() {
    for role in ["probe", "control", "priv", "agentx", "vm", "vioblk", "vionet", "vioballoon", "vioscsi"] {
        assert_eq!(run(role, &["read", "/etc/passwd"]), KILLED, "{role}");
    }
    // vmm's children start with an openat of libc's, so for that vmm is answered, not killed; it sees nothing either way.
    assert_eq!(run("vmm", &["read", "/etc/passwd"]), KILLED);
    assert_eq!(run("vmm", &["call", &call(libc::SYS_openat, &[-100, 0, 0, 0])]), Ended::Errno(libc::ENOSYS));
    assert_eq!(run("parent", &["read", "/etc/passwd"]), Ended::Errno(0));
    assert_eq!(run("opener", &["read", "/etc/passwd"]), Ended::Errno(0));
}

/// A file of the test's own, `mode` for `owner`.
fn file(owner: u32, mode: u32) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    std::os::unix::fs::chown(file.path(), Some(owner), Some(owner)).expect("chown");
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).expect("chmod");
    file
}

#[test]
fn the_opener_opens_what_the_asker_may_open() {
    let theirs = file(4711, 0o600);
    let of_group = file(4712, 0o640);
    let not_theirs = file(0, 0o600);
    let path = |file: &tempfile::NamedTempFile| file.path().to_str().expect("UTF-8").to_owned();
    // The fixture's asker 4711 is also in group 4712.
    assert_eq!(run("opener", &["asker", "4711", "write", &path(&theirs)]), Ended::Errno(0));
    assert_eq!(run("opener", &["asker", "4711", "read", &path(&of_group)]), Ended::Errno(0));
    assert_eq!(run("opener", &["asker", "4711", "write", &path(&of_group)]), Ended::Errno(libc::EACCES));
    assert_eq!(run("opener", &["asker", "4711", "read", &path(&not_theirs)]), Ended::Errno(libc::EACCES));
    assert_eq!(run("opener", &["root", "write", &path(&theirs)]), Ended::Errno(0));
}

#[test]
fn the_opener_as_the_asker_stays_the_asker() {
    for asker in [&["asker", "4711"] as &[&str], &["root"]] {
        for number in [libc::SYS_setresuid, libc::SYS_setresgid, libc::SYS_setgroups, libc::SYS_capset] {
            let step = call(number, &[0, 0, 0]);
            assert_eq!(run("opener", &[asker, &["call", &step]].concat()), KILLED, "{asker:?}");
        }
    }
    let as_user = Idle::start("opener", &["asker", "4711"]);
    assert_eq!(as_user.status("Uid"), "4711 4711 4711 4711");
    assert_eq!(as_user.status("Gid"), "4711 4711 4711 4711");
    assert_eq!(as_user.status("Groups"), "4712");
    assert_eq!(bits(&as_user.status("CapPrm")), 0);
    let as_root = Idle::start("opener", &["root"]);
    assert_eq!(as_root.status("Uid"), "0 0 0 0");
    assert_eq!(as_root.status("Groups"), "");
    assert_eq!(bits(&as_root.status("CapPrm")), 1 << 1, "CAP_DAC_OVERRIDE alone");
}

#[test]
fn no_user_is_not_root() {
    // (uid_t)-1 leaves the ids as they are.
    assert_eq!(run("opener", &["asker", "4294967295"]), Ended::Errno(200));
}

#[test]
fn the_opener_creates_nothing() {
    let flags = i64::from(libc::O_CREAT | libc::O_WRONLY);
    let create = call(libc::SYS_openat, &[-100, 0, flags, 0o600]);
    assert_eq!(run("opener", &["call", &create]), KILLED);
    let unlink = call(libc::SYS_unlinkat, &[-100, 0, 0]);
    assert_eq!(run("opener", &["root", "call", &unlink]), KILLED);
}

/// What got out of one role's sandbox, but not out of its user: it meets the others' walls.
#[test]
fn a_process_of_the_same_user_can_not_look_into_a_role() {
    for name in ["probe", "control", "agentx", "vmm", "vm", "vioblk", "vionet", "vioballoon", "vioscsi"] {
        let role = Idle::start(name, &[]);
        let trace = call(libc::SYS_ptrace, &[16, role.pid.into(), 0, 0]); // PTRACE_ATTACH
        assert_eq!(run("unconfined", &["user", "call", &trace]), Ended::Errno(libc::EPERM), "{name}");
        for file in ["mem", "environ", "maps"] {
            let path = format!("/proc/{}/{file}", role.pid);
            assert_eq!(run("unconfined", &["user", "read", &path]), Ended::Errno(libc::EACCES), "{name}: {file}");
        }
    }
    // The same attempt on a process that is not sealed succeeds, so it is the seal that is seen above.
    let open = Idle::start("unconfined", &["user"]);
    let kill = call(libc::SYS_kill, &[open.pid.into(), 0]);
    assert_eq!(run("unconfined", &["user", "call", &kill]), Ended::Errno(0));
}

#[test]
fn no_role_of_the_user_can_signal_another() {
    let target = Idle::start("control", &[]);
    for role in ["probe", "control", "agentx", "vm", "vioblk", "vionet", "vioballoon", "vioscsi"] {
        for number in [libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo] {
            let step = call(number, &[target.pid.into(), 0, 0, 0]);
            assert_eq!(run(role, &["call", &step]), KILLED, "{role}");
        }
        assert_eq!(run(role, &["signal", &target.pid.to_string()]), KILLED, "{role}");
    }
}

/// It has the pidfds that its clones gave it, and no call that gives another.
#[test]
fn vmm_signals_only_what_it_started() {
    let stranger = Idle::start("control", &[]);
    assert_eq!(run("vmm", &["signal", &stranger.pid.to_string()]), KILLED);
}

#[test]
fn a_role_can_wake_its_own_threads() {
    let own = format!("{},self,self,0", libc::SYS_tgkill);
    for role in ["vm", "vioblk", "vionet", "vioballoon", "vioscsi", "control"] {
        assert_eq!(run(role, &["call", &own]), Ended::Errno(0), "{role}");
    }
}

#[test]
fn another_process_has_other_limits_than_ours_to_set() {
    let init = call(libc::SYS_prlimit64, &[1, i64::from(libc::RLIMIT_NOFILE), 1, 0]);
    for role in ["opener", "probe", "control", "priv", "agentx", "vm", "vioblk", "vionet", "vioballoon", "vioscsi"] {
        assert_eq!(run(role, &["call", &init]), KILLED, "{role}");
    }
}
