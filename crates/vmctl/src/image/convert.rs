//! `create -i`: copies a disk into a new image (openbsd/vmctl.md, 4.4).

use std::fs::File;
use std::io::{Cursor, Read};
use std::ops::ControlFlow;
use std::path::Path;

use disk::qcow2::{WriteError, Writer};
use disk::{CopyError, NewFile, RawSource, RawTarget, Target, check_raw};
use model::DiskFormat;
use sys::signals::{Signal, Signals};

use super::chain::{self, Why};
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
    if source.format == DiskFormat::Qcow2 {
        return Err(ImageError::FromQcow2(source.path.clone()));
    }
    let (file, len) = open(source)?;
    if let (None, Some(size)) = (source.packing, size.filter(|size| *size < len)) {
        return Err(ImageError::Smaller { size, path: source.path.clone(), bytes: Some(len) });
    }
    let new = NewFile::make(path).map_err(|reason| ImageError::Create { path: path.to_owned(), reason })?;
    let written = |error| step("failed to write to destination", path, error);
    // Blocked before the first byte: a signal that comes is seen between two pieces, and the file is removed.
    let signals = Signals::block(&[Signal::Interrupt, Signal::Terminate, Signal::Hangup]).map_err(written)?;
    let stopped = || match signals.next() {
        Ok(None) => ControlFlow::Continue(()),
        Ok(Some(_)) | Err(_) => ControlFlow::Break(()),
    };
    let most = size.unwrap_or(i64::MAX as u64);
    let mut fill = |target: &mut dyn Target| match source.packing {
        None => {
            let mut watch = |done| {
                tell(done, len);
                stopped()
            };
            let copied = disk::copy(&mut RawSource { file: &file, len }, target, len, &mut watch);
            copied.map(|()| len).map_err(|error| failed(error, source, path))
        }
        Some(packing) => {
            let (mut reader, taken) = unpacked(source, packing, &file)?;
            let mut watch = |_| {
                tell(taken.get(), len);
                stopped()
            };
            disk::pour(&mut reader, target, most, &mut watch).map_err(|error| failed(error, source, path))
        }
    };
    let whole = |copied: u64| size.unwrap_or(copied.max(1).checked_next_multiple_of(MIB).unwrap_or(copied));
    let copied = match create.format {
        DiskFormat::Raw => {
            let copied = fill(&mut RawTarget(new.file()))?;
            new.file().set_len(whole(copied)).and_then(|()| new.file().sync_data()).map_err(written)?;
            copied
        }
        DiskFormat::Qcow2 => {
            let failed = |reason: WriteError| ImageError::Qcow2 { path: path.to_owned(), reason };
            let known = size.or_else(|| source.packing.is_none().then(|| whole(len)));
            let mut writer = Writer::begin(new.file(), known, None).map_err(failed)?;
            let copied = fill(&mut writer)?;
            writer.finish(whole(copied)).map_err(failed)?;
            copied
        }
    };
    new.keep();
    Ok((size.is_none() && whole(copied) != copied).then_some(whole(copied) / MIB))
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
