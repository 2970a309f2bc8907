//! `create -i`: copies a disk into a new image (openbsd/vmctl.md, 4.4).

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::ops::ControlFlow;
use std::path::Path;

use disk::qcow2::{Failure, MAX_CHAIN, Reader, WriteError, Writer};
use disk::{CopyError, NewFile, RawSource, RawTarget, Target, check_raw};
use model::DiskFormat;
use sys::signals::{Signal, Signals};

use super::chain::{self, Link, Why};
use super::unpack::{self, Packing};
use super::{ImageError, step};
use crate::create::{Create, Source};

const MIB: u64 = 1 << 20;

/// Told how much is done, of how much.
pub type Tell<'a> = dyn FnMut(u64, u64) + 'a;

/// Copies `source` into a new image. Nothing is left of one that does not get whole. Its size in MiB where that was rounded
/// up.
pub fn convert(
    create: &Create,
    source: &Source,
    size: Option<u64>,
    tell: &mut Tell<'_>,
) -> Result<Option<u64>, ImageError> {
    let path = &create.path;
    let (file, len) = open(source)?;
    let written = |error| step("failed to write to destination", path, error);
    // Blocked before there is a file: a signal that comes is seen between two pieces, and the file is removed.
    let signals = Signals::block(&[Signal::Interrupt, Signal::Terminate, Signal::Hangup]).map_err(written)?;
    let new = NewFile::make(path).map_err(|reason| ImageError::Create { path: path.to_owned(), reason })?;
    let stopped = || match signals.next() {
        Ok(None) => ControlFlow::Continue(()),
        Ok(Some(_)) | Err(_) => ControlFlow::Break(()),
    };
    let from = match (source.format, source.packing) {
        (DiskFormat::Raw, None) => Input::Raw(file, len),
        (DiskFormat::Raw, Some(packing)) => Input::Packed(packing, file, len),
        (DiskFormat::Qcow2, None) => Input::chain(source, (file, len))?,
        (DiskFormat::Qcow2, Some(packing)) => {
            // An image is read here and there, so its file must be there as a whole.
            let part = nameless(path).map_err(written)?;
            let from = Input::Packed(packing, file, len);
            let len = from.copy(source, path, &mut RawTarget(&part), None, tell, &stopped)?;
            part.set_len(len).map_err(written)?;
            Input::chain(source, (part, len))?
        }
    };
    if let Some((size, bytes)) = size.zip(from.size()).filter(|(size, bytes)| size < bytes) {
        return Err(ImageError::Smaller { size, path: source.path.clone(), bytes: Some(bytes) });
    }
    let mut fill = |target: &mut dyn Target| from.copy(source, path, target, size, tell, &stopped);
    let whole = |copied: u64| size.unwrap_or(copied.max(1).checked_next_multiple_of(MIB).unwrap_or(copied));
    let copied = match create.format {
        DiskFormat::Raw => {
            let copied = fill(&mut RawTarget(new.file()))?;
            new.file().set_len(whole(copied)).and_then(|()| new.file().sync_data()).map_err(written)?;
            copied
        }
        DiskFormat::Qcow2 => {
            let failed = |reason: WriteError| ImageError::Qcow2 { path: path.to_owned(), reason };
            let known = size.or_else(|| from.size().map(whole));
            let mut writer = Writer::begin(new.file(), known, None).map_err(failed)?;
            let copied = fill(&mut writer)?;
            writer.finish(whole(copied)).map_err(failed)?;
            copied
        }
    };
    new.keep();
    Ok((size.is_none() && whole(copied) != copied).then_some(whole(copied) / MIB))
}

/// A file beside that of `path`, which goes with this process however it ends: its name is there for a moment only.
fn nameless(path: &Path) -> io::Result<File> {
    // As long as it may be, whatever the length of the other's.
    let name = path.with_file_name(format!(".vmctl-unpacked-{}", std::process::id()));
    NewFile::make(&name).map_err(io::Error::other)?.file().try_clone()
}

/// Where bytes come from.
enum Input {
    /// A raw disk, with its bytes.
    Raw(File, u64),
    /// A packed file, with its bytes.
    Packed(Packing, File, u64),
    /// An image with its bases.
    Chain(Vec<Link>),
}

impl Input {
    fn chain(source: &Source, opened: (File, u64)) -> Result<Self, ImageError> {
        let chain = chain::open_on(opened, &source.path, source.format, source.called, MAX_CHAIN);
        chain.map(Self::Chain).map_err(ImageError::Source)
    }

    /// The disk's bytes, where they are known before it is read.
    fn size(&self) -> Option<u64> {
        match self {
            Self::Raw(_, len) => Some(*len),
            Self::Packed(..) => None,
            Self::Chain(chain) => chain.first().map(|link| link.size),
        }
    }

    /// Copies all of it; how many bytes the disk has.
    fn copy(
        &self,
        source: &Source,
        path: &Path,
        target: &mut dyn Target,
        most: Option<u64>,
        tell: &mut Tell<'_>,
        stopped: &dyn Fn() -> ControlFlow<()>,
    ) -> Result<u64, ImageError> {
        let size = self.size().unwrap_or(0);
        let mut watch = |done| {
            tell(done, size);
            stopped()
        };
        let copied = match self {
            Self::Raw(file, len) => disk::copy(&mut RawSource { file, len: *len }, target, size, &mut watch),
            Self::Chain(chain) => {
                let files: Vec<_> = chain.iter().map(|link| (&link.file, link.len, link.format)).collect();
                let reader = Reader::open(&files);
                let error = |error| step("failed to read from source", &source.path, io::Error::other(error));
                let copied = disk::copy(&mut reader.map_err(error)?, target, size, &mut watch);
                copied.map_err(|error| damaged(error, chain))
            }
            Self::Packed(packing, file, len) => {
                let (mut reader, taken) = unpacked(source, *packing, file)?;
                let mut watch = |_| {
                    tell(taken.get(), *len);
                    stopped()
                };
                let poured = disk::pour(&mut reader, target, most.unwrap_or(i64::MAX as u64), &mut watch);
                return poured.map_err(|error| failed(error, source, path));
            }
        };
        copied.map(|()| size).map_err(|error| failed(error, source, path))
    }
}

/// Which file of a chain can't be read, instead of its number.
fn damaged(error: CopyError, chain: &[Link]) -> CopyError {
    let CopyError::Read(error) = error else { return error };
    let failure = error.get_ref().and_then(|inner| inner.downcast_ref::<Failure>()).copied();
    let path = |file: u8| chain.get(usize::from(file)).map(|link| link.path.display()).into_iter();
    let told = match failure {
        Some(Failure::Corrupt { file, what }) => path(file).map(|path| format!("\"{path}\" is damaged: {what}")).next(),
        Some(Failure::Io { file, error, .. }) => path(file).map(|path| format!("\"{path}\": {error}")).next(),
        // The image is only read.
        Some(Failure::Range | Failure::ReadOnly | Failure::MarkedCorrupt | Failure::Full) | None => None,
    };
    CopyError::Read(told.map_or(error, io::Error::other))
}

/// Opens a source, and keeps others from writing it while it is read; its bytes, packed ones as they are.
fn open(source: &Source) -> Result<(File, u64), ImageError> {
    let (mut file, len) = chain::open_file(&source.path).map_err(|why| not_opened(source, why))?;
    if source.packing.is_none() {
        check(source, &mut file)?;
    }
    Ok((file, len))
}

/// The stream of what is in a packed source.
fn unpacked(source: &Source, packing: Packing, file: &File) -> Result<(impl Read + use<>, unpack::Taken), ImageError> {
    let file = file.try_clone().map_err(|error| not_opened(source, Why::Io(error)))?;
    let (mut reader, taken) = unpack::reader(packing, file);
    let begin = check(source, &mut reader)?;
    Ok((Cursor::new(begin).chain(reader), taken))
}

/// Looks at the first bytes of what is to be raw for want of a word; these bytes.
fn check(source: &Source, reader: &mut dyn Read) -> Result<Vec<u8>, ImageError> {
    let mut begin = Vec::new();
    let read = reader.take(disk::QCOW2_MAGIC.len() as u64).read_to_end(&mut begin);
    read.map_err(|error| step("failed to read from source", &source.path, error))?;
    match check_raw(&begin) {
        Err(_) if !source.called => Err(not_opened(source, Why::Looks)),
        Ok(()) | Err(_) => Ok(begin),
    }
}

fn not_opened(source: &Source, why: Why) -> ImageError {
    ImageError::Source(chain::ChainError { path: source.path.clone(), why })
}

fn failed(error: CopyError, source: &Source, path: &Path) -> ImageError {
    match error {
        CopyError::Read(error) => step("failed to read from source", &source.path, error),
        CopyError::Write(error) => step("failed to write to destination", path, error),
        CopyError::Longer(size) => ImageError::Smaller { size, path: source.path.clone(), bytes: None },
        CopyError::Stopped => ImageError::Interrupted(path.to_owned()),
    }
}
