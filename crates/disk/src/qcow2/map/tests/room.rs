//! Where new clusters come from, and what becomes of those that are free.

use super::writes::{check, counted, open, plain, shown};
use super::*;

/// An image of 512-byte clusters and this many of the disk, all or none of which have data.
fn image(clusters: usize, made: bool) -> Vec<u8> {
    let made = vec![if made { Made::Data(7) } else { Made::Nothing }; clusters];
    let size = u64::try_from(clusters * 512).unwrap();
    counted(make(Geometry::new(9, 4, false).unwrap(), false, size, &made).0, 4, 3)
}

/// A session with an image: asks one by one, each to its end.
struct Session {
    map: Map,
    engine: Engine,
    id: u64,
}

impl Session {
    fn new(bytes: Vec<u8>, limits: Limits) -> Self {
        let map = open(&bytes, None, Access::Write, limits).unwrap();
        Self { map, engine: Engine::new(vec![bytes], 17), id: 0 }
    }

    fn ask(&mut self, request: Request) -> Result<(), Failure> {
        self.id += 1;
        self.engine.buffers.insert(RequestId(self.id), vec![0xab; 1 << 20]);
        self.map.submit(RequestId(self.id), request);
        self.engine.run(&mut self.map);
        self.engine.answers[&RequestId(self.id)]
    }

    fn write(&mut self, cluster: u64, clusters: u64) -> Result<(), Failure> {
        self.ask(Request::Write { offset: cluster * 512, len: clusters * 512 })
    }

    fn discard(&mut self, cluster: u64, clusters: u64) -> Result<(), Failure> {
        self.ask(Request::Discard { offset: cluster * 512, len: clusters * 512 })
    }

    /// The last counts fall after the second.
    fn flush(&mut self) {
        for _ in 0..3 {
            self.ask(Request::Flush).unwrap();
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.engine.files[0]
    }
}

/// The actions that there are now: those that are operations, by their tokens.
fn given(map: &mut Map) -> Vec<(Token, u8, Op)> {
    let all = std::iter::from_fn(|| map.poll());
    all.filter_map(|action| match action {
        Action::Do { token, file, op } => Some((token, file, op)),
        Action::Finish { .. } => None,
    })
    .collect()
}

/// Twenty sessions in each of which all is discarded and, later, written again: what an earlier one has freed is found, so
/// the file has what its disk needs and no more.
#[test]
fn an_image_does_not_grow_over_its_sessions() {
    let mut bytes = image(600, true);
    let first = bytes.len();
    for _ in 0..20 {
        let mut session = Session::new(bytes, Limits::default());
        session.discard(0, 600).unwrap();
        session.flush();
        assert_eq!(check(session.bytes()), Ok(0));
        let mut session = Session::new(session.bytes().to_vec(), Limits::default());
        session.write(0, 600).unwrap();
        session.flush();
        assert_eq!(check(session.bytes()), Ok(0));
        bytes = session.bytes().to_vec();
    }
    // The search pauses for 8 clusters after each block without a find.
    assert!(bytes.len() <= first + 64 * 512, "{first} bytes became {}", bytes.len());
    assert!(shown(&bytes, None).unwrap().iter().all(|byte| *byte == 0xab));
}

/// Entries beyond the file's end claim clusters: those are not given to the disk, whose bytes would be tables then.
#[test]
fn a_cluster_that_an_entry_claims_beyond_the_end_is_not_the_disk_s() {
    let mut bytes = image(1024, false);
    let end = bytes.len();
    let table = end + 2 * 512;
    // The last of the L1 table's 16 entries.
    let l1 = usize::try_from(Header::parse(&bytes, 1 << 30).unwrap().l1.at).unwrap();
    bytes[l1 + 15 * 8..l1 + 16 * 8].copy_from_slice(&(1 << 63 | u64::try_from(table).unwrap()).to_be_bytes());
    let mut session = Session::new(bytes, Limits::default());
    session.write(0, 100).unwrap();
    session.flush();
    assert!(session.bytes()[table..table + 512].iter().all(|byte| *byte == 0), "the disk's bytes are there");
    assert!(session.bytes().len() > end + 100 * 512);
    let at = u64::try_from(table).unwrap();
    let corrupt = Failure::Corrupt { file: 0, what: Corruption::Metadata { at } };
    assert_eq!(session.write(1023, 1), Err(corrupt), "the file has this cluster now, and it is no table");
    // The same of the refcount table's entry 1: its 256 clusters are not counted by what is no block.
    let mut bytes = image(1024, false);
    bytes[512 + 8..512 + 16].copy_from_slice(&at.to_be_bytes());
    let mut session = Session::new(bytes, Limits::default());
    let answers: Vec<_> = (0..300).map(|cluster| session.write(cluster, 1)).collect();
    assert!(answers.contains(&Err(corrupt)), "{answers:?}");
    assert!(session.bytes()[table..table + 512].iter().all(|byte| *byte == 0));
}

/// Counts beyond the file's end: few are passed over, and where all are in use nothing grows.
#[test]
fn counts_beyond_the_end_do_not_make_an_image_grow() {
    let with = |used: std::ops::Range<usize>| {
        let mut bytes = image(64, false);
        let block = usize::try_from(u64::from_be_bytes(bytes[512..520].try_into().unwrap())).unwrap();
        used.for_each(|cluster| bytes[block + cluster * 2 + 1] = 1);
        bytes
    };
    let end = image(64, false).len() / 512;
    let mut session = Session::new(with(end..end + 100), Limits::default());
    session.write(0, 1).unwrap();
    assert_eq!(session.bytes().len(), (end + 101) * 512);
    // 20 blocks of counts that are all in use, of 256 clusters each.
    let mut bytes = with(end..256);
    let from = bytes.len();
    bytes.extend(vec![1; 20 * 512]);
    for block in 0..20 {
        let at = u64::try_from(from + block * 512).unwrap();
        bytes[512 + (block + 1) * 8..512 + (block + 2) * 8].copy_from_slice(&at.to_be_bytes());
    }
    let len = bytes.len();
    let mut session = Session::new(bytes, Limits::default());
    let answer = session.write(0, 1);
    assert!(matches!(answer, Err(Failure::Corrupt { what: Corruption::Beyond { .. }, .. })), "{answer:?}");
    assert_eq!(session.bytes().len(), len);
}

/// Much is written at once, and a power cut keeps the counts and nothing of what they count: the image can be written
/// afterwards, whatever of the last cycle is there.
#[test]
fn a_power_cut_leaves_few_counts_beyond_the_end() {
    // One block counts 8192 clusters.
    let bytes = counted(make(Geometry::new(10, 0, false).unwrap(), false, 6000 << 10, &[]).0, 0, 3);
    let mut session = Session::new(bytes, Limits::default());
    for offset in (0..6000).step_by(100).map(|cluster| cluster << 10) {
        session.ask(Request::Write { offset, len: 100 << 10 }).unwrap();
    }
    let written = session.engine.unsynced.len();
    session.map.flush_soon();
    let mut syncs = 0;
    loop {
        let ops = given(&mut session.map);
        if ops.is_empty() {
            break;
        }
        for (token, file, op) in ops {
            let is_sync = op == Op::Sync;
            let result = session.engine.perform(file, op);
            syncs += u32::from(is_sync);
            // All of the cycle's own writes, and none of the disk's bytes.
            let from = if syncs == 0 { written } else { 0 };
            let mut left = session.engine.durable.clone();
            for (at, bytes) in session.engine.unsynced.iter().skip(from) {
                left.resize(left.len().max(at + bytes.len()), 0);
                left[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            let mut after = Session::new(left, Limits::default());
            assert_eq!(after.write(17, 30), Ok(()), "after {syncs} syncs");
            session.map.done(token, result);
        }
    }
    assert!(syncs > 2 && !session.map.dirty());
}

/// Much is freed at once: neighbours are given back by one operation, and no more at once than some hundreds.
#[test]
fn what_is_freed_is_given_back_in_runs() {
    let mut session = Session::new(image(2000, true), Limits { tables: 1 << 20, ..Limits::default() });
    session.discard(0, 2000).unwrap();
    session.map.submit(RequestId(1 << 40), Request::Flush);
    let (mut punched, mut given_back) = (0, 0);
    loop {
        let ops = given(&mut session.map);
        if ops.is_empty() {
            break;
        }
        for (token, file, op) in ops {
            let mut now = 0;
            if let Op::Punch { len, .. } = op {
                punched += 1;
                now = len / 512;
            }
            assert!(now <= 256);
            given_back += now;
            let result = session.engine.perform(file, op);
            session.map.done(token, result);
        }
    }
    assert_eq!(given_back, 2000);
    // The 32 tables and 8 blocks between them part the data.
    assert!(punched < 60, "{punched} operations");
}

/// Counts that still fall are work to be saved, also while a block is read for them; and one runs at a time, also where
/// another cycle ends meanwhile, so a block that can't be read loses one cluster and no other.
#[test]
fn counts_that_fall_are_unsaved_and_fall_one_after_another() {
    for fails in [false, true] {
        let mut session = Session::new(image(1024, true), Limits { tables: 4 * 512, copying: 0, write_through: false });
        session.discard(0, 2).unwrap();
        session.discard(4, 2).unwrap();
        // Their block makes place for other tables.
        for cluster in (100..1000).step_by(64) {
            session.ask(Request::Read { offset: cluster * 512, len: 512 }).unwrap();
        }
        session.map.submit(RequestId(1 << 40), Request::Flush);
        let (mut held, mut was_held) = (None, false);
        loop {
            let ops = given(&mut session.map);
            assert!(session.map.dirty() || ops.is_empty());
            for (token, file, op) in ops {
                // Another cycle ends while the counts of the first still wait for their block.
                if !was_held && session.map.releasing.len() == 4 && matches!(op, Op::Read { .. }) {
                    was_held = true;
                    held = Some((token, file, op));
                    session.map.flush_soon();
                    continue;
                }
                let result = session.engine.perform(file, op);
                session.map.done(token, result);
            }
            if session.map.actions.is_empty() {
                let Some((token, file, op)) = held.take() else { break };
                assert!(session.map.cycle.is_none() && session.map.dirty());
                let result = session.engine.perform(file, op);
                session.map.done(token, if fails { Err(io::ErrorKind::Other) } else { result });
            }
        }
        assert!(was_held);
        session.flush();
        assert_eq!(check(session.bytes()), Ok(u64::from(fails)));
        assert!(!session.map.dirty());
    }
}

/// A sync that failed: nothing can be saved any more, who asks is told, and who waits for all to be saved ends.
#[test]
fn after_a_failed_sync_nothing_is_unsaved() {
    let mut session = Session::new(plain(&[Made::Data(1)], 4), Limits::default());
    session.write(5, 1).unwrap();
    assert!(session.map.dirty());
    session.map.flush_soon();
    let mut rounds = 0;
    while session.map.dirty() {
        for (token, file, op) in given(&mut session.map) {
            let result = if op == Op::Sync { Err(io::ErrorKind::Other) } else { session.engine.perform(file, op) };
            session.map.done(token, result);
        }
        session.map.flush_soon();
        rounds += 1;
        assert!(rounds < 10);
    }
    let lost = Err(Failure::Io { file: 0, at: 0, error: io::ErrorKind::Other });
    assert_eq!([session.ask(Request::Flush), session.write(0, 1), session.write(9, 1)], [lost; 3]);
    let read = session.ask(Request::Read { offset: 5 * 512, len: 512 });
    assert_eq!(read, Ok(()));
}
