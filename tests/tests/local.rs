//! Local interfaces with a stock guest: it gets its one address by DHCP and reaches the host.
#![forbid(unsafe_code)]

use std::fs;

use e2e::vm_conf::Vm;
use testkit::artefacts::Kernel;
use testkit::bridge;
use testkit::census::Census;
use testkit::daemon::Daemon;
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
