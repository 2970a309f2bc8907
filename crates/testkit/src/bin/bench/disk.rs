//! vioblk beside qemu-storage-daemon, both driven from outside a guest by one driver, with the same image: requests a second of
//! the server's processor time. No KVM is needed, and no disk is measured: all of an image is in the page cache.

mod driver;
mod server;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use model::DiskFormat;
use tempfile::NamedTempFile;

use driver::{Driver, Pattern, Way};
use server::{Server, Vendor};

/// How long each pattern runs in a round.
const RUN: Duration = Duration::from_millis(700);

/// And before it is measured.
const WARM_UP: Duration = Duration::from_millis(150);

/// Bytes of the image.
const IMAGE: u64 = 256 << 20;

const PATTERNS: [Pattern; 6] = [
    Pattern { way: Way::Read, len: 0x1000, depth: 1 },
    Pattern { way: Way::Write, len: 0x1000, depth: 1 },
    Pattern { way: Way::Read, len: 0x1000, depth: 32 },
    Pattern { way: Way::Write, len: 0x1000, depth: 32 },
    Pattern { way: Way::Read, len: 0x1_0000, depth: 32 },
    Pattern { way: Way::Write, len: 0x1_0000, depth: 32 },
];

/// What was measured.
pub struct Figures {
    /// By file system and pattern.
    pub rows: Vec<Row>,
    /// KiB that each server had alone at most, QEMU's first, by kind of image.
    pub private_kib: BTreeMap<String, [u64; 2]>,
}

/// A file system and a pattern on it.
pub struct Row {
    /// Both, for people.
    pub name: String,
    dir: PathBuf,
    kind: Kind,
    pattern: Pattern,
    /// Requests a second of processor time, by round: QEMU's, then ours.
    pub rates: [Vec<f64>; 2],
}

/// Measures the rows whose names have these words, so many times each.
pub fn measure(words: &[String], rounds: usize) -> Figures {
    let disk = std::env::var_os("BENCH_DIR").unwrap_or_else(server::bin_dir);
    let mut rows: Vec<Row> = [PathBuf::from("/dev/shm"), disk.into()].iter().flat_map(|dir| rows_on(dir)).collect();
    rows.retain(|row| words.iter().all(|word| row.name.contains(word)));
    let mut private_kib: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    let mut images: BTreeMap<(PathBuf, String), NamedTempFile> = BTreeMap::new();
    for round in 1..=rounds {
        for row in &mut rows {
            eprintln!("bench: round {round} of {rounds}: {}", row.name);
            for (place, vendor) in [Vendor::Qemu, Vendor::Vmd].into_iter().enumerate() {
                let of = (row.dir.clone(), row.kind.to_string());
                if row.kind == Kind::Empty {
                    images.remove(&of);
                }
                let image = images.entry(of).or_insert_with(|| row.kind.image(&row.dir));
                let (rate, kib) = run(vendor, image.path(), row.kind, row.pattern);
                row.rates[place].push(rate);
                let most = private_kib.entry(row.kind.to_string()).or_default();
                most[place] = most[place].max(kib);
            }
        }
    }
    Figures { rows, private_kib }
}

fn rows_on(dir: &Path) -> Vec<Row> {
    let on = file_system(dir);
    let row = |kind: Kind, pattern: Pattern| Row {
        name: format!("{kind} on {on}: {pattern}"),
        dir: dir.to_owned(),
        kind,
        pattern,
        rates: Default::default(),
    };
    let raw = PATTERNS.map(|pattern| row(Kind::Raw, pattern));
    let qcow2 = PATTERNS.map(|pattern| row(Kind::Qcow2, pattern));
    let empty = PATTERNS.into_iter().filter(Pattern::is_deep_write).map(|pattern| row(Kind::Empty, pattern));
    raw.into_iter().chain(qcow2).chain(empty).collect()
}

/// One run of a pattern on a server of its own: requests a second of its processor time, and the memory that it has alone, in KiB.
fn run(vendor: Vendor, image: &Path, kind: Kind, pattern: Pattern) -> (f64, u64) {
    let format = if kind == Kind::Raw { DiskFormat::Raw } else { DiskFormat::Qcow2 };
    let server = Server::start(vendor, image, format);
    let mut driver = Driver::new(server.connect(), kind.size());
    if kind != Kind::Empty {
        driver.run(pattern, WARM_UP);
    }
    let before = server.cpu();
    let requests = driver.run(pattern, RUN);
    let cpu = server.cpu().checked_sub(before).expect("processor time grows");
    (requests as f64 / cpu.as_secs_f64(), server.private_kib())
}

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Raw, all of it written before.
    Raw,
    /// The same in qcow2.
    Qcow2,
    /// qcow2 of which nothing is allocated, so that all writes allocate. It is large: few clusters are met twice.
    Empty,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Raw => "raw",
            Kind::Qcow2 => "qcow2",
            Kind::Empty => "empty qcow2",
        })
    }
}

impl Kind {
    /// Bytes of the disk.
    fn size(self) -> u64 {
        match self {
            Kind::Raw | Kind::Qcow2 => IMAGE,
            Kind::Empty => 8 << 30,
        }
    }

    /// A new image in a directory.
    fn image(self, dir: &Path) -> NamedTempFile {
        let image = NamedTempFile::new_in(dir).expect("an image can be made");
        match self {
            Kind::Raw => fill(image.as_file()),
            Kind::Qcow2 => {
                let raw = Kind::Raw.image(dir);
                qemu_img(&["convert", "-q", "-f", "raw", "-O", "qcow2"], &[raw.path(), image.path()], &[]);
            }
            Kind::Empty => qemu_img(&["create", "-q", "-f", "qcow2"], &[image.path()], &[&self.size().to_string()]),
        }
        // Who serves it is another user.
        rustix::fs::fchmod(image.as_file(), 0o666.into()).expect("it is ours");
        image.as_file().sync_all().expect("the image reaches its disk");
        image
    }
}

fn fill(mut file: &File) {
    let block = [0x5a; 1 << 20];
    (0..IMAGE >> 20).for_each(|_| file.write_all(&block).expect("there is room for an image"));
}

fn qemu_img(before: &[&str], files: &[&Path], after: &[&str]) {
    let ended = Command::new("qemu-img").args(before).args(files).args(after).status();
    assert!(ended.expect("qemu-img (Debian: qemu-utils)").success(), "qemu-img {before:?}");
}

/// The file system of a directory, by the number that statfs(2) has for it.
fn file_system(dir: &Path) -> String {
    let kind = rustix::fs::statfs(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())).f_type;
    match kind {
        0x0102_1994 => "tmpfs".to_owned(),
        0xef53 => "ext4".to_owned(),
        0x9123_683e => "btrfs".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        other => format!("file system {other:#x}"),
    }
}
