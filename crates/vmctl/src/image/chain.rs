//! An image with the bases that it stands on, opened with the caller's own rights.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use disk::qcow2::{Access, Header, HeaderError};
use disk::{NoFileName, SECTOR, check_raw, path_of_base};
use model::DiskFormat;
use proto::failure::plain;
use rustix::fs::{Mode, OFlags};
use sys::lock;

/// Why a file is no disk that can be read.
#[derive(Debug, thiserror::Error)]
#[error("\"{}\": {why}", .path.display())]
pub struct ChainError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub why: Why,
}

/// What is wrong with one file.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// It can't be opened or read.
    #[error("{}", plain(.0))]
    Io(io::Error),
    /// A directory, say.
    #[error("neither a regular file nor a block device")]
    Kind,
    /// Its lock is held.
    #[error("in use: a VM, or another program, has it open for writing; stop that first")]
    InUse,
    /// Nobody said that it is raw.
    #[error("begins like a qcow2 image; write \"qcow2:\" or \"raw:\" before its name to say what it is")]
    Looks,
    /// The same of a base: whoever made the image above it could have said what it is.
    #[error("begins like a qcow2 image, and the image on top of it does not say so; see qemu-img rebase -u -F")]
    BaseLooks,
    /// Its header.
    #[error("{0}")]
    Header(#[from] HeaderError),
    /// What its header names as its base.
    #[error("its base: {0}")]
    Base(NoFileName),
    /// Less than a sector.
    #[error("it has {0} bytes; a disk needs at least 512")]
    Short(u64),
    /// It stands on itself.
    #[error("it is a base of itself")]
    Loop,
    /// It has too many bases.
    #[error("its chain of bases is too long: an image has 15 at most; make it independent with qemu-img convert")]
    Long,
}

/// One file of a chain.
#[derive(Debug)]
pub struct Link {
    /// Where.
    pub path: PathBuf,
    /// Open for reading, and locked against others that would write it.
    pub file: File,
    /// The file's bytes.
    pub len: u64,
    /// Its format.
    pub format: DiskFormat,
    /// Its header, if it is qcow2.
    pub header: Option<Header>,
    /// Bytes of its disk, whole sectors.
    pub size: u64,
}

/// Opens a file that is to be read as it is: without waiting for a fifo's other end, and locked so that nobody writes it
/// meanwhile. With its bytes.
pub fn open_file(path: &Path) -> Result<(File, u64), Why> {
    open_with(path, OFlags::RDONLY, lock::Kind::Shared)
}

/// The same for a file that is to be written, by nobody else meanwhile.
pub fn open_to_write(path: &Path) -> Result<File, Why> {
    Ok(open_with(path, OFlags::RDWR, lock::Kind::Exclusive)?.0)
}

fn open_with(path: &Path, access: OFlags, kind: lock::Kind) -> Result<(File, u64), Why> {
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| Why::Io(error.into()))?;
    let mut file = File::from(file);
    let what = file.metadata().map_err(Why::Io)?.file_type();
    if !what.is_file() && !what.is_block_device() {
        return Err(Why::Kind);
    }
    if !lock::try_lock(&file, kind).map_err(Why::Io)? {
        return Err(Why::InUse);
    }
    // The end is the size of files and block devices alike.
    let len = file.seek(SeekFrom::End(0)).and_then(|len| file.rewind().map(|()| len)).map_err(Why::Io)?;
    Ok((file, len))
}

/// Opens an image and all its bases, nearest first, together at most `most`. `called` is whether the user said what the
/// image is.
pub fn open(image: &Path, format: DiskFormat, called: bool, most: usize) -> Result<Vec<Link>, ChainError> {
    let opened = open_file(image).map_err(|why| ChainError { path: image.to_owned(), why })?;
    open_on(opened, image, format, called, most)
}

/// The same where the image itself is open already, with its bytes; its bases lie where those of one at `image` do.
pub fn open_on(
    opened: (File, u64),
    image: &Path,
    format: DiskFormat,
    called: bool,
    most: usize,
) -> Result<Vec<Link>, ChainError> {
    let mut chain: Vec<Link> = Vec::new();
    let mut opened = Some(opened);
    let (mut path, mut format, mut called) = (image.to_owned(), format, called);
    loop {
        let wrong = |why| ChainError { path: path.clone(), why };
        let looks = if chain.is_empty() { Why::Looks } else { Why::BaseLooks };
        // Before it is locked: the lock of one that is to be written is held for the same file further up.
        if stands_in(&chain, &path) {
            return Err(wrong(Why::Loop));
        }
        let next = opened.take().map_or_else(|| open_file(&path), Ok).map_err(wrong)?;
        let link = link(&path, next, format, called, looks).map_err(wrong)?;
        let backing = link.header.as_ref().and_then(|header| header.backing.clone());
        chain.push(link);
        let Some(backing) = backing else { return Ok(chain) };
        if chain.len() >= most {
            return Err(ChainError { path: image.to_owned(), why: Why::Long });
        }
        path = path_of_base(&path, &backing.name).map_err(|error| wrong(Why::Base(error)))?;
        let named = backing.format.or_else(|| DiskFormat::of_extension(&path));
        (format, called) = (named.unwrap_or(DiskFormat::Raw), named.is_some());
    }
}

/// Whether the file at `path` is one of these. One that is put there later is stopped by the chain's length.
fn stands_in(chain: &[Link], path: &Path) -> bool {
    let place = |it: std::fs::Metadata| (it.dev(), it.ino());
    let this = std::fs::metadata(path).map(place).ok();
    this.is_some() && chain.iter().any(|other| other.file.metadata().map(place).ok() == this)
}

fn link(path: &Path, (mut file, len): (File, u64), format: DiskFormat, called: bool, looks: Why) -> Result<Link, Why> {
    let mut begin = Vec::new();
    let mut read = |most: usize| {
        begin.clear();
        file.rewind()?;
        (&mut file).take(most as u64).read_to_end(&mut begin).map(|_| begin.clone())
    };
    let first = read(SECTOR as usize).map_err(Why::Io)?;
    let (header, size) = match format {
        DiskFormat::Raw if !called && check_raw(&first).is_err() => return Err(looks),
        DiskFormat::Raw => (None, len),
        DiskFormat::Qcow2 => {
            let bytes = read(Header::bytes_needed(&first)?).map_err(Why::Io)?;
            let header = Header::parse(&bytes, len)?;
            header.check(Access::Read)?;
            let size = header.size;
            (Some(header), size)
        }
    };
    match size / SECTOR * SECTOR {
        0 => Err(Why::Short(size)),
        size => Ok(Link { path: path.to_owned(), file, len, format, header, size }),
    }
}
