//! What of a configuration is legal and will not start, for who reads the file. Such a VM is known, and says so when it is
//! started.

use std::path::Path;

use config::Config;
use model::Vm;
use proto::opener::{Asker, What};
use rustix::fs::FileType;

use crate::opener::judge;
use crate::parent::registry::definition::obstacle;

/// A sentence for each such VM.
pub fn will_not_start(config: &Config) -> Vec<String> {
    let why = |vm: &Vm| {
        let why = without_files(vm).or_else(|| wrong_file(vm))?;
        Some(format!("vm \"{}\" will not start: {why}", vm.name))
    };
    config.vms.iter().filter_map(why).collect()
}

/// What the block itself says.
pub fn without_files(vm: &Vm) -> Option<String> {
    obstacle(vm).map(|failure| failure.to_string()).or_else(|| no_kernel(vm))
}

/// One that does not start with the daemon may be given a kernel by `vmctl start -b`.
fn no_kernel(vm: &Vm) -> Option<String> {
    (vm.enabled && vm.boot.is_none()).then(|| "it has no kernel; name one with \"boot\"".to_owned())
}

/// A file that can be seen to be none that the VM can have. One that can't be looked at may be another's, or not yet there.
fn wrong_file(vm: &Vm) -> Option<String> {
    let boot = vm.boot.iter().map(|path| (What::Kernel, path));
    let initrd = vm.initrd.iter().map(|path| (What::Initrd, path));
    let disks = vm.disks.iter().map(|disk| (What::Disk { write: true }, &disk.path));
    let medium = vm.medium().into_iter().map(|path| (What::Cdrom, path));
    boot.chain(initrd).chain(disks).chain(medium).find_map(|(what, path)| wrong(what, Path::new(&**path)))
}

fn wrong(what: What, path: &Path) -> Option<String> {
    let found = FileType::from_raw_mode(rustix::fs::stat(path).ok()?.st_mode);
    let refusal = judge::check_type(what, found).err()?;
    Some(judge::failure(refusal, what, &path.to_string_lossy(), &Asker::Root, None).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parent::accounts::HostAccounts;
    use crate::parent::conf::here::Here;

    fn notes(options: &str) -> Vec<String> {
        let text = format!("vm \"a\" {{\n{options}\n}}\n");
        let parsed = config::parse("f", text.as_bytes(), &config::Macros::new(), &Here, &HostAccounts);
        will_not_start(&parsed.expect("it is legal").config)
    }

    #[test]
    fn who_starts_with_the_daemon_needs_a_kernel() {
        let said = "vm \"a\" will not start: it has no kernel; name one with \"boot\"";
        assert_eq!(notes("disk \"/etc/passwd\""), [said]);
        assert_eq!(notes("disk \"/etc/passwd\"\ndisable"), [""; 0]);
        assert_eq!(notes("boot \"/etc/passwd\""), [""; 0]);
    }

    #[test]
    fn each_file_is_one_that_a_vm_can_have_as_far_as_it_can_be_seen() {
        let kernel = "boot \"/etc/passwd\"";
        for (options, why) in [
            ("boot \"/etc\"", "kernel \"/etc\": is a directory, kernel must be a regular file"),
            (&format!("{kernel}\ninitrd \"/dev/null\""), "initrd \"/dev/null\": is a character device, initrd must be"),
            (
                &format!("{kernel}\ndisk \"/etc\""),
                "disk \"/etc\": is a directory, disk must be a regular file or a block",
            ),
            (
                &format!("{kernel}\ndisk \"/etc/passwd\"\ndisk \"/dev/null\""),
                "disk \"/dev/null\": is a character device",
            ),
        ] {
            let notes = notes(options);
            let begin = format!("vm \"a\" will not start: {why}");
            assert!(matches!(&notes[..], [note] if note.starts_with(&begin)), "{notes:?}");
        }
        for fine in [kernel, &format!("{kernel}\ninitrd \"/etc/passwd\"\ndisk \"/etc/passwd\"\ndisk \"/nowhere/x\"")] {
            assert_eq!(notes(fine), [""; 0], "{fine}");
        }
    }
}
