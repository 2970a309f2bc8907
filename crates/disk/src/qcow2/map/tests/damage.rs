//! Images that lie: what contradicts itself is found before a byte is written by it.

use super::writes::{open, plain};
use super::*;
use crate::qcow2::map::claims::Meta;

/// Writes 512 bytes at the begin of an image after `change`, flushes, and gives the answer and the file.
fn write_first(mut bytes: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> (Result<(), Failure>, Vec<u8>, Vec<u8>) {
    change(&mut bytes);
    let mut map = open(&bytes, None, Access::Write, Limits::default()).unwrap();
    let mut engine = Engine::new(vec![bytes.clone()], 3);
    engine.buffers.insert(RequestId(0), vec![0xab; 512]);
    map.submit(RequestId(0), Request::Write { offset: 0, len: 512 });
    engine.run(&mut map);
    // The second lets counts fall.
    for id in 1..3 {
        map.submit(RequestId(id), Request::Flush);
        engine.run(&mut map);
    }
    (engine.answers[&RequestId(0)], bytes, engine.files.remove(0))
}

/// The write is refused, the image marked, and not another byte of it changed.
fn is_corrupt(change: impl FnOnce(&mut Vec<u8>), what: Corruption) {
    let (answer, mut before, after) = write_first(plain(&[Made::Data(1), Made::Data(2)], 4), change);
    assert_eq!(answer, Err(Failure::Corrupt { file: 0, what }));
    before[79] |= 2;
    assert!(before == after, "{what}");
}

/// The image of `is_corrupt`: header, refcount table, L1 table, L2 table, two clusters, refcount block.
const L2: usize = 3 * 512;
const BLOCK: usize = 6 * 512;

fn entry(at: u64) -> impl FnOnce(&mut Vec<u8>) {
    move |bytes| bytes[L2..L2 + 8].copy_from_slice(&(1 << 63 | at).to_be_bytes())
}

#[test]
fn q7_an_entry_that_leads_to_the_image_s_own_tables_is_never_written_through() {
    for cluster in [1, 2, 3, 6] {
        is_corrupt(entry(cluster * 512), Corruption::Metadata { at: cluster * 512 });
    }
    is_corrupt(entry(512 * 700), Corruption::Outside { at: 512 * 700 });
    is_corrupt(entry(0x600 | 2), Corruption::L2 { offset: 0, why: crate::qcow2::BadEntry::Reserved });
    is_corrupt(
        |bytes| bytes[L2..L2 + 8].copy_from_slice(&((1u64 << 62) | (512 * 3)).to_be_bytes()),
        Corruption::Metadata { at: 512 * 3 },
    );
}

#[test]
fn q6_an_l1_entry_that_leads_to_another_table_is_never_written_through() {
    for cluster in [1u64, 2, 6] {
        let l1 = move |bytes: &mut Vec<u8>| bytes[1024..1032].copy_from_slice(&(1 << 63 | cluster << 9).to_be_bytes());
        is_corrupt(l1, Corruption::Metadata { at: cluster << 9 });
    }
}

#[test]
fn q8_a_count_that_contradicts_the_entry_is_found_before_the_write() {
    for (index, count) in [(4, 0u8), (4, 2), (3, 0), (3, 3)] {
        let set = move |bytes: &mut Vec<u8>| bytes[BLOCK + index * 2 + 1] = count;
        is_corrupt(set, Corruption::Refcount { at: u64::try_from(index).unwrap() * 512, count: u64::from(count) });
    }
    // Not said to be used once, and counted twice: a snapshot's too, so it is copied.
    let (answer, before, after) = write_first(plain(&[Made::Data(1)], 4), |bytes| {
        bytes[L2] = 0;
        bytes[5 * 512 + 4 * 2 + 1] = 2;
    });
    assert_eq!(answer, Ok(()));
    assert!(before[4 * 512..5 * 512] == after[4 * 512..5 * 512], "the snapshot's cluster stays");
    assert_eq!(after[5 * 512 + 4 * 2 + 1], 1, "and is the snapshot's alone");
}

#[test]
fn q9_a_refcount_table_that_leads_elsewhere_is_found() {
    for (entry, what) in [
        (3u64 << 9, Corruption::Metadata { at: 3 << 9 }),
        (1 << 40, Corruption::Outside { at: 1 << 40 }),
        (1, Corruption::RefcountTable { index: 0, why: crate::qcow2::BadEntry::Reserved }),
    ] {
        is_corrupt(move |bytes| bytes[512..520].copy_from_slice(&entry.to_be_bytes()), what);
    }
}

#[test]
fn q11_q16_what_must_not_be_written_is_refused_and_bitmaps_are_let_go_first() {
    for (bit, why) in [(1u8, "must be repaired"), (2, "marked as corrupt")] {
        let mut bytes = plain(&[Made::Data(1)], 4);
        bytes[79] = bit;
        let error = open(&bytes, None, Access::Write, Limits::default()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(open(&bytes, None, Access::Read, Limits::default()).is_ok());
    }
    let mut bytes = plain(&[Made::Data(1)], 4);
    bytes[88..96].fill(0xff);
    let mut map = open(&bytes, None, Access::Write, Limits::default()).unwrap();
    let mut engine = Engine::new(vec![bytes.clone()], 3);
    engine.submit(&mut map, 0, 0, 512);
    engine.run(&mut map);
    assert!(engine.files[0] == bytes, "who only reads clears nothing");
    engine.buffers.insert(RequestId(1), vec![1; 512]);
    map.submit(RequestId(1), Request::Write { offset: 0, len: 512 });
    let first: Vec<Action> = std::iter::from_fn(|| map.poll()).collect();
    let cleared = Op::Write { at: 88, bytes: vec![0; 8] };
    assert!(matches!(&first[..], [Action::Do { op, .. }] if *op == cleared), "{first:?}");
}

/// The image of `is_corrupt` with a snapshot: a table of one, its L1 table, and its L2 table, which no other has.
fn with_snapshot(bytes: &mut Vec<u8>) -> u64 {
    with_snapshot_counted(bytes, BLOCK)
}

/// The same of an image whose refcount block is elsewhere.
fn with_snapshot_counted(bytes: &mut Vec<u8>, block: usize) -> u64 {
    let at = bytes.len();
    let place = |clusters: usize| u64::try_from(at + clusters * 512).unwrap();
    let mut table = vec![0; 3 * 512];
    table[..8].copy_from_slice(&place(1).to_be_bytes());
    table[8..12].copy_from_slice(&1u32.to_be_bytes());
    table[512..520].copy_from_slice(&(1 << 63 | place(2)).to_be_bytes());
    bytes.extend(table);
    bytes[60..64].copy_from_slice(&1u32.to_be_bytes());
    bytes[64..72].copy_from_slice(&place(0).to_be_bytes());
    (at / 512..at / 512 + 3).for_each(|cluster| bytes[block + cluster * 2 + 1] = 1);
    place(2)
}

#[test]
fn q7_an_entry_that_leads_to_a_snapshot_s_tables_is_never_written_through() {
    let mut bytes = plain(&[Made::Data(1), Made::Data(2)], 4);
    let table = with_snapshot(&mut bytes);
    for at in [table, table - 512, table - 1024] {
        is_corrupt(
            |bytes| {
                with_snapshot(bytes);
                entry(at)(bytes);
            },
            Corruption::Metadata { at },
        );
    }
    // An L1 entry that leads there too: the count says once.
    let at = 1u64 << 63 | table;
    let (answer, ..) = write_first(bytes, |bytes| bytes[1024..1032].copy_from_slice(&at.to_be_bytes()));
    assert_eq!(answer, Ok(()), "it is the active table's");
}

/// Their table is at 1 MiB; clusters of 512 bytes.
fn header_of_65536_snapshots() -> Vec<u8> {
    let geometry = Geometry::new(9, 4, false).unwrap();
    let at = |place: u64, count: u32| Table { at: place, count };
    let mut header = Header::new(geometry, 4096, at(1024, 1), at(512, 1));
    header.snapshots = Some(crate::qcow2::header::Snapshots { at: 1 << 20, count: 65536 });
    header.to_bytes().unwrap()
}

/// 65536 snapshots that all name the same 32 MiB as their L1 table: what is kept of them is one range.
#[test]
fn snapshots_that_share_a_table_take_little() {
    let bytes = header_of_65536_snapshots();
    let read = |at: u64, len: usize| {
        let mut found = vec![0; len];
        if at == 0 {
            let len = len.min(bytes.len());
            found[..len].copy_from_slice(&bytes[..len]);
        } else if len == 40 {
            found[..8].copy_from_slice(&(64u64 << 20).to_be_bytes());
            found[8..12].fill(0xff);
        }
        Ok(found)
    };
    let layer = Layer::from_reads(read, 1 << 40, DiskFormat::Qcow2, Access::Write).unwrap();
    let Kind::Qcow2(image) = layer.kind else { panic!("it is an image") };
    let snapshots = image.writable.unwrap().snapshots;
    let table = (1 << 20) / 512..((1 << 20) + 65536 * 40) / 512;
    assert_eq!(snapshots.fixed, [table, (64 << 20) / 512..(96 << 20) / 512]);
    assert_eq!(snapshots.tables, [0; 0]);
}

/// A snapshot with a million L2 tables, and 65535 with one each, all different: not to be sorted after each.
#[test]
fn snapshots_with_many_tables_take_no_time() {
    let bytes = header_of_65536_snapshots();
    let read = |at: u64, len: usize| {
        let first = (at / 8)..;
        Ok(match at {
            0 => bytes.iter().copied().chain(std::iter::repeat(0)).take(len).collect(),
            _ if len == 40 => {
                let (place, count) = if at == 1 << 20 { (64 << 20, 1 << 20) } else { ((128 << 20) + at, 1u32) };
                let mut snapshot = u64::to_be_bytes(place).to_vec();
                snapshot.extend(count.to_be_bytes());
                snapshot.resize(40, 0);
                snapshot
            }
            // The table that an entry names is told by where the entry is.
            _ if at >= 64 << 20 => {
                first.take(len / 8).flat_map(|cluster| (1 << 63 | cluster << 9u64).to_be_bytes()).collect()
            }
            _ => vec![0; len],
        })
    };
    let began = std::time::Instant::now();
    let layer = Layer::from_reads(read, 1 << 40, DiskFormat::Qcow2, Access::Write).unwrap();
    let Kind::Qcow2(image) = layer.kind else { panic!("it is an image") };
    let tables = image.writable.unwrap().snapshots.tables;
    assert!(tables.len() == (1 << 20) + 65535 && tables.is_sorted());
    assert!(began.elapsed() < std::time::Duration::from_secs(60), "{:?}", began.elapsed());
}

/// What an image of 1 TiB takes with all of it in use, beside the cache: 64 KiB clusters, 2048 L2 tables, 512 blocks.
#[test]
fn an_image_of_1_tib_takes_little() {
    let geometry = Geometry::new(16, 4, false).unwrap();
    let at = |place: u64, count: u32| Table { at: place << 16, count };
    let header = Header::new(geometry, 1 << 40, at(2, 2048), at(1, 1));
    let bytes = header.to_bytes().unwrap();
    let read = |at: u64, len: usize| {
        let mut found = vec![0; len];
        match at >> 16 {
            0 => found[..len.min(bytes.len())].copy_from_slice(&bytes[..len.min(bytes.len())]),
            table => {
                let first: u64 = if table == 2 { 1000 } else { 8000 };
                let entries = (0..).zip(found.chunks_exact_mut(8)).take(if table == 2 { 2048 } else { 512 });
                entries.for_each(|(index, entry)| entry.copy_from_slice(&((first + index) << 16).to_be_bytes()));
            }
        }
        Ok(found)
    };
    let layer = Layer::from_reads(read, 1 << 41, DiskFormat::Qcow2, Access::Write).unwrap();
    let map = Map::open(vec![layer], Limits::default()).unwrap();
    let refs = map.refs.as_ref().unwrap();
    let Some(Kind::Qcow2(image)) = map.layers.first().map(|layer| &layer.kind) else { panic!("it is an image") };
    let taken = image.l1.len() * 8 + refs.table.len() * 8 + refs.claims.memory();
    assert!(refs.meta(1000) == Some(Meta::Table(0)) && refs.meta(8511) == Some(Meta::Block(511)));
    assert!(taken < 256 << 10, "{taken} bytes");
}

/// The mark is made to last, and what is refused afterwards says why.
#[test]
fn a_damaged_image_stays_marked() {
    let mut bytes = plain(&[Made::Data(1)], 4);
    entry(512)(&mut bytes);
    let mut map = open(&bytes, None, Access::Write, Limits::default()).unwrap();
    let mut engine = Engine::new(vec![bytes], 3);
    engine.buffers.insert(RequestId(0), vec![1; 512]);
    map.submit(RequestId(0), Request::Write { offset: 0, len: 512 });
    engine.run(&mut map);
    assert_eq!(engine.durable[79], 2, "a power cut leaves it");
    map.submit(RequestId(1), Request::Discard { offset: 512, len: 512 });
    engine.run(&mut map);
    assert_eq!(engine.answers[&RequestId(1)], Err(Failure::MarkedCorrupt));
}

/// Mutated images by the ten thousand are written: no panic, no growth beyond what is written and its tables, an answer to
/// all.
#[test]
fn hostile_images_are_written_or_refused() {
    let mut choose = Engine::new(Vec::new(), 4242);
    let clusters = [Made::Data(1), Made::Packed(2), Made::Zero, Made::Nothing, Made::Data(5), Made::Packed(9)];
    let mut kept = plain(&clusters, 4);
    let at = kept.len() - 512;
    with_snapshot_counted(&mut kept, at);
    let seeds = [plain(&clusters, 4), plain(&clusters, 0), plain(&clusters, 6), kept];
    let mut written = 0;
    for _ in 0..hostile_images() {
        let begun = std::time::Instant::now();
        let mut bytes = seeds[choose.choose(4)].clone();
        for _ in 0..=choose.choose(4) {
            let len = bytes.len();
            let at = match choose.choose(5) {
                0 => choose.choose(len),
                1 => choose.choose(112),
                2 => 512 + choose.choose(64),
                3 => 1024 + choose.choose(16),
                _ => 1536 + choose.choose(64),
            };
            let values = [0, 0xff, 1, 0x80, 0x40, 2, 6, 8];
            bytes[at] = match choose.choose(12) {
                pick if pick < 8 => values[pick],
                _ => u8::try_from(choose.choose(256)).unwrap(),
            };
        }
        // A file that was cut off.
        if choose.choose(10) == 0 {
            let len = 512 + choose.choose(bytes.len() - 512);
            bytes.truncate(len);
        }
        let limits = Limits { tables: 2048, copying: 4096, write_through: false };
        let Ok(mut map) = open(&bytes, None, Access::Write, limits) else { continue };
        let room = bytes.len() + 64 * 512;
        let seed = choose.seed;
        let mut engine = Engine::new(vec![bytes], seed);
        // What a hostile table of counts may make it skip is no space: it stays a hole.
        engine.room = room + 5000 * map.cluster_len(0);
        let size = map.size();
        for id in 0..8u64 {
            let offset = u64::try_from(choose.choose(8)).unwrap() * 512 % size;
            let len = size.min(700).min(size - offset);
            engine.buffers.insert(RequestId(id), vec![0xcc; 700]);
            map.submit(
                RequestId(id),
                match choose.choose(4) {
                    0 => Request::Discard { offset, len },
                    1 => Request::WriteZeroes { offset, len, unmap: true },
                    _ => Request::Write { offset, len },
                },
            );
        }
        map.submit(RequestId(100), Request::Flush);
        engine.run(&mut map);
        map.submit(RequestId(101), Request::Flush);
        engine.run(&mut map);
        written += usize::from(engine.answers.values().all(Result::is_ok));
        assert!(begun.elapsed() < MAX_TIME);
    }
    let most = hostile_images() / 100 * 99;
    assert!((most / 20..most).contains(&written), "{written} written whole: the changes hit something, and not all");
}
