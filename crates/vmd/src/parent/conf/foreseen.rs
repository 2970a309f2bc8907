//! What `vmd -n` says beyond errors: what a start will refuse for certain, judged by the code that refuses it, and what will
//! surprise. The daemon itself does not ask: what is wrong with one VM it says when that is started.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use config::Config;
use model::{Disk, DiskFormat, MacAddr, Vm};
use proto::Failure;
use proto::opener::{Asker, FileId, OpenFile, What};
use proto::probe::{Found, ToProbe};
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::obstacles;
use crate::opener::{self, judge};
use crate::parent::registry::chain::Chain;

/// What a probe says of an open file, as far as one can be had.
pub type Probe<'a> = dyn FnMut(ToProbe, OwnedFd) -> Result<Option<Found>, Failure> + 'a;

/// A sentence for each thing. `privileged`: what is closed to us is closed to the opener of a start too.
pub fn foreseen(config: &Config, privileged: bool, probe: &mut Probe) -> Vec<String> {
    let mut told = Vec::new();
    for vm in &config.vms {
        // A start that is refused for this looks at no file.
        let why = match obstacles::without_files(vm) {
            Some(why) => vec![why],
            None => [files(vm, privileged, probe), twice_in(vm)].concat(),
        };
        told.extend(why.into_iter().map(|why| format!("vm \"{}\" will not start: {why}", vm.name)));
        told.extend(surprises(vm));
    }
    told.extend(shared(&config.vms));
    told
}

/// Why a start can't have the files of a VM, a sentence for each. One that is not there is told as an error.
fn files(vm: &Vm, privileged: bool, probe: &mut Probe) -> Vec<String> {
    let mut told = Vec::new();
    let kernel = vm.boot.iter().map(|path| (What::Kernel, path, Some(ToProbe::Kernel { memory: vm.memory })));
    let initrd = vm.initrd.iter().map(|path| (What::Initrd, path, None));
    let medium = vm.medium().map(|path| (What::Cdrom, path, None));
    for (what, path, question) in kernel.chain(initrd).chain(medium) {
        told.extend(wrong(what, path, question, privileged, probe));
    }
    told.extend(vm.disks.iter().filter_map(|disk| wrong_disk(disk, privileged, probe)));
    told
}

fn wrong(what: What, path: &str, question: Option<ToProbe>, privileged: bool, probe: &mut Probe) -> Option<String> {
    let fd = match looked_at(what, path, privileged) {
        Ok(found) => found?.0,
        Err(failure) => return Some(failure.to_string()),
    };
    let why = probe(question?, fd).err()?;
    Some(format!("{} \"{path}\": {why}", judge::noun(what)))
}

/// The same of a disk and all that it is based on, by what a start follows.
fn wrong_disk(disk: &Disk, privileged: bool, probe: &mut Probe) -> Option<String> {
    let mut chain = Chain::new(disk);
    let mut what = What::Disk { write: true };
    loop {
        let (fd, open) = match looked_at(what, &chain.path(), privileged) {
            Ok(found) => found?,
            Err(failure) => return Some(chain.told(&failure).to_string()),
        };
        let question = match chain.opened(open) {
            Ok(question) => question?,
            Err(failure) => return Some(failure.to_string()),
        };
        let more = match probe(question, fd) {
            Ok(found) => chain.found(found?),
            Err(why) => Err(chain.refused(&why)),
        };
        match more {
            Ok(true) => what = What::Base,
            Ok(false) => return None,
            Err(failure) => return Some(failure.to_string()),
        }
    }
}

/// A file as far as it can be seen from here, or why a start is refused it for certain.
fn looked_at(what: What, path: &str, privileged: bool) -> Result<Option<(OwnedFd, OpenFile)>, Failure> {
    let refused = |refusal| Err(judge::failure(refusal, what, path, &Asker::Root, None));
    // That an image or a kernel is not there was told as an error; of a base only its image knows.
    let hidden = |errno| match errno {
        Errno::NOENT if what == What::Base => refused(judge::Refusal::Open(errno)),
        Errno::NOENT => Ok(None),
        _ if privileged => refused(opener::refused(errno, path)),
        _ => Ok(None),
    };
    let status = match rustix::fs::stat(path) {
        Ok(status) => status,
        Err(errno) => return hidden(errno),
    };
    let block = FileType::from_raw_mode(status.st_mode) == FileType::BlockDevice;
    let size = if block { judge::MIN_DISK } else { u64::try_from(status.st_size).unwrap_or(0) };
    if let Err(refusal) = opener::look(what, &status).and_then(|()| judge::check_size(what, size)) {
        return refused(refusal);
    }
    let writes = privileged && what == (What::Disk { write: true }); // root will, whatever we may
    let may = if writes { Access::READ_OK | Access::WRITE_OK } else { Access::READ_OK };
    if let Err(errno) = rustix::fs::accessat(CWD, path, may, AtFlags::EACCESS) {
        return hidden(errno);
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(errno) => return hidden(errno),
    };
    let size = if block { rustix::fs::seek(&fd, SeekFrom::End(0)).unwrap_or(size) } else { size };
    Ok(Some((fd, OpenFile { id: opener::id(&status), size, block })))
}

/// What one VM is given twice and can have once.
fn twice_in(vm: &Vm) -> Vec<String> {
    let disks = repeated(vm.disks.iter().filter_map(|disk| Some((identity(&disk.path)?, disk.path.as_str()))));
    let taps = repeated(vm.nics.iter().filter_map(|nic| nic.tap.as_ref()).map(|tap| (tap.as_str(), tap.as_str())));
    let disks = disks.into_iter().map(|path| format!("disk \"{path}\" is given twice"));
    disks.chain(taps.into_iter().map(|tap| format!("tap \"{tap}\" is given twice"))).collect()
}

/// The names of those whose key came before.
fn repeated<K: Ord, N>(all: impl Iterator<Item = (K, N)>) -> Vec<N> {
    let mut seen = std::collections::BTreeSet::new();
    all.filter_map(|(key, name)| (!seen.insert(key)).then_some(name)).collect()
}

/// Which file or device a path leads to.
fn identity(path: &str) -> Option<FileId> {
    Some(opener::id(&rustix::fs::stat(path).ok()?))
}

/// What is legal, starts, and is not what was meant.
fn surprises(vm: &Vm) -> Vec<String> {
    let name = &vm.name;
    let mut told = Vec::new();
    if name.as_str().bytes().all(|byte| byte.is_ascii_digit()) {
        told.push(format!("vm \"{name}\": vmctl takes a name of digits alone for a number; add a letter to it"));
    }
    if !vm.allow.rights.is_empty() && vm.allow.owner.is_none() && vm.owner.uid != 0 {
        told.push(format!(
            "vm \"{name}\": its owner may make no instances; \"allow instance\" lets nobody but root, unless it has an \"owner\" too"
        ));
    }
    for disk in vm.disks.iter().filter(|disk| disk.format.kind == DiskFormat::Raw) {
        let tail = rustix::fs::stat(&*disk.path).ok().map_or(0, |status| status.st_size.rem_euclid(512));
        if tail != 0 {
            told.push(format!(
                "vm \"{name}\": the guest does not see the last {tail} bytes of disk \"{}\": they are no whole sector",
                disk.path
            ));
        }
    }
    told
}

/// What several VMs have, and only one can have at a time, or well.
fn shared(vms: &[Vm]) -> Vec<String> {
    let mut told = Vec::new();
    let (mut disks, mut taps) = (BTreeMap::new(), BTreeMap::new());
    let mut addresses: BTreeMap<MacAddr, &Vm> = BTreeMap::new();
    for vm in vms {
        let pair = |other: &Vm| format!("vm \"{}\" and vm \"{}\" have the same", other.name, vm.name);
        for disk in &vm.disks {
            let Some(file) = identity(&disk.path) else { continue };
            let other: &Vm = disks.entry(file).or_insert(vm);
            if other.name != vm.name {
                told.push(format!("{} disk \"{}\": only one of them runs at a time", pair(other), disk.path));
            }
        }
        for tap in vm.nics.iter().filter_map(|nic| nic.tap.as_ref()) {
            let other: &Vm = taps.entry(tap.as_str()).or_insert(vm);
            if other.name != vm.name {
                told.push(format!("{} tap \"{tap}\": only one of them runs at a time", pair(other)));
            }
        }
        for address in vm.nics.iter().filter_map(|nic| nic.lladdr) {
            let other = addresses.entry(address).or_insert(vm);
            if other.name != vm.name {
                told.push(format!("{} address {address}: on one network neither is reached well", pair(other)));
            }
        }
        let own = vm.nics.iter().filter_map(|nic| nic.lladdr.map(|address| (address, address)));
        told.extend(repeated(own).into_iter().map(|address| {
            format!(
                "vm \"{}\" has two interfaces with address {address}: on one network neither is reached well",
                vm.name
            )
        }));
    }
    told
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::parent::accounts::HostAccounts;
    use crate::parent::conf::here::Here;
    use crate::probe;

    /// What is said of a configuration in which `@` is this directory.
    fn told(dir: &Path, text: &str) -> Vec<String> {
        let text = text.replace('@', &dir.display().to_string());
        let parsed = config::parse("f", text.as_bytes(), &config::Macros::new(), &Here, &HostAccounts);
        let told = foreseen(&parsed.unwrap_or_else(|errors| panic!("{errors}")).config, true, &mut probe::look_at);
        told.into_iter().map(|line| line.replace(&dir.display().to_string(), "@")).collect()
    }

    fn vm(name: &str, options: &str) -> String {
        format!("vm \"{name}\" {{\n\tdisable\n{options}\n}}\n")
    }

    #[test]
    fn what_a_start_refuses_for_certain_is_told_by_what_refuses_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path();
        for (name, bytes) in [
            ("qcow.bin", &b"QFI\xfb\0\0\0\x03"[..]),
            ("one", b"x"),
            ("empty", b""),
            ("text", b"#!/bin/sh\n"),
            ("elf", b"\x7fELF\x02\x01\x01\0"),
        ] {
            fs::write(dir.join(name), bytes).expect("it is ours");
        }
        let qcow = fs::OpenOptions::new().write(true).open(dir.join("qcow.bin")).expect("it is ours");
        qcow.set_len(4096).expect("it is ours");
        symlink(dir.join("qcow.bin"), dir.join("link")).expect("it is ours");
        for (options, why) in [
            ("disk \"@/qcow.bin\"", "disk \"@/qcow.bin\": the image begins like a qcow2 image"),
            ("disk \"@/one\"", "disk \"@/one\": has 1 bytes, but a disk has at least 512"),
            ("boot \"@/empty\"", "kernel \"@/empty\": is empty"),
            ("boot \"@/text\"", "kernel \"@/text\": is a script"),
            ("boot \"@/elf\"", "kernel \"@/elf\": "),
            ("boot \"@/text\"\ninitrd \"@/empty\"", "initrd \"@/empty\": is empty"),
            ("disk \"@/qcow.bin\"\ndisk \"@/link\"", "disk \"@/link\" is given twice"),
            ("disk \"@/one\"\ninterface tap7\ninterface tap7", "tap \"tap7\" is given twice"),
        ] {
            let told = told(dir, &vm("a", options));
            let begins = format!("vm \"a\" will not start: {why}");
            assert!(told.iter().any(|line| line.starts_with(&begins)), "{options}: {told:#?}");
        }
        assert_eq!(told(dir, &vm("a", "disk \"@/qcow.bin\" format raw")), [""; 0], "called raw, it is");
    }

    #[test]
    fn what_is_closed_to_the_caller_says_nothing_unless_it_is_root() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("kernel");
        fs::write(&file, "x").expect("it is ours");
        let question = Some(ToProbe::Kernel { memory: model::MemorySize::DEFAULT });
        let path = file.display().to_string();
        let gone = wrong(What::Kernel, &format!("{path}/x"), question, false, &mut probe::look_at);
        assert_eq!(gone, None, "not a directory, for who may not know");
        let told = wrong(What::Kernel, &format!("{path}/x"), question, true, &mut probe::look_at);
        assert!(told.is_some_and(|told| told.contains("is no directory")));
    }

    #[test]
    fn what_surprises_is_told_once_for_each_pair() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path();
        fs::write(dir.join("disk.img"), [0; 1000]).expect("it is ours");
        let card = "interface { lladdr fe:e1:bb:d1:00:01 }";
        let text = vm("100", "disk \"@/disk.img\"\ninterface tap3")
            + &vm("b", &format!("disk \"@/disk.img\"\ninterface tap3\n{card}"))
            + &vm("c", &format!("boot \"/etc/passwd\"\n{card}\n{card}\nowner 1000\nallow instance {{ disk }}"));
        let told = told(dir, &text);
        let expected = [
            "vm \"100\": vmctl takes a name of digits alone for a number; add a letter to it",
            "vm \"100\": the guest does not see the last 488 bytes of disk \"@/disk.img\": they are no whole sector",
            "vm \"b\": the guest does not see the last 488 bytes of disk \"@/disk.img\": they are no whole sector",
            "vm \"c\": its owner may make no instances; \"allow instance\" lets nobody but root, unless it has an \"owner\" too",
            "vm \"100\" and vm \"b\" have the same disk \"@/disk.img\": only one of them runs at a time",
            "vm \"100\" and vm \"b\" have the same tap \"tap3\": only one of them runs at a time",
            "vm \"b\" and vm \"c\" have the same address fe:e1:bb:d1:00:01: on one network neither is reached well",
            "vm \"c\" has two interfaces with address fe:e1:bb:d1:00:01: on one network neither is reached well",
        ];
        for line in expected {
            assert_eq!(
                told.iter().filter(|told| *told == line).count(),
                if line.contains("vm \"b\" and") { 2 } else { 1 },
                "{line}: {told:#?}"
            );
        }
    }
}
