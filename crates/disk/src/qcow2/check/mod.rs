//! Looks at a whole image: whether each cluster of the file is referred to as often as its refcount says, and whether every
//! entry of every table means something; `repair` puts refcounts right. Used by `vmctl image check`, and by tests after
//! power cuts.
//!
//! The counts of a file are held in windows of [`WINDOW`] clusters; a larger file is walked once for each. So memory is
//! bounded by the window and by the list of L2 tables, whatever an image says, and so is time: a table is read once a
//! window, however often it is referred to, and a hole of the file not at all.
//!
//! | file | holds |
//! |---|---|
//! | `cells` | what was counted of each cluster in a window |
//! | `repair` | new refcounts, where nothing else is wrong |
//! | `report` | what was found |
//! | `walk` | everything in a file that refers to a cluster |

mod cells;
mod repair;
mod report;
#[cfg(test)]
mod tests;
mod walk;

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::{Header, HeaderError, features};
pub use repair::{Repair, Storage, repair};
pub use report::{Finding, Place, Report};
use walk::{Old, Walk};

/// Clusters whose counts are held at once, 4 bytes each: 2 TiB of 64 KiB clusters in 128 MiB. A multiple of what a refcount
/// block counts, which is 16 Mi clusters at most.
pub const WINDOW: u64 = 32 << 20;

/// Windows of one file: 64 are 128 TiB of 64 KiB clusters. A file beyond is sparse by malice, or needs larger clusters.
const MAX_WINDOWS: u64 = 64;

/// The bytes of an image.
pub trait Bytes {
    /// How many there are.
    fn file_len(&self) -> io::Result<u64>;
    /// Reads as many as there are, up to `bytes`.
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize>;
    /// Where the next byte at or behind `at` is that is in no hole.
    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        Ok(Some(at))
    }
}

impl Bytes for File {
    fn file_len(&self) -> io::Result<u64> {
        // The end of files and block devices alike.
        Ok(rustix::fs::seek(self, SeekFrom::End(0))?)
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, bytes, at)
    }

    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        match rustix::fs::seek(self, SeekFrom::Data(at)) {
            Ok(next) => Ok(Some(next)),
            Err(Errno::NXIO) => Ok(None),
            // Holes are not known here.
            Err(Errno::INVAL) => Ok(Some(at)),
            Err(error) => Err(error.into()),
        }
    }
}

impl Bytes for Vec<u8> {
    fn file_len(&self) -> io::Result<u64> {
        Ok(self.as_slice().len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let from = usize::try_from(at).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        io::Read::read(&mut &*from, bytes)
    }
}

/// Why an image was not looked at to its end.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It is none that is read here.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// It can't be read.
    #[error("{}", crate::plain(.0))]
    Io(#[from] io::Error),
    /// More than can be looked at.
    #[error("the image has {0}; it is damaged, or has clusters too small for its size")]
    TooMuch(&'static str),
    /// Whoever watches wanted it.
    #[error("interrupted")]
    Stopped,
}

/// Called with how much is done of how much, again and again; may end the check.
pub type CheckWatch<'a> = dyn FnMut(u64, u64) -> ControlFlow<()> + 'a;

/// Looks at a whole image.
pub fn check(bytes: &dyn Bytes, watch: &mut CheckWatch<'_>) -> Result<Report, CheckError> {
    check_in_windows(bytes, WINDOW, watch)
}

fn check_in_windows(bytes: &dyn Bytes, window: u64, watch: &mut CheckWatch<'_>) -> Result<Report, CheckError> {
    let header = read_header(bytes)?;
    let clusters = header.geometry.clusters(bytes.file_len()?);
    if clusters.div_ceil(window.max(1)) > MAX_WINDOWS {
        return Err(CheckError::TooMuch("more clusters than can be looked at"));
    }
    let mut walk = Walk::new(bytes, &header, clusters, Old::Counted)?;
    let mut from = 0;
    while from < clusters {
        let to = from.saturating_add(window).min(clusters);
        walk.pass(from..to, watch)?;
        from = to;
    }
    Ok(walk.end())
}

/// The header, read with every check of its own.
pub fn read_header(bytes: &dyn Bytes) -> Result<Header, CheckError> {
    let mut first = vec![0; 512];
    let got = read_up_to(bytes, &mut first, 0)?;
    first.truncate(got);
    let mut cluster = vec![0; Header::bytes_needed(&first)?];
    let got = read_up_to(bytes, &mut cluster, 0)?;
    cluster.truncate(got);
    let header = Header::parse(&cluster, bytes.file_len()?)?;
    if header.incompatible & features::EXTERNAL_DATA != 0 {
        return Err(HeaderError::ExternalData.into());
    }
    Ok(header)
}

/// Reads until the buffer is full or the file ends; how much.
fn read_up_to(bytes: &dyn Bytes, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut len = 0_usize;
    while let Some(rest @ [_, ..]) = buffer.get_mut(len..) {
        match bytes.read_at(rest, at.saturating_add(len as u64)) {
            Ok(0) => break,
            Ok(got) => len = len.saturating_add(got),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}
