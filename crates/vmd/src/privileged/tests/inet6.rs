//! The way to the outside by IPv6: as of IPv4, and as kernels before 6.17 have it too.

use std::net::Ipv6Addr;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sys::ipv6::Setting;

use super::outside::{End, HEADER, chains, end_of, guest_of, nft};
use super::*;

const GUEST: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0x6440, 0x103, 0, 2);
const HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
const SERVER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 9);
const FAR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
const BEYOND: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 9);
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// RFC 4861, 4.3 and 4.4.
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// A UDP packet: from where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packet {
    from: (Ipv6Addr, u16),
    to: (Ipv6Addr, u16),
}

fn packet(from: Ipv6Addr, to: Ipv6Addr, port: u16) -> Packet {
    Packet { from: (from, 7000), to: (to, port) }
}

/// An IPv6 packet in its frame, with the checksum at `place` of its payload.
fn frame(from: Ipv6Addr, to: Ipv6Addr, next: u8, hops: u8, mut payload: Vec<u8>, place: usize) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 0], &length, &[0, 0, 0, next], &payload].concat();
    let sum: u32 = pseudo.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |b| u32::from(*b))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    payload[place..place + 2].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    [&[0x86, 0xdd, 0x60, 0, 0, 0][..], &length, &[next, hops], &from.octets(), &to.octets(), &payload].concat()
}

trait Inet6 {
    fn send6(&self, packet: Packet);
    fn next6(&self) -> Packet;
}

impl Inet6 for End {
    fn send6(&self, Packet { from, to }: Packet) {
        let udp = [from.1.to_be_bytes(), to.1.to_be_bytes(), [0, 8], [0, 0]].concat();
        self.write(&frame(from.0, to.0, UDP, 64, udp, 6), self.host);
    }

    /// The next UDP packet; solicitations of neighbours are answered meanwhile.
    fn next6(&self) -> Packet {
        let until = Instant::now() + SOON;
        loop {
            let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).unwrap();
            assert!(poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&left)).unwrap() > 0, "nothing came");
            let mut bytes = [0; 2048];
            let len = rustix::io::read(&self.fd, &mut bytes).unwrap();
            let seen = &bytes[HEADER..len];
            let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&seen[at..at + 16]).unwrap());
            let port = |at: usize| u16::from_be_bytes([seen[at], seen[at + 1]]);
            match (&seen[12..14], seen[20], seen[54]) {
                ([0x86, 0xdd], UDP, _) => return Packet { from: (address(22), port(54)), to: (address(38), port(56)) },
                ([0x86, 0xdd], ICMPV6, SOLICITATION) if !address(22).is_unspecified() => {
                    let head = [ADVERTISEMENT, 0, 0, 0, 0x60, 0, 0, 0];
                    let answer = [&head[..], &address(62).octets(), &[2, 1], &self.mac].concat();
                    self.write(&frame(address(62), address(22), ICMPV6, 255, answer, 2), self.host);
                }
                _ => {}
            }
        }
    }
}

fn settings(older: bool) -> Settings {
    let settings = Settings::open().unwrap();
    if older { settings.without(Setting::ForceForwarding) } else { settings }
}

/// A namespace where addresses are good at once, and its priv on this or an older kernel.
fn alone(older: bool) -> Priv {
    own_namespace();
    for of in ["all", "default"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{of}/accept_dad"), "0").unwrap();
    }
    Priv::with(settings(older))
}

fn guest(privileged: &mut Priv) -> End {
    let host = Ipv6Addr::new(0xfd00, 0, 0, 1, 0x6440, 0x103, 0, 1);
    let guest = guest_of(privileged, true, Some(host), None);
    [host, HOST, FAR].into_iter().for_each(wait_for);
    guest
}

/// The kernel makes an address good by a work of its own, a moment after it was added.
fn wait_for(address: Ipv6Addr) {
    let until = Instant::now() + SOON;
    while let Err(why) = std::net::UdpSocket::bind((address, 0)) {
        assert!(Instant::now() < until, "{address}: {why}");
        std::thread::yield_now();
    }
}

fn outsides(privileged: &mut Priv) -> (End, End) {
    (end_of(privileged, "up0", HOST.into(), 64), end_of(privileged, "up1", FAR.into(), 64))
}

/// A guest, and the outside behind two interfaces.
fn world(older: bool) -> (Priv, End, End, End) {
    let mut privileged = alone(older);
    let (near, far) = outsides(&mut privileged);
    let guest = guest(&mut privileged);
    (privileged, guest, near, far)
}

/// Each test on this kernel, if it can force an interface, and as on an older one.
fn on_both(test: impl Fn(bool) + Send + Sync + Copy + 'static) {
    for older in [false, true] {
        std::thread::spawn(move || test(older)).join().unwrap();
    }
}

/// Of all interfaces, what may have been changed.
fn all_settings() -> Vec<(String, Vec<Option<u32>>)> {
    let settings = settings(false);
    let values = |of: &str| Setting::ALL.map(|setting| settings.value(of, setting).unwrap()).to_vec();
    ["all", "default", "lo", "up0", "up1"].map(|of| (of.to_owned(), values(of))).to_vec()
}

fn value(of: &str, setting: Setting) -> u32 {
    settings(false).value(of, setting).unwrap().unwrap()
}

fn reaches(guest: &End, server: Ipv6Addr, end: &End, host: Ipv6Addr) {
    guest.send6(packet(GUEST, server, 53));
    let seen = end.next6();
    assert_eq!((seen.from.0, seen.to), (host, (server, 53)), "it comes from the host");
    end.send6(Packet { from: seen.to, to: seen.from });
    assert_eq!(guest.next6(), Packet { from: (server, 53), to: (GUEST, 7000) });
}

#[test]
fn a_guest_reaches_the_outside_by_ipv6_as_the_host_and_is_answered() {
    on_both(|older| {
        let (_privileged, guest, near, far) = world(older);
        reaches(&guest, SERVER, &near, HOST);
        reaches(&guest, BEYOND, &far, FAR);
    });
}

#[test]
fn a_guest_sends_by_ipv6_only_as_itself() {
    on_both(|older| {
        let (_privileged, guest, near, _) = world(older);
        for from in [SERVER, BEYOND, Ipv6Addr::new(0xfd00, 0, 0, 1, 0x6440, 0x105, 0, 2)] {
            guest.send6(packet(from, SERVER, 1));
        }
        guest.send6(packet(GUEST, SERVER, 2));
        assert_eq!(near.next6().to, (SERVER, 2), "the first ones went nowhere");
    });
}

#[test]
fn the_host_is_no_router_of_ipv6_for_others() {
    on_both(|older| {
        let (_privileged, guest, near, far) = world(older);
        near.send6(packet(SERVER, BEYOND, 1));
        near.send6(packet(SERVER, GUEST, 1));
        far.send6(packet(BEYOND, GUEST, 1));
        guest.send6(packet(GUEST, BEYOND, 2));
        let seen = far.next6();
        assert_eq!(seen.to, (BEYOND, 2), "what came from outside did not go on");
        far.send6(Packet { from: seen.to, to: seen.from });
        assert_eq!(guest.next6().from, (BEYOND, 2), "nor to the guest");
    });
}

#[test]
fn a_host_that_was_a_router_of_ipv6_stays_one() {
    let mut privileged = alone(false);
    let (near, far) = outsides(&mut privileged);
    settings(false).set("all", Setting::Forwarding, 1).unwrap();
    let before = all_settings();
    let guest = guest(&mut privileged);
    assert_eq!(all_settings(), before, "nothing is changed");
    near.send6(packet(SERVER, BEYOND, 1));
    assert_eq!(far.next6(), packet(SERVER, BEYOND, 1));
    near.send6(packet(SERVER, GUEST, 1));
    reaches(&guest, SERVER, &near, HOST); // and what came unasked did not
    privileged.end();
    assert_eq!(all_settings(), before);
}

/// Where br_netfilter is loaded, frames within a bridge are shown to the firewall: also of one that came after the rules.
#[test]
fn what_stays_within_a_bridge_that_is_made_later_goes_on_by_ipv6_too() {
    on_both(|older| {
        let (mut privileged, guest, near, _far) = world(older);
        let bridge = privileged.route.create_bridge("office0", 0).unwrap();
        privileged.route.set_up(bridge.index, true).unwrap();
        let mut port = |name, number: u8| {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 7, number.into(), 0, 0, 0, 1);
            let end = end_of(&mut privileged, name, address.into(), 64);
            let index = privileged.link(name).unwrap().index;
            privileged.route.set_master(index, Some(bridge.index)).unwrap();
            End { mac: [2, 0, 0, 0, 0, number], ..end }
        };
        let (one, two) = (port("port0", 1), port("port1", 2));
        let within = packet(BEYOND, SERVER, 1);
        End { host: two.mac, ..one }.send6(within);
        assert_eq!(two.next6(), within);
        reaches(&guest, SERVER, &near, HOST);
    });
}

#[test]
fn routers_are_believed_still_where_they_were() {
    on_both(|older| {
        let mut privileged = alone(older);
        let _ends = outsides(&mut privileged);
        settings(false).set("up1", Setting::AcceptRa, 0).unwrap();
        let before = all_settings();
        let _guest = guest(&mut privileged);
        let believes = ["up0", "up1", "default"].map(|of| value(of, Setting::AcceptRa));
        assert_eq!(believes, if older { [2, 0, 2] } else { [1, 0, 1] });
        assert_eq!(value("all", Setting::Forwarding), u32::from(older));
        privileged.end();
        assert_eq!(all_settings(), before);
    });
}

#[test]
fn a_route_that_a_router_told_outlives_the_first_guest() {
    let mut privileged = alone(true);
    let (near, _far) = outsides(&mut privileged);
    // RFC 4861, 4.2: a lifetime of 1800 seconds.
    let router = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
    let told = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    near.write(&frame(router, all_nodes, ICMPV6, 255, told.to_vec(), 2), [0x33, 0x33, 0, 0, 0, 1]);
    let default_route = || {
        let shown = std::process::Command::new("ip").args(["-6", "route", "show", "default"]).output().unwrap();
        String::from_utf8(shown.stdout).unwrap()
    };
    let until = Instant::now() + SOON;
    while default_route().is_empty() {
        assert!(Instant::now() < until, "the router is not believed at all");
        std::thread::yield_now();
    }
    let _guest = guest(&mut privileged);
    assert!(default_route().contains("fe80::9 dev up0"), "{}", default_route());
}

#[test]
fn the_end_and_a_sweep_after_a_kill_take_all_of_ipv6_back() {
    on_both(|older| {
        let mut first = alone(older);
        let (_near, _far) = outsides(&mut first);
        settings(false).set("up1", Setting::Forwarding, 1).unwrap(); // a router's, though the host forwards nothing
        let before = all_settings();
        let guest = guest(&mut first);
        assert_ne!(all_settings(), before);
        drop(guest);
        first.gone("tap0");
        first.kill();
        let mut second = Priv::with(settings(older));
        let swept = second.ask(|request| ToPriv::Sweep { request }, vec![]).0;
        assert!(matches!(swept, ToParent::Removed { .. }), "{swept:?}");
        assert_eq!((all_settings(), chains()), (before.clone(), vec![]));
        let _guest = self::guest(&mut second);
        assert_ne!(all_settings(), before);
        second.end();
        assert_eq!((all_settings(), chains()), (before, vec![]));
    });
}

#[test]
fn a_priv_that_can_not_undo_leaves_the_table_that_keeps_others_out() {
    let (first, guest, _near, _far) = world(true);
    let (channel, theirs) = proto::channel::pair::<ToPriv, ToParent>().unwrap();
    first.kill();
    let edge = Edge::new(theirs.into_socket(), None, tables()).unwrap();
    drop(channel);
    edge.serve().unwrap();
    assert_eq!(value("all", Setting::Forwarding), 1);
    let text = nft("list ruleset");
    assert!(text.contains("meta nfproto ipv6 drop"), "{text}");
    drop(guest);
    Priv::start().end();
    assert_eq!((value("all", Setting::Forwarding), chains()), (0, vec![]));
}

#[test]
fn a_local_interface_without_ipv6_or_nat_changes_nothing_of_it() {
    let mut privileged = alone(true);
    let _ends = outsides(&mut privileged);
    let before = all_settings();
    let inet = guest_of(&mut privileged, true, None, None);
    let inside = guest_of(&mut privileged, false, Some([0xfd00, 0, 0, 1, 0x6440, 0x105, 0, 1].into()), None);
    assert_eq!(all_settings(), before);
    drop((inet, inside));
}

#[test]
fn a_policy_of_drop_for_ipv6_is_passed_by_the_door_that_its_tool_has() {
    for door in ["DOCKER-USER", "ufw6-user-forward"] {
        std::thread::spawn(move || {
            let mut privileged = alone(true);
            nft(&format!(
                "table ip6 filter {{ chain {door} {{ }}
                 chain FORWARD {{ type filter hook forward priority 0; policy drop; jump {door}; }} }}"
            ));
            let (near, _far) = outsides(&mut privileged);
            let guest = guest(&mut privileged);
            reaches(&guest, SERVER, &near, HOST);
            privileged.end();
            assert!(!nft("list ruleset").contains("vmd"), "nothing of ours is left");
        })
        .join()
        .unwrap();
    }
}
