//! What goes between a guest and the outside, packet by packet: both are played here, each on a tap of a namespace.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::nat;
use super::*;

const GUEST: Ipv4Addr = Ipv4Addr::new(100, 64, 1, 3);
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
/// Behind the other interface.
const BEYOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
pub(super) const HEADER: usize = 12;

/// A UDP packet: from where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packet {
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
}

/// Somebody at the far end of a tap, who has every address that the host asks for there.
pub(super) struct End {
    pub(super) fd: OwnedFd,
    pub(super) mac: [u8; 6],
    pub(super) host: [u8; 6],
}

impl End {
    fn send(&self, packet: Packet) {
        let mut ip = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
        ip.extend(packet.from.0.octets());
        ip.extend(packet.to.0.octets());
        let sum: u32 = ip.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        ip[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
        let ports = [packet.from.1.to_be_bytes(), packet.to.1.to_be_bytes(), [0, 8], [0, 0]].concat();
        self.write(&[&[8, 0], ip.as_slice(), &ports].concat(), self.host);
    }

    pub(super) fn write(&self, rest: &[u8], to: [u8; 6]) {
        let frame = [&[0; HEADER][..], &to, &self.mac, rest].concat();
        rustix::io::write(&self.fd, &frame).unwrap();
    }

    /// The next UDP packet; requests for addresses are answered meanwhile.
    fn next(&self) -> Packet {
        let until = Instant::now() + SOON;
        loop {
            let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).unwrap();
            assert!(poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&left)).unwrap() > 0, "nothing came");
            let mut bytes = [0; 2048];
            let len = rustix::io::read(&self.fd, &mut bytes).unwrap();
            let frame = &bytes[HEADER..len];
            match frame[12..14] {
                [8, 6] if frame[20..22] == [0, 1] => self.answer(frame),
                [8, 0] if frame[23] == 17 => {
                    let address = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
                    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
                    return Packet { from: (address(26), port(34)), to: (address(30), port(36)) };
                }
                _ => {}
            }
        }
    }

    /// ARP: "I have it".
    fn answer(&self, frame: &[u8]) {
        let head = [8, 6, 0, 1, 8, 0, 6, 4, 0, 2];
        let rest = [&head[..], &self.mac, &frame[38..42], &frame[22..28], &frame[28..32]].concat();
        self.write(&rest, self.host);
    }
}

/// A tap of the test's own, up, with this address of the host.
fn outside(privileged: &mut Priv, name: &str, address: Ipv4Addr) -> End {
    end_of(privileged, name, address.into(), 24)
}

/// The same with any address.
pub(super) fn end_of(privileged: &mut Priv, name: &str, address: IpAddr, bits: u8) -> End {
    let device = control_device();
    sys::tun::attach(device.as_fd(), name).unwrap();
    sys::tap::set_header_length(device.as_fd(), sys::tap::VNET_HEADER_LENGTH).unwrap();
    let link = privileged.link(name).unwrap();
    privileged.route.set_up(link.index, true).unwrap();
    privileged.route.add_address(link.index, address, bits).unwrap();
    End { fd: device, mac: [2, 0, 0, 0, 0, 9], host: link.mac.unwrap() }
}

fn guest(privileged: &mut Priv, nat: bool) -> End {
    guest_of(privileged, nat, None, None)
}

/// One with an IPv6 address of the host, or in a group of the administrator's.
pub(super) fn guest_of(privileged: &mut Priv, nat: bool, inet6: Option<Ipv6Addr>, group: Option<u32>) -> End {
    let local = LocalEnd { inet: [100, 64, 1, 2].into(), inet6, nat };
    let message = |request| ToPriv::MakeTap {
        request,
        filtered: false,
        tap: TapSpec { group, local: Some(local), ..tap_of("vm1-if0-web") },
    };
    match privileged.ask(message, vec![control_device()]) {
        (ToParent::TapMade { mac, .. }, mut fds) => {
            let fd = fds.pop().unwrap();
            sys::tap::set_header_length(fd.as_fd(), sys::tap::VNET_HEADER_LENGTH).unwrap();
            End { fd, mac: [0xfe, 0xe1, 0xbb, 0xd1, 0, 1], host: mac.0 }
        }
        (other, _) => panic!("no tap: {other:?}"),
    }
}

/// A guest, and the outside behind two interfaces.
fn world(nat: bool) -> (Priv, End, End, End) {
    own_namespace();
    let mut privileged = Priv::start();
    let near = outside(&mut privileged, "up0", HOST);
    let far = outside(&mut privileged, "up1", Ipv4Addr::new(198, 51, 100, 1));
    let guest = guest(&mut privileged, nat);
    (privileged, guest, near, far)
}

fn packet(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Packet {
    Packet { from: (from, 7000), to: (to, port) }
}

fn forwarding(route: &mut Route) -> BTreeMap<String, bool> {
    let all = route.forwarding().unwrap();
    route.links().unwrap().into_iter().map(|link| (link.name, all[&link.index])).collect()
}

/// All that are there, but for those of each tap.
pub(super) fn chains() -> Vec<sys::netlink::nft::Listed> {
    let mut chains = sys::netlink::nft::Nft::open(SOON).unwrap().chains().unwrap();
    chains.retain(|chain| chain.family != sys::netlink::nft::NETDEV);
    chains
}

#[test]
fn a_guest_reaches_the_outside_as_the_host_and_is_answered() {
    let (_privileged, guest, near, far) = world(true);
    for (server, end, host) in [(SERVER, &near, HOST), (BEYOND, &far, Ipv4Addr::new(198, 51, 100, 1))] {
        guest.send(packet(GUEST, server, 53));
        let seen = end.next();
        assert_eq!((seen.from.0, seen.to), (host, (server, 53)), "it comes from the host");
        end.send(Packet { from: seen.to, to: seen.from });
        assert_eq!(guest.next(), Packet { from: (server, 53), to: (GUEST, 7000) });
    }
}

#[test]
fn a_guest_sends_only_as_itself() {
    let (_privileged, guest, near, _) = world(true);
    for from in [Ipv4Addr::new(100, 64, 9, 9), SERVER, BEYOND, Ipv4Addr::new(203, 0, 113, 7)] {
        guest.send(packet(from, SERVER, 1));
    }
    guest.send(packet(GUEST, SERVER, 2));
    assert_eq!(near.next().to, (SERVER, 2), "the first ones went nowhere");
}

#[test]
fn the_host_is_no_router_for_others() {
    let (_privileged, guest, near, far) = world(true);
    near.send(packet(SERVER, BEYOND, 1));
    near.send(packet(SERVER, GUEST, 1));
    far.send(packet(BEYOND, GUEST, 1));
    guest.send(packet(GUEST, BEYOND, 2));
    let seen = far.next();
    assert_eq!(seen.to, (BEYOND, 2), "what came from outside did not go on");
    far.send(Packet { from: seen.to, to: seen.from });
    assert_eq!(guest.next().from, (BEYOND, 2), "nor to the guest");
}

#[test]
fn a_host_that_was_a_router_stays_one() {
    own_namespace();
    let mut privileged = Priv::start();
    let near = outside(&mut privileged, "up0", HOST);
    let far = outside(&mut privileged, "up1", Ipv4Addr::new(198, 51, 100, 1));
    let index = privileged.link("up0").unwrap().index;
    privileged.route.set_forwarding(index, true).unwrap();
    let guest = guest(&mut privileged, true);
    near.send(packet(SERVER, BEYOND, 1));
    assert_eq!(far.next(), packet(SERVER, BEYOND, 1));
    near.send(packet(SERVER, GUEST, 1));
    guest.send(packet(GUEST, SERVER, 53));
    let seen = near.next();
    near.send(Packet { from: seen.to, to: seen.from });
    assert_eq!(guest.next().from, (SERVER, 53), "but none to the guest, who had not asked before");
    let now = forwarding(&mut privileged.end());
    assert_eq!((now["up0"], now["up1"]), (true, false), "each as it was");
}

#[test]
fn without_nat_nothing_is_changed() {
    let (mut privileged, _guest, _near, _far) = world(false);
    assert!(forwarding(&mut privileged.route).values().all(|on| !on));
    assert_eq!(chains(), []);
}

#[test]
fn the_end_takes_table_and_forwarding_back() {
    let (mut privileged, _guest, _near, _far) = world(true);
    let now = forwarding(&mut privileged.route);
    assert_eq!((now["up0"], now["up1"], now["tap0"], now["lo"]), (true, true, true, false));
    assert!(!chains().is_empty());
    assert!(forwarding(&mut privileged.end()).values().all(|on| !on));
    assert_eq!(chains(), []);
}

#[test]
fn a_sweep_takes_back_what_a_killed_priv_left() {
    let (mut first, guest, _near, _far) = world(true);
    drop(guest);
    first.gone("tap0");
    first.kill();
    let mut second = Priv::start();
    let swept = second.ask(|request| ToPriv::Sweep { request }, vec![]).0;
    assert!(matches!(swept, ToParent::Removed { .. }), "{swept:?}");
    assert!(forwarding(&mut second.route).values().all(|on| !on));
    assert_eq!(chains(), []);
}

#[test]
fn a_second_guest_and_a_new_priv_remember_what_forwards() {
    let (mut first, _guest, near, _far) = world(true);
    let _late = outside(&mut first, "up2", Ipv4Addr::new(203, 0, 113, 1));
    first.kill();
    let mut second = Priv::start();
    let again = self::guest(&mut second, true);
    assert!(forwarding(&mut second.route)["up2"]);
    assert_eq!(nat::Memory::of(&chains()).forwards.into_iter().collect::<Vec<_>>(), ["up0", "up1", "up2"]);
    drop((again, near));
    assert!(forwarding(&mut second.end()).values().all(|on| !on), "those of the first too");
}

/// Makes tables as an administrator does, in the namespace of this thread.
pub(super) fn nft(rules: &str) -> String {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let child = child.as_mut().map_err(|error| format!("nft: {error}")).unwrap();
    let lines = rules.replace('}', "\n}\n"); // each brace on a line of its own
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(child.stdout.as_mut().unwrap(), &mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{rules}");
    text
}

#[test]
fn a_policy_of_drop_is_passed_by_the_door_that_its_tool_has() {
    for door in ["DOCKER-USER", "ufw-user-forward"] {
        std::thread::spawn(move || {
            own_namespace();
            nft(&format!(
                "table ip filter {{ chain {door} {{ }}
                 chain FORWARD {{ type filter hook forward priority 0; policy drop; jump {door}; }} }}"
            ));
            let mut privileged = Priv::start();
            let near = outside(&mut privileged, "up0", HOST);
            let guest = guest(&mut privileged, true);
            guest.send(packet(GUEST, SERVER, 53));
            let seen = near.next();
            near.send(Packet { from: seen.to, to: seen.from });
            assert_eq!(guest.next().from, (SERVER, 53));
            assert!(nft("list ruleset").contains("iifname \"tap0\" accept comment \"vmd\""));
            privileged.end();
            assert!(!nft("list ruleset").contains("vmd"), "nothing of ours is left");
        })
        .join()
        .unwrap();
    }
}

#[test]
fn the_name_of_a_tap_that_goes_is_let_through_no_more() {
    own_namespace();
    nft("table ip filter { chain DOCKER-USER { counter; }
         chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; } }");
    let mut privileged = Priv::start();
    let [one, _two] = [(); 2].map(|()| guest(&mut privileged, true));
    let mut gone = |tap: &str| {
        privileged.channel.send(&ToPriv::TapGone { name: name(tap) }, vec![]).unwrap();
        privileged.settle();
        let rules = nft("list ruleset");
        assert!(rules.contains("counter"), "others' rules stay: {rules}");
        ["tap0", "tap1"].map(|tap| rules.matches(&format!("ifname \"{tap}\" accept")).count())
    };
    assert_eq!(gone("tap7"), [2, 2], "not one of ours");
    assert_eq!(gone("tap0"), [0, 2], "by its word alone: its descriptor is still held");
    drop(one);
    assert_eq!(gone("tap0"), [0, 2]);
    assert_eq!(gone("tap1"), [0, 0]);
}

#[test]
fn a_guest_in_a_group_of_the_administrators_gets_out_and_others_of_the_group_do_not() {
    own_namespace();
    let mut privileged = Priv::start();
    let near = outside(&mut privileged, "up0", HOST);
    let far = outside(&mut privileged, "up1", Ipv4Addr::new(198, 51, 100, 1));
    let index = privileged.link("up1").unwrap().index;
    privileged.route.set_mark(index, "", 1000).unwrap();
    let guest = guest_of(&mut privileged, true, None, Some(1000));
    guest.send(packet(Ipv4Addr::new(100, 64, 9, 9), SERVER, 1));
    far.send(packet(BEYOND, SERVER, 1));
    near.send(packet(SERVER, GUEST, 1));
    guest.send(packet(GUEST, SERVER, 53));
    let seen = near.next();
    assert_eq!((seen.from.0, seen.to), (HOST, (SERVER, 53)), "the first to come, and in the host's name");
    near.send(Packet { from: seen.to, to: seen.from });
    assert_eq!(guest.next(), Packet { from: (SERVER, 53), to: (GUEST, 7000) });
    drop(guest);
    privileged.gone("tap0");
    let again = guest_of(&mut privileged, true, None, Some(1000));
    assert_eq!(nat::Memory::of(&chains()).taps.len(), 1, "the first is gone and forgotten");
    drop(again);
    privileged.end();
    assert_eq!(chains(), []);
}

/// Where br_netfilter is loaded, as docker does, frames within a bridge are shown to the firewall too.
#[test]
fn what_stays_within_a_bridge_of_the_host_goes_on() {
    own_namespace();
    let mut privileged = Priv::start();
    let bridge = privileged.route.create_bridge("office0", 0).unwrap();
    privileged.route.set_up(bridge.index, true).unwrap();
    privileged.route.add_address(bridge.index, HOST.into(), 24).unwrap();
    let mut port = |name, address: u8| {
        let end = outside(&mut privileged, name, Ipv4Addr::new(203, 0, address, 1));
        let index = privileged.link(name).unwrap().index;
        privileged.route.set_master(index, Some(bridge.index)).unwrap();
        End { mac: [2, 0, 0, 0, 0, address], ..end }
    };
    let (one, two) = (port("port0", 1), port("port1", 2));
    let guest = guest(&mut privileged, true);
    assert!(forwarding(&mut privileged.route)["office0"], "a bridge that forwards only for guests");
    let within = packet(SERVER, Ipv4Addr::new(192, 0, 2, 8), 1);
    End { host: two.mac, ..one }.send(within);
    assert_eq!(two.next(), within);
    drop(guest);
}

/// What firewalld 1.3 (Debian 12) makes of its default zone, as far as forwarded packets meet it.
const FIREWALLD: &str = "table inet firewalld {
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state established,related accept
        ct status dnat accept
        iifname \"lo\" accept
        ct state invalid drop
        jump filter_FORWARD_ZONES
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD_POLICIES_pre { }
    chain filter_FORWARD_POLICIES_post { }
    chain filter_FWD_public_allow { }
    chain filter_FWD_public {
        jump filter_FORWARD_POLICIES_pre
        jump filter_FWD_public_allow
        jump filter_FORWARD_POLICIES_post
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD_ZONES { goto filter_FWD_public; }
}";

#[test]
fn firewalld_lets_local_taps_through_where_it_takes_rules() {
    own_namespace();
    nft(FIREWALLD);
    let mut privileged = Priv::start();
    let near = outside(&mut privileged, "up0", HOST);
    let guest = guest(&mut privileged, true);
    guest.send(packet(GUEST, SERVER, 53));
    let seen = near.next();
    near.send(Packet { from: seen.to, to: seen.from });
    assert_eq!(guest.next().from, (SERVER, 53));
    privileged.end();
    let left = nft("list ruleset");
    assert!(left.contains("filter_FWD_public") && !left.contains("vmd"), "{left}");
}

#[test]
fn a_table_that_belongs_to_its_tool_is_left_alone_and_the_vm_starts() {
    own_namespace();
    // It owns the table as long as it runs.
    let mut tool = Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut owned = tempfile::NamedTempFile::new().unwrap();
    let table = FIREWALLD.replacen('{', "{\n flags owner", 1).replace('}', "\n}\n");
    owned.write_all(table.as_bytes()).unwrap();
    writeln!(tool.stdin.as_mut().unwrap(), "include \"{}\"", owned.path().display()).unwrap();
    let until = Instant::now() + SOON;
    while chains().is_empty() {
        assert!(Instant::now() < until, "no table");
        std::thread::yield_now();
    }
    let mut privileged = Priv::start();
    let _near = outside(&mut privileged, "up0", HOST);
    let _guest = guest(&mut privileged, true);
    let table = nft("list table inet firewalld");
    assert!(table.contains("flags owner") && !table.contains("vmd"), "{table}");
    privileged.end();
    drop(tool.stdin.take()); // it ends, and its table with it
    tool.wait().unwrap();
}

#[test]
fn what_blocks_is_named() {
    own_namespace();
    nft("table ip mine { chain fw { type filter hook forward priority 5; policy drop; } }
         table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; policy accept; } }
         table ip6 six { chain fw { type filter hook forward priority 5; policy drop; } }
         table ip filter { chain INPUT { type filter hook input priority 0; policy drop; } }");
    let found = nat::blocking(&chains(), false);
    let places: Vec<String> = found.iter().map(|blocking| nat::place(&blocking.chain)).collect();
    assert_eq!(places, ["chain fw of table ip mine", "chain filter_FORWARD of table inet firewalld"]);
    let doors: Vec<_> = found.iter().map(|blocking| blocking.door.as_ref().map(|door| door.name.as_str())).collect();
    assert_eq!(doors, [None, Some("filter_FORWARD")]);
    let apart = nat::held_up("br0", &found[0]);
    for part in
        ["chain fw of table ip mine drops", "guests on bridge \"br0\"", "net.bridge.bridge-nf-call-iptables is 1"]
    {
        assert!(apart.contains(part), "{apart}");
    }
}
