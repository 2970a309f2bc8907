//! The kernel's own rtnetlink and tun, each test in a network namespace of its own (needs root).
#![allow(deprecated)] // rustix's safe `unshare`: CLONE_NEWNET alone shares no descriptors anew

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;
use rustix::thread::{UnshareFlags, unshare};

use super::*;
use crate::tun::{self, TunError};

/// Runs `body` on a thread in an empty network namespace, which ends with it.
fn in_namespace(body: impl FnOnce(&mut Route) + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(UnshareFlags::NEWNET).expect("a network namespace, as root");
            body(&mut open());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn open() -> Route {
    Route::open(Duration::from_secs(5)).unwrap()
}

fn control_device() -> File {
    OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap()
}

fn tap(name: &str) -> File {
    let file = control_device();
    tun::attach(file.as_fd(), name).unwrap();
    file
}

#[test]
fn a_bridge_is_made_looked_up_and_removed() {
    in_namespace(|route| {
        let made = route.create_bridge("br0", 77).unwrap();
        assert_eq!((made.name.as_str(), made.kind, made.group, made.up), ("br0", LinkKind::Bridge, 77, false));
        assert!(made.mac.is_some());
        route.delete(made.index).unwrap();
        assert_eq!(route.link("br0").unwrap(), None);
        assert!(route.delete(made.index).unwrap_err().is_missing());
    });
}

#[test]
fn a_taken_name_is_taken() {
    in_namespace(|route| {
        route.create_bridge("br0", 0).unwrap();
        assert!(route.create_bridge("br0", 0).unwrap_err().is_taken());
        assert!(route.create_bridge("lo", 0).unwrap_err().is_taken());
    });
}

#[test]
fn a_name_that_linux_refuses_is_refused() {
    in_namespace(|route| {
        for name in ["", "a/b", "sixteen-bytes-xx"] {
            let error = route.create_bridge(name, 0).unwrap_err();
            assert!(error.errno().is_some(), "{name:?}: {error}");
        }
        assert_eq!(route.links().unwrap().len(), 1, "only lo");
    });
}

#[test]
fn what_is_set_is_told_back() {
    in_namespace(|route| {
        let bridge = route.create_bridge("br0", 5).unwrap().index;
        let _tap = tap("tap3");
        let port = route.link("tap3").unwrap().unwrap();
        assert_eq!((port.kind, port.master, port.up, port.alias.as_str()), (LinkKind::Tun, None, false, ""));
        route.set_mark(port.index, "vm1-if0-web", 9).unwrap();
        route.set_master(port.index, Some(bridge)).unwrap();
        route.set_mtu(port.index, 1400).unwrap();
        route.set_up(port.index, true).unwrap();
        let port = route.link("tap3").unwrap().unwrap();
        assert_eq!((port.master, port.up, port.mtu), (Some(bridge), true, 1400));
        assert_eq!((port.alias.as_str(), port.group), ("vm1-if0-web", 9));
        route.set_master(port.index, None).unwrap();
        route.set_up(port.index, false).unwrap();
        let port = route.link("tap3").unwrap().unwrap();
        assert_eq!((port.master, port.up), (None, false));
    });
}

#[test]
fn another_name_is_told_back_finds_its_link_and_is_no_others() {
    in_namespace(|route| {
        let _taps = (tap("tap0"), tap("tap1"));
        let (one, two) = (route.link("tap0").unwrap().unwrap(), route.link("tap1").unwrap().unwrap());
        route.add_name(one.index, "vmd-tap0").unwrap();
        assert!(route.add_name(two.index, "vmd-tap0").unwrap_err().is_taken());
        assert_eq!(route.link("tap0").unwrap().unwrap().names, ["vmd-tap0"]);
        let names: Vec<_> = route.links().unwrap().into_iter().map(|link| link.names).collect();
        assert_eq!(names.concat(), ["vmd-tap0"]);
    });
}

#[test]
fn a_bridge_that_was_given_its_address_keeps_it() {
    in_namespace(|route| {
        let bridge = route.create_bridge("br0", 0).unwrap();
        route.set_mac(bridge.index, bridge.mac.unwrap()).unwrap();
        let _tap = tap("tap0");
        let port = route.link("tap0").unwrap().unwrap();
        route.set_mac(port.index, [2, 0, 0, 0, 0, 1]).unwrap(); // lower than any random one
        route.set_master(port.index, Some(bridge.index)).unwrap();
        assert_eq!(route.link("br0").unwrap().unwrap().mac, bridge.mac);
    });
}

#[test]
fn a_master_that_is_no_bridge_is_refused_with_the_kernels_error() {
    in_namespace(|route| {
        let (_a, _b) = (tap("tap0"), tap("tap1"));
        let (a, b) = (route.link("tap0").unwrap().unwrap(), route.link("tap1").unwrap().unwrap());
        assert!(route.set_master(a.index, Some(b.index)).unwrap_err().errno().is_some());
        assert!(route.set_master(a.index, Some(9999)).unwrap_err().errno().is_some());
        assert_eq!(route.link("tap0").unwrap().unwrap(), a);
    });
}

#[test]
fn addresses_are_added_and_the_same_again_is_fine() {
    in_namespace(|route| {
        let bridge = route.create_bridge("br0", 0).unwrap().index;
        for _ in 0..2 {
            route.add_address(bridge, Ipv4Addr::new(100, 64, 1, 2).into(), 31).unwrap();
            route.add_address(bridge, Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into(), 96).unwrap();
        }
        assert!(route.add_address(9999, Ipv4Addr::LOCALHOST.into(), 8).unwrap_err().is_missing());
        std::net::UdpSocket::bind("100.64.1.2:0").unwrap();
    });
}

#[test]
fn hundreds_of_links_are_listed_whole() {
    in_namespace(|route| {
        for number in 0..300 {
            route.create_bridge(&format!("br{number}"), 1).unwrap();
        }
        let links = route.links().unwrap();
        assert_eq!(links.iter().filter(|link| link.group == 1).count(), 300);
        assert_eq!(links.len(), 301, "and lo");
    });
}

#[test]
fn without_the_capability_the_answer_is_eperm() {
    in_namespace(|route| {
        let sets = rustix::thread::CapabilitySets {
            effective: rustix::thread::CapabilitySet::empty(),
            permitted: rustix::thread::CapabilitySet::empty(),
            inheritable: rustix::thread::CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, sets).unwrap();
        let error = route.create_bridge("br0", 0).unwrap_err();
        assert_eq!(error.errno(), Some(rustix::io::Errno::PERM));
        assert!(route.link("lo").unwrap().is_some(), "reading stays allowed");
    });
}

#[test]
fn a_tap_is_new_non_blocking_and_ends_with_its_descriptor() {
    in_namespace(|route| {
        let first = tap("tap0");
        assert!(fcntl_getfl(&first).unwrap().contains(OFlags::NONBLOCK));
        assert!(matches!(tun::attach(control_device().as_fd(), "tap0"), Err(TunError::Busy)));
        assert!(matches!(tun::attach(control_device().as_fd(), "lo"), Err(TunError::Busy)));
        drop(first);
        assert_eq!(route.link("tap0").unwrap(), None);
        tap("tap0");
    });
}

#[test]
fn a_tap_with_no_name_of_an_interface_is_refused() {
    in_namespace(|route| {
        for name in ["", "tap%d", "sixteen-bytes-xx", "a\0b"] {
            assert!(matches!(tun::attach(control_device().as_fd(), name), Err(TunError::Name)), "{name:?}");
        }
        assert!(matches!(tun::attach(control_device().as_fd(), "a/b"), Err(TunError::Refused(_))));
        assert_eq!(route.links().unwrap().len(), 1, "only lo");
    });
}

#[test]
fn a_descriptor_that_is_no_tun_is_refused() {
    in_namespace(|_| {
        let null = File::open("/dev/null").unwrap();
        assert!(matches!(tun::attach(null.as_fd(), "tap0"), Err(TunError::Refused(_))));
    });
}

#[test]
fn any_bytes_parse_to_a_link_or_an_error() {
    let mut bytes = vec![0u8; 16];
    bytes[4] = 1;
    bytes.extend([8, 0, 3, 0, b'l', b'o', 0, 0]);
    assert_eq!(link::parse(&bytes).unwrap().name, "lo");
    for at in 0..bytes.len() {
        for value in [0, 1, 3, 4, 5, 0x7f, 0x80, 0xff] {
            let mut odd = bytes.clone();
            odd[at] = value;
            let _ = link::parse(&odd);
            let _ = link::parse(&odd[..at]);
        }
    }
    assert!(matches!(link::parse(&bytes[..16]), Err(NetlinkError::Malformed)), "a link without a name");
}

#[test]
fn forwarding_is_told_and_set_of_each_interface_alone() {
    in_namespace(|route| {
        let bridges = ["br0", "br1"].map(|name| route.create_bridge(name, 0).unwrap().index);
        let of = |route: &mut Route| {
            let all = route.forwarding().unwrap();
            bridges.map(|index| all[&index])
        };
        assert_eq!(of(route), [false, false]);
        route.set_forwarding(bridges[1], true).unwrap();
        assert_eq!(of(route), [false, true]);
        route.set_forwarding(bridges[1], false).unwrap();
        assert_eq!(of(route), [false, false]);
        assert!(route.set_forwarding(9999, true).unwrap_err().is_missing());
    });
}

fn sample(name: &'static str) -> nft::Table {
    use nft::{Chain, Expr, Fact, Hook, Table};
    let group = 7_u32.to_ne_bytes().to_vec();
    let rules = vec![
        vec![
            Expr::Load(Fact::OutGroup),
            Expr::Is(group.clone()),
            Expr::Load(Fact::State),
            Expr::Mask(6),
            Expr::IsNot(vec![0; 4]),
            Expr::Accept,
        ],
        vec![Expr::Load(Fact::InName), Expr::Is(b"eth0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()), Expr::Drop],
    ];
    let back = vec![vec![
        Expr::Load(Fact::InGroup),
        Expr::Is(group),
        Expr::Load(Fact::WayBack),
        Expr::Is(vec![0; 4]),
        Expr::Drop,
    ]];
    let out = vec![vec![Expr::Load(Fact::Family), Expr::Is(vec![2]), Expr::Masquerade]];
    let chain = |name: &str, base, rules| Chain { name: name.to_owned(), base, rules };
    Table {
        name: name.to_owned(),
        device: None,
        owned: false,
        sets: vec![],
        chains: vec![
            chain("back", Some((Hook::PreRouting, "filter", -150)), back),
            chain("forward", Some((Hook::Forward, "filter", 0)), rules),
            chain("out", Some((Hook::PostRouting, "nat", 100)), out),
            chain("only-a-name", None, vec![]),
        ],
    }
}

#[test]
fn a_table_is_made_replaced_listed_and_removed() {
    in_namespace(|_| {
        let mut filter = nft::Nft::open(Duration::from_secs(5)).unwrap();
        filter.delete(nft::INET, "vmd").unwrap();
        for _ in 0..2 {
            filter.replace(&sample("vmd")).unwrap();
            let chains = filter.chains().unwrap();
            let names: Vec<_> =
                chains.iter().map(|chain| (chain.table.as_str(), chain.name.as_str(), chain.hook)).collect();
            let hooks = [("back", Some(0)), ("forward", Some(2)), ("out", Some(4)), ("only-a-name", None)];
            assert_eq!(names, hooks.map(|(name, hook)| ("vmd", name, hook)));
            assert!(chains.iter().all(|chain| !chain.drops));
        }
        filter.replace(&nft::Table { chains: vec![], ..sample("other") }).unwrap();
        filter.delete(nft::INET, "vmd").unwrap();
        assert_eq!(filter.chains().unwrap(), []);
    });
}

#[test]
fn a_batch_with_an_error_changes_nothing() {
    in_namespace(|_| {
        let mut filter = nft::Nft::open(Duration::from_secs(5)).unwrap();
        filter.replace(&sample("vmd")).unwrap();
        let before = filter.chains().unwrap();
        let mut bad = sample("vmd");
        bad.chains.remove(0);
        bad.chains[0].rules.push(vec![nft::Expr::Masquerade]); // in a chain of filters
        assert!(filter.replace(&bad).unwrap_err().errno().is_some());
        assert_eq!(filter.chains().unwrap(), before);
        filter.replace(&sample("vmd")).unwrap();
    });
}

#[test]
fn tagged_rules_are_exchanged_alone_and_at_once() {
    in_namespace(|_| {
        let mut filter = nft::Nft::open(Duration::from_secs(5)).unwrap();
        filter.replace(&sample("others")).unwrap();
        let chain = filter.chains().unwrap().into_iter().find(|chain| chain.name == "forward").unwrap();
        let two = [vec![nft::Expr::Accept], vec![nft::Expr::Accept]];
        filter.exchange(&chain, "other", &two[..1]).unwrap();
        for rules in [&two[..], &two[..1], &two[..], &[], &[]] {
            filter.exchange(&chain, "vmd", rules).unwrap();
            let tagged = ["vmd", "other"].map(|tag| filter.tagged(&chain, tag).unwrap());
            assert_eq!(tagged, [rules.len(), 1]);
        }
        let bad = [vec![nft::Expr::Accept], vec![nft::Expr::Masquerade]]; // which a chain of filters has not
        filter.exchange(&chain, "vmd", &two).unwrap();
        assert!(filter.exchange(&chain, "vmd", &bad).is_err());
        assert_eq!(filter.tagged(&chain, "vmd").unwrap(), 2, "none goes where none can come");
    });
}

#[test]
fn an_owned_table_is_nobody_elses_and_goes_with_the_last_descriptor() {
    in_namespace(|_| {
        let held = nft::socket().unwrap();
        let mut owner = nft::Nft::take_over(held.try_clone().unwrap(), Duration::from_secs(5)).unwrap();
        let mut other = nft::Nft::open(Duration::from_secs(5)).unwrap();
        let tables = || nft::Nft::open(Duration::from_secs(5)).unwrap().chains().unwrap().len();
        owner.replace(&sample("vmd")).unwrap(); // of an earlier release
        owner.replace(&nft::Table { owned: true, ..sample("vmd") }).unwrap();
        assert!(owner.owns());
        assert_eq!(other.delete(nft::INET, "vmd").unwrap_err().errno(), Some(Errno::PERM));
        assert_eq!(other.replace(&sample("vmd")).unwrap_err().errno(), Some(Errno::PERM));
        assert!(std::process::Command::new("nft").args(["flush", "ruleset"]).status().unwrap().success());
        assert_eq!(tables(), 4);

        drop(owner);
        let mut next = nft::Nft::take_over(held, Duration::from_secs(5)).unwrap();
        next.replace(&nft::Table { owned: true, ..sample("vmd") }).unwrap();
        let table = sample("vmd");
        let rules: Vec<_> = table.chains.iter().map(|chain| next.rules(&table, chain).unwrap()).collect();
        assert_eq!(rules, [1, 2, 1, 0]);
        drop(next);
        // A child that another test starts has a copy until it executes its program.
        let until = std::time::Instant::now() + Duration::from_secs(30);
        while tables() > 0 {
            assert!(std::time::Instant::now() < until, "the table goes with the last descriptor");
            std::thread::yield_now();
        }
    });
}

#[test]
fn an_answer_that_another_did_not_wait_for_is_not_taken_for_ones_own() {
    in_namespace(|_| {
        let held = nft::socket().unwrap();
        let mut killed = nft::Nft::take_over(held.try_clone().unwrap(), Duration::ZERO).unwrap();
        let mut others = nft::Nft::open(Duration::from_secs(5)).unwrap();
        let many = |name: &'static str, count: usize| {
            let mut table = sample(name);
            table.chains.extend((0..count).map(|number| nft::Chain {
                name: format!("chain-{number}-with-a-long-name-so-that-the-listing-takes-many-datagrams"),
                base: None,
                rules: vec![],
            }));
            table
        };
        others.replace(&many("others", 700)).unwrap();
        // Its listing is cut off where the deadline is over at once, and else answered by a refusal that nobody reads.
        let mut bad = sample("vmd");
        bad.chains[1].rules.push(vec![nft::Expr::Masquerade]);
        let _ = killed.replace(&bad);
        let _ = killed.chains();
        drop(killed);
        let mut next = nft::Nft::take_over(held, Duration::from_secs(5)).unwrap();
        next.replace(&sample("vmd")).unwrap();
        assert_eq!(next.chains().unwrap().len(), 4 + 704);
    });
}

#[test]
fn what_is_watched_tells_of_changes_by_others_and_of_none_else() {
    in_namespace(|route| {
        let (rules, links) = (Watch::rules().unwrap(), Watch::links().unwrap());
        let both = || (rules.changed().unwrap(), links.changed().unwrap());
        assert_eq!(both(), (false, false));
        nft::Nft::open(Duration::from_secs(5)).unwrap().replace(&sample("vmd")).unwrap();
        assert_eq!(both(), (true, false));
        let bridge = route.create_bridge("br0", 0).unwrap();
        assert_eq!(both(), (false, true));
        route.add_address(bridge.index, [192, 0, 2, 1].into(), 24).unwrap();
        assert_eq!(both(), (false, true));
        assert_eq!(both(), (false, false));
        // More than its buffer holds: what was lost counts as a change.
        for _ in 0..2000 {
            route.set_up(bridge.index, true).unwrap();
            route.set_up(bridge.index, false).unwrap();
        }
        assert_eq!(both(), (false, true));
    });
}
