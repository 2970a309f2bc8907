//! Images of several files, served against a flat model, by a ring and without one.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use disk::qcow2::{Backing, Layer, Limits, Writer};
use model::DiskFormat;
use vm_memory::GuestAddress;

use super::*;

const DISK: u64 = 4 << 20;
const QUARTER: u64 = DISK / 4;
/// The base ends within a sector of the disk's second half.
const BASE: u64 = (DISK / 2) + 100_000;
const SLOTS: u16 = 3;

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Ring,
    Plain,
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// An empty image on a raw base of noise, and what the disk holds.
fn image(dir: &Path) -> Vec<u8> {
    let mut noise = Noise(7);
    let mut content: Vec<u8> = (0..BASE).map(|_| noise.below(256) as u8).collect();
    open(&dir.join("base.raw")).write_all_at(&content, 0).unwrap();
    let image = open(&dir.join("disk.qcow2"));
    let backing = Backing { name: b"base.raw".to_vec(), format: Some(DiskFormat::Raw) };
    Writer::begin(&image, Some(DISK), Some(backing)).unwrap().finish(DISK).unwrap();
    content.resize(DISK as usize, 0);
    content
}

fn chain(how: How, dir: &Path, writes: bool) -> Chain {
    let (image, base) = (open(&dir.join("disk.qcow2")), open(&dir.join("base.raw")));
    let len = |file: &File| file.metadata().unwrap().len();
    let file_len = len(&image);
    let top = if writes {
        Layer::open_to_write(&image, file_len).unwrap()
    } else {
        Layer::open(&image, file_len, DiskFormat::Qcow2).unwrap()
    };
    let layers = vec![top, Layer::open(&base, len(&base), DiskFormat::Raw).unwrap()];
    let map = Map::open(layers, Limits::default()).unwrap();
    let files = vec![image.into(), base.into()];
    let engine = match how {
        How::Ring => Engine::of(files, SLOTS, None),
        How::Plain => Engine::plain_of(files, SLOTS),
    };
    assert_eq!(matches!(engine, Engine::Ring(_)), how == How::Ring, "this host gives no io_uring");
    Chain::new(map, engine, SLOTS, file_len, 4)
}

fn memory() -> Arc<GuestMemory> {
    Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), DISK as usize)]).unwrap())
}

fn at(addr: u64, len: u64) -> Extent {
    Extent { addr: GuestAddress(addr), len: u32::try_from(len).unwrap() }
}

/// A request's number, and how it failed.
type Answer = (u16, Result<(), String>);

/// Answers of all that is under way.
fn answers(chain: &mut Chain) -> Vec<Answer> {
    let mut ended = Vec::new();
    while chain.turn(&mut ended).unwrap() == Progress::More || !chain.is_idle() {
        chain.wait().unwrap();
    }
    ended.into_iter().map(|(number, result)| (number, result.map_err(|failed| failed.why.to_string()))).collect()
}

fn one(chain: &mut Chain, request: Request, memory: &Arc<GuestMemory>, extents: &[Extent]) -> Result<(), String> {
    assert!(chain.begin(0, request, memory, extents));
    let mut answered = answers(chain);
    assert_eq!((answered.len(), answered[0].0), (1, 0));
    answered.remove(0).1
}

fn settle(chain: &mut Chain) {
    chain.finish().unwrap();
    assert!(!chain.map.dirty());
}

/// What the whole disk holds.
fn content(chain: &mut Chain) -> Vec<u8> {
    let memory = memory();
    one(chain, Request::Read { offset: 0, len: DISK }, &memory, &[at(0, 5), at(5, DISK - 5)]).unwrap();
    let mut bytes = vec![0; DISK as usize];
    memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

/// Numbers that are the same each time (Knuth's linear congruence).
struct Noise(u64);

impl Noise {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn is_right(dir: &Path) {
    let image = dir.join("disk.qcow2");
    let output = Command::new("qemu-img").arg("check").arg(&image).output().expect("qemu-img (Debian: qemu-utils)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn an_image_on_a_base_is_the_disk_that_was_written() {
    for (how, seed) in [(How::Ring, 1), (How::Plain, 1), (How::Ring, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let mut model = image(dir.path());
        let mut chain = chain(how, dir.path(), true);
        assert_eq!(chain.size(), DISK);
        let (memory, mut noise) = (memory(), Noise(seed));
        for round in 0..60 {
            // one request in each quarter, all at once; each has a quarter of memory too
            for number in 0..4u16 {
                let start = u64::from(number) * QUARTER;
                let offset = start + noise.below(QUARTER / 512) * 512;
                let len = ((noise.below(300) + 1) * 512).min(start + QUARTER - offset);
                let range = offset as usize..(offset + len) as usize;
                let cut = noise.below(len);
                let extents = [at(start, cut), at(start, 0), at(start + cut, len - cut)];
                let request = match noise.below(4) {
                    0 => {
                        model[range].fill(0);
                        Request::WriteZeroes { offset, len, unmap: noise.below(2) == 0 }
                    }
                    1 => Request::Read { offset, len },
                    _ => {
                        let bytes: Vec<u8> = (0..len).map(|_| noise.below(256) as u8).collect();
                        memory.write_slice(&bytes, GuestAddress(start)).unwrap();
                        model[range].copy_from_slice(&bytes);
                        Request::Write { offset, len }
                    }
                };
                assert!(chain.begin(number, request, &memory, &extents));
            }
            let mut answered = answers(&mut chain);
            answered.sort_by_key(|(number, _)| *number);
            assert_eq!(answered, (0..4).map(|number| (number, Ok(()))).collect::<Vec<_>>(), "{how:?}, round {round}");
        }
        assert!(content(&mut chain) == model, "{how:?}, seed {seed}");
        assert!(chain.map.dirty());
        one(&mut chain, Request::Flush, &memory, &[]).unwrap();
        settle(&mut chain);
        drop(chain);
        is_right(dir.path());
        assert!(content(&mut self::chain(how, dir.path(), false)) == model, "{how:?}, seed {seed}, opened again");
    }
}

#[test]
fn what_is_discarded_goes_back_to_the_host() {
    for how in [How::Ring, How::Plain] {
        let dir = tempfile::tempdir().unwrap();
        image(dir.path());
        let mut chain = chain(how, dir.path(), true);
        let memory = memory();
        memory.write_slice(&vec![9; 1 << 20], GuestAddress(0)).unwrap();
        one(&mut chain, Request::Write { offset: 0, len: 1 << 20 }, &memory, &[at(0, 1 << 20)]).unwrap();
        one(&mut chain, Request::Flush, &memory, &[]).unwrap();
        let blocks = || std::os::unix::fs::MetadataExt::blocks(&dir.path().join("disk.qcow2").metadata().unwrap());
        let before = blocks();
        one(&mut chain, Request::Discard { offset: 0, len: 1 << 20 }, &memory, &[]).unwrap();
        settle(&mut chain);
        assert!(blocks() + 1500 < before, "{how:?}: {} of {before} blocks", blocks());
        assert!(content(&mut chain)[..1 << 20].iter().all(|byte| *byte == 0), "{how:?}");
        is_right(dir.path());
    }
}

#[test]
fn what_is_open_to_be_read_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let model = image(dir.path());
    let mut chain = chain(How::Ring, dir.path(), false);
    let memory = memory();
    let write = Request::Write { offset: 0, len: 512 };
    let refused = one(&mut chain, write, &memory, &[at(0, 512)]).unwrap_err();
    assert_eq!(refused, Failure::ReadOnly.to_string());
    assert!(content(&mut chain) == model);
    assert!(!chain.begin(4, Request::Flush, &memory, &[]), "there are four numbers");
}

#[test]
fn the_host_s_errors_and_buffers_that_are_too_short_are_answers() {
    for how in [How::Ring, How::Plain] {
        let dir = tempfile::tempdir().unwrap();
        image(dir.path());
        let mut chain = chain(how, dir.path(), true);
        let memory = memory();
        open(&dir.path().join("base.raw")).set_len(0).unwrap();
        let read = |len| Request::Read { offset: 0, len };
        let failed = one(&mut chain, read(512), &memory, &[at(0, 512)]).unwrap_err();
        assert_eq!(failed, "byte 0 of base 1: unexpected end of file", "{how:?}");
        assert!(one(&mut chain, read(1024), &memory, &[at(0, 512)]).is_err(), "half of it has no buffer");
        assert!(one(&mut chain, read(512), &memory, &[at(DISK, 512)]).is_err(), "not in the guest's memory");
        let zeros = Request::Read { offset: DISK - 512, len: 512 };
        memory.write_slice(&[1; 512], GuestAddress(0)).unwrap();
        one(&mut chain, zeros, &memory, &[at(0, 512)]).unwrap();
        assert_eq!(memory.read_obj::<[u8; 32]>(GuestAddress(480)).unwrap(), [0; 32], "it still serves");
    }
}

#[test]
fn a_part_of_buffers_is_cut_out_however_they_are_split() {
    let extents = [at(100, 10), at(7, 0), at(200, 5), at(300, 20)];
    let mut into = Vec::new();
    for (data, expected) in [
        (0..10, vec![at(100, 10)]),
        (3..12, vec![at(103, 7), at(200, 2)]),
        (10..15, vec![at(200, 5)]),
        (14..35, vec![at(204, 1), at(300, 20)]),
        (4..4, vec![]),
    ] {
        assert_eq!(part(&extents, data.clone(), &mut into), Ok(()), "{data:?}");
        into.retain(|extent| extent.len > 0);
        assert_eq!(into, expected, "{data:?}");
    }
    for data in [0..36, 35..36, 0..u64::MAX, u64::MAX - 1..u64::MAX] {
        assert!(part(&extents, data, &mut into).is_err());
    }
}

#[test]
fn what_was_changed_is_written_out_a_while_later_though_nobody_flushes() {
    for how in [How::Ring, How::Plain] {
        let dir = tempfile::tempdir().unwrap();
        let mut model = image(dir.path());
        let mut chain = chain(how, dir.path(), true);
        let memory = memory();
        assert_eq!(chain.deadline(), None);
        one(&mut chain, Request::Read { offset: 0, len: 512 }, &memory, &[at(0, 512)]).unwrap();
        assert_eq!(chain.deadline(), None, "a read changes nothing");
        memory.write_slice(&[9; 512], GuestAddress(0)).unwrap();
        model[..512].fill(9);
        one(&mut chain, Request::Write { offset: 0, len: 512 }, &memory, &[at(0, 512)]).unwrap();
        assert!(chain.map.dirty() && chain.deadline().is_some());
        while let Some(at) = chain.deadline() {
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            assert_eq!(answers(&mut chain), []);
        }
        assert!(!chain.map.dirty());
        std::mem::forget(chain); // as one that is killed
        is_right(dir.path());
        assert!(content(&mut self::chain(how, dir.path(), false)) == model, "{how:?}");
    }
}

#[test]
fn a_write_outlasts_the_process_where_the_driver_can_not_flush() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = image(dir.path());
    let mut chain = chain(How::Ring, dir.path(), true);
    let memory = memory();
    chain.set_write_through(true);
    memory.write_slice(&[9; 512], GuestAddress(0)).unwrap();
    model[..512].fill(9);
    one(&mut chain, Request::Write { offset: 0, len: 512 }, &memory, &[at(0, 512)]).unwrap();
    std::mem::forget(chain);
    is_right(dir.path());
    assert!(content(&mut self::chain(How::Ring, dir.path(), false)) == model);
}

#[test]
fn a_turn_ends_though_much_is_left_and_the_next_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = image(dir.path());
    let mut chain = chain(How::Plain, dir.path(), true);
    let memory = memory();
    memory.write_slice(&vec![9; 4 << 20], GuestAddress(0)).unwrap();
    model.fill(9);
    let write = Request::Write { offset: 0, len: DISK };
    assert!(chain.begin(0, write, &memory, &[at(0, DISK)]));
    let mut ended = Vec::new();
    assert_eq!(chain.turn(&mut ended).unwrap(), Progress::More, "64 clusters by three slots");
    assert!(ended.is_empty());
    assert_eq!(answers(&mut chain), [(0, Ok(()))]);
    settle(&mut chain);
    is_right(dir.path());
    assert!(content(&mut chain) == model);
}
