//! The probe's rules: what it says about a file, and that it leaves the file as it was.

use std::fs::File;
use std::io::{Cursor, Read as _, Seek as _, SeekFrom, Write as _};

use proto::probe::{Base, Found, KernelKind, ToParent, ToProbe};
use proto::{Code, Failure, Received};

use super::answer::answer;
use super::edge;
use super::positioned::Positioned;

/// Of a guest with room for any.
const KERNEL: ToProbe = ToProbe::Kernel { memory: model::MemorySize::DEFAULT };

fn about(question: ToProbe, bytes: &[u8]) -> ToParent {
    answer(question, &mut Cursor::new(bytes))
}

fn refused(answer: ToParent) -> Failure {
    match answer {
        ToParent::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// The least that is a bzImage: setup header 2.15 with the 64-bit entry, relocatable, then a payload.
fn bzimage() -> Vec<u8> {
    let mut file = vec![0; 512 * 8];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1F1, &[1]); // one setup sector
    put(0x1F4, &((512 * 6 / 16) as u32).to_le_bytes()); // syssize in paragraphs
    put(0x1FE, &[0x55, 0xAA]);
    put(0x200, &[0xEB, 0x66]); // a jump over the header: its end is 0x202 + 0x66
    put(0x202, b"HdrS");
    put(0x206, &0x020F_u16.to_le_bytes());
    put(0x211, &[1]); // LOADED_HIGH
    put(0x22C, &0x7FFF_FFFF_u32.to_le_bytes()); // initrd_addr_max
    put(0x230, &0x20_0000_u32.to_le_bytes()); // kernel_alignment
    put(0x234, &[1]); // relocatable
    put(0x236, &1_u16.to_le_bytes()); // XLF_KERNEL_64
    put(0x238, &2047_u32.to_le_bytes()); // cmdline_size
    put(0x258, &0x100_0000_u64.to_le_bytes()); // pref_address
    put(0x260, &0x10_0000_u32.to_le_bytes()); // init_size
    file
}

#[test]
fn a_bzimage_is_told() {
    assert_eq!(about(KERNEL, &bzimage()), ToParent::Found(Found::Kernel { kind: KernelKind::BzImage }));
}

#[test]
fn a_kernel_that_a_guest_has_no_room_for_is_refused() {
    let mut large = bzimage();
    large[0x260..0x264].copy_from_slice(&(60_u32 << 20).to_le_bytes()); // init_size
    let failure = refused(about(ToProbe::Kernel { memory: model::MemorySize::LEAST_BOOTABLE }, &large));
    assert!(failure.text.contains("the guest has 64 MiB"), "{failure}");
    assert_eq!(about(KERNEL, &large), ToParent::Found(Found::Kernel { kind: KernelKind::BzImage }));
}

#[test]
fn what_is_no_kernel_is_refused() {
    for bytes in [&b""[..], b"x", b"#!/bin/sh\n", &[0; 4096]] {
        assert_eq!(refused(about(KERNEL, bytes)).code, Code::NotExecutable);
    }
}

#[test]
fn a_kernel_cut_anywhere_is_refused_or_the_same_kernel() {
    let whole = bzimage();
    for len in 0..whole.len() {
        let answer = about(KERNEL, &whole[..len]);
        if len < 0x400 {
            assert_eq!(refused(answer).code, Code::NotExecutable, "{len} bytes");
        }
    }
}

#[test]
fn an_elf_file_without_an_entry_says_what_to_use() {
    let mut elf = b"\x7FELF\x02\x01\x01".to_vec();
    elf.resize(64, 0);
    elf[18..20].copy_from_slice(&62_u16.to_le_bytes());
    let failure = refused(about(KERNEL, &elf));
    assert_eq!(failure.code, Code::NotExecutable);
}

#[test]
fn a_raw_disk_is_anything_that_does_not_begin_like_qcow2() {
    for bytes in [&b""[..], b"QFI", b"QFIx", &[0; 4096]] {
        assert_eq!(about(ToProbe::RawDisk, bytes), ToParent::Found(Found::Raw));
    }
    let failure = refused(about(ToProbe::RawDisk, b"QFI\xfb\x00\x00\x00\x03"));
    assert_eq!(failure.code, Code::Invalid);
    assert!(failure.text.contains("format raw"), "{failure}");
}

/// A version 2 image of 1 MiB with clusters of 64 KiB: its header, its L1 table, its refcount table and block.
fn qcow2(base: Option<(&[u8], Option<&str>)>) -> Vec<u8> {
    let mut file = vec![0; 4 << 16];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb\0\0\0\x02");
    put(20, &16_u32.to_be_bytes());
    put(24, &(1_u64 << 20).to_be_bytes());
    put(36, &1_u32.to_be_bytes());
    put(40, &(1_u64 << 16).to_be_bytes());
    put(48, &(2_u64 << 16).to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    if let Some((name, format)) = base {
        let format = format.unwrap_or_default();
        if !format.is_empty() {
            put(72, &[0xE2, 0x79, 0x2A, 0xCA, 0, 0, 0, format.len() as u8]);
            put(80, format.as_bytes());
        }
        put(8, &512_u64.to_be_bytes());
        put(16, &(name.len() as u32).to_be_bytes());
        put(512, name);
    }
    file
}

fn about_image(bytes: &[u8]) -> ToParent {
    about(ToProbe::Qcow2 { len: bytes.len() as u64, write: true }, bytes)
}

#[test]
fn an_image_says_its_size_and_what_it_is_based_on() {
    let found = |base| ToParent::Found(Found::Qcow2 { size: 1 << 20, base });
    let base = |format| Some(Base { name: model::UserPath::new("b.img").expect("short"), format });
    assert_eq!(about_image(&qcow2(None)), found(None));
    assert_eq!(about_image(&qcow2(Some((b"b.img", None)))), found(base(None)));
    for format in [model::DiskFormat::Raw, model::DiskFormat::Qcow2] {
        assert_eq!(about_image(&qcow2(Some((b"b.img", Some(format.word()))))), found(base(Some(format))));
    }
}

#[test]
fn an_image_that_can_not_be_used_is_refused_with_why() {
    let mut encrypted = qcow2(None);
    encrypted[35] = 2;
    let mut corrupt = qcow2(None);
    corrupt[7] = 3;
    corrupt[79] = 2;
    corrupt[99] = 4;
    corrupt[103] = 104;
    for (bytes, why) in [
        (encrypted, "is encrypted"),
        (corrupt.clone(), "marked as corrupt"),
        (qcow2(Some((b"b\xff", None))), "no UTF-8"),
        (qcow2(Some((b"b", Some("vmdk")))), "vmdk"),
        (vec![0; 512], "no qcow2 image"),
        (vec![], "ends within the qcow2 header"),
    ] {
        let failure = refused(about_image(&bytes));
        assert!(failure.code == Code::Invalid && failure.text.contains(why), "{why}: {failure}");
    }
    let read = about(ToProbe::Qcow2 { len: corrupt.len() as u64, write: false }, &corrupt);
    assert_eq!(read, ToParent::Found(Found::Qcow2 { size: 1 << 20, base: None }), "as a base it can be read");
}

#[test]
fn an_image_cut_anywhere_and_any_byte_of_its_header_changed_is_refused_or_an_image() {
    let whole = qcow2(Some((b"b.img", Some("raw"))));
    for at in 0..700 {
        let _ = about_image(&whole[..at]);
        for value in [0, 1, 0x7F, 0x80, 0xFF] {
            let mut changed = whole.clone();
            changed[at] = value;
            let (ToParent::Found(Found::Qcow2 { .. }) | ToParent::Failed(_)) = about_image(&changed) else {
                panic!("byte {at} is {value}");
            };
        }
    }
}

#[test]
fn a_base_that_begins_like_qcow2_is_told_by_what_to_record() {
    assert_eq!(about(ToProbe::RawBase, &[0; 4]), ToParent::Found(Found::Raw));
    let failure = refused(about(ToProbe::RawBase, b"QFI\xfb"));
    assert!(failure.text.contains("-F qcow2"), "{failure}");
}

#[test]
fn only_the_first_bytes_of_a_disk_are_read() {
    let mut disk = Cursor::new(vec![0; 1 << 20]);
    answer(ToProbe::RawDisk, &mut disk);
    assert_eq!(disk.position(), 4);
    let mut image = Cursor::new(qcow2(None));
    answer(ToProbe::Qcow2 { len: 4 << 16, write: true }, &mut image);
    assert_eq!(image.position(), 1 << 16, "its first cluster");
}

#[test]
fn the_files_own_position_stays() {
    let mut file = tempfile::tempfile().expect("file");
    file.write_all(&bzimage()).expect("write");
    file.seek(SeekFrom::Start(77)).expect("seek");
    let mut positioned = Positioned::new(file.try_clone().expect("duplicate")).expect("examined");
    assert_eq!(answer(KERNEL, &mut positioned), ToParent::Found(Found::Kernel { kind: KernelKind::BzImage }));
    assert_eq!(file.stream_position().expect("position"), 77);
}

#[test]
fn a_position_is_never_outside_what_a_file_can_have() {
    let file = tempfile::tempfile().expect("file");
    let mut positioned = Positioned::new(file).expect("examined");
    assert!(positioned.seek(SeekFrom::End(-1)).is_err());
    assert!(positioned.seek(SeekFrom::Current(-1)).is_err());
    assert_eq!(positioned.seek(SeekFrom::Start(1 << 40)).expect("behind the end"), 1 << 40);
    assert_eq!(positioned.read(&mut [0; 8]).expect("nothing there"), 0);
}

type Parent = proto::Channel<ToProbe, ToParent>;

#[test]
fn one_question_one_answer() {
    let (mut parent, probe): (Parent, _) = proto::channel::pair().expect("pair");
    let file = tempfile::tempfile().expect("file");
    parent.send(&ToProbe::RawDisk, vec![file.into()]).expect("sent");
    edge::serve(probe).expect("served");
    assert!(matches!(parent.recv(), Ok(Received::Message(ToParent::Found(Found::Raw), fds)) if fds.is_empty()));
    assert!(matches!(parent.recv(), Ok(Received::Closed)));
}

#[test]
fn a_file_that_can_not_be_read_is_a_refusal() {
    let (mut parent, probe): (Parent, _) = proto::channel::pair().expect("pair");
    let for_writing = File::options().write(true).open("/dev/null").expect("open");
    parent.send(&KERNEL, vec![for_writing.into()]).expect("sent");
    edge::serve(probe).expect("served");
    assert!(matches!(parent.recv(), Ok(Received::Message(ToParent::Failed(_), _))));
}

#[test]
fn a_parent_that_is_gone_ends_the_probe() {
    let (parent, probe): (Parent, _) = proto::channel::pair().expect("pair");
    drop(parent);
    assert!(edge::serve(probe).is_ok());
}
