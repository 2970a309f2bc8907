//! The descriptors that a VM holds in the parent from its start to its end. An OFD lock ends with its last descriptor
//! and a tap with its last user, so a reboot of the guest must not lose them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use model::{IfName, MacAddr};
use proto::vmm::{Local, NicDescription, StartVm, ToVmm};
use sys::pty::Pty;

use crate::parent::network::resolvers::NameServers;
use crate::parent::registry::{File, Launch};

/// What one VM holds.
#[derive(Debug, Default)]
pub struct Holdings {
    /// Its console; the slave stays open, raw, so that the master never hangs up.
    pub console: Option<Pty>,
    /// Kernel, initrd and disks.
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
    /// Write end of its log pipe.
    pub log: Option<OwnedFd>,
}

impl Holdings {
    /// What a reboot keeps; the kernel is read anew.
    pub fn for_reboot(&mut self) {
        self.files.retain(|file, _| matches!(file, File::Disk(_)));
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
        let start = StartVm { cgroup: self.cgroup.is_some(), ..launch.vm.clone() };
        let mut fds = vec![copy(self.log.as_ref())?, copy(self.memory.as_ref())?, copy(self.files.get(&File::Kernel))?];
        if start.initrd {
            fds.push(copy(self.files.get(&File::Initrd))?);
        }
        if start.cgroup {
            fds.push(copy(self.cgroup.as_ref())?);
        }
        let mut messages = vec![(ToVmm::StartVm(Box::new(start)), fds)];
        for (disk, description) in (0u8..).zip(&launch.disks) {
            let fd = copy(self.files.get(&File::Disk(disk)))?;
            messages.push((ToVmm::StartDisk { vm, disk, description: description.clone() }, vec![fd]));
        }
        for (nic, card) in (0u8..).zip(&launch.nics) {
            let fd = copy(self.taps.get(&nic))?;
            let local = card.local.map(|pair| Local {
                host_mac: self.tap_macs.get(&nic).copied().unwrap_or_default(),
                host: pair.host.inet,
                guest: pair.guest,
                name_servers: if pair.host.nat { servers.clone() } else { NameServers::default() },
                net_boot: card.net_boot,
            });
            let description = NicDescription { mac: card.mac, locked: card.locked, local };
            messages.push((ToVmm::StartNic { vm, nic, description }, vec![fd]));
        }
        let console = copy(self.console.as_ref().map(|console| &console.master))?;
        messages.push((ToVmm::StartEnd { vm }, vec![console]));
        Ok(messages)
    }
}

fn copy(fd: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "a descriptor of the start is missing");
    fd.ok_or_else(missing)?.as_fd().try_clone_to_owned()
}

#[cfg(test)]
mod tests {
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
    fn where_there_is_no_console_none_is_taken_back() {
        assert!(Holdings::default().take_console_back().is_ok());
    }
}
