//! The configuration read again while the daemon runs: by vmctl reload, by SIGHUP, and one more file by vmctl load. The
//! real daemon and the real vmctl; no guest runs, so no KVM is needed.
#![forbid(unsafe_code)]

use std::fs;

use testkit::apart::apart;
use testkit::bridge;
use testkit::daemon::Daemon;
use testkit::deadline::{self, DAEMON};
use testkit::process::Process;

/// A block that nothing starts.
fn vm(name: &str, memory: &str) -> String {
    format!("vm \"{name}\" {{\n\tdisable\n\tmemory {memory}\n\tdisk \"/etc/hostname\"\n}}\n")
}

/// Names and memory of all VMs, in the daemon's order.
fn vms(daemon: &Daemon) -> Vec<(String, String)> {
    let reply = daemon.vmctl(&["status"]);
    let rows = reply.stdout.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.map(|row| (row[row.len() - 1].to_owned(), row[3].to_owned())).collect()
}

fn are(daemon: &Daemon, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(name, memory)| ((*name).to_owned(), (*memory).to_owned())).collect();
    assert_eq!(vms(daemon), expected);
}

#[test]
fn reload_takes_the_file_as_it_is_now_and_load_adds_to_it() {
    apart("reload_takes_the_file_as_it_is_now_and_load_adds_to_it", || {
        let daemon = Daemon::start_quietly(&(vm("a", "128M") + &vm("b", "128M")));
        let file = daemon.path("vm.conf");
        fs::write(&file, vm("b", "256M") + &vm("c", "128M")).unwrap();
        assert_eq!(daemon.vmctl(&["reload"]).success().stderr, "");
        are(&daemon, &[("b", "256M"), ("c", "128M")]);
        let more = daemon.path("more.conf");
        fs::write(&more, vm("c", "512M") + &vm("d", "128M")).unwrap();
        daemon.vmctl(&["load", more.to_str().unwrap()]).success();
        are(&daemon, &[("b", "256M"), ("c", "128M"), ("d", "128M")]);
        fs::write(&file, vm("e", "128M")).unwrap();
        daemon.signal(rustix::process::Signal::HUP);
        deadline::until("the reload", DAEMON, || (vms(&daemon).len() == 1).then_some(()));
        are(&daemon, &[("e", "128M")]);
        assert!(daemon.stop().success());
    });
}

#[test]
fn a_description_is_shown_of_a_vm_and_changed_by_a_reload() {
    apart("a_description_is_shown_of_a_vm_and_changed_by_a_reload", || {
        let described = |text: &str| vm("a", "128M").replace("disable", &format!("disable\n\tdescription \"{text}\""));
        let daemon = Daemon::start_quietly(&(described("the first") + &vm("b", "128M")));
        let last = |arguments: &[&str]| {
            let reply = daemon.vmctl(arguments).success();
            reply.stdout.lines().last().map(str::to_owned).unwrap_or_default()
        };
        assert_eq!(last(&["status", "a"]), "description: the first");
        assert!(last(&["status", "b"]).ends_with(" stopped b") && last(&["status"]).ends_with(" stopped b"));
        fs::write(daemon.path("vm.conf"), described("another")).unwrap();
        daemon.vmctl(&["reload"]).success();
        assert_eq!(last(&["status", "1"]), "description: another");
        let json = daemon.vmctl(&["status", "--json", "a"]).success().stdout;
        assert!(json.contains("\"description\": \"another\","), "{json}");
        fs::write(daemon.path("vm.conf"), described("a\tb")).unwrap();
        let refused = daemon.vmctl(&["reload"]).stderr;
        assert!(refused.contains("vm.conf:3:14: description contains the character '\\t'"), "{refused}");
        assert_eq!(last(&["status", "a"]), "description: another");
        assert!(daemon.stop().success());
    });
}

#[test]
fn a_file_with_errors_changes_nothing_and_all_its_errors_are_shown() {
    apart("a_file_with_errors_changes_nothing_and_all_its_errors_are_shown", || {
        let daemon = Daemon::start_quietly(&vm("a", "128M"));
        let file = daemon.path("vm.conf");
        let name = file.to_str().unwrap();
        fs::write(&file, vm("b", "128M") + "vm \"c\" {\n\tcpus 65\n\tdisk \"/etc/hostname\"\n}\nnonsense\n").unwrap();
        let reply = daemon.vmctl(&["reload"]);
        let said = reply.stderr.replace(name, "vm.conf");
        assert_eq!(reply.status, Some(1));
        assert!(said.starts_with("vm.conf:7:7: invalid number of cpus: 65\n"), "{said}");
        assert!(said.contains("\nvm.conf:10:1: "), "{said}");
        assert!(said.ends_with("vmctl: reload: 2 errors in the configuration; nothing was changed\n"), "{said}");
        are(&daemon, &[("a", "128M")]);
        daemon.signal(rustix::process::Signal::HUP);
        deadline::until("the log", DAEMON, || daemon.log().matches("invalid number of cpus: 65").nth(1).map(drop));
        are(&daemon, &[("a", "128M")]);
        for (path, why) in [
            ("/nowhere", "failed to open \"/nowhere\": No such file or directory"),
            ("/etc", "failed to open \"/etc\": Is a directory"),
            ("/dev/zero", "failed to open \"/dev/zero\": more than 64 MiB: too large for a configuration"),
        ] {
            let reply = daemon.vmctl(&["load", path]);
            assert!(reply.stderr.starts_with(&format!("{why}\n")), "{}", reply.stderr);
        }
        are(&daemon, &[("a", "128M")]);
        assert!(daemon.stop().success());
    });
}

#[test]
fn a_loaded_file_may_not_hold_what_is_for_the_whole_daemon() {
    apart("a_loaded_file_may_not_hold_what_is_for_the_whole_daemon", || {
        let daemon = Daemon::start_quietly(&vm("a", "128M"));
        let more = daemon.path("more.conf");
        // That it says what holds anyway makes no difference.
        for statement in ["socket owner :_vmd", "socket owner root:root", "local nat yes"] {
            fs::write(&more, vm("b", "128M") + statement + "\n").unwrap();
            let reply = daemon.vmctl(&["load", more.to_str().unwrap()]);
            let word = statement.split(' ').next().unwrap();
            let place = format!("{}:6:1: \"{word}\" in a file that is loaded\n", more.display());
            assert!(reply.stderr.starts_with(&place), "{}", reply.stderr);
            assert!(reply.stderr.contains(" only vm and switch may be loaded; all else belongs"), "{}", reply.stderr);
        }
        let pipe = daemon.path("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let reply = daemon.vmctl(&["load", pipe.to_str().unwrap()]);
        assert!(reply.stderr.contains("is a pipe"), "{}", reply.stderr);
        are(&daemon, &[("a", "128M")]);
        assert!(daemon.stop().success());
    });
}

#[test]
fn reload_gives_the_control_socket_to_its_new_owner() {
    apart("reload_gives_the_control_socket_to_its_new_owner", || {
        use std::os::unix::fs::MetadataExt;
        let daemon = Daemon::start_quietly("");
        let group = || fs::metadata("/run/vmd.sock").unwrap().gid();
        fs::write(daemon.path("vm.conf"), "socket owner :_vmd\n").unwrap();
        daemon.vmctl(&["reload"]).success();
        assert_eq!(group(), 990);
        fs::write(daemon.path("vm.conf"), "").unwrap();
        daemon.vmctl(&["reload"]).success();
        assert_eq!(group(), 0);
        assert!(daemon.stop().success());
        assert!(Process::of_vmd().is_empty());
    });
}

/// Names and the addresses of their cards, sorted.
fn addresses(daemon: &Daemon) -> Vec<(String, String)> {
    let told: serde_json::Value =
        serde_json::from_str(&daemon.vmctl(&["status", "--json"]).stdout).expect("it is JSON");
    let vms = told["vms"].as_array().expect("a list").iter();
    let mut all: Vec<_> = vms.map(|vm| (vm["name"].to_string(), vm["lladdrs"].to_string())).collect();
    all.sort();
    all
}

#[test]
fn a_vm_without_an_address_of_its_own_keeps_the_one_that_it_had_first() {
    apart("a_vm_without_an_address_of_its_own_keeps_the_one_that_it_had_first", || {
        let vm = |name| vm(name, "128M").replace("disable", "disable\n\tinterfaces 2");
        let daemon = Daemon::start_quietly(&(vm("a") + &vm("b")));
        let before = addresses(&daemon);
        assert!(before[0].1.contains("fe:e1:bb:d2:") && before[0].1 != before[1].1, "{before:?}");
        assert!(daemon.stop().success());
        let daemon = Daemon::start_quietly(&(vm("b") + &vm("a").replace("128M", "256M")));
        assert_eq!(addresses(&daemon), before, "the file has changed around them");
        daemon.vmctl(&["reload"]).success();
        assert_eq!(addresses(&daemon), before);
        assert!(daemon.stop().success());
    });
}

#[test]
fn the_same_names_have_the_same_ids_when_the_daemon_is_started_again() {
    apart("the_same_names_have_the_same_ids_when_the_daemon_is_started_again", || {
        let ids = |daemon: &Daemon| ["a", "b"].map(|name| daemon.row(name).id);
        let daemon = Daemon::start_quietly(&(vm("a", "128M") + &vm("b", "128M")));
        let before = ids(&daemon);
        assert!(daemon.stop().success());
        let daemon = Daemon::start_quietly(&(vm("new", "128M") + &vm("b", "128M") + &vm("a", "128M")));
        assert_eq!(ids(&daemon), before);
        daemon.vmctl(&["reset", "vms"]).success();
        daemon.vmctl(&["reload"]).success();
        assert_eq!(daemon.row("new").id, before[0], "numbering begins again");
        assert!(daemon.stop().success());
    });
}

#[test]
fn a_bridge_that_others_make_is_waited_for_and_joined_when_it_is_there() {
    apart("a_bridge_that_others_make_is_waited_for_and_joined_when_it_is_there", || {
        let web = vm("web", "128M").replace("disable", "disable\n\tinterface { switch \"lan\" }");
        let daemon = Daemon::start_quietly(&format!("switch \"lan\" {{\n\tinterface br9\n\texternal\n}}\n{web}"));
        let says = |words: &str| deadline::until(words, DAEMON, || daemon.log().contains(words).then_some(()));
        says("switch \"lan\": waiting up to 120 s for bridge br9, which another program makes");
        let refused = daemon.vmctl(&["start", "web"]);
        assert_eq!(refused.status, Some(1));
        assert!(
            refused.stderr.contains("switch \"lan\" of vm \"web\" waits for another program"),
            "{}",
            refused.stderr
        );
        assert!(!bridge::exists("br9"), "vmd makes none");
        bridge::ip("link add br9 type bridge");
        says("bridge \"br9\" joined for switch1-lan");
        assert!(daemon.stop().success());
        assert!(bridge::exists("br9"), "nor removes one");
    });
}
