//! The end of the daemon: who is waited for is told, again and again, and never more than a few.

use sys::log::{Level, Weight};

use super::super::farewell::REMIND_AFTER;
use super::*;

fn logged(actions: &[Action]) -> Vec<(Weight, String)> {
    let line = |action: &Action| match action {
        Action::Log(weight, text) => Some((*weight, text.clone())),
        _ => None,
    };
    actions.iter().filter_map(line).collect()
}

fn info(text: &str) -> Vec<(Weight, String)> {
    vec![(Level::Info.into(), text.to_owned())]
}

#[test]
fn the_log_says_who_is_waited_for_at_the_end() {
    let mut f = Fixture::new(vec![definition("web"), definition("mail"), definition("off")]);
    let (web, mail) = (f.running("web"), f.running("mail"));
    assert_eq!(logged(&f.on(Event::Terminate)), info("waiting up to 120 s for 2 VMs (\"web\", \"mail\") to stop"));
    assert_eq!(f.registry.next_deadline(), Some(f.now + REMIND_AFTER));
    assert_eq!(logged(&f.on(Event::Time)), [], "too early");
    f.on(Event::Ended(web, End::PoweredOff));
    for _ in 0..2 {
        f.now += REMIND_AFTER;
        assert_eq!(logged(&f.on(Event::Time)), info("still waiting for vm \"mail\" to stop"));
    }
    let forced = logged(&f.on(Event::Terminate));
    assert_eq!(
        forced,
        [(Level::Warn.into(), "told to end a second time: vm \"mail\" will be ended by force".to_owned())]
    );
    f.on(Event::Ended(mail, End::PoweredOff));
    f.now += REMIND_AFTER;
    assert_eq!(logged(&f.on(Event::Time)), []);
    assert_eq!(f.registry.next_deadline(), None);
}

#[test]
fn without_a_vm_nobody_is_waited_for_and_of_many_the_first_are_named() {
    let mut f = Fixture::new(vec![definition("web")]);
    assert_eq!((logged(&f.on(Event::Terminate)), f.registry.next_deadline()), (vec![], None));
    let names: Vec<String> = (0..11).map(|n| format!("v{n}")).collect();
    let mut f = Fixture::new(names.iter().map(|name| definition(name)).collect());
    for name in &names {
        f.running(name);
    }
    let named = names[..8].iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let said = format!("waiting up to 120 s for 11 VMs ({named} and 3 more) to stop");
    assert_eq!(logged(&f.on(Event::Terminate)), info(&said));
}
