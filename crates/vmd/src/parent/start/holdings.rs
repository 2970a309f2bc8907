//! The descriptors that a VM holds in the parent from its start to its end. An OFD lock ends with its last descriptor
//! and a tap with its last user, so a reboot of the guest must not lose them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use model::{IfName, MacAddr};
use proto::device::{Cdrom, Net, Spec, Told};
use proto::vmm::{StartVm, ToVmm};
use sys::pty::Pty;

use crate::parent::network::resolvers::NameServers;
use crate::parent::registry::{Device, File, Launch};

/// File systems that may keep their files in memory alone (linux/magic.h; an overlay does not tell what is below it).
const TMPFS: u32 = 0x0102_1994;
const RAMFS: u32 = 0x8584_58f6;
const OVERLAY: u32 = 0x794c_7630;

/// What one VM holds.
#[derive(Debug, Default)]
pub struct Holdings {
    /// Its console; the slave stays open, raw, so that the master never hangs up.
    pub console: Option<Pty>,
    /// Kernel, initrd, disks, and the image in the CD-ROM drive.
    pub files: BTreeMap<File, OwnedFd>,
    /// By index of the card.
    pub taps: BTreeMap<u8, OwnedFd>,
    /// Addresses of the host's side of its taps.
    pub tap_macs: BTreeMap<u8, MacAddr>,
    /// Names of those that others' rules let through to the outside.
    pub outside: Vec<IfName>,
    /// Guest memory of the run that starts.
    pub memory: Option<OwnedFd>,
    /// Directory of its cgroup, where there are cgroups.
    pub cgroup: Option<OwnedFd>,
    /// The user of the processes of the run that starts, where it has one of its own.
    pub user: Option<u32>,
    /// Write end of its log pipe.
    pub log: Option<OwnedFd>,
}

impl Holdings {
    /// Closes what only a start needs. The kernel is read anew; the log pipe is to end with the VM's processes, its memory to
    /// be given back with the last of them, and the host has the cgroup itself.
    pub fn keep_for_reboot(&mut self) {
        self.files.retain(|file, _| matches!(file, File::Disk(_) | File::Base(..) | File::Cdrom));
        (self.log, self.memory, self.cgroup) = (None, None, None);
    }

    /// Bytes of the disks that lie in the host's memory, or where that can't be told: what is written there stays in it.
    /// So many bytes more where an image grows. Bases are only read, and what is in memory of them counts for who put it there.
    pub fn disks_in_memory(&self, growth: &BTreeMap<u8, u64>) -> io::Result<u64> {
        let mut sum = 0_u64;
        for (file, disk) in &self.files {
            let File::Disk(number) = file else { continue };
            if let Ok(TMPFS | RAMFS | OVERLAY) = u32::try_from(rustix::fs::fstatfs(disk)?.f_type) {
                let len = u64::try_from(rustix::fs::fstat(disk)?.st_size).unwrap_or_default();
                sum = sum.saturating_add(len).saturating_add(growth.get(number).copied().unwrap_or_default());
            }
        }
        Ok(sum)
    }

    /// Makes the console root's alone again. It goes with its master; a process of the VM that does not end has that too,
    /// and whose console it was must not reach what another has there.
    pub fn take_console_back(&self) -> io::Result<()> {
        self.console.as_ref().map_or(Ok(()), |console| console.give(0, 0, 0o600))
    }

    /// The whole start as vmm gets it, each message with duplicates of its descriptors.
    /// Guests that reach the outside are told these name servers.
    pub fn messages(&self, launch: &Launch, servers: &NameServers) -> io::Result<Vec<(ToVmm, Vec<OwnedFd>)>> {
        let vm = launch.vm.vm;
        let start = StartVm { cgroup: self.cgroup.is_some(), user: self.user, ..launch.vm.clone() };
        let mut fds = vec![copy(self.log.as_ref())?, copy(self.memory.as_ref())?, copy(self.files.get(&File::Kernel))?];
        if start.initrd {
            fds.push(copy(self.files.get(&File::Initrd))?);
        }
        if start.cgroup {
            fds.push(copy(self.cgroup.as_ref())?);
        }
        let mut messages = vec![(ToVmm::StartVm(Box::new(start)), fds)];
        for (index, device) in (0u8..).zip(&launch.devices) {
            let fds = self.served_by(&device.spec)?;
            let spec = Box::new(self.completed(device, servers));
            messages.push((ToVmm::StartDevice { vm, device: index, spec }, fds));
        }
        let console = copy(self.console.as_ref().map(|console| &console.master))?;
        messages.push((ToVmm::StartEnd { vm }, vec![console]));
        Ok(messages)
    }

    /// What a device serves.
    fn served_by(&self, device: &Spec) -> io::Result<Vec<OwnedFd>> {
        match device.told {
            Told::Blk(_) => {
                let bases = (1..device.fds()).filter_map(|nth| u8::try_from(nth).ok());
                let files = bases.map(|nth| File::Base(device.number, nth));
                [File::Disk(device.number)].into_iter().chain(files).map(|file| copy(self.files.get(&file))).collect()
            }
            Told::Net(_) => Ok(vec![copy(self.taps.get(&device.number))?]),
            Told::Cdrom(Cdrom { medium: true, .. }) => Ok(vec![copy(self.files.get(&File::Cdrom))?]),
            Told::Balloon(_) | Told::Cdrom(_) => Ok(vec![]),
        }
    }

    fn completed(&self, device: &Device, servers: &NameServers) -> Spec {
        let mut spec = device.spec.clone();
        if let Spec { number, told: Told::Net(Net { local: Some(local), .. }) } = &mut spec {
            local.host_mac = self.tap_macs.get(number).copied().unwrap_or_default();
            local.name_servers = if device.outside { servers.clone() } else { NameServers::default() };
        }
        spec
    }
}

fn copy(fd: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "a descriptor of the start is missing");
    fd.ok_or_else(missing)?.as_fd().try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use proto::device::Local;

    use super::*;

    #[test]
    fn a_console_is_taken_back_from_its_owner_and_goes_with_its_last_holder() {
        let pty = Pty::open().unwrap();
        pty.give(1234, 4321, 0o660).unwrap();
        let name = pty.name.clone();
        let held = Holdings { console: Some(pty), ..Holdings::default() };
        held.take_console_back().unwrap();
        let now = rustix::fs::stat(&name).unwrap();
        assert_eq!((now.st_uid, now.st_gid, now.st_mode & 0o777), (0, 0, 0o600));
        drop(held);
        assert!(!name.exists());
    }

    #[test]
    fn the_address_of_the_hosts_side_of_its_tap_reaches_the_card_that_uses_it() {
        let at = |n| MacAddr([2, 0, 0, 0, 0, n]);
        let held = Holdings { tap_macs: BTreeMap::from([(0, at(8)), (1, at(9))]), ..Holdings::default() };
        let servers = NameServers::try_from(vec![[192, 0, 2, 53].into()]).unwrap();
        for outside in [true, false] {
            let local = Local {
                host_mac: MacAddr::default(),
                host: [100, 64, 1, 2].into(),
                guest: [100, 64, 1, 3].into(),
                name_servers: NameServers::default(),
                net_boot: false,
            };
            let card = Net { mac: at(1), locked: false, guarded: false, local: Some(local.clone()) };
            let spec = Spec { number: 1, told: Told::Net(card.clone()) };
            let told = held.completed(&Device { spec, outside }, &servers);
            let name_servers = if outside { servers.clone() } else { NameServers::default() };
            let local = Some(Local { host_mac: at(9), name_servers, ..local });
            assert_eq!(told, Spec { number: 1, told: Told::Net(Net { local, ..card }) });
        }
    }

    #[test]
    fn a_disk_is_served_by_its_image_and_then_its_bases() {
        use model::{DiskFormat, DiskLimits, List, Text};
        use proto::device::Blk;
        let dir = tempfile::tempdir().unwrap();
        let names =
            [(File::Disk(1), "image"), (File::Base(1, 1), "near"), (File::Base(1, 2), "far"), (File::Disk(0), "x")];
        let files = names.map(|(file, name)| (file, std::fs::File::create_new(dir.path().join(name)).unwrap().into()));
        let mut held = Holdings { files: BTreeMap::from(files), ..Holdings::default() };
        held.keep_for_reboot();
        let told = |bases: usize| Spec {
            number: 1,
            told: Told::Blk(Blk {
                format: DiskFormat::Qcow2,
                bases: List::try_from(vec![DiskFormat::Qcow2; bases]).unwrap(),
                read_only: false,
                limits: DiskLimits::default(),
                serial: Text::default(),
                called: Text::default(),
            }),
        };
        let inode = |name: &str| rustix::fs::stat(dir.path().join(name)).unwrap().st_ino;
        let served = held.served_by(&told(2)).unwrap();
        let served: Vec<u64> = served.iter().map(|file| rustix::fs::fstat(file).unwrap().st_ino).collect();
        assert_eq!(served, ["image", "near", "far"].map(inode));
        assert!(held.served_by(&told(3)).is_err(), "one is missing");
    }

    #[test]
    fn an_image_that_grows_in_memory_counts_with_all_that_it_may_become() {
        let shared = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).unwrap(); // in a tmpfs
        rustix::fs::ftruncate(&shared, 1000).unwrap();
        let held = Holdings { files: BTreeMap::from([(File::Disk(2), shared)]), ..Holdings::default() };
        assert_eq!(held.disks_in_memory(&BTreeMap::new()).unwrap(), 1000);
        assert_eq!(held.disks_in_memory(&BTreeMap::from([(2, 5000), (1, 7)])).unwrap(), 6000);
        let base = Holdings {
            files: held.files.into_values().map(|fd| (File::Base(2, 1), fd)).collect(),
            ..Holdings::default()
        };
        assert_eq!(base.disks_in_memory(&BTreeMap::from([(2, 5000)])).unwrap(), 0);
    }

    #[test]
    fn where_there_is_no_console_none_is_taken_back() {
        assert!(Holdings::default().take_console_back().is_ok());
    }
}
