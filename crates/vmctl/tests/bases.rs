//! `vmctl create` of qcow2 images, on top of bases and without (openbsd/vmctl.md, 4.2 and 4.3), by the program itself.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn run(folder: &Path, program: &str, arguments: &str) -> (Option<i32>, String) {
    let mut command = Command::new(program);
    command.args(arguments.split(' ')).current_dir(folder).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}; the tests need qemu-utils"));
    let Output { status, stdout, stderr } = output;
    (status.code(), String::from_utf8([stdout, stderr].concat()).expect("text"))
}

fn create(folder: &Path, arguments: &str) -> (Option<i32>, String) {
    run(folder, env!("CARGO_BIN_EXE_vmctl"), &format!("create {arguments}"))
}

#[track_caller]
fn qemu_img(folder: &Path, arguments: &str) -> String {
    let (status, said) = run(folder, "qemu-img", arguments);
    assert_eq!(status, Some(0), "{arguments}: {said}");
    said
}

#[track_caller]
fn made(folder: &Path, arguments: &str) {
    assert_eq!(create(folder, arguments), (Some(0), "vmctl: qcow2 imagefile created\n".into()), "{arguments}");
}

#[track_caller]
fn refused(folder: &Path, arguments: &str, said: &str) {
    assert_eq!(create(folder, arguments), (Some(1), format!("vmctl: {said}\n")), "{arguments}");
    assert!(!folder.join("x.qcow2").exists(), "{arguments}");
}

#[test]
fn an_empty_qcow2_image_is_small_right_and_its_users_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    for name in ["a.qcow2", "qcow2:b"] {
        made(folder, &format!("-s 1T {name}"));
        let file = name.trim_start_matches("qcow2:");
        let it = fs::metadata(folder.join(file)).expect("made");
        assert!(it.len() <= 4 * 65536 && it.mode() & 0o7777 == 0o600, "{it:?}");
        assert!(qemu_img(folder, &format!("check -f qcow2 {file}")).contains("No errors were found"));
        let info = qemu_img(folder, &format!("info {file}"));
        assert!(info.contains("(1099511627776 bytes)") && info.contains("cluster_size: 65536"), "{info}");
    }
    let there = "create imagefile operation failed: \"b\": the file exists; name another, or remove it first";
    assert_eq!(create(folder, "-s 1M qcow2:b"), (Some(1), format!("vmctl: {there}\n")));
}

#[test]
fn an_image_on_a_base_reads_as_the_base_and_records_what_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    fs::create_dir(folder.join("d")).expect("it is ours");
    fs::write(folder.join("d/base.img"), vec![7; (1 << 20) + 512]).expect("it is ours");
    // Relative to the new image, not to the directory that vmctl runs in.
    made(folder, "-b base.img d/one.qcow2");
    made(folder, "-b one.qcow2 -s 5M d/two.qcow2");
    let info = qemu_img(folder, "info --backing-chain d/two.qcow2");
    for line in [
        "backing file: one.qcow2 (actual path: d/one.qcow2)",
        "backing file format: qcow2",
        "backing file: base.img (actual path: d/base.img)",
        "backing file format: raw",
        "(5242880 bytes)",
        "(1049088 bytes)",
    ] {
        assert!(info.contains(line), "{line}: {info}");
    }
    qemu_img(folder, "compare -f qcow2 -F raw d/two.qcow2 d/base.img");
    made(folder, &format!("-b {}/d/one.qcow2 three.qcow2", folder.display()));
    qemu_img(folder, "compare -f qcow2 -F raw three.qcow2 d/base.img");
    assert_eq!(fs::metadata(folder.join("d/base.img")).expect("there").len(), (1 << 20) + 512);
}

#[test]
fn a_base_that_no_image_can_stand_on_is_refused_and_nothing_is_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let failure = "failure to read base image header:";
    fs::create_dir(folder.join("d")).expect("it is ours");
    fs::write(folder.join("raw"), vec![7; 2 << 20]).expect("it is ours");
    fs::write(folder.join("text.qcow2"), vec![b'x'; 2048]).expect("it is ours");
    made(folder, "-s 2M top.qcow2");
    fs::copy(folder.join("top.qcow2"), folder.join("unnamed")).expect("it is ours");
    refused(folder, "-b none x.qcow2", &format!("{failure} \"none\": No such file or directory"));
    let hint = "a name that is not absolute is relative to the directory of the new image";
    let beside = format!("{failure} \"d/raw\": No such file or directory; {hint}");
    assert_eq!(create(folder, "-b raw d/x.qcow2"), (Some(1), format!("vmctl: {beside}\n")));
    refused(folder, "-b d x.qcow2", &format!("{failure} \"d\": neither a regular file nor a block device"));
    let larger = "base size does not match requested size: \"raw\" has 2097152 bytes, more than 1048576";
    refused(folder, "-b raw -s 1M x.qcow2", larger);
    let (status, said) = create(folder, "-b text.qcow2 x.qcow2");
    assert_eq!(status, Some(1));
    assert!(said.starts_with(&format!("vmctl: {failure} \"text.qcow2\": the file is no qcow2 image")), "{said}");
    let looks = "begins like a qcow2 image; write \"qcow2:\" or \"raw:\" before its name to say what it is";
    refused(folder, "-b unnamed x.qcow2", &format!("{failure} \"unnamed\": {looks}"));
    let colon = "base image name \"nbd:x\" is taken for a protocol because of its colon; write \"./\" before it";
    refused(folder, "-b nbd:x x.qcow2", colon);
    refused(folder, "-b raw: x.qcow2", "base image name \"\" is empty; name the file");

    // Two that name each other: qemu-img records names without a look.
    made(folder, "-s 2M a.qcow2");
    made(folder, "-b a.qcow2 b.qcow2");
    qemu_img(folder, "rebase -u -f qcow2 -F qcow2 -b b.qcow2 a.qcow2");
    refused(folder, "-b b.qcow2 x.qcow2", &format!("{failure} \"b.qcow2\": it is a base of itself"));
    let held = fs::File::options().read(true).write(true).open(folder.join("raw")).expect("it is ours");
    assert!(sys::lock::try_lock(&held, sys::lock::Kind::Exclusive).expect("it is ours"));
    let in_use = "in use: a VM, or another program, has it open for writing; stop that first";
    refused(folder, "-b raw x.qcow2", &format!("{failure} \"raw\": {in_use}"));
}

#[test]
fn a_chain_has_sixteen_files_at_most_and_a_name_1023_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    made(folder, "-s 1M 0.qcow2");
    for file in 1..16 {
        made(folder, &format!("-b {}.qcow2 {file}.qcow2", file - 1));
    }
    let long = "its chain of bases is too long: an image has 15 at most; make it independent with qemu-img convert";
    refused(folder, "-b 15.qcow2 x.qcow2", &format!("failure to read base image header: \"15.qcow2\": {long}"));
    let name = format!("{}0.qcow2", "./".repeat(510));
    let (status, said) = create(folder, &format!("-b {name} x.qcow2"));
    assert_eq!(status, Some(1));
    assert!(said.ends_with("\"x.qcow2\": the base's name has 1027 bytes; it has 1 to 1023\n"), "{said}");
    assert!(!folder.join("x.qcow2").exists());
}
