//! Reads the host's files below a directory: `/` for a user, any other for a test. It changes nothing, and opens no device
//! but the ones that it is to try.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use proto::failure::plain;
use rustix::fs::{Access, Mode, OFlags, major, minor};
pub use sys::cgroup::{CONTROLLERS, MOUNTS as CGROUPS};

use super::host::{Caller, Cgroups, Cpu, Manager, Module, Node, NodeKind, Seen, Unseen, Value};

/// Bytes of one file that are read; the longest is /proc/cpuinfo of a host with hundreds of processors.
const MAX_TEXT: u64 = 8 << 20;
/// Directories of cgroups that are looked at: those of vmd lie near the root.
const MAX_CGROUPS: usize = 4096;

/// The modules that something here needs.
pub const MODULES: [&str; 7] = ["kvm_intel", "kvm_amd", "tun", "bridge", "vrf", "nf_tables", "nft_masq"];
/// Where distributions put firmware.
const FIRMWARE: [&str; 6] = [
    "/usr/share/OVMF/OVMF_CODE.fd",
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/share/edk2/ovmf/OVMF_CODE.fd",
    "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/bios-256k.bin",
];

/// What a read or an open came to.
pub fn seen<T>(result: io::Result<T>) -> Seen<T> {
    result.map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Unseen::Missing,
        ErrorKind::PermissionDenied => Unseen::Denied,
        _ => Unseen::Failed(plain(&error)),
    })
}

/// A directory that is taken for the host's root.
#[derive(Clone, Debug)]
pub struct Root(pub PathBuf);

impl Root {
    /// A path of the host, below this root.
    pub fn at(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    fn text(&self, path: &str) -> Seen<String> {
        let read = || {
            let mut bytes = Vec::new();
            fs::File::open(self.at(path))?.take(MAX_TEXT).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        seen(read())
    }

    /// The files of one value.
    pub fn values(&self) -> BTreeMap<Value, Seen<String>> {
        let files = [
            (Value::IoUringDisabled, "/proc/sys/kernel/io_uring_disabled"),
            (Value::MostUserNamespaces, "/proc/sys/user/max_user_namespaces"),
            (Value::UserMap, "/proc/self/uid_map"),
            (Value::ForwardIpv4, "/proc/sys/net/ipv4/ip_forward"),
            (Value::ForwardIpv6, "/proc/sys/net/ipv6/conf/all/forwarding"),
            (Value::BridgeFilter, "/proc/sys/net/bridge/bridge-nf-call-iptables"),
            (Value::LegacyTables, "/proc/net/ip_tables_names"),
            (Value::MostDescriptors, "/proc/sys/fs/nr_open"),
            (Value::MostPids, "/proc/sys/kernel/pid_max"),
            (Value::MostThreads, "/proc/sys/kernel/threads-max"),
            (Value::HugePages, "/sys/kernel/mm/transparent_hugepage/enabled"),
            (Value::ClockSource, "/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        ];
        files.into_iter().map(|(value, path)| (value, self.text(path).map(|text| text.trim().to_owned()))).collect()
    }

    /// Names by number: of users, or of groups.
    fn names(&self, file: &str) -> BTreeMap<u32, String> {
        let text = self.text(file).unwrap_or_default();
        let entry = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            Some((fields.nth(1)?.parse().ok()?, name))
        };
        text.lines().rev().filter_map(entry).collect() // the first entry of a number is the one that counts
    }

    /// Who has these ids.
    pub fn caller(&self, uid: u32, gids: &[u32]) -> Caller {
        let groups = self.names("/etc/group");
        let bits = self.text("/proc/self/status").ok().and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        });
        Caller {
            uid,
            name: named(&self.names("/etc/passwd"), uid),
            groups: gids.iter().map(|gid| named(&groups, *gid)).collect(),
            capabilities: bits.unwrap_or_default(),
        }
    }

    /// _vmd's user and group.
    pub fn account(&self) -> Seen<Option<(u32, u32)>> {
        let entry = |line: &str| match line.split(':').collect::<Vec<_>>().as_slice() {
            ["_vmd", _, uid, gid, ..] => Some((uid.parse().ok()?, gid.parse().ok()?)),
            _ => None,
        };
        self.text("/etc/passwd").map(|text| text.lines().find_map(entry))
    }

    /// The processor.
    pub fn cpu(&self) -> Seen<Cpu> {
        self.text("/proc/cpuinfo").map(|text| {
            let field = |name: &str| {
                let of = |line: &str| {
                    line.split_once(':').filter(|(key, _)| key.trim() == name).map(|(_, it)| it.trim().to_owned())
                };
                text.lines().find_map(of).unwrap_or_default()
            };
            let flags = field("flags");
            let has = |wanted: &str| flags.split(' ').any(|flag| flag == wanted);
            let virtualization = ["vmx", "svm"].into_iter().find(|flag| has(flag));
            Cpu { vendor: field("vendor_id"), virtualization, is_guest: has("hypervisor") }
        })
    }

    /// Drivers with a number of /dev/misc's kind: `kvm` and `tun` are there whether or not they were modules.
    pub fn drivers(&self) -> Seen<Vec<String>> {
        let name = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
        self.text("/proc/misc").map(|text| text.lines().filter_map(name).collect())
    }

    /// How the kernel of this release has each of [`MODULES`].
    pub fn modules(&self, release: &str) -> BTreeMap<&'static str, Module> {
        let list = |file: &str| self.text(&format!("/lib/modules/{release}/{file}")).ok().map(|text| modules_of(&text));
        let (built_in, loadable) = (list("modules.builtin"), list("modules.dep"));
        let has =
            |list: &Option<Vec<String>>, name: &str| list.as_ref().is_some_and(|list| list.iter().any(|it| it == name));
        let state = |name: &str| {
            if self.at(&format!("/sys/module/{name}")).exists() {
                Module::Present
            } else if has(&built_in, name) {
                Module::BuiltIn
            } else if has(&loadable, name) {
                Module::Loadable
            } else if built_in.is_none() || loadable.is_none() {
                Module::Unknown
            } else {
                Module::Absent
            }
        };
        MODULES.into_iter().map(|name| (name, state(name))).collect()
    }

    /// A file of /dev, which is opened if it is the device of these numbers and `try_open` says so.
    pub fn node(&self, path: &str, wanted: (u32, u32), try_open: bool) -> Seen<Node> {
        let at = self.at(path);
        seen(fs::metadata(&at)).map(|found| {
            let kind = kind_of(&found);
            let opens = match kind {
                NodeKind::Character(major, minor) if try_open && (major, minor) == wanted => open(&at),
                _ => Ok(()),
            };
            let names = |file, id| named(&self.names(file), id);
            let owner = (names("/etc/passwd", found.uid()), names("/etc/group", found.gid()));
            Node { kind, mode: found.mode() & 0o7777, owner, opens }
        })
    }

    /// What a name in /run is: nothing, a socket, or something else.
    pub fn is_socket(&self, path: &str) -> Seen<Result<(), &'static str>> {
        seen(fs::symlink_metadata(self.at(path))).map(|found| match kind_of(&found) {
            NodeKind::Other("a socket") => Ok(()),
            NodeKind::Other(word) => Err(word),
            NodeKind::Character(..) => Err("a device"),
        })
    }

    /// Mounts of cgroups of version 2, but for those that others hide.
    pub fn cgroups(&self) -> Seen<Vec<Cgroups>> {
        // proc_pid_mountinfo(5): the place is the fifth field, its options the sixth, the kind stands behind a dash.
        let mount = |line: &str| {
            let (before, after) = line.split_once(" - ")?;
            let fields: Vec<&str> = before.split(' ').collect();
            let (place, options) = (fields.get(4)?, fields.get(5)?);
            let controllers = self.text(&format!("{place}/cgroup.controllers"));
            let own = self.own_cgroup().unwrap_or_default();
            Some(Cgroups {
                place: (*place).to_owned(),
                read_only: options.split(',').any(|it| it == "ro"),
                home: self.writable(&format!("{place}{own}")),
                controllers: controllers.ok()?.split_whitespace().map(str::to_owned).collect(),
            })
            .filter(|_| after.starts_with("cgroup2 "))
        };
        self.text("/proc/self/mountinfo").map(|text| text.lines().filter_map(mount).collect())
    }

    /// The cgroup of version 2 that the caller is in.
    pub fn own_cgroup(&self) -> Seen<String> {
        let text = self.text("/proc/self/cgroup")?;
        text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned).ok_or(Unseen::Missing)
    }

    /// Whether names can be made in a directory.
    pub fn writable(&self, path: &str) -> Seen<()> {
        let at = self.at(path);
        let may = rustix::fs::access(at, Access::WRITE_OK | Access::EXEC_OK);
        seen(may.map_err(io::Error::from))
    }

    /// Directories of cgroups that a vmd made, where it makes them: those that hold `vms/vmm`.
    pub fn marked_cgroups(&self, mounts: &[Cgroups]) -> Vec<String> {
        let mut found = Vec::new();
        let mut next: Vec<String> =
            mounts.iter().map(|mount| mount.place.clone()).filter(|place| CGROUPS.contains(&place.as_str())).collect();
        let mut looked = 0_usize;
        while let Some(place) = next.pop() {
            looked = looked.saturating_add(1);
            if looked > MAX_CGROUPS {
                break;
            }
            if self.at(&format!("{place}/vms/vmm")).is_dir() {
                found.push(place);
                continue;
            }
            let below = fs::read_dir(self.at(&place)).into_iter().flatten().flatten();
            let dirs = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            next.extend(dirs.map(|entry| format!("{place}/{}", entry.file_name().to_string_lossy())));
        }
        found
    }

    /// Processes that say of themselves that they are one of vmd's, by their title.
    pub fn marked_processes(&self) -> Vec<(u32, String)> {
        let entries = fs::read_dir(self.at("/proc")).into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let title = |pid| {
            let text = self.text(&format!("/proc/{pid}/cmdline")).ok()?;
            let words: Vec<&str> = text.split('\0').collect();
            let first = words.first()?.strip_prefix("vmd: ")?;
            words.contains(&"-x").then(|| (pid, first.to_owned()))
        };
        let mut found: Vec<_> = pids.filter_map(title).collect();
        found.sort_unstable();
        found
    }

    /// State that was half written.
    pub fn half_written(&self) -> Vec<String> {
        ["/var/lib/vmd/ids.new"].into_iter().filter(|path| self.at(path).exists()).map(str::to_owned).collect()
    }

    /// Kinds of file systems.
    pub fn file_systems(&self) -> Seen<Vec<String>> {
        let kind = |line: &str| line.split_whitespace().last().map(str::to_owned);
        self.text("/proc/filesystems").map(|text| text.lines().filter_map(kind).collect())
    }

    /// Bytes of memory: all, and what can be had.
    pub fn memory(&self) -> Seen<(u64, u64)> {
        self.text("/proc/meminfo").map(|text| {
            let field = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name))?;
                line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
            };
            (field("MemTotal:").unwrap_or(0), field("MemAvailable:").unwrap_or(0))
        })
    }

    /// The images of firmware that are there.
    pub fn firmware(&self) -> Vec<&'static str> {
        FIRMWARE.into_iter().filter(|path| self.at(path).is_file()).collect()
    }

    /// Who sets up the interface of this index: networkd by link_save() of networkd-state-file.c (networkctl(1) has the
    /// states), NetworkManager by NM_CONFIG_DEVICE_STATE_DIR of nm-config.h.
    pub fn manager(&self, index: u32) -> Seen<Option<Manager>> {
        let value = |path: &str, key: &str| match self.text(path) {
            Ok(text) => Ok(text
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('=').map(|it| it.trim().to_owned()))),
            Err(Unseen::Missing) => Ok(None), // it does not run, or does not know the interface
            Err(unseen) => Err(unseen),
        };
        let state = value(&format!("/run/systemd/netif/links/{index}"), "ADMIN_STATE")?;
        // The others are: not yet looked at, left alone, and gone.
        let sets_up = ["configuring", "configured", "failed"];
        if state.is_some_and(|state| sets_up.contains(&state.as_str())) {
            return Ok(Some(Manager::Networkd));
        }
        let managed = value(&format!("/run/NetworkManager/devices/{index}"), "managed")?;
        Ok(managed.filter(|managed| managed == "true").map(|_| Manager::NetworkManager))
    }

    /// Whether a file can be read.
    pub fn readable(&self, path: &str) -> Seen<()> {
        seen(fs::File::open(self.at(path)).map(drop))
    }

    /// The pid that a pid file has, and whether it is locked.
    pub fn pid_file(&self, path: &str) -> Seen<(String, bool)> {
        let read = || {
            let mut file = fs::File::open(self.at(path))?;
            let mut pid = String::new();
            file.by_ref().take(32).read_to_string(&mut pid)?;
            Ok((pid.trim().to_owned(), sys::lock::is_locked(&file)?))
        };
        seen(read())
    }

    /// The first vmd: beside the running program, in the sbin of its bin, then where it is installed.
    pub fn program(&self, beside: Option<&Path>) -> Seen<PathBuf> {
        let installed = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(|folder| self.at(folder));
        let near = beside.into_iter().flat_map(|folder| [folder.to_path_buf(), folder.with_file_name("sbin")]);
        let places = near.chain(installed).map(|folder| folder.join("vmd"));
        let mut none = Err(Unseen::Missing);
        for path in places {
            match seen(fs::metadata(&path)) {
                Ok(found) if found.is_file() => return Ok(path),
                Err(Unseen::Denied) => none = Err(Unseen::Denied),
                Ok(_) | Err(Unseen::Missing | Unseen::Failed(_)) => {}
            }
        }
        none
    }
}

fn named(names: &BTreeMap<u32, String>, id: u32) -> String {
    names.get(&id).cloned().unwrap_or_else(|| id.to_string())
}

/// The names in `modules.builtin` and `modules.dep` (depmod(8)): a path a line, and behind a colon what it needs. The
/// kernel takes dashes for underscores.
fn modules_of(text: &str) -> Vec<String> {
    let name = |line: &str| {
        let path = line.split(':').next()?;
        let file = path.rsplit('/').next()?;
        Some(file.split(".ko").next()?.replace('-', "_"))
    };
    text.lines().filter_map(name).collect()
}

fn kind_of(found: &fs::Metadata) -> NodeKind {
    let kind = found.file_type();
    if kind.is_char_device() {
        return NodeKind::Character(major(found.rdev()), minor(found.rdev()));
    }
    NodeKind::Other(if kind.is_file() {
        "a plain file"
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_symlink() {
        "a link"
    } else if kind.is_fifo() {
        "a fifo"
    } else {
        "a block device"
    })
}

/// Opens a device for reading and writing, without waiting, and closes it.
fn open(path: &Path) -> Seen<()> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    seen(rustix::fs::open(path, flags, Mode::empty()).map(drop).map_err(io::Error::from))
}

#[cfg(test)]
mod tests;
