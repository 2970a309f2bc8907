//! qcow2 images and their bases, served by a vioblk in its sandbox to a guest, and looked at with QEMU's tools.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use model::{DiskFormat, List, Text};
use proto::device::{Blk, ToVmm, Told};
use support::process::{Process, kept, lives, start};
use support::{BUFFERS, Driver, Part, VERSION_1, Vmm};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const F_RO: u64 = 1 << 5;
const F_FLUSH: u64 = 1 << 9;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

const DISK: u64 = 4 << 20;

/// Requests that are under way at once; each has its part of the disk and of memory.
const LANES: u64 = 4;
const LANE: u64 = DISK / LANES;
const ROOM: u64 = 0x4_0000;

fn qemu_img(arguments: &[&str], dir: &Path) -> (Option<i32>, String) {
    let output = Command::new("qemu-img").args(arguments).current_dir(dir).output();
    let output = output.expect("qemu-img (Debian: qemu-utils)");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

fn make(arguments: &[&str], dir: &Path) {
    let (code, text) = qemu_img(arguments, dir);
    assert_eq!(code, Some(0), "{arguments:?}: {text}");
}

/// What an image holds, as QEMU reads it.
fn content(path: &Path) -> Vec<u8> {
    let dir = path.parent().unwrap();
    make(&["convert", "-O", "raw", path.to_str().unwrap(), "content"], dir);
    fs::read(dir.join("content")).unwrap()
}

/// Numbers that are the same each time (Knuth's linear congruence).
struct Noise(u64);

impl Noise {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

fn description(bases: &[DiskFormat], read_only: bool) -> Told {
    Told::Blk(Blk {
        format: DiskFormat::Qcow2,
        bases: List::try_from(bases.to_vec()).unwrap(),
        read_only,
        limits: model::DiskLimits::default(),
        serial: Text::new("web-0").unwrap(),
        called: Text::new("/srv/a.qcow2").unwrap(),
    })
}

fn open(path: &Path, write: bool) -> File {
    File::options().read(true).write(write).open(path).unwrap()
}

/// A vioblk that was told of an image and its bases.
fn told(files: &[(&Path, DiskFormat)], read_only: bool) -> (Process, UnixStream) {
    let mut process = Process::start("vioblk");
    let (socket, theirs) = UnixStream::pair().unwrap();
    let bases: Vec<DiskFormat> = files[1..].iter().map(|(_, format)| *format).collect();
    let images = files.iter().enumerate().map(|(number, (path, _))| open(path, number == 0 && !read_only).into());
    let fds = [theirs.into(), lives(), kept()].into_iter().chain(images).collect();
    process.channel.send(&start(0, description(&bases, read_only)), fds).unwrap();
    (process, socket)
}

/// A guest with such a disk.
struct Served {
    process: Process,
    vmm: Vmm,
    driver: Driver,
}

impl Served {
    fn new(files: &[(&Path, DiskFormat)], features: u64) -> Served {
        let (mut process, socket) = told(files, features & F_RO != 0);
        match process.told() {
            ToVmm::Ready => {}
            other => panic!("{other:?}"),
        }
        let mut vmm = Vmm::over(socket, VERSION_1 | features);
        let driver = Driver::new(&vmm.guest, 0, 128);
        vmm.start(0, &driver, 0);
        Served { process, vmm, driver }
    }

    fn features(&mut self) -> u64 {
        self.vmm.front_end.get_features().unwrap()
    }

    fn config(&mut self, at: u32) -> u32 {
        let (_, bytes) = self.vmm.front_end.get_config(at, 4, VhostUserConfigFlags::empty(), &[0; 4]).unwrap();
        u32::from_le_bytes(bytes.try_into().unwrap())
    }

    /// Begins a request of a lane, whose data lies at the lane's place.
    fn begin(&mut self, lane: u64, kind: u32, offset: u64, data: Option<u64>) {
        let header = BUFFERS + lane * 0x1000;
        self.vmm.guest.write(header, &[&kind.to_le_bytes()[..], &[0; 4], &(offset / 512).to_le_bytes()].concat());
        self.vmm.guest.write(header + 0x100, &[0xee]);
        let (at, len) = (place(lane), u32::try_from(data.unwrap_or(0)).unwrap());
        let part = if kind == IN { Part::In(at, len) } else { Part::Out(at, len) };
        let parts = [Part::Out(header, 16), part, Part::In(header + 0x100, 1)];
        let without = [parts[0], parts[2]];
        self.driver.add(if data.is_some() { &parts } else { &without });
    }

    /// Waits for so many requests; the statuses of the lanes.
    fn ended(&mut self, count: u64) -> Vec<u8> {
        self.driver.kick();
        for _ in 0..count {
            self.driver.used();
        }
        (0..count).map(|lane| self.vmm.guest.read(BUFFERS + lane * 0x1000 + 0x100, 1)[0]).collect()
    }

    fn one(&mut self, kind: u32, offset: u64, data: Option<u64>) -> u8 {
        self.begin(0, kind, offset, data);
        self.ended(1)[0]
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> u8 {
        self.vmm.guest.write(place(0), bytes);
        self.one(OUT, offset, Some(bytes.len() as u64))
    }

    fn read(&mut self, offset: u64, len: u64) -> Vec<u8> {
        assert_eq!(self.one(IN, offset, Some(len)), 0);
        self.vmm.guest.read(place(0), len as usize)
    }

    fn clear(&mut self, lane: u64, kind: u32, offset: u64, len: u64, flags: u32) {
        let (sector, sectors) = (offset / 512, u32::try_from(len / 512).unwrap());
        let range = [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat();
        self.vmm.guest.write(place(lane), &range);
        self.begin(lane, kind, 0, Some(16));
    }

    /// The guest is gone.
    fn end(mut self) {
        drop(self.vmm);
        assert_eq!(self.process.told(), ToVmm::Ended);
        assert!(self.process.ended().success(), "{}", self.process.said());
    }
}

fn place(lane: u64) -> u64 {
    BUFFERS + 0x1_0000 + lane * ROOM
}

/// An image in a directory of its own, and what its disk holds.
struct Made {
    dir: tempfile::TempDir,
    files: Vec<(PathBuf, DiskFormat)>,
    content: Vec<u8>,
}

impl Made {
    /// By `qemu-img create` with these options; the base is raw, or an image with packed clusters, or none.
    fn new(options: &str, base: Option<DiskFormat>) -> Made {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut content = Noise(7).bytes(DISK - 100_000);
        fs::write(at("noise"), &content).unwrap();
        let mut files = vec![(at("disk.qcow2"), DiskFormat::Qcow2)];
        let size = DISK.to_string();
        let mut create = vec!["create", "-q", "-f", "qcow2", "-o", options];
        match base {
            None => content.clear(),
            Some(DiskFormat::Raw) => create.extend(["-b", "noise", "-F", "raw"]),
            Some(DiskFormat::Qcow2) => {
                make(&["convert", "-c", "-O", "qcow2", "noise", "base.qcow2"], dir.path());
                create.extend(["-b", "base.qcow2", "-F", "qcow2"]);
            }
        }
        create.extend(["disk.qcow2", size.as_str()]);
        make(&create, dir.path());
        match base {
            None => {}
            Some(DiskFormat::Raw) => files.push((at("noise"), DiskFormat::Raw)),
            Some(DiskFormat::Qcow2) => files.push((at("base.qcow2"), DiskFormat::Qcow2)),
        }
        content.resize(DISK as usize, 0);
        Made { dir, files, content }
    }

    fn files(&self) -> Vec<(&Path, DiskFormat)> {
        self.files.iter().map(|(path, format)| (path.as_path(), *format)).collect()
    }

    fn image(&self) -> &Path {
        &self.files[0].0
    }

    /// qemu-img check finds nothing, or at most what is lost space.
    fn check(&self, leaks: bool) {
        let (code, text) = qemu_img(&["check", "disk.qcow2"], self.dir.path());
        assert!(code == Some(0) || leaks && code == Some(3), "{code:?}: {text}");
    }
}

/// Four requests at once, of any kind, each in its own quarter; the model is changed likewise.
fn round(served: &mut Served, model: &mut [u8], noise: &mut Noise, granularity: Option<u64>) {
    let (mut reads, mut given_back) = (Vec::new(), Vec::new());
    for lane in 0..LANES {
        let start = lane * LANE;
        let offset = start + noise.below(LANE / 512) * 512;
        let len = ((noise.below(400) + 1) * 512).min(start + LANE - offset);
        let range = offset as usize..(offset + len) as usize;
        match (noise.below(8), granularity) {
            (0, Some(unit)) => {
                served.clear(lane, DISCARD, offset, len, 0);
                let (from, to) = (offset.next_multiple_of(unit), (offset + len) / unit * unit);
                if from < to {
                    given_back.push(from..to);
                }
            }
            (1, Some(_)) => {
                served.clear(lane, WRITE_ZEROES, offset, len, noise.below(2) as u32);
                model[range].fill(0);
            }
            (0..=3, _) => {
                served.begin(lane, IN, offset, Some(len));
                reads.push((lane, model[range].to_vec()));
            }
            (4, _) => served.begin(lane, FLUSH, 0, None),
            (_, _) => {
                let bytes = noise.bytes(len);
                served.vmm.guest.write(place(lane), &bytes);
                served.begin(lane, OUT, offset, Some(len));
                model[range].copy_from_slice(&bytes);
            }
        }
    }
    assert_eq!(served.ended(LANES), [0; LANES as usize]);
    for (lane, expected) in reads {
        assert!(served.vmm.guest.read(place(lane), expected.len()) == expected, "lane {lane} read something else");
    }
    // Where nothing was to be given back a base still shows.
    for range in given_back {
        let now = served.read(range.start, range.end - range.start);
        let model = &mut model[range.start as usize..range.end as usize];
        for (now, was) in now.chunks(512).zip(model.chunks_mut(512)) {
            assert!(now == was || now.iter().all(|byte| *byte == 0), "{range:?}");
            was.copy_from_slice(now);
        }
    }
}

#[test]
fn each_image_is_the_disk_that_its_guest_wrote() {
    const ALL: u64 = F_FLUSH | F_DISCARD | F_WRITE_ZEROES;
    for (options, base, features, unit) in [
        ("compat=1.1", None, ALL, Some(0x1_0000)),
        ("compat=1.1", Some(DiskFormat::Qcow2), ALL, Some(0x1_0000)),
        ("compat=1.1,cluster_size=512,refcount_bits=1", Some(DiskFormat::Raw), ALL, Some(512)),
        (
            "compat=1.1,cluster_size=2M,refcount_bits=64",
            Some(DiskFormat::Qcow2),
            F_DISCARD | F_WRITE_ZEROES,
            Some(2 << 20),
        ),
        ("compat=0.10", None, ALL, Some(0x1_0000)),
        ("compat=0.10", Some(DiskFormat::Raw), F_FLUSH, None),
        ("compat=0.10,cluster_size=4096", Some(DiskFormat::Qcow2), 0, None),
    ] {
        let mut made = Made::new(options, base);
        let others: Vec<Vec<u8>> = made.files[1..].iter().map(|(path, _)| fs::read(path).unwrap()).collect();
        let mut model = std::mem::take(&mut made.content);
        let mut served = Served::new(&made.files(), features);
        let clears = served.features() & (F_DISCARD | F_WRITE_ZEROES) != 0;
        assert_eq!(clears, unit.is_some(), "{options}: without zero clusters a base would show again");
        assert_eq!((served.config(0), served.config(20)), (8192, 512), "sectors, and bytes of a block");
        assert_eq!(u64::from(served.config(44)) * 512, unit.unwrap_or(0), "{options}");
        let mut noise = Noise(options.len() as u64);
        (0..60).for_each(|_| round(&mut served, &mut model, &mut noise, unit));
        served.end();
        made.check(false);
        assert!(content(made.image()) == model, "{options}");
        let same: Vec<Vec<u8>> = made.files[1..].iter().map(|(path, _)| fs::read(path).unwrap()).collect();
        assert!(same == others, "{options}: a base was changed");
    }
}

#[test]
fn what_was_flushed_is_there_when_the_process_was_killed() {
    let mut made = Made::new("compat=1.1,cluster_size=4096", Some(DiskFormat::Qcow2));
    let mut model = std::mem::take(&mut made.content);
    let mut noise = Noise(3);
    for kill in 0..12u64 {
        let mut served = Served::new(&made.files(), F_FLUSH);
        // The first quarter is flushed, and then what comes is written to the others alone.
        for _ in 0..8 {
            let (offset, bytes) = (noise.below(LANE / 512 - 64) * 512, noise.bytes(64 * 512));
            assert_eq!(served.write(offset, &bytes), 0);
            model[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        assert_eq!(served.one(FLUSH, 0, None), 0);
        for lane in 1..LANES {
            for _ in 0..6 {
                served.vmm.guest.write(place(lane), &noise.bytes(ROOM));
                served.begin(lane, OUT, lane * LANE + noise.below((LANE - ROOM) / 512) * 512, Some(ROOM));
            }
        }
        served.begin(0, FLUSH, 0, None);
        served.driver.kick();
        std::thread::sleep(Duration::from_micros(kill * 700));
        served.process.child.kill().unwrap();
        served.process.ended();
        made.check(true);
        let now = content(made.image());
        assert!(now[..LANE as usize] == model[..LANE as usize], "kill {kill}");
    }
}

#[test]
fn a_disk_that_is_only_read_leaves_its_image_as_it_is() {
    let made = Made::new("compat=1.1,lazy_refcounts=on", Some(DiskFormat::Raw));
    // As one that was not closed (qcow2.rst, "Header": incompatible features, bit 0).
    open(made.image(), true).write_all_at(&[1], 79).unwrap();
    let before = fs::read(made.image()).unwrap();
    let mut served = Served::new(&made.files(), F_RO);
    assert_eq!(served.features() & (F_DISCARD | F_WRITE_ZEROES), 0);
    assert!(served.read(0, ROOM) == made.content[..ROOM as usize]);
    assert_eq!(served.write(0, &[1; 512]), 1, "an I/O error");
    served.end();
    assert!(fs::read(made.image()).unwrap() == before);
}

/// Why a disk is refused.
fn refusal(files: &[(&Path, DiskFormat)]) -> String {
    let (mut process, _socket) = told(files, false);
    match process.told() {
        ToVmm::Failed(failure) => {
            assert!(!process.ended().success());
            failure.to_string()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_image_that_can_not_be_written_is_refused_with_the_file_and_the_reason() {
    let made = Made::new("compat=1.1", Some(DiskFormat::Qcow2));
    let (image, base) = (made.image(), made.files[1].0.as_path());
    let set = |bit: u8| open(image, true).write_all_at(&[bit], 79).unwrap();
    for (bit, why) in [
        (1, "disk \"/srv/a.qcow2\": the image was not closed and must be repaired before it is written"),
        (2, "disk \"/srv/a.qcow2\": the image is marked as corrupt and can only be read; see vmctl image check"),
        (64, "disk \"/srv/a.qcow2\": the image needs features that are not known here"),
    ] {
        set(bit);
        let before = fs::read(image).unwrap();
        let refused = refusal(&made.files());
        assert!(refused.starts_with(why), "{refused}");
        assert!(fs::read(image).unwrap() == before, "no byte is changed");
    }
    set(0);
    File::create(base).unwrap().set_len(1 << 20).unwrap();
    let refused = refusal(&made.files());
    assert!(refused.starts_with("disk \"/srv/a.qcow2\": base 1: the file is no qcow2 image"), "{refused}");
}

#[test]
fn the_tables_of_a_large_disk_take_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    make(&["create", "-q", "-f", "qcow2", "disk.qcow2", "1T"], dir.path());
    let image = dir.path().join("disk.qcow2");
    let mut served = Served::new(&[(&image, DiskFormat::Qcow2)], F_FLUSH);
    let before = served.process.private_kib().1;
    // Each of these has a table of its own, 64 KiB in size: 10 MiB together.
    for table in 0..160 {
        assert_eq!(served.write(table << 29, &[7; 512]), 0);
    }
    assert_eq!(served.one(FLUSH, 0, None), 0);
    for table in 0..160 {
        assert_eq!(served.read(table << 29, 512), [7; 512]);
    }
    let grown = served.process.private_kib().1 - before;
    println!("a qcow2 image of 1 TiB: {before} KiB private and dirty, then {grown} KiB more");
    assert!(grown < 4096, "{grown} KiB");
    served.end();
}
