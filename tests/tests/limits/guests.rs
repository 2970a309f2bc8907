//! What only a real KVM comes to, beside a guest that runs all the while: sizes that don't fit, and what that guest has.

use std::fs::{self, File};
use std::path::Path;

use e2e::idle::{self, Does};
use e2e::vm_conf::switch;
use testkit::artefacts::{self, Kernel};
use testkit::bridge;
use testkit::daemon::Daemon;
use testkit::deadline::{self, DAEMON};
use testkit::machine::on_kvm;

use crate::world::{Quiet, ends, refused, text};

/// A file of so many bytes without blocks.
fn sparse(path: &Path, bytes: u64) {
    File::create(path).and_then(|file| file.set_len(bytes)).expect("it is ours");
}

/// A tiny kernel whose segment is to lie where no memory is, or is larger than all of it.
fn wild_kernel(path: &Path, at: usize, value: u64) {
    let mut file = idle::kernel(Does::Nothing);
    file.splice(at..at + 8, value.to_le_bytes());
    fs::write(path, file).expect("it is ours");
}

#[test]
fn sizes_that_do_not_fit_and_what_a_guest_has_are_refused_while_it_runs() {
    on_kvm("guests::sizes_that_do_not_fit_and_what_a_guest_has_are_refused_while_it_runs", || {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let kernel = idle::kernel_file(dir.path(), Does::Nothing);
        let quoted = |option: &str, name: &str| format!("{option} \"{}\"", at(name).display());
        for (name, bytes) in [("disk", 1 << 20), ("initrd", 1 << 20), ("large", 1 << 30), ("empty", 0)] {
            sparse(&at(name), bytes);
        }
        fs::hard_link(at("disk"), at("same")).expect("it is ours");
        wild_kernel(&at("wide"), 104, 1 << 30); // p_memsz of the first segment
        fs::copy(artefacts::kernel(Kernel::BzImage), at("stock")).expect("the stock kernel");
        File::options().append(true).open(at("stock")).and_then(|file| file.set_len(128 << 20)).expect("it is ours");
        let disk = quoted("disk", "disk");
        let tap = "interface tap7 { switch \"lan\" }";
        let shared = quoted("initrd", "initrd");
        let conf = [
            switch("lan", "bridge0"),
            idle::vm("first", &kernel, &[&disk, tap, &shared]),
            idle::vm("disk", &kernel, &[&disk]),
            idle::vm("same", &kernel, &[&quoted("disk", "same")]),
            idle::vm("tap", &kernel, &[tap]),
            idle::vm("large", &kernel, &[&quoted("initrd", "large"), "interface { switch \"lan\" }"]),
            idle::vm("empty", &kernel, &[&quoted("initrd", "empty")]),
            idle::vm("wide", &at("wide"), &[]),
            idle::vm("stock", &at("stock"), &[]),
            idle::vm("second", &kernel, &[&shared, "interface { switch \"lan\" }"]),
        ];
        let daemon = Daemon::start_quietly(&conf.concat());
        deadline::until("the bridge", DAEMON, || bridge::exists("bridge0").then_some(()));
        let nothing = Quiet::of(&daemon);
        daemon.vmctl(&["start", "first"]).success();
        let running = Quiet::of(&daemon);
        let place = dir.path().display();
        for (name, said) in [
            ("first", "vm \"first\" already runs".to_owned()),
            ("disk", format!("disk \"{place}/disk\": already in use by vm \"first\"; stop it, or name another image")),
            ("same", format!("disk \"{place}/same\": already in use by vm \"first\"; stop it, or name another image")),
            ("tap", "tap \"tap7\" is taken; name another, or leave the name out for the first free one".to_owned()),
            ("empty", format!("initrd \"{place}/empty\": is empty; name another file, or leave the option out")),
        ] {
            refused(&daemon, &["start", name], &format!("vmctl: start \"{name}\": {said}"));
        }
        for (name, said) in [
            ("large", "initrd has 1073741824 bytes, and ".to_owned()),
            (
                "wide",
                format!("kernel \"{place}/wide\": needs memory from 0x100000 to 0x40100000 (1025 MiB), the guest has"),
            ),
            ("stock", format!("kernel \"{place}/stock\": needs memory from 0x1000000 to ")),
        ] {
            let reply = daemon.vmctl(&["start", name]);
            let start = format!("vmctl: start \"{name}\": {said}");
            assert!(reply.stderr.starts_with(&start) && reply.stderr.ends_with("more memory\n"), "{reply:?}");
            assert_eq!((reply.status, reply.stderr.lines().count()), (Some(1), 1));
        }
        running.again();
        assert_eq!(daemon.row("first").state, "running", "it noticed nothing");
        // What is only read is shared, and another VM is served.
        daemon.vmctl(&["start", "second"]).success();
        daemon.vmctl(&["stop", "-f", "-w", "second"]).success();
        daemon.vmctl(&["stop", "-f", "-w", "first"]).success();
        nothing.again();
        daemon.vmctl(&["start", "disk"]).success();
        refused(
            &daemon,
            &["start", "-b", text(&kernel), "-m", "64M", "disk"],
            "vmctl: start \"disk\": vm \"disk\" already runs",
        );
        daemon.vmctl(&["stop", "-f", "-w", "disk"]).success();
        nothing.again();
        ends(daemon);
    });
}
