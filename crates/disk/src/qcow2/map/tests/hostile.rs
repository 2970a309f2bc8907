//! Images that were changed by malice, read and written through the map. Enumerated whole: every field of the header, and
//! every word of every table that is not zero, each with every value of a list. `damage` samples several changes at once.
//!
//! Whatever an image says: no panic, an answer to each request after a bounded number of operations, nothing but the map's
//! own tables written where tables are, and no more space taken than for what was asked and its tables. And where image
//! check finds nothing wrong before, the disk is as a flat copy of it, and image check finds nothing wrong after.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::power::{Start, read_whole, starts};
use super::writes::{open, shown};
use super::*;
use crate::qcow2::check::{self, Finding};

/// Fields of the header: the first byte and how many (qcow2.rst, "Header").
const FIELDS: [(usize, usize); 20] = [
    (0, 4),
    (4, 4),
    (8, 8),
    (16, 4),
    (20, 4),
    (24, 8),
    (32, 4),
    (36, 4),
    (40, 8),
    (48, 8),
    (56, 4),
    (60, 4),
    (64, 8),
    (72, 8),
    (80, 8),
    (88, 8),
    (96, 4),
    (100, 4),
    (104, 1),
    (112, 8),
];

/// Operations of one image's requests; one that is right needs some dozens.
const MAX_OPERATIONS: u32 = 5000;

/// Bytes of the disk that a request asks for at most.
const ASKED: u64 = 700;

/// What a field or an entry may be changed to: small numbers, each power of two with its neighbours, each cluster of the
/// file and one beyond, with each mark that an entry can have.
fn values(len: usize) -> Vec<u64> {
    let mut values: Vec<u64> = (0..12).collect();
    for power in [5, 6, 9, 12, 16, 20, 21, 24, 31, 32, 40, 48, 55, 56, 61, 62, 63] {
        let value = 1u64 << power;
        values.extend([value - 1, value, value + 1, value | 512]);
    }
    for cluster in 0..=u64::try_from(len / 512).unwrap() {
        let at = cluster * 512;
        values.extend([at, at | 1, at | 1 << 63, at | 1 << 62, at | 3 << 62, at | 1 << 63 | 1]);
    }
    values.push(u64::MAX);
    values
}

fn put(bytes: &mut [u8], at: usize, len: usize, value: u64) {
    let value = value.to_be_bytes();
    if let Some(place) = bytes.get_mut(at..at + len) {
        place.copy_from_slice(&value[8 - len..]);
    }
}

/// Whether a range of the file has any of these.
struct Tables(Vec<Range<u64>>);

impl Tables {
    /// Header, L1 table, refcount table and its blocks, of an image that was opened to be written: nothing moves them but
    /// the refcount table's growth.
    fn of(map: &Map, bytes: &[u8]) -> Self {
        let Some(header) = map.layers[0].header() else { return Self(Vec::new()) };
        let size = header.geometry.cluster_size();
        let mut ranges = vec![0..size, header.l1.at..header.l1.at + u64::from(header.l1.count) * 8];
        let table = header.refcounts.at..header.refcounts.at + u64::from(header.refcounts.count) * size;
        for at in table.clone().step_by(8) {
            let Some(word) = usize::try_from(at).ok().and_then(|at| bytes.get(at..at + 8)) else { break };
            let block = u64::from_be_bytes(word.try_into().unwrap());
            if block != 0 && block % size == 0 {
                ranges.push(block..block.saturating_add(size));
            }
        }
        ranges.push(table);
        Self(ranges)
    }

    fn touch(&self, at: u64, len: u64) -> bool {
        self.0.iter().any(|range| at < range.end && range.start < at.saturating_add(len))
    }
}

/// What became of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fate {
    Refused,
    Failed,
    Done,
}

/// Opens an image and does some requests with it.
fn meet(bytes: &[u8], base: Option<&Vec<u8>>, seed: u64) -> Fate {
    let limits = Limits { tables: 2048, copying: 4096, write_through: seed.is_multiple_of(4) };
    let Ok(mut map) = open(bytes, base, Access::Write, limits) else { return Fate::Refused };
    let clean =
        check::check(&bytes.to_vec(), &mut |_, _| ControlFlow::Continue(())).is_ok_and(|found| found.is_clean());
    let mut model = if clean { shown(bytes, base).ok() } else { None };
    let tables = Tables::of(&map, bytes);
    let cluster = u64::try_from(map.cluster_len(0)).unwrap();
    let mut engine = Engine::new([Some(bytes.to_vec()), base.cloned()].into_iter().flatten().collect(), seed);
    let size = map.size().min(8 * 512);
    let mut asked = 0;
    let mut new = HashSet::new();
    for id in 0..10u64 {
        let offset = u64::try_from(engine.choose(8)).unwrap() * 256 % size.max(1);
        let len = size.min(ASKED).min(size - offset);
        asked += len / cluster + 2;
        engine.buffers.insert(RequestId(id), vec![0xcc; usize::try_from(ASKED).unwrap()]);
        let zero = [0; 700];
        let (request, value) = match engine.choose(6) {
            0 => (Request::Discard { offset, len }, &zero),
            1 => (Request::WriteZeroes { offset, len, unmap: seed.is_multiple_of(2) }, &zero),
            2 => (Request::Flush, &zero),
            _ => (Request::Write { offset, len }, &[0xcc; 700]),
        };
        let (from, len) = (usize::try_from(offset).unwrap(), usize::try_from(len).unwrap());
        let before = model.clone();
        if let (Some(model), true) = (&mut model, request != Request::Flush) {
            model[from..from + len].copy_from_slice(&value[..len]);
        }
        let discards = matches!(request, Request::Discard { .. });
        map.submit(RequestId(id), request);
        perform(&mut map, &mut engine, |op| {
            let (at, len, own) = match op {
                Op::WriteGuest { data, at, .. } => (*at, data.end - data.start, false),
                Op::Zero { at, len } | Op::Punch { at, len } => (*at, *len, false),
                Op::Write { at, bytes } => (*at, u64::try_from(bytes.len()).unwrap(), true),
                Op::Read { .. } | Op::ReadGuest { .. } | Op::ZeroGuest { .. } | Op::FillGuest { .. } | Op::Sync => {
                    return;
                }
            };
            assert!(own || !tables.touch(at, len), "{op:?} is in a table of the image");
            let punch = matches!(op, Op::Punch { .. });
            let end = u64::try_from(bytes.len()).unwrap();
            if !punch && len != 0 {
                new.extend(
                    (at / cluster..(at + len).div_ceil(cluster)).filter(|number| *number >= end.div_ceil(cluster)),
                );
            }
        });
        if discards {
            // It may leave bytes as they are.
            if let (Some(model), Some(before)) = (&mut model, before) {
                let read = read_whole(&mut map, &mut engine, model.len());
                for at in from..from + len {
                    assert!(read[at] == 0 || read[at] == before[at], "byte {at} is another's after a discard");
                }
                model[from..from + len].copy_from_slice(&read[from..from + len]);
            }
        }
    }
    for id in 1000..1002 {
        map.submit(RequestId(id), Request::Flush);
        perform(&mut map, &mut engine, |_| ());
    }
    // Tables beside: of L2 and refcounts, of which each request may need one of each, and the refcount table.
    let most = asked + 24;
    assert!(new.len() <= usize::try_from(most).unwrap(), "{} clusters more, and {asked} were asked for", new.len());
    if let Some(model) = model {
        let read = read_whole(&mut map, &mut engine, model.len());
        assert!(read == model, "the disk is not as its copy");
        let report = check::check(&engine.files[0], &mut |_, _| ControlFlow::Continue(())).unwrap();
        // Counts beyond the file's end lead nowhere before, and are leaks once the file is longer.
        let end = u64::try_from(bytes.len()).unwrap();
        let old = |finding: &Finding| matches!(finding, Finding::Leak { at, .. } if *at >= end);
        assert!(report.errors == 0 && report.findings.iter().all(old), "{report:?}");
    }
    if engine.answers.values().all(Result::is_ok) { Fate::Done } else { Fate::Failed }
}

/// As the engine's own, with a look at each operation before, and an end.
fn perform(map: &mut Map, engine: &mut Engine, mut watch: impl FnMut(&Op)) {
    engine.run_watched(map, |op, count| {
        watch(op);
        assert!(count < MAX_OPERATIONS, "it does not end");
    });
}

/// Counts what became of images, and names the one that a test ended at.
#[derive(Default)]
struct Tally {
    met: HashMap<Fate, usize>,
    seed: u64,
}

impl Tally {
    fn meet(&mut self, start: &Start, bytes: &[u8], what: impl Fn() -> String) {
        self.seed += 1;
        let seed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7;
        let met = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| meet(bytes, start.base.as_ref(), seed)));
        match met {
            Ok(fate) => *self.met.entry(fate).or_default() += 1,
            Err(_) => panic!("{}, {}: see above", start.name, what()),
        }
    }

    /// The changes hit something, and not all.
    fn is_varied(&self) {
        let of = |fate| self.met.get(&fate).copied().unwrap_or(0);
        assert!(of(Fate::Done) > 5000 && of(Fate::Failed) + of(Fate::Refused) > 5000, "{:?}", self.met);
    }
}

/// Whole: each field of the header of each kind of image, with each value.
#[test]
fn an_image_with_any_field_changed_is_safe() {
    let mut tally = Tally::default();
    for start in starts() {
        for (at, len) in FIELDS {
            for value in values(start.bytes.len()) {
                let mut bytes = start.bytes.clone();
                put(&mut bytes, at, len, value);
                tally.meet(&start, &bytes, || format!("the field at byte {at} is {value:#x}"));
            }
        }
    }
    tally.is_varied();
}

/// Whole: each word of the tables that is not zero, and the first that is, with each value.
#[test]
fn an_image_with_any_entry_changed_is_safe() {
    let mut tally = Tally::default();
    for start in starts() {
        let words = (512..start.bytes.len()).step_by(8);
        let word = |at: usize| start.bytes[at..at + 8].iter().any(|byte| *byte != 0);
        // Data has no zeros, so a cluster that begins with eight words of anything has no entries worth changing.
        let data = |at: usize| (0..8).all(|next| word(at / 512 * 512 + next * 8));
        for at in words.filter(|at| !data(*at) && (word(*at) || word(at - 8))) {
            for value in values(start.bytes.len()) {
                let mut bytes = start.bytes.clone();
                put(&mut bytes, at, 8, value);
                tally.meet(&start, &bytes, || format!("the word at byte {at} is {value:#x}"));
            }
        }
    }
    tally.is_varied();
}
