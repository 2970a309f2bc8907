//! What a configuration that is read again changes, and what one that is wrong does not.

use super::*;

fn reading(asked: Option<Asked>) -> Reading {
    Reading { asked, load: None }
}

fn memory(name: &str, bytes: i64) -> Definition {
    changed(name, |vm| vm.memory = MemorySize::from_bytes(bytes).unwrap())
}

fn lan(bridge: &str) -> Switch {
    switch("lan", bridge)
}

impl Fixture {
    /// Reads these VMs in place of what does not run.
    fn reload(&mut self, vms: Vec<Definition>) -> Vec<Action> {
        self.on(Event::ConfigRead(reading(None), Ok(Box::new(settings(vms)))))
    }

    fn names(&mut self) -> Vec<String> {
        let replies = replies(&self.ask(Request::List));
        let lines = replies.into_iter().filter_map(|reply| match reply {
            Reply::Vms(lines) => Some(lines.into_iter().map(|line| line.name.to_string()).collect::<Vec<_>>()),
            _ => None,
        });
        lines.flatten().collect()
    }
}

#[test]
fn status_tells_the_description_that_was_read_last_unless_the_vm_runs() {
    let described = |name: &str, text: &str| changed(name, |vm| vm.description = model::Description::new(text).ok());
    let mut f = Fixture::new(vec![described("web", "one"), described("db", "one")]);
    f.running("db");
    f.reload(vec![described("web", "two"), described("db", "two")]);
    let mut told = |name: &str| f.line(name).and_then(|line| line.description).map(|text| text.to_string());
    assert_eq!((told("web").as_deref(), told("db").as_deref()), (Some("two"), Some("one")));
}

#[test]
fn a_reload_is_read_first_and_answered_when_it_is_done() {
    let mut f = Fixture::new(vec![]);
    let (asked, actions) = f.ask_as(root(), Request::Reload);
    assert_eq!(actions, [Action::ReadConfig(reading(Some(asked)))]);
    let done = f.on(Event::ConfigRead(reading(Some(asked)), Ok(Box::new(settings(vec![definition("web")])))));
    assert!(done.contains(&Action::Answer(asked, Reply::Done)), "{done:?}");
    assert_eq!(f.names(), ["web"]);
}

#[test]
fn sighup_reads_the_daemons_file_and_an_empty_path_does_too() {
    let mut f = Fixture::new(vec![]);
    assert_eq!(f.on(Event::Hangup), [Action::ReadConfig(reading(None))]);
    let (asked, actions) = f.ask_as(root(), Request::Load { path: UserPath::default() });
    assert_eq!(actions, [Action::ReadConfig(reading(Some(asked)))]);
    f.on(Event::Terminate);
    assert_eq!(f.on(Event::Hangup), []);
    assert_eq!(code(&f.ask(Request::Reload)), Some(Code::Invalid));
}

#[test]
fn an_invalid_configuration_changes_nothing_and_every_error_is_told() {
    let mut f = Fixture::new(vec![definition("web"), definition("db")]);
    f.running("web");
    let (asked, _) = f.ask_as(root(), Request::Reload);
    let errors = vec!["/etc/vm.conf:1:1: one".to_owned(), "/etc/vm.conf:7:2: two".to_owned()];
    let actions = f.on(Event::ConfigRead(reading(Some(asked)), Err(errors.clone())));
    let answers = replies(&actions);
    let text = "2 errors in the configuration; nothing was changed";
    let expected = [
        Reply::Wrong(Text::cut(&errors[0])),
        Reply::Wrong(Text::cut(&errors[1])),
        Reply::Failed(Failure::new(Code::Invalid, text)),
    ];
    assert_eq!(answers, expected);
    let logged = |text: &str| actions.contains(&Action::Log(Weight::Notice, text.to_owned()));
    assert!(logged(&errors[0]) && logged(&errors[1]) && logged(&format!("reload: {text}")));
    assert_eq!((f.state("web"), f.state("db")), (Some(VmState::Running), Some(VmState::Stopped)));
}

#[test]
fn a_thousand_errors_are_told_in_a_hundred_and_logged_all() {
    let mut f = Fixture::new(vec![]);
    let (asked, _) = f.ask_as(root(), Request::Reload);
    let actions = f.on(Event::ConfigRead(reading(Some(asked)), Err(vec!["e".to_owned(); 1000])));
    assert_eq!(replies(&actions).len(), 101);
    assert!(format!("{:?}", replies(&actions).last()).contains("(900 more errors are only in the log)"));
    assert_eq!(actions.iter().filter(|action| matches!(action, Action::Log(..))).count(), 1001);
}

#[test]
fn running_vms_stay_as_they_are_and_stopped_ones_are_as_the_file_says() {
    let mut f = Fixture::new(vec![definition("web"), definition("db"), definition("old")]);
    f.running("web");
    f.reload(vec![memory("web", 1 << 30), memory("db", 1 << 30), definition("new")]);
    assert_eq!(f.names(), ["web", "db", "new"]);
    assert_eq!(f.line("web").unwrap().memory, MemorySize::DEFAULT);
    assert_eq!(f.line("db").unwrap().memory.bytes(), 1 << 30);
    let web = f.line("web").map(|line| VmId(line.id)).unwrap();
    f.on(Event::Ended(web, End::PoweredOff));
    assert_eq!(f.line("web").unwrap().memory.bytes(), 1 << 30);
}

#[test]
fn what_a_running_vm_is_to_be_is_told_by_the_reload_and_comes_with_its_next_start() {
    let mut f = Fixture::new(vec![definition("web"), definition("db")]);
    let id = f.running("web");
    f.running("db");
    let (asked, _) = f.ask_as(root(), Request::Reload);
    let reload =
        |f: &mut Fixture, vms| replies(&f.on(Event::ConfigRead(reading(Some(asked)), Ok(Box::new(settings(vms))))));
    let told = reload(&mut f, vec![memory("web", 1 << 30), definition("db")]);
    let note = Reply::Note(Text::cut("vm \"web\" runs: memory 1024M after the next start"));
    assert_eq!(told, [note, Reply::Done], "and nothing of what is the same");
    let detail = |f: &mut Fixture, who: Who, name| match replies(
        &f.ask_as(who, Request::Detail { vm: by_name(name) }).1,
    )
    .pop()
    {
        Some(Reply::Detail(detail)) => detail.next.map(|text| text.to_string()),
        other => panic!("{other:?}"),
    };
    assert_eq!(detail(&mut f, root(), "web").as_deref(), Some("memory 1024M after the next start"));
    assert_eq!((detail(&mut f, root(), "db"), detail(&mut f, root(), "none")), (None, None));
    assert_eq!(
        detail(&mut f, Who { uid: 4321, gid: 4321, groups: vec![] }, "web"),
        None,
        "another's is nobody's business"
    );
    // A reboot is no start: the guest may rely on what it has.
    let actions = f.on(Event::Ended(id, End::Rebooted));
    assert_eq!(launched(&f.prepare(actions)), Some(id));
    f.on(Event::StartDone(id, Ok(42)));
    assert_eq!(f.line("web").unwrap().memory, MemorySize::DEFAULT);
    assert_eq!(reload(&mut f, vec![definition("web"), definition("db")]), [Reply::Done], "as it was again");
    f.on(Event::Ended(id, End::PoweredOff));
    assert_eq!(f.line("web").unwrap().memory, MemorySize::DEFAULT);
}

#[test]
fn a_vm_that_has_another_owner_after_its_end_has_another_number_and_its_place() {
    let mut f = Fixture::new(vec![definition("web"), definition("db")]);
    let id = f.running("web");
    f.reload(vec![changed("web", |vm| vm.owner.uid = 4321), definition("db")]);
    f.on(Event::Ended(id, End::PoweredOff));
    let line = f.line("web").unwrap();
    assert_eq!((line.uid, line.state), (4321, VmState::Stopped));
    assert_ne!(VmId(line.id), id);
    assert_eq!(f.names(), ["web", "db"]);
}

#[test]
fn of_a_thousand_vms_that_change_later_a_hundred_are_told_and_how_many_more() {
    let names: Vec<String> = (0..1000).map(|number| format!("vm{number}")).collect();
    let mut f = Fixture::new(names.iter().map(|name| definition(name)).collect());
    for name in &names {
        f.running(name);
    }
    let (asked, _) = f.ask_as(root(), Request::Reload);
    let vms = names.iter().map(|name| memory(name, 1 << 30)).collect();
    let told = replies(&f.on(Event::ConfigRead(reading(Some(asked)), Ok(Box::new(settings(vms))))));
    let rest = Reply::Note(Text::cut("900 more VMs run and change with their next start; the log has all"));
    assert_eq!((told.len(), told.get(100)), (102, Some(&rest)));
}

#[test]
fn a_skipped_block_does_not_replace_the_kernel_of_a_running_vm() {
    let mut f = Fixture::new(vec![definition("web")]);
    let id = f.running("web");
    f.reload(vec![changed("web", |vm| vm.boot = None)]);
    let actions = f.on(Event::Ended(id, End::Rebooted));
    assert_eq!(launched(&f.prepare(actions)), Some(id));
}

#[test]
fn a_vm_that_starts_or_ends_counts_as_running() {
    let mut f = Fixture::new(vec![definition("starts"), definition("ends")]);
    f.start("starts");
    f.running("ends");
    f.stop("ends", false, false);
    f.reload(vec![]);
    assert_eq!((f.state("starts"), f.state("ends")), (Some(VmState::Starting), Some(VmState::Stopping)));
}

#[test]
fn a_reload_leaves_a_paused_vm_paused() {
    let mut f = Fixture::new(vec![definition("web")]);
    let id = f.running("web");
    let (request, ..) =
        super::pausing::asked_of_vmm(&f.ask(Request::Order { vm: by_name("web"), order: Order::Pause }));
    // While it is being paused too.
    f.reload(vec![memory("web", 1 << 30)]);
    f.on(Event::OrderDone(request, id, Order::Pause, Ok(true)));
    assert_eq!(f.state("web"), Some(VmState::Paused));
    let touches = |actions: &[Action]| {
        actions.iter().any(|action| {
            matches!(action, Action::Order(..) | Action::Terminate(..) | Action::Release(..) | Action::Open { .. })
        })
    };
    for vms in [vec![memory("web", 2 << 30)], vec![]] {
        let actions = f.reload(vms);
        assert!(!touches(&actions), "{actions:?}");
        let line = f.line("web").expect("it is listed");
        assert_eq!((line.state, line.memory), (VmState::Paused, definition("web").memory));
    }
}

#[test]
fn a_running_vm_that_the_file_no_longer_has_is_listed_until_the_first_reload_after_its_end() {
    let mut f = Fixture::new(vec![definition("web")]);
    let id = f.running("web");
    f.reload(vec![]);
    f.on(Event::Ended(id, End::PoweredOff));
    assert_eq!(f.state("web"), Some(VmState::Stopped));
    f.reload(vec![]);
    assert_eq!(f.state("web"), None);
}

#[test]
fn a_clients_vm_whose_name_the_file_has_stays_listed_when_it_stops() {
    let mut f = Fixture::new(vec![]);
    let mut start = start_of(by_name("new"));
    start.kernel = Some(UserPath::new("/k").unwrap());
    let actions = f.ask(Request::Start(Box::new(start)));
    let id = launched(&f.prepare(actions)).unwrap();
    f.on(Event::StartDone(id, Ok(9)));
    f.reload(vec![definition("new")]);
    f.on(Event::Ended(id, End::PoweredOff));
    assert_eq!(f.state("new"), Some(VmState::Stopped));
}

#[test]
fn an_enabled_vm_that_does_not_run_is_started_by_reload_with_its_id() {
    let mut f = Fixture::new(vec![definition("web"), definition("db")]);
    let id = f.line("db").unwrap().id;
    let actions = f.reload(vec![definition("first"), enabled("db")]);
    assert_eq!(launched(&f.prepare(actions)), Some(VmId(id)));
    assert_eq!(f.line("first").unwrap().id, 3);
}

#[test]
fn a_reload_starts_in_batches_as_the_file_says_now() {
    let mut f = Fixture::new(vec![]);
    let vms = ["a", "b", "c"].map(enabled).to_vec();
    let settings = Settings { parallel: 1, delay: Duration::from_secs(5), ..settings(vms) };
    f.on(Event::ConfigRead(reading(None), Ok(Box::new(settings))));
    let mut states = || ["a", "b", "c"].map(|name| f.state(name).unwrap());
    use VmState::{Starting, Waiting};
    assert_eq!(states(), [Starting, Waiting, Waiting]);
    f.now += Duration::from_secs(5);
    f.on(Event::Time);
    assert_eq!(["a", "b", "c"].map(|name| f.state(name).unwrap()), [Starting, Starting, Waiting]);
}

#[test]
fn a_load_adds_and_takes_nothing_away() {
    let mut f = Fixture::new(vec![definition("web")]);
    let path = UserPath::new("/more.conf").unwrap();
    let (asked, actions) = f.ask_as(root(), Request::Load { path: path.clone() });
    let reading = Reading { asked: Some(asked), load: Some(path) };
    assert_eq!(actions, [Action::ReadConfig(reading.clone())]);
    let actions = f.on(Event::ConfigRead(reading, Ok(Box::new(settings(vec![enabled("more")])))));
    assert!(!actions.iter().any(|action| matches!(action, Action::GiveSocket(_))), "globals are the main file's");
    assert_eq!(f.names(), ["web", "more"]);
    assert_eq!(f.state("more"), Some(VmState::Starting));
    assert_eq!(f.registry.known().vms.len(), 2, "for the next file");
}

#[test]
fn a_reload_gives_the_socket_to_its_owner() {
    let mut f = Fixture::new(vec![]);
    let owner = Owner { uid: 0, gid: Some(7) };
    let settings = Settings { socket: owner, ..settings(vec![]) };
    let actions = f.on(Event::ConfigRead(reading(None), Ok(Box::new(settings))));
    assert!(actions.contains(&Action::GiveSocket(owner)));
}

#[test]
fn agentx_is_told_of_by_a_reload_only_where_it_changes() {
    use crate::parent::service::snmp::Master;
    let master = |path: &str| Some(Master { path: UserPath::new(path).unwrap(), context: None });
    let mut f = Fixture::new(vec![]);
    let told = |f: &mut Fixture, snmp: Option<Master>| {
        let settings = Settings { snmp, ..settings(vec![]) };
        let actions = f.on(Event::ConfigRead(reading(None), Ok(Box::new(settings))));
        actions.into_iter().filter(|action| matches!(action, Action::ServeSnmp(_))).collect::<Vec<_>>()
    };
    assert_eq!(told(&mut f, None), []);
    assert_eq!(told(&mut f, master("/a")), [Action::ServeSnmp(master("/a"))]);
    assert_eq!(told(&mut f, master("/a")), []);
    assert_eq!(told(&mut f, master("/b")), [Action::ServeSnmp(master("/b"))]);
    // A file beside it has no word on it.
    let load = Reading { asked: None, load: Some(UserPath::new("/more.conf").unwrap()) };
    let actions = f.on(Event::ConfigRead(load, Ok(Box::new(settings(vec![])))));
    assert!(!actions.iter().any(|action| matches!(action, Action::ServeSnmp(_))), "{actions:?}");
    assert_eq!(told(&mut f, None), [Action::ServeSnmp(None)]);

    let mut registry = Registry::default();
    let settings = Settings { snmp: master("/a"), ..settings(vec![]) };
    let actions = registry.handle(Event::Configured(Box::new(settings)), f.now);
    assert!(actions.contains(&Action::ServeSnmp(master("/a"))), "at the start too");
}

#[test]
fn snmp_is_told_each_vm_with_its_state_and_whether_it_is_disabled() {
    let mut f = Fixture::new(vec![definition("off"), definition("web")]);
    f.running("web");
    let (_, actions) = f.ask_as(root(), Request::Order { vm: by_name("web"), order: Order::Pause });
    let Some(Action::Order(request, vm, Order::Pause)) = actions.last().cloned() else { panic!("{actions:?}") };
    f.on(Event::OrderDone(request, vm, Order::Pause, Ok(true)));
    f.reload(vec![definition("off"), definition("web"), enabled("db")]);
    let rows = f.registry.rows();
    let told: Vec<_> =
        rows.iter().map(|(row, pid)| (row.name.as_str(), row.vm.0, row.state, row.disabled, *pid)).collect();
    let (paused, stopped, starting) = (VmState::Paused, VmState::Stopped, VmState::Starting);
    let expected =
        [("web", 2, paused, true, Some(42)), ("off", 1, stopped, true, None), ("db", 3, starting, false, None)];
    assert_eq!(told.len(), 3);
    assert!(expected.iter().all(|line| told.contains(line)), "{told:?}");
}

#[test]
fn switches_are_replaced_by_name_and_the_bridge_of_one_that_is_gone_goes() {
    let mut f = Fixture::new(vec![]);
    let with = |bridge: &str| Box::new(Settings { switches: vec![lan(bridge)], ..settings(vec![]) });
    let made = f.on(Event::ConfigRead(reading(None), Ok(with("br0"))));
    assert!(made.contains(&Action::MakeSwitch(lan("br0"))));
    f.on(Event::SwitchMade(SwitchName::new("lan").unwrap(), Ok(())));
    let same = f.on(Event::ConfigRead(reading(None), Ok(with("br0"))));
    assert!(!same.iter().any(|action| matches!(action, Action::MakeSwitch(_))), "nothing to do");
    let changed = f.on(Event::ConfigRead(reading(None), Ok(with("br1"))));
    assert!(changed.contains(&Action::MakeSwitch(lan("br1"))));
    let gone = |bridge: &str| Action::RemoveBridge(IfName::new(bridge).unwrap());
    assert!(changed.contains(&gone("br0")) && !same.contains(&gone("br0")));
    f.on(Event::SwitchMade(SwitchName::new("lan").unwrap(), Ok(())));
    let load = Some(UserPath::new("/etc/more.conf").unwrap());
    let nothing = || Ok(Box::new(settings(vec![])));
    let added = f.on(Event::ConfigRead(Reading { asked: None, load }, nothing()));
    assert_eq!(f.registry.known().switches.len(), 1, "a load takes nothing away");
    assert!(!added.contains(&gone("br1")));
    assert!(f.on(Event::ConfigRead(reading(None), nothing())).contains(&gone("br1")));
    assert_eq!(f.registry.known().switches.len(), 0);
    let mut other = lan("br2");
    other.spec.name = SwitchName::new("other").unwrap();
    for switches in [vec![lan("br2"), other.clone()], vec![other]] {
        let read = Box::new(Settings { switches, ..settings(vec![]) });
        assert!(!f.on(Event::ConfigRead(reading(None), Ok(read))).contains(&gone("br2")), "another still has it");
    }
}

#[test]
fn of_switches_that_cannot_be_made_the_first_is_told_and_how_many_more() {
    for (count, more) in [(1, ""), (2, " (and 1 more, see the log)"), (3, " (and 2 more, see the log)")] {
        let mut f = Fixture::new(vec![]);
        let (asked, _) = f.ask_as(root(), Request::Reload);
        let names: Vec<_> = (0..count).map(|number| SwitchName::new(format!("s{number}")).unwrap()).collect();
        let switches = names.iter().map(|name| switch(name.as_str(), "br0")).collect();
        let settings = Settings { switches, ..settings(vec![]) };
        f.on(Event::ConfigRead(reading(Some(asked)), Ok(Box::new(settings))));
        let no = || Err(Failure::new(Code::Exists, "no bridge"));
        let last = names.into_iter().map(|name| f.on(Event::SwitchMade(name, no()))).last().unwrap();
        let text = format!("switch \"s0\": no bridge{more}; the rest of the configuration has taken effect");
        assert_eq!(replies(&last), [Reply::Failed(Failure::new(Code::Exists, text))]);
    }
}

#[test]
fn a_switch_that_cannot_be_made_fails_the_reload_and_nothing_else() {
    let mut f = Fixture::new(vec![]);
    let (asked, _) = f.ask_as(root(), Request::Reload);
    let settings = Settings { switches: vec![lan("br0")], ..settings(vec![definition("web")]) };
    let actions = f.on(Event::ConfigRead(reading(Some(asked)), Ok(Box::new(settings))));
    assert!(replies(&actions).is_empty(), "not before the switch is there");
    let actions =
        f.on(Event::SwitchMade(SwitchName::new("lan").unwrap(), Err(Failure::new(Code::Exists, "no bridge"))));
    let text = "switch \"lan\": no bridge; the rest of the configuration has taken effect";
    assert_eq!(replies(&actions), [Reply::Failed(Failure::new(Code::Exists, text))]);
    assert_eq!(f.names(), ["web"]);
}

#[test]
fn a_reboot_does_not_ask_for_a_switch_that_is_forgotten() {
    let vm = with_card(definition("web"), on("lan"));
    let mut f = Fixture::new(vec![]);
    let settings = Settings { switches: vec![lan("br0")], ..settings(vec![vm]) };
    f.on(Event::ConfigRead(reading(None), Ok(Box::new(settings))));
    f.on(Event::SwitchMade(SwitchName::new("lan").unwrap(), Ok(())));
    let id = f.running("web");
    f.ask(Request::Reset { vms: false, switches: true });
    let actions = f.on(Event::Ended(id, End::Rebooted));
    assert_eq!(launched(&f.prepare(actions)), Some(id));
}

/// Also of a definition that is older than the switch, or than what it says now.
#[test]
fn what_a_switch_says_when_a_tap_is_made_holds_as_long_as_the_tap() {
    let mut f = Fixture::new(vec![with_card(definition("web"), on("lan"))]);
    let say = |f: &mut Fixture, guarded, isolated| {
        let mut lan = lan("br0");
        (lan.spec.guarded, lan.spec.isolated) = (guarded, isolated);
        let settings = Settings { switches: vec![lan], ..settings(vec![]) };
        let reading = Reading { load: UserPath::new("/more").ok(), ..reading(None) };
        f.on(Event::ConfigRead(reading, Ok(Box::new(settings))));
        f.on(Event::SwitchMade(SwitchName::new("lan").unwrap(), Ok(())));
    };
    let isolated = |all: &[Action]| {
        all.iter().find_map(|action| if let Action::MakeTap { tap, .. } = action { Some(tap.isolated) } else { None })
    };
    let guarded = |all: &[Action]| {
        all.iter().find_map(|action| match action {
            Action::Launch(_, launch) => nics_of(launch).first().map(|card| card.guarded),
            _ => None,
        })
    };
    for said in [(true, true), (true, false), (false, true), (false, false)] {
        say(&mut f, said.0, said.1);
        let actions = f.start("web");
        let all = f.prepare(actions);
        assert_eq!((guarded(&all), isolated(&all)), (Some(said.0), Some(said.1)));
        let id = launched(&all).expect("a launch");
        f.on(Event::StartDone(id, Ok(42)));

        say(&mut f, !said.0, !said.1);
        f.now += Duration::from_secs(60);
        let actions = f.on(Event::Ended(id, End::Rebooted));
        let all = f.prepare(actions);
        assert_eq!((guarded(&all), isolated(&all)), (Some(said.0), None), "over a reboot, whose taps are held");
        f.on(Event::StartDone(id, Ok(43)));
        f.on(Event::Ended(id, End::PoweredOff));
    }
}

#[test]
fn any_reset_brings_the_default_networks_back_until_the_next_reload() {
    let locals = Locals { inet6: Some(std::net::Ipv6Addr::LOCALHOST), nat: false, ..Locals::default() };
    let mut f = Fixture::new(vec![]);
    for (vms, switches) in [(true, false), (false, true)] {
        f.on(Event::ConfigRead(reading(None), Ok(Box::new(Settings { locals, ..settings(vec![]) }))));
        assert_eq!(f.registry.locals, locals);
        f.ask(Request::Reset { vms, switches });
        assert_eq!(f.registry.locals, Locals::default());
    }
}

#[test]
fn an_id_that_a_vm_still_has_after_a_reset_is_not_given_again() {
    let mut f = Fixture::new(vec![definition("web"), definition("db")]);
    f.running("web");
    f.ask(Request::Reset { vms: true, switches: false });
    f.reload(vec![definition("new")]);
    assert_eq!((f.line("web").unwrap().id, f.line("new").unwrap().id), (1, 2));
}

#[test]
fn switches_have_numbers_from_one_that_they_keep() {
    let mut f = Fixture::new(vec![]);
    let named = |name: &str, bridge: &str| Switch { id: 9, ..switch(name, bridge) };
    let mut made = |switches: Vec<Switch>| {
        let read = Ok(Box::new(Settings { switches, ..settings(vec![]) }));
        let actions = f.on(Event::ConfigRead(reading(None), read));
        let ids = actions.iter().filter_map(|a| if let Action::MakeSwitch(s) = a { Some(s.id) } else { None });
        ids.collect::<Vec<_>>()
    };
    assert_eq!(made(vec![named("a", "br0"), named("b", "br1")]), [1, 2]);
    assert_eq!(made(vec![named("a", "br2"), named("b", "br1"), named("c", "br3")]), [1, 3]);
}
