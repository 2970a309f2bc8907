//! `vmctl memory`, and what a balloon reports.

use model::MemorySize;
use proto::device::{Ask, MemoryReport, Report, Told};

use super::*;

fn size(mib: i64) -> MemorySize {
    MemorySize::from_bytes(mib << 20).unwrap()
}

/// 512 MiB, of which its balloon leaves 128.
fn with_balloon(name: &str) -> Definition {
    changed(name, |vm| vm.balloon = Some(size(128)))
}

fn memory(name: &str, mib: i64) -> Request {
    Request::Memory { vm: by_name(name), size: size(mib) }
}

/// The number of a VM, and the index of its balloon: after its cards and its disks.
fn place(f: &mut Fixture, name: &str) -> (VmId, u8) {
    let vm = f.registry.vms.iter().find(|vm| vm.definition.name.as_str() == name).expect("it is there");
    let before = vm.definition.cards.len() + vm.definition.disks.len();
    (vm.id, u8::try_from(before).unwrap())
}

fn launch(f: &mut Fixture, name: &str) -> Launch {
    let actions = f.start(name);
    let found = f.prepare(actions).into_iter().find_map(|action| match action {
        Action::Launch(_, launch) => Some(*launch),
        _ => None,
    });
    found.expect("a launch")
}

#[test]
fn a_balloon_is_the_last_device_of_a_start() {
    let mut f = Fixture::new(vec![with_balloon("web"), definition("plain")]);
    let balloons = |launch: &Launch| {
        let is = |device: &Device| matches!(&device.spec.told, Told::Balloon(told) if told.memory == size(512));
        launch.devices.iter().enumerate().filter(|(_, device)| is(device)).map(|(index, _)| index).collect::<Vec<_>>()
    };
    let launch = launch(&mut f, "web");
    assert_eq!(balloons(&launch), [usize::from(place(&mut f, "web").1)]);
    assert_eq!(usize::from(launch.vm.devices), launch.devices.len());
    assert_eq!(balloons(&self::launch(&mut f, "plain")), [0usize; 0]);
}

#[test]
fn memory_asks_the_balloon_and_shows_what_was_asked() {
    let mut f = Fixture::new(vec![with_balloon("web")]);
    f.running("web");
    let (id, device) = place(&mut f, "web");
    for mib in [128, 512, 300] {
        let (asked, actions) = f.ask_as(root(), memory("web", mib));
        let accepted = Action::Answer(asked, Reply::Accepted { id: id.0 });
        let [Action::AskDevice(_, of, at, ask), answer] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!((*of, *at, ask, answer), (id, device, &Ask::Memory(size(mib)), &accepted));
    }
    let balloon = f.line("web").and_then(|line| line.balloon).expect("it runs with one");
    assert_eq!((balloon.wanted, balloon.report), (size(300), None));
}

#[test]
fn a_guest_is_not_asked_for_what_it_can_not_give() {
    let mut f = Fixture::new(vec![with_balloon("web"), definition("plain")]);
    assert_eq!(code(&f.ask(memory("web", 128))), Some(Code::Invalid), "it does not run");
    f.running("web");
    f.running("plain");
    for mib in [1, 127, 513, 1024] {
        let actions = f.ask(memory("web", mib));
        assert_eq!((code(&actions), actions.len()), (Some(Code::Invalid), 1), "{mib}");
    }
    assert_eq!(code(&f.ask(memory("plain", 128))), Some(Code::NoDevice));
    assert_eq!(code(&f.ask(memory("none", 128))), Some(Code::NotFound));
    assert_eq!(f.line("plain").and_then(|line| line.balloon), None);
}

#[test]
fn a_report_shows_with_its_age_until_the_vm_ends() {
    let mut f = Fixture::new(vec![with_balloon("web")]);
    f.running("web");
    let (id, device) = place(&mut f, "web");
    f.ask(memory("web", 128));
    let report = MemoryReport { taken: 5, statistics: [None; 10] };
    f.on(Event::Reported(id, device, Report::Memory(report.clone())));
    f.now += Duration::from_secs(7);
    let told = f.line("web").and_then(|line| line.balloon).and_then(|balloon| balloon.report);
    assert_eq!(told, Some((7, report.clone())));
    f.on(Event::Ended(id, End::PoweredOff));
    assert_eq!(f.line("web").and_then(|line| line.balloon), None);
    f.on(Event::Reported(id, device, Report::Memory(report)));
    f.running("web");
    let balloon = f.line("web").and_then(|line| line.balloon).expect("it runs again");
    assert_eq!(balloon.wanted, size(512), "a new start begins anew");
}
