//! The devices as processes in their sandboxes: described by vmm, serving a VM, ending when either is gone. An io_uring, a
//! mapping, a log line or an ioctl that the promise does not allow kills them here.

mod support;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use model::{DiskFormat, DiskLimits, List, MacAddr, MemorySize, Text};
use proto::channel::Channel;
use proto::device::{self, Ask, Blk, MemoryReport, Net, Report, ToDevice, ToVmm, Told};
use support::process::{Process, kept, lives, start};
use support::{BUFFERS, Driver, Part, VERSION_1, Vmm};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;

fn blk_description(format: DiskFormat, read_only: bool) -> ToDevice {
    start(
        0,
        Told::Blk(Blk {
            format,
            bases: List::default(),
            read_only,
            limits: DiskLimits::default(),
            serial: Text::new("web-0").unwrap(),
            called: Text::new("/srv/a.img").unwrap(),
        }),
    )
}

fn net_description() -> ToDevice {
    start(1, Told::Net(Net { mac: MacAddr([0xfe, 0xe1, 0xbb, 0xd1, 2, 3]), locked: true, guarded: false, local: None }))
}

/// A vioblk on a file of so many bytes.
fn vioblk(file: &File, description: ToDevice) -> (Process, UnixStream) {
    let mut process = Process::start("vioblk");
    let (socket, theirs) = UnixStream::pair().unwrap();
    process.channel.send(&description, vec![theirs.into(), lives(), kept(), file.try_clone().unwrap().into()]).unwrap();
    (process, socket)
}

fn request(vmm: &Vmm, driver: &mut Driver, kind: u8, data: &[Part]) -> u8 {
    vmm.guest.write(BUFFERS, &[kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut parts = vec![Part::Out(BUFFERS, 16)];
    parts.extend(data);
    parts.push(Part::In(BUFFERS + 16, 1));
    driver.add(&parts);
    driver.kick();
    driver.used();
    vmm.guest.read(BUFFERS + 16, 1)[0]
}

#[test]
fn vioblk_serves_in_its_sandbox_and_ends_with_the_vm() {
    let mut file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let (mut process, socket) = vioblk(&file, blk_description(DiskFormat::Raw, false));
    assert_eq!(process.told(), ToVmm::Ready, "{}", process.child.id());
    let mut vmm = Vmm::over(socket, VERSION_1 | 1 << 9);
    let mut driver = Driver::new(&vmm.guest, 0, 128);
    vmm.start(0, &driver, 0);
    vmm.guest.write(BUFFERS + 0x1000, &[0x5a; 4096]);
    assert_eq!(request(&vmm, &mut driver, 1, &[Part::Out(BUFFERS + 0x1000, 4096)]), 0);
    assert_eq!(request(&vmm, &mut driver, 4, &[]), 0);
    assert_eq!(request(&vmm, &mut driver, 0, &[Part::In(BUFFERS + 0x2000, 4096)]), 0);
    assert_eq!(vmm.guest.read(BUFFERS + 0x2000, 4096), [0x5a; 4096]);
    println!("vioblk: KiB private, clean and dirty: {:?}", process.private_kib());
    // a broken ring is logged, and stopped
    driver.offer(999);
    driver.kick();
    driver.wait_error();
    vmm.stop(0);
    driver.reset();
    vmm.start(0, &driver, 0);
    assert_eq!(request(&vmm, &mut driver, 8, &[Part::In(BUFFERS + 0x3000, 20)]), 0);
    assert_eq!(vmm.guest.read(BUFFERS + 0x3000, 6), *b"web-0\0");
    drop(vmm);
    assert_eq!(process.told(), ToVmm::Ended);
    assert!(process.ended().success(), "{}", process.said());
    let mut bytes = vec![0; 4096];
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, [0x5a; 4096]);
}

#[test]
fn vioblk_ends_when_vmm_is_gone() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let (mut process, _socket) = vioblk(&file, blk_description(DiskFormat::Raw, false));
    assert_eq!(process.told(), ToVmm::Ready);
    let (gone, _) = sys::seqpacket::pair().unwrap();
    drop(std::mem::replace(&mut process.channel, Channel::new(gone)));
    assert!(process.ended().success(), "{}", process.said());
}

#[test]
fn vioblk_ends_when_vmm_says_no_more_and_its_last_word_is_heard() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let (mut process, _socket) = vioblk(&file, blk_description(DiskFormat::Raw, false));
    assert_eq!(process.told(), ToVmm::Ready);
    rustix::net::shutdown(&process.channel, rustix::net::Shutdown::Write).unwrap();
    assert_eq!(process.told(), ToVmm::Ended);
    assert!(process.ended().success(), "{}", process.said());
}

#[test]
fn vioblk_follows_what_is_to_be_logged() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let (mut process, socket) = vioblk(&file, blk_description(DiskFormat::Raw, false));
    assert_eq!(process.told(), ToVmm::Ready);
    process.channel.send(&ToDevice::Verbose { debug: false }, Vec::new()).unwrap();
    let vmm = Vmm::over(socket, VERSION_1);
    assert!(vmm.front_end.get_features().is_ok());
    drop(vmm);
    let ended = process.ended();
    let said = process.said();
    assert!(ended.success(), "{said}");
    assert!(said.contains("vm/web/vioblk0: the log level is now INFO"), "{said}");
}

#[test]
fn vioblk_says_why_an_image_is_no_disk() {
    let file = tempfile::tempfile().unwrap();
    for (len, format, why) in [(511, DiskFormat::Raw, "511 bytes"), (1 << 20, DiskFormat::Qcow2, "qcow2")] {
        file.set_len(len).unwrap();
        let (mut process, _socket) = vioblk(&file, blk_description(format, false));
        match process.told() {
            ToVmm::Failed(failure) => assert!(failure.to_string().contains(why), "{failure}"),
            other => panic!("{other:?}"),
        }
        assert!(!process.ended().success());
    }
}

#[test]
fn a_device_of_another_kind_is_refused() {
    let mut process = Process::start("vioblk");
    let (_socket, theirs) = UnixStream::pair().unwrap();
    let other: OwnedFd = tempfile::tempfile().unwrap().into();
    process.channel.send(&net_description(), vec![theirs.into(), lives(), other]).unwrap();
    assert!(!process.ended().success());
    assert!(process.said().contains("another device"));
}

#[test]
fn a_device_that_vmm_leaves_before_it_is_described_ends() {
    for role in ["vioblk", "vionet", "vioballoon", "vioscsi"] {
        let mut process = Process::start(role);
        let (gone, _) = sys::seqpacket::pair().unwrap();
        drop(std::mem::replace(&mut process.channel, Channel::new(gone)));
        assert!(!process.ended().success());
        assert!(process.said().contains("vmm ended"));
    }
}

#[test]
fn vionet_serves_in_its_sandbox_and_ends_with_the_vm() {
    let mut process = Process::start("vionet");
    let (socket, theirs) = UnixStream::pair().unwrap();
    let (tap, wire) = sys::seqpacket::pair().unwrap();
    process.channel.send(&net_description(), vec![theirs.into(), lives(), tap]).unwrap();
    assert_eq!(process.told(), ToVmm::Ready);
    let mut vmm = Vmm::over(socket, VERSION_1 | 1 << 5);
    let (mut rx, mut tx) = (Driver::new(&vmm.guest, 0, 64), Driver::new(&vmm.guest, 1, 64));
    vmm.start(0, &rx, 0);
    vmm.start(1, &tx, 0);
    let mine = [&[0; 12][..], &[2, 0, 0, 0, 0, 9], &[0xfe, 0xe1, 0xbb, 0xd1, 2, 3], &[8, 0], &[7; 46]].concat();
    vmm.guest.write(BUFFERS, &mine);
    tx.add(&[Part::Out(BUFFERS, 72)]);
    tx.kick();
    tx.used();
    let mut heard = [0; 100];
    let (len, _) = rustix::net::recv(&wire, &mut heard, rustix::net::RecvFlags::empty()).unwrap();
    assert_eq!(heard[..len], mine);
    rx.add(&[Part::In(BUFFERS + 0x1000, 2000)]);
    rx.kick();
    let his = [&[0; 12][..], &[0xff; 6], &[2, 0, 0, 0, 0, 9], &[8, 0], &[8; 46]].concat();
    rustix::net::send(&wire, &his, rustix::net::SendFlags::empty()).unwrap();
    assert_eq!(rx.used(), (0, 72));
    assert_eq!(vmm.guest.read(BUFFERS + 0x100c, 60), his[12..]);
    println!("vionet: KiB private, clean and dirty: {:?}", process.private_kib());
    drop(vmm);
    assert!(process.ended().success(), "{}", process.said());
}

#[test]
fn vioballoon_makes_holes_in_its_sandbox_is_asked_and_reports() {
    let mut process = Process::start("vioballoon");
    let (socket, theirs) = UnixStream::pair().unwrap();
    let told = Told::Balloon(device::Balloon { memory: MemorySize::DEFAULT });
    process.channel.send(&start(0, told), vec![theirs.into(), lives(), kept()]).unwrap();
    assert_eq!(process.told(), ToVmm::Ready);
    process.channel.send(&ToDevice::Ask(Ask::Memory(MemorySize::LEAST_BOOTABLE)), Vec::new()).unwrap();
    assert_eq!(process.told(), ToVmm::Answered { changed: true, result: Ok(()) });
    let mut vmm = Vmm::over(socket, VERSION_1 | 1);
    let flags = vhost::vhost_user::message::VhostUserConfigFlags::empty();
    let (_, config) = vmm.front_end.get_config(0, 8, flags, &[0; 8]).unwrap();
    assert_eq!(config, [0, 0xc0, 1, 0, 0, 0, 0, 0], "448 MiB of 512");
    let mut inflate = Driver::new(&vmm.guest, 0, 64);
    vmm.start(0, &inflate, 0);
    vmm.guest.write(2 << 20, &[1; 4096]);
    let numbers: Vec<u8> = (512..1024u32).flat_map(u32::to_le_bytes).collect();
    vmm.guest.write(BUFFERS, &numbers);
    inflate.add(&[Part::Out(BUFFERS, numbers.len() as u32)]);
    inflate.kick();
    inflate.used();
    assert_eq!(vmm.guest.read(2 << 20, 1), [0], "the block is a hole");
    let report = Report::Memory(MemoryReport { taken: 2 << 20, ..MemoryReport::default() });
    assert_eq!(process.told(), ToVmm::Report(report));
    drop(vmm);
    assert!(process.ended().success(), "{}", process.said());
}

#[test]
fn the_next_vioballoon_knows_what_was_asked_and_given() {
    let kept = File::from(kept());
    let report = |taken| ToVmm::Report(Report::Memory(MemoryReport { taken, ..MemoryReport::default() }));
    // A block is given; then a page of it is taken back.
    for (queue, numbers, before, after) in [(0, 512..1024u32, 0, 2 << 20), (1, 512..513, 2 << 20, (2 << 20) - 4096)] {
        let mut process = Process::start("vioballoon");
        let (socket, theirs) = UnixStream::pair().unwrap();
        let told = Told::Balloon(device::Balloon { memory: MemorySize::DEFAULT });
        let fds = vec![theirs.into(), lives(), kept.try_clone().unwrap().into()];
        process.channel.send(&start(0, told), fds).unwrap();
        assert_eq!(process.told(), ToVmm::Ready);
        process.channel.send(&ToDevice::Ask(Ask::Memory(MemorySize::LEAST_BOOTABLE)), Vec::new()).unwrap();
        assert_eq!(process.told(), ToVmm::Answered { changed: queue == 0, result: Ok(()) });
        let mut vmm = Vmm::over(socket, VERSION_1 | 1);
        let mut driver = Driver::new(&vmm.guest, queue as u64, 64);
        vmm.start(queue, &driver, 0);
        if before > 0 {
            assert_eq!(process.told(), report(before));
        }
        let numbers: Vec<u8> = numbers.flat_map(u32::to_le_bytes).collect();
        vmm.guest.write(BUFFERS, &numbers);
        driver.add(&[Part::Out(BUFFERS, numbers.len() as u32)]);
        driver.kick();
        driver.used();
        assert_eq!(process.told(), report(after));
        process.child.kill().unwrap();
        process.ended();
    }
}

#[test]
fn what_only_another_kind_of_device_can_do_ends_the_one_that_is_asked() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let (mut process, _socket) = vioblk(&file, blk_description(DiskFormat::Raw, false));
    assert_eq!(process.told(), ToVmm::Ready);
    process.channel.send(&ToDevice::Ask(Ask::Memory(MemorySize::DEFAULT)), Vec::new()).unwrap();
    process.ended();
    assert!(process.said().contains("another kind of device"), "{}", process.said());
}

fn cdrom_description(medium: bool) -> ToDevice {
    let (serial, called) = (Text::new("cdrom0-web").unwrap(), Text::new("/srv/a.iso").unwrap());
    start(0, Told::Cdrom(device::Cdrom { serial, medium, called, open: false }))
}

/// One command to the drive with a buffer of so many bytes: its status, and the buffer.
fn command(vmm: &Vmm, requests: &mut Driver, cdb: &[u8], room: u32) -> (u8, Vec<u8>) {
    let mut header = [0; 51];
    header[0] = 1;
    header[19..19 + cdb.len()].copy_from_slice(cdb);
    vmm.guest.write(BUFFERS, &header);
    requests.add(&[Part::Out(BUFFERS, 51), Part::In(BUFFERS + 0x100, 108), Part::In(BUFFERS + 0x1000, room)]);
    requests.kick();
    requests.used();
    (vmm.guest.read(BUFFERS + 0x10a, 1)[0], vmm.guest.read(BUFFERS + 0x1000, room as usize))
}

#[test]
fn vioscsi_serves_in_its_sandbox_and_ends_with_the_vm() {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[0x5a; 4096], 5 << 30).unwrap(); // beyond 4 GiB
    let mut process = Process::start("vioscsi");
    let (socket, theirs) = UnixStream::pair().unwrap();
    let image = file.try_clone().unwrap().into();
    process.channel.send(&cdrom_description(true), vec![theirs.into(), lives(), kept(), image]).unwrap();
    assert_eq!(process.told(), ToVmm::Ready);
    let mut vmm = Vmm::over(socket, VERSION_1);
    let mut requests = Driver::new(&vmm.guest, 2, 64);
    vmm.start(2, &requests, 0);
    let block: u32 = 5 << 19;
    let [a, b, c, d] = block.to_be_bytes();
    let read = command(&vmm, &mut requests, &[0x28, 0, a, b, c, d, 0, 0, 2], 4096);
    assert_eq!(read, (0, vec![0x5a; 4096]));
    let capacity = command(&vmm, &mut requests, &[0x25], 8);
    assert_eq!(capacity, (0, [&(block + 1).to_be_bytes()[..], &[0, 0, 8, 0]].concat()));
    let config = vmm.front_end.get_config(0, 36, vhost::vhost_user::message::VhostUserConfigFlags::empty(), &[0; 36]);
    assert_eq!(config.unwrap().1[..4], [1, 0, 0, 0]);
    println!("vioscsi: KiB private, clean and dirty: {:?}", process.private_kib());
    drop(vmm);
    assert_eq!(process.told(), ToVmm::Ended);
    assert!(process.ended().success(), "{}", process.said());
}

#[test]
fn the_next_vioscsi_knows_that_the_tray_is_locked_and_open() {
    const LOCK: [u8; 6] = [0x1e, 0, 0, 0, 1, 0];
    const UNLOCK: [u8; 6] = [0x1e, 0, 0, 0, 0, 0];
    const OPEN: [u8; 6] = [0x1b, 0, 0, 0, 2, 0];
    const IS_READY: [u8; 6] = [0; 6];
    let (kept, file) = (File::from(kept()), tempfile::tempfile().unwrap());
    file.set_len(4096).unwrap();
    let lives_of = |commands: &[(&[u8], u8)]| {
        let mut process = Process::start("vioscsi");
        let (socket, theirs) = UnixStream::pair().unwrap();
        let files = [&kept, &file].map(|file| OwnedFd::from(file.try_clone().unwrap()));
        let fds = [theirs.into(), lives()].into_iter().chain(files).collect();
        process.channel.send(&cdrom_description(true), fds).unwrap();
        assert_eq!(process.told(), ToVmm::Ready);
        let mut vmm = Vmm::over(socket, VERSION_1);
        let mut requests = Driver::new(&vmm.guest, 2, 64);
        vmm.start(2, &requests, 0);
        for (cdb, status) in commands {
            assert_eq!(command(&vmm, &mut requests, cdb, 0).0, *status, "{cdb:x?}");
        }
        process.child.kill().unwrap();
        process.ended();
    };
    lives_of(&[(&IS_READY, 0), (&LOCK, 0)]);
    lives_of(&[(&OPEN, 2), (&UNLOCK, 0), (&OPEN, 0)]);
    lives_of(&[(&IS_READY, 2)]);
}

#[test]
fn vioscsi_serves_an_empty_drive_and_refuses_an_image_of_no_block() {
    let mut process = Process::start("vioscsi");
    let (socket, theirs) = UnixStream::pair().unwrap();
    process.channel.send(&cdrom_description(false), vec![theirs.into(), lives(), kept()]).unwrap();
    assert_eq!(process.told(), ToVmm::Ready);
    let mut vmm = Vmm::over(socket, VERSION_1);
    let mut requests = Driver::new(&vmm.guest, 2, 64);
    vmm.start(2, &requests, 0);
    assert_eq!(command(&vmm, &mut requests, &[0], 0).0, 2, "CHECK CONDITION");
    drop(vmm);
    assert!(process.ended().success(), "{}", process.said());

    let file = tempfile::tempfile().unwrap();
    file.set_len(2047).unwrap();
    let mut process = Process::start("vioscsi");
    let (_socket, theirs) = UnixStream::pair().unwrap();
    process.channel.send(&cdrom_description(true), vec![theirs.into(), lives(), kept(), file.into()]).unwrap();
    match process.told() {
        ToVmm::Failed(failure) => assert!(failure.to_string().contains("2047 bytes"), "{failure}"),
        other => panic!("{other:?}"),
    }
}
