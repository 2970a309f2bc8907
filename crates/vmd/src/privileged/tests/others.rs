//! Other programs of the host: what they flush, take away or switch off is there again.

use std::process::Command;

use proto::privileged::{HOST_TABLE, TABLE, Undone};

use sys::netlink::nft::{INET, NETDEV, Nft};

use super::outside::{chains, guest_of, nft};
use super::*;

/// Waits for what priv does by itself.
fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::yield_now();
    }
}

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}

/// What priv says unasked.
fn put_back(privileged: &mut Priv) -> (String, Undone, bool) {
    match privileged.channel.recv_within(SOON).unwrap() {
        Received::Message(ToParent::PutBack { name, undone, gave_up }, _) => (name.to_string(), undone, gave_up),
        other => panic!("not that it was put back: {other:?}"),
    }
}

fn shown() -> String {
    nft("list ruleset")
}

#[test]
fn a_flush_of_all_rules_takes_no_isolation_away_and_the_rest_is_restored() {
    own_namespace();
    let mut privileged = Priv::start();
    privileged.switch("br0", true);
    let (_, _, _port) = privileged.tap(None, Some("br0"));
    let _guest = guest_of(&mut privileged, true, None, None);
    let before = shown();
    for table in ["inet vmd", "netdev vmd-tap0", "netdev vmd-tap1", "inet vmd-host"] {
        assert!(before.contains(&format!("table {table} ")), "{table}: {before}");
    }
    assert_eq!(before.matches("flags owner").count(), 3, "{before}");
    nft("flush ruleset");
    let there = |text: &str| ["vmd", "vmd-tap0", "vmd-tap1"].iter().all(|name| text.contains(&format!(" {name} {{")));
    assert!(there(&shown()), "these were never gone");
    // What was removed with the host's table is the same again: the sets of taps alone remember what came.
    soon("the host's table", || shown().contains("table inet vmd-host "));
    for rules in ["flush table inet vmd-host", "delete chain inet vmd-host forward", "delete table inet vmd-host"] {
        nft(rules);
        soon(rules, || shown() == before);
    }
    let mut tool = Nft::open(SOON).unwrap();
    assert_eq!(tool.delete(INET, TABLE).unwrap_err().errno(), Some(rustix::io::Errno::PERM));
    privileged.end();
    assert_eq!(shown(), "", "nothing of ours is left");
}

/// Removes a table as only the owner can, and as anybody could on Linux before 5.12. No answer is asked for, which priv could
/// take for one of its own.
fn remove_as_owner(family: u8, table: &str) {
    let message = |kind: u16, flags: u16, family: u8, body: &[u8]| {
        let length = u32::try_from(20 + body.len()).unwrap();
        let head = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]].concat();
        [head, vec![family, 0, 0, if kind < 0x20 { 10 } else { 0 }], body.to_vec()].concat()
    };
    let mut name = table.as_bytes().to_vec();
    name.push(0);
    let mut attribute = u16::try_from(4 + name.len()).unwrap().to_ne_bytes().to_vec();
    attribute.extend([1, 0]);
    attribute.extend(name);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    let batch = [message(0x10, 1, 0, &[]), message(0xa02, 1, family, &attribute), message(0x11, 1, 0, &[])].concat();
    TABLES.with_borrow(|tables| rustix::io::write(tables.as_ref().unwrap(), &batch)).unwrap();
}

#[test]
fn without_owners_each_table_is_restored() {
    own_namespace();
    let mut privileged = Priv::start();
    let _guest = guest_of(&mut privileged, true, None, None);
    let before = shown();
    for (family, table) in [(INET, "vmd"), (NETDEV, "vmd-tap0"), (INET, "vmd-host")] {
        remove_as_owner(family, table);
        soon(table, || {
            let now = shown();
            ["table inet vmd {", "table netdev vmd-tap0 {", "table inet vmd-host {"].iter().all(|one| now.contains(one))
                && now.len() == before.len()
        });
    }
    privileged.end();
    assert_eq!(shown(), "", "nothing of ours is left");
}

#[test]
fn a_table_stays_over_the_end_of_a_priv_and_goes_with_the_parents_socket() {
    own_namespace();
    let mut first = Priv::start();
    let _guest = guest_of(&mut first, true, None, None);
    let tables = |name: &str| chains().iter().filter(|chain| chain.table == name).count();
    // It ends as by a signal: nothing is removed.
    first.kill();
    assert!(tables(TABLE) > 0, "the parent holds its socket");
    nft("delete table inet vmd-host");
    let second = Priv::start();
    soon("the next one restores what was removed meanwhile", || tables(HOST_TABLE) > 0);
    second.kill();
    drop(TABLES.take());
    // A child that another test starts has a copy until it executes its program.
    soon("the table goes with the last descriptor", || tables(TABLE) == 0);
    assert!(tables(HOST_TABLE) > 0, "what keeps the host from being a router stays, and what is to be undone");
    TABLES.replace(Some(sys::netlink::nft::socket().unwrap()));
    let mut next = Priv::start();
    let swept = next.ask(|request| ToPriv::Sweep { request }, vec![]).0;
    assert!(matches!(swept, ToParent::Removed { .. }), "{swept:?}");
    assert_eq!(chains(), []);
}

#[test]
fn rules_in_the_places_of_others_are_restored_when_these_are_made_anew() {
    own_namespace();
    let mut privileged = Priv::start();
    let _guest = guest_of(&mut privileged, true, None, None);
    let passes = || shown().matches("comment \"vmd\"").count();
    for _ in 0..3 {
        // Docker is started after the VM, or again.
        nft("table ip filter { chain DOCKER-USER { }
             chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; } }");
        soon("rules that name the tap", || passes() == 2);
        nft("flush chain ip filter DOCKER-USER");
        soon("rules that name the tap, after a flush", || passes() == 2);
        nft("delete table ip filter");
    }
    privileged.end();
}

#[test]
fn a_tap_that_is_taken_off_its_bridge_or_loses_its_address_has_it_again() {
    own_namespace();
    let mut privileged = Priv::start();
    privileged.switch("br0", true);
    let (_, _, _port) = privileged.tap(None, Some("br0"));
    let bridge = privileged.link("br0").unwrap().index;
    let _guest = guest_of(&mut privileged, true, Some([0xfd00, 0, 0, 1, 0x6440, 0x103, 0, 1].into()), None);
    ip("link set tap0 nomaster");
    assert_eq!(put_back(&mut privileged), ("tap0".to_owned(), Undone::Master, false));
    assert_eq!(privileged.link("tap0").unwrap().master, Some(bridge));
    ip("addr flush dev tap1 scope global");
    let addresses = |privileged: &mut Priv| {
        let index = privileged.link("tap1").unwrap().index;
        let all = privileged.route.addresses().unwrap();
        let own = all.into_iter().filter(|(link, _, _)| *link == index);
        own.map(|(_, ip, bits)| format!("{ip}/{bits}")).filter(|text| !text.starts_with("fe80")).collect::<Vec<_>>()
    };
    assert_eq!(put_back(&mut privileged), ("tap1".to_owned(), Undone::Address, false));
    let both = ["100.64.1.2/31", "fd00::1:6440:103:0:1/96"];
    soon("both addresses", || addresses(&mut privileged) == both);
    for link in ["tap1", "br0"] {
        ip(&format!("link set {link} down"));
        soon("it is up", || privileged.link(link).unwrap().up);
        assert_eq!(put_back(&mut privileged), (link.to_owned(), Undone::Up, false));
    }
    soon("both addresses", || addresses(&mut privileged) == both);
}

#[test]
fn an_isolated_port_is_so_again_before_a_frame_goes_by() {
    own_namespace();
    let mut privileged = Priv::start();
    privileged.switch("br0", true);
    let tap = TapSpec { bridge: Some(name("br0")), isolated: true, ..tap_of("vm1-if0-web") };
    let message = |request| ToPriv::MakeTap { request, tap, filtered: false };
    let (_, _port) = privileged.ask(message, vec![control_device()]);
    assert!(privileged.link("tap0").unwrap().isolated);
    ip("link set tap0 nomaster");
    assert_eq!(put_back(&mut privileged).1, Undone::Master);
    let tap = privileged.link("tap0").unwrap();
    assert!(tap.isolated && tap.up && tap.master.is_some(), "{tap:?}");
}

#[test]
fn there_is_no_war_and_a_look_that_is_asked_for_begins_anew() {
    own_namespace();
    let mut privileged = Priv::start();
    privileged.switch("br0", true);
    let (_, _, _port) = privileged.tap(None, Some("br0"));
    for _ in 0..5 {
        ip("link set tap0 nomaster");
        assert_eq!(put_back(&mut privileged), ("tap0".to_owned(), Undone::Master, false));
    }
    ip("link set tap0 nomaster");
    assert_eq!(put_back(&mut privileged), ("tap0".to_owned(), Undone::Master, true));
    assert_eq!(privileged.link("tap0").unwrap().master, None, "left as it is");
    privileged.channel.send(&ToPriv::Look { filtered: false }, vec![]).unwrap();
    assert_eq!(put_back(&mut privileged), ("tap0".to_owned(), Undone::Master, false));
}

#[test]
fn a_next_priv_keeps_what_it_found() {
    own_namespace();
    let mut first = Priv::start();
    first.switch("br0", true);
    let (_, _, _port) = first.tap(None, Some("br0"));
    let _guest = guest_of(&mut first, true, None, None);
    first.kill();
    let mut second = Priv::start();
    second.settle(); // it has looked
    ip("link set tap0 nomaster");
    assert_eq!(put_back(&mut second), ("tap0".to_owned(), Undone::Master, false));
    ip("addr flush dev tap1");
    assert_eq!(put_back(&mut second), ("tap1".to_owned(), Undone::Address, false));
}

#[test]
fn what_vmd_made_has_a_name_by_which_others_leave_it_alone() {
    own_namespace();
    let mut privileged = Priv::start();
    privileged.switch("br0", true);
    let (_, _, _port) = privileged.tap(Some("web0"), Some("br0"));
    let _guest = guest_of(&mut privileged, false, None, None);
    for (other, link) in [("vmd-br0", "br0"), ("vmd-web0", "web0"), ("vmd-tap0", "tap0")] {
        assert_eq!(privileged.link(other).map(|found| found.name).as_deref(), Some(link));
    }
}

#[test]
fn a_bridge_goes_when_its_switch_does_and_nobody_uses_it() {
    own_namespace();
    let mut privileged = Priv::start();
    let remove = |privileged: &mut Priv, bridge: &str| {
        privileged.channel.send(&ToPriv::RemoveSwitch { bridge: name(bridge) }, vec![]).unwrap();
        privileged.settle();
    };
    privileged.switch("br0", true);
    remove(&mut privileged, "br0");
    soon("without a port it goes at once", || privileged.link("br0").is_none());
    privileged.switch("br0", true);
    let (_, _, port) = privileged.tap(None, Some("br0"));
    remove(&mut privileged, "br0");
    ip("link set tap0 up"); // one more look
    privileged.settle();
    assert!(privileged.link("br0").is_some(), "it has a port");
    drop(port);
    soon("with its last port", || privileged.link("br0").is_none());
    privileged.switch("br0", true);
    let (_, _, port) = privileged.tap(None, Some("br0"));
    remove(&mut privileged, "br0");
    privileged.switch("br0", true);
    drop(port);
    privileged.gone("tap0");
    ip("link add other0 type bridge");
    remove(&mut privileged, "other0");
    ip("link set br0 down");
    assert_eq!(put_back(&mut privileged), ("br0".to_owned(), Undone::Up, false), "a look, and it is wanted again");
    assert!(privileged.link("br0").is_some() && privileged.link("other0").is_some(), "another's is not ours to remove");
}
