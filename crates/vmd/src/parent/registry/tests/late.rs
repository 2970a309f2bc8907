//! Switches whose bridges others make: who waits for them, and how long.

use super::*;

fn external() -> Switch {
    let lan = switch("lan", "br0");
    Switch { spec: model::Switch { external: true, ..lan.spec }, ..lan }
}

fn absent() -> Event {
    Event::SwitchMade(SwitchName::new("lan").unwrap(), Err(Failure::new(Code::NotFound, "bridge \"br0\" is not there")))
}

fn there() -> Event {
    Event::SwitchMade(SwitchName::new("lan").unwrap(), Ok(()))
}

/// A VM on the switch, one on none, and what was said when the bridge was not there.
fn waiting() -> (Fixture, Vec<Action>) {
    let vms = vec![with_card(enabled("web"), on("lan")), enabled("db")];
    let mut f = Fixture { registry: Registry::default(), now: Instant::now(), requests: 0, recorded: vec![] };
    let settings = Settings { switches: vec![external()], ..settings(vms) };
    f.registry.handle(Event::Configured(Box::new(settings)), f.now);
    let said = f.registry.handle(absent(), f.now);
    (f, said)
}

fn looks(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::MakeSwitch(_)))
}

fn logged(actions: &[Action]) -> Vec<String> {
    let text = |action: &Action| if let Action::Log(_, text) = action { Some(text.clone()) } else { None };
    actions.iter().filter_map(text).collect()
}

#[test]
fn a_bridge_that_others_make_is_looked_for_each_second_and_holds_up_the_vms_on_it_alone() {
    let (mut f, said) = waiting();
    assert_eq!(logged(&said), ["switch \"lan\": waiting up to 120 s for bridge br0, which another program makes"]);
    assert_eq!((f.state("web"), f.state("db")), (Some(VmState::Waiting), Some(VmState::Starting)));
    let Some(Reply::Failed(refused)) = replies(&f.start("web")).pop() else { panic!("it can't start") };
    let text =
        "switch \"lan\" of vm \"web\" waits for another program to make its bridge; start the VM when it is there";
    assert_eq!(refused.text.as_str(), text);
    for _ in 0..3 {
        assert_eq!(f.registry.next_deadline(), Some(f.now + Duration::from_secs(1)));
        f.now += Duration::from_secs(1);
        assert!(looks(&f.registry.handle(Event::Time, f.now)));
        assert!(!looks(&f.registry.handle(Event::Time, f.now)), "one look at a time");
        assert_eq!(logged(&f.registry.handle(absent(), f.now)), [""; 0], "said once");
    }
    f.on(there());
    assert_eq!(f.state("web"), Some(VmState::Starting));
}

#[test]
fn a_bridge_that_nobody_makes_is_given_up_and_a_reload_waits_again() {
    let (mut f, _) = waiting();
    f.now += Duration::from_secs(120);
    assert!(looks(&f.registry.handle(Event::Time, f.now)));
    let given_up = f.registry.handle(absent(), f.now);
    assert_eq!(logged(&given_up)[0], "switch \"lan\": bridge \"br0\" is not there");
    assert_eq!(f.state("web"), Some(VmState::Stopped), "its start has failed");
    assert!(!looks(&f.registry.handle(Event::Time, f.now)));
    let (asked, _) = f.ask_as(root(), Request::Reload);
    let again = Settings { switches: vec![external()], ..settings(vec![with_card(definition("web"), on("lan"))]) };
    let read = Event::ConfigRead(Reading { asked: Some(asked), load: None }, Ok(Box::new(again)));
    assert!(looks(&f.registry.handle(read, f.now)));
    let told = replies(&f.registry.handle(absent(), f.now));
    assert!(matches!(told.as_slice(), [Reply::Note(_), Reply::Done]), "{told:?}");
}

#[test]
fn a_reload_begins_the_wait_anew_and_a_reset_ends_it() {
    let (mut f, _) = waiting();
    f.now += Duration::from_secs(119);
    let settings = Settings { switches: vec![external()], ..settings(vec![with_card(enabled("web"), on("lan"))]) };
    let read = Event::ConfigRead(Reading { asked: None, load: None }, Ok(Box::new(settings)));
    assert!(looks(&f.registry.handle(read, f.now)));
    f.registry.handle(absent(), f.now);
    f.now += Duration::from_secs(100);
    f.registry.handle(Event::Time, f.now);
    assert_eq!(logged(&f.registry.handle(absent(), f.now)), [""; 0], "119 and 100 are two waits");
    f.ask(Request::Reset { vms: false, switches: true });
    f.now += Duration::from_secs(100);
    assert!(!looks(&f.registry.handle(Event::Time, f.now)));
}

#[test]
fn another_failure_and_the_bridge_of_an_ordinary_switch_are_not_waited_for() {
    for (switch, code) in [(external(), Code::Invalid), (switch("lan", "br0"), Code::NotFound)] {
        let mut f = Fixture { registry: Registry::default(), now: Instant::now(), requests: 0, recorded: vec![] };
        let vms = vec![with_card(enabled("web"), on("lan"))];
        let settings = Settings { switches: vec![switch], ..settings(vms) };
        f.registry.handle(Event::Configured(Box::new(settings)), f.now);
        let why = Failure::new(code, "no");
        f.registry.handle(Event::SwitchMade(SwitchName::new("lan").unwrap(), Err(why)), f.now);
        assert_eq!(f.state("web"), Some(VmState::Stopped), "{code:?}");
    }
}

#[test]
fn a_bridge_that_a_file_of_anothers_makes_is_waited_for_and_then_made() {
    let maker = Some("/etc/systemd/network/lan.netdev".to_owned());
    let lan = Switch { maker: maker.clone(), ..switch("lan", "br0") };
    let mut f = Fixture { registry: Registry::default(), now: Instant::now(), requests: 0, recorded: vec![] };
    let settings = Settings { switches: vec![lan], ..settings(vec![with_card(enabled("web"), on("lan"))]) };
    f.registry.handle(Event::Configured(Box::new(settings)), f.now);
    let said = logged(&f.registry.handle(absent(), f.now));
    let waits = "switch \"lan\": waiting up to 30 s for bridge br0, which /etc/systemd/network/lan.netdev makes";
    assert_eq!(said, [waits]);
    f.now += Duration::from_secs(30);
    assert!(looks(&f.registry.handle(Event::Time, f.now)));
    let actions = f.registry.handle(absent(), f.now);
    let Some(Action::MakeSwitch(made)) = actions.last() else { panic!("{actions:?}") };
    assert_eq!((&made.maker, made.spec.interface.as_str()), (&None, "br0"));
    assert!(
        logged(&actions)[0].ends_with("makes it: vmd makes one of that name; see what keeps the other"),
        "{actions:?}"
    );
    assert_eq!(f.state("web"), Some(VmState::Waiting));
    f.on(there());
    assert_eq!(f.state("web"), Some(VmState::Starting));
}
