//! Kills: the process ends at any moment, the file has all that was done, memory is gone but for the entries that were
//! pending. Another map takes those up, and has every write that was answered.

use super::writes::{check, counted, open, shown};
use super::*;

/// Performs until nothing is left, or so many operations were done: then the process is killed. What is pending is kept
/// after each action, as whoever serves the map does.
fn run(map: &mut Map, engine: &mut Engine, operations: &mut u32) -> bool {
    let mut under_way = Vec::new();
    loop {
        while let Some(action) = map.poll() {
            match action {
                Action::Do { token, file, op } => under_way.push((token, file, op)),
                Action::Finish { id, result } => {
                    engine.answers.insert(id, result);
                }
            }
        }
        if under_way.is_empty() {
            return true;
        }
        if *operations == 0 {
            return false;
        }
        *operations -= 1;
        let next = engine.choose(under_way.len());
        let (token, file, op) = under_way.swap_remove(next);
        let result = engine.perform(file, op);
        map.done(token, result);
    }
}

/// An image whose disk has all kinds of clusters, and what it shows.
fn image(order: u8) -> (Vec<u8>, Vec<u8>) {
    let kinds = [Made::Data(1), Made::Packed(2), Made::Zero, Made::Nothing, Made::Data(3), Made::Nothing];
    let clusters: Vec<Made> = kinds.iter().cycle().take(150).cloned().collect();
    let (bytes, disk) = make(Geometry::new(9, 4, false).unwrap(), false, 512 * 160, &clusters);
    (counted(bytes, order, 3), disk.into_iter().map(|has| has.unwrap_or(0)).collect())
}

/// Random requests, three at once; kills at random moments, up to five times, each time with another map over the same
/// file, some of them killed while they take up what was pending.
fn lives(seed: u64, limits: Limits, order: u8) {
    let (bytes, disk) = image(order);
    let size = disk.len();
    let mut may: Vec<Vec<u8>> = disk.into_iter().map(|byte| vec![byte]).collect();
    let mut engine = Engine::new(vec![bytes], seed);
    let mut pending: Vec<Pending> = Vec::new();
    let mut id = 0;
    for _ in 0..5 {
        let mut map = open(&engine.files[0], None, Access::Write, limits).unwrap();
        map.take_up(pending);
        let mut operations = u32::try_from(engine.choose(120)).unwrap();
        let mut alive = true;
        while alive {
            let mut asked = Vec::new();
            for third in 0..3 {
                // They share no cluster.
                let from = size / 3 * third / 512 * 512 + engine.choose(size / 3 - 5000);
                let to = from + 1 + engine.choose(4000);
                id += 1;
                let (offset, len) = (u64::try_from(from).unwrap(), u64::try_from(to - from).unwrap());
                let (request, value) = match engine.choose(8) {
                    0 => (Request::Flush, None),
                    1 => (Request::Discard { offset, len }, Some(0)),
                    2 => (Request::WriteZeroes { offset, len, unmap: id % 2 == 0 }, Some(0)),
                    _ => (Request::Write { offset, len }, Some(u8::try_from(id % 250).unwrap() + 1)),
                };
                engine.buffers.insert(RequestId(id), vec![value.unwrap_or(0); to - from]);
                if let Some(value) = value {
                    may[from..to].iter_mut().for_each(|may| may.push(value));
                    asked.push((id, from..to, value, matches!(request, Request::Discard { .. })));
                }
                map.submit(RequestId(id), request);
            }
            alive = run(&mut map, &mut engine, &mut operations);
            for (id, range, value, discards) in asked {
                match engine.answers.get(&RequestId(id)) {
                    Some(answer) => {
                        assert_eq!(*answer, Ok(()));
                        // A discard may leave what was there.
                        if !discards {
                            may[range].iter_mut().for_each(|may| *may = vec![value]);
                        }
                    }
                    None => assert!(!alive),
                }
            }
        }
        pending = map.pending().collect();
        // What was killed leaves no error in the file, with or without what was pending.
        check(&engine.files[0]).unwrap();
    }
    let mut map = open(&engine.files[0], None, Access::Write, limits).unwrap();
    map.take_up(pending);
    engine.submit(&mut map, 1 << 40, 0, size);
    let mut operations = u32::MAX;
    assert!(run(&mut map, &mut engine, &mut operations));
    assert_eq!(engine.answers[&RequestId(1 << 40)], Ok(()));
    let read = engine.buffers[&RequestId(1 << 40)].clone();
    for (at, (byte, may)) in read.iter().zip(&may).enumerate() {
        assert!(may.contains(byte), "byte {at} is {byte}, not of {may:?}");
    }
    for flush in 0..3 {
        map.submit(RequestId(1 << 41 | flush), Request::Flush);
        assert!(run(&mut map, &mut engine, &mut operations));
    }
    assert_eq!(map.pending().next(), None);
    check(&engine.files[0]).unwrap();
    assert!(shown(&engine.files[0], None).unwrap() == read);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48 * u32::try_from(long()).unwrap()))]

    #[test]
    fn a_killed_process_loses_no_write_that_was_answered(
        seed: u64,
        tables in prop_oneof![Just(2 << 20), 0usize..8192],
        write_through: bool,
        order in 0u8..=6,
    ) {
        lives(seed, Limits { tables, copying: 4096, write_through }, order);
    }
}

/// Entries that can't be pending: nothing is performed, nothing written.
#[test]
fn entries_that_are_none_are_not_taken_up() {
    let (bytes, _) = image(4);
    let end = u64::try_from(bytes.len()).unwrap();
    for (cluster, entry) in [
        (0, 1 << 63 | end),
        (0, 1 << 63 | 512),
        (0, 1 << 63),
        (160, 0),
        (u64::MAX, 0),
        (0, 1 << 62 | 2048),
        (0, 1 << 63 | 3),
    ] {
        let mut map = open(&bytes, None, Access::Write, Limits::default()).unwrap();
        let mut engine = Engine::new(vec![bytes.clone()], 1);
        map.take_up([Pending { cluster, entry }]);
        engine.submit(&mut map, 0, 0, 512);
        engine.buffers.insert(RequestId(1), vec![1; 512]);
        map.submit(RequestId(1), Request::Write { offset: 0, len: 512 });
        map.submit(RequestId(2), Request::Flush);
        engine.run(&mut map);
        assert!(engine.answers.values().all(Result::is_err), "{cluster} {entry:#x}: {:?}", engine.answers);
        assert!(engine.files[0] == bytes, "{cluster} {entry:#x}");
    }
}
