//! Each role in a process of its own: what it may not do kills it, what it must do works.

use crate::support::{Ended, KILLED, call, run, run_onto};

const ALL: [&str; 12] = [
    "parent",
    "opener",
    "probe",
    "control",
    "priv",
    "agentx",
    "vmm",
    "vm",
    "vioblk",
    "vionet",
    "vioballoon",
    "vioscsi",
];

#[test]
fn every_role_lives() {
    for role in ALL {
        assert_eq!(run(role, &["live"]), Ended::Errno(0), "{role}");
    }
}

#[test]
fn every_role_can_abort() {
    for role in ALL {
        assert_eq!(run(role, &["abort"]), Ended::Signal(libc::SIGABRT), "{role}");
    }
}

/// Calls that no role has.
#[test]
fn a_call_outside_every_promise_kills() {
    let outside = [
        ("ptrace", call(libc::SYS_ptrace, &[16, 1, 0, 0])),
        ("process_vm_readv", call(libc::SYS_process_vm_readv, &[1, 0, 0, 0, 0, 0])),
        ("process_vm_writev", call(libc::SYS_process_vm_writev, &[1, 0, 0, 0, 0, 0])),
        ("pidfd_open", call(libc::SYS_pidfd_open, &[1, 0])),
        ("pwrite64", call(libc::SYS_pwrite64, &[0, 0, 0, 0])),
        ("pidfd_getfd", call(libc::SYS_pidfd_getfd, &[0, 0, 0])),
        ("bpf", call(libc::SYS_bpf, &[0, 0, 0])),
        ("perf_event_open", call(libc::SYS_perf_event_open, &[0, 0, 0, 0, 0])),
        ("keyctl", call(libc::SYS_keyctl, &[0, 0, 0, 0, 0])),
        ("userfaultfd", call(libc::SYS_userfaultfd, &[0])),
        ("init_module", call(libc::SYS_init_module, &[0, 0, 0])),
        ("kexec_load", call(libc::SYS_kexec_load, &[0, 0, 0, 0])),
        ("personality", call(libc::SYS_personality, &[-1])),
        ("setns", call(libc::SYS_setns, &[0, 0])),
        ("syslog", call(libc::SYS_syslog, &[10, 0, 0])),
        ("execve", call(libc::SYS_execve, &[0, 0, 0])),
        ("execveat of a path", call(libc::SYS_execveat, &[0, 0, 0, 0, 0])),
        ("x32 getpid", call(0x4000_0000 + libc::SYS_getpid, &[])),
        ("AF_PACKET", call(libc::SYS_socket, &[libc::AF_PACKET.into(), 3, 0])),
        ("AF_VSOCK", call(libc::SYS_socket, &[libc::AF_VSOCK.into(), 1, 0])),
        ("TIOCSTI", call(libc::SYS_ioctl, &[0, libc::TIOCSTI as i64, 0])),
    ];
    for role in ALL {
        for (name, step) in &outside {
            assert_eq!(run(role, &["call", step]), KILLED, "{role}: {name}");
        }
    }
}

/// Calls that some roles have, for their own reason, and that kill the others.
#[test]
fn a_call_of_another_role_kills() {
    let of_some: [(&str, String, &[&str]); 23] = [
        ("socket", call(libc::SYS_socket, &[1, 1, 0]), &["parent"]),
        ("netlink", call(libc::SYS_socket, &[16, 3, 0]), &["parent", "priv"]),
        ("kill", call(libc::SYS_kill, &[1, 0]), &["parent"]),
        ("tgkill of another", call(libc::SYS_tgkill, &[1, 1, 0]), &["parent", "vmm"]),
        ("mount", call(libc::SYS_mount, &[0, 0, 0, 0, 0]), &["parent"]),
        ("setresuid", call(libc::SYS_setresuid, &[-1, -1, -1]), &["parent", "opener"]),
        ("fsopen", call(libc::SYS_fsopen, &[0, 0]), &["parent"]),
        ("memfd_create", call(libc::SYS_memfd_create, &[0, 0]), &["parent", "vmm"]),
        ("ftruncate", call(libc::SYS_ftruncate, &[0, 0]), &["parent", "vmm"]),
        (
            "fallocate of a hole",
            call(libc::SYS_fallocate, &[99, 3, 0, 4096]),
            &["parent", "vmm", "vioblk", "vioballoon"],
        ),
        ("fallocate of room", call(libc::SYS_fallocate, &[99, 0, 0, 4096]), &[]),
        ("fallocate of room beyond the end", call(libc::SYS_fallocate, &[99, 1, 0, 4096]), &[]),
        ("fallocate of zeroes", call(libc::SYS_fallocate, &[99, 0x10, 0, 4096]), &[]),
        ("fallocate of zeroes in place", call(libc::SYS_fallocate, &[99, 0x11, 0, 4096]), &["parent", "vmm", "vioblk"]),
        ("BLKDISCARD", call(libc::SYS_ioctl, &[99, 0x1277, 0]), &[]),
        ("io_uring_setup", call(libc::SYS_io_uring_setup, &[1, 0]), &["parent", "vmm", "vioblk", "vioscsi"]),
        ("KVM_CREATE_VM", call(libc::SYS_ioctl, &[0, 0xAE01, 0]), &["parent", "vmm", "vm"]),
        ("TUNSETIFF", call(libc::SYS_ioctl, &[0, 0x4004_54CA, 0]), &["parent", "priv"]),
        ("openat of IPv6 settings", call(libc::SYS_openat, &[64, 0, 0]), &["parent", "opener", "priv", "vmm"]),
        ("pwritev2", call(libc::SYS_pwritev2, &[0, 0, 0, 0, 0, 0]), &["parent", "vmm", "vioblk"]),
        ("executable memory", call(libc::SYS_mmap, &[0, 4096, 5, 0x22, -1, 0]), &["parent"]),
        ("connect", call(libc::SYS_connect, &[0, 0, 0]), &["parent"]),
        ("accept", call(libc::SYS_accept4, &[0, 0, 0, 0]), &["parent", "control"]),
    ];
    for role in ALL {
        for (name, step, roles) in &of_some {
            let killed = run(role, &["call", step]) == KILLED;
            assert_eq!(killed, !roles.contains(&role), "{role}: {name}");
        }
    }
}

#[test]
fn memory_is_never_made_executable() {
    for role in ALL.into_iter().filter(|role| *role != "parent") {
        let step = call(libc::SYS_mprotect, &[0, 4096, i64::from(libc::PROT_READ | libc::PROT_EXEC)]);
        assert_eq!(run(role, &["call", &step]), KILLED, "{role}");
    }
}

#[test]
fn only_roles_with_parallel_work_have_threads() {
    for (role, ended) in [
        ("vm", Ended::Errno(0)),
        ("vioblk", KILLED),
        ("vionet", KILLED),
        ("vioballoon", KILLED),
        ("vioscsi", KILLED),
        ("control", KILLED),
    ] {
        assert_eq!(run(role, &["thread"]), ended, "{role}");
    }
}

#[test]
fn a_thread_is_no_way_to_a_process() {
    let fork = call(libc::SYS_clone, &[i64::from(libc::SIGCHLD), 0, 0, 0, 0]);
    let untraced = call(libc::SYS_clone, &[i64::from(libc::CLONE_THREAD | libc::CLONE_UNTRACED), 0, 0, 0, 0]);
    for role in ["opener", "probe", "control", "priv", "agentx", "vm", "vioblk", "vionet", "vioballoon", "vioscsi"] {
        assert_eq!(run(role, &["call", &fork]), KILLED, "{role}");
        assert_eq!(run(role, &["call", &untraced]), KILLED, "{role}");
    }
    let clone3 = call(libc::SYS_clone3, &[0, 88]);
    assert_eq!(run("vm", &["call", &clone3]), Ended::Errno(libc::ENOSYS));
    assert_eq!(run("probe", &["call", &clone3]), KILLED);
}

/// Its flags are those of a plain child; of a user namespace it would be the root.
#[test]
fn a_process_is_made_with_the_flags_of_ours_alone() {
    let clone = |flags: i32| call(libc::SYS_clone, &[flags.into(), 0, 0, 0, 0]);
    for role in ["parent", "vmm"] {
        // Ours asks for a pidfd, for which there is no place here.
        assert_eq!(
            run(role, &["call", &clone(libc::SIGCHLD | libc::CLONE_PIDFD)]),
            Ended::Errno(libc::EFAULT),
            "{role}"
        );
        for (name, flag) in [
            ("CLONE_NEWUSER", libc::CLONE_NEWUSER),
            ("CLONE_NEWPID", libc::CLONE_NEWPID),
            ("CLONE_PARENT", libc::CLONE_PARENT),
            ("CLONE_FS", libc::CLONE_FS),
        ] {
            let step = clone(libc::SIGCHLD | libc::CLONE_PIDFD | flag);
            assert_eq!(run(role, &["call", &step]), KILLED, "{role}: {name}");
        }
    }
    for (name, flag) in [("CLONE_NEWUSER", libc::CLONE_NEWUSER), ("CLONE_NEWPID", libc::CLONE_NEWPID)] {
        assert_eq!(run("parent", &["call", &call(libc::SYS_unshare, &[flag.into()])]), KILLED, "unshare of {name}");
    }
}

/// clone3 has its flags in memory, where a filter can't look, so the kernel itself must refuse. (In a chroot it does so anyway.)
#[test]
fn who_makes_processes_makes_no_user_namespace() {
    assert_eq!(run("vmm", &["user-namespace"]), Ended::Errno(libc::EPERM));
}

/// They belong to the open file, and so to each who holds it: an eventfd that can be made to wait stops who reads it.
#[test]
fn no_role_makes_another_wait_by_the_flags_of_what_they_share() {
    let setfl = call(libc::SYS_fcntl, &[99, libc::F_SETFL.into(), 0]);
    let fionbio = call(libc::SYS_ioctl, &[99, libc::FIONBIO as i64, 0]);
    for role in ALL {
        let sets = ["parent", "opener"].contains(&role);
        assert_eq!(run(role, &["call", &setfl]), if sets { Ended::Errno(libc::EBADF) } else { KILLED }, "{role}");
        let netlink = ["parent", "priv"].contains(&role);
        assert_eq!(run(role, &["call", &fionbio]), if netlink { Ended::Errno(libc::EBADF) } else { KILLED }, "{role}");
    }
}

/// Who writes no file of a disk can't make one longer, and lives on with the error.
#[test]
fn a_write_that_would_make_a_file_longer_is_an_error() {
    let write = call(libc::SYS_write, &[1, 0, 1]); // no memory is there: beyond the limit it isn't looked at
    for role in ALL {
        let file = tempfile::tempfile().expect("a file");
        let errno = if ["parent", "vmm", "vioblk"].contains(&role) { libc::EFAULT } else { libc::EFBIG };
        assert_eq!(run_onto(role, &["call", &write], file.into()), Ended::Errno(errno), "{role}");
    }
}

#[test]
fn vmm_executes_vmd_and_nothing_else() {
    // The fixture in vmd's place: by its descriptor, into a role of vmm's.
    assert_eq!(run("vmm", &["start", "vm", "live"]), Ended::Errno(0));
    let path = call(libc::SYS_execveat, &[-100, 0, 0, 0, 0]);
    assert_eq!(run("vmm", &["call", &path]), KILLED);
}

#[test]
fn a_vm_that_runs_makes_no_second_one() {
    for (name, step) in [
        ("KVM_CREATE_VM", call(libc::SYS_ioctl, &[0, 0xAE01, 0])),
        ("KVM_CREATE_VCPU", call(libc::SYS_ioctl, &[0, 0xAE41, 0])),
        ("KVM_SET_MSRS", call(libc::SYS_ioctl, &[0, 0x4008_AE89, 0])),
        ("KVM_SET_IRQCHIP", call(libc::SYS_ioctl, &[0, 0x8208_AE63, 0])),
        ("seccomp", call(libc::SYS_seccomp, &[1, 0, 0])),
    ] {
        assert_ne!(run("vm", &["call", &step]), KILLED, "{name} before");
        assert_eq!(run("vm", &["narrow", "call", &step]), KILLED, "{name} after");
    }
    assert_eq!(run("vm", &["narrow", "live", "thread"]), Ended::Errno(0));
    let run_vcpu = call(libc::SYS_ioctl, &[0, 0xAE80, 0]);
    assert_eq!(run("vm", &["narrow", "call", &run_vcpu]), Ended::Errno(libc::ENOTTY));
}

/// KVM has calls that differ from one of ours by their direction or size alone.
#[test]
fn an_ioctl_is_known_by_all_its_32_bits() {
    let ioctl = |request: i64| call(libc::SYS_ioctl, &[0, request, 0]);
    for (name, request) in [
        ("KVM_IRQ_LINE_STATUS, as KVM_REGISTER_COALESCED_MMIO is 0x67", 0xC008_AE67),
        ("KVM_SET_XSAVE, as KVM_SIGNAL_MSI is 0xA5", 0x5000_AEA5),
        ("KVM_ENABLE_CAP", 0x4068_AEA3),
        ("KVM_RUN with a size", 0x4008_AE80),
        ("FIONBIO of another type", 0x0004_5421),
    ] {
        for role in ["vmm", "vm"] {
            assert_eq!(run(role, &["call", &ioctl(request)]), KILLED, "{role}: {name}");
        }
        assert_eq!(run("vm", &["narrow", "call", &ioctl(request)]), KILLED, "{name}");
    }
}

#[test]
fn threads_from_before_are_narrowed_too() {
    let create_vm = call(libc::SYS_ioctl, &[0, 0xAE01, 0]);
    assert_eq!(run("vm", &["narrowed-thread", &create_vm]), KILLED);
    let eventfd = call(libc::SYS_eventfd2, &[0, 0]);
    assert_eq!(run("vm", &["narrowed-thread", &eventfd]), Ended::Errno(0));
}

#[test]
fn a_ring_stays_as_it_was_made() {
    // Where the host forbids rings, making one says so and nothing else happens.
    let forbidden =
        std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").is_ok_and(|value| value.trim() != "0");
    let served = if forbidden { Ended::Errno(libc::EPERM) } else { Ended::Errno(0) };
    assert_eq!(run("vioblk", &["ring"]), served);
    let register = call(libc::SYS_io_uring_register, &[99, 0, 0, 0]);
    let setup = call(libc::SYS_io_uring_setup, &[1, 0]);
    assert_eq!(run("vioblk", &["call", &register]), Ended::Errno(libc::EBADF));
    assert_eq!(run("vioblk", &["narrow", "call", &register]), KILLED);
    assert_eq!(run("vioblk", &["narrow", "call", &setup]), KILLED);
    let enter = call(libc::SYS_io_uring_enter, &[99, 0, 0, 0, 0, 0]);
    assert_eq!(run("vioblk", &["narrow", "call", &enter]), Ended::Errno(libc::EBADF));
}

#[test]
fn a_role_of_vmm_refuses_to_be_started_by_root() {
    // "unconfined" starts it as root, with the host's files in sight: 200 is the fixture's "not entered".
    for role in ["vm", "vioblk", "vionet", "vioballoon", "vioscsi"] {
        assert_eq!(run("unconfined", &["start", role, "live"]), Ended::Errno(200), "{role}");
    }
}
