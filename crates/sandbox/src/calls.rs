//! Named groups of system calls, and what their arguments may be. x86-64 numbers, by libc's names.
//!
//! A call that is in no group of a role kills it. One that is `refused` is answered with ENOSYS instead: libc
//! tries it and has another way. Flags and commands are C ints, so 32 bits are compared, as the kernel does.

use libc::{
    AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, CLONE_CHILD_CLEARTID, CLONE_FILES, CLONE_FS, CLONE_PARENT_SETTID,
    CLONE_SETTLS, CLONE_SIGHAND, CLONE_SYSVSEM, CLONE_THREAD, CLONE_VM, F_ADD_SEALS, F_DUPFD_CLOEXEC, F_GETFD, F_GETFL,
    F_OFD_GETLK, F_OFD_SETLK, F_SETFD, F_SETFL, O_CREAT, PROT_EXEC, SOL_SOCKET,
};

/// One system call, its allowed arguments, and how it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// Its number.
    pub number: i64,
    /// Whether it is refused with ENOSYS instead of allowed.
    pub refused: bool,
    /// What must all hold for it to be allowed.
    pub when: [Option<Argument>; 3],
    /// Its name and why it may not be made while guests are tested, if it may not.
    pub rare: Option<&'static str>,
}

impl Call {
    /// Whether it allows what the other does.
    pub fn is_same(&self, other: &Call) -> bool {
        (self.number, self.refused, self.when) == (other.number, other.refused, other.when)
    }

    const fn rare(self, reason: &'static str) -> Self {
        Self { rare: Some(reason), ..self }
    }
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Argument {
    /// The low 32 bits of argument `index`, masked, equal `value`.
    Bits {
        /// 0 to 5.
        index: u8,
        /// Which bits are compared.
        mask: u32,
        /// What they are.
        value: u32,
    },
    /// A pointer that is null.
    Null {
        /// 0 to 5.
        index: u8,
    },
    /// The caller's own process id. A starter can't know its child's, so there it means any.
    OwnPid {
        /// 0 to 5.
        index: u8,
    },
}

/// Calls that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// As the promises name it.
    pub name: &'static str,
    /// Its calls.
    pub calls: &'static [Call],
    /// Who makes them; each call stands for one that is made so, unless it says why it is rare.
    pub made: Made,
}

/// Who makes the calls of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Every role that has it.
    ByEach,
    /// Some role, and why the others have them too.
    BySome(&'static str),
    /// Perhaps nobody, and why.
    Perhaps(&'static str),
}

impl Group {
    const fn of(self, calls: &'static [Call]) -> Self {
        Self { calls, ..self }
    }

    const fn made(self, made: Made) -> Self {
        Self { made, ..self }
    }
}

const fn group(name: &'static str) -> Group {
    Group { name, calls: &[], made: Made::ByEach }
}

const fn any(number: i64) -> Call {
    Call { number, refused: false, when: [None; 3], rare: None }
}

const fn when(number: i64, argument: Argument) -> Call {
    Call { number, refused: false, when: [Some(argument), None, None], rare: None }
}

const fn when2(number: i64, one: Argument, two: Argument) -> Call {
    Call { number, refused: false, when: [Some(one), Some(two), None], rare: None }
}

const fn when3(number: i64, one: Argument, two: Argument, three: Argument) -> Call {
    Call { number, refused: false, when: [Some(one), Some(two), Some(three)], rare: None }
}

const fn refused(number: i64) -> Call {
    Call { number, refused: true, when: [None; 3], rare: None }
}

const fn is(index: u8, value: i32) -> Argument {
    Argument::Bits { index, mask: u32::MAX, value: value as u32 }
}

/// The range's first four bits are no other's.
const fn of_a_vm(index: u8) -> Argument {
    Argument::Bits { index, mask: 0xF000_0000, value: sys::vm_users::FIRST }
}

const fn lacks(index: u8, bits: i32) -> Argument {
    Argument::Bits { index, mask: bits as u32, value: 0 }
}

const fn has(index: u8, bits: i32) -> Argument {
    Argument::Bits { index, mask: bits as u32, value: bits as u32 }
}

const fn fcntl(command: i32) -> Call {
    when(libc::SYS_fcntl, is(1, command))
}

const fn prctl(operation: i32) -> Call {
    when(libc::SYS_prctl, is(0, operation))
}

const fn ioctl(request: u32) -> Call {
    when(libc::SYS_ioctl, Argument::Bits { index: 1, mask: u32::MAX, value: request })
}

/// What libc and the standard library do in any process that lives, speaks and ends.
pub const STDIO: Group = group("stdio")
    .made(Made::BySome(
        "every process has the same libc and standard library, which act on itself and on what it holds open",
    ))
    .of(&[
        any(libc::SYS_read),
        any(libc::SYS_write),
        any(libc::SYS_writev),
        any(libc::SYS_close),
        any(libc::SYS_fstat),
        when(libc::SYS_newfstatat, has(3, libc::AT_EMPTY_PATH)), // glibc's fstat
        when(libc::SYS_statx, has(2, libc::AT_EMPTY_PATH)),      // the standard library's
        any(libc::SYS_lseek),
        any(libc::SYS_poll),
        any(libc::SYS_ppoll),
        fcntl(F_GETFD).rare("fcntl of F_GETFD: the standard library of a debug build checks descriptors by it"),
        fcntl(F_SETFD),
        fcntl(F_GETFL),
        fcntl(F_DUPFD_CLOEXEC),
        any(libc::SYS_getrandom),
        any(libc::SYS_clock_gettime), // vdso, except where the clock source forbids it
        any(libc::SYS_restart_syscall)
            .rare("restart_syscall: the kernel goes on with a poll or a futex by it, after a stop"),
        any(libc::SYS_futex),
        any(libc::SYS_getpid),
        any(libc::SYS_gettid),
        any(libc::SYS_getuid),
        any(libc::SYS_geteuid),
        any(libc::SYS_rt_sigaction),
        any(libc::SYS_rt_sigprocmask),
        any(libc::SYS_rt_sigreturn),
        any(libc::SYS_sigaltstack),
        when(libc::SYS_tgkill, Argument::OwnPid { index: 0 }), // abort, and waking a vCPU
        when(libc::SYS_prlimit64, Argument::Null { index: 2 }), // reads the stack's size
        prctl(libc::PR_SET_NAME),
        any(libc::SYS_exit),
        any(libc::SYS_exit_group),
    ]);

/// The heap and mappings; never executable ones.
pub const MEMORY: Group =
    group("memory").made(Made::BySome("which of them the heap needs depends on what was asked of it before")).of(&[
        any(libc::SYS_brk),
        when(libc::SYS_mmap, lacks(2, PROT_EXEC)),
        when(libc::SYS_mprotect, lacks(2, PROT_EXEC)),
        any(libc::SYS_munmap),
        any(libc::SYS_mremap).rare("mremap: the heap makes a large block longer by it"),
        any(libc::SYS_madvise),
    ]);

/// pthread_create's flags: a thread of this process, and nothing that is a new one.
const THREAD_FLAGS: i32 = CLONE_VM
    | CLONE_FS
    | CLONE_FILES
    | CLONE_SIGHAND
    | CLONE_THREAD
    | CLONE_SYSVSEM
    | CLONE_SETTLS
    | CLONE_PARENT_SETTID
    | CLONE_CHILD_CLEARTID;

/// Threads, and no processes.
pub const THREADS: Group = group("threads").of(&[
    when(libc::SYS_clone, is(0, THREAD_FLAGS)),
    refused(libc::SYS_clone3), // its flags lie in memory, where a filter can't look: glibc then uses clone
    any(libc::SYS_set_robust_list),
    any(libc::SYS_rseq),
    any(libc::SYS_sched_getaffinity),
    any(libc::SYS_sched_yield)
        .rare("sched_yield: the standard library's channel, while another thread is about to fill it"),
]);

/// The event loop.
pub const EVENTS: Group =
    group("events").of(&[any(libc::SYS_epoll_create1), any(libc::SYS_epoll_ctl), any(libc::SYS_epoll_pwait)]);

/// Signals as an event.
pub const SIGNALS: Group = group("signals").of(&[any(libc::SYS_signalfd4)]);

/// Kicks and calls of a VM's devices, and the alarms of its chips.
pub const WIRES: Group = group("wires").of(&[
    any(libc::SYS_eventfd2),
    any(libc::SYS_timerfd_create),
    any(libc::SYS_timerfd_settime).rare("timerfd_settime: a guest that sets an alarm of its clock or its PM timer"),
]);

/// Whether an open file makes its users wait. Each who shares it is meant, so nobody has this who serves guest or client.
pub const STATUS_FLAGS: Group = group("status_flags").of(&[fcntl(F_SETFL)]);

/// Messages and descriptors over sockets that are there. It makes, binds and connects none.
pub const CHANNEL: Group =
    group("channel").made(Made::BySome("they reach no further than the sockets that a process was given")).of(&[
        any(libc::SYS_sendmsg),
        any(libc::SYS_recvmsg),
        any(libc::SYS_sendto),
        any(libc::SYS_recvfrom),
        any(libc::SYS_shutdown),
    ]);

/// Connecting to a socket of the Unix domain that has a name.
pub const CONNECT: Group = group("connect").of(&[when(libc::SYS_socket, is(0, AF_UNIX)), any(libc::SYS_connect)]);

/// New connections of a listening socket, and whose they are.
pub const ACCEPT: Group = group("accept")
    .of(&[any(libc::SYS_accept4), when2(libc::SYS_getsockopt, is(1, SOL_SOCKET), is(2, libc::SO_PEERCRED))]);

/// A listening socket of the Unix domain, and who a peer is.
pub const LISTEN: Group = group("listen").of(&[
    when(libc::SYS_socket, is(0, AF_UNIX)),
    any(libc::SYS_bind),
    any(libc::SYS_listen),
    when2(libc::SYS_getsockopt, is(1, SOL_SOCKET), is(2, libc::SO_PEERCRED)),
    when2(libc::SYS_getsockopt, is(1, SOL_SOCKET), is(2, libc::SO_PEERGROUPS)),
]);

/// A directory whose names are watched.
pub const NAMES: Group = group("names").of(&[any(libc::SYS_inotify_init1), any(libc::SYS_inotify_add_watch)]);

/// Other processes: made from a descriptor of their executable, watched by pidfd, ended, reaped.
pub const SPAWN: Group = group("spawn").of(&[
    when(libc::SYS_clone, is(0, libc::CLONE_PIDFD | libc::SIGCHLD))
        .rare("clone: where the host, or the filter of a container, refuses clone3"),
    // Into a cgroup, whose pids.max then holds. Its flags lie in memory, where a filter can't look: that no user namespace
    // comes of it is seen to by the root of who has it (root.rs), and without one there is no other that it may make.
    any(libc::SYS_clone3),
    when(libc::SYS_execveat, has(4, libc::AT_EMPTY_PATH)),
    any(libc::SYS_waitid),
    any(libc::SYS_pidfd_send_signal),
    when(libc::SYS_socketpair, is(0, AF_UNIX)),
    any(libc::SYS_pipe2), // the child's report
    any(libc::SYS_setsid),
    any(libc::SYS_dup2),
    any(libc::SYS_close_range),
]);

/// A user and group of its own for each VM, from the range that no account has (sys::vm_users), and no groups beside.
pub const VM_USERS: Group = group("vm_users").of(&[
    when(libc::SYS_setgroups, is(0, 0)),
    when3(libc::SYS_setresgid, of_a_vm(0), of_a_vm(1), of_a_vm(2)),
    when3(libc::SYS_setresuid, of_a_vm(0), of_a_vm(1), of_a_vm(2)),
]);

/// Whether a user of VMs has a process left.
pub const PRIORITY: Group = group("priority").of(&[when(libc::SYS_getpriority, is(0, libc::PRIO_USER as i32))]);

/// A child that ends with its starter.
pub const TIED: Group = group("tied").of(&[prctl(libc::PR_SET_PDEATHSIG), any(libc::SYS_getppid)]);

/// The processes of a cgroup, one by one.
pub const KILL: Group = group("kill").of(&[any(libc::SYS_kill).rare("kill: before Linux 5.14, which has cgroup.kill")]);

/// Opening files that exist.
pub const OPEN: Group = group("open").of(&[
    when(libc::SYS_open, lacks(1, O_CREAT)),
    when(libc::SYS_openat, lacks(2, O_CREAT)).rare("openat: /etc/passwd, to name a user who may not open a file"),
]);

/// The settings of IPv6, by the open directory they lie in: its root is empty, so nothing else has a name.
pub const IPV6_SETTINGS: Group =
    group("ipv6_settings").of(&[when2(libc::SYS_openat, is(0, sys::ipv6::NUMBER), lacks(2, O_CREAT))]);

/// Locks of an open file description that never wait, and who stands in their way.
pub const LOCK: Group = group("lock").of(&[
    fcntl(F_OFD_SETLK),
    fcntl(F_OFD_GETLK).rare("fcntl of F_OFD_GETLK: only where another holds the lock"),
    any(libc::SYS_clock_nanosleep).rare("clock_nanosleep: while the last holder of a lock is about to end"),
]);

/// Files by name and by descriptor: read, write, create, replace, remove, give away.
pub const FILES: Group = group("files").of(&[
    any(libc::SYS_open),
    any(libc::SYS_openat),
    any(libc::SYS_newfstatat),
    any(libc::SYS_statx),
    any(libc::SYS_statfs),
    any(libc::SYS_fstatfs),
    any(libc::SYS_access),
    any(libc::SYS_readlink),
    any(libc::SYS_getdents64),
    any(libc::SYS_umask),
    any(libc::SYS_mkdir),
    any(libc::SYS_rmdir),
    any(libc::SYS_unlink),
    any(libc::SYS_unlinkat),
    any(libc::SYS_rename),
    any(libc::SYS_fchmod),
    any(libc::SYS_fchmodat),
    any(libc::SYS_chown),
    any(libc::SYS_fchown),
    any(libc::SYS_pread64),
    any(libc::SYS_ftruncate),
    any(libc::SYS_fsync),
    fcntl(F_OFD_SETLK),
]);

/// A pty: its slave, its modes, its window.
pub const CONSOLE: Group = group("console").of(&[
    ioctl(libc::TIOCGPTPEER as u32),
    ioctl(libc::TIOCGPTN as u32),
    ioctl(libc::TIOCSPTLCK as u32),
    ioctl(TCGETS2),
    ioctl(TCSETS2),
]);

/// asm-generic/ioctls.h: `_IOR('T', 0x2A, struct termios2)`; what rustix and newer libcs use.
const TCGETS2: u32 = 0x802C_542A;
/// `_IOW('T', 0x2B, struct termios2)`.
const TCSETS2: u32 = 0x402C_542B;

/// What getent(1) does beside the above: a dynamic program, and name services that ask a socket.
pub const RESOLVE: Group =
    group("resolve").made(Made::Perhaps("the host chooses its name services, and getent(1) asks those")).of(&[
        any(libc::SYS_mmap), // shared libraries are mapped executable
        any(libc::SYS_mprotect),
        any(libc::SYS_arch_prctl),
        any(libc::SYS_set_tid_address),
        any(libc::SYS_prlimit64),
        any(libc::SYS_set_robust_list),
        any(libc::SYS_rseq),
        any(libc::SYS_getgid),
        any(libc::SYS_getegid),
        any(libc::SYS_stat),
        any(libc::SYS_lstat),
        any(libc::SYS_fstatfs),
        any(libc::SYS_faccessat2),
        any(libc::SYS_readlinkat),
        any(libc::SYS_flock),
        any(libc::SYS_dup),
        any(libc::SYS_gettimeofday),
        any(libc::SYS_time),
        any(libc::SYS_nanosleep),
        any(libc::SYS_clock_nanosleep),
        any(libc::SYS_uname),
        any(libc::SYS_sysinfo),
        any(libc::SYS_getgroups),
        any(libc::SYS_pipe),
        when(libc::SYS_socket, is(0, AF_UNIX)),
        when(libc::SYS_socket, is(0, AF_INET)),
        when(libc::SYS_socket, is(0, AF_INET6)),
        when(libc::SYS_socket, is(0, AF_NETLINK)), // addresses of this host, before a query
        any(libc::SYS_connect),
        any(libc::SYS_bind),
        any(libc::SYS_getsockname),
        any(libc::SYS_getpeername),
        any(libc::SYS_getsockopt),
        any(libc::SYS_setsockopt),
        any(libc::SYS_sendmmsg),
        any(libc::SYS_recvmmsg),
        ioctl(libc::FIONREAD as u32),
        any(libc::SYS_membarrier),
        any(libc::SYS_sched_getaffinity),
    ]);

/// Ids and capabilities, to become someone else for good.
pub const SETIDS: Group =
    group("setids").made(Made::BySome("who has the ids and capabilities already changes nothing")).of(&[
        any(libc::SYS_setgroups),
        any(libc::SYS_setresgid),
        any(libc::SYS_setresuid),
        any(libc::SYS_capget),
        any(libc::SYS_capset),
        prctl(libc::PR_SET_DUMPABLE),
    ]);

/// Memory that outlives a device's process, for the next: an anonymous file of fixed size.
pub const KEEPS: Group =
    group("keeps").of(&[any(libc::SYS_memfd_create), fcntl(F_ADD_SEALS), any(libc::SYS_ftruncate)]);

/// Guest memory: the one file of a tmpfs that is mounted at no path, or an anonymous file.
pub const GUEST_MEMORY: Group = group("guest_memory").of(&[
    any(libc::SYS_fsopen),
    any(libc::SYS_fsconfig),
    any(libc::SYS_fsmount),
    any(libc::SYS_memfd_create).rare("memfd_create: where no tmpfs of huge pages can be made"),
    fcntl(F_ADD_SEALS).rare("fcntl of F_ADD_SEALS: after memfd_create"),
    any(libc::SYS_ftruncate),
]);

/// Reading at an offset.
pub const PREAD: Group = group("pread").of(&[any(libc::SYS_pread64)]);

/// Reads, writes, holes, zeros and flush of an open disk. A write alone makes a file longer.
pub const DISK: Group = group("disk").of(&[
    any(libc::SYS_preadv2).rare("preadv2: where the host has no io_uring"),
    any(libc::SYS_pwritev2).rare("pwritev2: where the host has no io_uring"),
    when(libc::SYS_fallocate, is(1, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE))
        .rare("fallocate of a hole: where the host has no io_uring"),
    when(libc::SYS_fallocate, is(1, libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE))
        .rare("fallocate of zeros: where the host has no io_uring"),
    any(libc::SYS_fdatasync),
]);

/// Reads of an open image: of one that was put in while its guest runs, since a ring is bound to the first.
pub const MEDIUM: Group = group("medium").of(&[any(libc::SYS_preadv2)]);

/// Holes in an open file, and nothing else that changes how much of it there is.
pub const PUNCH: Group =
    group("punch").of(&[when(libc::SYS_fallocate, is(1, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE))]);

/// A block device's blocks (linux/fs.h).
pub const DISK_SIZE: Group = group("disk_size").of(&[
    ioctl(0x1268), // BLKSSZGET: logical
    ioctl(0x127B), // BLKPBSZGET: physical
]);

/// Making a ring: until it is restricted and enabled.
pub const URING_SETUP: Group =
    group("uring_setup").of(&[any(libc::SYS_io_uring_setup), any(libc::SYS_io_uring_register)]);

/// Using a ring.
pub const URING: Group = group("uring").of(&[any(libc::SYS_io_uring_enter)]);

/// A netlink socket, of routes and links or of nftables.
pub const NETLINK_SOCKET: Group = group("netlink_socket").of(&[
    when2(libc::SYS_socket, is(0, AF_NETLINK), is(2, libc::NETLINK_ROUTE)),
    when2(libc::SYS_socket, is(0, AF_NETLINK), is(2, libc::NETLINK_NETFILTER)),
    ioctl(libc::FIONBIO as u32), // netlink-sys makes its sockets non-blocking so
]);

/// What a netlink socket needs besides messages.
pub const NETLINK: Group = group("netlink").of(&[
    any(libc::SYS_bind), // it can make no other socket
    any(libc::SYS_getsockname),
    when(libc::SYS_setsockopt, is(1, libc::SOL_NETLINK)),
]);

/// Making a tap (linux/if_tun.h).
pub const TAP_ATTACH: Group = group("tap_attach").of(&[
    ioctl(0x4004_54CA), // TUNSETIFF
    ioctl(0x4004_54D8), // TUNSETVNETHDRSZ
]);

/// What a guest's driver negotiates for a tap that is attached.
pub const TAP_OFFLOAD: Group = group("tap_offload").of(&[
    ioctl(0x4004_54D0), // TUNSETOFFLOAD
    ioctl(0x4004_54D8), // TUNSETVNETHDRSZ
]);

/// A VM that is made (linux/kvm.h): its vCPUs get their first state and run, its interrupts and events are wired.
pub const KVM_RUN: Group = group("kvm_run").of(&[
    ioctl(0xAE80),      // KVM_RUN
    ioctl(0x4008_AE61), // KVM_IRQ_LINE
    ioctl(0x4010_AE68), // KVM_UNREGISTER_COALESCED_MMIO
    ioctl(0x4020_AEA5).rare("ioctl of KVM_SIGNAL_MSI: a device that breaks, or whose configuration changes"),
    ioctl(0x4008_AE6A), // KVM_SET_GSI_ROUTING
    ioctl(0x4020_AE76), // KVM_IRQFD
    ioctl(0x4040_AE79), // KVM_IOEVENTFD
    ioctl(0xAEAD),      // KVM_KVMCLOCK_CTRL: a guest that was paused
    ioctl(0x8090_AE81).rare("ioctl of KVM_GET_REGS: the log of a guest that failed"),
    ioctl(0x4090_AE82), // KVM_SET_REGS
    ioctl(0x8138_AE83), // KVM_GET_SREGS
    ioctl(0x4138_AE84), // KVM_SET_SREGS
    ioctl(0x41A0_AE8D), // KVM_SET_FPU
    ioctl(0x8400_AE8E), // KVM_GET_LAPIC
    ioctl(0xAE9A),      // KVM_NMI: vmctl nmi
    ioctl(0x4400_AE8F), // KVM_SET_LAPIC
]);

/// Making a VM on /dev/kvm: its memory slots, its chips, its vCPUs and what they can do.
pub const KVM_CREATE: Group = group("kvm_create").of(&[
    ioctl(0xAE00),      // KVM_GET_API_VERSION
    ioctl(0xAE01),      // KVM_CREATE_VM
    ioctl(0xAE03),      // KVM_CHECK_EXTENSION
    ioctl(0xAE04),      // KVM_GET_VCPU_MMAP_SIZE
    ioctl(0xC008_AE05), // KVM_GET_SUPPORTED_CPUID
    ioctl(0xAE41),      // KVM_CREATE_VCPU
    ioctl(0x4020_AE46), // KVM_SET_USER_MEMORY_REGION
    ioctl(0xAE47),      // KVM_SET_TSS_ADDR
    ioctl(0x4008_AE48), // KVM_SET_IDENTITY_MAP_ADDR
    ioctl(0xAE60),      // KVM_CREATE_IRQCHIP
    ioctl(0xC208_AE62), // KVM_GET_IRQCHIP: to set which interrupts are levels
    ioctl(0x8208_AE63), // KVM_SET_IRQCHIP
    ioctl(0x4010_AE67), // KVM_REGISTER_COALESCED_MMIO
    ioctl(0x4040_AE77), // KVM_CREATE_PIT2
    ioctl(0x4008_AE89), // KVM_SET_MSRS
    ioctl(0x4008_AE90), // KVM_SET_CPUID2
]);

/// What every process does from exec to its own promise: libc's start and the standard library's.
pub const START: Group = group("start")
    .made(Made::BySome("every process starts alike; until it has its name its calls are counted as the parent's"))
    .of(&[
        any(libc::SYS_arch_prctl), // thread-local storage
        any(libc::SYS_set_tid_address),
        any(libc::SYS_set_robust_list),
        any(libc::SYS_rseq),
        any(libc::SYS_sched_getaffinity),
        refused(libc::SYS_readlink),   // /proc/self/exe, the origin of a library path
        refused(libc::SYS_readlinkat), // the same, as glibc 2.41 asks
        refused(libc::SYS_openat),     // /proc/self/maps, the stack's bounds
        any(libc::SYS_close_range),
        any(libc::SYS_umask),
    ]);

/// What `narrow` needs, and the last step of `enter`.
pub const SEAL: Group = group("seal").of(&[prctl(libc::PR_SET_NO_NEW_PRIVS), any(libc::SYS_seccomp)]);

/// What `enter` needs of every process, root or not.
pub const ENTER: Group =
    group("enter").made(Made::BySome("what its starter has given up already is not given up again")).of(&[
        any(libc::SYS_prlimit64),
        prctl(libc::PR_SET_DUMPABLE),
        prctl(libc::PR_SET_SECUREBITS),
        prctl(libc::PR_CAPBSET_READ),
        prctl(libc::PR_CAPBSET_DROP),
        prctl(libc::PR_CAP_AMBIENT),
        any(libc::SYS_capget),
        any(libc::SYS_capset),
        any(libc::SYS_landlock_create_ruleset),
        any(libc::SYS_landlock_add_rule),
        any(libc::SYS_landlock_restrict_self),
    ]);

/// What `enter` needs to make namespaces and an empty root.
pub const EMPTY_ROOT: Group =
    group("empty_root").made(Made::BySome("the opener, which keeps the host's root, enters as the others do")).of(&[
        when(libc::SYS_unshare, lacks(0, !(libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC))),
        any(libc::SYS_mount),
        any(libc::SYS_open_tree), // the settings of IPv6, before; the root once more
        any(libc::SYS_fsopen),
        any(libc::SYS_fsconfig),
        any(libc::SYS_fsmount),
        any(libc::SYS_move_mount),
        any(libc::SYS_fchdir),
        any(libc::SYS_chdir),
        any(libc::SYS_pivot_root),
        any(libc::SYS_umount2),
        any(libc::SYS_chroot).rare("chroot: where the root can't be pivoted"),
    ]);

/// What `enter` needs to get into the user namespace that the parent made.
pub const JOIN_USERS: Group = group("join_users").of(&[when(libc::SYS_setns, is(1, libc::CLONE_NEWUSER))]);

/// What `enter` opens while it still has the host's root: /etc/passwd, its own executable.
pub const LOOK_UP: Group = group("look_up")
    .made(Made::BySome("only who executes needs its own executable"))
    .of(&[any(libc::SYS_openat), any(libc::SYS_readlink)]);
