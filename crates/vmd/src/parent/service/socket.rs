//! The control socket, as long as the daemon runs. Its holder is the parent, so that it outlives a control that dies.
//!
//! When its file is removed, or renamed, or another takes its name, a new one is made. What is not ours keeps the name:
//! that is told once, and when it goes the name is ours again. The name goes at the end, if it is ours then.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use model::Owner;
use proto::client::SOCKET_PATH;
use proto::failure::plain;
use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sys::event::{Interest, Loop};
use sys::names::Names;

use crate::parent::Fatal;

/// Clients that wait to be accepted, first come, first served; one beyond waits for a place that another may take first. Not
/// more, since who comes last waits for all of them to be turned away.
const BACKLOG: i32 = 1024;

/// How long after a failure it is tried again, unless the directory tells of a change before.
const PAUSE: Duration = Duration::from_secs(6);

/// The socket, its name, and who may reach it.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    owner: Owner,
    listener: OwnedFd,
    /// Its file: device and inode, which no other has as long as we listen.
    file: (u64, u64),
    /// Of its directory; none where that can't be watched, or is not there.
    names: Option<Names>,
    trouble: Option<Trouble>,
}

/// Why it has no name, or can't be watched.
#[derive(Debug)]
struct Trouble {
    told: String,
    again: Instant,
}

/// What [`Socket::keep`] did.
#[derive(Debug, Default)]
pub struct Kept {
    /// The socket that was made anew, for control.
    pub anew: Option<OwnedFd>,
    /// What went wrong, if that was not told before.
    pub trouble: Option<String>,
}

impl Socket {
    /// Listens at the daemon's place. What an earlier daemon left is removed.
    pub fn listen(owner: Owner) -> Result<Self, Fatal> {
        Self::at(SOCKET_PATH.into(), owner).map_err(|error| Fatal::Place("control socket", SOCKET_PATH, error))
    }

    fn at(path: PathBuf, owner: Owner) -> io::Result<Self> {
        if let Err(error) = std::fs::remove_file(&path) {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
        }
        let listener = socket()?;
        let file = name(&listener, &path, owner)?;
        Ok(Self { path, owner, listener, file, names: None, trouble: None })
    }

    /// When `keep` is to be called, if no event comes before.
    pub fn deadline(&self) -> Option<Instant> {
        self.trouble.as_ref().map(|trouble| trouble.again)
    }

    /// Sees to it that it has its name, and that `events` tells by `token` when that may have changed.
    pub fn keep<T: Copy>(&mut self, events: &mut Loop<T>, token: T, now: Instant) -> Kept {
        // First, so that what happens meanwhile is told.
        let watched = self.watch(events, token);
        let (anew, failed) = match self.name_again() {
            Ok(anew) => (anew, watched.err().map(|error| format!("its directory can't be watched: {}", plain(&error)))),
            Err(Errno::ADDRINUSE) => {
                (None, Some("another file has its name; remove it, and vmd listens there again".to_owned()))
            }
            Err(error) => (None, Some(format!("it can't be made anew: {}", plain(&error.into())))),
        };
        let new = failed.as_ref().filter(|text| self.trouble.as_ref().is_none_or(|trouble| trouble.told != **text));
        let trouble = new.map(|text| format!("control socket {}: {text}", self.path.display()));
        self.trouble = failed.map(|told| Trouble { told, again: now + PAUSE });
        Kept { anew, trouble }
    }

    /// Gives it to those who may reach it from now on (`socket owner`).
    pub fn give(&mut self, owner: Owner) -> io::Result<()> {
        self.owner = owner;
        if self.is_named() { Ok(give(&self.path, owner)?) } else { Ok(()) }
    }

    fn is_named(&self) -> bool {
        file(&self.path).is_ok_and(|file| file == self.file)
    }

    fn watch<T: Copy>(&mut self, events: &mut Loop<T>, token: T) -> io::Result<()> {
        if let Some(names) = &self.names {
            if names.changed()? {
                return Ok(());
            }
            events.remove(names);
            self.names = None;
        }
        let names = Names::of(self.path.parent().unwrap_or(Path::new("/")))?;
        events.add(&names, token, Interest::Read)?;
        self.names = Some(names);
        Ok(())
    }

    fn name_again(&mut self) -> rustix::io::Result<Option<OwnedFd>> {
        if self.is_named() {
            return Ok(None);
        }
        let listener = socket()?;
        let shown = rustix::io::fcntl_dupfd_cloexec(&listener, 0)?;
        self.file = name(&listener, &self.path, self.owner)?;
        self.listener = listener;
        Ok(Some(shown))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.is_named() {
            if let Err(error) = std::fs::remove_file(&self.path) {
                log::warn!("{}: {}", self.path.display(), plain(&error));
            }
        }
    }
}

fn socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// Gives the socket its name, which nothing else has, and its owner, and listens: its file, or nothing is left of it.
fn name(socket: &OwnedFd, path: &Path, owner: Owner) -> rustix::io::Result<(u64, u64)> {
    let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = SocketAddrUnix::new(path).and_then(|address| rustix::net::bind(socket, &address));
    rustix::process::umask(mask);
    bound?;
    let named = file(path);
    let given = give(path, owner).and_then(|()| rustix::net::listen(socket, BACKLOG));
    if given.is_err() {
        let _ = std::fs::remove_file(path); // what failed is told
    }
    given.and(named)
}

/// What has this name: its device and inode.
fn file(path: &Path) -> rustix::io::Result<(u64, u64)> {
    let found = std::fs::symlink_metadata(path);
    found.map(|found| (found.dev(), found.ino())).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Gives the file to those who may reach it. Without a group, no group may.
fn give(path: &Path, owner: Owner) -> rustix::io::Result<()> {
    let gid = Gid::from_raw(owner.gid.unwrap_or(0));
    rustix::fs::chown(path, Some(Uid::from_raw(owner.uid)), Some(gid))?;
    rustix::fs::chmod(path, Mode::from_raw_mode(0o660))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const TOKEN: u8 = 7;

    /// A socket in a directory that the test may remove.
    struct World {
        dir: tempfile::TempDir,
        events: Loop<u8>,
        socket: Socket,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            fs::create_dir(dir.path().join("run")).expect("made");
            let path = dir.path().join("run/vmd.sock");
            let socket = Socket::at(path, own()).expect("named");
            let mut world = Self { dir, events: Loop::new().expect("a loop"), socket };
            let kept = world.keep();
            assert!(kept.anew.is_none() && kept.trouble.is_none() && world.socket.deadline().is_none(), "{kept:?}");
            world
        }

        fn run(&self) -> PathBuf {
            self.dir.path().join("run")
        }

        fn path(&self) -> PathBuf {
            self.run().join("vmd.sock")
        }

        fn keep(&mut self) -> Kept {
            self.socket.keep(&mut self.events, TOKEN, Instant::now())
        }

        /// Whether the loop tells of something.
        fn is_told(&mut self) -> bool {
            self.events.wait(Some(Instant::now())).expect("waited").iter().any(|ready| ready.token == TOKEN)
        }

        fn is_made_anew(&mut self) {
            let kept = self.keep();
            assert!(kept.anew.is_some() && kept.trouble.is_none() && self.socket.deadline().is_none(), "{kept:?}");
            self.is_reached();
        }

        fn is_reached(&self) {
            let client = socket().expect("a socket");
            let address = SocketAddrUnix::new(self.path()).expect("an address");
            rustix::net::connect(&client, &address).expect("connected");
            assert_eq!(fs::symlink_metadata(self.path()).expect("its file").mode() & 0o7777, 0o660);
        }
    }

    /// The test's own user, who may give it to no other.
    fn own() -> Owner {
        Owner { uid: rustix::process::geteuid().as_raw(), gid: Some(rustix::process::getegid().as_raw()) }
    }

    #[test]
    fn a_name_that_goes_is_taken_again() {
        let mut world = World::new();
        assert!(!world.is_told());
        for _ in 0..3 {
            fs::remove_file(world.path()).expect("removed");
            assert!(world.is_told());
            world.is_made_anew();
            fs::rename(world.path(), world.run().join("other")).expect("renamed");
            assert!(world.is_told());
            world.is_made_anew();
        }
        assert!(!world.is_told(), "what was told is not told again");
        let kept = world.keep();
        assert!(kept.anew.is_none() && kept.trouble.is_none(), "{kept:?}");
    }

    #[test]
    fn what_takes_the_name_is_left_alone_and_told_once() {
        let mut world = World::new();
        let other = world.run().join("other");
        fs::write(&other, "mine").expect("written");
        fs::rename(&other, world.path()).expect("renamed");
        assert!(world.is_told());
        let kept = world.keep();
        let text = "another file has its name; remove it, and vmd listens there again";
        assert!(kept.anew.is_none() && kept.trouble.is_some_and(|told| told.ends_with(text)));
        assert!(world.socket.deadline().is_some());
        assert!(world.keep().trouble.is_none(), "it was told");
        let mode = fs::metadata(world.path()).expect("a file").mode();
        world.socket.give(own()).expect("nothing to give");
        assert_eq!(fs::metadata(world.path()).expect("a file").mode(), mode);
        fs::remove_file(world.path()).expect("removed");
        assert!(world.is_told());
        world.is_made_anew();
        fs::write(&other, "mine").expect("written");
        fs::rename(&other, world.path()).expect("renamed");
        let path = world.path();
        let World { dir, socket, .. } = world;
        drop(socket);
        assert_eq!(fs::read(path).expect("it is still there"), b"mine");
        drop(dir);
    }

    #[test]
    fn a_directory_that_goes_is_waited_for() {
        let mut world = World::new();
        fs::remove_file(world.path()).expect("removed");
        fs::remove_dir(world.run()).expect("removed");
        assert!(world.is_told());
        let kept = world.keep();
        let text = "it can't be made anew: No such file or directory";
        assert!(kept.anew.is_none() && kept.trouble.is_some_and(|told| told.ends_with(text)));
        assert!(world.socket.deadline().is_some() && !world.is_told(), "there is nothing to be told by");
        assert!(world.keep().trouble.is_none(), "it was told");
        fs::create_dir(world.run()).expect("made");
        world.is_made_anew();
        fs::rename(world.run(), world.dir.path().join("old")).expect("renamed");
        fs::create_dir(world.run()).expect("made");
        assert!(world.is_told());
        world.is_made_anew();
        fs::remove_file(world.path()).expect("removed");
        assert!(world.is_told(), "of the new directory");
        world.is_made_anew();
    }

    #[test]
    fn the_name_goes_with_it() {
        let World { dir, socket, .. } = World::new();
        let path = dir.path().join("run/vmd.sock");
        assert!(path.exists());
        drop(socket);
        assert!(!path.exists());
    }
}
