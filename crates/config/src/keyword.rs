//! The words of vm.conf: one table for the lexer, "did you mean" and completion.

macro_rules! keywords {
    ($($name:ident $text:literal,)*) => {
        /// A reserved word (openbsd/vm.conf.md, 2.7). Unquoted it can be no name and no value.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Keyword {
            $(#[doc = concat!("`", $text, "`")] $name,)*
        }

        impl Keyword {
            /// All reserved words.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The word as it is written.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The keyword that is written exactly so.
            pub(crate) fn of(word: &[u8]) -> Option<Self> {
                Self::ALL.iter().copied().find(|keyword| keyword.text().as_bytes() == word)
            }
        }
    };
}

keywords! {
    Add "add", AgentX "agentx", Allow "allow", Boot "boot", Cdrom "cdrom", Context "context", Cpus "cpus",
    Delay "delay", Device "device", Disable "disable", Disk "disk", Down "down", Enable "enable",
    Format "format", Group "group", Id "id", Include "include", Inet6 "inet6", Instance "instance",
    Interface "interface", Interfaces "interfaces", Lladdr "lladdr", Local "local", Locked "locked",
    Memory "memory", Net "net", Owner "owner", Parallel "parallel", Path "path", Prefix "prefix",
    Rdomain "rdomain", Sev "sev", SevEs "seves", Size "size", Socket "socket", Staggered "staggered",
    Start "start", Switch "switch", Up "up", Vm "vm",
}

/// Words that we add to the language. They are not reserved, so that every name that OpenBSD takes stays a name:
/// only where an option or statement begins do they mean something.
pub(crate) const INITRD: &str = "initrd";
/// The kernel command line of a VM.
pub(crate) const CMDLINE: &str = "cmdline";
/// What a VM is for.
pub(crate) const DESCRIPTION: &str = "description";
/// The balloon of a VM.
pub(crate) const BALLOON: &str = "balloon";
/// OpenBSD's control device.
pub(crate) const VMMCI: &str = "vmmci";
/// `device restarts N`
pub(crate) const RESTARTS: &str = "restarts";
/// The requests a second of a disk.
pub(crate) const IOPS: &str = "iops";
/// The bytes a second of a disk.
pub(crate) const BANDWIDTH: &str = "bandwidth";
/// How many of these at once.
pub(crate) const BURST: &str = "burst";
/// `local inet prefix`, the long form of `local prefix`.
pub(crate) const INET: &str = "inet";
/// `local nat yes|no`.
pub(crate) const NAT: &str = "nat";

/// A switch whose guests are no DHCP servers and no routers.
pub(crate) const GUARDED: &str = "guarded";
/// A switch whose guests do not reach each other.
pub(crate) const ISOLATED: &str = "isolated";
/// A switch whose bridge others make.
pub(crate) const EXTERNAL: &str = "external";

/// Where a word stands: what may begin there, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// Outside all braces.
    File,
    /// `switch NAME { }`
    Switch,
    /// `vm NAME { }`
    Vm,
    /// `interface { }`, or after `interface` on its line.
    Interface,
    /// `allow instance { }`
    Allow,
    /// `{ }` behind a disk.
    Disk,
}

impl Block {
    /// How messages call one of the things that stand here.
    pub(crate) fn noun(self) -> &'static str {
        self.one().split_once(' ').map_or("", |(_, noun)| noun)
    }

    /// The same with its article.
    pub(crate) fn one(self) -> &'static str {
        match self {
            Self::File => "a statement",
            Self::Switch => "a switch option",
            Self::Vm => "a vm option",
            Self::Interface => "an interface option",
            Self::Allow => "an instance right",
            Self::Disk => "a disk option",
        }
    }

    /// The words that may begin something here.
    pub fn words(self) -> &'static [&'static str] {
        match self {
            Self::File => &["agentx", "include", "local", "socket", "staggered", "switch", "vm"],
            Self::Switch => &[
                "disable",
                "down",
                "enable",
                EXTERNAL,
                "group",
                GUARDED,
                "interface",
                ISOLATED,
                "locked",
                "rdomain",
                "up",
            ],
            Self::Vm => &[
                "allow",
                BALLOON,
                "boot",
                "cdrom",
                CMDLINE,
                "cpus",
                DESCRIPTION,
                "device",
                "disable",
                "disk",
                "enable",
                INITRD,
                "interface",
                "interfaces",
                "local",
                "memory",
                "owner",
                "sev",
                "seves",
                VMMCI,
            ],
            Self::Interface => &["down", "group", "lladdr", "locked", "rdomain", "switch", "up"],
            Self::Allow => &["boot", "cdrom", "cpus", "disk", "instance", "interface", "memory", "owner"],
            Self::Disk => &[BANDWIDTH, IOPS],
        }
    }

    /// Whether this is one of these words.
    pub(crate) fn has(self, word: &[u8]) -> bool {
        self.words().iter().any(|own| own.as_bytes() == word)
    }

    /// The word meant by one that other versions or other programs use here.
    pub(crate) fn other_name(self, word: &str) -> Option<&'static str> {
        match (self, word) {
            (Self::Vm, "kernel" | "firmware" | "bios") => Some("boot"),
            (Self::Vm, "nifs" | "nics") => Some("interfaces"),
            (Self::Vm, "nic" | "net" | "network") => Some("interface"),
            (Self::Vm, "ram" | "mem" | "size") => Some("memory"),
            (Self::Vm, "cpu" | "ncpus" | "vcpus" | "smp") => Some("cpus"),
            (Self::Vm, "iso" | "cd") => Some("cdrom"),
            (Self::Vm, "append" | "cmd") => Some(CMDLINE),
            (Self::Vm, "initramfs") => Some(INITRD),
            (Self::Vm, "user") => Some("owner"),
            (Self::Vm, "comment" | "descr") => Some(DESCRIPTION),
            (Self::Switch, "bridge") => Some("interface"),
            (Self::Interface, "mac" | "ether" | "hwaddr") => Some("lladdr"),
            (Self::Interface, "bridge") => Some("switch"),
            (Self::Disk, "bps" | "throughput" | "rate") => Some(BANDWIDTH),
            (Self::Interface | Self::Switch, "vrf") => Some("rdomain"),
            _ => None,
        }
    }
}
