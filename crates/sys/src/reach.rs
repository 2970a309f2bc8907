//! Which part of a path keeps a user from a file. The kernel says EACCES alone; an `O_PATH` open of each beginning of the path
//! needs no right to the thing itself, but to search every directory before it (path_resolution(7)).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// What stands in the way; lengths are of the path's first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// A directory that this process may not search; of length 0 the one it works in.
    Directory(usize),
    /// A symbolic link that leads through such a directory, or to a place behind one.
    Link(usize),
    /// Nothing on the way: the mode of the file itself.
    Itself,
}

/// What keeps this process from `path`, after an attempt to open it was refused; nothing if it can't be told.
pub fn barrier(path: &Path) -> Option<Barrier> {
    let bytes = path.as_os_str().as_bytes();
    let ends = bytes.iter().enumerate().filter(|(at, byte)| **byte == b'/' && *at > 0).map(|(at, _)| at);
    let mut before = usize::from(bytes.starts_with(b"/"));
    for end in ends.chain([bytes.len()]) {
        let beginning = bytes.get(..end)?;
        match found(beginning, OFlags::empty()) {
            Ok(()) => before = end,
            Err(Errno::ACCESS) => {
                return match found(beginning, OFlags::NOFOLLOW) {
                    Ok(()) => Some(Barrier::Link(end)),
                    Err(_) => Some(Barrier::Directory(before)),
                };
            }
            Err(_) => return None,
        }
    }
    Some(Barrier::Itself)
}

fn found(path: &[u8], how: OFlags) -> Result<(), Errno> {
    rustix::fs::open(OsStr::from_bytes(path), OFlags::PATH | OFlags::CLOEXEC | how, Mode::empty()).map(drop)
}

impl Barrier {
    /// A sentence's end, about `path` and who was refused: `you`, `user "ann"`.
    pub fn told(self, path: &str, who: &str) -> String {
        let part = |end: usize| path.get(..end).filter(|part| !part.is_empty()).unwrap_or(".");
        match self {
            Self::Directory(end) => {
                format!("directory \"{}\" gives {who} no search permission (x)", part(end))
            }
            Self::Link(end) => format!("\"{}\" is a link to where {who} may not go", part(end)),
            Self::Itself => format!("the file's own mode does not give {who} that right"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_refused_or_not_there_is_no_barrier_of_a_directory() {
        assert_eq!(barrier(Path::new("/etc/passwd")), Some(Barrier::Itself));
        assert_eq!(barrier(Path::new("/no/such/file")), None);
        assert_eq!(barrier(Path::new("")), None);
    }

    #[test]
    fn the_directory_the_link_and_the_file_are_named() {
        let told = |barrier: Barrier, path| barrier.told(path, "user \"ann\"");
        assert_eq!(
            told(Barrier::Directory(4), "/srv/x.img"),
            "directory \"/srv\" gives user \"ann\" no search permission (x)"
        );
        assert_eq!(told(Barrier::Directory(1), "/x"), "directory \"/\" gives user \"ann\" no search permission (x)");
        assert_eq!(told(Barrier::Directory(0), "x/y"), "directory \".\" gives user \"ann\" no search permission (x)");
        assert_eq!(told(Barrier::Link(6), "/srv/l/x"), "\"/srv/l\" is a link to where user \"ann\" may not go");
        assert_eq!(told(Barrier::Itself, "/x"), "the file's own mode does not give user \"ann\" that right");
    }
}
