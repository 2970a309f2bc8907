//! `vmctl create -i`: copies of images (openbsd/vmctl.md, 4.4), by the program itself.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn program(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmctl"));
    command.args(arguments.split(' ')).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn vmctl(folder: &Path, arguments: &str) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = program(folder, arguments).output().expect("it runs");
    (status.code(), String::from_utf8(stderr).expect("text"))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// A sparse disk of this size with something at its beginning, its middle and its end.
fn disk(folder: &Path, name: &str, size: u64) -> File {
    let file = File::options().read(true).write(true).create_new(true).open(folder.join(name)).expect("it is ours");
    file.set_len(size).expect("it is ours");
    for at in [0, size / 2, size - 3] {
        file.write_all_at(b"abc", at).expect("it is ours");
    }
    file
}

/// Programs of the host that pack.
const PACKERS: [(&str, &str); 3] = [("gzip", "gz"), ("xz", "xz"), ("zstd", "zst")];

/// A packed copy of a file beside it.
fn pack(folder: &Path, name: &str, program: &str, extension: &str) {
    let packed = File::create_new(folder.join(format!("{name}.{extension}"))).expect("it is ours");
    let done = Command::new(program).args(["-c", name]).current_dir(folder).stdout(packed).status();
    assert!(done.unwrap_or_else(|error| panic!("{program}: {error}")).success(), "{program}");
}

#[test]
fn a_copy_has_the_same_bytes_is_sparse_and_its_users_alone() {
    let folder = folder();
    let folder = folder.path();
    disk(folder, "a", 64 << 20);
    assert_eq!(vmctl(folder, "create -i a b.raw"), (Some(0), "vmctl: raw imagefile created\n".into()));
    let made = fs::metadata(folder.join("b.raw")).expect("made");
    assert_eq!((made.len(), made.mode() & 0o7777), (64 << 20, 0o600));
    assert!(made.blocks() * 512 < 1 << 20, "{} blocks", made.blocks());
    assert!(fs::read(folder.join("a")).expect("read") == fs::read(folder.join("b.raw")).expect("read"));
}

#[test]
fn what_gzip_xz_and_zstd_packed_is_unpacked_and_sparse_again() {
    let folder = folder();
    let folder = folder.path();
    disk(folder, "a.raw", 16 << 20);
    let bytes = fs::read(folder.join("a.raw")).expect("read");
    for (program, extension) in PACKERS {
        pack(folder, "a.raw", program, extension);
        assert_eq!(vmctl(folder, &format!("create -i a.raw.{extension} {extension}")).0, Some(0), "{program}");
        let made = folder.join(extension);
        assert!(fs::read(&made).expect("read") == bytes, "{program}");
        assert!(fs::metadata(&made).expect("made").blocks() * 512 < 1 << 20, "{program}");
        let plain = vmctl(folder, &format!("create -i raw:a.raw.{extension} plain-{extension}"));
        assert_eq!(plain.0, Some(0), "with a prefix it is copied as it is: {}", plain.1);
        let (copied, packed) = (folder.join(format!("plain-{extension}")), folder.join(format!("a.raw.{extension}")));
        assert!(fs::read(copied).expect("read").starts_with(&fs::read(packed).expect("read")), "{program}");
    }
}

#[test]
fn the_size_of_a_copy_is_rounded_up_to_mib_or_given_and_never_smaller() {
    let folder = folder();
    let folder = folder.path();
    disk(folder, "a", (2 << 20) + 5);
    pack(folder, "a", "gzip", "gz");
    let rounded = "vmctl: destination size rounded to 3 megabytes\nvmctl: raw imagefile created\n";
    let len = |name: &str| fs::metadata(folder.join(name)).expect("made").len();
    for (source, bytes) in [("a", "2097157"), ("a.gz", "more")] {
        assert_eq!(vmctl(folder, &format!("create -i {source} x")), (Some(0), rounded.into()), "{source}");
        assert_eq!(len("x"), 3 << 20);
        fs::remove_file(folder.join("x")).expect("it is ours");
        let given = vmctl(folder, &format!("create -i {source} -s 5M x"));
        assert_eq!((given, len("x")), ((Some(0), "vmctl: raw imagefile created\n".into()), 5 << 20));
        fs::remove_file(folder.join("x")).expect("it is ours");
        let said =
            format!("vmctl: size cannot be smaller than input disk size: 2097152, and \"{source}\" has {bytes}\n");
        assert_eq!(vmctl(folder, &format!("create -i {source} -s 2M x")), (Some(1), said));
        assert!(!folder.join("x").exists());
    }
}

#[test]
fn a_copy_that_can_not_be_made_is_told_and_leaves_nothing() {
    let folder = folder();
    let folder = folder.path();
    disk(folder, "a", 1 << 20);
    fs::write(folder.join("q"), b"QFI\xfb\0\0\0\x03").expect("it is ours");
    pack(folder, "q", "gzip", "gz");
    fs::write(folder.join("cut.xz"), b"\xfd7zXZ\0\0\x04\xe6").expect("it is ours");
    let held = disk(folder, "held", 1 << 20);
    assert!(sys::lock::try_lock(&held, sys::lock::Kind::Exclusive).expect("it is ours"));
    let fifo = Command::new("mkfifo").arg("fifo").current_dir(folder).status().expect("mkfifo runs");
    assert!(fifo.success());
    let looks = "begins like a qcow2 image; write \"qcow2:\" or \"raw:\" before its name to say what it is";
    for (source, said) in [
        ("none", "No such file or directory"),
        ("fifo", "neither a regular file nor a block device"),
        (".", "neither a regular file nor a block device"),
        ("q", looks),
        ("q.gz", looks),
        ("held", "in use: a VM, or another program, has it open for writing; stop that first"),
    ] {
        let said = format!("vmctl: failed to open source image file: \"{source}\": {said}\n");
        assert_eq!(vmctl(folder, &format!("create -i {source} x")), (Some(1), said));
        assert!(!folder.join("x").exists(), "{source}");
    }
    let (status, said) = vmctl(folder, "create -i cut.xz x");
    assert_eq!(status, Some(1));
    assert_eq!(said, "vmctl: failed to read from source: \"cut.xz\": it is cut short: its end is missing\n");
    assert!(!folder.join("x").exists());
    let itself = vmctl(folder, "create -i a a");
    let said = "vmctl: create imagefile operation failed: \"a\": the file exists; name another, or remove it first\n";
    assert_eq!(itself, (Some(1), said.to_owned()));
    assert_eq!(fs::metadata(folder.join("a")).expect("untouched").len(), 1 << 20);
}

/// What QEMU's tool says of images; the tests need the package qemu-utils.
#[track_caller]
fn qemu_img(folder: &Path, arguments: &str) -> String {
    let output = Command::new("qemu-img").args(arguments.split(' ')).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| panic!("qemu-img: {error}; install qemu-utils"));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{arguments}: {said}");
    said
}

#[test]
fn copies_of_raw_and_packed_disks_are_qcow2_images_where_the_name_says_so() {
    let folder = folder();
    let folder = folder.path();
    disk(folder, "a", (64 << 20) + 5);
    pack(folder, "a", "zstd", "zst");
    let rounded = "vmctl: destination size rounded to 65 megabytes\nvmctl: qcow2 imagefile created\n";
    for source in ["a", "a.zst"] {
        assert_eq!(vmctl(folder, &format!("create -i {source} {source}.qcow2")), (Some(0), rounded.into()));
        assert!(qemu_img(folder, &format!("check {source}.qcow2")).contains("No errors were found"));
        qemu_img(folder, &format!("compare -f raw -F qcow2 a {source}.qcow2"));
        let made = fs::metadata(folder.join(format!("{source}.qcow2"))).expect("made");
        assert!(made.len() < 2 << 20 && made.mode() & 0o7777 == 0o600, "{source}: {made:?}");
    }
    let (status, said) = vmctl(folder, "create -i a -s 3P b.qcow2");
    assert_eq!(status, Some(1));
    assert!(said.ends_with("\"b.qcow2\": a qcow2 disk has 512 bytes to 2 PiB, not 3377699720527872\n"), "{said}");
    assert!(!folder.join("b.qcow2").exists());
}

/// A qcow2 image on a qcow2 image on a raw disk, in a folder of their own; and what it reads as, in `flat`.
fn chain(folder: &Path) {
    fs::create_dir(folder.join("d")).expect("it is ours");
    disk(folder, "d/raw", 3 << 20);
    qemu_img(folder, "create -q -f qcow2 -o cluster_size=4k,compat=0.10 -b raw -F raw d/middle.qcow2 5M");
    qemu_img(folder, "create -q -f qcow2 -b middle.qcow2 -F qcow2 d/top.qcow2 9M");
    let io = |file: &str, command: &str| {
        let done = Command::new("qemu-io").args(["-f", "qcow2", "-c", command, file]).current_dir(folder).output();
        assert!(done.expect("qemu-io is in qemu-utils").status.success(), "{command}");
    };
    io("d/middle.qcow2", "write -P 1 4500k 300k");
    io("d/top.qcow2", "write -P 2 100k 200");
    io("d/top.qcow2", "write -P 3 8191k 1k");
    io("d/top.qcow2", "write -z 1m 1m");
    qemu_img(folder, "convert -f qcow2 -O raw d/top.qcow2 flat");
}

#[test]
fn an_image_with_its_bases_is_copied_as_one_disk() {
    let folder = folder();
    let folder = folder.path();
    chain(folder);
    for (target, said) in [("a", "raw"), ("a.qcow2", "qcow2")] {
        let outcome = vmctl(folder, &format!("create -i d/top.qcow2 {target}"));
        assert_eq!(outcome, (Some(0), format!("vmctl: {said} imagefile created\n")));
        qemu_img(folder, &format!("compare -f raw -F {said} flat {target}"));
    }
    assert!(fs::read(folder.join("a")).expect("made") == fs::read(folder.join("flat")).expect("made"));
    assert!(qemu_img(folder, "check a.qcow2").contains("No errors were found"));
    assert!(!qemu_img(folder, "info a.qcow2").contains("backing"), "it stands alone");
    let smaller = vmctl(folder, "create -i d/top.qcow2 -s 8M b");
    let said = "vmctl: size cannot be smaller than input disk size: 8388608, and \"d/top.qcow2\" has 9437184\n";
    assert_eq!(smaller, (Some(1), said.to_owned()));
    fs::remove_file(folder.join("d/raw")).expect("it is ours");
    let said = "vmctl: failed to open source image file: \"d/raw\": No such file or directory\n";
    assert_eq!(vmctl(folder, "create -i d/top.qcow2 b"), (Some(1), said.to_owned()));
    assert!(!folder.join("b").exists());
}

#[test]
fn compressed_extended_and_packed_images_are_copied() {
    let folder = folder();
    let folder = folder.path();
    chain(folder);
    for (name, options) in [
        ("deflate", "-c"),
        ("zstd", "-c -o compression_type=zstd,cluster_size=2M"),
        ("extended", "-o extended_l2=on"),
        ("small", "-o cluster_size=512,refcount_bits=1"),
    ] {
        qemu_img(folder, &format!("convert -f raw -O qcow2 {options} flat {name}.qcow2"));
        pack(folder, &format!("{name}.qcow2"), "xz", "xz");
        for source in [format!("{name}.qcow2"), format!("{name}.qcow2.xz")] {
            assert_eq!(vmctl(folder, &format!("create -i {source} out")).0, Some(0), "{source}");
            assert!(fs::read(folder.join("out")).expect("made") == fs::read(folder.join("flat")).expect("made"));
            fs::remove_file(folder.join("out")).expect("it is ours");
        }
    }
    let left: Vec<_> =
        fs::read_dir(folder).expect("ours").filter_map(|it| it.ok()?.file_name().into_string().ok()).collect();
    assert!(left.iter().all(|name| !name.contains("unpacked")), "{left:?}");
}

#[test]
fn a_damaged_image_is_told_and_its_copy_removed() {
    let folder = folder();
    let folder = folder.path();
    chain(folder);
    let file = File::options().read(true).write(true).open(folder.join("d/top.qcow2")).expect("it is ours");
    let mut l1 = [0; 8];
    file.read_exact_at(&mut l1, 40).expect("the L1 table's place");
    file.write_all_at(&[0x80, 0, 0, 0x7f, 0, 0, 0, 0], u64::from_be_bytes(l1)).expect("it is ours");
    let (status, said) = vmctl(folder, "create -i d/top.qcow2 x");
    assert_eq!(status, Some(1));
    assert!(
        said.starts_with("vmctl: failed to read from source: \"d/top.qcow2\": \"d/top.qcow2\" is damaged: "),
        "{said}"
    );
    assert!(!folder.join("x").exists());
}

#[test]
fn a_copy_that_is_interrupted_leaves_nothing() {
    let folder = folder();
    let folder = folder.path();
    pack_zeros(folder);
    for signal in ["INT", "TERM", "HUP"] {
        let mut child = program(folder, "create -i endless.gz x").stderr(Stdio::piped()).spawn().expect("it runs");
        let until = Instant::now() + Duration::from_secs(60);
        while !folder.join("x").exists() {
            assert!(Instant::now() < until, "the copy begins");
            std::thread::sleep(Duration::from_millis(5));
        }
        let kill = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status();
        assert!(kill.expect("kill runs").success());
        let status = child.wait().expect("it ends");
        let mut said = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().expect("piped"), &mut said).expect("text");
        assert_eq!((status.code(), said.as_str()), (Some(1), "vmctl: interrupted; \"x\" was removed\n"), "{signal}");
        assert!(!folder.join("x").exists(), "{signal}");
    }
}

/// A packed file of so many zeros that unpacking them takes minutes: members one after the other.
fn pack_zeros(folder: &Path) {
    let mut gzip = Command::new("gzip").arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("gzip");
    let mut input = gzip.stdin.take().expect("piped");
    let writing = std::thread::spawn(move || input.write_all(&vec![0; 64 << 20]));
    let member = gzip.wait_with_output().expect("it ends").stdout;
    writing.join().expect("no panic").expect("written");
    fs::write(folder.join("endless.gz"), member.repeat(2000)).expect("it is ours");
}

/// Runs with a limit of 64 KiB for the files that it writes.
fn limited(folder: &Path, arguments: &str) -> (Option<i32>, String) {
    let line = format!("ulimit -f 64; exec {} {arguments}", env!("CARGO_BIN_EXE_vmctl"));
    let output = Command::new("bash").args(["-c", &line]).current_dir(folder).stdin(Stdio::null()).output();
    let Output { status, stderr, .. } = output.expect("it runs");
    (status.code(), String::from_utf8(stderr).expect("text"))
}

#[test]
fn a_limit_of_the_files_size_is_told_and_nothing_is_left() {
    let folder = folder();
    let folder = folder.path();
    fs::write(folder.join("a.raw"), vec![1; 1 << 20]).expect("it is ours");
    let made = "vmctl: create imagefile operation failed: ";
    let copied = "vmctl: failed to write to destination: ";
    for (arguments, name, said) in [
        ("create -s 1M x.raw", "x.raw", made),
        ("create -s 1M x.qcow2", "x.qcow2", made),
        ("create -i a.raw x.raw", "x.raw", copied),
        ("create -i a.raw x.qcow2", "x.qcow2", copied),
    ] {
        let said = format!("{said}\"{name}\": File too large\n");
        assert_eq!(limited(folder, arguments), (Some(1), said), "{arguments}");
        assert!(!folder.join(name).exists(), "{arguments}");
    }
    let said = "vmctl: image resize: \"a.raw\": File too large\n";
    assert_eq!(limited(folder, "image resize a.raw 2M"), (Some(1), said.into()));
    assert_eq!(fs::metadata(folder.join("a.raw")).expect("there").len(), 1 << 20);
}

#[test]
fn a_packed_image_is_unpacked_beside_a_name_as_long_as_names_may_be_and_leaves_nothing() {
    let folder = folder();
    let folder = folder.path();
    disk(folder, "a.raw", 1 << 20);
    assert_eq!(vmctl(folder, "create -i a.raw a.qcow2").0, Some(0));
    pack(folder, "a.qcow2", "gzip", "gz");
    let name = "n".repeat(255);
    assert_eq!(vmctl(folder, &format!("create -i a.qcow2.gz {name}")).0, Some(0));
    let mut names: Vec<_> = fs::read_dir(folder).expect("ours").map(|it| it.expect("ours").file_name()).collect();
    names.sort();
    assert_eq!(names, ["a.qcow2", "a.qcow2.gz", "a.raw", &name]);
}
