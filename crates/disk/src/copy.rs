//! Copies of disks: what holds something is copied in whole pieces, what holds nothing stays nothing. Called by vmctl, with
//! files that it has opened.

use std::fs::File;
use std::io::{self, Read};
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Bytes that are copied, or left out where all are zero, at once: the cluster of a qcow2 image that we make
/// (openbsd/vmctl.md, 4.4).
pub const PIECE: usize = 64 << 10;

/// A disk that is read.
pub trait Source {
    /// The next stretch at or behind `at` that may hold something but zeros, or none up to the end.
    fn stretch(&mut self, at: u64) -> io::Result<Option<Range<u64>>>;
    /// Fills `bytes` from `at`; all of it is within the disk.
    fn read(&mut self, bytes: &mut [u8], at: u64) -> io::Result<()>;
}

/// A disk that is written, zero before.
pub trait Target {
    /// A piece at a multiple of [`PIECE`]; only the disk's last may be shorter.
    fn write(&mut self, bytes: &[u8], at: u64) -> io::Result<()>;
}

/// Called with the bytes that are done, again and again; may have the copy end.
pub type Watch<'a> = dyn FnMut(u64) -> ControlFlow<()> + 'a;

/// Why a copy is not whole.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source can't be read.
    #[error("{0}")]
    Read(io::Error),
    /// The target can't be written.
    #[error("{0}")]
    Write(io::Error),
    /// The source has more bytes than these, which were the most.
    #[error("it has more than {0} bytes")]
    Longer(u64),
    /// Whoever watches wanted it.
    #[error("interrupted")]
    Stopped,
}

/// Copies the first `size` bytes of a disk.
pub fn copy(
    source: &mut dyn Source,
    target: &mut dyn Target,
    size: u64,
    watch: &mut Watch<'_>,
) -> Result<(), CopyError> {
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while let Some(stretch) = source.stretch(at).map_err(CopyError::Read)? {
        let end = stretch.end.min(size);
        at = stretch.start.max(at) & !(PIECE as u64).wrapping_sub(1);
        while at < end {
            if watch(at).is_break() {
                return Err(CopyError::Stopped);
            }
            let len = usize::try_from(size.saturating_sub(at)).unwrap_or(PIECE).min(PIECE);
            let piece = buffer.get_mut(..len).unwrap_or_default();
            source.read(piece, at).map_err(CopyError::Read)?;
            put(target, piece, at)?;
            at = at.saturating_add(PIECE as u64);
        }
        if at >= size {
            break;
        }
    }
    if watch(size).is_break() { Err(CopyError::Stopped) } else { Ok(()) }
}

/// Copies a stream to its end, which is to come within `most` bytes; how many there were.
pub fn pour(
    source: &mut dyn Read,
    target: &mut dyn Target,
    most: u64,
    watch: &mut Watch<'_>,
) -> Result<u64, CopyError> {
    let mut buffer = vec![0; PIECE];
    let mut at = 0_u64;
    loop {
        if watch(at).is_break() {
            return Err(CopyError::Stopped);
        }
        let mut len = 0_usize;
        while let Some(rest @ [_, ..]) = buffer.get_mut(len..) {
            match source.read(rest) {
                Ok(0) => break,
                Ok(got) => len = len.saturating_add(got),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CopyError::Read(error)),
            }
        }
        let end = at.saturating_add(len as u64);
        if end > most {
            return Err(CopyError::Longer(most));
        }
        put(target, buffer.get(..len).unwrap_or_default(), at)?;
        if len < PIECE {
            return Ok(end);
        }
        at = end;
    }
}

fn put(target: &mut dyn Target, piece: &[u8], at: u64) -> Result<(), CopyError> {
    // The processor compares whole registers: a piece that is not zero ends this at once.
    if piece.iter().all(|byte| *byte == 0) { Ok(()) } else { target.write(piece, at).map_err(CopyError::Write) }
}

/// A raw image or block device.
#[derive(Debug)]
pub struct RawSource<'a> {
    /// Open for reading.
    pub file: &'a File,
    /// Its end.
    pub len: u64,
}

impl Source for RawSource<'_> {
    fn stretch(&mut self, at: u64) -> io::Result<Option<Range<u64>>> {
        if at >= self.len {
            return Ok(None);
        }
        // lseek(2): a file system that knows no holes, and a block device, say EINVAL; none up to the end is ENXIO.
        let start = match rustix::fs::seek(self.file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => {
                let end = rustix::fs::seek(self.file, SeekFrom::End(0))?;
                return if end < self.len { Err(shorter()) } else { Ok(None) };
            }
            Err(Errno::INVAL) => return Ok(Some(at..self.len)),
            Err(error) => return Err(error.into()),
        };
        match rustix::fs::seek(self.file, SeekFrom::Hole(start)) {
            Ok(end) => Ok(Some(start..end)),
            Err(Errno::NXIO) => Err(shorter()), // since the line above
            Err(error) => Err(error.into()),
        }
    }

    fn read(&mut self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, at).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => shorter(),
            _ => error,
        })
    }
}

fn shorter() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read")
}

/// A raw image.
#[derive(Debug)]
pub struct RawTarget<'a>(pub &'a File);

impl Target for RawTarget<'_> {
    fn write(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn go(_: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Which pieces were written, and all bytes.
    #[derive(Default)]
    struct Memory {
        bytes: Vec<u8>,
        pieces: Vec<u64>,
    }

    impl Target for Memory {
        fn write(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
            let start = usize::try_from(at).unwrap();
            self.bytes.resize(self.bytes.len().max(start + bytes.len()), 0);
            self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
            self.pieces.push(at);
            Ok(())
        }
    }

    fn with(size: u64, written: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        written.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
        file
    }

    #[test]
    fn only_pieces_that_hold_something_are_copied() {
        let piece = PIECE as u64;
        let size = 40 * piece + 777;
        let file = with(size, &[(0, &[0; 4096]), (3 * piece + 5, b"three"), (9 * piece - 1, b"89"), (size - 1, b"e")]);
        let mut target = Memory::default();
        copy(&mut RawSource { file: &file, len: size }, &mut target, size, &mut go).unwrap();
        assert_eq!(target.pieces, [3 * piece, 8 * piece, 9 * piece, 40 * piece]);
        let mut whole = vec![0; usize::try_from(size).unwrap()];
        file.read_exact_at(&mut whole, 0).unwrap();
        assert!(target.bytes == whole);
    }

    #[test]
    fn a_copy_of_holes_takes_no_space_and_no_time() {
        let size = 4 << 40;
        let file = with(size, &[(size - 4096, b"end")]);
        let copied = with(size, &[]);
        copy(&mut RawSource { file: &file, len: size }, &mut RawTarget(&copied), size, &mut go).unwrap();
        let mut end = [0; 3];
        copied.read_exact_at(&mut end, size - 4096).unwrap();
        assert_eq!((&end, copied.metadata().unwrap().blocks() <= 256), (b"end", true));
    }

    #[test]
    fn a_source_that_became_shorter_is_an_error() {
        let size = 8 * PIECE as u64;
        // Within what holds something, at a piece's end, in a hole, and after the last piece that holds something.
        for (to, when) in [(size / 2 + 7, 0), (size / 2, 0), (size - 9, 0), (size - 9, 4), (0, 2)] {
            let file = with(size, &[(0, &vec![1; 5 * PIECE])]);
            let mut cut = |done| {
                if done == when * PIECE as u64 {
                    file.set_len(to).unwrap();
                }
                go(done)
            };
            let mut source = RawSource { file: &file, len: size };
            let error = copy(&mut source, &mut Memory::default(), size, &mut cut).unwrap_err();
            assert!(matches!(&error, CopyError::Read(_)), "{to}");
            assert_eq!(error.to_string(), "it became shorter while it was read", "{to}");
        }
    }

    #[test]
    fn a_stream_is_copied_to_its_end_and_no_further_than_allowed() {
        let mut bytes = vec![0; 3 * PIECE + 9];
        bytes[2 * PIECE] = 1;
        let len = bytes.len() as u64;
        let mut target = Memory::default();
        assert_eq!(pour(&mut bytes.as_slice(), &mut target, len, &mut go).unwrap(), len);
        assert_eq!(target.pieces, [2 * PIECE as u64]);
        let mut cut = Memory::default();
        let error = pour(&mut bytes.as_slice(), &mut cut, len - 1, &mut go).unwrap_err();
        assert!(matches!(error, CopyError::Longer(most) if most == len - 1));
        assert_eq!(pour(&mut [].as_slice(), &mut cut, 0, &mut go).unwrap(), 0);
    }

    #[test]
    fn whoever_watches_may_end_it() {
        let size = 8 * PIECE as u64;
        let file = with(size, &[(0, &vec![1; 8 * PIECE])]);
        let mut seen = Vec::new();
        let mut target = Memory::default();
        let mut twice = |done| {
            seen.push(done);
            if seen.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let ended = copy(&mut RawSource { file: &file, len: size }, &mut target, size, &mut twice);
        assert!(matches!(ended, Err(CopyError::Stopped)));
        assert_eq!((seen, target.pieces.len()), (vec![0, PIECE as u64, 2 * PIECE as u64], 2));
        let ended = pour(&mut [1; 9].as_slice(), &mut target, 9, &mut |_| ControlFlow::Break(()));
        assert!(matches!(ended, Err(CopyError::Stopped)));
    }
}
