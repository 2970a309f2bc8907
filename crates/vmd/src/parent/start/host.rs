//! What the parent itself takes from the host: devices, cgroups, accounts, random bytes.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use model::{DiskFormat, IfName, Owner};
use proto::vmm::End;
use proto::{Code, Failure, VmId};
use rustix::fs::{FileType, Mode, OFlags};
use sys::cgroup::{Cgroup, Limits, Shortage, Tree};
use sys::memory::Pool;

use super::allowance::Parts;
use crate::parent::accounts::read_some;
use crate::parent::network::resolvers::{self, NameServers};
use crate::parent::registry::Launch;

/// Threads that a VM's processes have beside its vCPUs and those of its devices: the vm process's own, and KVM's.
const SPARE_THREADS: u32 = 64;

/// One MiB.
pub const MIB: u64 = 1 << 20;

/// The host, as the parent uses it.
#[derive(Debug)]
pub struct Host {
    /// Where guest memory comes from.
    pub memory: Pool,
    /// The daemon's cgroups, where the host has version 2.
    pub tree: Option<Tree>,
    /// Those of VMs.
    pub vms: BTreeMap<VmId, Cgroup>,
    /// The user namespace in which each VM has a user of its own, where one could be made.
    pub users: Option<OwnedFd>,
    /// Group of terminals, where there is one.
    pub tty_gid: Option<u32>,
    /// What priv's nftables tables belong to, which each priv is given: they are there as long as this is, and no priv's end
    /// takes them away. None where the kernel has no nftables.
    pub tables: Option<OwnedFd>,
}

impl Host {
    /// /dev/net/tun, opened for one tap: priv has no path to it.
    pub fn open_tun(&self) -> io::Result<OwnedFd> {
        open_device("/dev/net/tun", OFlags::NONBLOCK)
    }

    /// /dev/kvm. Whether it is KVM is found out by the first VM's process.
    pub fn open_kvm() -> io::Result<OwnedFd> {
        let kvm = open_device("/dev/kvm", OFlags::empty())?;
        let found = FileType::from_raw_mode(rustix::fs::fstat(&kvm)?.st_mode);
        if found != FileType::CharacterDevice {
            return Err(io::Error::other("not a character device"));
        }
        Ok(kvm)
    }

    /// /dev/sev, where the host has one: AMD's secure processor, which keeps the keys of encrypted memory.
    pub fn open_psp() -> io::Result<Option<OwnedFd>> {
        match open_device("/dev/sev", OFlags::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            psp => psp.map(Some),
        }
    }

    /// Keeps the host from taking routes and addresses from guests on a bridge or tap of ours: where it forwards nothing,
    /// Linux believes every router advertisement (sysctl accept_ra). Without IPv6 there is nothing to keep.
    pub fn ignore_routers_on(&self, interface: &IfName) {
        let path = format!("/proc/sys/net/ipv6/conf/{interface}/accept_ra");
        match std::fs::write(&path, "0") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => sys::guest_log!(Warn, "{path}: {error}"),
            Ok(()) | Err(_) => {}
        }
    }

    /// The name servers that the guest is told, as the host has them now; if there are none it is told the host's
    /// address.
    pub fn name_servers(&self, launch: &Launch) -> NameServers {
        let outside = launch.devices.iter().any(|device| device.outside);
        if !outside {
            return NameServers::default();
        }
        let read = |path| match read_some(path) {
            Ok(text) => Some(text),
            Err(error) => {
                log::debug!("{path}: {error}");
                None
            }
        };
        let servers = resolvers::first_within_reach(resolvers::FILES.into_iter().filter_map(read));
        if servers.is_empty() {
            sys::guest_log!(
                Warn,
                "vm \"{}\": the host has no DNS server that a guest can reach: the guest is told the host's own address",
                launch.vm.name
            );
        }
        servers
    }

    /// Group and mode of a console (openbsd/daemon.md, 3.10).
    pub fn console_rights(&self, owner: Owner) -> (u32, u32) {
        match (owner.gid, self.tty_gid) {
            (Some(gid), _) => (gid, 0o660),
            (None, Some(tty)) => (tty, 0o620),
            (None, None) => (0, 0o600),
        }
    }

    /// The cgroup that vmm is born in.
    pub fn vmm_cgroup(&self) -> Option<BorrowedFd<'_>> {
        self.tree.as_ref().map(|tree| tree.vmm().as_fd())
    }

    /// The user of a VM that starts.
    pub fn vm_user(&self, launch: &Launch) -> Option<u32> {
        let user = self.users.as_ref().and_then(|_| sys::vm_users::free_one(launch.vm.vm.0));
        if user.is_none() && self.users.is_some() {
            let name = &launch.vm.name;
            sys::guest_log!(Warn, "vm \"{name}\": processes have all users that it may have: it runs as vmd's");
        }
        user
    }

    /// Why a VM could not start, as far as the kernel knows it better than vmm.
    pub fn why(&self, vm: VmId, failure: Failure) -> Failure {
        self.vms.get(&vm).and_then(Cgroup::shortage).map_or(failure, out_of_memory)
    }

    /// The same of its end.
    pub fn why_ended(&self, vm: VmId, end: End) -> End {
        match end {
            End::Failed(failure) => End::Failed(self.why(vm, failure)),
            End::PoweredOff | End::Rebooted => end,
        }
    }

    /// A cgroup for a VM that starts. Without one it starts all the same. So many bytes of its disks may lie in memory.
    pub fn vm_cgroup(&mut self, vm: VmId, launch: &Launch, in_memory: u64) -> Option<OwnedFd> {
        let tree = self.tree.as_ref()?;
        let made = tree.vm(vm.0, limits(launch, in_memory));
        let copied = made.and_then(|cgroup| Ok((cgroup.as_fd().try_clone_to_owned()?, cgroup)));
        match copied {
            Ok((fd, cgroup)) => {
                self.vms.insert(vm, cgroup);
                Some(fd)
            }
            Err(error) => {
                sys::guest_log!(Warn, "cgroup of vm {vm}: {error}; its processes are tracked by their pidfds alone");
                None
            }
        }
    }
}

/// What the processes of a VM may have.
fn limits(launch: &Launch, in_memory: u64) -> Limits {
    let kinds = launch.devices.iter().map(|device| device.spec.kind());
    let cpus = u32::from(launch.vm.cpus);
    let disks: Vec<_> = launch.devices.iter().filter_map(|device| device.spec.disk()).collect();
    let images = disks.iter().filter(|disk| disk.format == DiskFormat::Qcow2);
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let parts = Parts {
        guest: launch.vm.memory.bytes(),
        cpus,
        devices: count(launch.devices.len()),
        disks: count(disks.len()),
        images: count(images.count()),
        in_memory,
    };
    let allowance = parts.allowance();
    Limits {
        threads: cpus + kinds.map(|kind| kind.threads).sum::<u32>() + SPARE_THREADS,
        memory: allowance.all(),
        swap: allowance.own,
    }
}

/// What is told of a VM whose processes the kernel ended for want of memory.
fn out_of_memory(shortage: Shortage) -> Failure {
    let text = match shortage {
        Shortage::Limit(bytes) => format!(
            "out of memory: its processes needed more than the {} MiB that they may have together, and the kernel ended them",
            bytes / MIB
        ),
        Shortage::Host => "out of memory: the host had none left, and the kernel ended the VM's processes".to_owned(),
    };
    Failure::new(Code::NoMemory, text)
}

/// A device for reading and writing.
pub fn open_device(path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC | flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_had_no_memory_is_told_in_words() {
        let own = out_of_memory(Shortage::Limit(300 * MIB));
        assert!(own.code == Code::NoMemory && own.text.to_string().contains("more than the 300 MiB"), "{own}");
        assert!(out_of_memory(Shortage::Host).to_string().contains("the host had none left"));
    }

    #[test]
    fn a_console_is_its_owners_and_of_the_owner_group_or_for_writing_of_tty() {
        let host = |tty_gid| Host {
            memory: Pool::SmallPages,
            tree: None,
            vms: BTreeMap::new(),
            users: None,
            tty_gid,
            tables: None,
        };
        let owner = |gid| Owner { uid: 1000, gid };
        assert_eq!(host(Some(5)).console_rights(owner(Some(7))), (7, 0o660));
        assert_eq!(host(Some(5)).console_rights(owner(None)), (5, 0o620));
        assert_eq!(host(None).console_rights(owner(None)), (0, 0o600));
    }
}
