//! A chain that is read from begin to end, by plain reads: what `Map` says of a window of the disk is kept as a list, then
//! read piece by piece. Called by vmctl.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use model::DiskFormat;

use super::{Action, Layer, LayerError, Limits, Map, Op, Request, RequestId};
use crate::{PIECE, Source};

/// Bytes of the disk that are looked up at once. As many may be unpacked in memory.
const WINDOW: u64 = 16 << 20;

/// A file of a chain: open for reading, its bytes, and its format.
pub type ChainFile<'a> = (&'a File, u64, DiskFormat);

/// A chain, and what it holds in a window of the disk.
#[derive(Debug)]
pub struct Reader<'a> {
    map: Map,
    files: Vec<&'a File>,
    window: Range<u64>,
    /// What is not zero, in the order of the disk.
    segments: Vec<Segment>,
}

/// Bytes of the disk that are somewhere.
#[derive(Debug)]
struct Segment {
    disk: Range<u64>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// In a file of the chain, from a byte on.
    File(usize, u64),
    /// Unpacked, from a byte on.
    Memory(Arc<[u8]>, usize),
}

impl<'a> Reader<'a> {
    /// Opens an image with its bases, nearest first.
    pub fn open(chain: &[ChainFile<'a>]) -> Result<Self, LayerError> {
        let layers: Result<Vec<Layer>, LayerError> =
            chain.iter().map(|(file, len, format)| Layer::open(file, *len, *format)).collect();
        let map = Map::open(layers?, Limits::default())?;
        let files = chain.iter().map(|(file, ..)| *file).collect();
        Ok(Self { map, files, window: 0..0, segments: Vec::new() })
    }

    /// The disk's bytes.
    pub fn size(&self) -> u64 {
        self.map.size()
    }

    /// Looks up the window that begins at the piece of `at`.
    fn look_up(&mut self, at: u64) -> io::Result<()> {
        let start = at & !(PIECE as u64).wrapping_sub(1);
        let window = start..start.saturating_add(WINDOW).min(self.size());
        self.segments.clear();
        self.window = 0..0;
        let len = window.end.saturating_sub(window.start);
        self.map.submit(RequestId(0), Request::Read { offset: start, len });
        let mut failed = None;
        while let Some(action) = self.map.poll() {
            match action {
                Action::Do { token, file, op } => {
                    let result = self.note(start, usize::from(file), op);
                    self.map.done(token, result);
                }
                Action::Finish { result, .. } => failed = result.err(),
            }
        }
        if let Some(failure) = failed {
            return Err(io::Error::other(failure));
        }
        self.segments.sort_unstable_by_key(|segment| segment.disk.start);
        self.window = window;
        Ok(())
    }

    /// Notes where data is; reads only what the map needs.
    fn note(&mut self, start: u64, file: usize, op: Op) -> Result<Option<Vec<u8>>, io::ErrorKind> {
        let on_disk = |data: Range<u64>| start.saturating_add(data.start)..start.saturating_add(data.end);
        match op {
            Op::Read { at, len } => {
                let mut bytes = vec![0; len];
                let file = self.files.get(file).ok_or(io::ErrorKind::InvalidInput)?;
                return file.read_exact_at(&mut bytes, at).map(|()| Some(bytes)).map_err(|error| error.kind());
            }
            Op::ReadGuest { data, at, .. } => {
                self.segments.push(Segment { disk: on_disk(data), content: Content::File(file, at) });
            }
            Op::FillGuest { data, bytes, from, .. } => {
                self.segments.push(Segment { disk: on_disk(data), content: Content::Memory(bytes, from) });
            }
            Op::ZeroGuest { .. } => {}
            // The chain is only read.
            Op::WriteGuest { .. } | Op::Write { .. } | Op::Zero { .. } | Op::Punch { .. } | Op::Sync => {
                return Err(io::ErrorKind::ReadOnlyFilesystem);
            }
        }
        Ok(None)
    }

    /// Reads the part of a segment that a piece has.
    fn fill(&self, segment: &Segment, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let end = at.saturating_add(bytes.len() as u64);
        let part = segment.disk.start.max(at)..segment.disk.end.min(end);
        let skip = part.start.saturating_sub(segment.disk.start);
        let place = |from: u64| usize::try_from(from.saturating_sub(at)).unwrap_or(usize::MAX);
        let out_of_place = || io::Error::from(io::ErrorKind::InvalidInput);
        let target = bytes.get_mut(place(part.start)..place(part.end)).ok_or_else(out_of_place)?;
        match &segment.content {
            Content::File(file, at) => {
                let file = self.files.get(*file).ok_or_else(out_of_place)?;
                file.read_exact_at(target, at.saturating_add(skip))
            }
            Content::Memory(bytes, from) => {
                let from = usize::try_from(skip).unwrap_or(usize::MAX).saturating_add(*from);
                let source = bytes.get(from..from.saturating_add(target.len())).ok_or_else(out_of_place)?;
                target.copy_from_slice(source);
                Ok(())
            }
        }
    }
}

impl Source for Reader<'_> {
    fn stretch(&mut self, at: u64) -> io::Result<Option<Range<u64>>> {
        let mut at = at;
        while at < self.size() {
            if !self.window.contains(&at) {
                self.look_up(at)?;
            }
            let next = self.segments.partition_point(|segment| segment.disk.end <= at);
            match self.segments.get(next) {
                Some(segment) => return Ok(Some(segment.disk.clone())),
                None => at = self.window.end,
            }
        }
        Ok(None)
    }

    fn read(&mut self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let end = at.saturating_add(bytes.len() as u64);
        if at < self.window.start || end > self.window.end {
            self.look_up(at)?;
        }
        bytes.fill(0);
        let from = self.segments.partition_point(|segment| segment.disk.end <= at);
        let some = self.segments.get(from..).unwrap_or_default().iter();
        some.take_while(|segment| segment.disk.start < end).try_for_each(|segment| self.fill(segment, bytes, at))
    }
}
