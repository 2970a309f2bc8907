//! The opener as a process: whose rights it has, what it holds, how it ends.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use model::UserPath;
use proto::Code;
use proto::opener::{Asker, ToOpener, ToParent, What};
use sys::child::Exit;

use crate::support::Role;

type Opener = Role<ToOpener, ToParent>;

const DISK: What = What::Disk { write: true };

/// A user of no account, in one group more.
fn user() -> Asker {
    Asker::User { uid: 4711, gid: 4711, groups: vec![4712].try_into().expect("few") }
}

fn opener_for(asker: Asker) -> Opener {
    let mut opener = Opener::start("opener");
    opener.channel.send(&ToOpener::Become(asker), vec![]).expect("sent");
    opener
}

/// The sentence of a refusal.
fn told(opener: &mut Opener, what: What, path: &Path) -> String {
    let path = UserPath::new(path.to_str().expect("UTF-8")).expect("short");
    opener.channel.send(&ToOpener::Open { index: 3, what, path }, vec![]).expect("sent");
    match opener.answer() {
        (ToParent::Failed { failure, .. }, _) => failure.text.to_string(),
        (other, _) => panic!("{other:?}"),
    }
}

fn ask(opener: &mut Opener, what: What, path: &Path) -> Result<u64, Code> {
    let path = UserPath::new(path.to_str().expect("UTF-8")).expect("short");
    opener.channel.send(&ToOpener::Open { index: 3, what, path }, vec![]).expect("sent");
    match opener.answer() {
        (ToParent::Opened { index: 3, file }, fds) if fds.len() == 1 => Ok(file.size),
        (ToParent::Failed { index: 3, failure }, _) => Err(failure.code),
        (other, fds) => panic!("{other:?} with {} descriptors", fds.len()),
    }
}

/// A directory that all may enter, with a file of `owner` with `mode`.
fn file(owner: u32, mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let path = dir.path().join("disk.img");
    std::fs::write(&path, [0; 1024]).expect("write");
    std::os::unix::fs::chown(&path, Some(owner), Some(owner)).expect("chown");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    (dir, path)
}

#[test]
fn it_opens_what_the_user_may_open() {
    let mut opener = opener_for(user());
    let (_a, own) = file(4711, 0o600);
    let (_b, readable) = file(4712, 0o640);
    let (_c, roots) = file(0, 0o600);
    assert_eq!(ask(&mut opener, DISK, &own), Ok(1024));
    assert_eq!(ask(&mut opener, What::Disk { write: false }, &readable), Ok(1024));
    assert_eq!(ask(&mut opener, DISK, &readable), Err(Code::NotPermitted));
    assert_eq!(ask(&mut opener, What::Kernel, &roots), Err(Code::NotPermitted));
}

#[test]
fn a_directory_that_the_user_may_not_enter_hides_what_is_in_it() {
    let (dir, own) = file(4711, 0o666);
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).expect("chmod");
    assert_eq!(ask(&mut opener_for(user()), DISK, &own), Err(Code::NotPermitted));
    let said = told(&mut opener_for(user()), DISK, &own);
    let where_to = format!("directory \"{}\" gives that user no search permission (x)", dir.path().display());
    assert!(said.contains(&where_to), "{said}");
    assert_eq!(ask(&mut opener_for(Asker::Root), DISK, &own), Ok(1024));
}

#[test]
fn what_keeps_a_user_from_a_file_is_told() {
    let (dir, roots) = file(0, 0o600);
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let said = told(&mut opener_for(user()), DISK, &roots);
    assert!(said.contains("the file's own mode does not give that user that right"), "{said}");
    let (hidden, behind) = file(4711, 0o666);
    std::fs::set_permissions(hidden.path(), std::fs::Permissions::from_mode(0o700)).expect("chmod");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&behind, &link).expect("a link");
    let said = told(&mut opener_for(user()), What::Kernel, &link);
    assert!(said.contains(&format!("\"{}\" is a link to where that user may not go", link.display())), "{said}");
}

#[test]
fn a_directory_is_told_as_one_also_where_only_reading_was_asked_for() {
    let (dir, _) = file(4711, 0o600);
    for asker in [Asker::Root, user()] {
        let mut opener = opener_for(asker);
        for what in [What::Kernel, What::Initrd, DISK] {
            let said = told(&mut opener, what, dir.path());
            assert!(said.contains("is a directory") && said.contains("must be a regular file"), "{said}");
        }
    }
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).expect("chmod");
    std::fs::create_dir(dir.path().join("inside")).expect("directory");
    let said = told(&mut opener_for(user()), What::Kernel, &dir.path().join("inside"));
    assert!(said.contains("permission denied to user"), "what he may not reach is not told: {said}");
}

#[test]
fn it_is_the_asker_and_holds_nothing_but_its_channel() {
    let mut opener = opener_for(user());
    let (_dir, own) = file(4711, 0o600);
    assert_eq!(ask(&mut opener, DISK, &own), Ok(1024));
    assert_eq!(opener.status("Uid"), "4711 4711 4711 4711");
    assert_eq!(opener.status("Gid"), "4711 4711 4711 4711");
    assert_eq!(opener.status("Groups"), "4712");
    for set in ["CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb"] {
        assert_eq!(opener.status(set).trim_start_matches('0'), "", "{set}");
    }
    // The answer may be here before the opener has closed what it sent with it.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while opener.descriptors() != [0, 1, 2, 3] {
        assert!(std::time::Instant::now() < end, "it holds {:?}", opener.descriptors());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn for_root_it_keeps_one_capability() {
    let mut opener = opener_for(Asker::Root);
    let (_dir, theirs) = file(4711, 0o600);
    assert_eq!(ask(&mut opener, DISK, &theirs), Ok(1024));
    assert_eq!(opener.status("CapPrm").trim_start_matches('0'), "2", "CAP_DAC_OVERRIDE");
    assert_eq!(opener.status("Groups"), "");
}

#[test]
fn before_it_is_told_who_asks_it_opens_nothing() {
    let mut opener = Opener::start("opener");
    let path = UserPath::new("/etc/passwd").expect("short");
    opener.channel.send(&ToOpener::Open { index: 0, what: What::Kernel, path }, vec![]).expect("sent");
    assert_eq!(opener.end(), Exit::Code(1));
}

#[test]
fn it_ends_with_its_request_and_with_its_parent() {
    let mut told = opener_for(user());
    told.channel.send(&ToOpener::End, vec![]).expect("sent");
    assert_eq!(told.end(), Exit::Code(0));
    let Role { mut child, channel } = opener_for(user());
    drop(channel);
    assert_eq!(child.wait().expect("waited"), Exit::Code(0));
}

#[test]
fn a_user_with_no_id_does_not_become_root() {
    let mut opener = opener_for(Asker::User { uid: u32::MAX, gid: 1, groups: Default::default() });
    let path = UserPath::new("/etc/shadow").expect("short");
    let _ = opener.channel.send(&ToOpener::Open { index: 0, what: What::Kernel, path }, vec![]);
    assert_eq!(opener.end(), Exit::Code(1));
}

#[test]
fn its_own_descriptors_are_no_way_in() {
    let mut opener = opener_for(user());
    // Its channel, the log, and vmd itself, by the names that /proc has for them.
    assert!(ask(&mut opener, What::Kernel, Path::new("/proc/self/fd/3")).is_err());
    assert!(ask(&mut opener, DISK, Path::new("/proc/self/mem")).is_err());
    assert!(ask(&mut opener, DISK, Path::new("/proc/1/mem")).is_err());
}
