//! Local interfaces with a stock guest: it gets its one address by DHCP, reaches the host, and by NAT what is beyond. Two
//! guests on one switch reach each other, and not under a false address.
#![forbid(unsafe_code)]

use std::fs;
use std::process::{Child, Command};

use e2e::vm_conf::{Vm, switch};
use testkit::artefacts::Kernel;
use testkit::bridge;
use testkit::census::Census;
use testkit::daemon::Daemon;
use testkit::deadline::{self, DAEMON};
use testkit::guest::Guest;
use testkit::machine::on_kvm;

/// What busybox's DHCP client does with what it is told: takes address and route, and shows all.
const CLIENT: &str = r#"printf '%s\n' '#!/bin/sh' '[ "$1" = bound ] || exit 0' 'ip addr add $ip/$mask dev $interface' 'ip route add default via $router dev $interface' 'echo told $ip/$mask $router $dns $serverid $lease $hostname' >/client; chmod 755 /client; ip link set eth0 up"#;

const LLADDR: &str = "fe:e1:bb:d1:00:01";

/// A VM's block with a local interface.
fn local(vm: &Vm, options: &str) -> String {
    let block = vm.text();
    let inside = block.trim_end().trim_end_matches('}');
    format!("{inside}\tlocal interface {{ lladdr {LLADDR} {options} }}\n}}\n")
}

fn asks_for_its_address(guest: &mut Guest) -> String {
    guest.check(CLIENT);
    guest.check("udhcpc -i eth0 -n -q -f -s /client 2>/dev/null | grep ^told")
}

#[test]
fn a_guest_gets_its_address_by_dhcp_and_reaches_the_host() {
    on_kvm("a_guest_gets_its_address_by_dhcp_and_reaches_the_host", || {
        let before = Census::take();
        let vm = Vm::new("web", Kernel::BzImage);
        let daemon = Daemon::start(&("local nat no\nlocal inet6 prefix \"fd00:1::\"\n".to_owned() + &local(&vm, "")));
        daemon.vmctl(&["start", "web"]).success();
        let mut guest = Guest::wait_up(daemon.console("web"));
        let told = asks_for_its_address(&mut guest);
        assert_eq!(told, "told 100.64.1.3/31 100.64.1.2 100.64.1.2 100.64.1.2 4294967295 web");
        guest.check("ping -c 3 -W 10 100.64.1.2");
        assert!(bridge::ping("100.64.1.3"), "the host reaches the guest");
        guest.check("ip addr add fd00:1::6440:103:0:2/96 dev eth0 && ping -6 -c 3 -W 10 fd00:1::6440:103:0:1");
        let accept_ra = fs::read_to_string("/proc/sys/net/ipv6/conf/tap0/accept_ra");
        assert_eq!(accept_ra.expect("a tap").trim(), "0", "the host believes no router behind the tap");
        drop(guest);
        daemon.vmctl(&["stop", "-f", "-w", "web"]).success();
        assert!(!bridge::exists("tap0"), "the tap is gone, and its addresses with it");
        assert!(daemon.stop().success(), "vmd ends well");
        before.wait_same();
    });
}

/// Another network namespace, joined to this one by a pair of interfaces. It knows no way to a guest.
struct Elsewhere(Child);

const BEYOND: &str = "192.0.2.9";

impl Elsewhere {
    fn new() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "100000"]).spawn().expect("unshare can be run");
        let there = format!("/proc/{}/ns/net", child.id());
        let here = fs::read_link("/proc/self/ns/net").expect("a namespace");
        while fs::read_link(&there).ok().is_none_or(|link| link == here) {
            std::thread::yield_now();
        }
        let inside = format!("nsenter --net={there}");
        for command in [
            &format!("ip link add out0 type veth peer name in0 netns {}", child.id()),
            "ip addr add 192.0.2.1/24 dev out0",
            "ip addr add 2001:db8::1/64 dev out0 nodad",
            "ip link set out0 up",
            &format!("{inside} ip addr add {BEYOND}/24 dev in0"),
            &format!("{inside} ip addr add 2001:db8::9/64 dev in0 nodad"),
            &format!("{inside} ip link set in0 up"),
        ] {
            run(command);
        }
        Self(child)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill(); // the pair of interfaces ends with its namespace
        let _ = self.0.wait();
    }
}

fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().expect("sh can be run");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn forwards(interface: &str) -> String {
    run(&format!("cat /proc/sys/net/ipv4/conf/{interface}/forwarding"))
}

/// As docker does it.
const POLICY_OF_DROP: &str = "nft 'add table ip filter; add chain ip filter DOCKER-USER; \
    add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; \
    add rule ip filter FORWARD jump DOCKER-USER'";

#[test]
fn a_guest_reaches_another_namespace_by_nat_through_a_policy_of_drop_too() {
    on_kvm("a_guest_reaches_another_namespace_by_nat_through_a_policy_of_drop_too", || {
        let _elsewhere = Elsewhere::new();
        let before = forwards("out0");
        let daemon = Daemon::start(&local(&Vm::new("web", Kernel::BzImage), ""));
        let ping = format!("ping -c 3 -W 10 {BEYOND}");

        daemon.vmctl(&["start", "web"]).success();
        let mut guest = Guest::wait_up(daemon.console("web"));
        asks_for_its_address(&mut guest);
        guest.check(&ping);
        assert_eq!((before.as_str(), forwards("out0").as_str()), ("0", "1"), "forwarding, where it was not");
        let passes = || run("nft list chain ip filter DOCKER-USER").matches("comment \"vmd\"").count();
        let rules_for_the_tap = || (passes() == 2).then_some(());
        for _ in 0..2 {
            run(POLICY_OF_DROP);
            deadline::until("rules that let the tap through, both ways", DAEMON, rules_for_the_tap);
            guest.check(&ping);
            run("nft flush ruleset");
            guest.check(&ping);
            deadline::until("the table that anybody can flush", DAEMON, || {
                run("nft list tables").contains("table inet vmd-host").then_some(())
            });
        }
        run("ip addr flush dev tap0");
        deadline::until("the address of the tap", DAEMON, || {
            run("ip addr show dev tap0").contains("100.64.1.2/31").then_some(())
        });
        guest.check(&ping);
        let log = daemon.log();
        assert!(log.contains("another program removed the nftables table \"inet vmd-host\""), "{log}");
        assert!(log.contains("\"tap0\": another program removed its address: vmd has put it back"), "{log}");
        run(POLICY_OF_DROP);
        drop(guest);
        daemon.vmctl(&["stop", "-f", "-w", "web"]).success();

        daemon.vmctl(&["start", "web"]).success();
        let mut guest = Guest::wait_up(daemon.console("web"));
        asks_for_its_address(&mut guest);
        guest.check(&ping);
        drop(guest);
        assert_eq!(passes(), 2, "both ways");
        daemon.vmctl(&["stop", "-f", "-w", "web"]).success();
        deadline::until("rules that name the tap go with it", DAEMON, || (passes() == 0).then_some(()));

        assert!(daemon.stop().success(), "vmd ends well");
        assert_eq!(forwards("out0"), "0", "as it was");
        let left = run("nft list ruleset");
        assert!(left.contains("policy drop") && !left.contains("vmd"), "nothing of vmd is left: {left}");
    });
}

/// The host's own resolver's stub, and what is behind it; in this test's own name space of mounts.
const RESOLV_CONF: &str = "printf 'nameserver 127.0.0.53\\nnameserver 192.0.2.9\\n' >/run/resolv.conf && \
    touch /etc/resolv.conf && mount --bind /run/resolv.conf /etc/resolv.conf";

#[test]
fn a_guest_is_told_name_servers_gets_out_by_ipv6_and_what_blocks_it_is_named() {
    on_kvm("a_guest_is_told_name_servers_gets_out_by_ipv6_and_what_blocks_it_is_named", || {
        let _elsewhere = Elsewhere::new();
        run(RESOLV_CONF);
        let settings =
            || run("cd /proc/sys/net/ipv6/conf && cat */forwarding */accept_ra; cat */force_forwarding; true");
        let before = settings();
        let conf = "local inet6 prefix \"fd00:1::\"\n".to_owned() + &local(&Vm::new("web", Kernel::BzImage), "");
        let daemon = Daemon::start(&conf);
        daemon.vmctl(&["start", "web"]).success();
        let mut guest = Guest::wait_up(daemon.console("web"));
        let told = asks_for_its_address(&mut guest);
        assert_eq!(told, format!("told 100.64.1.3/31 100.64.1.2 {BEYOND} 100.64.1.2 4294967295 web"));
        guest.check("ip addr add fd00:1::6440:103:0:2/96 dev eth0 && ip -6 route add default via fd00:1::6440:103:0:1");
        guest.check("ping -6 -c 3 -W 10 2001:db8::9");
        drop(guest);
        daemon.vmctl(&["stop", "-f", "-w", "web"]).success();

        run(
            "nft 'add table ip6 filter; add chain ip6 filter FORWARD { type filter hook forward priority 0; policy drop; }'",
        );
        daemon.vmctl(&["start", "web"]).success();
        Guest::wait_up(daemon.console("web"));
        let log = daemon.log();
        assert!(log.contains("chain FORWARD of table ip6 filter drops packets of local interfaces"), "{log}");
        daemon.vmctl(&["stop", "-f", "-w", "web"]).success();
        assert!(daemon.stop().success(), "vmd ends well");
        assert_eq!(settings(), before, "all as it was");
    });
}

/// Has a frame from that address come to the bridge? Its table has 16 bytes an entry, the address first.
fn learned(bridge: &str, lladdr: [u8; 6]) -> bool {
    let table = fs::read(format!("/sys/class/net/{bridge}/brforward")).expect("a bridge");
    table.chunks(16).any(|entry| entry.starts_with(&lladdr))
}

const SECOND: &str = "fe:e1:bb:d1:00:02";

#[test]
fn two_guests_on_one_switch_reach_each_other_but_not_under_a_false_address() {
    on_kvm("two_guests_on_one_switch_reach_each_other_but_not_under_a_false_address", || {
        let vm = |name: &str, lladdr: &str| Vm::new(name, Kernel::BzImage).size(1, "128M").card("lan", lladdr).text();
        let locked = vm("one", LLADDR).replace("lladdr", "locked lladdr");
        let daemon = Daemon::start(&(switch("lan", "bridge0") + &locked + &vm("two", SECOND)));
        let mut up = ["one", "two"].map(|name| {
            daemon.vmctl(&["start", name]).success();
            Guest::wait_up(daemon.console(name))
        });
        for (guest, number) in up.iter_mut().zip(1..) {
            guest.check(&format!("ip addr add 10.9.0.{number}/24 dev eth0 && ip link set eth0 up"));
        }
        let [one, two] = &mut up;
        one.check("ping -c 3 -W 10 10.9.0.2");
        two.check("ping -c 3 -W 10 10.9.0.1");

        let becomes = |guest: &mut Guest, lladdr: &str| {
            guest.check(&format!("ip link set eth0 down && ip link set eth0 address {lladdr} && ip link set eth0 up"));
        };
        becomes(one, "fe:e1:bb:d1:00:03");
        one.check("! ping -c 3 -W 2 10.9.0.2");
        assert!(learned("bridge0", [0xfe, 0xe1, 0xbb, 0xd1, 0, 1]), "the bridge knows the guest");
        assert!(!learned("bridge0", [0xfe, 0xe1, 0xbb, 0xd1, 0, 3]), "and no frame of its false address");
        becomes(one, LLADDR);
        one.check("ping -c 3 -W 10 10.9.0.2");
        // Only a locked card is held to its address.
        becomes(two, "fe:e1:bb:d1:00:04");
        two.check("ping -c 3 -W 10 10.9.0.1");
        drop(up);
        for name in ["one", "two"] {
            daemon.vmctl(&["stop", "-f", "-w", name]).success();
        }
        assert!(daemon.stop().success(), "vmd ends well");
    });
}

/// What came from a guest by its tap, whatever its bridge does with it then: UDP from port 67 and to it, router
/// advertisements and solicitations.
struct Heard(String);

impl Heard {
    const KINDS: [&str; 4] =
        ["udp sport 67", "udp dport 67", "icmpv6 type nd-router-advert", "icmpv6 type nd-router-solicit"];

    fn by(tap: &str) -> Self {
        let rules = Self::KINDS.map(|kind| format!("{kind} counter;")).join(" ");
        let chain = format!("type filter hook ingress device \"{tap}\" priority 0; {rules}");
        run(&format!("nft 'table netdev heard-{tap} {{ chain from {{ {chain} }}; }}'"));
        Self(tap.to_owned())
    }

    /// Which of the kinds came.
    fn kinds(&self) -> [bool; 4] {
        let listed = run(&format!("nft list table netdev heard-{}", self.0));
        Self::KINDS.map(|kind| {
            let (_, counted) = listed.split_once(&format!("{kind} counter packets ")).expect("a rule of ours");
            !counted.starts_with('0')
        })
    }
}

const CLIENTS: [bool; 4] = [false, true, false, true];

#[test]
fn guests_of_a_guarded_and_isolated_switch_are_clients_of_the_host_and_reach_no_other() {
    on_kvm("guests_of_a_guarded_and_isolated_switch_are_clients_of_the_host_and_reach_no_other", || {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let program = dir.path().join("program");
        fs::copy(env!("CARGO_BIN_EXE_as-server"), &program).expect("a program");
        let whole = fs::metadata(&program).expect("it is there").len().next_multiple_of(4096);
        fs::File::options().write(true).open(&program).and_then(|file| file.set_len(whole)).expect("it can grow");
        let lan = "switch \"lan\" {\n\tinterface bridge0\n\tguarded\n\tisolated\n}\n".to_owned();
        let one = Vm::new("one", Kernel::BzImage).size(1, "192M").card("lan", LLADDR).card("dmz", "fe:e1:bb:d1:00:09");
        let two = Vm::new("two", Kernel::BzImage).size(1, "128M").card("lan", SECOND);
        let conf = lan + &switch("dmz", "bridge1") + &one.disk(&program).text() + &two.text();
        let daemon = Daemon::start(&conf);
        let mut up = ["one", "two"].map(|name| {
            daemon.vmctl(&["start", name]).success();
            Guest::wait_up(daemon.console(name))
        });
        bridge::ip("addr add 10.9.0.254/24 dev bridge0");
        bridge::ip("addr add 10.8.0.254/24 dev bridge1");
        for (guest, number) in up.iter_mut().zip(1..) {
            guest.check(&format!("ip addr add 10.9.0.{number}/24 dev eth0 && ip link set eth0 up"));
            guest.check("ping -c 3 -W 10 10.9.0.254");
            assert!(bridge::ping(&format!("10.9.0.{number}")), "the host reaches {number}");
        }
        let [one, two] = &mut up;
        one.check("! ping -c 3 -W 2 10.9.0.2");
        two.check("! ping -c 3 -W 2 10.9.0.1");

        one.check("dd if=/dev/vda of=/as-server bs=1M && chmod 755 /as-server");
        one.check("ip addr add 10.8.0.1/24 dev eth1 && ip link set eth1 up");
        for (bridge, interface, host, kinds) in
            [("bridge0", "eth0", "10.9.0.254", CLIENTS), ("bridge1", "eth1", "10.8.0.254", [true; 4])]
        {
            let alias = |tap: &String| run(&format!("cat /sys/class/net/{tap}/ifalias"));
            let tap = bridge::members(bridge).into_iter().find(|tap| alias(tap).ends_with("-one")).expect("a tap");
            let heard = Heard::by(&tap);
            one.check(&format!("until /as-server {interface} {host}; do sleep 1; done"));
            deadline::until("what clients say comes", DAEMON, || {
                heard.kinds().iter().zip(CLIENTS).all(|(came, clients)| *came || !clients).then_some(())
            });
            assert_eq!(heard.kinds(), kinds, "by {bridge}");
        }
        drop(up);
        for name in ["one", "two"] {
            daemon.vmctl(&["stop", "-f", "-w", name]).success();
        }
        assert!(daemon.stop().success(), "vmd ends well");
    });
}

#[test]
fn routing_domains_are_vrfs_of_bridges_and_taps_and_go_at_the_end() {
    on_kvm("routing_domains_are_vrfs_of_bridges_and_taps_and_go_at_the_end", || {
        let vm = Vm::new("web", Kernel::BzImage).card("lan", LLADDR).text();
        let alone = format!("interface {{ lladdr {SECOND} rdomain 4 }}\n}}");
        let conf = "switch \"lan\" {\n\tinterface bridge0\n\trdomain 3\n}\n".to_owned();
        let daemon = Daemon::start(&(conf + vm.trim_end().trim_end_matches('}') + &alone));
        daemon.vmctl(&["start", "web"]).success();
        let master = |of: &str| {
            let link = fs::read_link(format!("/sys/class/net/{of}/master")).expect("a master");
            link.file_name().expect("a name").to_string_lossy().into_owned()
        };
        let taps = ["tap0", "tap1"].map(|tap| (run(&format!("cat /sys/class/net/{tap}/ifalias")), master(tap)));
        let pair = |alias: &str, master: &str| (alias.to_owned(), master.to_owned());
        assert!(taps.contains(&pair("vm1-if0-web", "bridge0")), "{taps:?}");
        assert!(taps.contains(&pair("vm1-if1-web", "rdomain4")), "{taps:?}");
        assert_eq!(master("bridge0"), "rdomain3");
        for known in ["bridge0", "rdomain3", "rdomain4"] {
            assert!(run(&format!("ip link show vmd-{known}")).contains(known), "other programs know it by that name");
        }
        daemon.vmctl(&["stop", "-f", "-w", "web"]).success();
        assert!(daemon.stop().success(), "vmd ends well");
        for gone in ["bridge0", "rdomain3", "rdomain4"] {
            assert!(!bridge::exists(gone), "{gone} is gone");
        }
    });
}
