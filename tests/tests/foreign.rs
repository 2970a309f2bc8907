//! Our devices under another's virtual machine: QEMU, which emulates a processor and leaves disk and card to our back ends by
//! vhost-user. A stock Debian kernel with its own drivers reads and writes the disk, and speaks TCP by the card.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;

use devices::blk::{Blk, Blocks, Disk, Engine, MAX_IN_FLIGHT};
use devices::net::{Card, Net, Tap};
use devices::serve_vhost::{Device, Ended, serve};
use testkit::apart::apart;
use testkit::artefacts::{self, Kernel};
use testkit::console::Console;
use testkit::deadline::{self, DAEMON, GUEST};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PORT: u16 = 7000;

const MIB: usize = 1 << 20;

/// Bytes that go each way, and where on the disk they lie.
const LEN: usize = 4 * MIB;
const FROM_GUEST_AT: u64 = 0;
const TO_GUEST_AT: u64 = 8 << 20;

#[test]
fn a_stock_kernel_in_qemu_uses_our_disk_and_our_card() {
    apart("a_stock_kernel_in_qemu_uses_our_disk_and_our_card", || {
        let dir = tempfile::tempdir().expect("a directory");
        let image = tempfile::tempfile().expect("a file");
        image.set_len(16 << 20).expect("it is ours");
        image.write_all_at(&pattern(1), TO_GUEST_AT).expect("it is ours");
        let disk = listen(&dir.path().join("disk"), disk_of(&image));
        let card = listen(&dir.path().join("card"), card_on_a_tap());
        let mut console = start(dir.path());
        console.expect("GUEST-SHELL", GUEST);
        let listener = TcpListener::bind((HOST, PORT)).expect("the tap has this address");
        let mut say = |line: &str| console.send(&format!("{line}\n"));
        say("ifconfig eth0 192.0.2.2 up");

        say(&format!("nc {HOST} {PORT} </dev/null >/tmp/in"));
        let mut peer = accepted(&listener);
        peer.write_all(&pattern(2)).expect("the guest reads");
        peer.shutdown(Shutdown::Write).expect("the guest reads");
        peer.read_to_end(&mut Vec::new()).expect("the guest closes too");
        say("dd if=/tmp/in of=/dev/vda bs=64k oflag=direct conv=fsync && echo WROTE-$?");
        say(&format!("dd if=/dev/vda bs=64k skip=128 count=64 iflag=direct | nc {HOST} {PORT}"));
        let mut got = Vec::new();
        accepted(&listener).take(LEN as u64).read_to_end(&mut got).expect("the guest writes");
        console.expect("WROTE-0", GUEST);
        assert!(got == pattern(1), "what the guest read from the disk and sent by the card");
        let mut written = vec![0; LEN];
        image.read_exact_at(&mut written, FROM_GUEST_AT).expect("it is ours");
        assert!(written == pattern(2), "what came by the card and the guest wrote to the disk");

        console.send("poweroff -f\n");
        assert_eq!(console.finish(GUEST), Some(0), "QEMU ends with its guest: {}", console.said());
        for device in [disk, card] {
            assert_eq!(device.join().expect("the device panicked").expect("it served"), Ended::FrontEnd);
        }
    });
}

/// Bytes without a period that a block or a segment has.
fn pattern(seed: u32) -> Vec<u8> {
    (0..LEN as u32 / 4).flat_map(|word| (word ^ seed << 24).wrapping_mul(0x9e37_79b1).to_le_bytes()).collect()
}

fn disk_of(image: &File) -> Blk {
    let file = || OwnedFd::from(image.try_clone().expect("a descriptor can be doubled"));
    let sectors = image.metadata().expect("it is ours").len() / 512;
    let engine = Engine::new(file(), MAX_IN_FLIGHT, None);
    Blk::new(file(), engine, Disk { sectors, read_only: false }, Blocks::of(512), b"vmd")
}

/// A card whose other side is the host's own network stack.
fn card_on_a_tap() -> Net {
    let tap: OwnedFd = File::options().read(true).write(true).open("/dev/net/tun").expect("taps can be had").into();
    sys::tun::attach(tap.as_fd(), "tap0").expect("it is ours");
    let mut links = sys::netlink::Route::open(DAEMON).expect("netlink can be had");
    let index = links.link("tap0").expect("an answer").expect("it was made").index;
    links.add_address(index, HOST.into(), 24).expect("it is ours");
    links.set_up(index, true).expect("it is ours");
    Net::new(Tap::new(tap).expect("a tap"), Card { mac: MAC, locked: true, guarded: false })
}

/// Serves a device to whoever connects first.
fn listen<D: Device + Send + 'static>(path: &Path, device: D) -> JoinHandle<io::Result<Ended>> {
    let listener = UnixListener::bind(path).expect("the directory is ours");
    std::thread::spawn(move || serve(listener.accept()?.0, device, None))
}

/// Starts QEMU on a terminal, which is the guest's serial port.
fn start(dir: &Path) -> Console {
    let socket = |name: &str| format!("socket,id={name},path={}", dir.join(name).display());
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-machine", "q35,accel=tcg,memory-backend=ram", "-cpu", "max", "-m", "256", "-nodefaults"]);
    command.args(["-object", "memory-backend-memfd,id=ram,size=256M,share=on", "-no-reboot", "-display", "none"]);
    command.args(["-chardev", &socket("disk"), "-device", "vhost-user-blk-pci,chardev=disk,num-queues=1"]);
    command.args(["-chardev", &socket("card"), "-netdev", "vhost-user,id=net,chardev=card"]);
    // Without KVM, QEMU 7.2 dies of a card by vhost-user that has interrupts by message (msix_set_vector_notifiers).
    command.args(["-device", "virtio-net-pci,netdev=net,mac=52:54:00:12:34:56,vectors=0,romfile="]);
    command.args(["-serial", "stdio", "-append", "console=ttyS0 quiet"]);
    command.arg("-kernel").arg(artefacts::kernel(Kernel::BzImage)).arg("-initrd").arg(artefacts::initrd());
    Console::of_program(&mut command)
}

/// The guest, once it has connected.
fn accepted(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).expect("it is ours");
    let peer = deadline::until("the guest to connect", GUEST, || listener.accept().ok()).0;
    peer.set_nonblocking(false).expect("it is ours");
    for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
        set(&peer, Some(GUEST)).expect("a time");
    }
    peer
}
