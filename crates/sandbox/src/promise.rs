//! The promise of every role, on one page: each right with its reason.
//!
//! A seccomp filter, a Landlock domain, limits and `no_new_privs` survive exec, so a role that starts others
//! allows the union of its own promise and theirs (`starts`, computed in `filter.rs`), and each child
//! then narrows itself. `then` is what is left of a promise after its start: see `sandbox::narrow`.

use crate::calls::{
    ACCEPT, CHANNEL, CONNECT, CONSOLE, DISK, DISK_SIZE, EVENTS, FILES, GUEST_MEMORY, Group, IPV6_SETTINGS, KEEPS, KILL,
    KVM_CREATE, KVM_RUN, LISTEN, LOCK, MEDIUM, MEMORY, NAMES, NETLINK, NETLINK_SOCKET, OPEN, PREAD, PRIORITY, PUNCH,
    RESOLVE, SETIDS, SIGNALS, SPAWN, STATUS_FLAGS, STDIO, TAP_ATTACH, TAP_OFFLOAD, THREADS, TIED, URING, URING_SETUP,
    VM_USERS, WIRES,
};
pub use rustix::thread::CapabilitySet as Capabilities;
/// Which namespaces a role makes for itself.
pub use sys::privileges::Unshare as Namespaces;

/// What a role is allowed; everything that is not named here is given up by `sandbox::enter`.
#[derive(Debug)]
pub struct Promise {
    /// The role as `-x ROLE`, ps and the logs have it.
    pub name: &'static str,
    /// Whose ids the process runs with.
    pub user: User,
    /// Capabilities kept: permitted, effective and, for a role that executes others as root, bounding.
    pub keeps: Capabilities,
    /// Kept in a user namespace beside the host's, where the role is given one: they reach what belongs to that alone.
    pub keeps_inside: Capabilities,
    /// What `/` is.
    pub root: Root,
    /// Namespaces made by the process itself, before it drops root.
    pub own: Namespaces,
    /// System calls, by named groups.
    pub calls: &'static [Group],
    /// The roles it executes: a filter is inherited, so theirs are added to ours.
    pub starts: &'static [&'static Promise],
    /// What is left once the start is done; for `sandbox::narrow`.
    pub then: Option<&'static Promise>,
    /// The Landlock rules: what may be reached by a name. `None`: no domain at all.
    pub files: Option<&'static [(File, Access)]>,
    /// Resource limits, soft and hard.
    pub limits: Limits,
}

/// Whose ids a role has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// uid 0, gid 0.
    Root,
    /// The daemon's own user.
    Vmd,
    /// The VM's own user (sys::vm_users), set by vmm when it starts the process; the daemon's user where VMs have none.
    Vm,
    /// The user who asks, by `sandbox::become_asker`; root for what root's vm.conf names.
    Asker,
}

/// What `/` is to a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// The host's.
    Host,
    /// An empty read-only tmpfs of its own.
    Empty,
    /// Its starter's, which is empty.
    Inherited,
}

/// Something with a name that Landlock lets a role reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// The executable that runs, by its inode.
    OwnExecutable,
    /// Everything below `/`, as far as the mode bits allow.
    Everything,
    /// The host's IPv6 settings, below the directory that is held open (sys::ipv6), if it is.
    Ipv6Settings,
}

/// How a named file may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Execute it, for which it is read.
    Execute,
    /// Open it for reading, writing, or both; never create, remove or execute.
    ReadWrite,
}

/// Resource limits of a role; core dumps are always off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// RLIMIT_NOFILE: descriptors.
    pub descriptors: u64,
    /// RLIMIT_FSIZE is 0: it can't make any regular file longer, memory objects included.
    pub grows_files: bool,
}

const HOST_NAMESPACES: Namespaces = Namespaces { mount: false, net: false, ipc: false };
const OWN_NAMESPACES: Namespaces = Namespaces { mount: true, net: true, ipc: true };
const NO_CAPABILITIES: Capabilities = Capabilities::empty();

/// What most roles begin from: the daemon's user, no capability, no name of a file, nobody to start, its starter's empty root.
const SEALED: Promise = Promise {
    name: "",
    calls: &[],
    user: User::Vmd,
    keeps: NO_CAPABILITIES,
    keeps_inside: NO_CAPABILITIES,
    root: Root::Inherited,
    own: HOST_NAMESPACES,
    starts: &[],
    then: None,
    files: Some(&[]),
    limits: Limits { descriptors: 256, grows_files: false },
};

/// The parent: decides, keeps the registry, starts the others and starts them again.
pub const PARENT: Promise = Promise {
    name: "parent",
    user: User::Root,
    // Those that it or a child's entry uses: a bounding set is inherited too.
    keeps: Capabilities::CHOWN // the console, the socket and the cgroups go to their owners
        .union(Capabilities::DAC_OVERRIDE) // the opener, for what root's vm.conf names; the state directory
        .union(Capabilities::FOWNER) // the mode of a console that is its owner's by then
        .union(Capabilities::KILL) // a child that hangs
        .union(Capabilities::NET_ADMIN) // priv
        .union(Capabilities::SETGID) // children become _vmd or the asker
        .union(Capabilities::SETPCAP) // children drop their bounding set
        .union(Capabilities::SETUID)
        .union(Capabilities::SYS_ADMIN) // children's namespaces and empty root
        .union(Capabilities::SYS_CHROOT) // an empty root where pivot_root can't be had
        .union(Capabilities::SYS_RESOURCE), // descriptors beyond the hard limit that vmd was started with
    root: Root::Host,
    calls: &[
        STDIO,        // time, random, exit, log
        MEMORY,       // the heap
        EVENTS,       // its loop
        CHANNEL,      // messages with its children, descriptors passed
        LISTEN,       // makes the control socket, also anew; asks a connection who its peer is
        NAMES,        // whether the control socket's name is removed from under it
        FILES,        // vm.conf, the state directory, cgroups, ptys, /dev/kvm and /dev/net/tun
        CONSOLE,      // the console's pty: raw mode, its slave, its window
        SIGNALS,      // its end, and vm.conf anew
        SPAWN,        // its children, in their cgroups
        KILL,         // all in a VM's cgroup, on a kernel that can't do it at once
        STATUS_FLAGS, // a console that never holds its vm
        CONNECT,      // the SNMP master's socket, for agentx
        GUEST_MEMORY, // made for each start
        PRIORITY,     // which users of VMs are free
        RESOLVE,      // getent(1) for users and groups of vm.conf, a dynamic program
    ],
    starts: &[&OPENER, &PROBE, &CONTROL, &PRIV, &AGENTX, &VMM],
    files: None, // inherited by all, and its children need much
    limits: Limits { descriptors: 65536, grows_files: true },
    ..SEALED
};

/// The opener: opens and locks the files that one request names, as the user who asks. One request, then it exits.
/// It comes up as root, sealed, reads the request, and `become_asker` leaves `OPENER_ASKED`.
pub const OPENER: Promise = Promise {
    keeps: Capabilities::SETUID
        .union(Capabilities::SETGID) // to become the asker
        .union(Capabilities::DAC_OVERRIDE), // for what root's vm.conf names
    calls: &[
        STDIO,        //
        MEMORY,       //
        CHANNEL,      // the request in, the descriptors out
        OPEN,         // the files, never to create one
        STATUS_FLAGS, // opened without waiting, and then read with
        LOCK,         // OFD locks on disks, and who holds them
        SETIDS,       // to become the asker
    ],
    then: Some(&OPENER_ASKED),
    ..OPENER_ASKED
};

/// The opener with the asker's ids: the change of ids is over. For root's vm.conf DAC_OVERRIDE is left.
pub const OPENER_ASKED: Promise = Promise {
    name: "opener",
    user: User::Asker,
    keeps: Capabilities::DAC_OVERRIDE,
    root: Root::Host,
    calls: &[STDIO, MEMORY, CHANNEL, OPEN, STATUS_FLAGS, LOCK],
    files: Some(&[(File::Everything, Access::ReadWrite)]),
    ..SEALED
};

/// The probe: reads the headers of one file that it was handed. It can't write, open or name anything.
pub const PROBE: Promise = Promise {
    name: "probe",
    root: Root::Empty,
    own: OWN_NAMESPACES,
    calls: &[
        STDIO,   //
        MEMORY,  //
        CHANNEL, // the descriptor in, the answer out
        PREAD,   // the headers
    ],
    limits: Limits { descriptors: 32, grows_files: false },
    ..SEALED
};

/// control: speaks to clients and hands their requests on. It has no path and can't connect to anything.
pub const CONTROL: Promise = Promise {
    name: "control",
    root: Root::Empty,
    own: OWN_NAMESPACES,
    calls: &[
        STDIO,   //
        MEMORY,  //
        EVENTS,  // its loop
        SIGNALS, //
        CHANNEL, // clients and the parent
        ACCEPT,  // clients, from the socket that the parent made; users have so many places each
    ],
    limits: Limits { descriptors: 4096, grows_files: false },
    ..SEALED
};

/// priv: makes and removes taps, bridges and addresses that the parent names. It has no path but those of IPv6 settings.
pub const PRIV: Promise = Promise {
    name: "priv",
    user: User::Root, // a capability of the host's user namespace; no file is left that uid 0 could open
    keeps: Capabilities::NET_ADMIN,
    root: Root::Empty,
    own: Namespaces { mount: true, net: false, ipc: true }, // the host's network is its work
    calls: &[
        STDIO,          //
        MEMORY,         //
        EVENTS,         // its loop
        SIGNALS,        //
        CHANNEL,        // the parent's requests, /dev/net/tun in, taps out
        NETLINK_SOCKET, // routes and links, nftables
        NETLINK,        //
        TAP_ATTACH,     // TUNSETIFF on the descriptor that came with the request
        IPV6_SETTINGS,  // forwarding has no netlink message; by the open directory alone
    ],
    files: Some(&[(File::Ipv6Settings, Access::ReadWrite)]),
    limits: Limits { descriptors: 1024, grows_files: false },
    ..SEALED
};

/// agentx: reports the VMs to an SNMP master, on a connection that it was handed. It has no path and can't connect to anything.
pub const AGENTX: Promise = Promise {
    name: "agentx",
    root: Root::Empty,
    own: OWN_NAMESPACES, // a connection of the Unix domain lives on outside of the network that it was made in
    calls: &[
        STDIO,   //
        MEMORY,  //
        EVENTS,  // its loop
        SIGNALS, //
        CHANNEL, // the parent, and the master
    ],
    limits: Limits { descriptors: 32, grows_files: false },
    ..SEALED
};

/// The vmm process: starts, watches and ends VMs. Disks, kernels and taps come to it open.
pub const VMM: Promise = Promise {
    name: "vmm",
    keeps_inside: Capabilities::SETUID
        .union(Capabilities::SETGID) // each VM has a user and group of its own
        .union(Capabilities::KILL), // which it ends, also by its own end
    root: Root::Empty,
    own: OWN_NAMESPACES,
    calls: &[
        STDIO,    //
        MEMORY,   //
        EVENTS,   // its loop, pidfds of its VMs
        CHANNEL,  // the parent, VMs and devices
        SIGNALS,  //
        SPAWN,    // executes the one descriptor that it holds of vmd
        TIED,     // VMs end with it
        VM_USERS, // each VM has its own
        KEEPS,    // what a device's next process goes on from
    ],
    starts: &[&VM, &VIOBLK, &VIONET, &VIOBALLOON, &VIOSCSI],
    files: Some(&[(File::OwnExecutable, Access::Execute)]), // nothing else has a name
    limits: Limits { descriptors: 65536, grows_files: true }, // inherited: an image of a vioblk grows
    ..SEALED
};

/// A vm: runs one guest. Until the VM is made it may make one.
pub const VM: Promise = Promise {
    calls: &[
        KVM_RUN,    // first, since a filter is read from the top
        KVM_CREATE, // /dev/kvm: the VM, its vCPUs, its memory slots
        STDIO,      //
        MEMORY,     //
        EVENTS,     // its loop
        WIRES,      // ioeventfds, irqfds, timers
        CHANNEL,    // vmm, and the devices by vhost-user
        THREADS,    // vCPUs
    ],
    then: Some(&VM_RUNNING),
    ..VM_RUNNING
};

/// A vm once its VM is made: no second one, no file to read.
pub const VM_RUNNING: Promise = Promise {
    name: "vm",
    user: User::Vm,
    calls: &[KVM_RUN, STDIO, MEMORY, EVENTS, WIRES, CHANNEL, THREADS],
    limits: Limits { descriptors: 4096, grows_files: false },
    ..SEALED
};

/// vioblk: serves the queues of one disk, on the descriptors that it was handed.
pub const VIOBLK: Promise = Promise {
    calls: &[
        STDIO,       //
        MEMORY,      // guest memory is mapped
        CHANNEL,     // vhost-user; kicks and calls are read and written
        DISK,        // reads, writes, holes, zeros, flush
        DISK_SIZE,   // a block device's blocks
        URING,       // the same without a call each
        URING_SETUP, // a ring starts disabled, is restricted, then enabled
        PREAD,       // headers and tables of qcow2 images
    ],
    then: Some(&VIOBLK_RUNNING),
    ..VIOBLK_RUNNING
};

/// vioblk once its ring is restricted and enabled: no other ring, and this one stays as it is.
pub const VIOBLK_RUNNING: Promise = Promise {
    name: "vioblk",
    user: User::Vm,
    calls: &[STDIO, MEMORY, CHANNEL, DISK, DISK_SIZE, URING],
    limits: Limits { descriptors: 256, grows_files: true }, // an image that grows
    ..SEALED
};

/// vionet: serves the queues of one network card, on the tap that it was handed.
pub const VIONET: Promise = Promise {
    name: "vionet",
    user: User::Vm,
    calls: &[
        STDIO,       // the tap is read and written
        MEMORY,      // guest memory is mapped
        CHANNEL,     // vhost-user; kicks and calls are read and written
        TAP_OFFLOAD, // what the guest's driver negotiated
    ],
    ..SEALED
};

/// vioballoon: gives the host back what its guest does not use, as holes in guest memory.
pub const VIOBALLOON: Promise = Promise {
    name: "vioballoon",
    user: User::Vm,
    calls: &[
        STDIO,   //
        MEMORY,  // guest memory is mapped
        CHANNEL, // vhost-user; kicks and calls are read and written
        PUNCH,   // the holes, which is all that it is for
    ],
    ..SEALED
};

/// vioscsi: serves the queues of a SCSI host with a CD-ROM drive, from the image that it was handed. It can't write to it.
pub const VIOSCSI: Promise = Promise {
    calls: &[
        STDIO,       //
        MEMORY,      // guest memory is mapped
        CHANNEL,     // vhost-user; kicks and calls are read and written
        MEDIUM,      // reads
        URING,       // the same without a call each
        URING_SETUP, // a ring starts disabled, is restricted, then enabled
    ],
    then: Some(&VIOSCSI_RUNNING),
    ..VIOSCSI_RUNNING
};

/// vioscsi once its ring is restricted and enabled: no other ring, and this one stays as it is.
pub const VIOSCSI_RUNNING: Promise =
    Promise { name: "vioscsi", user: User::Vm, calls: &[STDIO, MEMORY, CHANNEL, MEDIUM, URING], ..SEALED };

/// Every role, in the order of the docs.
pub const ROLES: [&Promise; 12] =
    [&PARENT, &OPENER, &PROBE, &CONTROL, &PRIV, &AGENTX, &VMM, &VM, &VIOBLK, &VIONET, &VIOBALLOON, &VIOSCSI];
