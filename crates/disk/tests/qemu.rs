//! Images that qemu-img makes, with its options, read as what was put into them; and those that are written here are right
//! to it. Wants qemu-utils.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use disk::qcow2::{Action, Layer, Limits, Map, Op, Request, RequestId};
use model::DiskFormat;

/// Runs one of QEMU's tools; it must succeed.
fn qemu(tool: &str, dir: &Path, args: &[&str]) {
    let ran = Command::new(tool).args(args).current_dir(dir).output();
    let ran = ran.unwrap_or_else(|error| panic!("{tool}: {error}; install qemu-utils"));
    assert!(ran.status.success(), "{tool} {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// Makes `image` of `raw`, with options of qcow2's, compressed or not.
fn convert(dir: &Path, options: &str, packed: bool) {
    let mut args = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", options];
    if packed {
        args.push("-c");
    }
    args.extend(["raw", "image"]);
    qemu("qemu-img", dir, &args);
}

/// A chain, nearest first, and a map of it.
struct Chain {
    map: Map,
    files: Vec<File>,
    next: u64,
}

fn usize_of(value: u64) -> usize {
    usize::try_from(value).expect("it is small")
}

impl Chain {
    fn open(files: &[(PathBuf, DiskFormat)], writes: bool) -> Self {
        let open = |path: &Path, writes| File::options().read(true).write(writes).open(path).expect("it was made");
        let opened: Vec<File> =
            files.iter().enumerate().map(|(number, (path, _))| open(path, writes && number == 0)).collect();
        let layers = opened.iter().zip(files).enumerate().map(|(number, (file, (path, format)))| {
            let len = file.metadata().expect("it is a file").len();
            let layer = match writes && number == 0 {
                true => Layer::open_to_write(file, len),
                false => Layer::open(file, len, *format),
            };
            layer.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        });
        let map = Map::open(layers.collect(), Limits::default()).expect("it is short");
        Self { map, files: opened, next: 0 }
    }

    /// Does a request with these bytes, which must go well.
    fn perform(&mut self, request: Request, buffer: &mut [u8]) {
        self.next += 1;
        self.map.submit(RequestId(self.next), request);
        while let Some(action) = self.map.poll() {
            let (token, file, op) = match action {
                Action::Do { token, file, op } => (token, &self.files[usize::from(file)], op),
                Action::Finish { result, .. } => {
                    result.expect("the image is right");
                    continue;
                }
            };
            let mut got = None;
            match op {
                Op::Read { at, len } => {
                    let mut bytes = vec![0; len];
                    file.read_exact_at(&mut bytes, at).expect("what is read is in the file");
                    got = Some(bytes);
                }
                Op::ReadGuest { data, at, .. } => {
                    let part = &mut buffer[usize_of(data.start)..usize_of(data.end)];
                    file.read_exact_at(part, at).expect("what is read is in the file");
                }
                Op::ZeroGuest { data, .. } => buffer[usize_of(data.start)..usize_of(data.end)].fill(0),
                Op::FillGuest { data, bytes, from, .. } => {
                    let part = &mut buffer[usize_of(data.start)..usize_of(data.end)];
                    let len = part.len();
                    part.copy_from_slice(&bytes[from..from + len]);
                }
                Op::WriteGuest { data, at, .. } => {
                    let part = &buffer[usize_of(data.start)..usize_of(data.end)];
                    file.write_all_at(part, at).expect("there is room");
                }
                Op::Write { at, bytes } => file.write_all_at(&bytes, at).expect("there is room"),
                Op::Zero { at, len } => file.write_all_at(&vec![0; usize_of(len)], at).expect("there is room"),
                Op::Punch { .. } | Op::Sync => {}
            }
            self.map.done(token, Ok(got));
        }
        assert_eq!(self.map.under_way(), 0, "a request has no answer");
    }
}

/// Reads a whole disk, a piece at a time.
fn read(files: &[(PathBuf, DiskFormat)], piece: u64) -> Vec<u8> {
    let mut chain = Chain::open(files, false);
    let mut disk = vec![0xee; usize_of(chain.map.size())];
    for at in (0..chain.map.size()).step_by(usize_of(piece)) {
        let len = piece.min(chain.map.size() - at);
        chain.perform(Request::Read { offset: at, len }, &mut disk[usize_of(at)..usize_of(at + len)]);
    }
    disk
}

/// 3 MiB and a sector: words that repeat and numbers that do not, with holes of all sizes.
fn content() -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < (3 << 20) + 512 {
        let number = bytes.len() / 4096;
        match number % 7 {
            0 | 3 => bytes.extend([0; 4096]),
            1 => bytes.extend(format!("{number:08}").repeat(512).bytes()),
            _ => bytes.extend((0..1024u32).flat_map(|at| {
                at.wrapping_mul(2_654_435_761).wrapping_add(u32::try_from(number).unwrap_or(0)).to_le_bytes()
            })),
        }
        if number == 200 {
            bytes.extend(vec![0; 600_000_usize.next_multiple_of(4096)]);
        }
    }
    bytes.truncate((3 << 20) + 512);
    bytes
}

#[test]
fn images_with_every_option_read_as_what_was_put_in() {
    let dir = tempfile::tempdir().expect("there is room");
    let raw = content();
    fs::write(dir.path().join("raw"), &raw).expect("there is room");
    let mut options: Vec<(String, bool)> = Vec::new();
    for cluster in ["512", "4k", "64k", "2M"] {
        for packed in [false, true] {
            options.push((format!("compat=0.10,cluster_size={cluster}"), packed));
            options.push((format!("compat=1.1,cluster_size={cluster},compression_type=zlib"), packed));
            options.push((format!("compat=1.1,cluster_size={cluster},compression_type=zstd"), packed));
        }
    }
    for bits in [1, 2, 4, 8, 32, 64] {
        options.push((format!("refcount_bits={bits},cluster_size=1k"), false));
    }
    for cluster in ["16k", "64k", "2M"] {
        options.push((format!("extended_l2=on,cluster_size={cluster}"), false));
        options.push((format!("extended_l2=on,cluster_size={cluster},compression_type=zstd"), true));
    }
    for preallocation in ["metadata", "falloc", "full"] {
        options.push((format!("preallocation={preallocation}"), false));
    }
    options.push(("lazy_refcounts=on".to_owned(), false));
    for (option, packed) in options {
        convert(dir.path(), &option, packed);
        let read = read(&[(dir.path().join("image"), DiskFormat::Qcow2)], 100_000);
        assert!(read == raw, "{option}, compressed: {packed}");
    }
}

#[test]
fn chains_with_snapshots_and_zeros_read_as_qemu_reads_them() {
    let dir = tempfile::tempdir().expect("there is room");
    fs::write(dir.path().join("base.raw"), content()).expect("there is room");
    let at = |name: &str| dir.path().join(name);
    for compat in ["0.10", "1.1"] {
        for (middle, top) in [("64k", "4k"), ("512", "2M"), ("2M", "64k")] {
            let options = |cluster: &str| format!("compat={compat},cluster_size={cluster}");
            let create = |base: &str, format: &str, cluster: &str, name: &str, size: &str| {
                let options = options(cluster);
                let args = ["create", "-q", "-f", "qcow2", "-o", &options, "-b", base, "-F", format, name, size];
                qemu("qemu-img", dir.path(), &args);
            };
            // The middle is shorter than its base and than the top.
            create("base.raw", "raw", middle, "middle", "2M");
            create("middle", "qcow2", top, "top", "5M");
            let write = |name: &str, commands: &[&str]| {
                let mut args = vec!["-f", "qcow2"];
                commands.iter().for_each(|command| args.extend(["-c", command]));
                args.push(name);
                qemu("qemu-io", dir.path(), &args);
            };
            write("middle", &["write -P 17 300000 70000", "write -z 512k 100k", "discard 1M 128k"]);
            qemu("qemu-img", dir.path(), &["snapshot", "-c", "one", "middle"]);
            write("middle", &["write -P 18 320000 5000", "write -P 19 1M 4k"]);
            write(
                "top",
                &["write -P 20 310000 3000", "write -z 1500k 300k", "write -P 21 4M 1000", "write -c -P 9 2M 2M"],
            );
            qemu("qemu-img", dir.path(), &["convert", "-f", "qcow2", "-O", "raw", "top", "flat"]);
            let qcow2 = DiskFormat::Qcow2;
            let chain = [(at("top"), qcow2), (at("middle"), qcow2), (at("base.raw"), DiskFormat::Raw)];
            let flat = fs::read(at("flat")).expect("it was made");
            for piece in [65536, 1 << 23] {
                assert!(read(&chain, piece) == flat, "{compat} {middle} {top} by {piece}");
            }
        }
    }
}

/// Writes, zeroes and discards all over a disk of 3 MiB, as a flat copy has it then.
fn change(files: &[(PathBuf, DiskFormat)], flat: &mut [u8]) {
    let mut chain = Chain::open(files, true);
    let mut seed = 99u64;
    for round in 0..300u64 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let offset = (seed >> 20) % (3 << 20);
        let len = (1 + (seed >> 44) % 30_000).min((3 << 20) - offset);
        let mut bytes = vec![u8::try_from(round % 251).expect("it is small"); usize_of(len)];
        let part = &mut flat[usize_of(offset)..usize_of(offset + len)];
        match round % 8 {
            0 => {
                chain.perform(Request::WriteZeroes { offset, len, unmap: round % 16 == 0 }, &mut []);
                part.fill(0);
            }
            1 => {
                chain.perform(Request::Discard { offset, len }, &mut []);
                chain.perform(Request::Read { offset, len }, &mut bytes);
                assert!(bytes.iter().zip(&*part).all(|(now, before)| *now == 0 || now == before));
                part.copy_from_slice(&bytes);
            }
            2 => chain.perform(Request::Flush, &mut []),
            _ => {
                chain.perform(Request::Write { offset, len }, &mut bytes);
                part.copy_from_slice(&bytes);
            }
        }
    }
    // The second lets the last counts fall, the third writes them.
    for _ in 0..3 {
        chain.perform(Request::Flush, &mut []);
    }
    assert!(!chain.map.dirty());
}

#[test]
fn what_is_written_here_is_right_to_qemu() {
    let dir = tempfile::tempdir().expect("there is room");
    let at = |name: &str| dir.path().join(name);
    let mut raw = content();
    raw.truncate(3 << 20);
    fs::write(at("raw"), &raw).expect("there is room");
    let qcow2 = DiskFormat::Qcow2;
    let mut options: Vec<(String, bool)> = Vec::new();
    for cluster in ["512", "4k", "64k", "2M"] {
        options.push((format!("compat=0.10,cluster_size={cluster}"), false));
        options.push((format!("compat=1.1,cluster_size={cluster},compression_type=zstd"), true));
    }
    for bits in [1, 2, 4, 8, 32, 64] {
        options.push((format!("refcount_bits={bits},cluster_size=1k"), false));
    }
    options.push(("preallocation=metadata".to_owned(), false));
    for (option, packed) in options {
        convert(dir.path(), &option, packed);
        // With one bit a count there can be no snapshot.
        let snapshot = !option.contains("refcount_bits=1,");
        if snapshot {
            qemu("qemu-img", dir.path(), &["snapshot", "-c", "before", "image"]);
        }
        let mut flat = raw.clone();
        change(&[(at("image"), qcow2)], &mut flat);
        qemu("qemu-img", dir.path(), &["check", "-f", "qcow2", "image"]);
        fs::write(at("flat"), &flat).expect("there is room");
        qemu("qemu-img", dir.path(), &["compare", "-f", "qcow2", "-F", "raw", "image", "flat"]);
        if snapshot {
            qemu("qemu-img", dir.path(), &["snapshot", "-a", "before", "image"]);
            qemu("qemu-img", dir.path(), &["compare", "-f", "qcow2", "-F", "raw", "image", "raw"]);
            qemu("qemu-img", dir.path(), &["check", "-f", "qcow2", "image"]);
        }
    }
}

#[test]
fn what_is_written_on_a_base_is_right_to_qemu() {
    let dir = tempfile::tempdir().expect("there is room");
    let at = |name: &str| dir.path().join(name);
    let mut raw = content();
    raw.truncate(3 << 20);
    fs::write(at("raw"), &raw[..2 << 20]).expect("there is room");
    raw[2 << 20..].fill(0);
    for option in ["compat=0.10", "compat=1.1", "compat=1.1,cluster_size=4k", "compat=1.1,cluster_size=2M"] {
        qemu(
            "qemu-img",
            dir.path(),
            &["create", "-q", "-f", "qcow2", "-o", option, "-b", "raw", "-F", "raw", "image", "3M"],
        );
        let mut flat = raw.clone();
        change(&[(at("image"), DiskFormat::Qcow2), (at("raw"), DiskFormat::Raw)], &mut flat);
        qemu("qemu-img", dir.path(), &["check", "-f", "qcow2", "image"]);
        fs::write(at("flat"), &flat).expect("there is room");
        qemu("qemu-img", dir.path(), &["compare", "-f", "qcow2", "-F", "raw", "image", "flat"]);
        assert!(fs::read(at("raw")).expect("it is there") == raw[..2 << 20], "the base is as it was");
    }
}
