//! What is no disk, or not free, is named with its path and what to do.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use e2e::idle::{self, Does};
use rustix::fs::{FlockOperation, fcntl_lock};
use sys::lock::{Kind, try_lock};
use testkit::apart::apart;
use testkit::daemon::Daemon;
use testkit::deadline::{self, DAEMON};

use crate::world::{NO_KVM, Quiet, bare, ends, refused, run, text};

/// An image of so many bytes.
fn image(path: &Path, bytes: u64) -> File {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path).expect("it is ours");
    file.set_len(bytes).expect("it is ours");
    file
}

/// A start that was refused leaves no lock: waits until this one can be had, which stays.
fn is_free(file: &File) {
    let lock = || try_lock(file, Kind::Exclusive).expect("a file").then_some(());
    deadline::until("the disk to be free", DAEMON, lock);
}

/// Starts a new VM with these disks; vmctl must say exactly this.
#[track_caller]
fn is_refused(daemon: &Daemon, kernel: &Path, disks: &[&Path], said: &str) {
    let mut arguments = vec!["start", "-b", text(kernel), "-m", "64M"];
    for disk in disks {
        arguments.extend(["-d", text(disk)]);
    }
    arguments.push("new");
    refused(daemon, &arguments, &format!("vmctl: {said}"));
}

#[test]
fn an_image_that_is_no_disk_is_refused_with_what_it_is() {
    apart("disks::an_image_that_is_no_disk_is_refused_with_what_it_is", || {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let kernel = idle::kernel_file(dir.path(), Does::Nothing);
        for (name, bytes) in [("empty", 0), ("short", 511), ("sector", 512), ("with blank", 512)] {
            image(&at(name), bytes);
        }
        fs::create_dir(at("dir")).expect("it is ours");
        run(std::process::Command::new("mkfifo").arg(at("fifo"))).success();
        let _listens = std::os::unix::net::UnixListener::bind(at("socket")).expect("it is ours");
        symlink("loop", at("loop")).and_then(|()| symlink("nowhere", at("dangling"))).expect("it is ours");
        fs::write(at("header"), [b"QFI\xfb\0\0\0\x03", &[0; 1024][..]].concat()).expect("it is ours");
        image(&at("image.qcow2"), 1 << 20);
        let daemon = bare();
        let quiet = Quiet::of(&daemon);
        let must = "disk must be a regular file or a block device";
        let make = |name: &str| format!("create one with \"vmctl create -s SIZE {}\"", at(name).display());
        for (name, why) in [
            ("empty", format!("has 0 bytes, but a disk has at least 512; {}", make("empty"))),
            ("short", format!("has 511 bytes, but a disk has at least 512; {}", make("short"))),
            ("dir", format!("is a directory, {must}")),
            ("fifo", format!("is a fifo, {must}")),
            ("socket", format!("is a socket, or a device without a driver; {must}")),
            (
                "header",
                "the image begins like a qcow2 image and was not called raw; add \"format qcow2\" or \"format raw\""
                    .to_owned(),
            ),
        ] {
            let said = format!("start \"new\": disk \"{}\": {why}", at(name).display());
            is_refused(&daemon, &kernel, &[&at(name)], &said);
        }
        let null = format!("start \"new\": disk \"/dev/null\": is a character device, {must}");
        is_refused(&daemon, &kernel, &[Path::new("/dev/null")], &null);
        let qcow2 = at("image.qcow2");
        let why = "the file is no qcow2 image; if it is a raw disk, say \"format raw\"";
        is_refused(&daemon, &kernel, &[&qcow2], &format!("start \"new\": disk \"{}\": {why}", qcow2.display()));
        for (name, why) in [
            ("loop", "Too many levels of symbolic links"),
            ("dangling", "No such file or directory"),
            ("nowhere", "No such file or directory"),
        ] {
            let said = format!("invalid disk path: {}: {why}", at(name).display());
            is_refused(&daemon, &kernel, &[&at(name)], &said);
        }
        for right in ["sector", "with blank"] {
            is_refused(&daemon, &kernel, &[&at(right)], &format!("start \"new\": {NO_KVM}"));
        }
        let sector = at("sector");
        is_refused(&daemon, &kernel, &[&*sector; 17], "too many disks: at most 16");
        quiet.again();
        ends(daemon);
    });
}

#[test]
fn a_disk_that_is_in_use_is_refused_and_free_again_after_a_start_that_failed() {
    apart("disks::a_disk_that_is_in_use_is_refused_and_free_again_after_a_start_that_failed", || {
        let dir = tempfile::tempdir().expect("a directory");
        let kernel = idle::kernel_file(dir.path(), Does::Nothing);
        let (disk, other) = (dir.path().join("disk"), dir.path().join("other name"));
        let file = image(&disk, 1 << 20);
        fs::hard_link(&disk, &other).expect("it is ours");
        let daemon = bare();
        let quiet = Quiet::of(&daemon);
        let said = |path: &Path, why: &str| format!("start \"new\": disk \"{}\": {why}", path.display());
        let by_others = "already in use by another program or daemon; end it, or name another image";

        is_refused(&daemon, &kernel, &[&disk, &disk], &said(&disk, "given twice to vm \"new\"; name another image"));
        // Another path to the same file: only its lock tells.
        let twice = "given to vm \"new\" by another of its disks too; name another image";
        is_refused(&daemon, &kernel, &[&disk, &other], &said(&other, twice));
        is_free(&file);
        is_refused(&daemon, &kernel, &[&disk], &said(&disk, by_others));
        drop(file);

        let file = File::options().read(true).write(true).open(&disk).expect("it is ours");
        fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).expect("a lock");
        let by_us = format!("already in use by process {}; end it, or name another image", std::process::id());
        is_refused(&daemon, &kernel, &[&disk], &said(&disk, &by_us));
        drop(file);

        is_refused(&daemon, &kernel, &[&disk], &format!("start \"new\": {NO_KVM}"));
        let file = File::options().read(true).write(true).open(&disk).expect("it is ours");
        is_free(&file);
        quiet.again();
        ends(daemon);
    });
}
