//! Power cuts of small runs, enumerated whole: at each operation, with each choice of the sectors that were written since
//! the last sync. The larger runs of `writes` sample them.

use super::writes::{check, counted, open, shown};
use super::*;

/// Sectors that may or may not be there whose choices are all tried: beyond, the run is too large for this test.
const MAX_SECTORS: usize = 12;

/// Looks at all that a power cut may leave now.
struct Cuts {
    /// Of each byte of the disk, what it may be.
    may: Vec<Vec<u8>>,
    /// Sectors since the last sync: their place and bytes.
    sectors: Vec<(usize, Vec<u8>)>,
    tried: usize,
    most: usize,
}

impl Cuts {
    /// After an operation: the choices that were not tried before it, with one of its sectors or more.
    fn look(&mut self, engine: &Engine, base: Option<&Vec<u8>>) {
        let before = self.sectors.len();
        self.sectors.clear();
        for (at, bytes) in &engine.unsynced {
            let mut from = 0;
            while from < bytes.len() {
                let to = ((at + from) / 512 * 512 + 512 - at).min(bytes.len());
                self.sectors.push((at + from, bytes[from..to].to_vec()));
                from = to;
            }
        }
        let count = self.sectors.len();
        assert!(count <= MAX_SECTORS, "{count} sectors");
        self.most = self.most.max(count);
        let first = if count > before { 1 << before } else { 0 };
        let all = 1usize << count;
        for choice in first..all {
            let mut left = engine.durable.clone();
            for (at, bytes) in
                self.sectors.iter().enumerate().filter(|(bit, _)| choice >> bit & 1 == 1).map(|(_, one)| one)
            {
                left.resize(left.len().max(at + bytes.len()), 0);
                left[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            self.tried += 1;
            check(&left).unwrap_or_else(|error| panic!("{choice:#b} of {count} sectors: {error}"));
            let disk = shown(&left, base).unwrap();
            for (at, (byte, may)) in disk.iter().zip(&self.may).enumerate() {
                assert!(may.contains(byte), "{choice:#b} of {count} sectors: byte {at} is {byte}, not of {may:?}");
            }
        }
    }
}

/// Clusters of an image, the order of its counts, its base and what is done.
type Run<'a> = (&'a [Made], u8, Option<Vec<u8>>, Vec<Request>);

/// Does requests one after another, in clusters of 512 bytes, and looks at each moment.
fn run(
    clusters: &[Made],
    order: u8,
    base: Option<Vec<u8>>,
    requests: &[Request],
    write_through: bool,
) -> (usize, usize) {
    let (bytes, disk) = make(Geometry::new(9, 4, false).unwrap(), false, 512 * 8, clusters);
    let bytes = counted(bytes, order, 3);
    let below = |at: usize| base.as_ref().and_then(|base| base.get(at)).copied().unwrap_or(0);
    let mut model: Vec<u8> = disk.iter().enumerate().map(|(at, has)| has.unwrap_or_else(|| below(at))).collect();
    let limits = Limits { write_through, ..Limits::default() };
    let mut map = open(&bytes, base.as_ref(), Access::Write, limits).unwrap();
    let mut engine = Engine::new([Some(bytes), base.clone()].into_iter().flatten().collect(), 1);
    let may = model.iter().map(|byte| vec![*byte]).collect();
    let mut cuts = Cuts { may, sectors: Vec::new(), tried: 0, most: 0 };
    for (id, request) in (1..).zip(requests) {
        let (range, value) = match request {
            Request::Write { offset, len } => (*offset..offset + len, u8::try_from(id).unwrap() + 0x40),
            Request::WriteZeroes { offset, len, .. } | Request::Discard { offset, len } => (*offset..offset + len, 0),
            Request::Read { .. } | Request::Flush => (0..0, 0),
        };
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        engine.buffers.insert(RequestId(id), vec![value; range.len()]);
        model[range.clone()].fill(value);
        cuts.may[range].iter_mut().for_each(|may| may.push(value));
        map.submit(RequestId(id), request.clone());
        while let Some(action) = map.poll() {
            match action {
                Action::Do { token, file, op } => {
                    let result = engine.perform(file, op);
                    cuts.look(&engine, base.as_ref());
                    map.done(token, result);
                }
                Action::Finish { result, .. } => {
                    assert_eq!(result, Ok(()));
                    if *request == Request::Flush || write_through {
                        cuts.may = model.iter().map(|byte| vec![*byte]).collect();
                    }
                }
            }
        }
    }
    assert_eq!(check(&engine.files[0]), Ok(0));
    (cuts.tried, cuts.most)
}

fn write(cluster: u64, len: u64) -> Request {
    Request::Write { offset: cluster * 512, len }
}

/// Allocation with a new table, in place, over a base, over compressed data and zeros, freeing and using again: at each
/// operation each choice of sectors.
#[test]
fn each_power_cut_of_small_runs_leaves_an_image_that_is_right() {
    let flush = || Request::Flush;
    let discard = |cluster: u64| Request::Discard { offset: cluster * 512, len: 512 };
    let zero = |cluster: u64, unmap| Request::WriteZeroes { offset: cluster * 512, len: 512, unmap };
    let ends = || [flush(), flush(), flush()];
    let data = [Made::Data(1), Made::Packed(2), Made::Zero, Made::Data(3)];
    let base = || Some((0..4096u32).map(|at| u8::try_from(at % 13).unwrap() + 100).collect::<Vec<u8>>());
    let runs: Vec<Run> = vec![
        // A new table, two clusters, one again, and the rest of it.
        (&[], 4, None, vec![write(0, 512), write(3, 100), flush(), write(0, 512), write(4, 1024), flush()]),
        (&[], 0, base(), vec![write(1, 100), flush(), write(2, 700), flush(), write(1, 512)]),
        (&data, 4, None, vec![write(0, 512), write(1, 10), flush(), write(2, 512), write(3, 512), flush()]),
        (&data, 6, base(), vec![discard(0), flush(), flush(), write(5, 512), flush(), write(0, 512)]),
        (&data, 4, None, vec![discard(0), discard(1), flush(), write(6, 512), flush(), write(7, 512), discard(3)]),
        (
            &data,
            1,
            base(),
            vec![zero(0, true), zero(3, false), flush(), write(3, 20), flush(), zero(5, true), write(0, 9)],
        ),
    ];
    let mut tried = 0;
    for (number, (clusters, order, base, mut requests)) in runs.into_iter().enumerate() {
        requests.extend(ends());
        for write_through in [false, true] {
            let (count, most) = run(clusters, order, base.clone(), &requests, write_through);
            assert!(most >= 2, "run {number}: nothing was open to choice");
            tried += count;
        }
    }
    assert!(tried > 300, "{tried} cuts");
}

/// All pairs of nine requests, without a flush between and with one, on an image of every kind of cluster: each power cut.
#[test]
fn each_power_cut_of_each_pair_of_requests_leaves_an_image_that_is_right() {
    let data = [Made::Data(1), Made::Packed(2), Made::Zero, Made::Data(3)];
    let asks = [
        write(0, 512),
        write(1, 10),
        write(2, 30),
        write(5, 512),
        Request::Discard { offset: 0, len: 2048 },
        Request::Discard { offset: 512, len: 512 },
        Request::WriteZeroes { offset: 0, len: 1024, unmap: true },
        Request::WriteZeroes { offset: 1536, len: 512, unmap: false },
        Request::WriteZeroes { offset: 2, len: 3000, unmap: false },
    ];
    let mut tried = 0;
    for (first, second) in asks.iter().flat_map(|first| asks.iter().map(move |second| (first, second))) {
        for flushed in [false, true] {
            let mut requests = vec![first.clone()];
            requests.extend(flushed.then_some(Request::Flush));
            requests.extend([second.clone(), Request::Flush, Request::Flush, Request::Flush]);
            tried += run(&data, 4, None, &requests, false).0;
        }
    }
    assert!(tried > 3000, "{tried} cuts");
}
