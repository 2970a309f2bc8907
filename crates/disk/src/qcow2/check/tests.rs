//! The check beside `qemu-img check`: on right images of every kind, on leaks, and on damaged ones.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use super::*;

pub(super) fn tool(program: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; install qemu-utils"));
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Seconds in which the processor worked for this thread: other tests run beside it.
fn busy() -> i64 {
    rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).tv_sec
}

#[track_caller]
pub(super) fn done(program: &str, arguments: &[&str]) {
    let (status, said) = tool(program, arguments);
    assert_eq!(status, Some(0), "{arguments:?}: {said}");
}

/// An image that qemu made, with data here and there, a snapshot and a bitmap where it can have them.
pub(super) fn image(dir: &Path, options: &str, snapshot: bool, bitmap: bool) -> Vec<u8> {
    let path = dir.join("image");
    let path = path.to_str().unwrap();
    done("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, path, "3M"]);
    let write = |commands: &[&str]| {
        let commands = commands.iter().flat_map(|command| ["-c", command]);
        done("qemu-io", &["-f", "qcow2"].into_iter().chain(commands).chain([path]).collect::<Vec<_>>());
    };
    if bitmap {
        done("qemu-img", &["bitmap", "--add", "-f", "qcow2", path, "b"]);
    }
    write(&["write -P 1 0 200k", "write -P 2 1m 3k", "write -P 3 2900k 5k"]);
    if snapshot {
        done("qemu-img", &["snapshot", "-c", "s", path]);
        write(&["write -P 4 100k 200k", "discard 1m 64k"]);
    }
    std::fs::read(path).unwrap()
}

pub(super) fn look(bytes: &[u8]) -> Result<Report, CheckError> {
    check(&bytes.to_vec(), &mut |_, _| ControlFlow::Continue(()))
}

/// What qemu's tool finds: leaks and other errors; none where it can't open the image.
pub(super) fn theirs(dir: &Path, bytes: &[u8]) -> Option<(u64, u64, String)> {
    let path = dir.join("checked");
    std::fs::write(&path, bytes).unwrap();
    let (status, said) = tool("qemu-img", &["check", "-f", "qcow2", "--output=json", path.to_str().unwrap()]);
    let value = |key: &str| {
        let (_, rest) = said.split_once(&format!("\"{key}\": "))?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
    };
    matches!(status, Some(0 | 2 | 3))
        .then(|| (value("leaks").unwrap_or(0), value("corruptions").unwrap_or(0), said.clone()))
}

const KINDS: [(&str, bool, bool); 9] = [
    ("cluster_size=64k", true, true),
    ("cluster_size=512", true, true),
    ("cluster_size=4k,refcount_bits=1", false, false),
    ("cluster_size=4k,refcount_bits=2", true, false),
    ("cluster_size=512,refcount_bits=64", true, true),
    ("cluster_size=2M,refcount_bits=8", true, true),
    ("compat=0.10,cluster_size=1k", true, false),
    ("extended_l2=on,cluster_size=16k", true, false),
    ("preallocation=metadata,cluster_size=4k", true, true),
];

#[test]
fn images_of_every_kind_are_right_and_counted_as_qemu_counts_them() {
    let dir = tempfile::tempdir().unwrap();
    for (options, snapshot, bitmap) in KINDS {
        let bytes = image(dir.path(), options, snapshot, bitmap);
        let report = look(&bytes).unwrap();
        let (leaks, errors, said) = theirs(dir.path(), &bytes).unwrap();
        assert_eq!((leaks, errors), (0, 0), "{options}: {said}");
        assert!(report.is_clean(), "{options}: {report:?}");
        for (key, ours) in [("total-clusters", report.clusters), ("allocated-clusters", report.allocated)] {
            assert!(said.contains(&format!("\"{key}\": {ours}")), "{options}: {key} {ours} {said}");
        }
        for window in [1, 7, 64] {
            let clusters = bytes.len() as u64 / read_header(&bytes).unwrap().geometry.cluster_size();
            if clusters / window < MAX_WINDOWS {
                let again = check_in_windows(&bytes, window, &mut |_, _| ControlFlow::Continue(())).unwrap();
                assert_eq!(again, report, "{options}: windows of {window}");
            }
        }
    }
}

#[test]
fn compressed_clusters_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, path) = (dir.path().join("raw"), dir.path().join("c"));
    std::fs::write(&raw, (0..3_000_000_u32).map(|at| (at / 999) as u8).collect::<Vec<_>>()).unwrap();
    for options in ["cluster_size=64k", "cluster_size=2M,compression_type=zstd", "cluster_size=512"] {
        let [raw, path] = [&raw, &path].map(|path| path.to_str().unwrap());
        done("qemu-img", &["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw, path]);
        let bytes = std::fs::read(path).unwrap();
        let report = look(&bytes).unwrap();
        assert!(report.is_clean() && report.compressed > 0, "{options}: {report:?}");
        let (.., said) = theirs(dir.path(), &bytes).unwrap();
        assert!(said.contains(&format!("\"compressed-clusters\": {}", report.compressed)), "{options}: {said}");
    }
}

/// Each 2 byte refcount of a block, and each byte of the tables' first entries, set to something else: ours finds leaks
/// where qemu does, as many, and errors where qemu does. What only ours calls an error are entries that share metadata.
#[test]
fn damage_is_found_where_qemu_finds_it() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = image(dir.path(), "cluster_size=4k", true, false);
    let header = read_header(&bytes).unwrap();
    let number = |at: u64| u64::from_be_bytes(bytes[at as usize..at as usize + 8].try_into().unwrap());
    let block = number(header.refcounts.at);
    let l2 = number(header.l1.at) & 0x00ff_ffff_ffff_fe00;
    let snapshots = header.snapshots.unwrap().at;
    let mut places: Vec<(u64, u8)> = (0..48).map(|byte| (block + 1 + byte * 4, 7)).collect();
    for table in [header.refcounts.at, header.l1.at, l2, l2 + 8, number(snapshots)] {
        places.extend((0..8).flat_map(|byte| [1, 0x10, 0x80].map(|bit| (table + byte, bit))));
    }
    let mut seen = [0, 0, 0];
    for (at, flip) in places {
        let mut changed = bytes.clone();
        changed[at as usize] ^= flip;
        let Some((leaks, errors, said)) = theirs(dir.path(), &changed) else { continue };
        let ours = look(&changed).unwrap();
        let only_ours = ours
            .findings
            .iter()
            .any(|finding| matches!(finding, Finding::Overlap { .. } | Finding::Entry { .. } | Finding::Table { .. }));
        assert!(errors == 0 || ours.errors > 0, "byte {at} ^ {flip}: {said}\n{ours:?}");
        assert!(ours.errors == 0 || errors > 0 || only_ours, "byte {at} ^ {flip}: {said}\n{ours:?}");
        if errors == 0 && ours.errors == 0 {
            assert_eq!(ours.leaks, leaks, "byte {at} ^ {flip}: {said}\n{ours:?}");
        }
        seen[usize::from(errors > 0) + usize::from(leaks > 0 && errors == 0) * 2] += 1;
    }
    assert!(seen[1] > 40 && seen[2] > 10, "right, wrong, leaking: {seen:?}");
}

#[test]
fn each_finding_is_told_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = image(dir.path(), "cluster_size=4k", false, false);
    let header = read_header(&bytes).unwrap();
    let number = |at: u64| u64::from_be_bytes(bytes[at as usize..at as usize + 8].try_into().unwrap());
    let l1 = number(header.l1.at);
    let l2 = l1 & 0x00ff_ffff_ffff_fe00;
    let end = bytes.len() as u64;
    let told = |at: u64, entry: u64| {
        let mut changed = bytes.clone();
        changed[at as usize..at as usize + 8].copy_from_slice(&entry.to_be_bytes());
        look(&changed).unwrap().findings.iter().map(|finding| finding.to_string()).collect::<Vec<_>>().join("\n")
    };
    for (at, entry, said) in [
        (l2, 1 << 63 | l2, format!("entry 0 of the L2 table at byte {l2}: what is at byte {l2} is used for something")),
        (l2, 1 << 63 | end, format!("entry 0 of the L2 table at byte {l2}: byte {end} is outside the file")),
        (l2, 2, format!("entry 0 of the L2 table at byte {l2}: reserved bits are set")),
        (l2 + 8, number(l2 + 8) & !(1 << 63), "entry 1 of the L2 table at".to_owned()),
        (
            header.l1.at,
            l1 & !(1 << 63),
            "entry 0 of the L1 table: its mark for writing in place contradicts".to_owned(),
        ),
        (header.l1.at, 512, "entry 0 of the L1 table: its offset is not a multiple".to_owned()),
        (header.refcounts.at, 0, "the cluster at byte 0 has refcount 0 and 1 references".to_owned()),
        (header.refcounts.at, 5, "entry 0 of the refcount table: reserved bits are set".to_owned()),
    ] {
        let all = told(at, entry);
        assert!(all.contains(&said), "{said}:\n{all}");
    }
}

/// Thousands of changed bytes and words, most of them in tables: always an end, soon, without a panic.
#[test]
fn hostile_images_are_looked_at_to_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for (options, snapshot, bitmap) in [KINDS[1], KINDS[4], KINDS[7]] {
        let bytes = image(dir.path(), options, snapshot, bitmap);
        let cluster = read_header(&bytes).unwrap().geometry.cluster_size();
        let mut accepted = 0;
        for _ in 0..800 {
            let mut changed = bytes.clone();
            for _ in 0..1 + random() % 4 {
                let at = match random() % 3 {
                    0 => random() % 120,
                    1 => random() % cluster.min(4096) * 8,
                    _ => random(),
                };
                let at = (at % (bytes.len() as u64 - 8)) as usize;
                let entry = match random() % 4 {
                    0 => random(),
                    1 => (random() % bytes.len() as u64 / cluster * cluster) | (1 << 63),
                    2 => 1 << (random() % 64),
                    _ => 0,
                };
                changed[at..at + 8].copy_from_slice(&entry.to_be_bytes());
            }
            let began = busy();
            accepted += usize::from(look(&changed).is_ok());
            assert!(busy() - began < 5);
        }
        assert!(accepted > 80, "{options}: {accepted}");
    }
}

#[test]
fn a_sparse_file_of_any_size_ends_soon() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    for options in ["cluster_size=512", "cluster_size=2M"] {
        let bytes = image(dir.path(), options, false, false);
        std::fs::write(&path, &bytes).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        file.set_len(8 << 40).unwrap();
        // An L1 table of 32 MiB in the hole, of which each entry leads to a hole.
        file.write_all_at(&(4_u32 << 20).to_be_bytes(), 36).unwrap();
        file.write_all_at(&(1_u64 << 30).to_be_bytes(), 40).unwrap();
        let began = busy();
        let ended = check(&file, &mut |_, _| ControlFlow::Continue(()));
        match options {
            "cluster_size=512" => assert!(matches!(ended, Err(CheckError::TooMuch(_)))),
            _ => assert!(ended.unwrap().leaks > 0),
        }
        assert!(busy() - began < 5, "{options}");
    }
}

#[test]
fn whoever_watches_may_end_it() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = image(dir.path(), "cluster_size=4k", false, false);
    assert!(matches!(check(&bytes, &mut |_, _| ControlFlow::Break(())), Err(CheckError::Stopped)));
}
