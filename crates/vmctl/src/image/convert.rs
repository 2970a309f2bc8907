//! `create -i`: copies a disk into a new image (openbsd/vmctl.md, 4.4).

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use disk::{CopyError, NewFile, RawSource, RawTarget, check_raw};
use model::DiskFormat;
use rustix::fs::{Mode, OFlags};
use sys::lock;
use sys::signals::{Signal, Signals};

use super::ImageError;
use super::unpack::{self, Packing};
use crate::create::Source;

const MIB: u64 = 1 << 20;

/// Told how much is done, of how much.
pub type Tell<'a> = dyn FnMut(u64, u64) + 'a;

/// Copies `source` into a new raw image. Nothing is left of one that does not get whole. Its size in MiB where that was
/// rounded up.
pub fn convert(
    source: &Source,
    size: Option<u64>,
    path: &Path,
    tell: &mut Tell<'_>,
) -> Result<Option<u64>, ImageError> {
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
    let mut target = RawTarget(new.file());
    let copied = match source.packing {
        None => {
            let mut watch = |done| {
                tell(done, len);
                stopped()
            };
            disk::copy(&mut RawSource { file: &file, len }, &mut target, len, &mut watch).map(|()| len)
        }
        Some(packing) => {
            let (mut reader, taken) = unpacked(source, packing, file)?;
            let mut watch = |_| {
                tell(taken.get(), len);
                stopped()
            };
            disk::pour(&mut reader, &mut target, size.unwrap_or(i64::MAX as u64), &mut watch)
        }
    };
    let copied = copied.map_err(|error| failed(error, source, path))?;
    let whole = size.unwrap_or_else(|| copied.max(1).checked_next_multiple_of(MIB).unwrap_or(copied));
    new.file().set_len(whole).and_then(|()| new.file().sync_data()).map_err(written)?;
    new.keep();
    Ok((size.is_none() && whole != copied).then_some(whole / MIB))
}

/// Opens a source, and keeps others from writing it while it is read; its bytes, packed ones as they are.
fn open(source: &Source) -> Result<(File, u64), ImageError> {
    let path = &source.path;
    let failed = |error| step("failed to open source image file", path, error);
    let refused = |why| Err(ImageError::Source { path: path.clone(), why });
    // Without waiting for a fifo's other end.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    let mut file = File::from(file);
    let kind = file.metadata().map_err(failed)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return refused("is neither a regular file nor a block device");
    }
    if !lock::try_lock(&file, lock::Kind::Shared).map_err(failed)? {
        return refused("is in use: a VM, or another program, has it open for writing; stop that first");
    }
    if source.packing.is_none() {
        check(source, &mut file)?;
    }
    // The end is the size of files and block devices alike.
    let len = file.seek(SeekFrom::End(0)).map_err(failed)?;
    file.rewind().map_err(failed)?;
    Ok((file, len))
}

/// The stream of what is in a packed source.
fn unpacked(source: &Source, packing: Packing, file: File) -> Result<(impl Read + use<>, unpack::Taken), ImageError> {
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
        Err(_) if !source.called => {
            let why = "begins like a qcow2 image; write \"qcow2:\" or \"raw:\" before its name to say what it is";
            Err(ImageError::Source { path: source.path.clone(), why })
        }
        Ok(()) | Err(_) => Ok(begin),
    }
}

fn step(what: &'static str, path: &Path, error: io::Error) -> ImageError {
    ImageError::Step { what, path: path.to_owned(), error }
}

fn failed(error: CopyError, source: &Source, path: &Path) -> ImageError {
    match error {
        CopyError::Read(error) => step("failed to read from source", &source.path, error),
        CopyError::Write(error) => step("failed to write to destination", path, error),
        CopyError::Longer(size) => ImageError::Smaller { size, path: source.path.clone(), bytes: None },
        CopyError::Stopped => ImageError::Interrupted(path.to_owned()),
    }
}
