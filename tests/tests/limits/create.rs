//! `vmctl create`: what can't be made is told, and nothing of it is left.

use std::fs;
use std::path::Path;

use testkit::apart::{apart, mount};
use testkit::daemon::vmctl;

/// vmctl fails with exactly this, and there is no such file.
#[track_caller]
fn is_not_made(size: &str, path: &Path, said: &str) {
    let before = fs::symlink_metadata(path).ok().map(|it| (it.len(), it.modified().ok()));
    let reply = vmctl(&["create", "-s", size, path.to_str().expect("UTF-8")]);
    assert_eq!((reply.status, reply.stdout.as_str()), (Some(1), ""));
    assert_eq!(reply.stderr, format!("vmctl: {said}\n"));
    let after = fs::symlink_metadata(path).ok().map(|it| (it.len(), it.modified().ok()));
    assert_eq!(before, after, "{}", path.display());
}

#[test]
fn an_image_that_can_not_be_made_is_told_and_leaves_nothing() {
    apart("create::an_image_that_can_not_be_made_is_told_and_leaves_nothing", || {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let bytes = "a number alone is bytes, so write it with M or G";
        let number = "give a number with B, K, M, G or T";
        for (size, said) in [
            ("0", format!("disk size must be at least 1MB: 0; {bytes}")),
            ("512", format!("disk size must be at least 1MB: 512; {bytes}")),
            ("-5G", format!("disk size must be at least 1MB: -5G; {bytes}")),
            ("big", format!("invalid disk size: big: Invalid argument; {number}")),
            ("", format!("disk size must be at least 1MB: ; {bytes}")),
            ("99999999999T", format!("invalid disk size: 99999999999T: Result too large; {number}")),
        ] {
            is_not_made(size, &at("new"), &said);
        }
        let failed =
            |path: &Path, why: &str| format!("create imagefile operation failed: \"{}\": {why}", path.display());
        let blank = at("with blank.img");
        let made = vmctl(&["create", "-s", "1M", blank.to_str().expect("UTF-8")]).success();
        assert_eq!(
            (made.stderr.as_str(), fs::metadata(&blank).expect("made").len()),
            ("vmctl: raw imagefile created\n", 1 << 20)
        );
        std::os::unix::fs::symlink("nowhere", at("link")).expect("it is ours");
        for there in [blank, at("link"), dir.path().to_path_buf()] {
            is_not_made("2M", &there, &failed(&there, "the file exists; name another, or remove it first"));
        }
        let no_directory = "no such directory; create it first, or correct the path";
        is_not_made("1M", &at("no/new"), &failed(&at("no/new"), no_directory));
        is_not_made("8191P", &at("new"), &failed(&at("new"), "File too large"));
        mount("-t tmpfs -o nr_inodes=1 tmpfs /run");
        let full = Path::new("/run/new");
        is_not_made("1M", full, &failed(full, "No space left on device"));
        mount("-t tmpfs -o ro tmpfs /run");
        is_not_made("1M", full, &failed(full, "Read-only file system"));
        let missing = vmctl(&["create", "new"]);
        assert_eq!(missing.status, Some(1));
        assert!(
            missing.stderr.starts_with("could not create new: missing size argument\nusage:\tvmctl"),
            "{missing:?}"
        );
    });
}
