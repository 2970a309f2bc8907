//! The opener's rules: what it opens, how, and what it says when it does not.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::symlink;

use model::UserPath;
use proto::opener::{Asker, FileId, OpenFile, ToOpener, ToParent, What};
use proto::{Code, Failure, Received};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use sys::reach::Barrier;
use tempfile::TempDir;

use super::Fatal;
use super::conversation::{Conversation, OutOfTurn};
use super::edge::{self, open};
use super::judge::{self, Refusal};

const WRITE: What = What::Disk { write: true };
const READ: What = What::Disk { write: false };
const ALL: [What; 6] = [What::Kernel, What::Initrd, What::Cdrom, WRITE, READ, What::Base];

/// A directory with a file of `len` bytes.
fn file_of(len: usize) -> (TempDir, String) {
    let dir = TempDir::new().expect("directory");
    let path = dir.path().join("disk.img");
    std::fs::write(&path, vec![0x5A; len]).expect("write");
    let path = path.to_str().expect("UTF-8").to_owned();
    (dir, path)
}

fn id_of(path: &str) -> FileId {
    edge::id(&rustix::fs::stat(path).expect("it is there"))
}

fn path(text: &str) -> UserPath {
    UserPath::new(text).expect("short")
}

fn user() -> Asker {
    Asker::User { uid: 1000, gid: 1000, groups: Default::default() }
}

fn text(refusal: Refusal, what: What) -> String {
    judge::failure(refusal, what, "/srv/web.img", &user(), Some("ann")).text.to_string()
}

// --- the conversation

#[test]
fn nothing_is_opened_before_it_is_said_for_whom() {
    let message = ToOpener::Open { index: 0, what: WRITE, path: path("/x") };
    assert_eq!(Conversation::default().handle(message), Err(OutOfTurn::Unnamed));
}

#[test]
fn an_opener_is_for_one_user() {
    let mut conversation = Conversation::default();
    assert_eq!(conversation.handle(ToOpener::Become(user())), Ok(ToOpener::Become(user())));
    assert_eq!(conversation.handle(ToOpener::Become(Asker::Root)), Err(OutOfTurn::SecondAsker));
}

#[test]
fn an_opener_may_be_ended_at_any_time() {
    let mut conversation = Conversation::default();
    assert_eq!(conversation.handle(ToOpener::End), Ok(ToOpener::End));
    conversation.handle(ToOpener::Become(Asker::Root)).expect("in turn");
    assert_eq!(conversation.handle(ToOpener::End), Ok(ToOpener::End));
}

// --- what is opened, and how

#[test]
fn no_file_is_created_and_no_open_waits() {
    for what in ALL {
        let flags = judge::flags(what);
        assert!(!flags.intersects(OFlags::CREATE | OFlags::TRUNC | OFlags::APPEND), "{what:?}");
        assert!(flags.contains(OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC), "{what:?}");
    }
}

#[test]
fn only_a_disk_to_write_is_opened_for_writing() {
    for what in ALL {
        assert_eq!(judge::flags(what).contains(OFlags::RDWR), what == WRITE, "{what:?}");
    }
}

#[test]
fn a_file_comes_with_its_size_and_at_its_start() {
    let (_dir, path) = file_of(5000);
    for what in ALL {
        let opened = open(what, &path).expect("opens");
        assert_eq!((opened.file.size, opened.file.block), (5000, false), "{what:?}");
        assert_eq!(rustix::fs::seek(&opened.fd, rustix::fs::SeekFrom::Current(0)), Ok(0));
        let flags = rustix::fs::fcntl_getfl(&opened.fd).expect("flags");
        assert!(!flags.contains(OFlags::NONBLOCK), "{what:?}");
    }
}

#[test]
fn a_symbolic_link_is_followed() {
    let (dir, path) = file_of(512);
    let link = dir.path().join("link");
    symlink(&path, &link).expect("link");
    assert_eq!(open(WRITE, link.to_str().expect("UTF-8")).expect("opens").file.size, 512);
}

#[test]
fn a_missing_file_is_not_made() {
    let dir = TempDir::new().expect("directory");
    let missing = dir.path().join("none");
    for what in ALL {
        assert_eq!(open(what, missing.to_str().expect("UTF-8")).expect_err("missing"), Refusal::Open(Errno::NOENT));
    }
    assert!(!missing.exists());
}

#[test]
fn what_is_no_file_is_refused_without_waiting() {
    let dir = TempDir::new().expect("directory");
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, 0o600.into(), 0).expect("fifo");
    let socket = dir.path().join("socket");
    let _listening = std::os::unix::net::UnixListener::bind(&socket).expect("socket");
    let text = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    for what in ALL {
        assert_eq!(open(what, &text(&fifo)).expect_err("fifo"), Refusal::Type(FileType::Fifo), "{what:?}");
        assert_eq!(open(what, &text(&socket)).expect_err("socket"), Refusal::Open(Errno::NXIO), "{what:?}");
        let null = open(what, "/dev/null").expect_err("device");
        assert_eq!(null, Refusal::Type(FileType::CharacterDevice), "{what:?}");
        let directory = if what == WRITE { Refusal::Open(Errno::ISDIR) } else { Refusal::Type(FileType::Directory) };
        assert_eq!(open(what, &text(dir.path())).expect_err("directory"), directory, "{what:?}");
    }
}

#[test]
fn a_block_device_may_be_a_disk_and_no_kernel() {
    for what in ALL {
        let expected = match what {
            What::Kernel | What::Initrd => Err(Refusal::Type(FileType::BlockDevice)),
            What::Cdrom | What::Disk { .. } | What::Base => Ok(()),
        };
        assert_eq!(judge::check_type(what, FileType::BlockDevice), expected, "{what:?}");
    }
}

#[test]
fn a_block_device_that_takes_no_writes_is_told_by_sysfs() {
    let devices = TempDir::new().expect("directory");
    for (number, told) in [("7:3", "1\n"), ("7:4", "0\n")] {
        let folder = devices.path().join(number);
        std::fs::create_dir(&folder).expect("it is ours");
        std::fs::write(folder.join("ro"), told).expect("it is ours");
    }
    let read_only = |minor| edge::read_only(devices.path(), rustix::fs::makedev(7, minor));
    assert_eq!([3, 4, 5].map(read_only), [true, false, false], "of the last nothing is told");
}

#[test]
fn a_disk_has_at_least_a_sector() {
    let (_dir, short) = file_of(511);
    assert_eq!(open(WRITE, &short).expect_err("short"), Refusal::Short(511));
    assert_eq!(open(READ, &short).expect_err("short"), Refusal::Short(511));
    assert_eq!(open(What::Kernel, &short).expect("the probe judges kernels").file.size, 511);
    let (_dir, just) = file_of(512);
    assert_eq!(open(WRITE, &just).expect("a sector").file.size, 512);
}

#[test]
fn a_cdrom_has_at_least_a_block_and_is_shared() {
    let (_dir, short) = file_of(2047);
    assert_eq!(open(What::Cdrom, &short).expect_err("short"), Refusal::Short(2047));
    let (_dir, just) = file_of(2048);
    let (_one, _two) = (open(What::Cdrom, &just).expect("a block"), open(What::Cdrom, &just).expect("shared"));
    assert_eq!(open(WRITE, &just).expect_err("it is read"), Refusal::Locked(id_of(&just), None));
}

#[test]
fn an_initrd_has_at_least_a_byte() {
    let (_dir, empty) = file_of(0);
    assert_eq!(open(What::Initrd, &empty).expect_err("empty"), Refusal::Empty);
    assert_eq!(open(What::Kernel, &empty).expect("the probe judges kernels").file.size, 0);
    let (_dir, one) = file_of(1);
    assert_eq!(open(What::Initrd, &one).expect("a byte").file.size, 1);
}

#[test]
fn a_path_from_nowhere_is_refused() {
    for relative in ["", "disk.img", "./disk.img", "../etc/passwd"] {
        assert_eq!(open(WRITE, relative).expect_err("relative"), Refusal::Relative, "{relative:?}");
    }
    assert_eq!(open(WRITE, "/nul\0/x").expect_err("no such name"), Refusal::Open(Errno::INVAL));
}

// --- locks

#[test]
fn a_disk_is_written_by_one() {
    let (_dir, path) = file_of(512);
    let first = open(WRITE, &path).expect("free");
    assert_eq!(open(WRITE, &path).expect_err("taken"), Refusal::Locked(id_of(&path), None));
    assert_eq!(open(READ, &path).expect_err("taken"), Refusal::Locked(id_of(&path), None));
    drop(first);
    assert!(open(WRITE, &path).is_ok());
}

#[test]
fn a_lock_that_ends_a_moment_later_is_waited_for() {
    let (_dir, path) = file_of(512);
    let first = open(WRITE, &path).expect("free");
    let (begun, begins) = std::sync::mpsc::channel();
    let holder = std::thread::spawn(move || {
        begins.recv().expect("it begins");
        std::thread::sleep(std::time::Duration::from_millis(50)); // as what the kernel does in the background
        drop(first);
    });
    begun.send(()).expect("it waits");
    assert!(open(WRITE, &path).is_ok());
    holder.join().expect("no panic");
}

#[test]
fn a_disk_is_read_by_many_and_then_written_by_none() {
    let (_dir, path) = file_of(512);
    let (_one, _two) = (open(READ, &path).expect("free"), open(READ, &path).expect("shared"));
    assert_eq!(open(WRITE, &path).expect_err("taken"), Refusal::Locked(id_of(&path), None));
}

#[test]
fn a_base_is_read_beside_others_and_written_by_none() {
    let (_dir, path) = file_of(1);
    let (_one, _two) = (open(What::Base, &path).expect("free"), open(What::Base, &path).expect("shared"));
    assert_eq!(rustix::fs::fcntl_getfl(&_one.fd).expect("flags") & OFlags::RWMODE, OFlags::RDONLY);
    let (_dir, disk) = file_of(512);
    let _disk = open(WRITE, &disk).expect("free");
    assert_eq!(open(What::Base, &disk).expect_err("written"), Refusal::Locked(id_of(&disk), None));
}

#[test]
fn a_locked_file_is_told_by_which_it_is() {
    let (_dir, there) = file_of(512);
    let _writer = open(WRITE, &there).expect("free");
    let open_it = ToOpener::Open { index: 4, what: What::Base, path: path(&there) };
    let (answers, _) = serve(&[ToOpener::Become(Asker::Root), open_it, ToOpener::End]);
    assert!(
        matches!(&answers[..], [(ToParent::Locked { index: 4, id, .. }, fds)] if *id == id_of(&there) && fds.is_empty()),
        "{answers:?}"
    );
}

#[test]
fn a_kernel_takes_no_lock() {
    let (_dir, path) = file_of(512);
    let _disk = open(WRITE, &path).expect("free");
    assert!(open(What::Kernel, &path).is_ok());
}

#[test]
fn a_process_that_holds_the_lock_is_named() {
    let (_dir, path) = file_of(512);
    let file = File::options().write(true).open(&path).expect("open");
    rustix::fs::fcntl_lock(file.as_fd(), rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("lock");
    let refusal = open(WRITE, &path).expect_err("taken");
    assert_eq!(refusal, Refusal::Locked(id_of(&path), Some(std::process::id())));
    let said = judge::failure(refusal, WRITE, &path, &Asker::Root, None).text.to_string();
    assert!(said.contains(&format!("already in use by process {};", std::process::id())), "{said}");
}

// --- what is said

#[test]
fn refusals_say_what_failed_with_which_value_and_what_to_do() {
    let open = |errno| Refusal::Open(errno);
    for (refusal, what, expected) in [
        (
            open(Errno::ACCESS),
            WRITE,
            "disk \"/srv/web.img\": permission denied to user \"ann\"; a disk you name is opened with your own rights",
        ),
        (
            Refusal::Denied(Barrier::Directory(4)),
            WRITE,
            "disk \"/srv/web.img\": permission denied to user \"ann\": directory \"/srv\" gives that user no search permission (x); a disk you name is opened with your own rights",
        ),
        (
            Refusal::Denied(Barrier::Itself),
            READ,
            "disk \"/srv/web.img\": permission denied to user \"ann\": the file's own mode does not give that user that right; a disk you name is opened with your own rights",
        ),
        (
            open(Errno::NAMETOOLONG),
            WRITE,
            "disk \"/srv/web.img\": a name in the path is longer than 255 bytes; correct the path",
        ),
        (
            open(Errno::NOENT),
            WRITE,
            "disk \"/srv/web.img\": no such file; make a disk with \"vmctl create -s SIZE /srv/web.img\", or correct the path",
        ),
        (open(Errno::NOENT), What::Initrd, "initrd \"/srv/web.img\": no such file; correct the path"),
        (
            open(Errno::BUSY),
            WRITE,
            "disk \"/srv/web.img\": already in use by the host, as a mounted file system perhaps",
        ),
        (open(Errno::LOOP), READ, "disk \"/srv/web.img\": too many levels of symbolic links"),
        (
            Refusal::Type(FileType::Fifo),
            What::Kernel,
            "kernel \"/srv/web.img\": is a fifo, kernel must be a regular file",
        ),
        (
            Refusal::Short(5),
            WRITE,
            "disk \"/srv/web.img\": has 5 bytes, but a disk has at least 512; create one with \"vmctl create -s SIZE /srv/web.img\"",
        ),
        (
            Refusal::ReadOnly,
            WRITE,
            "disk \"/srv/web.img\": is a read-only block device; make it writable (blockdev --setrw, losetup without -r), or copy it",
        ),
        (
            Refusal::Short(5),
            What::Cdrom,
            "cdrom \"/srv/web.img\": has 5 bytes, but a CD-ROM image has at least 2048; name another file",
        ),
        (
            open(Errno::NOENT),
            What::Base,
            "base \"/srv/web.img\": no such file; put it there, or tell the image where it is with \"qemu-img rebase -u\"",
        ),
        (
            open(Errno::ACCESS),
            What::Base,
            "base \"/srv/web.img\": permission denied to user \"ann\"; an image's base is opened with the rights of who names the image, and where it does not lie beside an image that root names, with those of \"nobody\"",
        ),
        (Refusal::Empty, What::Initrd, "initrd \"/srv/web.img\": is empty; name another file, or leave the option out"),
        (
            Refusal::Locked(FileId::default(), None),
            WRITE,
            "disk \"/srv/web.img\": already in use by another program or daemon; end it, or name another image",
        ),
        (Refusal::Relative, What::Cdrom, "cdrom \"/srv/web.img\": the path must begin with \"/\""),
    ] {
        assert_eq!(text(refusal, what), expected);
    }
}

#[test]
fn a_user_without_a_name_is_told_by_number() {
    let said = judge::failure(Refusal::Open(Errno::ACCESS), What::Kernel, "/k", &user(), None).text.to_string();
    assert!(said.contains("to user 1000;"), "{said}");
}

#[test]
fn codes_are_those_that_clients_know() {
    let code = |refusal, what| judge::failure(refusal, what, "/x", &Asker::Root, None).code;
    assert_eq!(code(Refusal::Open(Errno::NOENT), WRITE), Code::DiskMissing);
    assert_eq!(code(Refusal::Locked(FileId::default(), None), WRITE), Code::DiskMissing);
    assert_eq!(code(Refusal::Open(Errno::ACCESS), WRITE), Code::NotPermitted);
    assert_eq!(code(Refusal::Type(FileType::Fifo), WRITE), Code::NotPermitted);
    assert_eq!(code(Refusal::ReadOnly, WRITE), Code::NotPermitted);
    assert_eq!(code(Refusal::Short(1), WRITE), Code::Invalid);
    assert_eq!(code(Refusal::Empty, What::Initrd), Code::Invalid);
    assert_eq!(code(Refusal::Open(Errno::NOENT), What::Cdrom), Code::CdromMissing);
    assert_eq!(code(Refusal::Type(FileType::Directory), What::Cdrom), Code::CdromInvalid);
    assert_eq!(code(Refusal::Short(1), What::Cdrom), Code::CdromInvalid);
    assert_eq!(code(Refusal::Locked(FileId::default(), None), What::Cdrom), Code::Busy);
    assert_eq!(code(Refusal::Open(Errno::NOENT), What::Kernel), Code::NotFound);
    assert_eq!(code(Refusal::Open(Errno::MFILE), What::Kernel), Code::NoDescriptors);
}

// --- the loop

type Parent = proto::Channel<ToOpener, ToParent>;
type Answer = (ToParent, Vec<OwnedFd>);

/// What the opener answers to `messages`, and how it ended. It keeps this process's rights.
fn serve(messages: &[ToOpener]) -> (Vec<Answer>, Result<(), Fatal>) {
    let (mut parent, opener): (Parent, _) = proto::channel::pair().expect("pair");
    for message in messages {
        parent.send(message, vec![]).expect("sent");
    }
    let ended = edge::serve(opener, |_| Ok(()));
    let mut answers = Vec::new();
    while let Ok(Received::Message(message, fds)) = parent.recv() {
        answers.push((message, fds));
    }
    (answers, ended)
}

#[test]
fn every_request_is_answered_with_its_index() {
    let (_dir, there) = file_of(1024);
    let messages = [
        ToOpener::Become(Asker::Root),
        ToOpener::Open { index: 7, what: WRITE, path: path(&there) },
        ToOpener::Open { index: 9, what: What::Kernel, path: path("/nonexistent/kernel") },
        ToOpener::End,
    ];
    let (answers, ended) = serve(&messages);
    assert!(ended.is_ok(), "{ended:?}");
    let [(first, fds), (second, none)] = answers.as_slice() else { panic!("{answers:?}") };
    let file = OpenFile { id: id_of(&there), size: 1024, block: false };
    assert_eq!(*first, ToParent::Opened { index: 7, file });
    assert_eq!((fds.len(), none.len()), (1, 0));
    assert!(
        matches!(second, ToParent::Failed { index: 9, failure: Failure { code: Code::NotFound, .. } }),
        "{second:?}"
    );
}

#[test]
fn the_lock_goes_along_with_the_descriptor() {
    let (_dir, there) = file_of(1024);
    let open_it = ToOpener::Open { index: 0, what: WRITE, path: path(&there) };
    let (answers, _) = serve(&[ToOpener::Become(Asker::Root), open_it, ToOpener::End]);
    assert_eq!(open(WRITE, &there).expect_err("held by what was handed over"), Refusal::Locked(id_of(&there), None));
    let mut file = answers.into_iter().flat_map(|(_, fds)| fds).map(File::from).next().expect("a descriptor");
    file.write_all(b"written").expect("open for writing");
    drop(file);
    assert!(open(WRITE, &there).is_ok());
}

#[test]
fn rights_are_taken_before_the_first_file_and_as_they_were_said() {
    let (mut parent, opener): (Parent, _) = proto::channel::pair().expect("pair");
    let groups = vec![4, 5].try_into().expect("few");
    parent.send(&ToOpener::Become(Asker::User { uid: 1, gid: 2, groups }), vec![]).expect("sent");
    parent.send(&ToOpener::Open { index: 0, what: What::Kernel, path: path("/etc/passwd") }, vec![]).expect("sent");
    let refused = || sandbox::Error::NoSuchAsker { uid: 1, gid: 2 };
    let ended = edge::serve(opener, |asker| {
        assert_eq!(*asker, sandbox::Asker::User { uid: 1, gid: 2, groups: vec![4, 5] });
        Err(refused())
    });
    assert!(matches!(ended, Err(Fatal::Sandbox(_))), "{ended:?}");
    assert!(matches!(parent.recv(), Ok(Received::Closed)), "nothing was opened");
}

#[test]
fn a_message_out_of_turn_ends_the_opener() {
    let (answers, ended) = serve(&[ToOpener::Open { index: 0, what: What::Kernel, path: path("/etc/passwd") }]);
    assert!(matches!(ended, Err(Fatal::OutOfTurn(OutOfTurn::Unnamed))), "{ended:?}");
    assert!(answers.is_empty());
}

#[test]
fn a_parent_that_is_gone_ends_the_opener() {
    let (parent, opener): (Parent, _) = proto::channel::pair().expect("pair");
    drop(parent);
    assert!(edge::serve(opener, |_| Ok(())).is_ok());
}

#[test]
fn more_answers_than_the_socket_holds_all_arrive() {
    let (_dir, there) = file_of(1024);
    let (mut parent, opener): (Parent, _) = proto::channel::pair().expect("pair");
    parent.send(&ToOpener::Become(Asker::Root), vec![]).expect("sent");
    let asked: u8 = 120;
    let serving = std::thread::spawn(move || edge::serve(opener, |_| Ok(())));
    for index in 0..asked {
        parent.send(&ToOpener::Open { index, what: READ, path: path(&there) }, vec![]).expect("sent");
    }
    parent.send(&ToOpener::End, vec![]).expect("sent");
    for expected in 0..asked {
        let answer = parent.recv_within(std::time::Duration::from_secs(10)).expect("an answer");
        assert!(
            matches!(answer, Received::Message(ToParent::Opened { index, .. }, _) if index == expected),
            "{answer:?}"
        );
    }
    serving.join().expect("no panic").expect("in order");
}
