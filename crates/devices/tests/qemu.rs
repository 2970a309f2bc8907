//! A foreign VMM in front of our disk: QEMU, whose firmware boots from it and writes to it by its own virtio driver.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use devices::blk::{Blk, Blocks, Disk, Engine, MAX_IN_FLIGHT};
use devices::serve_vhost::{Ended, serve};

/// Where the guest writes what it was booted from, in sectors.
const COPY: u64 = 8;

const PATIENCE: Duration = Duration::from_secs(120);

/// Writes itself to sector 8 by the BIOS, then 0 to QEMU's debug exit; 1 where the BIOS failed.
fn boot_sector() -> [u8; 512] {
    let code = [
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0xbe, 0x40, 0x7c, // mov si, packet
        0xb8, 0x00, 0x43, // mov ax, 4300h: extended write, to the drive in dl that was booted
        0xcd, 0x13, // int 13h
        0x72, 0x07, // jc failed
        0x31, 0xc0, // xor ax, ax
        0xba, 0xf4, 0x00, // mov dx, 0f4h
        0xee, // out dx, al
        0xf4, // hlt
        0xb0, 0x01, // failed: mov al, 1
        0xba, 0xf4, 0x00, // mov dx, 0f4h
        0xee, // out dx, al
        0xf4, // hlt
    ];
    let packet = [0x10, 0, 1, 0, 0x00, 0x7c, 0, 0, COPY as u8, 0, 0, 0, 0, 0, 0, 0];
    let mut sector = [0; 512];
    sector[..code.len()].copy_from_slice(&code);
    sector[0x40..0x50].copy_from_slice(&packet);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

#[test]
fn qemu_boots_from_our_disk_and_writes_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let file: File = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    file.write_all_at(&boot_sector(), 0).unwrap();

    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-machine", "q35,accel=tcg,memory-backend=ram", "-m", "64", "-no-reboot", "-nodefaults"])
        .args(["-object", "memory-backend-memfd,id=ram,size=64M,share=on", "-display", "none"])
        .args(["-chardev", &format!("socket,id=disk,path={}", path.display())])
        .args(["-device", "vhost-user-blk-pci,chardev=disk,num-queues=1,bootindex=1"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"])
        .stdin(Stdio::null())
        .spawn()
        .expect("qemu-system-x86_64 (Debian: qemu-system-x86)");
    listener.set_nonblocking(true).unwrap();
    let end = Instant::now() + PATIENCE;
    let stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(_) => assert!(Instant::now() < end && qemu.try_wait().unwrap().is_none(), "QEMU did not connect"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let engine = Engine::new(file.try_clone().unwrap().into(), MAX_IN_FLIGHT, None);
    let disk = Disk { sectors: 2048, read_only: false };
    let blk = Blk::new(file.try_clone().unwrap().into(), engine, disk, Blocks::of(512), b"vmd");
    let device = std::thread::spawn(move || serve(stream, blk, None));

    let status = loop {
        if let Some(status) = qemu.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            qemu.kill().unwrap();
            qemu.wait().unwrap();
            panic!("the guest did not come to its end within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.code(), Some(1), "QEMU's debug exit gives 2 * 0 + 1 for success");
    assert_eq!(device.join().unwrap().unwrap(), Ended::FrontEnd);
    let mut copy = [0; 512];
    file.read_exact_at(&mut copy, COPY * 512).unwrap();
    assert_eq!(copy, boot_sector());
}
