//! Puts right what a check finds of refcounts: a new refcount table with its blocks is written behind the file's end, then the
//! header is switched to it, then the marks for writing in place are set as the new counts say. The old table is free then.
//! Called by `vmctl image check -r`, with nobody else at the image.
//!
//! A power cut after any write leaves an image with the same data, which is marked as not closed (version 3), and which can be
//! repaired again.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::super::header::MAX_REFCOUNT_TABLE;
use super::super::{Header, RefcountBlock, Version, features};
use super::cells::Cells;
use super::walk::{Old, Walk};
use super::{Bytes, CheckError, CheckWatch, Report, WINDOW, check_in_windows, read_header};

/// Where the header has the refcount table, the incompatible and the autoclear features (qcow2.rst, "Header").
const TABLE_AT: u64 = 48;
const INCOMPATIBLE_AT: u64 = 72;
const AUTOCLEAR_AT: u64 = 88;

/// The bytes of an image that can be changed.
pub trait Storage: Bytes {
    /// Writes all of it.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Makes the file so long.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Returns when all that was written stays.
    fn sync(&self) -> io::Result<()>;
}

impl Storage for File {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}

/// What became of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// There was nothing to do.
    Right,
    /// It is right now.
    Done,
    /// It has errors that are not of refcounts. Nothing was changed.
    Refused,
}

/// Checks an image and puts its refcounts right, if nothing else is wrong with it. What was found before.
pub fn repair(image: &dyn Storage, watch: &mut CheckWatch<'_>) -> Result<(Report, Repair), CheckError> {
    repair_in_windows(image, WINDOW, watch)
}

pub(super) fn repair_in_windows(
    image: &dyn Storage,
    window: u64,
    watch: &mut CheckWatch<'_>,
) -> Result<(Report, Repair), CheckError> {
    let bytes: &dyn Bytes = image;
    let report = check_in_windows(bytes, window, watch)?;
    let header = read_header(bytes)?;
    let marks = features::DIRTY | features::CORRUPT;
    if report.is_clean() && header.incompatible & marks == 0 {
        return Ok((report, Repair::Right));
    }
    if report.damage > 0 {
        return Ok((report, Repair::Refused));
    }
    if header.version == Version::V3 {
        write_features(image, &header, header.incompatible | features::DIRTY)?;
        image.sync()?;
    }
    if !report.is_clean() {
        rebuild(image, &header, window, watch)?;
    }
    let again = check_in_windows(bytes, window, watch)?;
    if !again.is_clean() {
        return Ok((again, Repair::Refused));
    }
    if header.version == Version::V3 {
        write_features(image, &header, header.incompatible & !marks)?;
        image.sync()?;
    }
    Ok((report, Repair::Done))
}

/// The features of a version 3 header. Whoever writes clears the autoclear ones that it does not know.
fn write_features(image: &dyn Storage, header: &Header, incompatible: u64) -> io::Result<()> {
    image.write_at(&(header.autoclear & features::BITMAPS).to_be_bytes(), AUTOCLEAR_AT)?;
    image.write_at(&incompatible.to_be_bytes(), INCOMPATIBLE_AT)
}

/// The new refcount table: which blocks it has, and where it all is.
struct Plan {
    /// Blocks that hold something, in ascending order.
    blocks: Vec<u64>,
    /// The file's clusters before, where the first block is written.
    from: u64,
    /// Clusters of the table, which is behind the blocks.
    table: u64,
}

impl Plan {
    /// All clusters of the file then.
    fn end(&self) -> u64 {
        self.from.saturating_add(self.blocks.len() as u64).saturating_add(self.table)
    }
}

fn rebuild(image: &dyn Storage, header: &Header, window: u64, watch: &mut CheckWatch<'_>) -> Result<(), CheckError> {
    let geometry = header.geometry;
    let bytes: &dyn Bytes = image;
    let clusters = geometry.clusters(bytes.file_len()?);
    let mut walk = Walk::new(bytes, header, clusters, Old::Left)?;
    let mut used = vec![false; usize::try_from(clusters.div_ceil(geometry.block_entries().max(1))).unwrap_or(0)];
    for part in windows(clusters, window) {
        let cells = walk.count_window(part.clone(), watch)?;
        for (index, used) in (0..).zip(used.iter_mut()) {
            for cluster in overlap(&part, index, geometry.block_entries()) {
                *used |= cells.of(cluster) > 0;
                if cells.of(cluster) > geometry.max_refcount() {
                    return Err(CheckError::TooMuch("clusters with more references than a refcount can say"));
                }
            }
        }
    }
    let plan = plan(used, clusters, header)?;
    for part in windows(clusters, window) {
        let cells = walk.count_window(part.clone(), watch)?;
        write_blocks(image, header, &plan, &part, &cells)?;
    }
    // Blocks that count the new clusters alone.
    write_blocks(image, header, &plan, &(clusters..u64::MAX), &Cells::new(0..0))?;
    let mut table = Vec::new();
    for (at, index) in (plan.from..).zip(&plan.blocks) {
        table.resize(usize::try_from(index.saturating_mul(8)).unwrap_or(usize::MAX), 0);
        table.extend(geometry.start_of(at).unwrap_or(u64::MAX).to_be_bytes());
    }
    let table_at = plan.from.saturating_add(plan.blocks.len() as u64);
    let table_at = geometry.start_of(table_at).unwrap_or(u64::MAX);
    table.resize(usize::try_from(plan.table.saturating_mul(geometry.cluster_size())).unwrap_or(usize::MAX), 0);
    image.write_at(&table, table_at)?;
    image.sync()?;
    let mut place = table_at.to_be_bytes().to_vec();
    place.extend(u32::try_from(plan.table).unwrap_or(u32::MAX).to_be_bytes());
    image.write_at(&place, TABLE_AT)?;
    image.sync()?;
    let header = read_header(bytes)?;
    let clusters = geometry.clusters(bytes.file_len()?);
    Walk::new(bytes, &header, clusters, Old::Counted)?.mark_copied(image)?;
    Ok(image.sync()?)
}

fn windows(clusters: u64, window: u64) -> impl Iterator<Item = Range<u64>> {
    let window = window.max(1);
    (0..clusters.div_ceil(window)).map(move |index| {
        let from = index.saturating_mul(window);
        from..from.saturating_add(window).min(clusters)
    })
}

/// The clusters of a block that a window has.
fn overlap(window: &Range<u64>, block: u64, entries: u64) -> Range<u64> {
    let from = block.saturating_mul(entries);
    from.max(window.start)..from.saturating_add(entries).min(window.end)
}

/// The blocks that are needed: those that hold something, and those that count the new blocks and the table themselves.
fn plan(used: Vec<bool>, clusters: u64, header: &Header) -> Result<Plan, CheckError> {
    let geometry = header.geometry;
    let needed = (0..).zip(used).filter(|(_, used)| *used).map(|(index, _)| index);
    let mut plan = Plan { blocks: needed.collect(), from: clusters, table: 0 };
    loop {
        let entries = geometry.block_entries().max(1);
        let last = plan.end().saturating_sub(1).checked_div(entries).unwrap_or(0);
        let first = clusters.checked_div(entries).unwrap_or(0);
        let missing: Vec<u64> = (first..=last).filter(|index| plan.blocks.binary_search(index).is_err()).collect();
        let table = geometry.clusters(last.saturating_add(1).saturating_mul(8));
        if missing.is_empty() && table == plan.table {
            break;
        }
        plan.table = table;
        plan.blocks.extend(missing);
        plan.blocks.sort_unstable();
    }
    if plan.table.saturating_mul(geometry.cluster_size()) > MAX_REFCOUNT_TABLE {
        return Err(CheckError::TooMuch("more clusters than a refcount table can say"));
    }
    Ok(plan)
}

/// Writes the blocks that begin in a window.
fn write_blocks(
    image: &dyn Storage,
    header: &Header,
    plan: &Plan,
    window: &Range<u64>,
    cells: &Cells,
) -> Result<(), CheckError> {
    let geometry = header.geometry;
    let new = plan.from..plan.end();
    for (at, index) in (plan.from..).zip(&plan.blocks) {
        let first = index.saturating_mul(geometry.block_entries());
        if !window.contains(&first) {
            continue;
        }
        let mut block = RefcountBlock::new(vec![0; geometry.cluster_len()], geometry);
        for (place, cluster) in (0..geometry.block_entries()).zip(first..) {
            let count = if new.contains(&cluster) { 1 } else { cells.of(cluster) };
            if count > 0 && !block.set(place, count) {
                return Err(CheckError::TooMuch("clusters with more references than a refcount can say"));
            }
        }
        image.write_at(block.bytes(), geometry.start_of(at).unwrap_or(u64::MAX))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::ops::ControlFlow;
    use std::path::Path;

    use super::super::tests::{done, image, look, theirs};
    use super::*;

    fn go(_: u64, _: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(Vec<u8>, u64),
        Len(u64),
        Sync,
    }

    /// An image in memory that remembers what was done to it.
    struct Logged(RefCell<(Vec<u8>, Vec<Step>)>);

    fn apply(bytes: &mut Vec<u8>, step: &Step) {
        match step {
            Step::Write(written, at) => {
                let at = *at as usize;
                bytes.resize(bytes.len().max(at + written.len()), 0);
                bytes[at..at + written.len()].copy_from_slice(written);
            }
            Step::Len(len) => bytes.resize(*len as usize, 0),
            Step::Sync => {}
        }
    }

    impl Logged {
        fn new(bytes: &[u8]) -> Self {
            Self(RefCell::new((bytes.to_vec(), Vec::new())))
        }

        fn step(&self, step: Step) -> io::Result<()> {
            let (bytes, steps) = &mut *self.0.borrow_mut();
            apply(bytes, &step);
            steps.push(step);
            Ok(())
        }

        fn end(self) -> (Vec<u8>, Vec<Step>) {
            self.0.into_inner()
        }
    }

    impl Bytes for Logged {
        fn file_len(&self) -> io::Result<u64> {
            self.0.borrow().0.file_len()
        }
        fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
            Bytes::read_at(&self.0.borrow().0, bytes, at)
        }
    }

    impl Storage for Logged {
        fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
            self.step(Step::Write(bytes.to_vec(), at))
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.step(Step::Len(len))
        }
        fn sync(&self) -> io::Result<()> {
            self.step(Step::Sync)
        }
    }

    fn number(bytes: &[u8], at: u64) -> u64 {
        u64::from_be_bytes(bytes[at as usize..at as usize + 8].try_into().unwrap())
    }

    /// Both images read alike for qemu, as they are now and in their snapshot.
    #[track_caller]
    fn read_alike(dir: &Path, first: &[u8], second: &[u8], snapshot: bool) {
        let [a, b] = [("a", first), ("b", second)].map(|(name, bytes)| {
            let path = dir.join(name);
            std::fs::write(&path, bytes).unwrap();
            path.to_str().unwrap().to_owned()
        });
        let flat = [&a, &b].map(|path| format!("{path}.flat"));
        let options = if snapshot { vec!["-l", "s"] } else { vec![] };
        for (path, flat) in [&a, &b].into_iter().zip(&flat) {
            for options in [&options[..], &[]] {
                let convert = [&["convert", "-f", "qcow2", "-O", "raw"], options, &[path, flat]].concat();
                done("qemu-img", &convert);
            }
        }
        let [flat_a, flat_b] = flat.map(|path| std::fs::read(path).unwrap());
        assert!(flat_a == flat_b);
    }

    /// Ways to spoil the refcounts of an image: its name, and what is written where.
    fn spoiled(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
        let header = read_header(&bytes.to_vec()).unwrap();
        let cluster = header.geometry.cluster_len();
        let block = number(bytes, header.refcounts.at) as usize;
        let l1 = header.l1.at as usize;
        let l2 = (number(bytes, header.l1.at) & 0x00ff_ffff_ffff_fe00) as usize;
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut changed = bytes.to_vec();
            change(&mut changed);
            changed
        };
        vec![
            ("no block", with(&|bytes| bytes[block..block + cluster].fill(0))),
            ("all used", with(&|bytes| bytes[block..block + cluster].fill(0x55))),
            ("no table", with(&|bytes| bytes[header.refcounts.at as usize..][..8].fill(0))),
            ("marks", with(&|bytes| bytes[l1] ^= 0x80)),
            ("marks of data", with(&|bytes| bytes[l2] ^= 0x80)),
        ]
    }

    const KINDS: [(&str, bool); 6] = [
        ("cluster_size=64k", true),
        ("cluster_size=512", true),
        ("cluster_size=4k,refcount_bits=1", false),
        ("cluster_size=512,refcount_bits=64", true),
        ("compat=0.10,cluster_size=1k", true),
        ("extended_l2=on,cluster_size=16k", true),
    ];

    #[test]
    fn spoiled_refcounts_are_right_again_and_the_data_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        for (options, snapshot) in KINDS {
            let bytes = image(dir.path(), options, snapshot, false);
            for (name, spoiled) in spoiled(&bytes) {
                let window = 1 << 15;
                let logged = Logged::new(&spoiled);
                let (report, repaired) = repair_in_windows(&logged, window, &mut go).unwrap();
                assert_eq!(repaired, Repair::Done, "{options} {name}: {report:?}");
                assert!(!report.is_clean(), "{options} {name}");
                let (bytes_after, _) = logged.end();
                assert!(look(&bytes_after).unwrap().is_clean(), "{options} {name}");
                let (leaks, errors, said) = theirs(dir.path(), &bytes_after).unwrap();
                assert_eq!((leaks, errors), (0, 0), "{options} {name}: {said}");
                read_alike(dir.path(), &bytes, &bytes_after, snapshot);
            }
        }
    }

    #[test]
    fn an_image_that_was_not_closed_or_is_marked_corrupt_is_right_again() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = image(dir.path(), "cluster_size=4k", false, false);
        assert_eq!(repair(&Logged::new(&bytes), &mut go).unwrap().1, Repair::Right);
        for mark in 1..=3 {
            let mut marked = bytes.clone();
            marked[79] |= mark;
            marked[95] |= 0x40;
            let logged = Logged::new(&marked);
            assert_eq!(repair(&logged, &mut go).unwrap().1, Repair::Done);
            assert!(logged.end().0 == bytes, "the marks are gone, and an autoclear bit that is not known");
        }
    }

    #[test]
    fn what_is_not_of_refcounts_is_refused_and_nothing_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = image(dir.path(), "cluster_size=4k", false, false);
        let header = read_header(&bytes).unwrap();
        let l2 = (number(&bytes, header.l1.at) & 0x00ff_ffff_ffff_fe00) as usize;
        for entry in [1 << 63 | l2 as u64, 1 << 63 | 1 << 40, 2] {
            let mut changed = bytes.clone();
            changed[l2..l2 + 8].copy_from_slice(&entry.to_be_bytes());
            let logged = Logged::new(&changed);
            assert_eq!(repair(&logged, &mut go).unwrap().1, Repair::Refused);
            assert!(logged.end().1.is_empty());
        }
    }

    /// A power cut after each write, with each write since the last sync lost: the data is the same, and the image is
    /// repaired again.
    #[test]
    fn a_power_cut_after_any_write_is_repaired_again() {
        let dir = tempfile::tempdir().unwrap();
        for options in ["cluster_size=512", "compat=0.10,cluster_size=1k"] {
            let bytes = image(dir.path(), options, true, false);
            for (name, spoiled) in spoiled(&bytes) {
                let logged = Logged::new(&spoiled);
                repair(&logged, &mut go).unwrap();
                let (_, steps) = logged.end();
                let mut states = Vec::new();
                let (mut stable, mut pending) = (spoiled.clone(), Vec::new());
                for step in &steps {
                    match step {
                        Step::Sync => pending.drain(..).for_each(|step| apply(&mut stable, step)),
                        Step::Write(..) | Step::Len(_) => pending.push(step),
                    }
                    for lost in 0..=pending.len() {
                        let mut state = stable.clone();
                        let kept = pending.iter().enumerate().filter(|(at, _)| *at != lost);
                        kept.for_each(|(_, step)| apply(&mut state, step));
                        states.push(state);
                    }
                }
                assert!(states.len() > 5, "{options} {name}");
                for state in states {
                    let logged = Logged::new(&state);
                    let (report, repaired) = repair(&logged, &mut go).unwrap();
                    assert!(repaired != Repair::Refused, "{options} {name}: {report:?}");
                    let (after, _) = logged.end();
                    assert!(look(&after).unwrap().is_clean());
                }
            }
        }
    }
}
