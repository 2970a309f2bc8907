//! Each thing that can be wrong with a host, on one that is sound but for it: which findings change, and to what.

use super::*;
use crate::doctor::host::{Caller, Cgroups, Cpu, Manager, Marked, Program, Ran, Socket};
use proto::doctor;
use sys::netlink::nft::Listed;

fn ended(success: bool, out: &str, err: &str) -> Ran {
    Ran::Ended { success, out: out.to_owned(), err: err.to_owned() }
}

fn device(major: u32, minor: u32) -> Seen<Node> {
    let owner = ("root".to_owned(), "kvm".to_owned());
    Ok(Node { kind: NodeKind::Character(major, minor), mode: 0o660, owner, opens: Ok(()) })
}

fn cgroups(place: &str, read_only: bool, controller: &str) -> Cgroups {
    let controllers = vec!["memory".to_owned(), controller.to_owned()];
    Cgroups { place: place.to_owned(), read_only, home: Ok(()), controllers }
}

/// A host on which all is well.
fn sound() -> Host {
    let said = format!("{}\n{}\n", doctor::banner("0.1.0"), doctor::RAN);
    let program = Program {
        path: "/usr/sbin/vmd".to_owned(),
        probe: ended(true, &said, ""),
        check: ended(true, "", "configuration OK\n"),
    };
    let values = [
        (Value::ForwardIpv4, "0"),
        (Value::ForwardIpv6, "1"),
        (Value::MostDescriptors, "1048576"),
        (Value::MostPids, "4194304"),
        (Value::MostThreads, "100000"),
        (Value::HugePages, "always [madvise] never"),
        (Value::ClockSource, "tsc"),
        (Value::IoUringDisabled, "0"),
        (Value::MostUserNamespaces, "96365"),
        (Value::UserMap, "0          0 4294967295"),
    ];
    Host {
        caller: Caller { uid: 0, name: "root".to_owned(), groups: vec!["root".to_owned()], capabilities: u64::MAX },
        release: "6.1.0-40-amd64".to_owned(),
        machine: "x86_64".to_owned(),
        cpu: Ok(Cpu { vendor: "GenuineIntel".to_owned(), virtualization: Some("vmx"), is_guest: false }),
        drivers: Ok(["tun", "kvm"].map(str::to_owned).to_vec()),
        modules: crate::doctor::look::MODULES.into_iter().map(|name| (name, Module::Loadable)).collect(),
        kvm: device(10, 232),
        tun: device(10, 200),
        ptmx: device(5, 2),
        landlock: Ok(4),
        seccomp: Ok(()),
        io_uring: Ok(()),
        values: values.into_iter().map(|(value, text)| (value, Ok(text.to_owned()))).collect(),
        cgroups: Ok(vec![cgroups("/sys/fs/cgroup", false, "pids")]),
        own_cgroup: Ok("/system.slice/x".to_owned()),
        run: Ok(()),
        account: Ok(Some((990, 990))),
        file_systems: Ok(vec!["tmpfs".to_owned()]),
        memory: Ok((16 << 30, 8 << 30)),
        descriptors: (1024, 524_288),
        firmware: vec!["/usr/share/OVMF/OVMF_CODE.fd"],
        chains: Ok(vec![]),
        program: Ok(program),
        socket: Socket::Answers { release: "0.1.0".to_owned() },
        pid_file: Ok(("7".to_owned(), true)),
        marked: Marked {
            links: Ok(vec![]),
            local: vec![],
            managed: Ok(vec![]),
            cgroups: vec![],
            processes: vec![],
            files: vec![],
        },
        configuration: Ok(()),
    }
}

/// The findings that differ from the sound host's, worst first.
fn differs(change: impl FnOnce(&mut Host)) -> Vec<Finding> {
    let mut host = sound();
    change(&mut host);
    let before = findings(&sound());
    let mut changed: Vec<Finding> = findings(&host).into_iter().filter(|finding| !before.contains(finding)).collect();
    changed.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
    changed
}

/// Exactly these findings change, in order of how bad they are; each says these words, and what to do.
#[track_caller]
fn finds(expected: &[(&str, Verdict, &str)], change: impl FnOnce(&mut Host)) {
    let changed = differs(change);
    let short: Vec<(&str, Verdict)> = changed.iter().map(|finding| (finding.id, finding.verdict)).collect();
    let wanted: Vec<(&str, Verdict)> = expected.iter().map(|(id, verdict, _)| (*id, *verdict)).collect();
    assert_eq!(short, wanted, "{changed:#?}");
    for (finding, (id, verdict, words)) in changed.iter().zip(expected) {
        assert!(finding.seen.contains(words), "{id}: {:?} has no {words:?}", finding.seen);
        assert!(
            *verdict == Verdict::Ok || finding.advice.as_ref().is_some_and(|it| !it.is_empty()),
            "{id}: what to do?"
        );
    }
}

use Verdict::{Fault, Note, Ok as Fine, Warning};

fn other_kvm(change: impl FnOnce(&mut Node)) -> impl FnOnce(&mut Host) {
    |host| {
        if let Ok(node) = &mut host.kvm {
            change(node);
        }
    }
}

fn probe(ran: Ran) -> impl FnOnce(&mut Host) {
    |host| {
        if let Ok(program) = &mut host.program {
            program.probe = ran;
        }
    }
}

fn check(ran: Ran) -> impl FnOnce(&mut Host) {
    |host| {
        if let Ok(program) = &mut host.program {
            program.check = ran;
        }
    }
}

fn set(value: Value, text: &str) -> impl FnOnce(&mut Host) {
    move |host| {
        host.values.insert(value, Ok(text.to_owned()));
    }
}

#[test]
fn a_sound_host_has_no_fault_and_each_thing_is_told_once() {
    let found = findings(&sound());
    assert!(found.iter().all(|finding| finding.verdict == Fine && finding.advice.is_none()), "{found:#?}");
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../../../docs/schema/doctor.json")).expect("the schema is JSON");
    let names = schema.pointer("/$defs/finding/properties/id/anyOf").and_then(|list| list.as_array()).expect("a list");
    let names: Vec<&str> = names.iter().filter_map(|name| name.get("const")?.as_str()).collect();
    assert_eq!(
        found.iter().map(|finding| finding.id).collect::<Vec<_>>(),
        names,
        "the schema names them in this order"
    );
}

#[test]
fn kernels_before_5_11_and_other_machines_run_nothing() {
    for release in ["5.10.0-30-amd64", "4.19", "2.6.32"] {
        finds(&[("kernel", Fault, release)], |host| host.release = release.to_owned());
    }
    for release in ["5.11.0", "6.18.44-x"] {
        finds(&[("kernel", Fine, release)], |host| host.release = release.to_owned());
    }
    finds(&[("kernel", Note, "odd")], |host| host.release = "odd".to_owned());
    finds(&[("kernel", Fault, "aarch64")], |host| host.machine = "aarch64".to_owned());
}

#[test]
fn a_processor_without_virtualization_is_a_fault_unless_kvm_does_without() {
    let cpu = |virtualization, is_guest| {
        move |host: &mut Host| host.cpu = Ok(Cpu { vendor: "AuthenticAMD".to_owned(), virtualization, is_guest })
    };
    finds(&[("cpu", Fine, "AuthenticAMD with svm")], cpu(Some("svm"), false));
    finds(&[("cpu", Note, "works in software")], cpu(None, true));
    finds(&[("cpu", Fault, "neither vmx nor svm"), ("kvm-module", Fault, "no driver kvm yet")], |host| {
        cpu(None, false)(host);
        host.drivers = Ok(vec![]);
    });
}

#[test]
fn a_kernel_without_kvm_is_told_with_the_module_that_lacks() {
    for (state, words) in [
        (Module::Loadable, "no driver kvm yet"),
        (Module::Present, "though kvm_intel is there"),
        (Module::BuiltIn, "though kvm_intel is there"),
        (Module::Absent, "no module kvm_intel"),
        (Module::Unknown, "no driver kvm"),
    ] {
        finds(&[("kvm-module", Fault, words)], |host| {
            host.drivers = Ok(vec!["tun".to_owned()]);
            host.modules.insert("kvm_intel", state);
        });
    }
}

#[test]
fn what_is_wrong_with_dev_kvm_is_told() {
    let skipped = [("kvm-access", Note, "not tried"), ("kvm-guest", Note, "not tried")];
    let with = |fault| [vec![fault], skipped.to_vec()].concat();
    finds(&with(("kvm-device", Fault, "not there, though")), |host| host.kvm = Err(Unseen::Missing));
    let mode = other_kvm(|node| node.kind = NodeKind::Other("a plain file"));
    finds(&with(("kvm-device", Fault, "it is a plain file")), mode);
    let null = other_kvm(|node| node.kind = NodeKind::Character(1, 3));
    finds(&with(("kvm-device", Fault, "device 1:3, not 10:232")), null);
    let guest = ("kvm-guest", Note, "not tried");
    finds(&[("kvm-access", Fault, "root may not"), guest], other_kvm(|node| node.opens = Err(Unseen::Denied)));
    finds(&[("kvm-access", Fault, "no driver"), guest], other_kvm(|node| node.opens = Err(Unseen::Missing)));
    let busy = other_kvm(|node| node.opens = Err(Unseen::Failed("No such device".to_owned())));
    finds(&[("kvm-access", Fault, "No such device"), guest], busy);
    finds(&[("kvm-device", Fine, "mode 0666")], other_kvm(|node| node.mode = 0o666));
}

#[test]
fn a_probe_guest_that_did_not_run_is_a_fault_of_kvm() {
    let banner = doctor::banner("0.1.0");
    let failed = ended(false, &format!("{banner}\nCMPXCHG16B: no\n"), "");
    finds(&[("kvm-guest", Fault, "CMPXCHG16B: no")], probe(failed));
    finds(&[("kvm-guest", Fault, "within 60 s"), ("vmd", Fine, "did not say")], probe(Ran::Late(60)));
}

#[test]
fn a_vmd_that_is_missing_broken_or_of_another_release_is_told() {
    let gone =
        [("vmd", Fault, "no vmd beside vmctl"), ("kvm-guest", Note, "no vmd"), ("configuration", Note, "no vmd")];
    finds(&gone, |host| host.program = Err(Unseen::Missing));
    let untried = ("kvm-guest", Note, "not tried");
    finds(
        &[("vmd", Fault, "can't be run: Exec format error"), untried],
        probe(Ran::NotStarted("Exec format error".into())),
    );
    let old = ended(false, "", "vmd: unknown role \"doctor\": -x is for vmd's own use\n");
    finds(&[("vmd", Fault, "older than this vmctl"), ("kvm-guest", Warning, "no probe guest")], probe(old));
    finds(&[("vmd", Fault, "it printed hello"), ("kvm-guest", Warning, "")], probe(ended(true, "hello\n", "")));
    finds(&[("vmd", Fault, "it printed nothing"), ("kvm-guest", Warning, "")], probe(ended(true, "", "")));
    let newer = ended(true, "vmd 9.0, protocol 99\nok\n", "");
    let running = ("daemon", Note, "release 0.1.0; release 9.0 is installed");
    finds(&[("vmd", Fault, "release 9.0, protocol 99"), running], probe(newer));
}

#[test]
fn no_account_or_roots_ids_for_it_are_a_fault() {
    finds(&[("account", Fault, "no user _vmd")], |host| host.account = Ok(None));
    finds(&[("account", Fault, "uid 0")], |host| host.account = Ok(Some((0, 990))));
    finds(&[("account", Fault, "gid 0")], |host| host.account = Ok(Some((990, 0))));
}

#[test]
fn an_erroneous_configuration_stops_the_next_start_alone() {
    let err =
        "/etc/vm.conf:1:1: unknown keyword \"vn\"\n    1 | vn\n      | ^^\n\n/etc/vm.conf:2:1: unknown keyword \"x\"\n";
    let said = "/etc/vm.conf:1:1: unknown keyword \"vn\" (and 1 more)";
    finds(&[("configuration", Warning, said)], check(ended(false, "", err)));
    let stopped = |host: &mut Host| {
        (host.socket, host.pid_file) = (Socket::Missing, Err(Unseen::Missing));
        check(ended(false, "", err))(host);
    };
    let found = differs(stopped);
    assert_eq!((found[0].id, found[0].verdict), ("configuration", Fault));
    let warned = ended(true, "", "/etc/vm.conf:1:1: warning: no effect\nconfiguration OK\n");
    finds(&[("configuration", Note, "warning: no effect")], check(warned));
    finds(&[("configuration", Note, "no /etc/vm.conf")], |host| host.configuration = Err(Unseen::Missing));
    finds(&[("configuration", Warning, "within 30 s")], check(Ran::Late(30)));
}

/// As on a host where no daemon runs.
fn stopped(host: &mut Host) {
    (host.socket, host.pid_file) = (Socket::Missing, Err(Unseen::Missing));
}

#[test]
fn a_daemon_that_does_not_answer_is_told_from_one_that_does_not_run() {
    let none = [("daemon", Note, "no vmd runs"), ("socket", Fine, "no vmd runs"), ("leftovers", Fine, "nothing")];
    finds(&none, stopped);
    for (run, words) in
        [(Err(Unseen::Failed("Read-only file system".to_owned())), "Read-only"), (Err(Unseen::Missing), "not there")]
    {
        let found = differs(|host| {
            stopped(host);
            host.run = run;
        });
        assert!(found[0].id == "socket" && found[0].verdict == Fault && found[0].seen.contains(words), "{found:#?}");
    }
    let of = |socket| move |host: &mut Host| host.socket = socket;
    finds(&[], of(Socket::Answers { release: "0.1.0".to_owned() }));
    let upgraded = "(pid 7) and answers, release 0.0.9; release 0.1.0 is installed";
    finds(&[("daemon", Note, upgraded)], of(Socket::Answers { release: "0.0.9".to_owned() }));
    let other = Socket::Version { daemon: 2 };
    finds(&[("daemon", Fault, "(pid 7) and speaks protocol 2")], of(other));
    finds(&[("daemon", Fault, "late"), ("socket", Warning, "late")], of(Socket::Odd("late".into())));
    finds(&[("daemon", Fault, "nobody listens"), ("socket", Fault, "though vmd runs")], of(Socket::Missing));
    finds(&[("daemon", Note, "may not talk"), ("socket", Note, "may not connect")], of(Socket::Denied));
    finds(&[("daemon", Fault, "nobody"), ("socket", Fault, "a directory")], of(Socket::OtherFile("a directory")));
    finds(&[("daemon", Fine, "a vmd runs")], |host| host.pid_file = Err(Unseen::Missing));
}

#[test]
fn what_a_dead_daemon_left_is_told_with_how_it_goes() {
    let found = differs(|host| {
        host.socket = Socket::Stale;
        host.pid_file = Ok(("7".to_owned(), false));
        host.marked = Marked {
            links: Ok(vec!["bridge0".to_owned()]),
            local: vec![],
            managed: Ok(vec![]),
            cgroups: vec!["/sys/fs/cgroup/vmd".to_owned()],
            processes: vec![(9, "vm web".to_owned())],
            files: vec!["/var/lib/vmd/ids.new".to_owned()],
        };
        host.chains = Ok(vec![chain(1, "vmd", "forward", false)]);
    });
    let left = found.iter().find(|finding| finding.id == "leftovers").expect("it is told");
    assert_eq!(left.verdict, Warning);
    for word in
        ["process 9 (vmd: vm web)", "bridge0", "inet vmd", "cgroup /sys/fs/cgroup/vmd", "vmd.sock", "pid 7", "ids.new"]
    {
        assert!(left.seen.contains(word), "{word}: {}", left.seen);
    }
    let by_hand = "by hand: \"kill 9; ip link delete bridge0; nft delete table inet vmd\"";
    assert!(left.advice.as_ref().is_some_and(|advice| advice.ends_with(by_hand)), "{:?}", left.advice);
    let found = differs(|host| {
        stopped(host);
        let change = Listed { hook: None, ..chain(1, "vmd", "inet6-forwarding-0-all", false) };
        host.chains = Ok(vec![chain(1, "vmd", "forward", false), change]);
    });
    let left = found.iter().find(|finding| finding.id == "leftovers").expect("it is told");
    assert_eq!(left.advice.as_deref(), Some("start vmd: it removes them"), "the table guards a host that forwards");
    finds(&[], |host| host.marked.links = Ok(vec!["bridge0".to_owned()]));
}

#[test]
fn fewer_walls_are_told_and_none_is_a_fault() {
    finds(&[("landlock", Warning, "not supported")], |host| host.landlock = Err("Operation not supported".into()));
    finds(&[("seccomp", Fault, "Invalid argument")], |host| host.seccomp = Err("Invalid argument".into()));
    finds(&[("io-uring", Note, "Operation not permitted")], |host| {
        host.io_uring = Err("Operation not permitted".into())
    });
    finds(&[("io-uring", Note, "io_uring_disabled is 2")], set(Value::IoUringDisabled, "2"));
    finds(&[], |host| drop(host.values.remove(&Value::IoUringDisabled)));
    finds(&[("users", Warning, "namespaces is 0")], set(Value::MostUserNamespaces, "0"));
    finds(&[("users", Warning, "no user namespaces")], |host| drop(host.values.remove(&Value::MostUserNamespaces)));
    finds(&[("users", Warning, "1879048192 to 2147352575")], set(Value::UserMap, "0 100000 65536"));
    finds(&[("users", Warning, "not the container's")], set(Value::UserMap, "0 0 1000\n1879048192 5 268304383"));
    finds(&[("users", Warning, "not the container's")], set(Value::UserMap, "1 2 18446744073709551615\nx"));
    finds(&[], set(Value::UserMap, "0 0 1000\n1879048192 5 268304384"));
}

#[test]
fn cgroups_are_looked_for_where_vmd_does() {
    let at = |mounts: &[Cgroups]| {
        let mounts = mounts.to_vec();
        move |host: &mut Host| host.cgroups = Ok(mounts)
    };
    finds(&[("cgroups", Warning, "no cgroups of version 2 are mounted")], at(&[]));
    finds(&[("cgroups", Warning, "are at /cg, not where")], at(&[cgroups("/cg", false, "pids")]));
    finds(&[("cgroups", Warning, "for reading only")], at(&[cgroups("/sys/fs/cgroup", true, "pids")]));
    let beside = cgroups("/sys/fs/cgroup/unified", false, "cpu");
    finds(&[("cgroups", Note, "without the controller pids: the number of a VM's threads")], at(&[beside]));
    let none = Cgroups { controllers: vec![], ..cgroups("/sys/fs/cgroup", false, "") };
    let without = |name: &str| Cgroups { controllers: vec![name.to_owned()], ..none.clone() };
    finds(
        &[("cgroups", Note, "the controller memory: what a VM's processes take of the host's")],
        at(&[without("pids")]),
    );
    finds(&[("cgroups", Note, "without the controller pids or memory")], at(std::slice::from_ref(&none)));
    finds(
        &[],
        at(&[cgroups("/cg", true, ""), cgroups("/sys/fs/cgroup", true, ""), cgroups("/sys/fs/cgroup", false, "pids")]),
    );
}

#[test]
fn what_network_cards_lack_is_told() {
    finds(&[("tun", Warning, "not there; VMs with network cards")], |host| host.tun = Err(Unseen::Missing));
    finds(&[("tun", Warning, "device 1:3")], |host| host.tun = device(1, 3));
    for name in ["bridge", "vrf"] {
        let state = |state| move |host: &mut Host| _ = host.modules.insert(name, state);
        finds(&[(name, Warning, &format!("no {name}"))], state(Module::Absent));
        finds(&[(name, Note, "not loaded")], state(Module::Unknown));
        finds(&[(name, Fine, "built in")], state(Module::BuiltIn));
    }
    let none = [("nftables", Warning, "none"), ("firewall", Note, "gone")];
    finds(&none, |host| host.chains = Err(Unseen::Failed("gone".into())));
    finds(&[("nftables", Warning, "nft_masq")], |host| _ = host.modules.insert("nft_masq", Module::Absent));
    finds(&[("forwarding-ipv4", Fine, "is 1")], set(Value::ForwardIpv4, "1"));
    finds(&[("forwarding-ipv6", Fine, "is 0; vmd has the host forward")], set(Value::ForwardIpv6, "0"));
    finds(&[("forwarding-ipv6", Note, "no IPv6")], |host| {
        drop(host.values.insert(Value::ForwardIpv6, Err(Unseen::Missing)))
    });
}

fn chain(family: u8, table: &str, name: &str, drops: bool) -> Listed {
    let hook = (name != "DOCKER-USER").then(|| Hook::Forward.number());
    Listed { family, table: table.to_owned(), name: name.to_owned(), hook, drops }
}

use sys::netlink::nft::Hook;

#[test]
fn the_chain_that_drops_is_named_unless_there_is_a_way_through() {
    let chains = |all: Vec<Listed>| move |host: &mut Host| host.chains = Ok(all);
    let nftables = |count| ("nftables", Fine, count);
    let mine = chain(2, "filter", "FORWARD", true);
    finds(
        &[("firewall", Warning, "chain FORWARD of table ip filter drops"), nftables("1 chains")],
        chains(vec![mine.clone()]),
    );
    let docker = vec![mine.clone(), chain(2, "filter", "DOCKER-USER", false)];
    finds(&[nftables("2 chains"), ("firewall", Fine, "FORWARD of table ip filter (by DOCKER-USER)")], chains(docker));
    let apart = vec![mine, chain(1, "filter", "DOCKER-USER", false)];
    finds(&[("firewall", Warning, "table ip filter"), nftables("2 chains")], chains(apart));
    finds(
        &[("firewall", Note, "inet firewalld (by filter_FORWARD), unless"), nftables("1 chains")],
        chains(vec![chain(1, "firewalld", "filter_FORWARD", false)]),
    );
    finds(
        &[("firewall", Warning, "chain own of table inet firewalld"), nftables("1 chains")],
        chains(vec![chain(1, "firewalld", "own", false)]),
    );
    let ufw = vec![
        chain(10, "filter", "FORWARD", true),
        Listed { hook: None, ..chain(10, "filter", "ufw6-user-forward", false) },
    ];
    finds(&[nftables("2 chains"), ("firewall", Fine, "of table ip6 filter (by ufw6-user-forward)")], chains(ufw));
    finds(&[nftables("1 chains")], chains(vec![chain(2, "filter", "FORWARD", false)]));
    finds(&[("firewall", Note, "older kind")], set(Value::LegacyTables, "nat\nfilter"));
}

#[test]
fn guests_on_one_bridge_that_a_firewall_keeps_apart_are_told_and_what_to_do() {
    let docker = || vec![chain(2, "filter", "FORWARD", true), chain(2, "filter", "DOCKER-USER", false)];
    let with = |bridges: &'static str| {
        move |host: &mut Host| {
            host.chains = Ok(docker());
            host.values.insert(Value::BridgeFilter, Ok(bridges.to_owned()));
        }
    };
    let two = ("nftables", Fine, "2 chains");
    let apart = "chain FORWARD of table ip filter drops what guests on one bridge send each other";
    finds(&[("firewall", Warning, apart), two], with("1"));
    finds(&[two, ("firewall", Fine, "by DOCKER-USER")], with("0"));
    let found = differs(with("1"));
    let told = found.iter().find(|finding| finding.id == "firewall").expect("it is told");
    assert!(told.advice.as_deref().is_some_and(|advice| advice.contains("net.bridge.bridge-nf-call-iptables=0")));
}

#[test]
fn rules_of_vmd_that_somebody_flushed_are_missed() {
    let local = |host: &mut Host| {
        host.marked.links = Ok(vec!["tap0".to_owned()]);
        host.marked.local = vec!["tap0".to_owned()];
    };
    let found = differs(local);
    let told = found.iter().find(|finding| finding.id == "firewall").expect("it is told");
    assert_eq!(told.verdict, Warning);
    let found = differs(|host| {
        local(host);
        host.chains = Ok(vec![chain(1, "vmd", "forward", false)]);
    });
    assert!(!found.iter().any(|finding| finding.id == "firewall"), "it is there");
}

#[test]
fn who_manages_interfaces_of_vmd_is_named() {
    let managed = |by: &[(&str, Manager)]| {
        let by = by.iter().map(|(name, manager)| ((*name).to_owned(), *manager)).collect();
        move |host: &mut Host| host.marked.managed = Ok(by)
    };
    let networkd = [("tap0", Manager::Networkd), ("bridge0", Manager::Networkd), ("tap1", Manager::NetworkManager)];
    finds(&[("managers", Warning, "systemd-networkd manages tap0, bridge0, and undoes")], managed(&networkd));
    let network_manager = [("tap1", Manager::NetworkManager)];
    finds(&[("managers", Note, "NetworkManager manages tap1, and may undo")], managed(&network_manager));
    let hidden = |host: &mut Host| host.marked.managed = Err(Unseen::Denied);
    finds(&[("managers", Note, "who manages vmd's interfaces: can't be told as user \"root\"")], hidden);
}

#[test]
fn scarce_means_are_told_with_their_values() {
    finds(&[("terminals", Fault, "no console")], |host| host.ptmx = Err(Unseen::Missing));
    finds(&[("memory", Warning, "256M of 16.0G")], |host| host.memory = Ok((16 << 30, 256 << 20)));
    finds(&[("huge-pages", Note, "never")], set(Value::HugePages, "always madvise [never]"));
    finds(&[("huge-pages", Note, "no tmpfs")], |host| host.file_systems = Ok(vec![]));
    finds(&[("processes", Warning, "pid_max is 4096")], set(Value::MostPids, "4096"));
    finds(&[("clock", Note, "hpet")], set(Value::ClockSource, "hpet"));
    finds(&[("firmware", Note, "none")], |host| host.firmware.clear());
}

#[test]
fn descriptors_are_what_vmd_could_have() {
    let weak = |hard: u64| {
        move |host: &mut Host| {
            host.caller.capabilities &= !SYS_RESOURCE;
            host.descriptors = (16, hard);
        }
    };
    finds(&[("descriptors", Fault, "vmd can have 255")], weak(255));
    finds(&[("descriptors", Warning, "vmd can have 256")], weak(256));
    finds(&[("descriptors", Warning, "vmd can have 65535")], weak(65535));
    finds(&[("descriptors", Fine, "16 and 65536")], weak(65536));
    finds(&[("descriptors", Fine, "16 and 16, at most 1048576")], |host| host.descriptors = (16, 16)); // root raises it
    finds(&[("descriptors", Fault, "at most 100")], set(Value::MostDescriptors, "100"));
}

#[test]
fn a_root_without_capabilities_is_told_what_it_lacks() {
    let without = |bits: u64| move |host: &mut Host| host.caller.capabilities &= !bits;
    finds(&[("caller", Warning, "without the capabilities NET_ADMIN")], without(NET_ADMIN));
    finds(&[("caller", Warning, "without the capabilities SYS_ADMIN")], without(SYS_ADMIN));
    finds(&[("caller", Fault, "without the capabilities SETUID, SETGID")], without(SETUID | SETGID));
}

#[test]
fn what_a_user_may_not_see_is_told_and_is_no_fault() {
    let found = differs(|host| {
        host.caller = Caller { uid: 1000, name: "ann".to_owned(), groups: vec!["ann".to_owned()], capabilities: 0 };
        other_kvm(|node| node.opens = Err(Unseen::Denied))(host);
        (host.chains, host.configuration, host.socket) = (Err(Unseen::Denied), Err(Unseen::Denied), Socket::Denied);
        host.descriptors = (16, 16);
    });
    assert!(found.iter().all(|finding| finding.verdict <= Note), "{found:#?}");
    for id in ["kvm-guest", "nftables", "firewall", "configuration"] {
        let finding = found.iter().find(|finding| finding.id == id).expect(id);
        assert!(finding.seen.ends_with("can't be told as user \"ann\""), "{finding:?}");
    }
    let closed = "/etc/vm.conf:3:7: kernel path not found: \"/srv/k\": Permission denied\n";
    let as_user = |host: &mut Host| {
        host.caller.uid = 1000;
        check(ended(false, "", closed))(host);
        probe(Ran::NotStarted("Permission denied".to_owned()))(host);
    };
    let of_files = differs(as_user);
    assert!(of_files.iter().all(|finding| finding.verdict <= Note), "{of_files:#?}");
    finds(&[("configuration", Warning, "Permission denied")], check(ended(false, "", closed)));
    for id in ["caller", "kvm-access", "daemon", "socket"] {
        assert!(found.iter().any(|finding| finding.id == id && finding.seen.contains("\"ann\"")), "{id}");
    }
}
