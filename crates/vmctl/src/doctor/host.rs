//! What was seen of the host, as data: `look` and `ask` fill it in, `judge` reads it.

use std::collections::BTreeMap;

use sys::netlink::nft::Listed;

/// What came of looking at one thing.
pub type Seen<T> = Result<T, Unseen>;

/// Why a thing was not seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// It is not there.
    Missing,
    /// The caller may not look.
    Denied,
    /// It can't be looked at: the system's words.
    Failed(String),
}

/// The host, as far as the caller sees it.
#[derive(Clone, Debug)]
pub struct Host {
    /// Who asks.
    pub caller: Caller,
    /// `uname -r`.
    pub release: String,
    /// `uname -m`.
    pub machine: String,
    /// /proc/cpuinfo.
    pub cpu: Seen<Cpu>,
    /// Names of the drivers in /proc/misc.
    pub drivers: Seen<Vec<String>>,
    /// The modules that were asked for, by name.
    pub modules: BTreeMap<&'static str, Module>,
    /// /dev/kvm.
    pub kvm: Seen<Node>,
    /// /dev/net/tun.
    pub tun: Seen<Node>,
    /// /dev/ptmx.
    pub ptmx: Seen<Node>,
    /// The version of Landlock's rules, or why there is none.
    pub landlock: Result<u32, String>,
    /// Filters of system calls, or why there are none.
    pub seccomp: Result<(), String>,
    /// A ring that the caller made, or why it got none.
    pub io_uring: Result<(), String>,
    /// Files of one value, by [`Value`].
    pub values: BTreeMap<Value, Seen<String>>,
    /// Where cgroups of version 2 are mounted.
    pub cgroups: Seen<Vec<Cgroups>>,
    /// The caller's own cgroup of version 2, as /proc/self/cgroup has it.
    pub own_cgroup: Seen<String>,
    /// Whether the caller may make names in /run.
    pub run: Seen<()>,
    /// The user and group ids of _vmd in /etc/passwd, if it is there.
    pub account: Seen<Option<(u32, u32)>>,
    /// Kinds of file systems that the kernel has.
    pub file_systems: Seen<Vec<String>>,
    /// Bytes of memory: all, and what can be had now.
    pub memory: Seen<(u64, u64)>,
    /// Soft and hard limit of descriptors of the caller.
    pub descriptors: (u64, u64),
    /// Images of firmware that are installed.
    pub firmware: Vec<&'static str>,
    /// Chains of nftables.
    pub chains: Seen<Vec<Listed>>,
    /// The daemon's own program.
    pub program: Seen<Program>,
    /// What is behind the control socket.
    pub socket: Socket,
    /// The pid in the daemon's pid file, and whether a daemon holds its lock.
    pub pid_file: Seen<(String, bool)>,
    /// What bears vmd's mark.
    pub marked: Marked,
    /// Whether /etc/vm.conf can be read.
    pub configuration: Seen<()>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The effective user.
    pub uid: u32,
    /// Its name in /etc/passwd, or the number.
    pub name: String,
    /// Names or numbers of its groups.
    pub groups: Vec<String>,
    /// The effective capabilities, as bits (linux/capability.h).
    pub capabilities: u64,
}

/// The processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// `GenuineIntel`, `AuthenticAMD` or another's word.
    pub vendor: String,
    /// `vmx` or `svm`.
    pub virtualization: Option<&'static str>,
    /// The host is itself a guest.
    pub is_guest: bool,
}

/// A mount of cgroups of version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    /// Where.
    pub place: String,
    /// For reading only.
    pub read_only: bool,
    /// Whether the caller may make cgroups in its own, as a vmd that it starts would.
    pub home: Seen<()>,
    /// Its controllers.
    pub controllers: Vec<String>,
}

/// How the kernel has a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// Loaded, or built in and at work.
    Present,
    /// Built in.
    BuiltIn,
    /// It would be loaded when it is needed.
    Loadable,
    /// Neither.
    Absent,
    /// The kernel's lists of modules are not there.
    Unknown,
}

/// A file of /dev.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits.
    pub mode: u32,
    /// Its owner and group, by name where they have one.
    pub owner: (String, String),
    /// Whether the caller can open it for reading and writing; not tried on what is another device.
    pub opens: Seen<()>,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A character device of this major and minor number.
    Character(u32, u32),
    /// Anything else, in a word.
    Other(&'static str),
}

/// Files of /proc and /sys with one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Who may make rings: 0 all, 1 some, 2 nobody.
    IoUringDisabled,
    /// Whether IPv4 is forwarded.
    ForwardIpv4,
    /// Whether IPv6 is forwarded.
    ForwardIpv6,
    /// Whether frames within a bridge meet the chains of forwarded packets; only where br_netfilter is loaded.
    BridgeFilter,
    /// Tables of iptables' older kind.
    LegacyTables,
    /// Most descriptors that a limit can be.
    MostDescriptors,
    /// Process ids.
    MostPids,
    /// Threads of the whole host.
    MostThreads,
    /// Huge pages for all.
    HugePages,
    /// What the kernel tells the time by.
    ClockSource,
    /// User namespaces that may be made.
    MostUserNamespaces,
    /// The users that the caller's own has (user_namespaces(7)).
    UserMap,
}

/// The daemon's program, and what it said when it was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Where.
    pub path: String,
    /// `vmd -x doctor`.
    pub probe: Ran,
    /// `vmd -n`.
    pub check: Ran,
}

/// How a program that was run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ran {
    /// It did not start: the system's words.
    NotStarted(String),
    /// It was ended after so many seconds.
    Late(u64),
    /// By itself.
    Ended {
        /// With exit status 0.
        success: bool,
        /// Its standard output.
        out: String,
        /// Its standard error.
        err: String,
    },
}

/// What is behind the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    /// There is none.
    Missing,
    /// Its name is that of something else, in a word.
    OtherFile(&'static str),
    /// The caller may not connect.
    Denied,
    /// Nobody listens.
    Stale,
    /// A vmd that speaks our version answers.
    Answers {
        /// Its release.
        release: String,
    },
    /// One that speaks another version does.
    Version {
        /// Its version.
        daemon: u32,
    },
    /// Somebody listens, and this came of talking to it.
    Odd(String),
}

/// What bears vmd's mark, a running daemon's things too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// Network interfaces.
    pub links: Seen<Vec<String>>,
    /// Those of them that are taps of local interfaces, which reach the outside by NAT.
    pub local: Vec<String>,
    /// Those of them that another program has for its own to set up.
    pub managed: Seen<Vec<(String, Manager)>>,
    /// Directories of cgroups.
    pub cgroups: Vec<String>,
    /// Processes: pid and title.
    pub processes: Vec<(u32, String)>,
    /// Files that are half written.
    pub files: Vec<String>,
}

/// A program that sets up interfaces, and tells in a file which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// systemd-networkd(8).
    Networkd,
    /// NetworkManager(8).
    NetworkManager,
}
