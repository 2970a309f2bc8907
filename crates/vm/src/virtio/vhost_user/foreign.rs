//! Another's back end behind our front end: qemu-storage-daemon's vhost-user-blk, as it comes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Instant;

use boot::layout::Ram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::Bytes;

use super::*;
use crate::memory;

const BLOCK: Front = Front { virtio_id: 2, queues: 1, queue_size: 256, config_len: 60 };
const PATIENCE: Duration = Duration::from_secs(60);
const SECTORS: u64 = 2048;

/// VIRTIO_BLK_F_FLUSH (virtio 1.2, 5.2.3) and the types of requests (5.2.6).
const FLUSH_FEATURE: u64 = 1 << 9;
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;

/// Where all lies in the guest's memory.
const QUEUE: QueueSetup = QueueSetup { index: 0, size: 8, desc: 0x1000, avail: 0x2000, used: 0x3000 };
const HEADER: u64 = 0x4000;
const STATUS: u64 = 0x4010;
const DATA: u64 = 0x5000;

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Serves the image at a socket beside it.
fn serve(image: &Path) -> (Daemon, PathBuf) {
    let socket = image.with_extension("sock");
    let daemon = Command::new("qemu-storage-daemon")
        .arg("--blockdev")
        .arg(format!("driver=file,node-name=image,filename={}", image.display()))
        .arg("--export")
        .arg(format!(
            "type=vhost-user-blk,id=disk,node-name=image,writable=on,addr.type=unix,addr.path={}",
            socket.display()
        ))
        .spawn()
        .expect("qemu-storage-daemon (Debian: qemu-system-common)");
    (Daemon(daemon), socket)
}

/// Connected, as soon as it listens.
fn connected(daemon: &mut Daemon, socket: &Path) -> OwnedFd {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Ok(stream) = UnixStream::connect(socket) {
            return stream.into();
        }
        let alive = daemon.0.try_wait().unwrap().is_none();
        assert!(alive && Instant::now() < end, "qemu-storage-daemon does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The guest's side of the queue.
struct Driver {
    memory: GuestMemory,
    port: Port,
    next: u16,
}

impl Driver {
    fn put<T: vm_memory::ByteValued>(&self, value: T, at: u64) {
        self.memory.write_obj(value, GuestAddress(at)).unwrap();
    }

    /// Three descriptors of 16 bytes (virtio 1.2, 2.7.5), which are the same in each request but for the data's direction.
    fn offer(&mut self, kind: u32, sector: u64) {
        for (at, value) in [(0, kind), (4, 0)] {
            self.put(value.to_le(), HEADER + at);
        }
        self.put(sector.to_le(), HEADER + 8);
        self.put(0xffu8, STATUS);
        let data_flags = if kind == IN { 1 | 2 } else { 1 };
        let descriptors = match kind {
            FLUSH => vec![(HEADER, 16u32, 1u16, 1u16), (STATUS, 1, 2, 0)],
            _ => vec![(HEADER, 16, 1, 1), (DATA, 512, data_flags, 2), (STATUS, 1, 2, 0)],
        };
        for (at, (addr, len, flags, next)) in (QUEUE.desc..).step_by(16).zip(descriptors) {
            self.put(addr.to_le(), at);
            self.put(len.to_le(), at + 8);
            self.put(flags.to_le(), at + 12);
            self.put(next.to_le(), at + 14);
        }
        self.put(0u16, QUEUE.avail + 4 + u64::from(self.next % QUEUE.size) * 2);
        self.next += 1;
        self.memory.store(self.next.to_le(), GuestAddress(QUEUE.avail + 2), Ordering::Release).unwrap();
        self.port.queues[0].kick.set();
    }

    /// The status of the request that was offered last.
    fn answer(&self) -> u8 {
        let end = Instant::now() + PATIENCE;
        let used = || u16::from_le(self.memory.load(GuestAddress(QUEUE.used + 2), Ordering::Acquire).unwrap());
        while used() != self.next {
            assert!(Instant::now() < end, "no answer to request {}", self.next);
            let wait = Timespec::try_from(Duration::from_millis(50)).unwrap();
            poll(&mut [PollFd::new(&self.port.queues[0].call, PollFlags::IN)], Some(&wait)).unwrap();
            self.port.queues[0].call.clear();
        }
        self.memory.read_obj(GuestAddress(STATUS)).unwrap()
    }

    fn request(&mut self, kind: u32, sector: u64) -> u8 {
        self.offer(kind, sector);
        self.answer()
    }

    fn data(&self) -> [u8; 512] {
        let mut data = [0; 512];
        self.memory.read_slice(&mut data, GuestAddress(DATA)).unwrap();
        data
    }

    fn round(&mut self, image: &File, seed: u8) {
        image.write_all_at(&[seed; 512], 3 * 512).unwrap();
        assert_eq!(self.request(IN, 3), 0);
        assert_eq!(self.data(), [seed; 512]);
        self.memory.write_slice(&[seed ^ 0xff; 512], GuestAddress(DATA)).unwrap();
        assert_eq!((self.request(OUT, 5), self.request(FLUSH, 0)), (0, 0));
        let mut written = [0; 512];
        image.read_exact_at(&mut written, 5 * 512).unwrap();
        assert_eq!(written, [seed ^ 0xff; 512]);
        assert_eq!(self.request(IN, SECTORS), 1, "VIRTIO_BLK_S_IOERR past the end");
    }
}

fn stopped(back_end: &mut VhostUser) {
    let end = Instant::now() + PATIENCE;
    let mut done = back_end.stop().unwrap();
    while !done {
        assert!(Instant::now() < end, "it does not say where its queue stands");
        done = back_end.stopped().unwrap();
    }
}

#[test]
fn qemu_s_storage_daemon_serves_our_front_end_and_goes_on_after_its_death() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let image = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    image.set_len(SECTORS * 512).unwrap();
    let memory = memory::for_test(&[Ram { gpa: 0, len: 1 << 20, offset: 0 }]);
    let (mut daemon, socket) = serve(&path);
    let (device, mut back_end) = connect(MAX_ANSWERS, BLOCK, connected(&mut daemon, &socket), memory.clone()).unwrap();
    assert_eq!(device.config.len(), 60);
    assert_eq!(device.config[..8], SECTORS.to_le_bytes());
    assert_eq!(device.features & FLUSH_FEATURE, FLUSH_FEATURE);
    assert_eq!(back_end.config().unwrap(), device.config);

    let features = 1 << VIRTIO_F_VERSION_1 | FLUSH_FEATURE;
    let mut driver = Driver { memory, port: Port::new(hw::Slot(1), 1, 24).unwrap(), next: 0 };
    back_end.activate(&Activation { features, queues: vec![QUEUE] }, &driver.port).unwrap();
    driver.round(&image, 0x11);
    // It stands still, and goes on where it stood.
    stopped(&mut back_end);
    assert_eq!(back_end.bases, [(0, driver.next)]);
    driver.offer(IN, 3);
    back_end.unpause(&driver.port).unwrap();
    assert_eq!(driver.answer(), 0);
    driver.round(&image, 0x22);

    // It is killed with a request before it; another goes on with what the guest has.
    drop(daemon);
    back_end.lose();
    driver.offer(IN, 5);
    let (mut daemon, socket) = serve(&path);
    assert_eq!(back_end.replace(connected(&mut daemon, &socket)).unwrap(), device.config);
    back_end.unpause(&driver.port).unwrap();
    assert_eq!(driver.answer(), 0);
    assert_eq!(driver.data(), [0x22 ^ 0xff; 512]);
    driver.round(&image, 0x33);

    stopped(&mut back_end);
    back_end.reset().unwrap();
    driver.memory.write_slice(&[0; 0x4000], GuestAddress(0x1000)).unwrap();
    driver.next = 0;
    back_end.activate(&Activation { features, queues: vec![QUEUE] }, &driver.port).unwrap();
    driver.round(&image, 0x44);
}
