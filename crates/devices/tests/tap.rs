//! A network card on a real tap, with the host's own network stack on the other side, in a network namespace of its own.

mod support;

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use devices::net::{Card, Net, Tap};
use support::{BUFFERS, Driver, Part, VERSION_1, Vmm};

const MAC: [u8; 6] = [0xfe, 0xe1, 0xbb, 0xd1, 2, 3];
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

const CSUM: u64 = 1;
const GUEST_CSUM: u64 = 1 << 1;
const F_MAC: u64 = 1 << 5;
const GUEST_TSO4: u64 = 1 << 7;
const HOST_TSO4: u64 = 1 << 11;
const MRG_RXBUF: u64 = 1 << 15;

/// Set where a test runs alone in its namespace; elsewhere it must touch no network.
const MARK: &str = "IN_A_NETWORK_NAMESPACE";

/// Runs a test below again, alone in a network namespace.
fn in_namespace(test: &str) {
    let mut unshare = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    let output = unshare
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", test])
        .env(MARK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
}

struct Host {
    vmm: Vmm,
    rx: Driver,
    tx: Driver,
    tap: OwnedFd,
    index: u32,
    links: sys::netlink::Route,
}

impl Host {
    fn new(features: u64) -> Host {
        assert!(std::env::var_os(MARK).is_some(), "to be run by its test, in a network namespace");
        let tap: OwnedFd = std::fs::File::options().read(true).write(true).open("/dev/net/tun").unwrap().into();
        sys::tun::attach(tap.as_fd(), "tap0").unwrap();
        let mut links = sys::netlink::Route::open(Duration::from_secs(10)).unwrap();
        let index = links.link("tap0").unwrap().unwrap().index;
        links.add_address(index, HOST.into(), 24).unwrap();
        links.set_up(index, true).unwrap();
        let net =
            Net::new(Tap::new(tap.try_clone().unwrap()).unwrap(), Card { mac: MAC, locked: true, guarded: false });
        let mut vmm = Vmm::new(net, features | VERSION_1 | F_MAC);
        let (mut rx, tx) = (Driver::new(&vmm.guest, 0, 128), Driver::new(&vmm.guest, 1, 128));
        vmm.start(0, &rx, 0);
        vmm.start(1, &tx, 0);
        for index in 0..64 {
            rx.add(&[Part::In(BUFFERS + 0x4_0000 + index * 0x4000, 0x4000)]);
        }
        rx.kick();
        Host { vmm, rx, tx, tap, index, links }
    }

    fn send(&mut self, header: [u8; 12], frame: &[u8]) {
        self.vmm.guest.write(BUFFERS, &[&header[..], frame].concat());
        self.tx.add(&[Part::Out(BUFFERS, 12), Part::Out(BUFFERS + 12, frame.len() as u32)]);
        self.tx.kick();
        self.tx.used();
    }

    /// The next frame of this EtherType, with its header; its buffers hold 16 KiB each.
    fn receive(&mut self, kind: u16) -> (Vec<u8>, Vec<u8>) {
        loop {
            let (head, len) = self.rx.used();
            let bytes = self.vmm.guest.read(BUFFERS + 0x4_0000 + u64::from(head) * 0x4000, len as usize);
            if bytes[24..26] == kind.to_be_bytes() {
                return (bytes[..12].to_vec(), bytes[12..].to_vec());
            }
        }
    }

    /// Answers the host's question for our address.
    fn answer_arp(&mut self) {
        let (_, question) = self.receive(0x0806);
        assert_eq!(question[20..22], [0, 1]);
        let (his_mac, his_ip) = (question[22..28].to_vec(), question[28..32].to_vec());
        self.send([0; 12], &arp(2, &his_mac, &his_mac, &his_ip));
    }
}

fn arp(operation: u8, to: &[u8], target_mac: &[u8], target_ip: &[u8]) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [to, &MAC, &[8, 6], &head, &MAC, &GUEST.octets(), target_mac, target_ip].concat()
}

/// The ones' complement sum of RFC 1071, not yet complemented.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    let total: u32 = words.sum();
    let folded = (total & 0xffff) + (total >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

fn pseudo_header(source: Ipv4Addr, target: Ipv4Addr, len: usize) -> Vec<u8> {
    [&source.octets()[..], &target.octets(), &[0, 17], &(len as u16).to_be_bytes()].concat()
}

/// A UDP packet to the host, whose checksum the host is to finish if `partial`.
fn udp(partial: bool, to_mac: &[u8], port: u16, payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len();
    let mut datagram = [&4242u16.to_be_bytes()[..], &port.to_be_bytes(), &(len as u16).to_be_bytes(), &[0, 0]].concat();
    datagram.extend(payload);
    let pseudo = pseudo_header(GUEST, HOST, len);
    let checksum = if partial { sum(&pseudo) } else { !sum(&[&pseudo[..], &datagram].concat()) };
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    let total = (20 + len) as u16;
    let mut ip = [&[0x45, 0][..], &total.to_be_bytes(), &[0, 1, 0, 0, 64, 17, 0, 0]].concat();
    ip.extend([GUEST.octets(), HOST.octets()].concat());
    let checksum = !sum(&ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    [to_mac, &MAC, &[8, 0], &ip, &datagram].concat()
}

#[test]
fn the_host_answers_the_guest() {
    in_namespace("arp_in_namespace");
}

#[test]
#[ignore = "run by the_host_answers_the_guest, in a network namespace"]
fn arp_in_namespace() {
    let mut host = Host::new(0);
    host.send([0; 12], &arp(1, &[0xff; 6], &[0; 6], &HOST.octets()));
    loop {
        let (header, answer) = host.receive(0x0806);
        if answer[20..22] == [0, 2] {
            assert_eq!(header, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            assert_eq!((&answer[..6], &answer[28..32]), (&MAC[..], &HOST.octets()[..]));
            return;
        }
    }
}

#[test]
fn checksums_are_left_to_the_other_side_only_where_negotiated() {
    in_namespace("checksums_in_namespace");
    in_namespace("no_offloads_in_namespace");
}

#[test]
#[ignore = "run by checksums_are_left_to_the_other_side_only_where_negotiated, in a network namespace"]
fn checksums_in_namespace() {
    let mut host = Host::new(CSUM | GUEST_CSUM | HOST_TSO4 | GUEST_TSO4 | MRG_RXBUF);
    let socket = UdpSocket::bind((HOST, 7777)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.send_to(b"to the guest", (GUEST, 4242)).unwrap();
    host.answer_arp();
    let (header, frame) = host.receive(0x0800);
    assert_eq!(header[0], 1, "VIRTIO_NET_HDR_F_NEEDS_CSUM");
    assert_eq!((&header[6..8], &header[8..10]), (&[34, 0][..], &[6, 0][..]));
    assert_eq!(&frame[42..], b"to the guest");
    // and the other way: the host finishes it, and hands it to the socket
    let mut header = [0; 12];
    (header[0], header[6], header[8]) = (1, 34, 6);
    let host_mac: Vec<u8> = frame[6..12].to_vec();
    host.send(header, &udp(true, &host_mac, 7777, b"from the guest"));
    let mut payload = [0; 64];
    let (len, from) = socket.recv_from(&mut payload).unwrap();
    assert_eq!((&payload[..len], from.ip()), (&b"from the guest"[..], GUEST.into()));
}

#[test]
#[ignore = "run by checksums_are_left_to_the_other_side_only_where_negotiated, in a network namespace"]
fn no_offloads_in_namespace() {
    let mut host = Host::new(0);
    let socket = UdpSocket::bind((HOST, 7777)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.send_to(b"to the guest", (GUEST, 4242)).unwrap();
    host.answer_arp();
    let (header, frame) = host.receive(0x0800);
    assert_eq!(header, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    let datagram = &frame[34..];
    assert_eq!(sum(&[&pseudo_header(HOST, GUEST, datagram.len())[..], datagram].concat()), 0xffff);
    let host_mac: Vec<u8> = frame[6..12].to_vec();
    host.send([0; 12], &udp(false, &host_mac, 7777, b"from the guest"));
    let mut payload = [0; 64];
    assert_eq!(socket.recv_from(&mut payload).unwrap().0, 14);
}

#[test]
fn a_tap_that_is_down_or_gone_costs_frames_and_no_time() {
    in_namespace("down_in_namespace");
}

#[test]
#[ignore = "run by a_tap_that_is_down_or_gone_costs_frames_and_no_time, in a network namespace"]
fn down_in_namespace() {
    let mut host = Host::new(0);
    host.links.set_up(host.index, false).unwrap();
    for gone in [false, true] {
        if gone {
            host.links.delete(host.index).unwrap();
        }
        host.send([0; 12], &arp(1, &[0xff; 6], &[0; 6], &HOST.octets())); // taken, and lost
        let before = host.vmm.cpu();
        std::thread::sleep(Duration::from_millis(400)); // the time over which it is measured
        let spent = host.vmm.cpu() - before;
        assert!(spent < Duration::from_millis(100), "{spent:?} of CPU in 400 ms, gone: {gone}");
    }
    assert!(host.vmm.is_serving());
    drop(host.tap);
}
