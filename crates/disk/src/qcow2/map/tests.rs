//! The map against a flat model: chains of images that are made here, an engine in memory that does what it is given in
//! any order and fails what it is told to.

use std::collections::HashMap;

use model::DiskFormat;
use proptest::prelude::*;

use super::*;
use crate::qcow2::{Access, Cluster, Compression, Geometry, Header, L1Entry, L2Entry, Table, Version};

/// Hostile images that a test tries: by the hundred thousand in `make test-long`.
fn hostile_images() -> usize {
    10_000 * long()
}

/// How many times longer than usual tests are that have no natural end: 1, but for `make test-long`.
fn long() -> usize {
    std::env::var("VMD_LONG").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// No hostile image may take longer, on a busy machine either.
const MAX_TIME: std::time::Duration = std::time::Duration::from_secs(5);

/// Looks at what a power cut left of file 0.
type Cut = Box<dyn FnMut(Vec<u8>)>;

/// An engine over files in memory.
struct Engine {
    files: Vec<Vec<u8>>,
    /// Chooses what is done next.
    seed: u64,
    /// Operations until one fails; never where it is none.
    fails: Option<u32>,
    /// Operations that were done.
    count: u32,
    buffers: HashMap<RequestId, Vec<u8>>,
    answers: HashMap<RequestId, Result<(), Failure>>,
    /// What a power cut leaves of file 0 for certain, and the writes since.
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
    /// Bytes that file 0 may have at most.
    room: usize,
    /// Looks at what a power cut now may leave, after every so many operations.
    cut: Option<(u32, Cut)>,
}

impl Engine {
    fn new(files: Vec<Vec<u8>>, seed: u64) -> Self {
        let durable = files.first().cloned().unwrap_or_default();
        Self {
            files,
            seed,
            fails: None,
            count: 0,
            buffers: HashMap::new(),
            answers: HashMap::new(),
            durable,
            unsynced: Vec::new(),
            room: usize::MAX,
            cut: None,
        }
    }

    /// xorshift64: the same seed gives the same order.
    fn choose(&mut self, of: usize) -> usize {
        self.seed = self.seed.max(1);
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        usize::try_from(self.seed % u64::try_from(of).unwrap()).unwrap()
    }

    fn submit(&mut self, map: &mut Map, id: u64, offset: u64, len: usize) {
        // What is there before must not be seen after.
        self.buffers.insert(RequestId(id), vec![0xee; len]);
        map.submit(RequestId(id), Request::Read { offset, len: u64::try_from(len).unwrap() });
    }

    /// Performs until nothing is left to do.
    fn run(&mut self, map: &mut Map) {
        self.run_watched(map, |_, _| {});
    }

    /// The same with a look at each operation before it is performed, and at how many there were with it.
    fn run_watched(&mut self, map: &mut Map, mut watch: impl FnMut(&Op, u32)) {
        let mut under_way = Vec::new();
        loop {
            while let Some(action) = map.poll() {
                match action {
                    Action::Do { token, file, op } => under_way.push((token, file, op)),
                    Action::Finish { id, result } => {
                        assert!(self.answers.insert(id, result).is_none(), "answered twice");
                    }
                }
            }
            if under_way.is_empty() {
                break;
            }
            let next = self.choose(under_way.len());
            let (token, file, op) = under_way.swap_remove(next);
            self.count += 1;
            watch(&op, self.count);
            let result =
                if self.fails == Some(self.count) { Err(io::ErrorKind::Other) } else { self.perform(file, op) };
            if let Some((every, mut cut)) = self.cut.take() {
                if self.count.is_multiple_of(every) {
                    cut(self.after_a_cut());
                }
                self.cut = Some((every, cut));
            }
            map.done(token, result);
        }
        assert_eq!(map.under_way(), 0, "a request has no answer");
    }

    /// What is left: all that was synced, and of each write since all, nothing, or some of its sectors.
    fn after_a_cut(&mut self) -> Vec<u8> {
        let mut left = self.durable.clone();
        for (at, bytes) in self.unsynced.clone() {
            let kind = self.choose(4);
            let mut from = 0;
            while from < bytes.len() {
                let to = ((at + from) / 512 * 512 + 512 - at).min(bytes.len());
                if kind > 1 || (kind == 1 && self.choose(2) == 0) {
                    left.resize(left.len().max(at + to), 0);
                    left[at + from..at + to].copy_from_slice(&bytes[from..to]);
                }
                from = to;
            }
        }
        left
    }

    fn write(&mut self, at: u64, bytes: Vec<u8>) -> Result<Option<Vec<u8>>, io::ErrorKind> {
        let at = usize::try_from(at).unwrap();
        let end = at + bytes.len();
        assert!(end <= self.room, "the image grows to {end} bytes, beyond {}", self.room);
        let file = &mut self.files[0];
        file.resize(file.len().max(end), 0);
        file[at..end].copy_from_slice(&bytes);
        self.unsynced.push((at, bytes));
        Ok(None)
    }

    fn perform(&mut self, file: u8, op: Op) -> Result<Option<Vec<u8>>, io::ErrorKind> {
        let range =
            |range: std::ops::Range<u64>| usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let read = |at: u64, len: usize| {
            let at = usize::try_from(at).unwrap();
            self.files[usize::from(file)].get(at..at + len).expect("what is read is in the file").to_vec()
        };
        match op {
            Op::Read { at, len } => return Ok(Some(read(at, len))),
            Op::ReadGuest { id, data, at } => {
                let bytes = read(at, range(data.clone()).len());
                self.buffers.get_mut(&id).unwrap()[range(data)].copy_from_slice(&bytes);
            }
            Op::ZeroGuest { id, data } => self.buffers.get_mut(&id).unwrap()[range(data)].fill(0),
            Op::FillGuest { id, data, bytes, from } => {
                let len = range(data.clone()).len();
                self.buffers.get_mut(&id).unwrap()[range(data)].copy_from_slice(&bytes[from..from + len]);
            }
            Op::WriteGuest { .. } | Op::Write { .. } | Op::Zero { .. } | Op::Punch { .. } | Op::Sync if file != 0 => {
                panic!("a base is written: {op:?}")
            }
            Op::WriteGuest { id, data, at } => {
                let bytes = self.buffers[&id][range(data)].to_vec();
                return self.write(at, bytes);
            }
            Op::Write { at, bytes } => return self.write(at, bytes),
            Op::Zero { at, len } => return self.write(at, vec![0; usize::try_from(len).unwrap()]),
            // What it held does not matter: anything may be there afterwards.
            Op::Punch { at, len } => {
                let end = self.files[0].len();
                let at = usize::try_from(at).unwrap().min(end);
                let len = usize::try_from(len).unwrap().min(end - at);
                return self.write(u64::try_from(at).unwrap(), vec![0xdd; len]);
            }
            Op::Sync => {
                self.durable = self.files[0].clone();
                self.unsynced.clear();
            }
        }
        Ok(None)
    }
}

/// What a cluster of a made image is.
#[derive(Clone, Debug)]
enum Made {
    Nothing,
    Zero,
    /// Bytes of this value and the cluster's number.
    Data(u8),
    Packed(u8),
    /// Subclusters: allocated and zero bits.
    Parts(u8, u32, u32),
}

fn content(value: u8, cluster: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| value.wrapping_add(u8::try_from((cluster * 31 + at / 64) % 251).unwrap())).collect()
}

/// An image's bytes, and of each byte of its disk what it has: none where the base is asked.
fn make(geometry: Geometry, zstd: bool, size: u64, clusters: &[Made]) -> (Vec<u8>, Vec<Option<u8>>) {
    let cs = geometry.cluster_len();
    let size_of = |count: u64| usize::try_from(count).unwrap();
    let l1_count = size_of(geometry.l1_needed(size));
    let l1_clusters = (l1_count * 8).div_ceil(cs);
    let at = |cluster: usize| u64::try_from(cluster * cs).unwrap();
    let l1_table = Table { at: at(2), count: u32::try_from(l1_count).unwrap() };
    let mut header = Header::new(geometry, size, l1_table, Table { at: at(1), count: 1 });
    header.compression = if zstd { Compression::Zstd } else { Compression::Deflate };
    let mut bytes = header.to_bytes().unwrap();
    bytes.resize((2 + l1_clusters) * cs, 0);
    let mut disk = vec![None; size_of(size)];
    let entry_size = size_of(geometry.l2_entry_size());
    for (number, made) in clusters.iter().enumerate() {
        let offset = at(number);
        if offset >= size || matches!(made, Made::Nothing) {
            continue;
        }
        let place = geometry.place(offset);
        let l1_at = 2 * cs + size_of(place.l1) * 8;
        let word = |bytes: &[u8], at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        if word(&bytes, l1_at) == 0 {
            let table = u64::try_from(bytes.len()).unwrap();
            bytes[l1_at..l1_at + 8].copy_from_slice(&L1Entry { at: table, copied: true }.bits().to_be_bytes());
            bytes.resize(bytes.len() + cs, 0);
        }
        let l2_at = size_of(word(&bytes, l1_at) & !(1 << 63)) + size_of(place.l2) * entry_size;
        let host = u64::try_from(bytes.len()).unwrap();
        let place_of = L2Entry::new(Cluster::Standard { at: host, copied: true }).unwrap().bits;
        let (bits, bitmap, has): (u64, u64, Vec<Option<u8>>) = match made {
            Made::Nothing => continue,
            Made::Zero if geometry.is_extended() => (0, 0xffff_ffff << 32, vec![Some(0); cs]),
            Made::Zero => (1, 0, vec![Some(0); cs]),
            Made::Data(value) => {
                let data = content(*value, number, cs);
                bytes.extend(&data);
                let bitmap = if geometry.is_extended() { 0xffff_ffff } else { 0 };
                (place_of, bitmap, data.into_iter().map(Some).collect())
            }
            Made::Packed(value) => {
                let data = content(*value, number, cs);
                // Compressed data begins anywhere.
                bytes.extend([0x55; 7]);
                let from = bytes.len();
                bytes.extend(packed(&data, zstd));
                let sectors = (bytes.len() - 1) / 512 - from / 512;
                let x = 70 - u32::from(geometry.cluster_bits());
                let bits = 1 << 62 | u64::try_from(sectors).unwrap() << x | u64::try_from(from).unwrap();
                bytes.resize(bytes.len().next_multiple_of(cs), 0x55);
                (bits, 0, data.into_iter().map(Some).collect())
            }
            Made::Parts(value, allocated, zero) => {
                let data = content(*value, number, cs);
                bytes.extend(&data);
                let has = data.iter().enumerate().map(|(at, byte)| {
                    let bit = 1u32 << (at / (cs / 32));
                    match (allocated & bit != 0, zero & !allocated & bit != 0) {
                        (true, _) => Some(*byte),
                        (false, true) => Some(0),
                        (false, false) => None,
                    }
                });
                (place_of, u64::from(zero & !allocated) << 32 | u64::from(*allocated), has.collect())
            }
        };
        bytes[l2_at..l2_at + 8].copy_from_slice(&bits.to_be_bytes());
        if geometry.is_extended() {
            bytes[l2_at + 8..l2_at + 16].copy_from_slice(&bitmap.to_be_bytes());
        }
        for (byte, has) in disk.iter_mut().skip(size_of(offset)).zip(has) {
            *byte = has;
        }
    }
    (bytes, disk)
}

fn packed(data: &[u8], zstd: bool) -> Vec<u8> {
    use std::io::Write;
    if zstd {
        return ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest);
    }
    let mut writer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

fn layer(bytes: &[u8], format: DiskFormat, access: Access) -> Result<Layer, LayerError> {
    let read = |at: u64, len: usize| {
        let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let mut found = bytes[from..bytes.len().min(from.saturating_add(len))].to_vec();
        found.resize(len, 0);
        Ok(found)
    };
    Layer::from_reads(read, u64::try_from(bytes.len()).unwrap(), format, access)
}

fn map_of(files: &[(Vec<u8>, DiskFormat)], limits: Limits) -> Result<Map, LayerError> {
    let layers =
        files.iter().map(|(bytes, format)| layer(bytes, *format, Access::Read)).collect::<Result<Vec<_>, _>>()?;
    Map::open(layers, limits)
}

/// Reads a whole disk in pieces of this many bytes, all at once.
fn read_all(map: &mut Map, engine: &mut Engine, piece: usize) -> Vec<Result<Vec<u8>, Failure>> {
    let size = usize::try_from(map.size()).unwrap();
    let pieces: Vec<usize> = (0..size).step_by(piece).collect();
    for (number, at) in pieces.iter().enumerate() {
        let id = u64::try_from(number).unwrap();
        engine.submit(map, id, u64::try_from(*at).unwrap(), piece.min(size - at));
    }
    engine.run(map);
    let of = |number: usize| {
        let id = RequestId(u64::try_from(number).unwrap());
        engine.answers[&id].map(|()| engine.buffers[&id].clone())
    };
    (0..pieces.len()).map(of).collect()
}

fn made() -> impl Strategy<Value = Made> {
    prop_oneof![
        2 => Just(Made::Nothing),
        1 => Just(Made::Zero),
        3 => any::<u8>().prop_map(Made::Data),
        1 => any::<u8>().prop_map(Made::Packed),
        1 => any::<(u8, u32, u32)>().prop_map(|(value, allocated, zero)| Made::Parts(value, allocated, zero)),
    ]
}

/// An image of a chain: cluster bits, whether extended, whether zstd, bytes of the disk, clusters.
fn image() -> impl Strategy<Value = (Vec<u8>, Vec<Option<u8>>)> {
    let shape = prop_oneof![3 => (9u8..=12).prop_map(|bits| (bits, false)), 1 => Just((14u8, true))];
    (shape, any::<bool>(), 1u64..400, prop::collection::vec(made(), 0..140)).prop_map(
        |((bits, extended), zstd, sectors, mut clusters)| {
            for made in &mut clusters {
                match made {
                    Made::Parts(value, ..) if !extended => *made = Made::Data(*value),
                    _ => {}
                }
            }
            make(Geometry::new(bits, 4, extended).unwrap(), zstd, sectors * 512, &clusters)
        },
    )
}

mod cuts;
mod damage;
mod hostile;
mod kills;
mod power;
mod room;
mod writes;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Chains of images of any kinds and a raw base read as the flat model, in any order of completion, in pieces of any
    /// size, with room for few tables.
    #[test]
    fn a_chain_reads_as_its_model(
        images in prop::collection::vec(image(), 1..5),
        raw in prop::option::of(prop::collection::vec(any::<u8>(), 1..70000)),
        piece in 1usize..20000,
        tables in 0usize..8192,
        seed: u64,
    ) {
        let size = images[0].1.len();
        let piece = piece.max(size / 500);
        let mut model: Vec<u8> = vec![0; size];
        for (at, byte) in model.iter_mut().enumerate() {
            // The first that has it; a shorter one ends the search with zero.
            let found = images.iter().map(|(_, disk)| disk.get(at).map_or(Some(0), |has| *has)).find_map(|has| has);
            *byte = found.unwrap_or_else(|| raw.as_ref().and_then(|raw| raw.get(at)).copied().unwrap_or(0));
        }
        let mut files: Vec<_> = images.into_iter().map(|(bytes, _)| (bytes, DiskFormat::Qcow2)).collect();
        files.extend(raw.map(|raw| (raw, DiskFormat::Raw)));
        let mut map = map_of(&files, Limits { tables, copying: 20000, write_through: false }).unwrap();
        let mut engine = Engine::new(files.into_iter().map(|(bytes, _)| bytes).collect(), seed);
        let read: Vec<u8> = read_all(&mut map, &mut engine, piece).into_iter().flat_map(Result::unwrap).collect();
        prop_assert!(read == model);
        prop_assert!(map.cache.held() <= tables.max(1 << 14), "{} bytes of tables", map.cache.held());
    }

    /// One operation fails: the requests that needed it fail, the others read right, and afterwards all do.
    #[test]
    fn what_fails_is_told_and_nothing_else_is_lost(images in prop::collection::vec(image(), 1..3), fails in 1u32..40, seed: u64) {
        let files: Vec<_> = images.into_iter().map(|(bytes, _)| (bytes, DiskFormat::Qcow2)).collect();
        let bytes: Vec<Vec<u8>> = files.iter().map(|(bytes, _)| bytes.clone()).collect();
        let mut map = map_of(&files, Limits::default()).unwrap();
        let mut engine = Engine::new(bytes.clone(), seed);
        engine.fails = Some(fails);
        let first = read_all(&mut map, &mut engine, 4096);
        let failed = engine.count >= fails;
        prop_assert_eq!(first.iter().any(Result::is_err), failed);
        let mut engine = Engine::new(bytes, seed);
        let second = read_all(&mut map, &mut engine, 4096);
        for (first, second) in first.into_iter().zip(second) {
            let second = second.unwrap();
            match first {
                Ok(first) => prop_assert!(first == second),
                Err(failure) => {
                    let told = matches!(failure, Failure::Io { error: io::ErrorKind::Other, .. });
                    prop_assert!(told, "{}", failure);
                }
            }
        }
    }
}

/// Mutated images by the ten thousand: read or refused, never a panic, a read outside the file or a request without an
/// answer.
#[test]
fn hostile_images_are_read_or_refused() {
    let mut choose = Engine::new(Vec::new(), 77);
    let kinds = [(9, false, false), (9, false, true), (14, true, false)];
    let seeds: Vec<Vec<u8>> = kinds
        .map(|(bits, extended, zstd)| {
            let parts = if extended { Made::Parts(5, 0xff00, 0x00ff) } else { Made::Data(5) };
            let clusters = [Made::Data(1), Made::Packed(2), Made::Zero, Made::Nothing, parts, Made::Packed(9)];
            make(Geometry::new(bits, 4, extended).unwrap(), zstd, 6 << bits, &clusters).0
        })
        .into();
    let mut read = 0;
    for _ in 0..hostile_images() {
        let begun = std::time::Instant::now();
        let which = choose.choose(seeds.len());
        let mut bytes = seeds[which].clone();
        let cluster = if which == 2 { 1 << 14 } else { 512 };
        for _ in 0..=choose.choose(4) {
            // A byte anywhere, or one of header, L1 or L2.
            let at = match choose.choose(4) {
                0 => choose.choose(bytes.len()),
                1 => choose.choose(112),
                2 => 2 * cluster + choose.choose(16),
                _ => 3 * cluster + choose.choose(128),
            };
            let values = [0, 0xff, 1, 0x80, 0x40];
            bytes[at] = match choose.choose(8) {
                pick if pick < 5 => values[pick],
                _ => u8::try_from(choose.choose(256)).unwrap(),
            };
        }
        let files = [(bytes.clone(), DiskFormat::Qcow2), (seeds[0].clone(), DiskFormat::Qcow2)];
        let Ok(mut map) = map_of(&files, Limits { tables: 4096, copying: 4096, write_through: false }) else {
            continue;
        };
        let mut engine = Engine::new(files.map(|(bytes, _)| bytes).into(), choose.seed);
        let offset = u64::try_from(choose.choose(usize::try_from(map.size().min(1 << 40)).unwrap())).unwrap();
        let rest = usize::try_from((map.size() - offset).min(70_000)).unwrap();
        engine.submit(&mut map, 0, offset, rest);
        let begin = usize::try_from(map.size().min(70_000)).unwrap();
        engine.submit(&mut map, 1, 0, begin);
        engine.run(&mut map);
        read += usize::from(engine.answers.values().all(Result::is_ok));
        assert!(begun.elapsed() < MAX_TIME);
    }
    let most = hostile_images() / 100 * 99;
    assert!((most / 20..most).contains(&read), "{read} read whole: the changes hit something, and not all");
}

fn small(clusters: &[Made]) -> Vec<u8> {
    make(Geometry::new(9, 4, false).unwrap(), false, 512 * 8, clusters).0
}

/// The answer to reading an image's first bytes, after `change`.
fn first_bytes(mut bytes: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Result<Vec<u8>, Failure> {
    change(&mut bytes);
    let files = [(bytes, DiskFormat::Qcow2)];
    let mut map = map_of(&files, Limits::default()).unwrap();
    let mut engine = Engine::new(files.map(|(bytes, _)| bytes).into(), 1);
    engine.submit(&mut map, 0, 0, 16);
    engine.run(&mut map);
    engine.answers[&RequestId(0)].map(|()| engine.buffers[&RequestId(0)].clone())
}

#[test]
fn q6_an_l1_entry_that_leads_nowhere_is_told() {
    let with = |entry: u64| {
        first_bytes(small(&[Made::Data(1)]), |bytes| bytes[1024..1032].copy_from_slice(&entry.to_be_bytes()))
    };
    let corrupt = |what| Err(Failure::Corrupt { file: 0, what });
    assert_eq!(with(1 << 63), corrupt(Corruption::L1 { index: 0, why: crate::qcow2::BadEntry::CopiedNothing }));
    assert_eq!(with(1 << 40), corrupt(Corruption::Outside { at: 1 << 40 }));
    assert_eq!(with(0x601), corrupt(Corruption::L1 { index: 0, why: crate::qcow2::BadEntry::Reserved }));
    assert_eq!(with(0), Ok(vec![0; 16]));
}

#[test]
fn q7_an_l2_entry_that_leads_nowhere_is_told() {
    let with = |entry: u64| {
        first_bytes(small(&[Made::Data(1)]), |bytes| bytes[1536..1544].copy_from_slice(&entry.to_be_bytes()))
    };
    let corrupt = |what| Err(Failure::Corrupt { file: 0, what });
    assert_eq!(with(1 << 63 | 1 << 50), corrupt(Corruption::Outside { at: 1 << 50 }));
    assert_eq!(with(1 << 57), corrupt(Corruption::L2 { offset: 0, why: crate::qcow2::BadEntry::Reserved }));
    assert_eq!(with(1 << 62 | 1 << 40), corrupt(Corruption::Outside { at: 1 << 40 }));
    assert_eq!(with(1), Ok(vec![0; 16]), "the zero flag");
}

#[test]
fn q17_the_zero_flag_counts_in_version_3_alone() {
    let v2 = |bytes: &mut Vec<u8>| {
        bytes[4..8].copy_from_slice(&2u32.to_be_bytes());
        bytes[72..512].fill(0);
    };
    let zero = first_bytes(small(&[Made::Zero]), v2);
    let why = crate::qcow2::BadEntry::Reserved;
    assert_eq!(zero, Err(Failure::Corrupt { file: 0, what: Corruption::L2 { offset: 0, why } }));
    let geometry = Geometry::new(9, 4, false).unwrap();
    let kept = L2Entry { bits: 0x800 | 1, bitmap: 0 }.cluster(geometry, Version::V3);
    assert_eq!(kept, Ok(Cluster::Zero { kept: Some((0x800, false)) }));
    assert_eq!(
        first_bytes(small(&[Made::Data(3)]), |bytes| bytes[1543] |= 1),
        Ok(vec![0; 16]),
        "also where it keeps one"
    );
}

#[test]
fn q12_compressed_data_that_is_no_cluster_is_told() {
    let broken = first_bytes(small(&[Made::Packed(1)]), |bytes| bytes[2048..].fill(0xff));
    assert_eq!(broken, Err(Failure::Corrupt { file: 0, what: Corruption::Packed { at: 2055 } }));
    // Sectors that the file does not have are not read: the data may end before them.
    let whole = first_bytes(small(&[Made::Packed(1)]), |bytes| {
        // One sector more.
        bytes[1536] |= 0x20;
        bytes.truncate(2400);
    });
    assert_eq!(whole, Ok(content(1, 0, 16)));
}

#[test]
fn a_file_that_ends_in_its_last_cluster_reads_as_zeros_beyond() {
    let mut expected = content(9, 0, 8);
    expected.resize(16, 0);
    assert_eq!(first_bytes(small(&[Made::Data(9)]), |bytes| bytes.truncate(2048 + 8)), Ok(expected));
}

#[test]
fn requests_are_bounded_by_the_disk() {
    let files = [(small(&[Made::Data(1)]), DiskFormat::Qcow2)];
    let mut map = map_of(&files, Limits::default()).unwrap();
    let mut engine = Engine::new(files.map(|(bytes, _)| bytes).into(), 1);
    for (id, offset, len) in [(0, 4096, 1), (1, u64::MAX, 1), (2, 4095, 2)] {
        engine.submit(&mut map, id, offset, len);
    }
    engine.submit(&mut map, 3, 4096, 0);
    engine.run(&mut map);
    let answers: Vec<_> = (0..4).map(|id| engine.answers[&RequestId(id)]).collect();
    assert_eq!(answers, [Err(Failure::Range), Err(Failure::Range), Err(Failure::Range), Ok(())]);
}

#[test]
fn a_chain_has_16_files() {
    let bytes = small(&[]);
    for (files, taken) in [(0, false), (1, true), (16, true), (17, false)] {
        let layers = (0..files).map(|_| layer(&bytes, DiskFormat::Qcow2, Access::Read).unwrap()).collect();
        assert_eq!(Map::open(layers, Limits::default()).is_ok(), taken, "{files}");
    }
}

/// A cluster whose table is there takes one operation, and what follows it in the file too.
#[test]
fn what_is_contiguous_is_one_operation() {
    let bytes =
        make(Geometry::new(9, 4, false).unwrap(), false, 4096, &[Made::Data(1), Made::Data(2), Made::Zero, Made::Zero])
            .0;
    let files = [(bytes, DiskFormat::Qcow2)];
    let mut map = map_of(&files, Limits::default()).unwrap();
    let mut engine = Engine::new(files.map(|(bytes, _)| bytes).into(), 1);
    engine.submit(&mut map, 0, 0, 1);
    engine.run(&mut map);
    engine.submit(&mut map, 1, 100, 4096 - 100);
    let mut ops = Vec::new();
    while let Some(Action::Do { op, .. }) = map.poll() {
        ops.push(op);
    }
    let id = RequestId(1);
    assert_eq!(ops, [Op::ReadGuest { id, data: 0..924, at: 2148 }, Op::ZeroGuest { id, data: 924..3996 },]);
}
