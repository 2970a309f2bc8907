//! What vm.conf has of VMs that can't be started: they are listed so, and no other pays.

use super::super::Trouble;
use super::*;

fn trouble(owner: bool) -> Trouble {
    Trouble { owner, reason: "/etc/vm.conf:2:7: disk path not found: \"/web.raw\"".to_owned() }
}

fn troubled(owner: bool) -> Settings {
    let troubles = vec![(VmName::new("web").unwrap(), trouble(owner))];
    Settings { troubles, ..settings(vec![definition("web"), definition("mail")]) }
}

#[test]
fn a_vm_whose_file_is_missing_is_listed_as_not_startable_until_it_starts() {
    let mut f = Fixture::new(vec![]);
    let actions = f.on(Event::Configured(Box::new(troubled(false))));
    let said = "vm \"web\" is not startable: /etc/vm.conf:2:7: disk path not found: \"/web.raw\"";
    assert!(actions.iter().any(|action| matches!(action, Action::LogOf(.., text) if text == said)), "{actions:?}");
    assert_eq!((f.state("web"), f.state("mail")), (Some(VmState::NotStartable), Some(VmState::Stopped)));
    let detail = replies(&f.ask(Request::Detail { vm: by_name("web") }));
    assert!(format!("{detail:?}").contains("disk path not found"), "{detail:?}");
    // It is tried again, and the file has come.
    let id = f.running("web");
    f.on(Event::Ended(id, End::PoweredOff));
    assert_eq!(f.state("web"), Some(VmState::Stopped));
}

#[test]
fn a_vm_whose_owner_is_unknown_is_startable_after_the_reload_that_knows() {
    let mut f = Fixture::new(vec![]);
    f.on(Event::Configured(Box::new(troubled(true))));
    assert_eq!(code(&f.start("web")), Some(Code::NotFound), "by nobody");
    assert_eq!(f.state("web"), Some(VmState::NotStartable));
    let (asked, _) = f.ask_as(root(), Request::Reload);
    let reading = Reading { asked: Some(asked), load: None };
    let told = replies(&f.on(Event::ConfigRead(reading.clone(), Ok(Box::new(troubled(true))))));
    assert!(matches!(told.as_slice(), [Reply::Note(_), Reply::Done]), "{told:?}");
    let well = settings(vec![definition("web"), definition("mail")]);
    assert_eq!(replies(&f.on(Event::ConfigRead(reading, Ok(Box::new(well))))), [Reply::Done]);
    assert_eq!(f.state("web"), Some(VmState::Stopped));
    f.running("web");
}
