//! Where a rule begins and ends to hold: the last moment, the one more, the other of two.

use super::*;

fn all_enabled(names: &[&str]) -> Vec<Definition> {
    names.iter().map(|name| enabled(name)).collect()
}

fn on_switch(name: &str, switch: &str) -> Definition {
    with_card(definition(name), on(switch))
}

fn text(actions: &[Action]) -> String {
    let told = replies(actions).into_iter().find_map(|reply| match reply {
        Reply::Failed(failure) => Some(failure.text.to_string()),
        _ => None,
    });
    told.unwrap_or_else(|| panic!("no failure in {actions:?}"))
}

fn opened_disks(action: &Action) -> Vec<What> {
    match action {
        Action::Open { files, .. } => {
            files.iter().filter(|(file, ..)| matches!(file, File::Disk(_))).map(|(_, what, _)| *what).collect()
        }
        _ => vec![],
    }
}

fn launch_of(actions: &[Action]) -> &Launch {
    let found = actions.iter().find_map(|action| match action {
        Action::Launch(_, launch) => Some(launch),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no launch in {actions:?}"))
}

#[test]
fn a_switch_that_cannot_be_made_is_forgotten_and_no_other() {
    let mut f = Fixture { registry: Registry::default(), now: Instant::now(), requests: 0, recorded: vec![] };
    let vms = vec![on_switch("a", "lan"), on_switch("b", "dmz")];
    let settings = Settings { switches: vec![switch("lan", "br0"), switch("dmz", "br0")], ..settings(vms) };
    f.on(Event::Configured(Box::new(settings)));
    f.on(Event::SwitchMade(SwitchName::new("lan").unwrap(), Err(Failure::new(Code::Io, "no"))));
    f.on(Event::SwitchMade(SwitchName::new("dmz").unwrap(), Ok(())));
    assert_eq!((code(&f.start("a")), code(&f.start("b"))), (Some(Code::NotFound), None));
}

#[test]
fn a_batch_is_not_early_for_a_switch_that_is_answered_and_not_late_at_its_moment() {
    let mut f = Fixture::new(all_enabled(&["a", "b", "c", "d", "e"]));
    let answered = |f: &mut Fixture| f.on(Event::SwitchMade(SwitchName::new("lan").unwrap(), Ok(())));
    f.now += Duration::from_secs(29);
    answered(&mut f);
    assert_eq!(f.state("c"), Some(VmState::Waiting));
    f.now += Duration::from_secs(1);
    answered(&mut f);
    assert_eq!((f.state("c"), f.state("e")), (Some(VmState::Starting), Some(VmState::Waiting)));
}

#[test]
fn a_delay_of_0_starts_the_next_batch_at_once() {
    let mut f = Fixture { registry: Registry::default(), now: Instant::now(), requests: 0, recorded: vec![] };
    let settings = Settings { delay: Duration::ZERO, ..settings(all_enabled(&["a", "b", "c", "d", "e"])) };
    f.on(Event::Configured(Box::new(settings)));
    let starting = |f: &mut Fixture| {
        ["a", "b", "c", "d", "e"].iter().filter(|name| f.state(name) == Some(VmState::Starting)).count()
    };
    assert_eq!((starting(&mut f), f.registry.next_deadline()), (2, Some(f.now)));
    f.on(Event::Time);
    assert_eq!((starting(&mut f), f.registry.next_deadline()), (4, Some(f.now)));
    f.on(Event::Time);
    assert_eq!(starting(&mut f), 5);
}

#[test]
fn the_last_batch_waits_for_no_other() {
    let mut f = Fixture { registry: Registry::default(), now: Instant::now(), requests: 0, recorded: vec![] };
    let settings = Settings { delay: Duration::from_secs(1), ..settings(all_enabled(&["a", "b"])) };
    f.on(Event::Configured(Box::new(settings)));
    assert_eq!(f.registry.next_deadline(), Some(f.now + PREPARE_LIMIT));
}

#[test]
fn a_stranger_is_told_whose_a_vm_is() {
    let mut f = Fixture::new(vec![definition("web")]);
    let stranger = Who { uid: 1001, gid: 1001, groups: vec![] };
    let (_, actions) = f.ask_as(stranger, Request::Start(Box::new(start_of(by_name("web")))));
    let expected = "vm \"web\" belongs to \"ann\", and uid 1001 is neither that user nor in that group";
    assert_eq!(text(&actions), expected);
}

#[test]
fn a_known_vm_takes_no_disk_no_card_and_no_cdrom() {
    let path = |path| UserPath::new(path).unwrap();
    let plain = || start_of(by_name("web"));
    let disks = List::try_from(vec![DiskArg { path: path("/d"), format: None }]).unwrap();
    let nics = List::try_from(vec![proto::client::NicArg::Plain]).unwrap();
    for start in
        [Start { disks, ..plain() }, Start { nics, ..plain() }, Start { cdrom: Some(path("/c.iso")), ..plain() }]
    {
        let mut f = Fixture::new(vec![definition("web")]);
        assert_eq!(code(&f.ask(Request::Start(Box::new(start.clone())))), Some(Code::Already), "{start:?}");
    }
}

#[test]
fn an_unknown_vm_with_a_cdrom_alone_is_told_what_it_lacks() {
    let cdrom = UserPath::new("/c.iso").ok();
    let mut f = Fixture::new(vec![]);
    let (_, actions) = f.ask_as(root(), Request::Start(Box::new(Start { cdrom, ..start_of(by_name("new")) })));
    let lacks = "vm \"new\" has no kernel: name one with \"boot\" in vm.conf or vmctl start -b";
    assert_eq!(text(&actions), lacks);
    assert!(f.line("new").is_none(), "it is forgotten");
}

#[test]
fn a_fault_of_a_disk_that_is_not_there_names_those_that_are() {
    for (disks, those) in [(0, "it has none"), (1, "its only one is 0"), (3, "they are 0 to 2")] {
        let disk = |nth| Disk::new(UserPath::new(&format!("/{nth}.raw")).unwrap(), None);
        let mut f = Fixture::new(vec![changed("web", |vm| vm.disks = (0..disks).map(disk).collect())]);
        f.running("web");
        let (_, actions) = f.ask_as(root(), Request::FlushStop { vm: by_name("web"), disk: 9, count: 1 });
        assert_eq!(text(&actions), format!("vm \"web\" has no disk 9; {those}"));
    }
}

#[test]
fn a_file_that_the_probe_refuses_is_named_with_its_path() {
    for (file, name) in [(File::Kernel, "kernel \"/vmlinuz\""), (File::Disk(0), "disk \"/web.raw\"")] {
        let mut f = Fixture::new(vec![definition("web")]);
        f.start("web");
        let run = f.registry.vms[0].run.unwrap();
        let refused = f.on(Event::Probed(run, file, Err(Failure::new(Code::Invalid, "no magic"))));
        assert_eq!(text(&refused), format!("{name}: no magic"));
    }
}

#[test]
fn a_start_waits_for_the_last_of_file_tap_and_console() {
    let vm = with_card(changed("web", |vm| vm.disks.clear()), Nic::default());
    for last in 0..3 {
        let mut f = Fixture::new(vec![vm.clone()]);
        f.start("web");
        let run = f.registry.vms[0].run.unwrap();
        f.on(Event::Opened(run, File::Kernel, Ok(OpenFile::default())));
        let mut events = vec![
            Event::Probed(run, File::Kernel, Ok(Found::Kernel { kind: KernelKind::Pvh })),
            Event::TapMade(run, 0, Ok(tap(0))),
            Event::ConsoleMade(run, Ok(Text::cut("/dev/pts/9"))),
        ];
        events.rotate_left(last);
        let begun: Vec<bool> = events.into_iter().map(|event| launched(&f.on(event)).is_some()).collect();
        assert_eq!(begun, [false, false, true], "{last}");
    }
}

#[test]
fn the_cards_of_a_name_have_the_same_addresses_under_the_next_daemon_and_after_a_reload() {
    let owner = on_switch("web", "lan").owner.uid;
    let known = [(("web".to_owned(), owner), VmId(1)), (("new".to_owned(), 0), VmId(0x0102))].into();
    let mut f =
        Fixture { registry: Registry::knowing(known, [0xff, 7]), now: Instant::now(), requests: 0, recorded: vec![] };
    let mut start = start_of(by_name("new"));
    start.kernel = Some(UserPath::new("/k").unwrap());
    start.nics = List::try_from(vec![proto::client::NicArg::Plain; 2]).unwrap();
    f.ask(Request::Start(Box::new(start)));
    let macs =
        |f: &mut Fixture, name| f.line(name).expect("it is listed").macs.iter().map(MacAddr::to_string).collect();
    let of_client: Vec<String> = macs(&mut f, "new");
    assert_eq!(of_client, ["fe:e1:bb:d1:fe:05", "fe:e1:bb:d2:fe:05"]);
    let settings = |names: &[&str]| Box::new(settings(names.iter().map(|name| on_switch(name, "lan")).collect()));
    for names in [["web", "mail"], ["mail", "web"]] {
        f.on(Event::ConfigRead(Reading { asked: None, load: None }, Ok(settings(&names))));
        let (web, mail): (Vec<String>, Vec<String>) = (macs(&mut f, "web"), macs(&mut f, "mail"));
        assert_eq!((web, mail), (vec!["fe:e1:bb:d1:ff:06".to_owned()], vec!["fe:e1:bb:d1:fe:04".to_owned()]));
    }
}

#[test]
fn an_eighth_is_forgotten_at_the_very_number_that_is_too_many() {
    let mut f = Fixture::new(vec![definition("web")]);
    (0..4096).for_each(|number| drop(f.registry.claim(&format!("vm{number}"), 2000)));
    assert_eq!(f.registry.ids.len(), 4097);
    f.registry.claim("more", 2000).unwrap();
    assert_eq!(f.registry.ids.len(), 4097 - 512 + 1);
}

#[test]
fn a_new_name_gets_a_number_above_all_before_up_to_the_last_and_then_the_lowest() {
    let known = [(("old".to_owned(), 0), VmId(16_381))].into();
    let mut f =
        Fixture { registry: Registry::knowing(known, [0; 2]), now: Instant::now(), requests: 0, recorded: vec![] };
    let numbers = ["a", "b", "c", "d"].map(|name| f.registry.claim(name, 0).unwrap().0);
    assert_eq!(numbers, [16_382, 16_383, 1, 2]);
}

#[test]
fn what_comes_for_an_earlier_start_does_not_hit_a_later_one() {
    let mut f = Fixture::new(vec![definition("web")]);
    f.start("web");
    let first = f.registry.vms[0].run.unwrap();
    let failure = || Failure::new(Code::Io, "no");
    f.on(Event::Opened(first, File::Kernel, Err(failure())));
    f.start("web");
    assert_eq!(f.on(Event::Opened(first, File::Disk(0), Err(failure()))), []);
    assert_eq!(f.state("web"), Some(VmState::Starting));
}

#[test]
fn a_launch_is_given_up_at_its_deadline_and_not_before() {
    let mut f = Fixture::new(vec![definition("web")]);
    let actions = f.start("web");
    f.prepare(actions);
    f.now += LAUNCH_LIMIT - Duration::from_millis(1);
    assert_eq!(f.on(Event::Time), []);
    f.now += Duration::from_millis(1);
    assert_eq!(code(&f.on(Event::Time)), Some(Code::TimedOut));
}

#[test]
fn a_start_that_takes_too_long_says_what_is_missing() {
    let vm = with_card(changed("web", |vm| vm.disks.clear()), Nic::default());
    for (there, missing) in [(0, "a file could not be opened in time"), (1, "no tap"), (2, "no console")] {
        let mut f = Fixture::new(vec![vm.clone()]);
        f.start("web");
        let run = f.registry.vms[0].run.unwrap();
        let events = [
            Event::Probed(run, File::Kernel, Ok(Found::Kernel { kind: KernelKind::Pvh })),
            Event::TapMade(run, 0, Ok(tap(0))),
        ];
        events.into_iter().take(there).for_each(|event| drop(f.on(event)));
        f.now += PREPARE_LIMIT;
        let told = text(&f.on(Event::Time));
        assert!(told.starts_with(&format!("start took longer than 30 s: {missing}")), "{told}");
    }
}

#[test]
fn a_disk_is_opened_for_writing_and_the_kernel_is_told() {
    let mut f = Fixture::new(vec![definition("web")]);
    let actions = f.start("web");
    let all = f.prepare(actions);
    let opened: Vec<What> = all.iter().flat_map(opened_disks).collect();
    assert_eq!(opened, [What::Disk { write: true }]);
    assert_eq!(launch_of(&all).vm.cmdline.as_str(), "console=ttyS0 root=/dev/vda rw");
}

#[test]
fn a_kernel_that_a_client_brought_is_named_by_the_path_it_gave() {
    let mut f = Fixture::new(vec![definition("web")]);
    let kernel = Some(UserPath::new("/home/ann/bzImage").unwrap());
    f.ask(Request::Start(Box::new(Start { kernel, ..start_of(by_name("web")) })));
    let run = f.registry.vms[0].run.unwrap();
    let refused = f.on(Event::Probed(run, File::Kernel, Err(Failure::new(Code::Invalid, "no magic"))));
    assert_eq!(text(&refused), "kernel \"/home/ann/bzImage\": no magic");
}

#[test]
fn vms_that_run_are_listed_first_in_the_order_of_their_starts() {
    let mut f = Fixture::new(vec![definition("a"), definition("b"), definition("c")]);
    f.running("c");
    f.running("a");
    let replies = replies(&f.ask(Request::List));
    let Some(Reply::Vms(lines)) = replies.first() else { panic!("{replies:?}") };
    let names: Vec<&str> = lines.iter().map(|line| line.name.as_str()).collect();
    assert_eq!(names, ["c", "a", "b"]);
}

#[test]
fn those_that_run_are_known_with_their_processes() {
    let mut f = Fixture::new(vec![definition("a"), definition("b")]);
    assert_eq!(f.registry.running().count(), 0);
    let id = f.running("b");
    assert_eq!(f.registry.running().collect::<Vec<_>>(), [(id, 42)]);
}
