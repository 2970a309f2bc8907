//! What is no kernel, or not all of one, is named with its path and what is wrong with it.

use std::fs;
use std::path::Path;

use e2e::idle::{self, Does};
use testkit::apart::apart;
use testkit::artefacts::{self, Kernel};
use testkit::daemon::Daemon;

use crate::world::{NO_KVM, Quiet, bare, ends, refused, run, text};

/// Starts a new VM with a kernel; it must be refused with these words about it.
#[track_caller]
fn is_refused(daemon: &Daemon, kernel: &Path, why: &str) {
    let said = format!("vmctl: start \"new\": kernel \"{}\": {why}", kernel.display());
    refused(daemon, &["start", "-b", text(kernel), "-m", "64M", "new"], &said);
}

#[test]
fn what_vm_conf_names_as_kernel_and_is_none_is_refused() {
    apart("kernels::what_vm_conf_names_as_kernel_and_is_none_is_refused", || {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        for gone in ["gone", "none"] {
            fs::write(at(gone), "").expect("it is ours");
        }
        fs::create_dir(at("dir")).expect("it is ours");
        run(std::process::Command::new("mkfifo").arg(at("fifo"))).success();
        let good = idle::kernel_file(dir.path(), Does::Nothing);
        let block = |name: &str, options: &[&str]| {
            let kernel = if options.is_empty() { at(name) } else { good.clone() };
            idle::vm(name, &kernel, options)
        };
        let initrd = |name: &str| format!("initrd \"{}\"", at(name).display());
        let conf = ["gone", "dir", "fifo"].map(|name| block(name, &[])).concat()
            + &block("initrd-gone", &[&initrd("none")])
            + &block("initrd-dir", &[&initrd("dir")])
            + "vm \"nothing\" {\n\tdisable\n\tdisk \"/etc/passwd\"\n}\n"
            + &idle::vm("device", Path::new("/dev/null"), &[])
            + &block("good", &["cpus 1"]);
        let daemon = Daemon::start_quietly(&conf);
        fs::remove_file(at("gone")).and_then(|()| fs::remove_file(at("none"))).expect("it is ours");
        let quiet = Quiet::of(&daemon);
        let place = dir.path().display();
        for (name, said) in [
            ("gone", format!("kernel \"{place}/gone\": no such file; correct the path")),
            ("dir", format!("kernel \"{place}/dir\": is a directory, kernel must be a regular file")),
            ("fifo", format!("kernel \"{place}/fifo\": is a fifo, kernel must be a regular file")),
            ("device", "kernel \"/dev/null\": is a character device, kernel must be a regular file".to_owned()),
            ("initrd-gone", format!("initrd \"{place}/none\": no such file; correct the path")),
            ("initrd-dir", format!("initrd \"{place}/dir\": is a directory, initrd must be a regular file")),
            ("nothing", "vm \"nothing\" has no kernel: name one with \"boot\" in vm.conf or vmctl start -b".to_owned()),
            ("good", NO_KVM.to_owned()),
        ] {
            refused(&daemon, &["start", name], &format!("vmctl: start \"{name}\": {said}"));
            assert!(daemon.log().contains(&format!("failed to start vm \"{name}\": {said}")), "{}", daemon.log());
        }
        quiet.again();
        ends(daemon);
    });
}

#[test]
fn a_truncated_bzimage_is_refused_wherever_it_is_cut() {
    apart("kernels::a_truncated_bzimage_is_refused_wherever_it_is_cut", || {
        let whole = fs::read(artefacts::kernel(Kernel::BzImage)).expect("the stock kernel");
        let dir = tempfile::tempdir().expect("a directory");
        let kernel = dir.path().join("cut");
        let setup = (usize::from(whole[0x1f1]) + 1) * 512;
        let code = usize::try_from(u32::from_le_bytes(whole[0x1f4..0x1f8].try_into().expect("4"))).expect("4") * 16;
        let header = 0x202 + usize::from(whole[0x201]);
        let daemon = bare();
        let quiet = Quiet::of(&daemon);
        let none = "and neither a Linux bzImage nor an ELF kernel; name one such as /vmlinuz";
        let program = "a program for EFI or Windows";
        for (length, what) in
            [(0, "empty"), (1, "of an unknown kind"), (100, program), (0x1fe, program), (0x205, program)]
        {
            fs::write(&kernel, &whole[..length]).expect("it is ours");
            is_refused(&daemon, &kernel, &format!("is {what}, {none}"));
        }
        for (length, needed, what) in [
            (0x206, header, "setup header"),
            (header - 1, header, "setup header"),
            (header, setup, "setup sectors"),
            (setup - 1, setup, "setup sectors"),
            (setup + 0x1000, setup + code, "protected-mode code"),
            (whole.len() / 2, setup + code, "protected-mode code"),
            (setup + code - 16, setup + code, "protected-mode code"), // its last paragraph need not be whole
        ] {
            fs::write(&kernel, &whole[..length]).expect("it is ours");
            let sizes = format!("it has {length} bytes, at least {needed} are needed");
            is_refused(&daemon, &kernel, &format!("is cut short: {sizes} to the end of its {what}; copy it again"));
        }
        quiet.again();
        ends(daemon);
    });
}

#[test]
fn an_elf_with_wild_headers_is_refused_with_what_is_wild() {
    apart("kernels::an_elf_with_wild_headers_is_refused_with_what_is_wild", || {
        let dir = tempfile::tempdir().expect("a directory");
        let kernel = dir.path().join("wild");
        let daemon = bare();
        let quiet = Quiet::of(&daemon);
        let mut wrong = Vec::new();
        let wild = u64::MAX.to_le_bytes();
        // Fields by their place in the file: ELF header, then the program header at 64 (System V ABI, chapters 4 and 5).
        for (at, bytes, why) in [
            (4, &[1u8][..], "is an ELF file for another processor than x86-64"),
            (18, &[183, 0], "is an ELF file for another processor than x86-64"),
            (56, &[0, 0], "has a damaged header: e_phnum is 0x0; copy it again"),
            (120, &[0], "is an ELF file that lacks a PVH entry (Xen's note PHYS32_ENTRY)"),
            (56, &[0xff, 0xff], "has a damaged header: e_phnum is 0xffff; copy it again"),
            (54, &[1, 0], "has a damaged header: e_phentsize is 0x1; copy it again"),
            (32, &wild, "is cut short"),
            (72, &wild, "is cut short"),
            (96, &wild, "has a damaged header: p_filesz is 0xffffffffffffffff"),
            (88, &wild, "has a damaged header"),
            (88, &[0; 8], "has a segment at 0x0, below 1 MiB"),
            (104, &[0; 8], "has a damaged header: p_filesz is 0x4"),
            (104, &wild, "has a damaged header"),
            (152, &wild, "has a damaged header: p_filesz is 0xffffffffffffffff"),
            (0x110, &[0xff; 4], "has a damaged header: PHYS32_ENTRY is 0xffffffff"),
        ] {
            let mut file = idle::kernel(Does::Nothing);
            file.splice(at..at + bytes.len(), bytes.iter().copied());
            fs::write(&kernel, file).expect("it is ours");
            let reply = daemon.vmctl(&["start", "-b", text(&kernel), "-m", "64M", "new"]);
            let said = format!("vmctl: start \"new\": kernel \"{}\": {why}", kernel.display());
            assert_eq!((reply.status, reply.stderr.lines().count()), (Some(1), 1), "{at}: {reply:?}");
            if !reply.stderr.starts_with(&said) {
                wrong.push(format!("{at}: {:?}, not {why:?}", reply.stderr));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        fs::write(&kernel, idle::kernel(Does::Nothing)).expect("it is ours");
        let start = ["start", "-b", text(&kernel), "-m", "64M", "new"];
        refused(&daemon, &start, &format!("vmctl: start \"new\": {NO_KVM}"));
        quiet.again();
        ends(daemon);
    });
}
