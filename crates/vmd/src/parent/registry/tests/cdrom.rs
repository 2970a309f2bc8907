//! The CD-ROM drive of a VM: who opens its image, and what of it a reboot keeps.

use proto::client::Detail;
use proto::device::{Ask, Cdrom, Told};
use proto::opener::What;

use super::*;

fn with_cdrom(path: &str) -> Definition {
    changed("web", |vm| vm.cdrom = UserPath::new(path).ok())
}

/// The drive of a start, by what vmm is told.
fn drive(actions: &[Action]) -> Option<Cdrom> {
    let launch = actions.iter().find_map(|action| match action {
        Action::Launch(_, launch) => Some(launch.clone()),
        _ => None,
    })?;
    launch.devices.iter().find_map(|device| match &device.spec.told {
        Told::Cdrom(cdrom) => Some(cdrom.clone()),
        Told::Blk(_) | Told::Net(_) | Told::Balloon(_) => None,
    })
}

/// The images that are opened, and as whom.
fn opened(actions: &[Action]) -> Vec<(u32, String)> {
    let of = |action: &Action| match action {
        Action::Open { who, files, .. } => {
            let images = files.iter().filter(|(file, what, _)| (*file, *what) == (File::Cdrom, What::Cdrom));
            images.map(|(.., path)| (who.uid, path.to_string())).collect()
        }
        _ => vec![],
    };
    actions.iter().flat_map(of).collect()
}

#[test]
fn the_image_of_a_cdrom_is_opened_and_the_guest_gets_a_drive_with_it() {
    let mut f = Fixture::new(vec![with_cdrom("/srv/a.iso")]);
    let actions = f.start("web");
    let actions = f.prepare(actions);
    assert_eq!(opened(&actions), [(0, "/srv/a.iso".to_owned())]);
    let told = drive(&actions).expect("it has a drive");
    assert_eq!((told.medium, told.open, told.called.as_str()), (true, false, "/srv/a.iso"));
    assert_eq!(told.serial.as_str(), "cdrom0-web");
}

#[test]
fn an_empty_drive_opens_nothing_and_no_drive_is_none() {
    let mut f = Fixture::new(vec![with_cdrom("")]);
    let actions = f.start("web");
    let actions = f.prepare(actions);
    assert_eq!(opened(&actions), []);
    assert!(drive(&actions).is_some_and(|told| !told.medium));
    let mut f = Fixture::new(vec![definition("web")]);
    let actions = f.start("web");
    assert_eq!(drive(&f.prepare(actions)), None);
}

#[test]
fn a_reboot_keeps_what_is_in_the_drive() {
    let mut f = Fixture::new(vec![with_cdrom("/srv/a.iso")]);
    let id = f.running("web");
    let actions = f.on(Event::Ended(id, End::Rebooted));
    let actions = f.prepare(actions);
    assert_eq!(opened(&actions), [], "it is open");
    assert!(drive(&actions).is_some_and(|told| told.medium));
}

fn insert(path: &str, force: bool) -> Request {
    Request::Cdrom { vm: by_name("web"), medium: UserPath::new(path).ok(), force }
}

fn eject() -> Request {
    Request::Cdrom { vm: by_name("web"), medium: None, force: false }
}

/// What a device was asked, and the request's number.
fn asked(actions: &[Action]) -> (RequestId, Ask) {
    let found = actions.iter().find_map(|action| match action {
        Action::AskDevice(request, _, 0, ask) => Some((*request, ask.clone())),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("{actions:?}"))
}

fn run_of(actions: &[Action]) -> Run {
    let found = actions.iter().find_map(|action| if let Action::Open { run, .. } = action { Some(*run) } else { None });
    found.unwrap_or_else(|| panic!("{actions:?}"))
}

fn in_drive(f: &mut Fixture) -> Option<String> {
    replies(&f.ask(Request::Detail { vm: by_name("web") })).into_iter().find_map(|reply| match reply {
        Reply::Detail(Detail { cdrom, .. }) => cdrom.map(|path| path.to_string()),
        _ => None,
    })
}

/// A definition with neither card nor disk, so that the drive is device 0.
fn bare(path: &str) -> Definition {
    let mut definition = changed("web", |vm| {
        vm.cdrom = UserPath::new(path).ok();
        (vm.disks, vm.nics) = (vec![], vec![]);
    });
    definition.cards.clear();
    definition
}

#[test]
fn an_image_is_opened_as_who_asks_and_the_drive_is_asked_to_take_it() {
    let mut f = Fixture::new(vec![bare("")]);
    let id = f.running("web");
    assert_eq!(in_drive(&mut f), Some(String::new()), "it is empty");
    let actions = f.ask(insert("/b.iso", true));
    let run = run_of(&actions);
    let open = |action: &Action| match action {
        Action::Open { who, files, .. } => Some((who.uid, files.clone())),
        _ => None,
    };
    let file = (File::Medium, What::Cdrom, UserPath::new("/b.iso").unwrap());
    assert_eq!(actions.iter().find_map(open), Some((0, vec![file])));
    let (request, ask) = asked(&f.on(Event::Opened(run, File::Medium, Ok(OpenFile::default()))));
    assert_eq!(ask, Ask::Insert { called: UserPath::new("/b.iso").unwrap(), force: true });
    assert_eq!(code(&f.ask(eject())), Some(Code::Busy), "one at a time");
    let actions = f.on(Event::DeviceDone(request, id, Ok(())));
    assert!(actions.contains(&Action::Medium(id, Medium::Opened)), "{actions:?}");
    assert_eq!(replies(&actions), [Reply::Accepted { id: id.0 }]);
    assert_eq!(in_drive(&mut f).as_deref(), Some("/b.iso"));
    // and a reboot finds it
    let actions = f.on(Event::Ended(id, End::Rebooted));
    let actions = f.prepare(actions);
    assert!(drive(&actions).is_some_and(|told| told.medium && told.called.as_str() == "/b.iso"));
}

#[test]
fn what_was_ejected_is_gone_until_the_next_start() {
    let mut f = Fixture::new(vec![bare("/a.iso")]);
    let id = f.running("web");
    let (request, ask) = asked(&f.ask(eject()));
    assert_eq!(ask, Ask::Eject { force: false });
    let actions = f.on(Event::DeviceDone(request, id, Ok(())));
    assert!(actions.contains(&Action::Medium(id, Medium::None)), "{actions:?}");
    let actions = f.on(Event::Ended(id, End::Rebooted));
    let actions = f.prepare(actions);
    assert!(drive(&actions).is_some_and(|told| !told.medium));
    f.on(Event::StartDone(id, Ok(43)));
    f.on(Event::Ended(id, End::PoweredOff));
    assert_eq!(in_drive(&mut f), None, "it does not run");
    let actions = f.start("web");
    let actions = f.prepare(actions);
    assert!(drive(&actions).is_some_and(|told| told.called.as_str() == "/a.iso"));
}

#[test]
fn what_the_drive_refuses_changes_nothing() {
    let mut f = Fixture::new(vec![bare("/a.iso")]);
    let id = f.running("web");
    let (request, _) = asked(&f.ask(eject()));
    let locked = Failure::new(Code::Busy, "locked");
    let actions = f.on(Event::DeviceDone(request, id, Err(locked.clone())));
    assert_eq!(actions[..], [Action::Medium(id, Medium::Same), actions[1].clone()]);
    assert_eq!(replies(&actions), [Reply::Failed(locked)]);
    assert_eq!(in_drive(&mut f).as_deref(), Some("/a.iso"));
    let run = run_of(&f.ask(insert("/b.iso", false)));
    let missing = Failure::new(Code::CdromMissing, "no such file");
    assert_eq!(replies(&f.on(Event::Opened(run, File::Medium, Err(missing.clone())))), [Reply::Failed(missing)]);
    assert_eq!(in_drive(&mut f).as_deref(), Some("/a.iso"));
    let run = run_of(&f.ask(insert("/b.img", false)));
    let busy = Failure::new(Code::Busy, "already in use");
    let written = Event::Locked(run, File::Medium, FileId::default(), busy.clone());
    assert_eq!(replies(&f.on(written)), [Reply::Failed(busy)], "another VM writes it");
    assert!(matches!(asked(&f.ask(eject())).1, Ask::Eject { .. }), "the next one is asked");
}

#[test]
fn only_a_vm_that_runs_and_has_a_drive_is_asked() {
    let mut f = Fixture::new(vec![bare("/a.iso")]);
    assert_eq!(code(&f.ask(eject())), Some(Code::Invalid));
    f.running("web");
    let stranger = Who { uid: 1001, gid: 1001, groups: vec![] };
    assert_eq!(code(&f.ask_as(stranger, insert("/etc/shadow", true)).1), Some(Code::NotPermitted));
    let mut f = Fixture::new(vec![definition("web")]);
    f.running("web");
    assert_eq!(code(&f.ask(eject())), Some(Code::NoDevice));
}

#[test]
fn a_change_that_takes_too_long_is_answered_and_one_that_was_asked_is_waited_for() {
    let mut f = Fixture::new(vec![bare("/a.iso")]);
    let id = f.running("web");
    let run = run_of(&f.ask(insert("/nfs/b.iso", false)));
    f.now += PREPARE_LIMIT;
    assert!(f.registry.next_deadline().is_some_and(|deadline| deadline <= f.now));
    let actions = f.on(Event::Time);
    assert_eq!((code(&actions), actions.contains(&Action::EndOpeners(run))), (Some(Code::TimedOut), true));
    let (request, _) = asked(&f.ask(eject()));
    f.now += PREPARE_LIMIT;
    assert_eq!(code(&f.on(Event::Time)), Some(Code::TimedOut));
    assert_eq!(f.on(Event::Time), [], "once");
    assert_eq!(code(&f.ask(eject())), Some(Code::Busy));
    let actions = f.on(Event::DeviceDone(request, id, Ok(())));
    assert_eq!(replies(&actions), []);
    assert_eq!(in_drive(&mut f).as_deref(), Some(""), "it was done after all");
}

#[test]
fn the_end_of_a_vm_ends_the_change_of_its_drive() {
    for reboot in [false, true] {
        let mut f = Fixture::new(vec![bare("/a.iso")]);
        let id = f.running("web");
        let run = run_of(&f.ask(insert("/b.iso", false)));
        let end = if reboot { End::Rebooted } else { End::PoweredOff };
        let actions = f.on(Event::Ended(id, end));
        assert!(actions.contains(&Action::EndOpeners(run)), "{actions:?}");
        assert_eq!(code(&actions), Some(Code::Invalid));
        assert_eq!(f.on(Event::Opened(run, File::Medium, Ok(OpenFile::default()))), [], "it comes too late");
    }
}
