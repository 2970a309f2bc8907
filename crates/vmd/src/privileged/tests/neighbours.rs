//! What a guest can have the host learn of it: played with frames on its tap.

use std::net::{Ipv4Addr, Ipv6Addr};

use sys::ipv6::Setting;

use super::*;

/// Whether an interface has IPv6 at all, and whether it has an address of it.
fn inet6(of: &str) -> (bool, bool) {
    let off = Settings::open().unwrap().value(of, Setting::DisableIpv6).unwrap() == Some(1);
    let shown = std::process::Command::new("ip").args(["-6", "-o", "addr", "show", "dev", of]).output().unwrap();
    (!off, !shown.stdout.is_empty())
}

fn tap_with(privileged: &mut Priv, bridge: Option<&str>, local: Option<LocalEnd>) -> (String, OwnedFd) {
    let bridge = bridge.map(name);
    let tap = TapSpec { bridge, local, ..tap_of("vm1-if0-web") };
    match privileged.ask(|request| ToPriv::MakeTap { request, tap, filtered: false }, vec![control_device()]) {
        (ToParent::TapMade { name, .. }, mut fds) => (name.to_string(), fds.pop().unwrap()),
        (other, _) => panic!("no tap: {other:?}"),
    }
}

#[test]
fn only_a_local_interface_that_was_given_ipv6_has_it() {
    own_namespace();
    let mut privileged = Priv::start();
    privileged.switch("br0", true);
    let local = |inet6| Some(LocalEnd { inet: Ipv4Addr::new(100, 64, 1, 2), inet6, nat: false });
    let _port = tap_with(&mut privileged, Some("br0"), None);
    let _alone = tap_with(&mut privileged, None, None);
    let _inet = tap_with(&mut privileged, None, local(None));
    for without in ["br0", "tap0", "tap1", "tap2"] {
        assert_eq!(inet6(without), (false, false), "{without}");
    }
    let _both = tap_with(&mut privileged, None, local(Some(Ipv6Addr::new(0xfd00, 0, 0, 1, 0x6440, 0x103, 0, 1))));
    assert_eq!(inet6("tap3"), (true, true));

    // One that the administrator gives it later stays, whatever the parent asks for again.
    Settings::open().unwrap().set("br0", Setting::DisableIpv6, 0).unwrap();
    privileged.switch("br0", true);
    assert!(inet6("br0").0);
    // Another's is left alone.
    privileged.route.create_bridge("br1", 0).unwrap();
    privileged.switch("br1", true);
    assert!(inet6("br1").0);
}

#[test]
fn without_the_settings_there_is_no_ipv6_address_at_least() {
    own_namespace();
    let (channel, theirs) = proto::channel::pair::<ToPriv, ToParent>().unwrap();
    let mut privileged = Priv::of(channel, Edge::new(theirs.into_socket(), None, tables()).unwrap());
    privileged.switch("br0", true);
    let _port = tap_with(&mut privileged, Some("br0"), None);
    for without in ["br0", "tap0"] {
        assert_eq!(inet6(without), (true, false), "{without}");
    }
}

/// Enough to fill each table that there is a limit for, and more than the host's neighbour table holds.
const FLOOD: u32 = 2000;
const GUEST_MAC: [u8; 6] = [0xfe, 0xe1, 0xbb, 0xd1, 0, 1];
const ASKED: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const ASKED6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

fn ip(arguments: &str) -> String {
    let done = std::process::Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn write(tap: &OwnedFd, frame: &[&[u8]]) {
    rustix::io::write(tap, &[&[0; 12][..], &frame.concat()].concat()).unwrap();
}

/// An ARP request for the address of the host.
fn arp(tap: &OwnedFd, from: Ipv4Addr, asked: Ipv4Addr) {
    let head = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    write(tap, &[&[0xff; 6], &GUEST_MAC, &head, &GUEST_MAC, &from.octets(), &[0; 6], &asked.octets()]);
}

/// A neighbour solicitation for the address of the host, behind a VLAN tag of priority alone if `tagged`.
fn solicit(tap: &OwnedFd, from: Ipv6Addr, asked: Ipv6Addr, tagged: bool) {
    let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &asked.octets(), &[1, 1], &GUEST_MAC].concat();
    let pseudo = [&from.octets()[..], &asked.octets(), &[0, 0, 0, 32, 0, 0, 0, 58], &message].concat();
    let sum: u32 = pseudo.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes();
    let message = [&message[..2], &sum, &message[4..]].concat();
    let tag: &[u8] = if tagged { &[0x81, 0, 0x20, 0] } else { &[] };
    let head = [0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255];
    write(tap, &[&[0x33, 0x33, 0xff, 0, 0, 1], &GUEST_MAC, tag, &head, &from.octets(), &asked.octets(), &message]);
}

/// What the host has of neighbours behind an interface.
fn learnt(family: u8, of: &str) -> Vec<String> {
    ip(&format!("-{family} neigh show dev {of} nud all"))
        .lines()
        .filter(|line| line.contains("lladdr fe:e1:bb"))
        .map(str::to_owned)
        .collect()
}

fn random4(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(ASKED.to_bits() + 1 + number)
}

fn random6(number: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(number + 1))
}

/// A namespace where IPv6 addresses are good at once, and whose neighbour table takes what it can.
fn start() -> Priv {
    own_namespace();
    for of in ["all", "default"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{of}/accept_dad"), "0").unwrap();
    }
    Priv::start()
}

#[test]
fn a_guest_on_a_switch_fills_no_table_of_the_host() {
    let mut privileged = start();
    privileged.switch("br0", true);
    ip("addr add 10.1.0.1/16 dev br0");
    std::fs::write("/proc/sys/net/ipv6/conf/br0/disable_ipv6", "0").unwrap();
    ip("addr add fd00::1/64 dev br0");
    let (_, guest) = tap_with(&mut privileged, Some("br0"), None);
    let (_, other) = tap_with(&mut privileged, Some("br0"), None);
    for number in 0..FLOOD {
        arp(&guest, random4(number), ASKED);
        solicit(&guest, random6(number), ASKED6, number % 2 == 1);
    }
    let (inet, inet6) = (learnt(4, "br0").len(), learnt(6, "br0").len());
    assert!((1..=64).contains(&inet) && (1..=64).contains(&inet6), "{inet} of IPv4, {inet6} of IPv6");
    // What it had from the first it keeps, and another guest is not concerned.
    for (tap, number) in [(&guest, 0), (&other, FLOOD)] {
        ip("neigh flush dev br0");
        arp(tap, random4(number), ASKED);
        solicit(tap, random6(number), ASKED6, false);
        assert_eq!((learnt(4, "br0").len(), learnt(6, "br0").len()), (1, 1));
    }
}

#[test]
fn of_a_local_interface_only_the_guests_own_addresses_are_learnt() {
    let mut privileged = start();
    let (host, host6) = (Ipv4Addr::new(100, 64, 1, 2), Ipv6Addr::new(0xfd00, 0, 0, 1, 0x6440, 0x103, 0, 1));
    let local = LocalEnd { inet: host, inet6: Some(host6), nat: false };
    let (tap, guest) = tap_with(&mut privileged, None, Some(local));
    for what in ["all", tap.as_str()] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{what}/rp_filter"), "0").unwrap();
    }
    ip(&format!("route add 10.1.0.0/16 dev {tap}"));
    for number in 0..FLOOD {
        arp(&guest, random4(number), host);
        solicit(&guest, random6(number), host6, false);
        solicit(&guest, Ipv6Addr::from_bits(host6.to_bits() + 1 + u128::from(number)), host6, false);
    }
    let inet6 = learnt(6, &tap).len();
    assert!(learnt(4, &tap).is_empty() && (1..=64).contains(&inet6), "{inet6} of IPv6");
    arp(&guest, Ipv4Addr::new(100, 64, 1, 3), host);
    assert_eq!(learnt(4, &tap).len(), 1);
}

/// The addresses that a bridge has learnt.
fn stations(of: &str) -> usize {
    let done = std::process::Command::new("bridge").args(["fdb", "show", "br", of]).output().unwrap();
    let shown = String::from_utf8(done.stdout).unwrap();
    shown.lines().filter(|line| line.starts_with("02:") && !line.contains("permanent")).count()
}

fn speak(tap: &OwnedFd, number: u32) {
    write(tap, &[&[0xff; 6], &[2, 0], &number.to_be_bytes(), &[0x88, 0xb5], &[0; 46]]);
}

#[test]
fn a_bridge_learns_so_many_addresses_of_a_guest_and_so_many_at_all() {
    let mut privileged = start();
    privileged.switch("br0", true);
    privileged.route.create_bridge("br1", 0).unwrap();
    privileged.switch("br1", true);
    for bridge in ["br0", "br1"] {
        let (_, guest) = tap_with(&mut privileged, Some(bridge), None);
        (0..FLOOD).for_each(|number| speak(&guest, number));
        assert_eq!(stations(bridge), 256, "{bridge}");
    }
    let device = control_device();
    sys::tun::attach(device.as_fd(), "other0").unwrap();
    ip("link set other0 master br0 up");
    (0..9000).for_each(|number| speak(&device, FLOOD + number));
    assert_eq!(stations("br0"), 8192, "by a port that is not vmd's");
}

#[test]
fn the_limits_of_a_tap_go_with_the_next_or_at_the_end() {
    let mut privileged = start();
    let tables = || {
        let done = std::process::Command::new("nft").args(["list", "tables"]).output().unwrap();
        String::from_utf8(done.stdout).unwrap()
    };
    let first = tap_with(&mut privileged, None, None);
    let second = tap_with(&mut privileged, None, None);
    assert_eq!(tables(), "table netdev vmd-tap0\ntable netdev vmd-tap1\n");
    drop(first);
    privileged.gone("tap0");
    drop(second);
    privileged.gone("tap1");
    let _third = tap_with(&mut privileged, None, None);
    assert_eq!(tables(), "table netdev vmd-tap0\n");
    privileged.end();
    assert_eq!(tables(), "");
}
