//! The names in a directory: that one left it, or that a file came to one from elsewhere, as an event (inotify(7)).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

/// Bytes of events that are read at once; the loop is told again of what is left.
const EVENTS: usize = 4096;

/// A directory whose names are watched. New files are not told: they take nobody's name.
#[derive(Debug)]
pub struct Names(OwnedFd);

impl Names {
    /// Watches from now on.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let what = WatchFlags::DELETE | WatchFlags::MOVE | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        inotify::add_watch(&watch, directory, what | WatchFlags::ONLYDIR)?;
        Ok(Self(watch))
    }

    /// Takes what there is to tell. False when the directory itself was removed, renamed or unmounted: what has its name
    /// now is another.
    pub fn changed(&self) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); EVENTS];
        let mut events = inotify::Reader::new(&self.0, &mut buffer);
        let gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT | ReadFlags::IGNORED;
        let mut stays = true;
        loop {
            match events.next() {
                Ok(event) => stays &= !event.events().intersects(gone),
                Err(Errno::AGAIN | Errno::INTR) => return Ok(stays),
                Err(error) => return Err(error.into()),
            }
            if events.is_buffer_empty() {
                return Ok(stays);
            }
        }
    }
}

impl AsFd for Names {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    /// Whether there is something to tell.
    fn tells(names: &Names) -> bool {
        let mut fds = [PollFd::new(names, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("polled") == 1
    }

    #[test]
    fn names_that_go_and_files_that_come_to_one_are_told_and_new_ones_are_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let names = Names::of(dir.path()).expect("watched");
        assert!(names.changed().expect("nothing to read"), "it does not wait");
        let change = |what: &dyn Fn() -> io::Result<()>| {
            what().expect("changed");
            let told = tells(&names);
            assert!(names.changed().expect("read") && !tells(&names), "it is told once");
            told
        };
        assert!(!change(&|| fs::write(&one, "")));
        assert!(!change(&|| fs::write(&one, "more")));
        assert!(change(&|| fs::rename(&one, &two)));
        assert!(change(&|| fs::remove_file(&two)));
        let elsewhere = tempfile::NamedTempFile::new_in(dir.path().parent().expect("a parent")).expect("a file");
        assert!(change(&|| fs::rename(elsewhere.path(), &one)));
    }

    #[test]
    fn a_directory_that_goes_is_told_and_one_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let run = dir.path().join("run");
        assert!(Names::of(&run).is_err_and(|error| error.kind() == io::ErrorKind::NotFound));
        fs::create_dir(&run).expect("made");
        let names = [Names::of(&run), Names::of(&run)].map(|names| names.expect("watched"));
        fs::rename(&run, dir.path().join("old")).expect("renamed");
        assert!(!names[0].changed().expect("read"));
        fs::remove_dir(dir.path().join("old")).expect("removed");
        assert!(!names[1].changed().expect("read"));
    }
}
