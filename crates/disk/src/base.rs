//! Which file the name of a base means. Pure; used by the daemon's parent and vmctl, so that both find the same files.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// The name does not name a file: QEMU takes what stands before a colon for a protocol, unless a slash comes first
/// (QEMU, block.c, `path_has_protocol`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no plain file name; name a file with \"qemu-img rebase -u\" (\"./\" before it, if its name has a colon), \
     or make the image independent with qemu-img convert"
)]
pub struct NoFileName(pub String);

/// The path of the base that the image at `image` names: an absolute name as it is, another from the image's directory
/// (openbsd/devices.md, 3.5). Symbolic links of that directory are left to the kernel, which follows them as realpath would.
pub fn path_of_base(image: &Path, name: &[u8]) -> Result<PathBuf, NoFileName> {
    let protocol = name.iter().position(|byte| matches!(byte, b':' | b'/'));
    if name.is_empty() || protocol.is_some_and(|at| name.get(at) == Some(&b':')) {
        return Err(NoFileName(String::from_utf8_lossy(name).chars().take(100).collect()));
    }
    let directory = image.parent().unwrap_or(Path::new(""));
    let whole = directory.join(OsStr::from_bytes(name));
    Ok(whole.components().filter(|part| *part != Component::CurDir).collect())
}

/// Whether a base lies in the directory of the image that names it, or below: as far as the names go.
pub fn is_beside(image: &Path, base: &Path) -> bool {
    let Some(rest) = image.parent().and_then(|directory| base.strip_prefix(directory).ok()) else { return false };
    let mut parts = rest.components();
    // All files are below the root, so there only its own count.
    let deep = image.parent().and_then(Path::parent).is_some() || parts.clone().count() == 1;
    deep && parts.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_from_the_images_directory_unless_it_is_absolute() {
        for (image, name, path) in [
            ("/srv/a.qcow2", "b.qcow2", "/srv/b.qcow2"),
            ("/srv/a.qcow2", "./b:c", "/srv/b:c"),
            ("/srv/a.qcow2", "../x/b", "/srv/../x/b"),
            ("/srv/x/../a.qcow2", "b", "/srv/x/../b"),
            ("/srv/a.qcow2", "/b/./c//d", "/b/c/d"),
            ("/a", "b", "/b"),
            ("a", "b", "b"),
            ("x/a", "b", "x/b"),
        ] {
            assert_eq!(path_of_base(Path::new(image), name.as_bytes()), Ok(PathBuf::from(path)), "{image} {name}");
        }
    }

    #[test]
    fn what_qemu_takes_for_a_protocol_is_no_file_name() {
        for name in ["json:{\"driver\":\"qcow2\"}", "nbd://host/x", "file:b", "fd:3", ":", ""] {
            assert_eq!(path_of_base(Path::new("/a"), name.as_bytes()), Err(NoFileName(name.to_owned())), "{name}");
        }
        let long = [b"nbd:".as_slice(), &[b'x'; 1000]].concat();
        assert_eq!(path_of_base(Path::new("/a"), &long).unwrap_err().0.len(), 100);
    }

    #[test]
    fn beside_an_image_is_its_directory_and_what_is_below() {
        let beside = |image, base| is_beside(Path::new(image), Path::new(base));
        assert!(beside("/srv/a", "/srv/b") && beside("/srv/a", "/srv/bases/b") && beside("/a", "/b"));
        for (image, base) in [
            ("/srv/a", "/etc/shadow"),
            ("/srv/a", "/srv/../etc/shadow"),
            ("/srv/a", "/srv/x/../../etc/shadow"),
            ("/srv/a", "/srv2/b"),
            ("/srv/x/a", "/srv/b"),
            ("/a", "/etc/shadow"),
        ] {
            assert!(!beside(image, base), "{image} {base}");
        }
    }
}
