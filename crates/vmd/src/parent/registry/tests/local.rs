//! Local interfaces: which addresses a start asks for, and what the card is told.

use std::sync::Arc;

use super::*;

/// A VM with this many local interfaces after one that is not local.
fn with_locals(name: &str, count: usize) -> Definition {
    let local = Nic { local: true, ..Nic::default() };
    (0..count).fold(with_card(definition(name), Nic::default()), |vm, _| with_card(vm, local.clone()))
}

fn hosts(actions: &[Action]) -> Vec<Option<String>> {
    let of_tap = |action: &Action| match action {
        Action::MakeTap { tap, .. } => Some(tap.local.map(|local| local.inet.to_string())),
        _ => None,
    };
    actions.iter().filter_map(of_tap).collect()
}

fn guests(actions: &[Action]) -> Vec<Option<String>> {
    let cards = actions.iter().find_map(|action| match action {
        Action::Launch(_, launch) => Some(nics_of(launch)),
        _ => None,
    });
    cards.unwrap().iter().map(|card| card.local.as_ref().map(|pair| pair.guest.to_string())).collect()
}

#[test]
fn a_start_asks_for_the_hosts_ends_and_tells_the_guests_by_index_of_all_cards() {
    let mut f = Fixture::new(vec![definition("other"), with_locals("web", 2)]);
    let actions = f.start("web");
    let ends = |ends: [Option<&str>; 3]| ends.map(|end| end.map(str::to_owned)).to_vec();
    assert_eq!(hosts(&actions), ends([None, Some("100.64.2.4"), Some("100.64.2.6")]));
    assert_eq!(guests(&f.prepare(actions)), ends([None, Some("100.64.2.5"), Some("100.64.2.7")]));
}

#[test]
fn a_reboot_tells_the_addresses_that_its_taps_have() {
    let mut f = Fixture::new(vec![with_locals("web", 1)]);
    let id = f.running("web");
    f.registry.locals.inet = config::prefix::Prefix4::parse(b"10.0.0.0/16").unwrap();
    f.now += Duration::from_secs(60);
    let actions = f.on(Event::Ended(id, End::Rebooted));
    assert_eq!(guests(&f.prepare(actions)), [None, Some("100.64.1.5".to_owned())]);
    f.on(Event::StartDone(id, Ok(7)));
    f.on(Event::Ended(id, End::PoweredOff));
    assert_eq!(hosts(&f.start("web")), [None, Some("10.0.1.4".to_owned())], "the next start has the new prefix");
}

#[test]
fn a_local_interface_in_a_routing_domain_has_no_nat_and_one_in_the_hosts_has() {
    for (rdomain, nat, expected) in [
        (None, true, true),
        (Some(0), true, true),
        (Some(3), true, false),
        (None, false, false),
        (Some(3), false, false),
    ] {
        let mut vm = with_locals("web", 1);
        vm.cards[1].rdomain = rdomain;
        let mut f = Fixture::new(vec![vm]);
        f.registry.locals.nat = nat;
        let told = f.start("web").into_iter().find_map(|action| match action {
            Action::MakeTap { tap: TapSpec { local: Some(local), rdomain, .. }, .. } => Some((local.nat, rdomain)),
            _ => None,
        });
        assert_eq!(told, Some((expected, rdomain)));
    }
}

#[test]
fn a_tap_is_asked_for_in_the_group_of_its_card() {
    let mut vm = with_locals("web", 1);
    vm.cards[1].group = Some(1000);
    let group = |action| match action {
        Action::MakeTap { tap, .. } => Some(tap.group),
        _ => None,
    };
    let groups: Vec<_> = Fixture::new(vec![vm]).start("web").into_iter().filter_map(group).collect();
    assert_eq!(groups, [None, Some(1000)]);
}

#[test]
fn a_vm_beyond_the_prefix_does_not_start() {
    let vms = (0..=256).map(|n| with_locals(&format!("vm{n}"), 1));
    let mut f = Fixture::new(vms.collect());
    f.registry.locals.inet = config::prefix::Prefix4::parse(b"10.0.0.0/16").unwrap();
    assert_eq!(code(&f.start("vm254")), None, "number 255");
    assert_eq!(code(&f.start("vm255")), Some(Code::Invalid), "number 256");
}

#[test]
fn the_first_card_of_a_boot_from_the_network_is_told_so() {
    let boots = |boot_device| {
        let local = || Nic { local: true, ..Nic::default() };
        let mut vm = with_card(with_card(definition("web"), local()), local());
        Arc::make_mut(&mut vm.vm).boot_device = boot_device;
        let mut f = Fixture::new(vec![vm]);
        let actions = f.start("web");
        let all = f.prepare(actions);
        let launch = all.iter().find_map(|action| match action {
            Action::Launch(_, launch) => Some(nics_of(launch)),
            _ => None,
        });
        launch.unwrap().iter().filter_map(|card| card.local.as_ref()).map(|local| local.net_boot).collect::<Vec<_>>()
    };
    use model::BootDevice::{Disk, Net};
    assert_eq!(boots(Some(Net)), [true, false]);
    assert_eq!(boots(Some(Disk)), [false, false]);
    assert_eq!(boots(None), [false, false]);
}
