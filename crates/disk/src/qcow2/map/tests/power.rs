//! What comes after a power cut, enumerated whole for small runs: of each moment of each run, every state that a cut there
//! may leave. A sector of 512 bytes is written whole or not; of what was written to one since the last sync, the disk has
//! any version, and each sector by itself. So each write that was not synced is there, left out, or torn at every sector.
//!
//! A moment at which a write is done leaves all that one before it does, so the moments that count are those before a
//! sync, and before a request comes, since the disk may show more from then on. Each state is looked at by the check that
//! users run, and some by qemu-img's; the disk shows what was flushed or was asked for since, and the snapshot what it
//! always did. Then the image is opened, and its whole disk written: it must bear that, and grow by no more than it takes.
//! Longer runs are sampled, in `writes`.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::process::Command;

use super::writes::{counted, open, shown};
use super::*;
use crate::qcow2::check::{self, Repair};

const SECTOR: usize = 512;
/// States of one moment. All are looked at: a run that has more is too large for here.
const MAX_STATES: usize = 1 << 15;

/// An image to begin with, what its disk shows, and what is below.
#[derive(Clone)]
pub(super) struct Start {
    pub(super) name: &'static str,
    pub(super) bytes: Vec<u8>,
    pub(super) base: Option<Vec<u8>>,
    disk: Vec<u8>,
    /// Where the L1 table of its snapshot is.
    snapshot: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Ask {
    Write(usize, usize),
    Zero(usize, usize, bool),
    Discard(usize, usize),
    Flush,
}

/// A whole cluster, a part of one, two parts and what is between, each way to free one, and one again.
const ASKS: [Ask; 7] = [
    Ask::Write(0, 512),
    Ask::Write(600, 100),
    Ask::Write(300, 900),
    Ask::Zero(0, 512, true),
    Ask::Zero(512, 512, false),
    Ask::Discard(0, 1024),
    Ask::Flush,
];

impl Ask {
    fn request(self) -> Request {
        let wide = |at: usize| u64::try_from(at).unwrap();
        match self {
            Self::Write(offset, len) => Request::Write { offset: wide(offset), len: wide(len) },
            Self::Zero(offset, len, unmap) => Request::WriteZeroes { offset: wide(offset), len: wide(len), unmap },
            Self::Discard(offset, len) => Request::Discard { offset: wide(offset), len: wide(len) },
            Self::Flush => Request::Flush,
        }
    }

    /// The bytes of the disk that it changes, and what they become.
    fn change(self, value: u8) -> (Range<usize>, u8) {
        match self {
            Self::Write(at, len) => (at..at + len, value),
            Self::Zero(at, len, _) | Self::Discard(at, len) => (at..at + len, 0),
            Self::Flush => (0..0, 0),
        }
    }
}

/// The versions of each sector since the last sync, the first of them what is certain; each with the file's length that it
/// asks for.
type Sectors = BTreeMap<usize, Vec<(usize, Vec<u8>)>>;

fn sectors(engine: &Engine) -> Sectors {
    let mut sectors = Sectors::new();
    for (at, bytes) in &engine.unsynced {
        let mut from = 0;
        while from < bytes.len() {
            let place = at + from;
            let start = place / SECTOR * SECTOR;
            let to = (start + SECTOR - at).min(bytes.len());
            let versions = sectors.entry(start).or_insert_with(|| {
                let mut sector = vec![0; SECTOR];
                let there = engine.durable.get(start..).unwrap_or_default();
                let there = &there[..there.len().min(SECTOR)];
                sector[..there.len()].copy_from_slice(there);
                vec![(0, sector)]
            });
            let (long, mut sector) = versions.last().unwrap().clone();
            sector[place - start..place - start + to - from].copy_from_slice(&bytes[from..to]);
            if versions.last().unwrap().1 != sector || long == 0 {
                versions.push((long.max(at + to), sector));
            }
            from = to;
        }
    }
    sectors
}

/// Every state that a power cut now may leave.
fn states(engine: &Engine, mut each: impl FnMut(Vec<u8>)) -> usize {
    let sectors = sectors(engine);
    let count = sectors.values().fold(1_usize, |count, versions| count.saturating_mul(versions.len()));
    assert!(count <= MAX_STATES, "{count} states of {} sectors are too many to look at each", sectors.len());
    for mut number in 0..count {
        let mut left = engine.durable.clone();
        for (start, versions) in &sectors {
            let (long, sector) = &versions[number % versions.len()];
            number /= versions.len();
            if *long == 0 {
                continue;
            }
            left.resize(left.len().max(*long), 0);
            let end = left.len().min(start + SECTOR);
            left[*start..end].copy_from_slice(&sector[..end - start]);
        }
        each(left);
    }
    count
}

/// Looks at what power cuts leave of one run.
struct Judge<'a> {
    start: &'a Start,
    snapshot: Option<Vec<u8>>,
    /// Of each byte of the disk, what it may be.
    may: Vec<Vec<u8>>,
    /// States that were looked at since what the disk may show became less.
    seen: HashSet<u64>,
    states: usize,
    different: usize,
    last: Option<Vec<u8>>,
}

impl Judge<'_> {
    fn cut(&mut self, engine: &Engine) {
        let mut new = Vec::new();
        let seen = &mut self.seen;
        self.states += states(engine, |left| {
            let mut hasher = DefaultHasher::new();
            left.hash(&mut hasher);
            if seen.insert(hasher.finish()) {
                new.push(left);
            }
        });
        for left in new {
            self.look(&left).unwrap_or_else(|error| panic!("{}: {error}", self.start.name));
            self.different += 1;
            self.last = Some(left);
        }
    }

    fn look(&self, left: &[u8]) -> Result<(), String> {
        is_right(left)?;
        let base = self.start.base.as_ref();
        let disk = shown(left, base)?;
        if let Some(at) = (0..disk.len()).find(|at| !self.may[*at].contains(&disk[*at])) {
            return Err(format!("byte {at} is {}, not of {:?}", disk[at], self.may[at]));
        }
        if self.snapshot_of(left)? != self.snapshot {
            return Err("the snapshot changed".into());
        }
        let (again, growth) = write_whole(left, base)?;
        if shown(&again, base)? != vec![0x77; disk.len()] || self.snapshot_of(&again)? != self.snapshot {
            return Err("what was written afterwards is not there, or spoils the snapshot".into());
        }
        // Its clusters, and as many for each of L2 table, refcount block and refcount table.
        let most = disk.len() + 6 * SECTOR;
        if growth > most { Err(format!("it grows by {growth} bytes, more than {most}")) } else { Ok(()) }
    }

    fn snapshot_of(&self, bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let Some(table) = self.start.snapshot else { return Ok(None) };
        let mut bytes = bytes.to_vec();
        bytes[40..48].copy_from_slice(&table.to_be_bytes());
        shown(&bytes, self.start.base.as_ref()).map(Some)
    }
}

/// The check that users run finds nothing that endangers data.
fn is_right(bytes: &[u8]) -> Result<(), String> {
    let report =
        check::check(&bytes.to_vec(), &mut |_, _| ControlFlow::Continue(())).map_err(|error| error.to_string())?;
    if report.errors == 0 { Ok(()) } else { Err(format!("image check: {report:?}")) }
}

/// The image after its whole disk was written and flushed, and by how much it grew.
fn write_whole(bytes: &[u8], base: Option<&Vec<u8>>) -> Result<(Vec<u8>, usize), String> {
    let mut map = open(bytes, base, Access::Write, Limits::default()).map_err(|error| error.to_string())?;
    let mut engine = Engine::new([Some(bytes.to_vec()), base.cloned()].into_iter().flatten().collect(), 9);
    let len = map.size();
    engine.buffers.insert(RequestId(0), vec![0x77; usize::try_from(len).unwrap()]);
    for (id, request) in (0..).zip([Request::Write { offset: 0, len }, Request::Flush, Request::Flush]) {
        map.submit(RequestId(id), request);
        engine.run(&mut map);
        engine.answers[&RequestId(id)].map_err(|failure| failure.to_string())?;
    }
    let after = engine.files.remove(0);
    is_right(&after)?;
    let growth = after.len().saturating_sub(bytes.len());
    Ok((after, growth))
}

/// Runs groups of asks, those of a group at once, a flush after the last; and cuts the power at every moment.
fn run<'a>(start: &'a Start, groups: &[&[Ask]], seed: u64) -> Judge<'a> {
    let limits = Limits { tables: 4096, copying: 4096, write_through: false };
    let mut map = open(&start.bytes, start.base.as_ref(), Access::Write, limits).unwrap();
    let mut engine = Engine::new([Some(start.bytes.clone()), start.base.clone()].into_iter().flatten().collect(), seed);
    let mut model = start.disk.clone();
    let only = |model: &[u8]| model.iter().map(|byte| vec![*byte]).collect();
    let mut judge =
        Judge { start, snapshot: None, may: only(&model), seen: HashSet::new(), states: 0, different: 0, last: None };
    judge.snapshot = judge.snapshot_of(&start.bytes).unwrap();
    let mut id = 0;
    // The second flush lets counts fall.
    for group in groups.iter().copied().chain([&[Ask::Flush][..]; 2]) {
        judge.cut(&engine);
        for ask in group {
            id += 1;
            let value = 0x40 + u8::try_from(id).unwrap();
            let (range, value) = ask.change(value);
            engine.buffers.insert(RequestId(id), vec![value; range.len()]);
            for at in range {
                judge.may[at].push(value);
                model[at] = value;
            }
            map.submit(RequestId(id), ask.request());
        }
        perform(&mut map, &mut engine, &mut judge);
        assert!(engine.answers.values().all(Result::is_ok), "{:?}", engine.answers);
        // A discard may leave bytes as they are.
        model = read_whole(&mut map, &mut engine, model.len());
        if *group == [Ask::Flush] {
            judge.may = only(&model);
            judge.seen.clear();
        }
    }
    judge.cut(&engine);
    assert!(!map.dirty());
    assert!(shown(&engine.files[0], start.base.as_ref()).unwrap() == model);
    judge
}

/// The disk as the map has it, by a request that leaves no trace.
pub(super) fn read_whole(map: &mut Map, engine: &mut Engine, len: usize) -> Vec<u8> {
    engine.submit(map, u64::MAX, 0, len);
    engine.run(map);
    engine.answers.remove(&RequestId(u64::MAX)).expect("it is answered").expect("the image is right");
    engine.buffers.remove(&RequestId(u64::MAX)).unwrap()
}

/// As the engine's own, with a look at what a power cut leaves before each sync.
fn perform(map: &mut Map, engine: &mut Engine, judge: &mut Judge<'_>) {
    let mut under_way = Vec::new();
    loop {
        while let Some(action) = map.poll() {
            match action {
                Action::Do { token, file, op } => under_way.push((token, file, op)),
                Action::Finish { id, result } => assert!(engine.answers.insert(id, result).is_none()),
            }
        }
        if under_way.is_empty() {
            return;
        }
        let next = engine.choose(under_way.len());
        let (token, file, op) = under_way.swap_remove(next);
        if op == Op::Sync {
            judge.cut(engine);
        }
        let result = engine.perform(file, op);
        map.done(token, result);
    }
}

/// An image of 512-byte clusters with these first on its disk of four.
fn start(name: &'static str, clusters: &[Made], order: u8, version: u32, base: bool) -> Start {
    let base = base.then(|| content(0x21, 3, 1400));
    let (bytes, disk) = make(Geometry::new(9, 4, false).unwrap(), false, 4 * 512, clusters);
    let below = |at: usize| base.as_ref().and_then(|base| base.get(at)).copied().unwrap_or(0);
    let disk = disk.iter().enumerate().map(|(at, has)| has.unwrap_or_else(|| below(at))).collect();
    Start { name, bytes: counted(bytes, order, version), base, disk, snapshot: None }
}

/// The same with an internal snapshot of what it is (qcow2.rst, "Snapshots"), whose counts image check puts right.
fn with_snapshot(mut start: Start) -> Start {
    let bytes = &mut start.bytes;
    let len = |bytes: &Vec<u8>| u64::try_from(bytes.len()).unwrap();
    let table = len(bytes);
    let l1: Vec<u8> = bytes[1024..1536].to_vec();
    bytes.extend(l1);
    let snapshots = len(bytes);
    let mut record = table.to_be_bytes().to_vec();
    record.extend(1u32.to_be_bytes());
    // Lengths of its number and name, times, and no state of a VM.
    record.extend([0, 1, 0, 1]);
    record.extend([0; 4 + 4 + 8 + 4]);
    record.extend(16u32.to_be_bytes());
    record.extend(0u64.to_be_bytes());
    record.extend((4 * 512u64).to_be_bytes());
    record.extend(b"1s");
    bytes.extend(&record);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes[60..64].copy_from_slice(&1u32.to_be_bytes());
    bytes[64..72].copy_from_slice(&snapshots.to_be_bytes());
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).unwrap();
    let (report, done) = check::repair(&file, &mut |_, _| ControlFlow::Continue(())).unwrap();
    assert_eq!(done, Repair::Done, "{report:?}");
    *bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    std::os::unix::fs::FileExt::read_exact_at(&file, bytes, 0).unwrap();
    Start { snapshot: Some(table), ..start }
}

pub(super) fn starts() -> Vec<Start> {
    let kinds = [Made::Data(1), Made::Packed(2), Made::Zero, Made::Nothing];
    let data = [Made::Data(1), Made::Data(9), Made::Nothing, Made::Data(4)];
    vec![
        start("empty", &[], 4, 3, false),
        start("every kind", &kinds, 4, 3, false),
        start("counts of one bit", &data, 0, 3, false),
        start("counts of 64 bits, on a base", &data, 6, 3, true),
        start("empty on a base", &[], 4, 3, true),
        start("version 2 on a base", &data, 4, 2, true),
        with_snapshot(start("a snapshot", &kinds, 4, 3, false)),
        with_snapshot(start("a snapshot, on a base", &data, 3, 3, true)),
    ]
}

/// What a test looked at.
#[derive(Default)]
struct Seen {
    runs: usize,
    states: usize,
    different: usize,
    /// Some of the states, for another's check.
    samples: Vec<Vec<u8>>,
}

impl Seen {
    fn add(&mut self, judge: Judge<'_>) {
        self.runs += 1;
        self.states += judge.states;
        self.different += judge.different;
        // The last is one of the most changed.
        if self.runs.is_multiple_of(11) {
            self.samples.extend(judge.last);
        }
    }

    /// `qemu-img check` finds leaks at most in some of them.
    fn qemu_agrees(&self, most: usize) {
        let file = tempfile::NamedTempFile::new().unwrap();
        for bytes in self.samples.iter().step_by(self.samples.len().div_ceil(most).max(1)) {
            std::fs::write(file.path(), bytes).unwrap();
            let checked = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(file.path()).output();
            let checked = checked.unwrap_or_else(|error| panic!("qemu-img: {error}; install qemu-utils"));
            let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
            // qemu-img(1): 3 are leaks alone.
            assert!(matches!(checked.status.code(), Some(0 | 3)), "{said}");
        }
    }
}

/// Every two asks one after the other, on every kind of image.
#[test]
fn every_state_that_a_power_cut_leaves_of_two_requests_is_right() {
    let mut seen = Seen::default();
    for start in starts() {
        for (first, second) in ASKS.into_iter().flat_map(|first| ASKS.map(|second| (first, second))) {
            seen.add(run(&start, &[&[first], &[second]], 1));
        }
    }
    assert!(seen.different > 5000, "{} of {} states", seen.different, seen.states);
    seen.qemu_agrees(40);
}

/// Every two asks that share no cluster at once, in two orders of completion, between others.
#[test]
fn every_state_that_a_power_cut_leaves_of_requests_at_once_is_right() {
    let mut seen = Seen::default();
    let pairs = [[Ask::Write(0, 512), Ask::Write(600, 900)], [Ask::Zero(0, 512, true), Ask::Write(512, 1024)]];
    let more = [[Ask::Discard(0, 1024), Ask::Write(1100, 700)], [Ask::Discard(512, 512), Ask::Write(100, 300)]];
    for start in starts() {
        for pair in pairs.iter().chain(&more) {
            for before in [&[Ask::Write(0, 512)][..], &[Ask::Flush], &[Ask::Discard(0, 2048)]] {
                for seed in 1..3 {
                    seen.add(run(&start, &[before, pair, &[Ask::Flush], &[Ask::Write(512, 512)]], seed));
                }
            }
        }
    }
    assert!(seen.different > 4000, "{} of {} states", seen.different, seen.states);
    seen.qemu_agrees(40);
}
