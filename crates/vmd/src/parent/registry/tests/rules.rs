//! Rules of docs/openbsd that no other file of these tests has (docs/conformance).

use proto::client::DiskOperation;

use super::*;

/// Names in the order that `vmctl status` gets them.
fn listed(f: &mut Fixture) -> Vec<String> {
    let lines = replies(&f.ask(Request::List)).into_iter().flat_map(|reply| match reply {
        Reply::Vms(lines) => lines.into_iter().map(|line| line.name.to_string()).collect(),
        _ => Vec::new(),
    });
    lines.collect()
}

#[test]
fn the_running_are_listed_first_in_the_order_of_their_start_then_the_others_in_that_of_the_file() {
    let mut f = Fixture::new(["a", "b", "c", "d"].map(definition).to_vec());
    assert_eq!(listed(&mut f), ["a", "b", "c", "d"]);
    let c = f.running("c");
    f.running("b");
    assert_eq!(listed(&mut f), ["c", "b", "a", "d"]);
    f.on(Event::Ended(c, End::PoweredOff));
    assert_eq!(listed(&mut f), ["b", "a", "c", "d"]);
}

#[test]
fn number_0_and_numbers_that_no_vm_has_are_not_found() {
    let mut f = Fixture::new(vec![definition("web")]);
    f.running("web");
    for number in [0, 2, u32::MAX] {
        let vm = || VmRef::Id(number);
        for request in [
            Request::Start(Box::new(start_of(vm()))),
            Request::Stop { vm: vm(), force: true, wait: false },
            Request::Wait { vm: vm() },
            Request::Order { vm: vm(), order: Order::Pause },
            Request::Order { vm: vm(), order: Order::Unpause },
            Request::Send { vm: vm() },
        ] {
            assert_eq!(code(&f.ask(request.clone())), Some(Code::NotFound), "{request:?}");
        }
    }
    assert_eq!(f.state("web"), Some(VmState::Running));
}

#[test]
fn a_vm_is_meant_by_its_id_or_by_its_whole_name() {
    let mut f = Fixture::new(vec![definition("web"), definition("12")]);
    let pause = |f: &mut Fixture, vm| code(&f.ask(Request::Order { vm, order: Order::Pause }));
    assert_eq!(pause(&mut f, by_name("we")), Some(Code::NotFound));
    assert_eq!(pause(&mut f, VmRef::Id(1)), Some(Code::Invalid), "it is known, and does not run");
    assert_eq!(pause(&mut f, VmRef::Id(12)), Some(Code::NotFound), "its id is 2");
    assert_eq!(f.line("12").unwrap().id, 2);
}

#[test]
fn a_vm_that_waits_for_its_turn_may_be_started_by_hand_and_waits_no_more() {
    let vms = ["a", "b", "c"].map(enabled);
    let mut f = Fixture::new(vms.to_vec());
    assert_eq!(f.state("c"), Some(VmState::Waiting));
    f.running("c");
    assert_eq!(f.state("c"), Some(VmState::Running));
    f.now += Duration::from_secs(30);
    let turn = f.on(Event::Time);
    assert!(!turn.iter().any(|action| matches!(action, Action::MakeConsole(..))), "its turn starts nothing");
}

#[test]
fn a_vm_that_is_disabled_takes_no_turn() {
    let vm = |name, enabled| changed(name, |vm| vm.enabled = enabled);
    let mut f = Fixture::new(vec![vm("a", false), vm("b", true), vm("c", false), vm("d", true)]);
    use VmState::{Starting, Stopped};
    assert_eq!(["a", "b", "c", "d"].map(|name| f.state(name).unwrap()), [Stopped, Starting, Stopped, Starting]);
}

#[test]
fn a_vm_of_the_file_stays_listed_when_it_stops_and_when_its_start_fails() {
    let mut f = Fixture::new(vec![definition("web")]);
    let id = f.running("web");
    f.on(Event::Ended(id, End::PoweredOff));
    assert_eq!(f.state("web"), Some(VmState::Stopped));
    f.now += Duration::from_secs(60);
    let actions = f.start("web");
    let run = actions.iter().find_map(|a| if let Action::MakeConsole(run, _) = a { Some(*run) } else { None });
    let failed = f.on(Event::ConsoleMade(run.unwrap(), Err(Failure::new(Code::Io, "none"))));
    assert_eq!(code(&failed), Some(Code::Io));
    assert_eq!(f.state("web"), Some(VmState::Stopped));
}

#[test]
fn cpus_that_were_given_for_a_boot_are_shown_while_it_lasts() {
    let mut f = Fixture::new(vec![definition("web")]);
    let start = Start { cpus: Some(4), ..start_of(by_name("web")) };
    let actions = f.ask(Request::Start(Box::new(start)));
    let id = launched(&f.prepare(actions)).unwrap();
    f.on(Event::StartDone(id, Ok(42)));
    assert_eq!(f.line("web").unwrap().cpus, 4);
    f.on(Event::Ended(id, End::PoweredOff));
    assert_eq!(f.line("web").unwrap().cpus, 1);
}

/// The original answers that it is being stopped already.
#[test]
fn a_wait_for_a_vm_that_is_being_stopped_is_answered_at_its_end() {
    let mut f = Fixture::new(vec![definition("web")]);
    let id = f.running("web");
    f.stop("web", false, false);
    assert!(replies(&f.ask(Request::Wait { vm: by_name("web") })).is_empty());
    assert_eq!(replies(&f.on(Event::Ended(id, End::PoweredOff))), [Reply::Ended { id: 1 }]);
}

#[test]
fn a_wait_stops_nothing() {
    let mut f = Fixture::new(vec![definition("web")]);
    f.running("web");
    assert_eq!(f.ask(Request::Wait { vm: by_name("web") }), []);
    assert_eq!(f.state("web"), Some(VmState::Running));
}

#[test]
fn force_ends_a_vm_that_is_being_stopped() {
    let mut f = Fixture::new(vec![definition("web")]);
    f.running("web");
    f.stop("web", false, false);
    assert!(f.stop("web", true, false).iter().any(|a| matches!(a, Action::Terminate(_, _, Stop::Force))));
}

/// The original says so when the VM starts, as it can know only then what the host can.
#[test]
fn a_vm_that_asks_for_what_is_not_carried_out_is_known_and_its_start_says_so() {
    let small = model::MemorySize::from_bytes(63 << 20).unwrap();
    let vms = vec![
        changed("sev", |vm| vm.sev = Some(model::Sev::Memory)),
        changed("small", |vm| vm.memory = small),
        changed("least", |vm| vm.memory = model::MemorySize::from_bytes(64 << 20).unwrap()),
    ];
    let mut f = Fixture::new(vms);
    for (name, why, text) in [
        ("sev", Code::Unsupported, "memory encryption is not supported by this release"),
        ("small", Code::Invalid, "memory of 63 MiB is less than the 64 MiB that a kernel needs"),
    ] {
        let actions = f.start(name);
        assert!(replies(&actions).contains(&Reply::Failed(Failure::new(why, text))), "{name}: {actions:?}");
        assert_eq!(f.state(name), Some(VmState::Stopped), "{name}");
    }
    assert_eq!(code(&f.start("least")), None);
}

#[test]
fn a_fault_of_a_disk_is_asked_of_a_disk_of_a_vm_that_runs() {
    let mut f = Fixture::new(vec![definition("web")]);
    let fault = |f: &mut Fixture, name: &str, disk| {
        let operation = DiskOperation::Flush;
        let codes = [
            code(&f.ask(Request::DiskFail { vm: by_name(name), disk, operation, count: 1 })),
            code(&f.ask(Request::FlushStop { vm: by_name(name), disk, count: 1 })),
        ];
        assert_eq!(codes[0], codes[1]);
        codes[0]
    };
    assert_eq!(fault(&mut f, "ghost", 0), Some(Code::NotFound));
    assert_eq!(fault(&mut f, "web", 0), Some(Code::Invalid), "it does not run");
    f.running("web");
    assert_eq!(fault(&mut f, "web", 1), Some(Code::Invalid), "it has one disk");
    assert_eq!(fault(&mut f, "web", 0), Some(Code::Unsupported));
}

/// As vm.conf's reader gives it.
fn on_switches(name: &str, switches: &[&str]) -> Definition {
    let vm = model::Vm {
        enabled: false,
        boot: UserPath::new("/vmlinuz").ok(),
        nics: switches.iter().map(|switch| on(switch)).collect(),
        ..model::Vm::new(VmName::new(name.as_bytes()).unwrap())
    };
    let known = config::Config::default();
    super::super::definition::definition_of(&vm, &known, &mut super::super::super::accounts::HostAccounts).unwrap()
}

#[test]
fn an_interface_on_a_switch_that_nobody_defined_is_on_none_and_the_log_says_so() {
    let mut f = Fixture::new(vec![on_switches("web", &["nosuch"])]);
    let actions = f.start("web");
    assert!(
        actions.iter().any(|a| matches!(a, Action::MakeTap { tap: TapSpec { bridge: None, .. }, .. })),
        "{actions:?}"
    );
    let text = "vm \"web\": switch \"nosuch\" not found: interface 0 is not attached to a switch";
    assert!(
        actions.contains(&Action::LogOf(
            VmName::new("web").expect("a name"),
            None,
            log::Level::Warn.into(),
            text.to_owned()
        )),
        "{actions:?}"
    );
    assert_eq!(code(&actions), None);
}

#[test]
fn without_a_staggered_start_as_many_as_cpus_start_at_a_time_30_seconds_apart() {
    let of = |text: &str| {
        let config = config::Config {
            globals: config::Globals {
                staggered: (text == "said").then_some(config::Staggered { parallel: 3, delay_s: 7 }),
                ..config::Globals::default()
            },
            ..config::Config::default()
        };
        let names = &mut super::super::super::accounts::HostAccounts;
        let (settings, refused) = crate::parent::conf::settings::of_config(&config, 5, names);
        assert!(refused.is_empty());
        (settings.parallel, settings.delay.as_secs())
    };
    assert_eq!((of("nothing"), of("said")), ((5, 30), (3, 7)));
}

#[test]
fn a_random_network_of_ipv6_is_drawn_once_in_the_daemons_life() {
    let config = |inet6| config::Config {
        globals: config::Globals { local_inet6: inet6, ..config::Globals::default() },
        ..config::Config::default()
    };
    let inet6 = |inet6| {
        let names = &mut super::super::super::accounts::HostAccounts;
        crate::parent::conf::settings::of_config(&config(inet6), 1, names).0.locals.inet6
    };
    let first = inet6(Some(config::LocalInet6::Random)).unwrap();
    assert_eq!((first.octets()[0], &first.octets()[8..]), (0xfd, &[0; 8][..]));
    assert_eq!(inet6(Some(config::LocalInet6::Random)), Some(first));
    assert_eq!(inet6(None), None);
}

#[test]
fn an_address_that_was_made_stays_for_later_starts() {
    let mut f = Fixture::new(vec![on_switches("web", &["a", "b"])]);
    let mut macs = || {
        f.now += Duration::from_secs(60);
        let actions = f.start("web");
        let all = f.prepare(actions);
        let launch =
            all.iter().find_map(|a| if let Action::Launch(_, launch) = a { Some(launch.clone()) } else { None });
        let launch = launch.expect("a launch");
        f.on(Event::StartDone(launch.vm.vm, Ok(42)));
        f.on(Event::Ended(launch.vm.vm, End::PoweredOff));
        nics_of(&launch).iter().map(|card| card.mac).collect::<Vec<_>>()
    };
    let first = macs();
    assert_eq!(
        first.iter().map(|mac| mac.0[..4].to_vec()).collect::<Vec<_>>(),
        [[0xfe, 0xe1, 0xbb, 0xd1], [0xfe, 0xe1, 0xbb, 0xd2]]
    );
    assert_eq!(macs(), first);
}

#[test]
fn after_a_reset_a_switch_that_could_not_be_made_is_one_that_nobody_defined() {
    let mut f = Fixture::new(vec![on_switches("web", &["lan"])]);
    f.on(Event::SwitchMade(SwitchName::new("lan").unwrap(), Err(Failure::new(Code::Exists, "no bridge"))));
    assert_eq!(code(&f.start("web")), Some(Code::NotFound));
    f.ask(Request::Reset { vms: false, switches: true });
    assert_eq!(code(&f.start("web")), None);
}

#[test]
fn a_switch_that_could_not_be_made_is_nobodys_once_the_file_has_it_no_more() {
    let mut f = Fixture::new(vec![on_switches("web", &["lan"])]);
    f.on(Event::SwitchMade(SwitchName::new("lan").unwrap(), Err(Failure::new(Code::Exists, "no bridge"))));
    assert_eq!(code(&f.start("web")), Some(Code::NotFound));
    let reload = |load| {
        let settings = Box::new(settings(vec![on_switches("web", &["lan"])]));
        Event::ConfigRead(Reading { asked: None, load }, Ok(settings))
    };
    f.on(reload(Some(UserPath::new("/more").unwrap())));
    assert_eq!(code(&f.start("web")), Some(Code::NotFound), "a file beside it says nothing of it");
    f.on(reload(None));
    assert_eq!(code(&f.start("web")), None);
}
