//! The opener's loop: reads a message, does it, answers. The only file here that makes system calls.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use model::UserPath;
use proto::opener::{Asker, FileId, OpenFile, ToOpener, ToParent, What};
use proto::{Channel, Received};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::Fatal;
use super::conversation::Conversation;
use super::judge::{self, Opened, Refusal};

/// How long the parent may be silent: it says everything at once, so this is for one that has hung.
const SILENCE: Duration = Duration::from_secs(30);

type Parent = Channel<ToParent, ToOpener>;

/// Serves one request. `assume` takes the asker's rights.
pub fn serve(mut parent: Parent, assume: impl Fn(&sandbox::Asker) -> Result<(), sandbox::Error>) -> Result<(), Fatal> {
    let mut conversation = Conversation::default();
    let mut asked_by = Asker::Root;
    loop {
        let Received::Message(message, _) = parent.recv_within(SILENCE)? else { return Ok(()) };
        match conversation.handle(message)? {
            ToOpener::Become(asker) => {
                assume(&rights(&asker))?;
                asked_by = asker;
            }
            ToOpener::Open { index, what, path } => {
                let (answer, files) = answer(index, what, &path, &asked_by);
                parent.send(&answer, files)?;
            }
            ToOpener::End => return finish(&mut parent),
        }
    }
}

/// Waits until the parent has taken every answer.
fn finish(parent: &mut Parent) -> Result<(), Fatal> {
    while parent.wants_write() {
        let mut fds = [PollFd::new(parent, PollFlags::OUT)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => parent.flush()?,
            Err(errno) => return Err(proto::channel::ChannelError::Socket(errno.into()).into()),
        }
    }
    Ok(())
}

fn rights(asker: &Asker) -> sandbox::Asker {
    match asker {
        Asker::Root => sandbox::Asker::Root,
        Asker::User { uid, gid, groups } => {
            sandbox::Asker::User { uid: *uid, gid: *gid, groups: groups.iter().copied().collect() }
        }
    }
}

fn answer(index: u8, what: What, path: &UserPath, asker: &Asker) -> (ToParent, Vec<OwnedFd>) {
    match open(what, path) {
        Ok(Opened { fd, file }) => (ToParent::Opened { index, file }, vec![fd]),
        Err(refusal) => {
            let user = match asker {
                Asker::Root => None,
                Asker::User { uid, .. } => name_of(*uid),
            };
            let failure = judge::failure(refusal, what, path, asker, user.as_deref());
            if let Refusal::Locked(id, _) = refusal {
                return (ToParent::Locked { index, id, failure }, vec![]);
            }
            (ToParent::Failed { index, failure }, vec![])
        }
    }
}

/// Opens, then looks, then locks.
pub fn open(what: What, path: &str) -> Result<Opened, Refusal> {
    if !path.starts_with('/') {
        return Err(Refusal::Relative);
    }
    let flags = judge::flags(what);
    let file = rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()));
    let file = file.map_err(|errno| refused(errno, path))?;
    let status = rustix::fs::fstat(&file).map_err(Refusal::Examine)?;
    look(what, &status)?; // before its size, which the end of a fifo does not tell
    let size = size(&file).map_err(Refusal::Examine)?;
    judge::check_size(what, size)?;
    let found = OpenFile { id: id(&status), size, block: is_block(&status) };
    take_lock(&file, what, found.id)?;
    // It was for opening only; a read of a disk is to wait, also through io_uring.
    let kept = rustix::fs::fcntl_getfl(&file).map_err(Refusal::Examine)?.difference(OFlags::NONBLOCK);
    rustix::fs::fcntl_setfl(&file, kept).map_err(Refusal::Examine)?;
    Ok(Opened { fd: file, file: found })
}

fn is_block(status: &Stat) -> bool {
    FileType::from_raw_mode(status.st_mode) == FileType::BlockDevice
}

/// Which file a status is of.
pub fn id(status: &Stat) -> FileId {
    match is_block(status) {
        true => FileId { device: u64::MAX, inode: status.st_rdev },
        false => FileId { device: status.st_dev, inode: status.st_ino },
    }
}

/// What a file's status says against it. Its size is not looked at: a block device's status has none.
pub fn look(what: What, status: &Stat) -> Result<(), Refusal> {
    let found = FileType::from_raw_mode(status.st_mode);
    judge::check_type(what, found)?;
    if is_block(status) && what == (What::Disk { write: true }) && read_only(Path::new(DEVICES), status.st_rdev) {
        return Err(Refusal::ReadOnly);
    }
    Ok(())
}

/// Our own Landlock rules forbid to read directories, so one that the user may reach is told from what is forbidden to him.
pub fn refused(errno: Errno, path: &str) -> Refusal {
    let found = || rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).and_then(rustix::fs::fstat);
    match errno {
        Errno::ACCESS if found().is_ok_and(|it| FileType::from_raw_mode(it.st_mode) == FileType::Directory) => {
            Refusal::Type(FileType::Directory)
        }
        Errno::ACCESS => match sys::reach::barrier(Path::new(path)) {
            Some(barrier) => Refusal::Denied(barrier),
            None => Refusal::Open(errno),
        },
        other => Refusal::Open(other),
    }
}

/// Where the kernel tells of each block device, by its number (Linux, ABI/stable/sysfs-block).
const DEVICES: &str = "/sys/dev/block";

/// Whether a block device takes no writes. One of which nothing is told is taken for an ordinary one.
pub fn read_only(devices: &Path, number: u64) -> bool {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let told = std::fs::read_to_string(devices.join(format!("{major}:{minor}")).join("ro"));
    told.is_ok_and(|told| told.trim() == "1")
}

/// The end of a file or of a block device, which alone knows it so.
fn size(file: &OwnedFd) -> Result<u64, Errno> {
    let end = rustix::fs::seek(file, SeekFrom::End(0))?;
    rustix::fs::seek(file, SeekFrom::Start(0))?;
    Ok(end)
}

/// How long the lock of an open file is waited for. What a vioblk had in its ring the kernel lets go in the background after
/// its end, so the disk of a VM that was just said to have stopped may be locked for a moment. All disks of a start together
/// stay within the time that it has.
const LINGERS: Duration = Duration::from_millis(1500);
/// Between two looks at it.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

fn take_lock(file: &OwnedFd, what: What, id: FileId) -> Result<(), Refusal> {
    let Some(kind) = judge::lock(what) else { return Ok(()) };
    let end = Instant::now() + LINGERS;
    loop {
        match sys::lock::try_lock(file, kind) {
            Ok(true) => return Ok(()),
            Ok(false) => match sys::lock::holder(file).unwrap_or_default() {
                None if Instant::now() < end => std::thread::sleep(LOOK_AGAIN),
                holder => return Err(Refusal::Locked(id, holder)),
            },
            Err(error) => return Err(Refusal::Examine(Errno::from_io_error(&error).unwrap_or(Errno::IO))),
        }
    }
}

/// The asker's name for the sentence; the number serves where /etc/passwd has none.
fn name_of(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(uid.to_string().as_str()))?;
    line.split(':').next().map(str::to_owned)
}
