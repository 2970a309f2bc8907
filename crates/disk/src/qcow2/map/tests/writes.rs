//! Writing: a flat model beside it, failures, and power cuts at every operation.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::qcow2::{RefcountBlock, block_of};

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |word| u64::from_be_bytes(word.try_into().unwrap()))
}

fn usize_of(value: u64) -> usize {
    usize::try_from(value).unwrap()
}

/// How often each cluster of an image is referred to, without snapshots; and the entries that say once.
fn references(bytes: &[u8]) -> Result<(HashMap<u64, u64>, Vec<u64>), String> {
    let len = u64::try_from(bytes.len()).unwrap();
    let header = Header::parse(bytes, len).map_err(|error| error.to_string())?;
    let geometry = header.geometry;
    let cs = geometry.cluster_size();
    let mut found: HashMap<u64, u64> = HashMap::new();
    let mut once = Vec::new();
    let mut add =
        |from: u64, clusters: u64| (from..from + clusters).for_each(|cluster| *found.entry(cluster).or_default() += 1);
    add(0, 1);
    add(header.l1.at / cs, geometry.clusters(u64::from(header.l1.count) * 8));
    add(header.refcounts.at / cs, u64::from(header.refcounts.count));
    for index in 0..usize_of(u64::from(header.refcounts.count) * cs / 8) {
        match word(bytes, usize_of(header.refcounts.at) + index * 8) {
            0 => {}
            at if at % cs == 0 => add(at / cs, 1),
            at => return Err(format!("refcount table entry {at:#x}")),
        }
    }
    for l1 in 0..usize::try_from(header.l1.count).unwrap() {
        let entry =
            L1Entry::of(word(bytes, usize_of(header.l1.at) + l1 * 8), geometry).map_err(|error| error.to_string())?;
        let Some(table) = entry else { continue };
        add(table.at / cs, 1);
        once.extend(table.copied.then_some(table.at / cs));
        for l2 in 0..usize_of(geometry.l2_entries()) {
            let bits = word(bytes, usize_of(table.at) + l2 * 8);
            let cluster = L2Entry { bits, bitmap: 0 }.cluster(geometry, header.version);
            match cluster.map_err(|error| format!("L2 entry {bits:#x}: {error}"))? {
                Cluster::Unallocated | Cluster::Zero { kept: None } | Cluster::Subclusters { .. } => {}
                Cluster::Zero { kept: Some((at, copied)) } | Cluster::Standard { at, copied } => {
                    add(at / cs, 1);
                    once.extend(copied.then_some(at / cs));
                }
                Cluster::Compressed { at, len } => add(at / cs, (at + len).div_ceil(cs) - at / cs),
            }
        }
    }
    Ok((found, once))
}

/// Whether an image is consistent: leaks are told by their number, all else is an error.
pub(super) fn check(bytes: &[u8]) -> Result<u64, String> {
    let (found, once) = references(bytes)?;
    let header = Header::parse(bytes, u64::try_from(bytes.len()).unwrap()).map_err(|error| error.to_string())?;
    let geometry = header.geometry;
    let cs = geometry.cluster_size();
    let count = |cluster: u64| {
        let (block, index) = block_of(cluster, geometry);
        let at = match block < u64::from(header.refcounts.count) * cs / 8 {
            true => usize_of(word(bytes, usize_of(header.refcounts.at + block * 8))),
            false => 0,
        };
        let end = bytes.len().min(at + geometry.cluster_len());
        let block = bytes.get(at..end).unwrap_or_default();
        if at == 0 { 0 } else { RefcountBlock::new(block, geometry).get(index) }
    };
    for (cluster, wanted) in &found {
        let counted = count(*cluster);
        if counted < *wanted {
            return Err(format!("cluster {cluster} is referred to {wanted} times and counted {counted}"));
        }
    }
    for cluster in once {
        if found[&cluster] != 1 {
            return Err(format!("cluster {cluster} is said to be used once, and is {} times", found[&cluster]));
        }
    }
    let clusters = u64::try_from(bytes.len()).unwrap().div_ceil(cs);
    let leaks = (0..clusters).map(|cluster| count(cluster) - found.get(&cluster).copied().unwrap_or(0)).sum();
    // The check that users run finds the same.
    let report = crate::qcow2::check::check(&bytes.to_vec(), &mut |_, _| std::ops::ControlFlow::Continue(()));
    let report = report.map_err(|error| error.to_string())?;
    if report.errors != 0 || (report.leaks == 0) != (leaks == 0) {
        return Err(format!("{leaks} leaks; image check: {report:?}"));
    }
    Ok(leaks)
}

/// Gives a made image its refcounts.
pub(super) fn counted(mut bytes: Vec<u8>, order: u8, version: u32) -> Vec<u8> {
    bytes[96..100].copy_from_slice(&u32::from(order).to_be_bytes());
    let header = Header::parse(&bytes, u64::try_from(bytes.len()).unwrap()).unwrap();
    let geometry = header.geometry;
    let cs = geometry.cluster_len();
    bytes.resize(bytes.len().next_multiple_of(cs), 0);
    loop {
        let (found, _) = references(&bytes).unwrap();
        let last = found.keys().max().copied().unwrap();
        let missing = (0..=block_of(last, geometry).0).find(|index| word(&bytes, cs + usize_of(*index) * 8) == 0);
        let Some(index) = missing else {
            for (cluster, count) in found {
                let (block, index) = block_of(cluster, geometry);
                let at = usize_of(word(&bytes, cs + usize_of(block) * 8));
                assert!(RefcountBlock::new(&mut bytes[at..at + cs], geometry).set(index, count));
            }
            break;
        };
        let at = u64::try_from(bytes.len()).unwrap().to_be_bytes();
        bytes[cs + usize_of(index) * 8..][..8].copy_from_slice(&at);
        bytes.resize(bytes.len() + cs, 0);
    }
    if version == 2 {
        bytes[4..8].copy_from_slice(&2u32.to_be_bytes());
        bytes[72..120].fill(0);
    }
    bytes
}

/// A request of a test: kind, where and how much in 64ths of the disk's clusters, and the bytes.
#[derive(Clone, Debug)]
enum Ask {
    Write(u32, u32, u8),
    Zero(u32, u32, bool),
    Discard(u32, u32),
    Flush,
}

fn asks() -> impl Strategy<Value = Vec<Vec<Ask>>> {
    let at = any::<u32>();
    let one = prop_oneof![
        6 => (at, 1u32..4000, 1u8..255).prop_map(|(at, len, value)| Ask::Write(at, len, value)),
        1 => (at, 1u32..4000, any::<bool>()).prop_map(|(at, len, unmap)| Ask::Zero(at, len, unmap)),
        2 => (at, 512u32..6000).prop_map(|(at, len)| Ask::Discard(at, len)),
        1 => Just(Ask::Flush),
    ];
    prop::collection::vec(prop::collection::vec(one, 1..12), 1..9)
}

/// An image to write to, with what its disk has: cluster bits, width, version, clusters, a base of raw bytes.
#[derive(Clone, Debug)]
struct Setup {
    bytes: Vec<u8>,
    base: Option<Vec<u8>>,
    disk: Vec<u8>,
}

fn setup() -> impl Strategy<Value = Setup> {
    let clusters = prop::collection::vec(made(), 0..70);
    let base = prop::option::of(prop::collection::vec(any::<u8>(), 1..40000));
    (9u8..=11, 0u8..=6, any::<bool>(), 20u64..120, clusters, base).prop_map(
        |(bits, order, v2, sectors, mut clusters, base)| {
            for made in &mut clusters {
                match made {
                    Made::Parts(value, ..) => *made = Made::Data(*value),
                    Made::Zero if v2 => *made = Made::Nothing,
                    // Packed clusters share none here, so widths of one bit do.
                    Made::Packed(_) | Made::Data(_) | Made::Zero | Made::Nothing => {}
                }
            }
            let (bytes, disk) = make(Geometry::new(bits, 4, false).unwrap(), false, sectors * 512, &clusters);
            let bytes = counted(bytes, if v2 { 4 } else { order }, if v2 { 2 } else { 3 });
            let below = |at: usize| base.as_ref().and_then(|base| base.get(at)).copied().unwrap_or(0);
            let disk = disk.iter().enumerate().map(|(at, has)| has.unwrap_or_else(|| below(at))).collect();
            Setup { bytes, base, disk }
        },
    )
}

pub(super) fn open(bytes: &[u8], base: Option<&Vec<u8>>, access: Access, limits: Limits) -> Result<Map, LayerError> {
    let mut layers = vec![layer(bytes, DiskFormat::Qcow2, access)?];
    if let Some(base) = base {
        layers.push(layer(base, DiskFormat::Raw, Access::Read)?);
    }
    Map::open(layers, limits)
}

/// What the disk of an image shows.
pub(super) fn shown(bytes: &[u8], base: Option<&Vec<u8>>) -> Result<Vec<u8>, String> {
    let mut map = open(bytes, base, Access::Read, Limits::default()).map_err(|error| error.to_string())?;
    let mut engine = Engine::new([Some(bytes.to_vec()), base.cloned()].into_iter().flatten().collect(), 5);
    let read = read_all(&mut map, &mut engine, 1 << 20).into_iter().collect::<Result<Vec<_>, _>>();
    Ok(read.map_err(|failure| failure.to_string())?.concat())
}

/// Of each byte of the disk, what it may be after a power cut: what was flushed last, and all that was written since.
type History = Vec<Vec<u8>>;

/// Runs requests, a group at once of which no two share a cluster, and compares with the model after each group. Power
/// cuts are tried after every `every`th operation.
fn run(setup: &Setup, groups: &[Vec<Ask>], seed: u64, limits: Limits, fails: Option<u32>, every: u32) {
    let size = setup.disk.len();
    let base = setup.base.as_ref();
    let mut map = open(&setup.bytes, base, Access::Write, limits).unwrap();
    let files = [Some(setup.bytes.clone()), setup.base.clone()].into_iter().flatten().collect();
    let mut engine = Engine::new(files, seed);
    engine.fails = fails;
    let cluster = map.cluster_len(0);
    // Each cluster once, tables and blocks beside; each ask may leave a cluster that is being freed.
    engine.room = setup.bytes.len() + size * 3 + cluster * (groups.len() * 300 + 64);
    let history: Rc<RefCell<History>> = Rc::new(RefCell::new(setup.disk.iter().map(|byte| vec![*byte]).collect()));
    let may = Rc::clone(&history);
    let below = setup.base.clone();
    engine.cut = Some((
        every,
        Box::new(move |left| {
            check(&left).unwrap_or_else(|error| panic!("after a power cut: {error}"));
            let disk = shown(&left, below.as_ref()).unwrap();
            for (at, (byte, may)) in disk.iter().zip(may.borrow().iter()).enumerate() {
                assert!(may.contains(byte), "after a power cut byte {at} is {byte}, not of {may:?}");
            }
        }),
    ));
    let mut model = setup.disk.clone();
    let mut id = 0;
    for group in groups {
        let mut taken: Vec<(usize, usize)> = Vec::new();
        let mut asked = Vec::new();
        let mut flushes = Vec::new();
        for ask in group {
            let place = |at: u32, len: u32| {
                let from = usize::try_from(at).unwrap() % size;
                (from, (from + usize::try_from(len).unwrap()).min(size))
            };
            id += 1;
            let (from, to) = match ask {
                Ask::Write(at, len, _) | Ask::Zero(at, len, _) | Ask::Discard(at, len) => place(*at, *len),
                Ask::Flush => {
                    map.submit(RequestId(id), Request::Flush);
                    flushes.push(id);
                    continue;
                }
            };
            let wide = (from / cluster, to.div_ceil(cluster));
            if taken.iter().any(|(first, end)| wide.0 < *end && *first < wide.1) {
                continue;
            }
            taken.push(wide);
            let (offset, len) = (u64::try_from(from).unwrap(), u64::try_from(to - from).unwrap());
            let mut history = history.borrow_mut();
            let (request, values): (Request, Vec<u8>) = match ask {
                Ask::Write(_, _, value) => {
                    let bytes: Vec<u8> =
                        (from..to).map(|at| value.wrapping_add(u8::try_from(at % 7).unwrap())).collect();
                    engine.buffers.insert(RequestId(id), bytes.clone());
                    (Request::Write { offset, len }, bytes)
                }
                Ask::Zero(_, _, unmap) => (Request::WriteZeroes { offset, len, unmap: *unmap }, vec![0; to - from]),
                Ask::Discard(..) => (Request::Discard { offset, len }, vec![0; to - from]),
                Ask::Flush => continue,
            };
            history[from..to].iter_mut().zip(&values).for_each(|(may, value)| may.push(*value));
            drop(history);
            asked.push((id, from, to, values, matches!(ask, Ask::Discard(..))));
            map.submit(RequestId(id), request);
        }
        engine.run(&mut map);
        let failed = fails.is_some_and(|fails| engine.count >= fails);
        // What is in memory alone is not in the file: the disk is read through the map.
        let read = read_all_with(&mut map, &mut engine, &mut id, size);
        for (id, from, to, values, discard) in asked {
            let answer = engine.answers[&RequestId(id)];
            assert!(answer.is_ok() || failed, "{answer:?}");
            for at in from..to {
                let value = values[at - from];
                let old = model[at];
                let may_be_old = discard || answer.is_err();
                assert!(
                    read[at] == value || (may_be_old && read[at] == old),
                    "byte {at}: {} for {value} after {old}",
                    read[at]
                );
                model[at] = read[at];
            }
        }
        assert!(read == model, "what was not asked for changed");
        for id in flushes {
            let answer = engine.answers[&RequestId(id)];
            assert!(answer.is_ok() || failed, "{answer:?}");
        }
        if !failed {
            flush(&mut map, &mut engine, &mut id, &history, &model);
        }
    }
    if let Some(fails) = fails {
        if engine.count >= fails && map.broken.is_some() {
            return;
        }
    }
    // The second flush lets the last counts fall.
    flush(&mut map, &mut engine, &mut id, &history, &model);
    flush(&mut map, &mut engine, &mut id, &history, &model);
    assert!(!map.dirty() || fails.is_some());
    let leaks = check(&engine.files[0]).unwrap();
    assert!(leaks == 0 || fails.is_some(), "{leaks} leaks");
    assert!(shown(&engine.files[0], base).unwrap() == model);
    assert!(map.locks.is_empty() && map.copying == 0 && map.waiting.is_empty());
}

fn flush(map: &mut Map, engine: &mut Engine, id: &mut u64, history: &Rc<RefCell<History>>, model: &[u8]) {
    *id += 1;
    map.submit(RequestId(*id), Request::Flush);
    engine.run(map);
    if engine.answers[&RequestId(*id)].is_ok() {
        *history.borrow_mut() = model.iter().map(|byte| vec![*byte]).collect();
    }
}

fn read_all_with(map: &mut Map, engine: &mut Engine, id: &mut u64, size: usize) -> Vec<u8> {
    loop {
        *id += 1;
        engine.submit(map, *id, 0, size);
        engine.run(map);
        // The one operation that fails may be of this.
        if engine.answers[&RequestId(*id)].is_ok() {
            return engine.buffers[&RequestId(*id)].clone();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64 * u32::try_from(long()).unwrap()))]

    /// Writes, zeroings, discards and flushes in any order of completion, with room for few tables: the disk is as its
    /// model, the image ends without an error or a leak, and no power cut loses what was flushed.
    #[test]
    fn writes_agree_with_the_model_and_outlast_power_cuts(setup in setup(), groups in asks(), seed: u64, tables in 0usize..8192) {
        run(&setup, &groups, seed, Limits { tables, copying: 4096, write_through: false }, None, 9);
    }

    /// The same where each write is made to last before it is answered.
    #[test]
    fn write_through_agrees_with_the_model(setup in setup(), groups in asks(), seed: u64) {
        run(&setup, &groups, seed, Limits { tables: 4096, copying: 4096, write_through: true }, None, 31);
    }

    /// Any operation fails: its requests are told, all others and the image are right.
    #[test]
    fn a_failure_leaves_the_rest_right(setup in setup(), groups in asks(), seed: u64, fails in 1u32..120) {
        run(&setup, &groups, seed, Limits { tables: 4096, copying: 4096, write_through: false }, Some(fails), 31);
    }
}

pub(super) fn plain(clusters: &[Made], order: u8) -> Vec<u8> {
    counted(make(Geometry::new(9, 4, false).unwrap(), false, 512 * 64, clusters).0, order, 3)
}

#[test]
fn an_image_that_is_open_to_be_read_is_not_written() {
    let bytes = plain(&[], 4);
    let mut map = open(&bytes, None, Access::Read, Limits::default()).unwrap();
    for (id, request) in (0..).zip([
        Request::Write { offset: 0, len: 1 },
        Request::WriteZeroes { offset: 0, len: 1, unmap: true },
        Request::Discard { offset: 0, len: 1 },
    ]) {
        map.submit(RequestId(id), request);
        assert_eq!(map.poll(), Some(Action::Finish { id: RequestId(id), result: Err(Failure::ReadOnly) }));
    }
    map.submit(RequestId(9), Request::Flush);
    assert_eq!(map.poll(), Some(Action::Finish { id: RequestId(9), result: Ok(()) }));
}

/// A file that outgrows its refcount table gets a larger one (Q20): 64-bit counts in clusters of 512 bytes, of which one
/// table's cluster covers 2 MiB.
#[test]
fn q20_the_refcount_table_grows_with_the_file() {
    let size = 5 << 20;
    let bytes = counted(make(Geometry::new(9, 4, false).unwrap(), false, size, &[]).0, 6, 3);
    let mut map = open(&bytes, None, Access::Write, Limits::default()).unwrap();
    let mut engine = Engine::new(vec![bytes], 11);
    engine.room = 8 << 20;
    engine.cut = Some((1001, Box::new(|left| assert!(check(&left).is_ok(), "{:?}", check(&left)))));
    let mut content = Vec::new();
    for (id, at) in (0..).zip((0..size).step_by(1 << 16)) {
        let bytes = vec![u8::try_from(id % 250).unwrap() + 1; 1 << 16];
        content.extend(&bytes);
        engine.buffers.insert(RequestId(id), bytes);
        map.submit(RequestId(id), Request::Write { offset: at, len: 1 << 16 });
        engine.run(&mut map);
        assert_eq!(engine.answers[&RequestId(id)], Ok(()));
        if id % 8 == 7 {
            map.flush_soon();
            engine.run(&mut map);
        }
    }
    for id in 1000..1003 {
        map.submit(RequestId(id), Request::Flush);
        engine.run(&mut map);
    }
    assert_eq!(check(&engine.files[0]), Ok(0));
    assert!(shown(&engine.files[0], None).unwrap() == content);
    let header = Header::parse(&engine.files[0], 8 << 20).unwrap();
    assert!(header.refcounts.count > 1, "{header:?}");
}

/// A cluster that is read while it is discarded is not given to another before the read is done.
#[test]
fn what_is_still_read_is_not_used_again() {
    let bytes = plain(&[Made::Data(1)], 4);
    let mut map = open(&bytes, None, Access::Write, Limits::default()).unwrap();
    let mut engine = Engine::new(vec![bytes], 3);
    engine.submit(&mut map, 0, 0, 8);
    engine.run(&mut map);
    map.submit(RequestId(1), Request::Read { offset: 0, len: 512 });
    let Some(Action::Do { token, op: Op::ReadGuest { at, .. }, .. }) = map.poll() else { panic!("it is read") };
    map.submit(RequestId(2), Request::Discard { offset: 0, len: 512 });
    let mut id = 10;
    let mut ops = |map: &mut Map, engine: &mut Engine, request: Request| {
        id += 1;
        engine.buffers.insert(RequestId(id), vec![7; 512]);
        map.submit(RequestId(id), request);
        let mut places = Vec::new();
        while let Some(action) = map.poll() {
            let Action::Do { token, file, op } = action else { continue };
            match op {
                Op::WriteGuest { at, .. } | Op::Punch { at, .. } => places.push(at),
                Op::Read { .. } | Op::ReadGuest { .. } | Op::ZeroGuest { .. } | Op::FillGuest { .. } => {}
                Op::Write { .. } | Op::Zero { .. } | Op::Sync => {}
            }
            let result = engine.perform(file, op);
            map.done(token, result);
        }
        places
    };
    for _ in 0..3 {
        assert_eq!(ops(&mut map, &mut engine, Request::Flush), [0; 0], "nothing is given back");
    }
    let other = ops(&mut map, &mut engine, Request::Write { offset: 1024, len: 512 });
    assert!(!other.contains(&at), "{other:?}");
    map.done(token, Ok(None));
    assert_eq!(ops(&mut map, &mut engine, Request::Flush), [at]);
    assert_eq!(ops(&mut map, &mut engine, Request::Write { offset: 4096, len: 512 }), [at], "now it is used again");
}

/// A cluster in place whose entry is at hand is one operation.
#[test]
fn a_write_in_place_is_one_operation() {
    let bytes = plain(&[Made::Data(1), Made::Data(2)], 4);
    let mut map = open(&bytes, None, Access::Write, Limits::default()).unwrap();
    let mut engine = Engine::new(vec![bytes], 3);
    for id in 0..2 {
        engine.buffers.insert(RequestId(id), vec![1; 1024]);
        map.submit(RequestId(id), Request::Write { offset: 0, len: 1024 });
        if id == 0 {
            engine.run(&mut map);
        }
    }
    let Some(Action::Do { op, .. }) = map.poll() else { panic!("it is written") };
    assert_eq!(op, Op::WriteGuest { id: RequestId(1), data: 0..1024, at: 2048 });
    assert_eq!(map.poll(), None);
}
