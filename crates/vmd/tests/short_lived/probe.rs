//! The probe as a process: what it is, what it holds, and that a file can't make it do more than answer.

use std::fs::File;
use std::io::Write as _;

use proto::Code;
use proto::probe::{Found, ToParent, ToProbe};
use sys::child::Exit;

use crate::support::Role;

type Probe = Role<ToProbe, ToParent>;

fn ask(question: ToProbe, bytes: &[u8]) -> ToParent {
    let mut file = tempfile::tempfile().expect("file");
    file.write_all(bytes).expect("write");
    let mut probe = Probe::start("probe");
    probe.channel.send(&question, vec![file.into()]).expect("sent");
    let (answer, _) = probe.answer();
    assert_eq!(probe.end(), Exit::Code(0));
    answer
}

fn code(answer: ToParent) -> Code {
    match answer {
        ToParent::Failed(failure) => failure.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_holds_nothing_but_its_channel_and_is_nobody() {
    let probe = Probe::start("probe");
    assert_eq!(probe.descriptors(), [0, 1, 2, 3]);
    assert_ne!(probe.status("Uid"), "0 0 0 0");
    for set in ["CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb"] {
        assert_eq!(probe.status(set).trim_start_matches('0'), "", "{set}");
    }
    let root = std::fs::read_dir(format!("/proc/{}/root/", probe.child.pid())).expect("its root");
    assert_eq!(root.count(), 0);
}

#[test]
fn it_tells_a_raw_disk_from_one_that_begins_like_qcow2() {
    assert_eq!(ask(ToProbe::RawDisk, &[0; 4096]), ToParent::Found(Found::Raw));
    assert_eq!(code(ask(ToProbe::RawDisk, b"QFI\xfb\0\0\0\x03")), Code::Invalid);
}

#[test]
fn a_program_is_no_kernel() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_vmd")).expect("vmd");
    assert_eq!(code(ask(ToProbe::Kernel { memory: model::MemorySize::DEFAULT }, &program)), Code::NotExecutable);
    assert_eq!(code(ask(ToProbe::Kernel { memory: model::MemorySize::DEFAULT }, b"")), Code::NotExecutable);
}

/// The parent hands it a descriptor that it may have opened for writing (a disk): the probe has no call to use it.
#[test]
fn the_disk_is_as_it_was() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("disk.img");
    std::fs::write(&path, [7; 2048]).expect("write");
    let before = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("time");
    let mut probe = Probe::start("probe");
    let file = File::options().read(true).write(true).open(&path).expect("open");
    probe.channel.send(&ToProbe::RawDisk, vec![file.into()]).expect("sent");
    assert_eq!(probe.answer().0, ToParent::Found(Found::Raw));
    assert_eq!(std::fs::read(&path).expect("read"), [7; 2048]);
    assert_eq!(std::fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("time"), before);
}

#[test]
fn it_ends_with_its_parent() {
    let Role { mut child, channel } = Probe::start("probe");
    drop(channel);
    assert_eq!(child.wait().expect("waited"), Exit::Code(0));
}
