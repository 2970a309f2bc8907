//! A file read for a service that starts: what concerns one VM alone costs that VM, everything else is an error as ever.

use std::io;
use std::path::{Path, PathBuf};

use config::{Macros, Sources, Users, parse, parse_with_patience};

/// A host with `/there` and user ann.
struct Host;

impl Sources for Host {
    fn include(&self, _: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        if path == Path::new("/there") { Ok(path.to_owned()) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

impl Users for Host {
    fn uid(&self, user: &str) -> io::Result<Option<u32>> {
        Ok((user == "ann").then_some(1000))
    }

    fn gid(&self, _: &str) -> io::Result<Option<u32>> {
        Ok(None)
    }

    fn interface_group(&self, _: &str) -> io::Result<Option<u32>> {
        Ok(None)
    }
}

/// Errors of a strict reading, and of a patient one; else its VMs with what is wrong with them.
fn read(text: &str) -> (usize, Result<Vec<String>, usize>) {
    let strict = parse("f", text.as_bytes(), &Macros::new(), &Host, &Host).map_or_else(|all| all.errors.len(), |_| 0);
    let patient = parse_with_patience("f", text.as_bytes(), &Macros::new(), &Host, &Host);
    let patient = patient.map_err(|all| all.errors.len()).map(|parsed| {
        let of = |vm: &model::Vm| {
            let owner = parsed.troubles.iter().any(|(of, note)| *of == vm.name && note.fault.is_of_an_owner());
            let count = parsed.troubles.iter().filter(|(of, _)| *of == vm.name).count();
            let disks: Vec<&str> = vm.disks.iter().map(|disk| disk.path.as_str()).collect();
            format!("{} {count} {owner} {} {}", vm.name, vm.owner.uid, disks.join(","))
        };
        parsed.config.vms.iter().map(of).collect()
    });
    (strict, patient)
}

#[test]
fn a_missing_file_or_an_unknown_owner_costs_one_vm_and_its_path_is_kept() {
    let text = "vm a {\n boot /there\n owner ann\n disk /late\n}\nvm b {\n boot /there\n owner bob\n}\nvm c {\n boot /there\n}\n";
    let vms = ["a 1 false 1000 /late", "b 1 true 0 ", "c 0 false 0 "].map(str::to_owned);
    assert_eq!(read(text), (2, Ok(vms.to_vec())));
}

#[test]
fn what_concerns_more_than_one_vm_is_an_error_all_the_same() {
    assert_eq!(read("socket owner bob\n"), (1, Err(1)));
    assert_eq!(read("include \"/late\"\n"), (1, Err(1)));
    assert_eq!(read("vm a {\n boot /late\n cpus 0\n}\n"), (2, Err(1)), "and what no file mends");
}
